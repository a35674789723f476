"""A corpus in parts on several servers, and one before them."""

import io
import urllib.error
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.retrieval_server import ask, running

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
