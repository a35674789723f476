"""Building a dense index: stopped and gone on with, and from vectors that others computed."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.retrieval_server import unit

from retriever_server import manifest as manifests
from retriever_server.encoder import Encoder
from retriever_server.encoder_spec import EncoderError, EncoderSpec
from retriever_server.indexing import build as builds
from retriever_server.indexing import faiss_approximate
from retriever_server.indexing.base import BuildError, BuildOptions
from retriever_server.indexing.build import build
from retriever_server.indexing.faiss_flat import read_flat


def test_a_stopped_encoding_goes_on(encoder_folder: Path, small: Path, tmp_path: Path) -> None:
    from retriever_server.indexing import dense as builder

    counts: list[int] = []
    stop_after = 30
    encode = Encoder.passages

    def counted(self: Encoder, texts: list[str]) -> np.ndarray:
        counts.append(len(texts))
        if sum(counts) > stop_after:
            raise BuildError("stopped")
        return encode(self, texts)

    options = BuildOptions(encoder=encoder_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "CHUNK", 20)
        patch.setattr(Encoder, "passages", counted)
        with pytest.raises(BuildError, match="stopped"):
            build("dense", small, tmp_path / "index", options, out=io.StringIO())
        counts.clear()
        stop_after = 1000
        build("dense", small, tmp_path / "index", options, out=io.StringIO())
    assert counts == [1, 20], "the first passages were not encoded again"
    found = np.load(tmp_path / "index" / "vectors.npy")
    whole = Encoder(encoder_folder, EncoderSpec.of(encoder_folder))
    texts = [json.loads(line)["contents"] for line in small.read_text().splitlines()]
    assert np.abs(found - whole.passages(texts)).max() < 1e-5


def test_a_stopped_approximate_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    monkeypatch.setattr(faiss_approximate, "ADD", 500)
    monkeypatch.setattr(faiss_approximate, "CHECKPOINT_EVERY_S", 0.0)
    stored = unit(np.random.default_rng(0), 3000)
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        faiss_approximate.build(stored, "IVF8,Flat", "e5", tmp_path, tmp_path / "index", progress)
    assert not (tmp_path / "index").exists()
    monkeypatch.setattr(faiss_approximate, "_trained", lambda *_: pytest.fail("trained again"))
    faiss_approximate.build(stored, "IVF8,Flat", "e5", tmp_path, tmp_path / "index", progress)
    assert seen == [500, 1000, 1500, 1500, 2000, 2500, 3000]
    monkeypatch.undo()
    faiss_approximate.build(
        stored, "IVF8,Flat", "other", tmp_path, tmp_path / "whole", lambda done, total: None
    )
    found, whole = (faiss.read_index(str(tmp_path / name)) for name in ("index", "whole"))
    assert all(
        np.array_equal(a, b) for a, b in zip(found.search(stored, 3), whole.search(stored, 3), strict=True)
    )


@pytest.mark.parametrize("stamp", ["kept", "missing"])
def test_an_approximate_index_of_an_unfinished_build_is_not_that_of_the_next(
    encoder_folder: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamp: str
) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    options = BuildOptions(encoder=encoder_folder)
    approximate = options.model_copy(update={"factory": "IVF4,Flat"})
    with monkeypatch.context() as patch:
        patch.setattr(builds, "_versions", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build("dense", small, tmp_path / "index", approximate, out=io.StringIO())
    assert (tmp_path / "index.partial" / "faiss.index").exists()
    if stamp == "missing":
        (tmp_path / "index.partial" / "work" / "corpus.sha256").unlink()
    manifest = build("dense", small, tmp_path / "index", options, out=io.StringIO())
    assert set(manifest.files) == {"vectors.npy", "starts.npy", "ids.npy"}


def test_a_build_that_is_stopped_while_it_hashes_its_files_encodes_nothing_again(
    encoder_folder: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(encoder=encoder_folder)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "full_hash", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build("dense", small, tmp_path / "index", options, out=io.StringIO())
    encoded: list[int] = []
    encode = Encoder.passages
    monkeypatch.setattr(
        Encoder, "passages", lambda self, texts: (encoded.append(len(texts)), encode(self, texts))[1]
    )
    manifest = build("dense", small, tmp_path / "index", options, out=io.StringIO())
    assert encoded == [1]  # to find the width
    assert set(manifest.files) == {"vectors.npy", "starts.npy", "ids.npy"}


@pytest.mark.parametrize("other", ["prefixes", "pooling", "vectors"])
def test_rows_of_other_vectors_are_no_part_of_an_approximate_index(
    encoder_folder: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    monkeypatch.setattr(faiss_approximate, "ADD", 20)
    monkeypatch.setattr(faiss_approximate, "CHECKPOINT_EVERY_S", 0.0)
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    options = BuildOptions(encoder=folder, encoder_prefixes="none", factory="IVF2,Flat")
    write = faiss_approximate._write
    with monkeypatch.context() as patch:
        written: list[Path] = []

        def stopped(index: object, path: Path) -> None:
            write(index, path)
            written.append(path)
            if len(written) == 2:
                raise KeyboardInterrupt

        patch.setattr(faiss_approximate, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            build("dense", small, tmp_path / "index", options, out=io.StringIO())
    if other == "prefixes":
        options = options.model_copy(update={"encoder_prefixes": "e5"})
    elif other == "pooling":
        declared = folder / "1_Pooling" / "config.json"
        values = json.loads(declared.read_text())
        values |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
        declared.write_text(json.dumps(values))
    else:
        rows = np.load(tmp_path / "index.partial" / "work" / "vectors.npy")
        flat = faiss.IndexFlatIP(rows.shape[1])
        flat.add(rows.astype(np.float16).astype(np.float32))
        faiss.write_index(flat, str(tmp_path / "flat.index"))
        options = options.model_copy(update={"vectors": tmp_path / "flat.index"})
    build("dense", small, tmp_path / "index", options, out=io.StringIO())
    index = faiss.read_index(str(tmp_path / "index" / "faiss.index"))
    index.make_direct_map()
    stored = np.load(tmp_path / "index" / "vectors.npy")
    assert np.array_equal(index.reconstruct_n(0, len(stored)), stored)
    if other == "vectors":
        assert np.array_equal(stored, rows.astype(np.float16))


def test_an_encoding_that_starts_over_takes_nothing_of_the_one_before(
    encoder_folder: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(encoder=encoder_folder, encoder_prefixes="none")
    other = options.model_copy(update={"encoder_prefixes": "e5"})
    encode = Encoder.passages

    def stopped_at(size: int) -> None:
        monkeypatch.setattr(
            Encoder,
            "passages",
            lambda self, texts: pytest.fail("stopped") if len(texts) == size else encode(self, texts),
        )

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "full_hash", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build("dense", small, tmp_path / "index", options, out=io.StringIO())
    stopped_at(40)
    with pytest.raises(pytest.fail.Exception):
        build("dense", small, tmp_path / "index", other, out=io.StringIO())
    stopped_at(0)
    build("dense", small, tmp_path / "index", options, out=io.StringIO())
    assert np.load(tmp_path / "index" / "vectors.npy").any(axis=1).all()


def test_vectors_of_others_are_taken_over_and_checked(
    encoder_folder: Path, small: Path, tmp_path: Path
) -> None:
    """As ``e5_Flat.index`` of wiki-18 comes: FAISS's flat index, a vector a line."""
    import faiss

    texts = [json.loads(line)["contents"] for line in small.read_text().splitlines()]
    vectors = Encoder(encoder_folder, EncoderSpec.of(encoder_folder)).passages(texts)

    def flat(rows: np.ndarray) -> BuildOptions:
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(np.ascontiguousarray(rows))
        faiss.write_index(index, str(tmp_path / "e5_Flat.index"))
        return BuildOptions(encoder=encoder_folder, vectors=tmp_path / "e5_Flat.index")

    theirs = vectors.astype(np.float16).astype(np.float32)
    build("dense", small, tmp_path / "index", flat(theirs), out=io.StringIO())
    assert np.array_equal(np.load(tmp_path / "index" / "vectors.npy"), theirs)
    bad = {value: theirs.copy() for value in (np.nan, np.inf, 0.0)}
    for value, rows in bad.items():
        rows[17] = value
    swapped = theirs.copy()
    swapped[[20, 30]] = swapped[[30, 20]]
    for wrong, message in (
        *((rows, "the vector of passage 17 is zero or not finite") for rows in bad.values()),
        (swapped, "passage 20 has another vector"),
        (theirs[:-1], "has 39 vectors, the corpus has 40 passages"),
        (theirs[::-1], "passage 0 has another vector"),
        (theirs * 1.5, "the vector of passage 0 has the length 1.500, the encoder's has 1.000"),
    ):
        with pytest.raises(BuildError, match=message):
            build("dense", small, tmp_path / "wrong", flat(wrong), out=io.StringIO())
    options = BuildOptions(encoder=encoder_folder, vectors=small)
    with pytest.raises(BuildError, match="is not a FAISS index"):
        build("dense", small, tmp_path / "wrong", options, out=io.StringIO())


def test_an_error_of_faiss_without_a_text_is_named_by_its_type(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")

    def fail(*arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(faiss, "read_index", fail)
    with pytest.raises(BuildError, match=r"is not a FAISS index: RuntimeError$"):
        read_flat(small, 40, 384)


def test_more_lists_than_passages_are_refused_before_the_encoding(
    encoder_folder: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    monkeypatch.setattr(Encoder, "passages", lambda self, texts: np.ones((len(texts), 384), np.float32))
    for factory, message in (
        ("IVF4096,SQ8", "4,096 lists for 40 passages. Fix: use about IVF25"),
        ("PCA48,IVF64,Flat", "64 lists for 40 passages"),
        ("IVF64", "is not a FAISS factory string"),
        ("IDMap,Flat", "numbers the vectors itself"),
    ):
        options = BuildOptions(encoder=encoder_folder, factory=factory)
        with pytest.raises(BuildError, match=message):
            build("dense", small, tmp_path / "index", options, out=io.StringIO())
        assert not list((tmp_path / "index.partial").rglob("vectors.npy"))


def test_a_missing_gpu_is_named(encoder_folder: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for runtime in ("torch", "onnx"):
        with pytest.raises(EncoderError, match=r"cuda:0 is not a usable GPU|is missing"):
            Encoder(encoder_folder, EncoderSpec.of(encoder_folder), runtime, "cuda:0")
