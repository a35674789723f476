"""Corpora that a build refuses before it starts, and what it says of an index that it cannot remove."""

import codecs
import errno
import gzip
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from retriever_server import manifest as manifests
from retriever_server.backends.registry import open_engine
from retriever_server.corpus import CorpusError
from retriever_server.indexing.base import BuildError, BuildOptions
from retriever_server.indexing.build import build
from retriever_server.settings import Settings


def attempt(corpus: Path, index: Path, overwrite: bool = False) -> None:
    build("bm25s", corpus, index, BuildOptions(), overwrite=overwrite, out=io.StringIO())


def test_what_cannot_be_removed_is_named_beside_the_finished_index(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    index, old = tmp_path / "index", tmp_path / "index.old"
    attempt(small, index)
    (index / "mine").touch()
    remove = shutil.rmtree

    def failing(path: Path) -> None:
        if path == old:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(old / "mine"))
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", failing)
    with pytest.raises(
        BuildError, match=r"index is finished, but .*index\.old is left: .*busy\. Fix: remove it"
    ):
        attempt(small, index, overwrite=True)
    assert (old / "mine").exists()
    assert manifests.read(index).passages == 40
    assert not (index / "mine").exists()


def test_a_corpus_without_any_text_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    lines = [{"id": "a", "contents": ""}, {"id": "b", "contents": "   \n"}]
    corpus.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(CorpusError, match="contents of all 2 passages are empty"):
        attempt(corpus, tmp_path / "index")


@pytest.mark.parametrize("damage", ["cut", "flip", "html"])
def test_a_damaged_download_is_one_clear_error(small: Path, tmp_path: Path, damage: str) -> None:
    corpus = tmp_path / "corpus.jsonl.gz"
    data = bytearray(gzip.compress(small.read_bytes()))
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flip":
        data[len(data) // 2 : len(data) // 2 + 20] = b"\xff" * 20
    else:
        data = bytearray(b"<!DOCTYPE html><html>Not found</html>")
    corpus.write_bytes(data)
    with pytest.raises(CorpusError, match=r"is not a whole gzip file|bad lines"):
        attempt(corpus, tmp_path / "index")


def test_an_html_page_in_place_of_a_corpus_is_shown(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("<!DOCTYPE html>\n<html>Not found</html>\n")
    with pytest.raises(CorpusError, match="line 1: not JSON"):
        attempt(corpus, tmp_path / "index")


@pytest.mark.parametrize("backend", ["bm25s", "bm25"])
def test_a_corpus_without_a_word_to_search_is_refused(
    backend: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if backend == "bm25":
        request.getfixturevalue("java")
    corpus = tmp_path / "corpus.jsonl"
    lines = [{"id": "a", "contents": "The\nof and"}, {"id": "b", "contents": "- ... !"}]
    corpus.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BuildError, match=r"no word that BM25 searches.*Fix: "):
        build(backend, corpus, tmp_path / "index", BuildOptions(heap_mb=256), out=io.StringIO())
    assert not (tmp_path / "index").exists()


def test_a_byte_order_mark_belongs_to_no_passage(small: Path, tmp_path: Path) -> None:
    corpus, index = tmp_path / "corpus.jsonl", tmp_path / "index"
    corpus.write_bytes(codecs.BOM_UTF8 + small.read_bytes())
    attempt(corpus, index)
    engine = open_engine(Settings(backend="bm25s", index=index, corpus=corpus))
    first = small.read_bytes().splitlines()[0]
    assert engine.document("doc-0") == first
    assert engine.search(["Passage0"], 1)[0][0].document == first
    engine.close()
