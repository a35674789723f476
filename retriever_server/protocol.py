"""Uvicorn's HTTP protocol, with a limit on how long a request may take to arrive: it has none of its own."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .contract import encode_error


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
            super().connection_made(transport)
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
