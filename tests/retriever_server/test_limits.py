"""Overload, deadlines, departing and malicious clients, keys, TLS, logs, workers."""

import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.processes import has_ended
from support.retrieval_server import metric, raw

from retriever_server.launcher import ServerProcess, StartError, serving


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    request = urllib.request.Request(url + "/retrieve", json.dumps(body).encode(), headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read()), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


class SlowPart:
    """A retrieval server that answers only while its gate is open, and notes what a remote back end asks."""

    def __init__(self) -> None:
        self.queries: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        part = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer({"passages": 1, "version": "slow"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                part.queries.append(body["queries"])
                part.gate.wait(60)
                hit = {"document": {"id": "1", "contents": "c"}, "score": 1.0}
                self.answer({"result": [[hit] for _ in body["queries"]]})

            def answer(self, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def slow_part() -> Iterator[SlowPart]:
    part = SlowPart()
    yield part
    part.server.shutdown()
    part.server.server_close()


@pytest.fixture(scope="module")
def slow(slow_part: SlowPart) -> Iterator[ServerProcess]:
    """A server with a slow back end, a short queue and short deadlines."""
    limits = ["--max-queue", "20", "--max-queries", "20", "--deadline-s", "2", "--body-timeout-s", "1"]
    with serving("--backend", "remote", "--remote-urls", slow_part.url, *limits) as server:
        yield server


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def answered(url: str, status: int) -> float:
    with urllib.request.urlopen(url + "/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    name = f'retriever_requests_total{{path="/retrieve",status="{status}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.fixture
def closed(slow_part: SlowPart) -> Iterator[threading.Event]:
    """The slow part's gate, closed for the test."""
    slow_part.queries.clear()
    slow_part.gate.clear()
    yield slow_part.gate
    slow_part.gate.set()


def test_a_full_queue_is_429_with_retry_after_and_empties(
    slow: ServerProcess, closed: threading.Event
) -> None:
    admitted = metric(slow.url, "retriever_queries_total")
    bodies = [{"queries": [f"full {i} {j}" for j in range(15)]} for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(post, slow.url, body) for body in bodies]
        wait_for(lambda: answered(slow.url, 429) > 0)
        closed.set()
        found = [answer.result() for answer in answers]
    assert {200, 429} <= {status for status, _, _ in found} <= {200, 429, 504}
    for status, answer, headers in found:
        if status == 429:
            assert int(headers["Retry-After"]) >= 1
            assert "queue is full" in answer["error"]["message"]
        elif status == 200:
            assert [len(hits) for hits in answer["result"]] == [1] * 15
    of_admitted = 15 * sum(status != 429 for status, _, _ in found)
    assert metric(slow.url, "retriever_queries_total") == admitted + of_admitted
    assert post(slow.url, {"queries": ["after the rush"]})[0] == 200
    assert metric(slow.url, "retriever_queued") == 0


def test_a_deadline_is_504(slow: ServerProcess, closed: threading.Event) -> None:
    start = time.monotonic()
    status, answer, _ = post(slow.url, {"queries": ["late"]})
    assert status == 504
    assert 1.9 < time.monotonic() - start < 10
    assert "2 s" in answer["error"]["message"]
    closed.set()
    assert post(slow.url, {"queries": ["prompt"]})[0] == 200


def test_twins_fly_once(slow: ServerProcess, slow_part: SlowPart, closed: threading.Event) -> None:
    before = metric(slow.url, "retriever_joined_total")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, slow.url, {"queries": ["twin", "twin"]}) for _ in range(4)]
        wait_for(lambda: metric(slow.url, "retriever_joined_total") == before + 3)
        closed.set()
        found = [answer.result()[:2] for answer in answers]
    assert all(answer == found[0] for answer in found)
    assert sum(batch.count("twin") for batch in slow_part.queries) == 1


def test_work_nobody_waits_for_is_dropped(
    slow: ServerProcess, slow_part: SlowPart, closed: threading.Event
) -> None:
    before, gone = metric(slow.url, "retriever_cancelled_total"), answered(slow.url, 499)
    busy = [threading.Thread(target=post, args=[slow.url, {"queries": [f"busy {i}"]}]) for i in range(4)]
    for thread in busy:
        thread.start()
    wait_for(lambda: len(slow_part.queries) == 4)  # the four workers are busy: what comes now is queued
    connection = http.client.HTTPConnection(slow.url.removeprefix("http://"))
    connection.request("POST", "/retrieve", json.dumps({"queries": ["left alone"]}))
    wait_for(lambda: metric(slow.url, "retriever_queued") == 1)
    connection.close()
    wait_for(lambda: answered(slow.url, 499) == gone + 1)
    closed.set()
    for thread in busy:
        thread.join()
    assert post(slow.url, {"queries": ["next"]})[0] == 200
    assert metric(slow.url, "retriever_cancelled_total") == before + 1
    assert not any("left alone" in batch for batch in slow_part.queries)


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
    wait_for(lambda: answered(slow.url, 408) == before[0] + 1)
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


def test_a_search_that_hangs_does_not_hold_a_server_that_is_stopped(
    slow_part: SlowPart, closed: threading.Event
) -> None:
    arguments = ["--backend", "remote", "--remote-urls", slow_part.url, "--drain-s", "1"]
    with serving(*arguments) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            raw, server.url, b'POST /retrieve HTTP/1.1\r\nContent-Length: 17\r\n\r\n{"queries":["x"]}'
        )
        wait_for(lambda: bool(slow_part.queries))
        start = time.monotonic()
        assert server.stop(30) == 0
        assert time.monotonic() - start < 8
        answer.result()
        assert "cut off" in server.log.read_text()
        assert not server.log.with_name("retriever.url").exists()


def test_concurrent_clients_each_get_their_own_answers(bm25: ServerProcess) -> None:
    def client(number: int) -> int:
        rng = random.Random(number)
        connection = http.client.HTTPConnection(bm25.url.removeprefix("http://"), timeout=60)
        for _ in range(25):
            wanted = rng.choices(range(300), k=rng.randint(1, 5))
            topk, scores = rng.randint(1, 4), rng.random() < 0.5
            body = {"queries": [f"passage{n} castle" for n in wanted], "topk": topk, "return_scores": scores}
            connection.request("POST", "/retrieve", json.dumps(body))
            result = json.loads(connection.getresponse().read())["result"]
            assert [len(items) for items in result] == [topk] * len(wanted)
            first = [items[0]["document"] if scores else items[0] for items in result]
            assert [document["id"] for document in first] == [f"doc-{n}" for n in wanted]
        return 25

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(client, range(32))) == 800


def test_the_key_is_asked_for(bm25_index: Path, corpus: Path, tmp_path: Path) -> None:
    key, log = tmp_path / "key", tmp_path / "access.jsonl"
    key.write_text("sésame\n", encoding="utf-8")
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--access-log", log]
    with serving(*arguments, "--api-key-file", key) as server:
        body = {"queries": ["castle"]}
        spelled = "sésame".encode().decode("latin-1")  # header bytes as urllib takes them
        assert post(server.url, body)[0] == 401
        assert post(server.url, body, {"X-API-Key": "wrong"})[0] == 401
        assert post(server.url, body, {"Authorization": "Basic x"})[0] == 401
        assert post(server.url, body, {"X-API-Key": spelled})[0] == 200
        assert post(server.url, body, {"Authorization": f"Bearer {spelled}"})[0] == 200
        with urllib.request.urlopen(server.url + "/health", timeout=10) as response:
            assert response.status == 200
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [401, 401, 401, 200, 200, 200]
    assert all({"time", "client", "method", "path", "status", "bytes", "ms"} == set(line) for line in lines)
    assert "castle" not in log.read_text()
    key.write_text("\n")
    with pytest.raises(StartError, match="is empty"), serving(*arguments, "--api-key-file", key):
        pass


def test_tls(bm25_index: Path, corpus: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", tmp_path / "key",
         "-out", tmp_path / "cert", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("needs openssl to make a certificate")
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus]
    with serving(*arguments, "--tls-cert", tmp_path / "cert", "--tls-key", tmp_path / "key") as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert"))
        with urllib.request.urlopen(server.url + "/ready", timeout=10, context=context) as response:
            assert json.loads(response.read())["status"] == "ready"
    with pytest.raises(StartError, match="go together"), serving(*arguments, "--tls-cert", tmp_path / "cert"):
        pass


def test_workers_share_a_port_and_are_replaced(bm25_index: Path, corpus: Path) -> None:
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--workers", "2"]
    with serving(*arguments) as server:

        def children() -> list[int]:
            path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
            return [int(pid) for pid in Path(path).read_text().split()]

        first = children()
        assert len(first) == 2
        assert all(post(server.url, {"queries": [f"passage{i}"]})[0] == 200 for i in range(10))
        os.kill(first[0], signal.SIGKILL)
        end = time.monotonic() + 20
        while len(children()) < 2 or first[0] in children():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert all(post(server.url, {"queries": [f"passage{i}"]})[0] == 200 for i in range(10))
        assert server.stop() == 0
        assert all(has_ended(pid) for pid in first[1:])
