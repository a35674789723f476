"""Retrievers that load are waited for, with an end; those that are down are named."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.good_run import UNLISTENED, change
from support.identity_server import READY, server
from support.raw_server import http
from support.raw_server import server as raw_server

from sd_search_verl.config import ConfigError
from sd_search_verl.retriever_client.identity import identify, require_same
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight import check_identities
from sd_search_verl.verl_adapter.trainer.checkpoints import TRACKER


@contextmanager
def loading_server(folder: Path, requests: int) -> Iterator[str]:
    """The address of a server that answers 503 to so many requests, and then as a retriever does."""
    program = folder / "server.py"
    program.write_text(
        "import http.server, json\n"
        "asked = []\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        asked.append(self.path)\n"
        f"        loading = len(asked) <= {requests}\n"
        "        self.send_response(503 if loading else 200); self.end_headers()\n"
        "        if not loading: self.wfile.write(json.dumps({'result': [[{'contents': 'Emma'}]]}).encode())\n"
        "    do_POST = do_GET\n"
        "httpd = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(httpd.server_port, flush=True)\n"
        "httpd.serve_forever()\n"
    )
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/retrieve"
    finally:
        process.kill()


def test_one_that_loads_is_waited_for(
    good: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Longer than search.timeout_s. Another that is down is a warning."""
    with loading_server(tmp_path, requests=5) as url:
        preflight.refuse_bad_start(change(good, search__retriever_urls=[url, UNLISTENED]))
    printed = capsys.readouterr().out
    assert f"waiting for the retriever at {url}: HTTPError: HTTP Error 503" in printed
    assert f"warning: retriever {UNLISTENED}: URLError" in printed


def test_one_that_loads_for_ever_is_given_up(good: DictConfig, tmp_path: Path) -> None:
    with loading_server(tmp_path, requests=10**9) as url:
        config = change(good, search__retriever_urls=[url, url], search__max_loading_s=3)
        begun = time.monotonic()
        first, second = preflight.check_retrievers(config)
        seconds = time.monotonic() - begun
    assert 3 < seconds < 15
    for finding in (first, second):
        assert not finding.ok
        assert "still says that it is loading (HTTP 503) after" in finding.found
        assert "raise search.max_loading_s" in finding.fix


def test_one_that_is_down_is_named(good: DictConfig) -> None:
    says = rf"retriever {UNLISTENED}: URLError.*Connection refused.*Fix: start one with `python -m"
    with pytest.raises(ConfigError, match=says):
        preflight.refuse_bad_start(good)


def test_every_one_that_is_down_is_named(good: DictConfig) -> None:
    urls = [UNLISTENED, UNLISTENED.replace(":9/", ":10/")]
    with pytest.raises(ConfigError, match=r"(?s)127.0.0.1:9/.*127.0.0.1:10/"):
        preflight.refuse_bad_start(change(good, search__retriever_urls=urls))


def test_servers_of_different_indexes_are_refused(good: DictConfig) -> None:
    with server(READY) as one, server({**READY, "version": "b2"}) as other, server(READY) as same:
        urls = [f"{url}/retrieve" for url in (one, other)]
        with pytest.raises(
            ConfigError, match=r"retriever_urls: .*another index.*version a1; .*version b2.*Fix: serve"
        ):
            preflight.refuse_bad_start(change(good, search__retriever_urls=urls))
        preflight.refuse_bad_start(change(good, search__retriever_urls=[urls[0], f"{same}/retrieve"]))


def test_another_retriever_is_refused_before_models_are_loaded(good: DictConfig, tmp_path: Path) -> None:
    """A run that is resumed, from its own folder or by a path into another one."""
    with server(READY) as url, server({**READY, "version": "b2"}) as other:
        require_same(tmp_path, identify([url]), resumed=False)
        (tmp_path / TRACKER).write_text("3")
        auto = {"trainer__resume_mode": "auto", "trainer__default_local_dir": str(tmp_path)}
        path = {
            "trainer__resume_mode": "resume_path",
            "trainer__resume_from_path": f"{tmp_path}/global_step_3",
        }
        for values in (auto, path):
            (finding,) = check_identities(change(good, search__retriever_urls=[other], **values))
            assert finding.fatal
            assert "version a1" in finding.found
            assert "version b2" in finding.found
            assert [*check_identities(change(good, search__retriever_urls=[url], **values))] == []
        anew = {**auto, "trainer__resume_mode": "disable"}
        assert [*check_identities(change(good, search__retriever_urls=[other], **anew))] == []


def test_as_many_documents_are_asked_for_as_the_run_asks_for(good: DictConfig) -> None:
    with raw_server(
        lambda method, path, body: http({"result": [[{"contents": "Emma\na novel"}] * 5]})
    ) as url:
        values = {"search__retriever_urls": [url]}
        (finding,) = preflight.check_retrievers(change(good, **values, search__top_k=5))
        assert finding.ok
        (finding,) = preflight.check_retrievers(change(good, **values, search__top_k=4))
        assert finding.fatal
        assert "5 documents for a query with topk=4" in finding.found
        assert "search.top_k" in finding.fix


def test_passages_without_a_title_line_are_no_reason_to_wait_or_to_refuse(
    good: DictConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(READY, passage="Emma is a novel") as url:
        begun = time.monotonic()
        preflight.refuse_bad_start(change(good, search__retriever_urls=[url], search__timeout_s=30))
        assert time.monotonic() - begun < 20
    assert "such as (Title: Emma is a novel)" in capsys.readouterr().out
