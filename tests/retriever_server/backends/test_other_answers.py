"""Back ends that ask another server: an address or answer of something else is an error with its name."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.raw_server import http, server

from retriever_server.backends.http_json import JsonClient, RemoteError
from retriever_server.backends.registry import open_engine
from retriever_server.settings import Settings

READY = {"passages": 3, "version": "a"}


def routes(**answers: Any) -> Callable[[str, str, bytes], bytes]:
    """Answer by the last part of the path, 404 elsewhere."""

    def answer(method: str, path: str, body: bytes) -> bytes:
        name = path.rpartition("/")[2].strip("_")
        return http(answers[name]) if name in answers else http(b"no", "404 Not Found")

    return answer


def opened(backend: Any, url: str) -> Any:
    return open_engine(Settings(backend=backend, remote_urls=url, deadline_s=5.0))


OTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "a list": ("remote", {"ready": []}),
    "no passages": ("remote", {"ready": {"status": "ok"}}),
    "passages null": ("remote", {"ready": {**READY, "passages": None}}),
    "passages a word": ("remote", {"ready": {**READY, "passages": "many"}}),
    "no count": ("opensearch", {"count": {"status": "ok"}}),
    "count null": ("opensearch", {"count": {"count": None}}),
    "settings of nothing": ("opensearch", {"count": {"count": 3}, "settings": {"wiki": {}}}),
    "hits null": (
        "opensearch",
        {
            "count": {"count": 3},
            "settings": {"wiki": {"settings": {"index": {"uuid": "u"}}}},
            "search": {"hits": None},
        },
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_server_of_another_kind_is_refused_at_start(name: str) -> None:
    backend, answers = OTHER[name]
    with server(routes(**answers)) as url, pytest.raises(RemoteError) as caught:
        opened(backend, f"{url}/wiki" if backend == "opensearch" else url)
    assert url in str(caught.value)
    assert "Fix: " in str(caught.value)


@pytest.mark.parametrize(
    "result", [None, [], [None], [[1]], [[{"id": "1"}]], [[{"document": {}, "score": "x"}]]], ids=str
)
def test_an_odd_answer_to_a_search_names_the_server(result: Any) -> None:
    with server(routes(ready=READY, retrieve={"result": result})) as url:
        engine = opened("remote", url)
        with pytest.raises(RemoteError, match=url):
            engine.search(["river"], 3)


def test_an_answer_that_never_ends_is_refused_in_time() -> None:
    def parts(*_: Any) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        for _ in range(100000):
            yield b" "
            time.sleep(0.05)

    started = time.monotonic()
    with server(parts) as url, pytest.raises(RemoteError, match=r"the answer has not ended after 0\.5 s"):
        JsonClient(url, timeout_s=0.5).call("GET", "/")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("length", ["Content-Length: 7", "Transfer-Encoding: chunked", "Connection: close"])
def test_an_answer_in_parts_is_read_whole(length: str) -> None:
    chunked = "chunked" in length

    def parts(*_: Any) -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode()
        for part in (b'{"a', b'":', b"1}"):
            yield b"%x\r\n%s\r\n" % (len(part), part) if chunked else part
            time.sleep(0.05)
        yield b"0\r\n\r\n" if chunked else b""

    with server(parts) as url:
        client = JsonClient(url, timeout_s=5.0)
        assert client.call("GET", "/") == client.call("GET", "/") == {"a": 1}


@pytest.mark.parametrize("backend", ["remote", "opensearch"])
@pytest.mark.parametrize(
    "address", ["host:8000", "http://h:99999", "http://[::1", "ftp://h", "http://a b:1", "unix:/x", "http://"]
)
def test_what_is_no_address_is_refused(backend: str, address: str) -> None:
    with pytest.raises(RemoteError, match=r"is no address.*Fix: give http"):
        opened(backend, address)
    with pytest.raises(RemoteError) as caught:
        opened(backend, address.replace("//", "//:secret@", 1) + "x:y")
    assert "secret" not in str(caught.value)


def test_a_path_before_retrieve_is_that_of_all_requests() -> None:
    seen: list[str] = []

    def answer(method: str, path: str, body: bytes) -> bytes:
        seen.append(path)
        return http({**READY, "result": [[]], "document": {}})

    with server(answer) as url:
        engine = opened("remote", f"{url}/wiki/retrieve")
        engine.search(["river"], 3)
        engine.document("a/b")
    assert seen == ["/wiki/ready", "/wiki/retrieve", "/wiki/document/a%2Fb"]


def test_a_request_that_was_not_answered_in_time_is_not_sent_again() -> None:
    """Only one on a connection that the server has closed meanwhile is: another try would double the time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = JsonClient(f"http://127.0.0.1:{listening.getsockname()[1]}", 0.5)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.call, "GET", "/first")
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                assert first.result() == {}
                start = time.monotonic()
                second = pool.submit(client.call, "GET", "/second")
                with pytest.raises(RemoteError, match="TimeoutError"):
                    second.result()
                assert 0.4 < time.monotonic() - start < 0.9
