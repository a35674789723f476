"""The check of a retriever reaches a server as the client does."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.good_run import UNLISTENED
from support.raw_server import http, server
from support.small_servers import client

from sd_search_verl.config import ConfigError, SearchConfig, read_config
from sd_search_verl.errors import without_key
from sd_search_verl.retriever_client.check import check_retriever, is_loading
from sd_search_verl.retriever_client.endpoints import KEY_VARIABLE, retrieve_url
from sd_search_verl.retriever_client.identity import DisagreementError, identify

KEY = "k€y/@:"
ENCODED = "k%E2%82%ACy%2F%40%3A"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a server that requires a key."""
    builder = pytest.importorskip("retriever_server.indexing.build", reason="needs the retriever extra")
    from retriever_server.indexing.base import BuildOptions
    from retriever_server.launcher import serving

    folder: Path = tmp_path_factory.mktemp("check")
    corpus, key = folder / "corpus.jsonl", folder / "key"
    corpus.write_text(json.dumps({"id": "d", "contents": "Test\na test"}))
    key.write_text(KEY, encoding="utf-8")
    builder.build("bm25s", corpus, folder / "index", BuildOptions())
    arguments = ["--backend", "bm25s", "--index", folder / "index", "--corpus", corpus, "--api-key-file", key]
    with serving(*arguments) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies in the environment that nobody listens on."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, UNLISTENED.removesuffix("/retrieve"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize("path", ["", "/", "/retrieve", "/retrieve/"])
def test_check_and_client_accept_the_same_addresses_past_a_proxy(host: str, proxies: None, path: str) -> None:
    url = f"http://:{ENCODED}@{host}{path}"
    assert check_retriever(url).ok, check_retriever(url)
    assert not is_loading(url)

    async def search() -> None:
        async with client(url) as retriever:
            result = await retriever.search("test")
            assert result.documents is not None, result.error

    asyncio.run(search())


def test_a_missing_key_is_named_and_a_wrong_one_never_shown(host: str) -> None:
    for url in (f"http://{host}", f"http://:secret@{host}"):
        finding = check_retriever(url)
        assert not finding.ok
        assert "401" in finding.found
        assert "http://:KEY@host:port" in finding.fix
        assert "RETRIEVER_API_KEY" in finding.fix
        assert "secret" not in str(finding)

    async def search() -> None:
        async with client(f"http://:secret@{host}") as retriever:
            result = await retriever.search("test")
            assert result.error is not None
            assert "401" in result.error
            assert "secret" not in result.error

    asyncio.run(search())


def test_what_a_server_refuses_is_said_in_its_own_words(host: str) -> None:
    url = f"http://:{ENCODED}@{host}"
    finding = check_retriever(url, top_k=1000)
    assert "answers HTTP 422 to {" in finding.found
    assert '"topk": 1000' in finding.found
    assert "topk must be a whole number from 1 to 100, not 1000" in finding.found
    assert "search.top_k" in finding.fix
    finding = check_retriever(f"{url}/elsewhere")
    assert "answers HTTP 404" in finding.found
    assert "the address's" in finding.fix


def test_a_bad_address_is_a_finding() -> None:
    assert "must start with http" in check_retriever("localhost:8000").found
    assert without_key("http://a:b@h:1/x") == "http://h:1/x"
    assert without_key("http://:key\n@h:1") == "http://h:1"
    assert retrieve_url("http://:k@h:1/") == "http://:k@h:1/retrieve"


def test_the_environments_key_is_sent_by_check_and_client(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not check_retriever(host).ok
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert check_retriever(f"http://{host}").ok
    assert identify([f"http://{host}"])["backend"] == "bm25s"

    async def search() -> None:
        async with client(f"http://{host}") as retriever:
            assert (await retriever.search("test")).documents is not None

    asyncio.run(search())
    assert not check_retriever(f"http://:other@{host}").ok  # an address has its own


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@host:8000",
        "http://user:secret@host:8000/retrieve",
        "http://:se/secret@host:8000",
        "http://:s@secret@host:8000",
        "localhost:secret@host",
        "http:/:secret@host",
        ":secret@host:8000",
        "ftp://:secret@host",
        "http://:secret@",
        "http://user:secret/ss@127.0.0.1:9",
        "http://user:9/secret@127.0.0.1:9",
        "http://user:secret?ss@127.0.0.1:9",
        "http://user:9?secret@127.0.0.1:9",
        "http://user:secret#ss@127.0.0.1:9",
        "http://user:secret'ss@127.0.0.1:9",
        'http://user:secret"s@127.0.0.1:9',
        "http://user:secret,s@127.0.0.1:9",
        "http://user:secret s@127.0.0.1:9",
        "http://user:secret//s@127.0.0.1:9",
        "user:secret/s@127.0.0.1:9",
    ],
)
def test_no_message_shows_a_key(url: str) -> None:
    assert "secret" not in str(check_retriever(url))
    for values in ({"retriever_urls": url}, {"retriever_url": url}, {"retriever_urls": [url, "host"]}):
        with pytest.raises(ConfigError) as error:
            read_config(SearchConfig, values, "search")
        assert "secret" not in str(error.value)


def test_no_failed_search_shows_a_key() -> None:
    async def search(url: str) -> str:
        async with client(url, timeout_s=0.5, max_retries=0) as retriever:
            return str((await retriever.search("test")).error)

    for url in ("http://localhost:9/secret@127.0.0.1:9", "http://localhost:9?secret@127.0.0.1:9"):
        assert "secret" not in asyncio.run(search(url))


def test_the_servers_of_a_disagreement_are_told_apart_but_for_their_keys() -> None:
    """Addresses that are shown alike are still asked each for itself."""
    versions = iter("ab")

    def answer(method: str, path: str, body: bytes) -> bytes:
        return http({"version": next(versions)})

    with server(answer) as url, pytest.raises(DisagreementError) as error:
        identify([url.replace("//", f"//{name}:secret@") for name in ("one", "two")])
    assert "secret" not in f"{error.value} {error.value.urls}"
