"""Dense, hybrid, bm25s and remote back ends, on a small corpus with a real encoder."""

import io
import json
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from retriever_server import manifest as manifests
from retriever_server.app import make_app
from retriever_server.backends.bm25_small import top_rows
from retriever_server.backends.dense import ApproximateIndex, DenseRanker, FlatScan, HalfPrecisionScan
from retriever_server.backends.hybrid import fuse
from retriever_server.build_index import build
from retriever_server.building import approximate
from retriever_server.building.base import BuildError, BuildOptions
from retriever_server.encoder import Encoder, EncoderError, EncoderSpec
from retriever_server.process import serving
from retriever_server.serve import bind, url_of
from retriever_server.settings import Settings

QUERIES = [
    "a passage on castles",
    "passage7 comet",
    "merchant at the harbour",
    "glacier",
    "",
    "violin library",
]


def ask(url: str, queries: list[str], topk: int = 3) -> list[list[tuple[str, float]]]:
    body = json.dumps({"queries": queries, "topk": topk, "return_scores": True}).encode()
    with urllib.request.urlopen(url + "/retrieve", body, timeout=60) as response:
        results: list[list[dict[str, Any]]] = json.loads(response.read())["result"]
    return [[(item["document"]["id"], item["score"]) for item in items] for items in results]


@contextmanager
def running(backend: str, **settings: Any) -> Iterator[str]:
    """A server in a thread of this process (a process of its own would import torch again); its URL."""
    ready = threading.Event()
    sock = bind("127.0.0.1", 0)
    app = make_app(Settings(backend, **settings), ready.set, ready.set)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        assert ready.wait(60)
        if app.state.server.error is not None:
            raise app.state.server.error
        yield url_of(sock)
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()


@pytest.fixture(scope="module")
def small(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 passages."""
    path = tmp_path_factory.mktemp("small") / "corpus.jsonl"
    path.write_text("".join(corpus.read_text().splitlines(keepends=True)[:40]))
    return path


@pytest.fixture(scope="module")
def hybrid_index(
    java: None, encoder_folder: Path, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    index = tmp_path_factory.mktemp("hybrid") / "index"
    build("hybrid", small, index, BuildOptions(heap_mb=512, encoder=encoder_folder), out=io.StringIO())
    return index


@pytest.fixture(scope="module")
def dense_index(hybrid_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense half of the hybrid index as an index of its own."""
    index = tmp_path_factory.mktemp("dense") / "index"
    shutil.copytree(hybrid_index, index, ignore=shutil.ignore_patterns("lucene", "rows.npy", "manifest.json"))
    found = manifests.read(hybrid_index)
    manifests.write(index, manifests.Manifest(**{**vars(found), "backend": "dense", "files": {}}))
    return index


@pytest.fixture(scope="module")
def dense(dense_index: Path, encoder_folder: Path, small: Path) -> Iterator[str]:
    with running("dense", index=dense_index, corpus=small, encoder=encoder_folder) as url:
        yield url


def brute_force(
    index: Path, encoder: Encoder, queries: list[str], topk: int
) -> list[list[tuple[str, float]]]:
    vectors = np.load(index / "vectors.npy").astype(np.float64)
    scores = encoder.queries(queries).astype(np.float64) @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    return [
        [(f"doc-{row}", float(score[row])) for row in best] for best, score in zip(rows, scores, strict=True)
    ]


def test_dense_equals_brute_force(dense: str, dense_index: Path, encoder_folder: Path) -> None:
    encoder = Encoder(encoder_folder, EncoderSpec.of(encoder_folder))
    queries = [query for query in QUERIES if query]
    expected = brute_force(dense_index, encoder, queries, 5)
    for ours, theirs in zip(ask(dense, queries, 5), expected, strict=True):
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-6)


def test_blank_queries_and_large_topk(dense: str) -> None:
    blank, all_of_them = ask(dense, ["", "castle"], 100)
    assert blank == []
    assert len(all_of_them) == 40
    assert len({name for name, _ in all_of_them}) == 40


class _FixedEncoder:
    """Vectors instead of texts: query ``i`` is the vector ``i``."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def queries(self, texts: list[str]) -> np.ndarray:
        return self._vectors[[int(text) for text in texts]]


def unit(rng: np.random.Generator, count: int, width: int = 64) -> np.ndarray:
    vectors = rng.standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["flat", "half", "SQ8", "IVF8,Flat", "HNSW16"])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_every_scan_agrees_with_float64(kind: str, batch: int, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    rng = np.random.default_rng(0)
    stored, queries = unit(rng, 3000), unit(rng, batch)
    if kind == "flat":
        scan: Any = FlatScan(stored)
        scan.scores = 7000  # several blocks
    elif kind == "half":
        scan = HalfPrecisionScan(stored, "cpu", 1.0)
        scan.block = 1000
    else:
        approximate.build(stored, kind, "", tmp_path, tmp_path / "index", lambda done, total: None)
        scan = ApproximateIndex(tmp_path / "index", effort=256)
    ranker = DenseRanker(_FixedEncoder(queries), stored, scan)  # type: ignore[arg-type]
    found = ranker.rank([str(i) for i in range(batch)], 3)
    scores = queries.astype(np.float64) @ stored.T.astype(np.float64)
    expected = np.argsort(-scores, axis=1)[:, :3]
    same = np.mean(
        [[row for row, _ in hits] == list(best) for hits, best in zip(found, expected, strict=True)]
    )
    assert same == 1.0 if kind != "HNSW16" else same > 0.9


def test_a_stopped_approximate_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    monkeypatch.setattr(approximate, "ADD", 500)
    monkeypatch.setattr(approximate, "KEEP_EVERY_S", 0.0)
    stored = unit(np.random.default_rng(0), 3000)
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        approximate.build(stored, "IVF8,Flat", "e5", tmp_path, tmp_path / "index", progress)
    assert not (tmp_path / "index").exists()
    monkeypatch.setattr(approximate, "_trained", lambda *_: pytest.fail("trained again"))
    approximate.build(stored, "IVF8,Flat", "e5", tmp_path, tmp_path / "index", progress)
    assert seen == [500, 1000, 1500, 1500, 2000, 2500, 3000]
    monkeypatch.undo()
    approximate.build(stored, "IVF8,Flat", "other", tmp_path, tmp_path / "whole", lambda done, total: None)
    found, whole = (faiss.read_index(str(tmp_path / name)) for name in ("index", "whole"))
    assert all(
        np.array_equal(a, b) for a, b in zip(found.search(stored, 3), whole.search(stored, 3), strict=True)
    )


def test_missing_hits_never_become_other_passages() -> None:
    stored = unit(np.random.default_rng(0), 10)

    class Few:
        def propose(self, vectors: np.ndarray, count: int) -> np.ndarray:
            return np.array([[4, -1, -1]])

    ranker = DenseRanker(_FixedEncoder(stored), stored, Few())  # type: ignore[arg-type]
    assert [row for row, _ in ranker.rank(["4"], 3)[0]] == [4]


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


def test_hybrid_fuses_both_rankings(
    hybrid_index: Path, dense: str, encoder_folder: Path, small: Path
) -> None:
    settings: dict[str, Any] = {"index": hybrid_index, "corpus": small, "encoder": encoder_folder}
    with running("hybrid", fusion_depth=20, **settings) as url:
        ours = ask(url, ["passage7 comet"], 5)[0]
    semantic = ask(dense, ["passage7 comet"], 20)[0]
    with (
        pytest.raises(manifests.IndexMismatchError, match="built for --backend hybrid"),
        running("bm25", **settings),
    ):
        pass
    ranks = {name: rank for rank, (name, _) in enumerate(semantic, start=1)}
    assert ours[0][0] == "doc-7"
    assert ours[0][1] == pytest.approx(1 / 61 + 1 / (60 + ranks["doc-7"]))


def test_fusion_by_hand() -> None:
    fused = fuse([[(1, 9.0), (2, 8.0)], [(2, 0.5), (3, 0.4)]], 2)
    assert fused == [(2, pytest.approx(1 / 62 + 1 / 61)), (1, pytest.approx(1 / 61))]


def test_another_encoder_is_refused(
    dense_index: Path, encoder_folder: Path, small: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    with (other / "model.safetensors").open("rb+") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    settings = {"index": dense_index, "corpus": small, "encoder": other}
    with pytest.raises(manifests.IndexMismatchError, match="other weights"), running("dense", **settings):
        pass
    with pytest.raises(EncoderError, match=r"has no config.json"):
        EncoderSpec.of(tmp_path)


def test_a_stopped_encoding_goes_on(encoder_folder: Path, small: Path, tmp_path: Path) -> None:
    from retriever_server.building import dense as builder

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
    for wrong, message in (
        (theirs[:-1], "has 39 vectors of 384 numbers; the corpus has 40"),
        (theirs[::-1], "passage 0 has another vector"),
    ):
        with pytest.raises(BuildError, match=message):
            build("dense", small, tmp_path / "wrong", flat(wrong), out=io.StringIO())
    options = BuildOptions(encoder=encoder_folder, vectors=small)
    with pytest.raises(BuildError, match="is not a FAISS index"):
        build("dense", small, tmp_path / "wrong", options, out=io.StringIO())


def test_bm25s_serves_without_java(small: Path, tmp_path: Path) -> None:
    for package in ("bm25s", "Stemmer"):
        pytest.importorskip(package, reason=f"the bm25s back end needs {package}")
    build("bm25s", small, tmp_path / "index", BuildOptions(), out=io.StringIO())
    with running("bm25s", index=tmp_path / "index", corpus=small) as url:
        found = ask(url, ["passage7 comet", "", "zzz", "the of"], 3)
        assert found[0][0][0] == "doc-7"
        assert found[1:] == [[], [], []]
        assert len(ask(url, ["castle river"], 100)[0]) <= 40


def test_top_rows_against_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 5, 200):
        scores = rng.integers(0, 6, size).astype(np.float32)
        for topk in (1, 3, 10):
            expected = sorted(range(size), key=lambda row: (-scores[row], row))[:topk]
            assert list(top_rows(scores, topk)) == expected
