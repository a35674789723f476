"""Documents by id: the server's answers, and the tool that reads them."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.retrieval_server import post

from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.launcher import ServerProcess, serving
from sd_search_verl.retriever_client.client import RetrieverClient
from sd_search_verl.retriever_client.read_tool import NO_ID, UNAVAILABLE

TEXT = "Title é\n" + "0123456789 café 🎬 " * 30
PASSAGES = [
    {"id": "7", "contents": TEXT},
    {"id": "a/b ?#é%", "contents": "odd\nid"},
    {"id": "", "contents": "no\nid"},
    *({"id": f"p{number}", "contents": f"T{number}\npassage {number}"} for number in range(500)),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("documents")
    corpus, index = folder / "corpus.jsonl", folder / "index"
    corpus.write_text("".join(json.dumps(passage) + "\n" for passage in PASSAGES))
    build("bm25s", corpus, index, BuildOptions())
    with serving("--backend", "bm25s", "--index", index, "--corpus", corpus) as running:
        yield running


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_every_document_is_found_by_its_id(server: ServerProcess) -> None:
    for passage in PASSAGES[3::25]:
        status, answer = get(f"{server.url}/document/{passage['id']}")
        assert status == 200
        assert answer == {"document": passage, "offset": 0, "total": len(passage["contents"])}
    status, answer = get(f"{server.url}/document/a%2Fb%20%3F%23%C3%A9%25")
    assert (status, answer["document"]["contents"]) == (200, "odd\nid")


def answers(url: str) -> dict[str, float]:
    """Number of answers by the metric's labels."""
    with urllib.request.urlopen(url + "/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    name = "retriever_requests_total"
    found = [line.removeprefix(name).rsplit(" ", 1) for line in lines if line.startswith(name)]
    return {labels: float(number) for labels, number in found}


def test_answers_are_counted_by_path_and_status(server: ServerProcess) -> None:
    labels = [
        '{path="/retrieve",status="200"}',
        '{path="/document",status="200"}',
        '{path="/document",status="404"}',
    ]
    before = answers(server.url)
    post(server.url, {"queries": ["passage"]})
    for passage_id in ("7", "7", "absent"):
        get(f"{server.url}/document/{passage_id}")
    after = answers(server.url)
    more = [after[label] - before.get(label, 0.0) for label in labels]
    assert more == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 5), (6, 3), (25, 40), (len(TEXT) - 3, 100), (10_000, 5), (3, None)]
)
def test_a_range_is_counted_in_characters(server: ServerProcess, offset: int, length: int | None) -> None:
    wanted = {"offset": offset} | ({} if length is None else {"length": length})
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    assert get(f"{server.url}/document/7?{query}") == post(server.url, wanted, "/document/7")
    _, answer = post(server.url, wanted, "/document/7")
    end = None if length is None else offset + length
    assert answer["document"]["contents"] == TEXT[offset:end]
    assert (answer["offset"], answer["total"]) == (offset, len(TEXT))


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/document/none", {}, 404, "id"),
        ("/document/7", {"offset": -1}, 422, "offset"),
        ("/document/7", {"length": 0}, 422, "length"),
        ("/document/7", {"length": "many"}, 422, "length"),
        ("/document/7", [], 422, None),
        ("/document/7", b"{", 400, None),
    ],
)
def test_what_is_wrong_is_named(
    server: ServerProcess, path: str, body: Any, status: int, field: str | None
) -> None:
    found, answer = post(server.url, body, path)
    assert (found, answer["error"]["field"]) == (status, field)


def test_an_index_built_before_there_were_ids_says_so(server: ServerProcess, tmp_path: Path) -> None:
    import shutil

    from retriever_server import manifest as manifests

    arguments = dict(zip(server.process.args[3::2], server.process.args[4::2], strict=False))  # type: ignore[index]
    index = tmp_path / "index"
    shutil.copytree(arguments["--index"], index)
    (index / "ids.npy").unlink()
    content = json.loads((index / manifests.FILE).read_text())
    content["files"].pop("ids.npy")
    (index / manifests.FILE).write_text(json.dumps(content))
    with serving("--backend", "bm25s", "--index", index, "--corpus", arguments["--corpus"]) as older:
        status, answer = get(f"{older.url}/document/7")
        assert status == 501
        assert "build it again" in answer["error"]["message"]
        with serving("--backend", "remote", "--remote-urls", f"{older.url}") as front:
            assert get(f"{front.url}/document/7")[0] == 501
        with serving("--backend", "remote", "--remote-urls", f"{server.url}") as front:
            assert get(f"{front.url}/document/7") == get(f"{server.url}/document/7")
            assert get(f"{front.url}/document/none")[0] == 404


def test_the_tool_reads_documents(server: ServerProcess) -> None:
    async def read_all(*calls: dict[str, Any]) -> list[str]:
        client = RetrieverClient([server.url], 3, 5.0, 0)
        try:
            return [await client.read(arguments) for arguments in calls]
        finally:
            await client.close()

    whole, part, odd, missing, number, bad, none = asyncio.run(
        read_all(
            {"id": "7"},
            {"id": "7", "offset": 6, "length": 4},
            {"id": "a/b ?#é%"},
            {"id": "none"},
            {"id": 7, "length": 3},
            {"id": "7", "offset": "x"},
            {},
        )
    )
    assert whole == TEXT
    assert part == f"[characters 6 to 10 of {len(TEXT)}]\n{TEXT[6:10]}"
    assert odd == "odd\nid"
    assert missing == "no document has the id 'none'"
    assert number.endswith(f"\n{TEXT[:3]}")
    assert bad == "offset must be a whole number of characters."
    assert none == NO_ID


def test_without_a_server_reading_is_unavailable() -> None:
    async def read() -> str:
        client = RetrieverClient(["http://127.0.0.1:9"], 3, 1.0, 0)
        try:
            return await client.read({"id": "7"})
        finally:
            await client.close()

    assert asyncio.run(read()) == UNAVAILABLE
