"""Reading a corpus: bad lines are named or left out, and documents are the corpus's bytes."""

import gzip
import io
import json
from pathlib import Path

import pytest
from support.retrieval_server import ids

from retriever_server.build_index import main
from retriever_server.corpus import CorpusDocuments, CorpusError, scan
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.launcher import serving

GOOD = {"id": "a", "contents": "Title\ncastle text"}
OPTIONS = BuildOptions(heap_mb=512)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


BAD_LINES = [
    ("{", "not JSON"),
    ('{"id": "x", "contents": "\\ud800"}', "not JSON"),
    ("[1]", "found list"),
    ('{"contents": "c"}', '"id" is missing'),
    ('{"id": "x"}', '"contents" is missing'),
    ('{"id": 7, "contents": "c"}', '"id" must be a string, found int'),
    ('{"id": "x", "contents": null}', '"contents" must be a string, found NoneType'),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_bad_lines_are_reported_with_their_number(tmp_path: Path, line: str, reason: str) -> None:
    corpus = write(tmp_path / "c.jsonl", [json.dumps(GOOD), "", line])
    found = scan(corpus)
    assert found.passages == 1
    assert found.bad_line_count == 1
    assert found.bad_lines[0][0] == 3
    assert reason in found.bad_lines[0][1]
    with pytest.raises(CorpusError, match="1 bad lines\n  line 3: "):
        build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    assert not (tmp_path / "index").exists()


def test_bad_lines_can_be_left_out_and_gz_needs_no_corpus_when_served(java: None, tmp_path: Path) -> None:
    lines = [line for line, _ in BAD_LINES] * 4
    plain = write(tmp_path / "c.jsonl", [*lines, json.dumps(GOOD), "", json.dumps(GOOD | {"id": "b"})])
    corpus = tmp_path / "c.jsonl.gz"
    corpus.write_bytes(gzip.compress(plain.read_bytes()))
    out = io.StringIO()
    manifest = build("bm25", corpus, tmp_path / "index", OPTIONS, skip_bad_lines=True, out=out)
    assert (manifest.passages, manifest.skipped_lines) == (2, 28)
    assert "line 20: " in out.getvalue()
    assert "and 8 more" in out.getvalue()
    with serving("--backend", "bm25", "--index", tmp_path / "index") as server:
        assert ids(server.url, "castle") == ["a", "b"]


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    lines = [json.dumps(GOOD | {"id": name}) for name in ("a", "b", "a")]
    with pytest.raises(CorpusError, match="the first are passages 0 and 2"):
        scan(write(tmp_path / "c.jsonl", lines))


def test_passages_without_a_line_for_the_title_are_counted(java: None, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(number), "contents": "castle text"}) for number in range(3)]
    corpus = write(tmp_path / "c.jsonl", [*lines, json.dumps(GOOD)])
    out = io.StringIO()
    build("bm25", corpus, tmp_path / "index", OPTIONS, out=out)
    assert out.getvalue().count("warning: ") == 1
    assert "3 of 4 passages have no line end between title and text" in out.getvalue()
    titled = write(tmp_path / "titled.jsonl", [json.dumps(GOOD)])
    out = io.StringIO()
    build("bm25", titled, tmp_path / "titled", OPTIONS, out=out)
    assert "warning: " not in out.getvalue()


def test_no_passage_and_no_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no passage"):
        scan(write(tmp_path / "c.jsonl", ["", " "]))
    assert main(["--corpus", str(tmp_path / "none"), "--index", str(tmp_path / "index")]) == 1


def test_documents_are_the_corpus_bytes(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": "é", "contents": "Ünï\ncödé 😀", "extra": [1]}, ensure_ascii=False),
        "",
        '  {"contents":"x","id":"2"}  ',
        json.dumps({"id": "3", "contents": "last"}),
    ]
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("\n".join(lines), encoding="utf-8")  # no newline at the end
    found = scan(corpus)
    import numpy as np

    np.save(tmp_path / "starts.npy", found.starts)
    documents = CorpusDocuments(corpus, tmp_path / "starts.npy")
    assert [line.decode() for line in documents.get(range(len(documents)))] == [
        line.strip() for line in lines if line
    ]


def test_half_a_gz_is_refused(corpus: Path, tmp_path: Path) -> None:
    packed = tmp_path / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes())[:-100])
    with pytest.raises(CorpusError, match="not a whole gzip file"):
        build("bm25", packed, tmp_path / "index", OPTIONS, out=io.StringIO())
