"""Answers to well-formed and malformed requests, byte for byte as recorded in ``http_answers.json``.

A row is a request as sent and everything the server sent back, latin-1 decoded; long bodies are their SHA-256. The
recording was made with FastAPI and a hand-written parser before Starlette and pydantic replaced them.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.retrieval_server import raw

from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.launcher import serving

RECORDED: list[tuple[str, str]] = json.loads(Path(__file__).with_name("http_answers.json").read_text())


@pytest.fixture(scope="module")
def bm25s_url(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for package in ("bm25s", "Stemmer"):
        pytest.importorskip(package, reason=f"the bm25s back end needs {package}")
    index = tmp_path_factory.mktemp("bm25s") / "index"
    build("bm25s", small, index, BuildOptions(), out=io.StringIO())
    with serving("--backend", "bm25s", "--index", index, "--corpus", small) as server:
        yield server.url


def test_answers_are_the_recorded_bytes(bm25s_url: str) -> None:
    different = []
    for request, recorded in RECORDED:
        answer = raw(bm25s_url, request.encode("latin-1"))
        head, _, body = answer.partition(b"\r\n\r\n")
        if recorded.partition("\r\n\r\n")[2].startswith("sha256 "):
            answer = head + b"\r\n\r\nsha256 " + hashlib.sha256(body).hexdigest().encode()
        found = answer.decode("latin-1").replace(bm25s_url.removeprefix("http://"), "HOST")
        if found != recorded:
            different.append((request[:300], recorded[:300], found[:300]))
    assert len(RECORDED) > 80
    assert different == []
