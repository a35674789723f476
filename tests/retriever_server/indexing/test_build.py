"""Building an index: input checks, atomicity, resumption, and a server's refusal of what does not fit."""

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.processes import has_ended
from support.retrieval_server import ids

from retriever_server import manifest as manifests
from retriever_server.corpus import CorpusError
from retriever_server.indexing import bm25 as builder
from retriever_server.indexing.base import BuildError, BuildOptions
from retriever_server.indexing.build import build
from retriever_server.launcher import StartError, serving

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = BuildOptions(heap_mb=512)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A corpus of one passage."""
    corpus = tmp_path / "few.jsonl"
    corpus.write_text(json.dumps({"id": "a", "contents": "Title\ncastle text"}) + "\n")
    return corpus


def test_an_existing_index_is_kept_unless_told(
    bm25_index: Path, corpus: Path, few: Path, tmp_path: Path
) -> None:
    index = shutil.copytree(bm25_index, tmp_path / "index")
    with pytest.raises(BuildError, match="exists"):
        build("bm25", corpus, index, OPTIONS, out=io.StringIO())
    assert build("bm25", few, index, OPTIONS, overwrite=True, out=io.StringIO()).passages == 1


def test_a_stopped_build_goes_on_with_what_is_finished(
    java: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "SHARD_PASSAGES", 150)
    merge = builder._merge
    monkeypatch.setattr(builder, "_merge", lambda *arguments: (_ for _ in ()).throw(BuildError("stopped")))
    with pytest.raises(BuildError, match="stopped"):
        build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    assert not (tmp_path / "index").exists()
    shards = sorted((tmp_path / "index.partial" / "work" / "shards").iterdir())
    assert len(shards) == 2
    shutil.rmtree(shards[1])
    times = [shard.stat().st_mtime_ns for shard in shards[:1]]
    monkeypatch.setattr(builder, "_merge", merge)
    kept = []
    monkeypatch.setattr(
        builder, "_write_rows", lambda *arguments, write=builder._write_rows: kept.extend(
            shard.stat().st_mtime_ns for shard in shards[:1]
        ) or write(*arguments)
    )  # fmt: skip
    build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    assert kept == times, "finished shards were not built again"
    with serving("--backend", "bm25", "--index", tmp_path / "index", "--corpus", corpus) as server:
        for number in (5, 205):
            assert ids(server.url, f"passage{number}")[0] == f"doc-{number}"


@pytest.mark.parametrize("stop", ["while merging", "at a bad line"])
def test_documents_of_an_unfinished_build_are_not_those_of_the_next(
    java: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    text = corpus.read_text().replace("castle", "palace") + ("{" if stop == "at a bad line" else "")
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    with monkeypatch.context() as patch:
        if stop == "while merging":
            patch.setattr(builder, "_merge", lambda *arguments: (_ for _ in ()).throw(BuildError("stopped")))
        with pytest.raises((BuildError, CorpusError)):
            build("bm25", packed, tmp_path / "index", OPTIONS, out=io.StringIO())
    assert (tmp_path / "index.partial" / "documents.jsonl").exists()
    build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    with serving("--backend", "bm25", "--index", tmp_path / "index", "--corpus", corpus) as server:
        assert ids(server.url, "passage5")[0] == "doc-5"


def test_finished_parts_of_an_unknown_corpus_are_not_taken(
    java: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(corpus.read_text().replace("Passage", "Paragraph"))
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_merge", lambda *arguments: (_ for _ in ()).throw(BuildError("stopped")))
        with pytest.raises(BuildError, match="stopped"):
            build("bm25", other, tmp_path / "index", OPTIONS, out=io.StringIO())
    (tmp_path / "index.partial" / "work" / "corpus.sha256").unlink()
    build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    with serving("--backend", "bm25", "--index", tmp_path / "index", "--corpus", corpus) as server:
        assert ids(server.url, "passage5")[0] == "doc-5"


def test_a_killed_build_leaves_no_index_and_can_be_repeated(java: None, corpus: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "retriever_server.build_index",
        "--corpus", str(corpus), "--index", str(tmp_path / "index"), "--heap-mb", "512",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("indexing"):
            break
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "index").exists()
    with (
        pytest.raises(StartError, match="holds no finished index"),
        serving("--backend", "bm25", "--index", tmp_path / "index", "--corpus", corpus),
    ):
        pass
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert manifests.read(tmp_path / "index").passages == 300


def test_a_build_ended_by_ctrl_c_says_in_one_line_how_to_go_on(tmp_path: Path) -> None:
    for package in ("bm25s", "Stemmer"):
        pytest.importorskip(package, reason=f"the bm25s back end needs {package}")
    corpus = tmp_path / "corpus.jsonl"
    text = " ".join(f"word{number}" for number in range(100))
    corpus.write_text(
        "".join(json.dumps({"id": str(i), "contents": f"T\n{text}"}) + "\n" for i in range(50_000))
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "retriever_server.build_index", "--backend", "bm25s",
         "--corpus", corpus, "--index", tmp_path / "index"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("indexing"):
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.splitlines()[-1] == "interrupted; the same command starts over"


def test_an_index_built_again_has_the_version_of_the_first(
    bm25_index: Path, corpus: Path, few: Path, tmp_path: Path
) -> None:
    first = manifests.read(bm25_index)
    again = build("bm25", corpus, tmp_path / "again", BuildOptions(heap_mb=512, threads=3), out=io.StringIO())
    assert again.files != first.files, "Lucene's files have random ids; they cannot tell two indexes apart"
    assert again.version == first.version
    assert build("bm25", few, tmp_path / "few", OPTIONS, out=io.StringIO()).version != first.version


def test_a_disk_too_small_is_named_before_anything_is_done(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BuildError, match="GiB needed in"):
        build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    assert not (tmp_path / "index").exists()


def test_a_build_that_goes_on_does_not_ask_for_the_space_it_has_taken(
    java: None, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(builder, "_merge", lambda *arguments: (_ for _ in ()).throw(BuildError("stopped")))
        with pytest.raises(BuildError, match="stopped"):
            build("bm25", corpus, tmp_path / "index", OPTIONS, out=io.StringIO())
    usage = shutil.disk_usage(tmp_path)
    needed = int(0.75 * corpus.stat().st_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    out = io.StringIO()
    with pytest.raises(BuildError, match=r"GiB free and 0\.00 written"):
        build("bm25", corpus, tmp_path / "other", OPTIONS, out=out)
    build("bm25", corpus, tmp_path / "index", OPTIONS, out=out)
    assert manifests.read(tmp_path / "index").passages == 300


def test_java_ends_with_a_build_that_is_stopped(java: None, corpus: Path, tmp_path: Path) -> None:
    """It would go on writing into the folder in which the next build indexes."""
    many = tmp_path / "many.jsonl"
    with many.open("w") as file:
        for number in range(100_000):
            file.write(json.dumps({"id": str(number), "contents": f"T\n{f'w{number} ' * 30}"}) + "\n")
    command = [sys.executable, "-m", "retriever_server.build_index", "--corpus", many]
    process = subprocess.Popen([*command, "--index", tmp_path / "index"], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        end, found = time.monotonic() + 60, []
        while not found:
            assert time.monotonic() < end
            assert process.poll() is None
            children = psutil.Process(process.pid).children()
            found = [
                child.pid for child in children if "io.anserini.index.IndexCollection" in child.cmdline()
            ]
    finally:
        process.terminate()
        process.wait()
    assert has_ended(found[0], 2.0)
