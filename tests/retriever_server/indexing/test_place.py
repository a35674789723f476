"""Where an index may be written: nothing else than an index is replaced, and nothing that a build reads."""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest

from retriever_server import manifest as manifests
from retriever_server.indexing import build as builds
from retriever_server.indexing.base import BuildError, BuildOptions
from retriever_server.indexing.build import build


def attempt(corpus: Path, index: Path, overwrite: bool = False) -> None:
    build("bm25s", corpus, index, BuildOptions(), overwrite=overwrite, out=io.StringIO())


def test_a_folder_that_is_no_index_is_not_replaced(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    corpus = Path(shutil.copy(small, folder / "corpus.jsonl"))
    (folder / "thesis").touch()
    with pytest.raises(BuildError, match=r"data is no index .*, so it is not replaced\. Fix: "):
        attempt(corpus, folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["corpus.jsonl", "data", "thesis"]


def test_an_empty_folder_and_an_index_of_pyserini_are_replaced(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    for name in ("empty", "pyserini"):
        (tmp_path / name).mkdir()
    (tmp_path / "pyserini" / "segments_1").touch()
    for name in ("empty", "pyserini"):
        attempt(small, tmp_path / name, overwrite=True)
        assert manifests.read(tmp_path / name).passages == 40


def test_what_a_build_reads_does_not_lie_in_the_index_that_it_replaces(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    index = tmp_path / "index"
    attempt(small, index)
    corpus = Path(shutil.copy(small, index / "documents.jsonl"))
    (tmp_path / "link.jsonl").symlink_to(corpus)
    for given in (corpus, tmp_path / "link.jsonl"):
        with pytest.raises(BuildError, match=r"--corpus .* lies in the index that would be replaced\. Fix: "):
            attempt(given, index, overwrite=True)
    with pytest.raises(BuildError, match=r"--vectors .* lies in the index"):
        build("bm25s", small, index, BuildOptions(vectors=index / "flat"), overwrite=True, out=io.StringIO())
    assert corpus.exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("index", [".", "..", "/", "a/.."])
def test_a_path_without_a_name_of_its_own_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BuildError, match=r"is no name\. Fix: "):
        attempt(small, Path(index), overwrite)
    assert not list(tmp_path.iterdir())


def test_an_index_that_came_to_be_during_the_build_is_kept(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    index = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr(builds, "_versions", lambda: index.mkdir() or (index / "mine").touch() or {})
        with pytest.raises(BuildError, match=r"index came to be while .*\.partial was built.*Fix: "):
            attempt(small, index)
    assert (index / "mine").exists()
    assert manifests.read(tmp_path / "index.partial").passages == 40
    (index / "mine").unlink()
    attempt(small, index, overwrite=True)
    assert manifests.read(index).passages == 40


def test_an_index_path_that_is_a_link_is_refused(small: Path, tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(BuildError, match="is a link"):
        attempt(small, link)
    target.mkdir()
    with pytest.raises(BuildError, match=r"is a link.*Fix: give .*target itself"):
        attempt(small, link, overwrite=True)
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_in_the_place_of_an_index_is_kept(small: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.write_text("notes")
    with pytest.raises(BuildError, match=r"is a file, not an index\. Fix: "):
        attempt(small, index, overwrite=True)
    assert index.read_text() == "notes"
    assert not list(tmp_path.glob("*.partial"))


def test_an_index_that_was_set_aside_is_kept(small: Path, tmp_path: Path) -> None:
    (tmp_path / "index.old").mkdir()
    with pytest.raises(BuildError, match=r"index\.old exists: .*Fix: "):
        attempt(small, tmp_path / "index", overwrite=True)
    attempt(small, tmp_path / "index")
    assert (tmp_path / "index.old").is_dir()


@pytest.mark.parametrize("stuck", ["the old one", "the new one"])
def test_an_index_that_cannot_be_renamed_loses_nothing(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: str
) -> None:
    pytest.importorskip("bm25s")
    index, partial = tmp_path / "index", tmp_path / "index.partial"
    attempt(small, index)
    (index / "mine").touch()
    with monkeypatch.context() as patch:
        rename = Path.rename

        def failing(path: Path, target: Path) -> Path:
            if path == (index if stuck == "the old one" else partial):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path), None, str(target))
            return rename(path, target)

        patch.setattr(Path, "rename", failing)
        with pytest.raises(
            BuildError, match=r"Device or resource busy.*index\.partial holds the finished index"
        ):
            attempt(small, index, overwrite=True)
    assert (index / "mine").exists()
    assert manifests.read(partial).passages == 40
    assert (partial / "work" / "corpus.sha256").exists()
    attempt(small, index, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]
    assert not {"mine", "work", "lock"} & {path.name for path in index.iterdir()}
