"""The retrieval client and the retrieval server together."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.small_servers import client

from sd_search_verl.retriever_client.client import RetrieverClient, SearchResult


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a real server over a small index; skips without Java."""
    builder = pytest.importorskip("retriever_server.indexing.build", reason="needs the retriever extra")
    from retriever_server.indexing.base import BuildOptions
    from retriever_server.java import jvm

    try:
        jvm.java_home(), jvm.anserini_jar()
    except jvm.JavaError as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("client")
    corpus = folder / "corpus.jsonl"
    corpus.write_text(
        "".join(
            json.dumps({"id": f"d{i}", "contents": f"Title {i}\nword{i} common"}) + "\n" for i in range(50)
        )
    )
    builder.build("bm25", corpus, folder / "index", BuildOptions(heap_mb=512))
    return ["--backend", "bm25", "--index", str(folder / "index"), "--corpus", str(corpus)]


def test_odd_queries_reach_a_real_server(arguments: list[str]) -> None:
    from retriever_server.launcher import serving

    queries = ["word7", "", " ", "\ud800 word3", "word4\0", "word5 😀", "?" * 20_000]

    async def main(url: str) -> None:
        async with client(url) as retriever:
            results = await asyncio.gather(*map(retriever.search, queries))
            found = [[d.id for d in r.documents][:1] if r.documents is not None else r.error for r in results]
            assert found == [["d7"], [], [], ["d3"], ["d4"], ["d5"], []]
            assert retriever.stats.requests == 1

    with serving(*arguments) as process:
        asyncio.run(main(process.url))


def test_a_killed_and_restarted_server_costs_only_retries(arguments: list[str]) -> None:
    from retriever_server.launcher import serving

    async def rollouts(retriever: RetrieverClient, seconds: float) -> list[SearchResult]:
        end = time.monotonic() + seconds
        results = []
        while time.monotonic() < end:
            results.append(await retriever.search(f"word{len(results) % 50} common"))
        return results

    async def main(url: str, kill: Callable[[], None], restart: Callable[[], object]) -> None:
        async with client(url, timeout_s=20.0) as retriever:
            tasks = [asyncio.create_task(rollouts(retriever, 4.0)) for _ in range(16)]
            await asyncio.sleep(1.0)
            kill()
            await asyncio.sleep(0.5)
            await asyncio.to_thread(restart)
            results = [result for task in tasks for result in await task]
            assert retriever.stats.retries > 0
            assert retriever.stats.failures == 0
            for result in results:
                assert result.documents is not None
                assert len(result.documents) == 3

    with serving(*arguments) as first:
        port = first.url.rsplit(":", 1)[1]
        second = serving(*arguments, "--port", port)

        def kill() -> None:
            first.process.kill()
            first.process.wait()

        try:
            asyncio.run(main(first.url, kill, second.__enter__))
        finally:
            second.__exit__(None, None, None)
