"""Answers leave in one piece. The limit on arriving requests: test_slow_clients.py, against a whole server."""

import asyncio
from collections.abc import Callable

from retriever_server.http_protocol import CoalescingTransport


class Written(asyncio.Transport):
    """A connection's other end: what came in which piece."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.pieces.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.pieces


def pieces(*turns: Callable[[CoalescingTransport], None]) -> list[bytes]:
    """What is sent when each function runs in a turn of the event loop of its own."""

    async def run() -> list[bytes]:
        written = Written()
        transport = CoalescingTransport(written, asyncio.get_running_loop(), 1.0)
        for turn in turns:
            turn(transport)
            await asyncio.sleep(0)
        return written.pieces

    return asyncio.run(run())


def answer(transport: CoalescingTransport) -> None:
    transport.write(b"head ")
    transport.write(b"")
    transport.write(b"body")


def leave(transport: CoalescingTransport) -> None:
    answer(transport)
    transport.close()
    assert transport.is_closing()


def test_head_and_body_are_one_piece() -> None:
    assert pieces(answer, answer) == [b"head body", b"head body"]


def test_a_head_alone_is_sent_too() -> None:
    assert pieces(lambda transport: transport.write(b"100 Continue")) == [b"100 Continue"]


def test_closing_sends_what_was_written() -> None:
    assert pieces(leave) == [b"head body", b"closed"]


def test_a_connection_is_not_closed_from_within_a_write_of_its_transport() -> None:
    """asyncio's transport tells that the client has read from a write, behind which it closes by itself."""
    within: list[bool] = []

    def read(transport: CoalescingTransport) -> None:
        transport.resume()
        within.append(transport._transport.is_closing())

    assert pieces(CoalescingTransport.pause, leave, read) == [b"head body", b"closed"]
    assert within == [False]
