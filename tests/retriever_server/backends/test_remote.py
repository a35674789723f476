"""A corpus in parts on several servers, and one before them."""

import io
import json
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.raw_server import http, server
from support.retrieval_server import ask, get, running

from retriever_server import state
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.launcher import serving

QUERIES = ["a passage on castles", "passage7 comet", "merchant at the harbour", "", "violin library"]


def test_shards_merge_to_the_unsharded_answer(
    dense: str, dense_index: Path, encoder_folder: Path, small: Path, tmp_path: Path
) -> None:
    lines = small.read_text().splitlines(keepends=True)
    with ExitStack() as stack:
        urls = []
        for part, (first, last) in enumerate([(0, 15), (15, 40)]):
            corpus, index = tmp_path / f"{part}.jsonl", tmp_path / f"index{part}"
            corpus.write_text("".join(lines[first:last]))
            build("dense", corpus, index, BuildOptions(encoder=encoder_folder), out=io.StringIO())
            part_server = running("dense", index=index, corpus=corpus, encoder=encoder_folder)
            urls.append(stack.enter_context(part_server) + "/retrieve")
        merged = stack.enter_context(running("remote", remote_urls=",".join(urls)))
        for topk in (1, 3, 30, 40):
            for ours, whole in zip(ask(merged, QUERIES, topk), ask(dense, QUERIES, topk), strict=True):
                assert [name for name, _ in ours] == [name for name, _ in whole]
                assert [score for _, score in ours] == pytest.approx([score for _, score in whole], abs=1e-6)


def test_a_missing_part_is_an_error_not_a_shorter_answer(bm25_index: Path, corpus: Path) -> None:
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus]
    with serving(*arguments) as first, serving(*arguments) as second:
        urls = f"{first.url},{second.url}"
        with running("remote", remote_urls=urls) as merged:
            assert len(ask(merged, ["castle"], 4)[0]) == 4
            second.stop()
            with pytest.raises(urllib.error.HTTPError) as caught:
                ask(merged, ["river"], 4)
            assert caught.value.code == 500
            assert second.url.encode() in caught.value.read()


def test_the_key_of_a_part_is_that_of_the_environment(
    bm25_index: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text("sésame")
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus, "--api-key-file", key]
    with serving(*arguments) as part:
        monkeypatch.setenv("RETRIEVER_REMOTE_LOGIN", ":sésame")
        with serving("--backend", "remote", "--remote-urls", part.url) as front:
            assert len(ask(front.url, ["castle"], 4)[0]) == 4
            part.stop()
            with pytest.raises(urllib.error.HTTPError) as caught:
                ask(front.url, ["river"], 4)
            assert "sésame" not in caught.value.read().decode() + front.log.read_text()


def test_a_part_that_was_restarted_otherwise_has_another_version_and_no_cached_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "REFRESH_S", 0.0)
    ready: dict[str, Any] = {"passages": 1, "version": "a", "settings": {"k1": 0.9}}
    searches: list[bytes] = []

    def part(method: str, path: str, body: bytes) -> bytes:
        if path == "/ready":
            return http(ready) if ready else http(b"starting", "503 Service Unavailable")
        searches.append(body)
        return http({"result": [[{"document": {"id": json.dumps(ready), "contents": ""}, "score": 1.0}]]})

    def stated(front: str) -> tuple[str, int]:
        found = json.loads(get(front + "/ready")[1])
        return found["version"], found["passages"]

    with server(part) as url, running("remote", remote_urls=url) as front:
        first = stated(front)
        before = ask(front, ["castle"])
        assert ask(front, ["castle"]) == before
        assert stated(front) == first
        assert len(searches) == 1
        known = dict(ready)
        ready.clear()
        assert stated(front) == first, "a part that does not answer has not changed"
        for change in ({"settings": {"k1": 1.2}}, {"version": "b"}, {"passages": 2, "version": "c"}):
            ready.update(known | change)
            assert ask(front, ["castle"]) != before
            before = ask(front, ["castle"])
            assert stated(front) != first
            assert stated(front)[1] == ready["passages"]
            first = stated(front)
    assert len(searches) == 4


def test_the_parts_are_not_asked_for_their_version_with_every_query() -> None:
    asked: list[str] = []

    def part(method: str, path: str, body: bytes) -> bytes:
        asked.append(path)
        return http({"passages": 1, "version": "a", "result": [[]]})

    with server(part) as url, running("remote", remote_urls=url) as front:
        for number in range(30):
            ask(front, [f"castle {number}"])
    assert asked.count("/retrieve") == 30
    assert asked.count("/ready") < 10


def test_a_part_that_states_its_version_late_leaves_no_cached_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "REFRESH_S", 0.0)
    version, searches = ["a"], []

    def part(method: str, path: str, body: bytes) -> bytes:
        if path == "/ready":
            time.sleep(0.2 if version[0] == "b" else 0.0)
            return http({"passages": 1, "version": version[0]})
        searches.append(body)
        return http({"result": [[]]})

    with server(part) as url, running("remote", remote_urls=url) as front:
        ask(front, ["castle"])
        version[0] = "b"
        with monkeypatch.context() as patch:
            patch.setattr(state, "REFRESH_TIMEOUT_S", 0.05)
            ask(front, ["castle"])
        time.sleep(0.4)
        ask(front, ["castle"])
    assert len(searches) == 2
