"""Which index do the servers search? They state it, and their documents show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.identity_server import READY, server

from sd_search_verl.errors import UserError
from sd_search_verl.rollout.retriever_identity import identify, require_same


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


def test_a_resumed_run_needs_the_retriever_that_it_was_started_with(tmp_path: Path) -> None:
    require_same(tmp_path, {"version": "a1"}, resumed=False)
    require_same(tmp_path, {"version": "a1"}, resumed=True)
    with pytest.raises(UserError, match=r"trained with another retriever: version a1.* version b2"):
        require_same(tmp_path, {"version": "b2"}, resumed=True)
    require_same(tmp_path, {"version": "b2"}, resumed=False)  # a new run in the folder
    require_same(tmp_path, {"version": "b2"}, resumed=True)
