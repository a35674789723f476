"""``sd-search data`` and ``corpus`` from a hub over HTTP: huggingface_hub's own client, processes of their own."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_server import LARGE, Hub, serve

from sd_search_verl.data.build import verify
from sd_search_verl.data.corpus import PARTS
from sd_search_verl.data.flashrag import REPOSITORY

CORPUS = f"{PARTS['corpus'].repository}/wiki-18.jsonl.gz"
INDEX = PARTS["e5-index"].repository
KEPT = 10 << 20  # bytes that the client has at once: a break costs at most so many


def questions(name: str, count: int, padding: int = 0) -> bytes:
    rows = [
        {
            "id": f"{name}_{i}",
            "question": f"what is {i}?",
            "golden_answers": [str(i)],
            "metadata": {"context": "x" * padding},
        }
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


PASSAGES = "".join(
    json.dumps({"id": str(i), "contents": f'"T {i}"\n{hash(i)}'}) + "\n" for i in range(20_000)
).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The public layout: small and large question files, the corpus, and the index in two parts."""
    files = {
        f"{REPOSITORY}/bamboogle/test.jsonl": questions("bamboogle", 125),
        f"{REPOSITORY}/musique/dev.jsonl": questions("musique", 2417, padding=6000),
        f"{REPOSITORY}/nq/test.jsonl": questions("nq", 3609),  # one question is missing
        f"{REPOSITORY}/popqa/test.jsonl": questions("popqa", 1000),
        CORPUS: gzip.compress(PASSAGES, 1),
        f"{INDEX}/part_aa": random.Random(1).randbytes(2 * KEPT + 999),
        f"{INDEX}/part_ab": random.Random(2).randbytes(1000),
    }
    assert len(files[f"{REPOSITORY}/bamboogle/test.jsonl"]) < LARGE < len(files[CORPUS])
    with serve(files) as found:
        yield found


def start(hub: Hub, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    line = [sys.executable, "-m", "sd_search_verl.cli", *arguments]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    shown = process.communicate(timeout=120)
    return process.returncode, shown[0] + shown[1]


@pytest.mark.timeout(200)
def test_question_sets_from_a_mirror(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "data"
    musique, popqa = f"{REPOSITORY}/musique/dev.jsonl", f"{REPOSITORY}/popqa/test.jsonl"
    size = len(hub.files[musique])
    hub.breaks[musique] = [KEPT + 5000]  # the client goes on by itself
    build = ["data", "build", "--out", str(out), "--train", "--evaluation", "bamboogle", "musique"]
    code, shown = finish(start(hub, *build, "nq"))
    # The two whole sets are built; the third is not the published one.
    assert code == 1
    assert "has 3609 rows, the published nq test has 3610" in shown
    transfers = [(first, count) for key, first, count in hub.sent if key == musique]
    assert transfers == [(0, KEPT + 5000), (KEPT, size - KEPT)]
    assert (out / "source" / "musique" / "dev.jsonl").read_bytes() == hub.files[musique]
    files = json.loads((out / "manifest.json").read_text())["files"]
    assert {name: file["rows"] for name, file in files.items()} == {
        "eval/bamboogle.parquet": 125,
        "eval/musique.parquet": 2417,
    }
    assert verify(out) == []
    bamboogle = out / "source" / "bamboogle" / "test.jsonl"
    bamboogle.write_bytes(bamboogle.read_bytes() + b"\n")
    assert verify(out) == [
        "source/bamboogle/test.jsonl is not what eval/bamboogle.parquet was made of (sha256)"
    ]
    # A second start asks the hub for nothing that is there.
    hub.sent.clear()
    hub.damaged.add(popqa)
    code, shown = finish(start(hub, *build, "popqa"))
    assert code == 1
    assert [key for key, _, _ in hub.sent] == [popqa]
    assert "eval/musique.parquet is there already: 2417 rows" in shown
    assert "popqa/test.jsonl arrived damaged: its checksum is not the hub's" in shown
    assert list((out / "source" / "popqa").iterdir()) == []


@pytest.mark.timeout(200)
def test_a_killed_download_goes_on(hub: Hub, tmp_path: Path) -> None:
    command = ["corpus", "fetch", "--part", "e5-index", "--out", str(tmp_path), "--yes"]
    first = f"{INDEX}/part_aa"
    size = len(hub.files[first])
    part = tmp_path / "part_aa.part"
    hub.pause = 0.0005
    process = start(hub, *command)
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= KEPT):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()  # SIGKILL
    _, shown = finish(process)
    assert "part_aa 0.0 GB, part_ab 0.0 GB" in shown
    assert "65 GB of memory" in shown
    kept = part.stat().st_size
    assert KEPT <= kept < size

    hub.pause = 0.0
    code, shown = finish(start(hub, *command))
    assert code == 0, shown
    assert hub.sent[-2:] == [(first, kept, size - kept), (f"{INDEX}/part_ab", 0, 1000)]
    assert (tmp_path / "e5_Flat.index").read_bytes() == hub.files[first] + hub.files[f"{INDEX}/part_ab"]
    assert [path.name for path in tmp_path.iterdir()] == ["e5_Flat.index"]


@pytest.mark.timeout(100)
def test_a_part_that_is_longer_than_the_file_is_replaced(hub: Hub, tmp_path: Path) -> None:
    first = f"{INDEX}/part_aa"
    (tmp_path / "part_aa.part").write_bytes(bytes(len(hub.files[first]) + 1))
    command = ["corpus", "fetch", "--part", "e5-index", "--out", str(tmp_path), "--yes"]
    code, shown = finish(start(hub, *command))
    assert code == 0, shown
    assert hub.sent[0] == (first, 0, len(hub.files[first]))
    assert (tmp_path / "e5_Flat.index").read_bytes() == hub.files[first] + hub.files[f"{INDEX}/part_ab"]


@pytest.mark.timeout(100)
def test_the_corpus_is_unpacked(hub: Hub, tmp_path: Path) -> None:
    code, shown = finish(start(hub, "corpus", "fetch", "--out", str(tmp_path), "--yes"))
    assert code == 0, shown
    assert (tmp_path / "wiki-18.jsonl").read_bytes() == PASSAGES
    assert f"build_index --backend bm25 --corpus {tmp_path / 'wiki-18.jsonl'}" in shown
