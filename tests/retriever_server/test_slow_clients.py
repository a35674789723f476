"""Clients that send slowly, send without end, do not read, or hang: they hold no other client up."""

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.processes import wait_until
from support.raw_server import http, server
from support.retrieval_server import answered, get, post, raw

from retriever_server.launcher import ServerProcess, serving


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


def test_a_list_of_wrong_items_costs_no_more_than_the_first(bm25: ServerProcess) -> None:
    """An error for each of 2,000,000 numbers held every other client for 17 seconds."""
    process, body = psutil.Process(bm25.process.pid), json.dumps({"queries": [1] * 500_000}).encode()
    before = process.cpu_times().user
    longest = 0.0
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, bm25.url, body)
        while not answer.done():
            start = time.monotonic()
            assert get(bm25.url + "/health")[0] == 200
            longest = max(longest, time.monotonic() - start)
    status, refused = answer.result()
    assert (status, refused["error"]["message"]) == (422, "queries[0] must be a string, not a number")
    assert process.cpu_times().user - before < 0.5
    assert longest < 1.0


@pytest.mark.parametrize(("pause_s", "is_whole"), [(0.3, True), (2.5, False)])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_answers_that_are_not_read_are_not_kept(
    certificate: tuple[Path, Path], tls: bool, pause_s: float, is_whole: bool
) -> None:
    """A client that asked much and read nothing held the server's memory for ever."""
    hit = {"document": {"id": "1", "contents": "c" * 2**20}, "score": 1.0}

    def part(method: str, path: str, body: bytes) -> bytes:
        found = [[hit] for _ in json.loads(body)["queries"]] if body else []
        return http({"passages": 1, "version": "1", "result": found})

    body = json.dumps({"queries": [f"large {number}" for number in range(32)], "topk": 1}).encode()
    head = b"POST /retrieve HTTP/1.1\r\nConnection: %b\r\nContent-Length: %d\r\n\r\n"
    requests = [head % (connection, len(body)) + body for connection in (b"keep-alive", b"close")]
    arguments = ["--tls-cert", certificate[0], "--tls-key", certificate[1]] if tls else []
    with (
        server(part) as url,
        serving("--backend", "remote", "--remote-urls", url, "--body-timeout-s", "1", *arguments) as front,
    ):

        def connected() -> socket.socket:
            host, port = front.url.partition("://")[2].split(":")
            plain = socket.create_connection((host, int(port)), timeout=20)
            context = ssl.create_default_context(cafile=str(certificate[0]))
            return context.wrap_socket(plain, server_hostname=host) if tls else plain

        def received(sock: socket.socket) -> int:
            size = 0
            while chunk := sock.recv(2**20):
                size += len(chunk)
            return size

        with connected() as sock:
            sock.sendall(requests[1])
            assert received(sock) > 32 * 2**20
        with connected() as sock:
            sock.sendall(b"".join(requests))
            assert sock.recv(12) == b"HTTP/1.1 200"
            time.sleep(pause_s)
            assert (received(sock) > 64 * 2**20) == is_whole
        log = front.log.read_text()
        assert "ERROR" not in log
        assert "Traceback" not in log
