"""Uvicorn's HTTP protocol, with two things it lacks: a limit on how long a request may take to arrive, and answers
that leave in one piece."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .schema import encode_error


class CoalescingTransport:
    """A transport that sends what was written in one turn of the event loop by one system call.

    Uvicorn writes head and body of an answer apart: two calls, two packets, and the client woken twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def protocol(timeout_s: float) -> type[HttpToolsProtocol]:
    """The protocol's class. A request that is not there after ``timeout_s`` gets 408 or a closed connection."""
    body = encode_error(f"the request did not arrive within {timeout_s:g} s")
    late = (
        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )

    class Protocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _arriving = True

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
            self._start()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._arriving and self._timer is None:  # most requests arrive whole and need no timer
                self._start()

        def on_message_begin(self) -> None:
            self._arriving = True
            self._stop()
            super().on_message_begin()

        def on_message_complete(self) -> None:
            self._arriving = False
            self._stop()
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arriving = False
            self._stop()
            super().connection_lost(exc)

        def _start(self) -> None:
            self._timer = self.loop.call_later(timeout_s, self._expire)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _expire(self) -> None:
            if self.cycle is not None and not self.cycle.response_started:
                self.transport.write(late)
            self.transport.close()

    return Protocol
