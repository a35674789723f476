"""Disks that fill up: real ones, small file systems in memory that only the build sees."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from support.own_mounts import OWN_MOUNTS, skip_without_own_mounts
from support.processes import wait_until
from support.retrieval_server import get, metric

from retriever_server import manifest as manifests
from retriever_server.backends.bm25 import LuceneIndex
from retriever_server.launcher import serving

ROOT = Path(__file__).resolve().parents[3]
PASSAGES = 2000
# Build on a disk that is too small, enlarge it, build again, bring the index out.
SCRIPT = """
disk=$1 size=$2; shift 2
mount -t tmpfs -o size=${size}k none "$disk" || exit 99
"$@"; echo "first: $?, index: $(ls -d "$disk/index" 2>/dev/null)"
mount -o remount,size=100m "$disk"
"$@"; echo "second: $?"; cp -r "$disk/index" "$disk.out"
"""
SHARDS_OF = "from retriever_server.indexing import bm25; bm25.SHARD_PASSAGES = {}"
ZERO_ENCODER = """
import numpy as np
from retriever_server.indexing import dense
class Spec:
    of = classmethod(lambda cls, *_: cls())
    as_dict = lambda self: {}
class Encoder:
    def __init__(self, _, spec, *__): self.spec = spec
    def passages(self, texts): return np.zeros((len(texts), 1024), np.float32)
dense.EncoderSpec, dense.Encoder = Spec, Encoder
"""


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where the system grants no namespaces or no mounts in them."""
    skip_without_own_mounts(tmp_path_factory.mktemp("mount"))


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages in which no word occurs twice: an index more than half as large as the text."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    with path.open("w") as file:
        for number in range(PASSAGES):
            text = " ".join(f"w{number * 60 + i}x" for i in range(60))
            file.write(json.dumps({"id": f"d{number}", "contents": text}) + "\n")
    return path


def build_twice(corpus: Path, folder: Path, backend: str, kilobytes: int, first: str) -> str:
    """What the script prints; the index is then in ``folder.out``."""
    program = f"{first}\nimport sys; from retriever_server.build_index import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        program,
        "--backend",
        backend,
        "--corpus",
        corpus,
        "--heap-mb",
        "512",
        "--threads",
        "1",
    ]
    command += ["--index", folder / "index", "--encoder", folder]
    folder.mkdir()
    run = subprocess.run(
        [*OWN_MOUNTS, SCRIPT, "sh", folder, str(kilobytes), *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, cwd=ROOT,
    )  # fmt: skip
    assert "Traceback" not in run.stdout
    assert "first: 1, index: \n" in run.stdout, run.stdout
    assert "full. Fix: free some and start again" in run.stdout
    assert "second: 0" in run.stdout, run.stdout
    assert manifests.read(folder.with_suffix(".out")).passages == PASSAGES
    return run.stdout


@pytest.mark.parametrize(
    ("shard", "kilobytes", "stage"),
    [(2000, 1200, "Anserini failed"), (1000, 1700, "Lucene failed to merge")],
)
def test_lucene_on_a_full_disk(
    java: None, namespaces: None, wordy: Path, tmp_path: Path, shard: int, kilobytes: int, stage: str
) -> None:
    printed = build_twice(wordy, tmp_path / "disk", "bm25", kilobytes, SHARDS_OF.format(shard))
    assert stage in printed
    index = LuceneIndex(tmp_path / "disk.out" / "lucene", k1=0.9, b=0.4)
    rows = np.load(tmp_path / "disk.out" / "rows.npy")
    for number in (0, 999, 1000, 1350, PASSAGES - 1):
        [(found, _)] = index.search([f"w{number * 60}x"], 3)
        assert rows[found].tolist() == [number]
    index.close()


@pytest.mark.parametrize(
    ("backend", "kilobytes", "first"), [("bm25s", 1800, ""), ("dense", 6000, ZERO_ENCODER)]
)
def test_other_back_ends_on_a_full_disk(
    namespaces: None, wordy: Path, tmp_path: Path, backend: str, kilobytes: int, first: str
) -> None:
    for package in ("bm25s", "Stemmer"):
        pytest.importorskip(package, reason=f"the bm25s back end needs {package}")
    build_twice(wordy, tmp_path / "disk", backend, kilobytes, first)


def test_a_full_disk_under_the_access_log_costs_its_lines_alone(bm25_index: Path, corpus: Path) -> None:
    arguments = ["--backend", "bm25", "--index", bm25_index, "--corpus", corpus]
    with serving(*arguments, "--access-log", "/dev/full") as server:
        for number in range(20):
            body = json.dumps({"queries": [f"passage{number}"]}).encode()
            with urllib.request.urlopen(server.url + "/retrieve", body, timeout=10) as response:
                assert json.loads(response.read())["result"][0][0]["id"] == f"doc-{number}"
        assert server.stop() == 0
        log = server.log.read_text()
        assert log.count("No space left on device") == 1
        assert "Traceback" not in log


def test_a_corpus_that_changes_under_the_server_gives_errors_not_other_passages(
    bm25_index: Path, corpus: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copy(corpus, tmp_path / "corpus.jsonl"))
    with serving(
        "--backend", "bm25", "--index", bm25_index, "--corpus", copy, "--cache-entries", "0"
    ) as server:

        def ask() -> tuple[int, bytes]:
            body = json.dumps({"queries": ["passage250"]}).encode()
            request = urllib.request.Request(server.url + "/retrieve", body)
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        assert ask()[0] == 200
        os.truncate(copy, copy.stat().st_size // 2)
        for _ in range(3):
            status, answer = ask()
            assert status == 500
            assert b"corpus.jsonl was changed while it is served" in answer
            assert str(tmp_path).encode() not in answer
        with urllib.request.urlopen(server.url + "/health", timeout=10) as response:
            assert response.status == 200

        def ready() -> tuple[int, bytes]:
            try:
                return get(server.url + "/ready")
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        wait_until(lambda: ready()[0] == 500, within_s=10)
        assert b'"corpus.jsonl was changed while it is served' in ready()[1]
        assert f"{copy} was changed while it is served" in server.log.read_text()
        assert metric(server.url, "retriever_ready") == 0
