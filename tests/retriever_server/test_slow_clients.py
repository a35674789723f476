"""Clients that send slowly, send without end, or hang: they hold no other client up."""

import json
import socket
import time

import pytest
from support.processes import wait_until
from support.retrieval_server import answered, post, raw

from retriever_server.launcher import ServerProcess


@pytest.mark.parametrize("head", [b"", b"POST /retr", b"POST /retrieve HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_half_a_head_is_not_waited_for_long(slow: ServerProcess, head: bytes) -> None:
    start = time.monotonic()
    assert raw(slow.url, head) == b""
    assert 0.5 < time.monotonic() - start < 3.0


def test_half_a_body_is_408(slow: ServerProcess) -> None:
    before = [answered(slow.url, status) for status in (408, 499)]
    head = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n"
    answer = raw(slow.url, head + b'{"queries": ["ha')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 1 s" in answer
    wait_until(lambda: answered(slow.url, 408) == before[0] + 1)
    assert answered(slow.url, 499) == before[1]


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nX-Long: ",
        b"GET /",
        b"POST /retrieve HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: ",
    ],
    ids=["header", "path", "trailer"],
)
def test_a_head_without_end_is_cut_off(bm25: ServerProcess, start: bytes) -> None:
    """The parser joins its parts in quadratic time: 60 MB held every other client for five seconds."""
    host, port = bm25.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(start)
        with pytest.raises(ConnectionError):
            sock.sendall(b"a" * 32 * 2**20)  # more than the sockets' buffers hold
    assert post(bm25.url, {"queries": ["castle"]})[0] == 200


def test_a_head_of_many_headers_and_a_body_in_many_chunks_are_read(bm25: ServerProcess) -> None:
    body = json.dumps({"queries": ["castle " * 4000, "castle"]}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 100) for number in range(300))
    head = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    assert len(chunks) > 100_000
    assert raw(bm25.url, head + fields + b"\r\n" + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_many_hanging_connections_do_not_stop_others(slow: ServerProcess) -> None:
    host, port = slow.url.removeprefix("http://").split(":")
    hanging = [socket.create_connection((host, int(port))) for _ in range(200)]
    for sock in hanging:
        sock.sendall(b"POST /retrieve HTTP/1.1\r\nContent-Le")
    assert post(slow.url, {"queries": ["still served"]})[0] == 200
    for sock in hanging:
        sock.close()
