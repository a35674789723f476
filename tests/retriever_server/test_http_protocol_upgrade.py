"""Requests that ask for HTTP/2 by an upgrade are answered as HTTP/1.1."""

import json

import pytest
from support.retrieval_server import raw

from retriever_server.launcher import ServerProcess

BODY = json.dumps({"queries": ["passage7"], "topk": 1}).encode()
HEAD = (
    b"POST /retrieve HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Type: application/json\r\n"
)
LENGTH = b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("body", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_an_upgrade_to_http2_is_ignored_and_the_body_read(bm25: ServerProcess, body: bytes) -> None:
    received = raw(bm25.url, HEAD + body + HEAD + body + LAST)
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"doc-7") == 2


def test_a_websocket_request_is_answered_as_a_plain_one(bm25: ServerProcess) -> None:
    ask = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    received = raw(bm25.url, ask + b"Sec-WebSocket-Version: 13\r\n\r\n" + LAST)
    assert received.count(b"HTTP/1.1 200") == 2
