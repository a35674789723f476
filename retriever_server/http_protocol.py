"""Uvicorn's HTTP protocol with limits on the arrival of a request and the reading of its answer, which is one write."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .endpoint import LATE
from .schema import encode_error

MAX_HEAD_BYTES = 64 * 1024  # of a head, or of what stands around the parts of a body
PIECE_BYTES = 256 * 1024  # of an answer; most are smaller


class CoalescingTransport:
    """A transport that joins what one connection writes in one iteration of the event loop into one system call.

    Uvicorn writes head and body of an answer apart: two calls, two packets, and two wake-ups of the client.

    More than ``PIECE_BYTES`` are written piece by piece, each once the client has read those before, and dropped with
    the connection where it has not read all after ``timeout_s`` seconds. Of a single large write the transport of TLS
    would not tell that it waits.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, timeout_s: float
    ) -> None:
        self._transport, self._loop, self._timeout_s = transport, loop, timeout_s
        self._parts: list[bytes] = []
        self._unsent = memoryview(b"")
        self._closing = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False

    def write(self, data: bytes) -> None:
        """Send ``data`` at the end of this iteration of the loop; drop it where the connection is lost."""
        if self._transport.is_closing():
            return
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was written, then close."""
        self._closing = True
        self._send()

    def is_closing(self) -> bool:
        """Return whether it is closed, or will be once all is sent."""
        return self._closing or self._transport.is_closing()

    def pause(self) -> None:
        """Write no more until :meth:`resume`: the client does not read."""
        self.paused = True
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._transport.abort)

    def resume(self) -> None:
        """Go on: the client has read what was written."""
        self.paused = False
        self._send()

    def drop(self) -> None:
        """Forget what is not sent: the connection is lost."""
        self._parts.clear()
        self._unsent = memoryview(b"")
        self._stop_timer()

    def _send(self) -> None:
        if self._parts:
            self._unsent = memoryview(b"".join([self._unsent, *self._parts]))
            self._parts.clear()
        while self._unsent and not self.paused and not self._transport.is_closing():
            piece, self._unsent = self._unsent[:PIECE_BYTES], self._unsent[PIECE_BYTES:]
            self._transport.write(piece)
        if not self.paused:
            self._stop_timer()
            if self._closing and not self._closed:
                # Not at once: asyncio's transport calls here from a write of its own, and would close twice.
                self._closed = True
                self._loop.call_soon(self._transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class UpgradeIgnoringParser(httptools.HttpRequestParser):
    """A parser that reads a request with ``Upgrade`` as one without, as RFC 9110 (7.8) has it for unknown protocols.

    llhttp ends such a request behind its head, and would lose the body: ``curl --http2`` and Java's client ask for h2c.
    """

    def __init__(self, protocol: RetrieverProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # uvicorn passes bytes
        """Parse ``data``; a head that asks for an upgrade is parsed again, by a new parser, without that header."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self.upgrades():
                raise
            head = self._protocol.head_without_upgrade()
            self._protocol.parser = UpgradeIgnoringParser(self._protocol)
            self._protocol.parser.feed_data(head + data[upgrade.args[0] :])

    def upgrades(self) -> bool:
        """Return whether the request asks for an upgrade; CONNECT, which has no body, is left to uvicorn."""
        return bool(self.should_upgrade()) and self.get_method() != b"CONNECT"


class RetrieverProtocol(HttpToolsProtocol):
    """A request that has not arrived after ``timeout_s`` seconds gets 408, or its connection is closed.

    So is that of one whose head is longer than ``MAX_HEAD_BYTES``: the parser joins the parts of a header in quadratic
    time, and 60 MB of them held the event loop, and with it every other client, for seconds. And that of a client which
    has not read an answer ``timeout_s`` seconds later: what the system's buffers do not take stays in memory.
    """

    timeout_s: float
    parser: UpgradeIgnoringParser
    transport: CoalescingTransport  # type: ignore[assignment]
    _timer: asyncio.TimerHandle | None = None
    _arriving = True
    _unparsed = 0  # bytes since the parser last had a whole head or a part of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.parser = UpgradeIgnoringParser(self)
        super().connection_made(CoalescingTransport(transport, self.loop, self.timeout_s))  # type: ignore[arg-type]
        transport.set_write_buffer_limits(high=1)  # a client that leaves any byte unread is waited for
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # perhaps once its client has read the last answer
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES and self._arriving:
            self.transport.close()
        if self._arriving and self._timer is None:  # most requests arrive whole and need no timer
            self._start_timer()

    def on_message_begin(self) -> None:
        self._arriving = True
        self._stop_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        if not self.parser.upgrades():
            super().on_headers_complete()

    def head_without_upgrade(self) -> bytes:
        """Return the head of the request that was just parsed, without the headers of an upgrade."""
        dropped = (b"upgrade", b"connection", b"http2-settings")
        lines = [name + b": " + value + b"\r\n" for name, value in self.headers if name not in dropped]
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (self.parser.get_method(), self.url, b"".join(lines))

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if self.parser.upgrades():
            return
        self._arriving = False
        self._stop_timer()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arriving = False
        self._stop_timer()
        self.transport.drop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.transport.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.transport.resume()
        if not self.transport.paused:  # by what it has sent
            super().resume_writing()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.timeout_s, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.scope["state"][LATE] = True
            body = encode_error(f"the request did not arrive within {self.timeout_s:g} s")
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.transport.close()


def protocol_class(timeout_s: float) -> type[RetrieverProtocol]:
    """Return the protocol with a limit of ``timeout_s`` seconds; uvicorn wants a class."""
    return type("RetrieverProtocol", (RetrieverProtocol,), {"timeout_s": timeout_s})
