"""Which index do the servers search? They state it, and their documents show it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support import raw_server
from support.identity_server import READY, server

from sd_search_verl.errors import UserError
from sd_search_verl.retriever_client.identity import (
    IndexWatch,
    RetrieverUnavailableError,
    identify,
    require_same,
    require_unchanged,
)
from sd_search_verl.retriever_client.reply import SearchResult


def test_servers_of_one_index_agree_whenever_they_were_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the client uses no proxy
    with server(READY) as a, server({**READY, "load_seconds": 9.0}) as b:
        assert identify([a, f"{b}/retrieve"]) == {"backend": "bm25", "passages": 3, "version": "a1"}


@pytest.mark.parametrize(
    "change", [{"version": "b2"}, {"backend": "dense"}, {"settings": {"k1": 1.2}}], ids=str
)
def test_servers_that_disagree_are_refused(change: dict[str, Any]) -> None:
    with server(READY) as a, server({**READY, **change}) as b, pytest.raises(UserError) as error:
        identify([a, b])
    assert "different indexes" in str(error.value)
    assert str(next(iter(change.values()))) in str(error.value)


@pytest.mark.parametrize("ready", [None, {"status": "ok"}, b"<html>", []], ids=str)
def test_another_server_is_known_by_its_documents(ready: Any) -> None:
    with server(ready) as a, server(ready) as b, server(ready, "other") as c:
        assert identify([a, b]) == identify([b])
        with pytest.raises(UserError, match="different indexes"):
            identify([a, c])


def test_a_server_that_is_loading_or_absent_is_refused() -> None:
    with server({"status": "loading"}, status=503) as url, pytest.raises(UserError, match="still loading"):
        identify([url])
    with pytest.raises(UserError, match="does not answer"):
        identify(["http://127.0.0.1:9"])
    with server(READY) as url:  # the client fails over to it
        assert identify(["http://127.0.0.1:9", url])["version"] == "a1"


def gateway(ready: list[bytes]) -> raw_server.Answer:
    """Answer the first of ``ready`` at /ready, and one passage to three queries."""
    found = raw_server.http({"result": [[{"contents": "text"}]] * 3})
    return lambda method, path, body: found if method == "POST" else ready[0]


@pytest.mark.parametrize(
    "status", ["429 Too Many Requests", "500 Error", "502 Bad Gateway", "504 Gateway Timeout"]
)
def test_one_error_of_a_gateway_is_no_other_index(status: str) -> None:
    """Its /retrieve works on, so that a digest of the documents could be made and would differ."""
    ready = [raw_server.http(READY)]
    with raw_server.server(gateway(ready)) as url, server(READY) as other:
        at_start = identify([url])
        ready[0] = raw_server.http(b"<html>", status)
        require_unchanged([url], at_start)
        assert identify([url, other]) == at_start
        with pytest.raises(RetrieverUnavailableError, match=f"does not answer.*/ready.*{status[:3]}"):
            identify([url])


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed"])
def test_a_server_without_ready_is_known_by_its_documents(status: str) -> None:
    with raw_server.server(gateway([raw_server.http(b"no", status)])) as url:
        assert list(identify([url])) == ["documents"]


def test_a_resumed_run_needs_the_retriever_that_it_was_started_with(tmp_path: Path) -> None:
    require_same(tmp_path, {"version": "a1"}, resumed=False)
    require_same(tmp_path, {"version": "a1"}, resumed=True)
    with pytest.raises(UserError, match=r"trained with another retriever: version a1.* version b2"):
        require_same(tmp_path, {"version": "b2"}, resumed=True)
    require_same(tmp_path, {"version": "b2"}, resumed=False)  # a new run in the folder
    require_same(tmp_path, {"version": "b2"}, resumed=True)


def test_a_server_that_was_restarted_with_another_index_stops_a_run() -> None:
    ready = dict(READY)
    with server(ready) as url:
        at_start = identify([url])
        require_unchanged([url], at_start)
        require_unchanged(["http://127.0.0.1:9"], at_start)  # one that is down is counted elsewhere
        ready["version"] = "b2"
        with pytest.raises(UserError, match=r"another index since a restart: .*version b2.*version a1"):
            require_unchanged([url], at_start)


def test_another_server_is_known_again_by_its_documents() -> None:
    with server(None) as url, server(None, "other") as other:
        require_unchanged([url], identify([url]))
        with pytest.raises(UserError, match="another index since a restart"):
            require_unchanged([other], identify([url]))


def test_no_answer_of_another_index_reaches_an_evaluation() -> None:
    """Many rollouts search at once; after the change none gets an answer, however the checks are spread."""
    ready = dict(READY)

    async def search(query: str) -> SearchResult:
        return SearchResult([], 0.0, None)

    async def run(url: str) -> tuple[list[Any], list[Any]]:
        watch = IndexWatch(search, [url], identify([url]), every_s=0.0)
        before = await asyncio.gather(*(watch.search("q") for _ in range(3)))
        ready["version"] = "b2"
        after = await asyncio.gather(*(watch.search("q") for _ in range(3)), return_exceptions=True)
        return before, after

    with server(ready) as url:
        before, after = asyncio.run(run(url))
    assert all(found.error is None for found in before)
    assert all(isinstance(found, UserError) for found in after)


def test_checks_are_rare() -> None:
    """One check covers all searches of a second; the server answers a thousand searches a second."""
    ready = dict(READY)

    async def search(query: str) -> SearchResult:
        return SearchResult([], 0.0, None)

    async def run(url: str) -> None:
        watch = IndexWatch(search, [url], identify([url]), every_s=60.0)
        ready["version"] = "b2"
        await asyncio.gather(*(watch.search("q") for _ in range(100)))

    with server(ready) as url:
        asyncio.run(run(url))
