"""Corpora that a build refuses before it starts, and what it says of an index that it cannot remove."""

import codecs
import errno
import gzip
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retriever_server import manifest as manifests
from retriever_server.backends.registry import open_engine
from retriever_server.corpus import CorpusError
from retriever_server.errors import RetrieverError
from retriever_server.indexing import build as builds
from retriever_server.indexing.base import BuildError, BuildOptions
from retriever_server.indexing.build import build
from retriever_server.java.jvm import JavaError
from retriever_server.settings import Settings


def attempt(corpus: Path, index: Path, **more: bool) -> None:
    build("bm25s", corpus, index, BuildOptions(), out=io.StringIO(), **more)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test where the corpus is read."""
    monkeypatch.setattr(builds, "scan_corpus", lambda *_: pytest.fail("the corpus was read"))


@pytest.mark.parametrize(
    ("backend", "module", "variable"),
    [
        ("bm25s", "bm25s", ""),
        ("bm25s", "Stemmer", ""),
        ("bm25", "jnius_config", ""),
        ("bm25", "", "ANSERINI_JAR"),
        ("hybrid", "", "ANSERINI_JAR"),
    ],
)
def test_what_a_back_end_lacks_is_said_before_the_corpus_is_read(
    unread: None, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
    backend: Any, module: str, variable: str,
) -> None:  # fmt: skip
    if backend != "bm25s":
        request.getfixturevalue("java")
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises((ImportError, JavaError)):
        build(backend, small, tmp_path / "index", BuildOptions(), out=io.StringIO())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", ["dense", "hybrid"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": None}, "--encoder is missing"),
        ({"encoder": Path("/nowhere")}, "--encoder /nowhere .*"),
        ({"factory": "IVF64"}, "is not a FAISS factory string"),
        ({"factory": "IDMap,Flat"}, "numbers the vectors itself"),
        ({"vectors": Path("/nowhere")}, "--vectors /nowhere is not a file"),
        ({"vectors": Path(__file__)}, "is not a FAISS index"),
        ({"vectors": Path("narrow.index")}, "has vectors of 8 numbers, the encoder gives 384"),
    ],
    ids=str,
)
def test_what_dense_lacks_is_said_before_the_corpus_is_read(
    java: None, encoder_folder: Path, unread: None, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    backend: Any, options: dict[str, Any], message: str,
) -> None:  # fmt: skip
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    monkeypatch.chdir(tmp_path)
    index = faiss.IndexFlatIP(8)
    index.add(np.ones((40, 8), np.float32))
    faiss.write_index(index, "narrow.index")
    with pytest.raises(RetrieverError, match=message):
        build(
            backend,
            small,
            Path("index"),
            BuildOptions(**{"encoder": encoder_folder, **options}),
            out=io.StringIO(),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["narrow.index"]


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


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(small: Path, tmp_path: Path, encoding: str, suffix: str) -> None:
    corpus = tmp_path / f"corpus.jsonl{suffix}"
    content = small.read_text().encode(encoding)
    corpus.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(CorpusError, match=r"corpus\.jsonl.* looks like UTF-16\. Fix: `iconv") as error:
        attempt(corpus, tmp_path / "index", skip_bad_lines=True)
    assert "\n" not in str(error.value)


def test_gzip_under_another_name_is_named(small: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(gzip.compress(small.read_bytes()))
    with pytest.raises(
        CorpusError, match=r"compressed by gzip\. Fix: rename it to corpus\.jsonl\.gz"
    ) as error:
        attempt(corpus, tmp_path / "index", skip_bad_lines=True)
    assert "\n" not in str(error.value)


def test_lines_are_told_to_be_skipped_only_where_that_helps(small: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(small.read_text() + "{\n")
    with pytest.raises(CorpusError, match=r"Fix: correct them .* or add --skip-bad-lines"):
        attempt(corpus, tmp_path / "index")
    corpus.write_text("{\n")
    for skip in (False, True):
        with pytest.raises(CorpusError, match=r"line 1: not JSON.*\nFix: correct them") as error:
            attempt(corpus, tmp_path / "index", skip_bad_lines=skip)
        assert "--skip-bad-lines" not in str(error.value)


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
