"""An index that is damaged, edited, of another version or of another corpus is refused with the file's name."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retriever_server import manifest as manifests
from retriever_server.backends.registry import open_engine
from retriever_server.launcher import StartError, serving
from retriever_server.settings import Settings


@pytest.fixture
def index(tmp_path: Path) -> Path:
    (tmp_path / "rows").write_bytes(b"rows")
    manifests.write(tmp_path, manifests.Manifest("bm25s", 3, "c.jsonl", 10, "a", "b", 0, {}, {}))
    return tmp_path


def test_what_was_written_is_read_again(index: Path) -> None:
    found = manifests.read(index)
    assert dataclasses.asdict(found)["files"]["rows"]["size"] == 4
    assert found.backend == "bm25s"


@pytest.mark.parametrize(
    ("backend", "name", "counts"),
    [
        ("bm25", "lucene/_0.cfs", False),
        ("bm25", "rows.npy", False),
        ("hybrid", "lucene/_0.cfs", False),
        ("hybrid", "rows.npy", False),
        ("hybrid", "vectors.npy", True),
        ("dense", "vectors.npy", True),
        ("bm25s", "bm25s/data.csc.index.npy", True),
    ],
)
def test_the_version_depends_on_the_files_that_a_second_build_writes_alike(
    backend: str, name: str, counts: bool
) -> None:
    """Lucene's hold random ids, also in a hybrid index."""

    def version(content: str) -> str:
        files = {name: manifests.FileState(size=1, sample=content, sha256=content)}
        return manifests.Manifest(backend, 3, "c.jsonl", 10, "a", "b", 0, {}, {}, files).version

    assert (version("first") != version("second")) == counts


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": ["rows"]},
        {"files": {"rows": {}}},
        {"files": {"rows": {"size": "4", "sample": "x", "sha256": "y"}}},
        {"passages": "3"},
        {"corpus_size": None},
        {"settings": []},
        {"more": 1},
    ],
    ids=str,
)
def test_a_damaged_manifest_is_refused(index: Path, change: dict[str, Any]) -> None:
    path = index / manifests.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(manifests.IndexMismatchError, match=r"manifest.json is damaged: .*Fix: ") as caught:
        manifests.read(index)
    assert "\n" not in str(caught.value)


def test_files_of_another_index_in_the_same_folder_are_not_read(
    small: Path, dense_index: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    """Such as those that stay where a newer index is copied over an older one."""
    index = shutil.copytree(dense_index, tmp_path / "index")
    settings = Settings(backend="dense", index=index, corpus=small, encoder=encoder_folder)
    engine = open_engine(settings)
    expected = engine.search(["castle"], 3)
    engine.close()
    for name in ("faiss.index", "documents.jsonl"):
        (index / name).write_bytes(b"older")
    engine = open_engine(settings)
    assert engine.search(["castle"], 3) == expected
    engine.close()


def _truncate(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
@pytest.mark.parametrize("which", ["corpus", "postings", "rows.npy", "starts.npy", "manifest.json"])
def test_damage_is_refused_with_the_reason(
    bm25_index: Path, corpus: Path, tmp_path: Path, which: str, damage: object
) -> None:
    index = shutil.copytree(bm25_index, tmp_path / "index")
    copy = Path(shutil.copy(corpus, tmp_path / "corpus.jsonl"))
    victim = {"corpus": copy, "postings": max((index / "lucene").glob("*.doc"))}.get(which, index / which)
    damage(victim)  # type: ignore[operator]
    if which == "manifest.json" and damage is _flip:
        return  # a flipped bit in the manifest may be in a version string: nothing depends on it
    if which == "manifest.json":
        with pytest.raises(manifests.IndexMismatchError, match=r"Fix: "):
            manifests.read(index)
        return
    manifest = manifests.read(index)
    with pytest.raises(manifests.IndexMismatchError, match=r"Fix: "):
        manifests.check(index, manifest, "bm25", copy)


def test_a_server_refuses_another_corpus_and_says_why(bm25_index: Path, corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(corpus.read_text().replace("castle", "palace"))
    assert other.stat().st_size == corpus.stat().st_size
    with (
        pytest.raises(StartError, match="right size but other content"),
        serving("--backend", "bm25", "--index", bm25_index, "--corpus", other),
    ):
        pass
    with (
        pytest.raises(StartError, match="--corpus is missing"),
        serving("--backend", "bm25", "--index", bm25_index),
    ):
        pass


def test_a_full_check_sees_what_samples_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "SAMPLE_BYTES", 1)
    big = tmp_path / "big"
    big.write_bytes(bytes(10_000))
    sampled, full = manifests.sample_hash(big), manifests.full_hash(big)
    data = bytearray(10_000)
    data[50] = 1
    big.write_bytes(data)
    assert manifests.sample_hash(big) == sampled
    assert manifests.full_hash(big) != full
