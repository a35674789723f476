"""Ordinary faults of files and folders, in every command: one message with the path and what to do, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retriever_server import __main__ as server
from retriever_server import build_index
from sd_search_verl import cli, protocol
from sd_search_verl.data.verl_rows import verl_row, write_parquet

REPO = Path(__file__).resolve().parents[1]
QUESTIONS = [{"question": f"who is {i}?", "golden_answers": [f"{i}"]} for i in range(3)]
PASSAGES = [{"id": str(i), "contents": f'"title {i}"\ntext {i}'} for i in range(3)]
TITLED = [{"doc_id": str(i), "title": f"title {i}", "text": f"text {i}"} for i in range(3)]


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good inputs, which no test changes."""
    folder = tmp_path_factory.mktemp("good")
    lines(folder / "questions.jsonl", QUESTIONS)
    lines(folder / "corpus.jsonl", PASSAGES)
    lines(folder / "titled.jsonl", TITLED)
    form = protocol.get("search_r1")
    rows = [verl_row("s", "own", i, str(i), f"who is {i}?", ["a"], form) for i in range(3)]
    write_parquet(folder / "questions.parquet", rows)
    assert (
        cli.main(["data", "own", "s", str(folder / "questions.jsonl"), "--out", str(folder / "built")]) == 0
    )
    run = folder / "run"
    run.mkdir()
    lines(run / "metrics.jsonl", [{"step": 1, "critic/score/mean": 0.5}])
    evaluation = folder / "evaluation"
    evaluation.mkdir()
    scores = {"em": 1.0, "f1": 1.0, "cover_em": 1.0}
    row = {
        "set": "s",
        "id": "0",
        "seed": 0,
        "question": "q",
        **scores,
        "answer": "a",
        "golden_answers": ["a"],
    }
    lines(evaluation / "trajectories.jsonl", [row])
    seeds = {metric: {"values": {"0": 1.0}} for metric in scores}
    results = {"protocol_hash": "x", "questions": "y", "sets": {}, "seeds": seeds}
    (evaluation / "results.json").write_text(json.dumps(results))
    return folder


SD = cli.main

# FILE stands for an input file, DIR for a folder of inputs, OUT for a folder and NEW for a file to write.
READ: dict[str, tuple[Callable[[list[str]], int], str, str]] = {
    "data own": (SD, "data own s FILE --out NEW", "questions.jsonl"),
    "data own parquet": (SD, "data own s FILE --out NEW", "questions.parquet"),
    "data verify": (SD, "data verify DIR", "built/manifest.json"),
    "data verify parquet": (SD, "data verify DIR", "built/s.parquet"),
    "corpus check": (SD, "corpus check FILE", "corpus.jsonl"),
    "corpus convert": (SD, "corpus convert FILE --out NEW", "titled.jsonl"),
    "score": (SD, "score FILE --answer question --golden golden_answers", "questions.jsonl"),
    "compare": (SD, "compare DIR DIR", "evaluation/results.json"),
    "compare trajectories": (SD, "compare DIR DIR", "evaluation/trajectories.jsonl"),
    "report": (SD, "report DIR", "run/metrics.jsonl"),
    "evaluate questions": (SD, "evaluate --model /nowhere --questions FILE --out NEW", "questions.jsonl"),
    "evaluate parquet": (SD, "evaluate --model /nowhere --questions FILE --out NEW", "questions.parquet"),
    "evaluate training": (
        SD,
        "evaluate --model /nowhere --training FILE --questions questions.jsonl --out NEW",
        "built/manifest.json",
    ),
    "build_index": (build_index.main, "--backend bm25s --corpus FILE --index NEW", "corpus.jsonl"),
    "server index": (server.main, "--backend bm25s --port 0 --index DIR", "built/manifest.json"),
}


def without(path: Path) -> None:
    path.unlink()


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def not_utf8(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x80 not text \xc3\x28\n")


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


FAULTS = {fault.__name__: fault for fault in (without, folder_in_its_place, not_utf8, cut_short, empty)}


def complaint(
    command: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture
) -> str:
    """Run a command that must fail; return what it says."""
    capsys.readouterr()
    try:
        status = command(arguments)
    except SystemExit as end:  # argparse's own
        status = 2 if end.code else 0
    shown = capsys.readouterr()
    assert status in (1, 2), shown
    assert "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", READ)
def test_a_bad_input_is_named(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, fault: str
) -> None:
    command, line, bad = READ[name]
    inputs = shutil.copytree(good, tmp_path / "in")
    path = inputs / bad
    FAULTS[fault](path)
    values = {"FILE": path, "DIR": path.parent, "NEW": tmp_path / "new"}
    arguments = [str(values.get(part, part)) for part in line.split()]
    arguments = [str(inputs / part) if part == "questions.jsonl" else part for part in arguments]
    tolerated = {  # a report of whole lines; what was cut is data that nobody can miss, or said to be incomplete
        ("score", "cut_short"): 1,
        ("compare trajectories", "without"): 1,
    }
    if (name, fault) == ("data verify parquet", "without"):
        assert SD(arguments) == 1
        assert "s.parquet is missing" in capsys.readouterr().out
        return
    if name == "data verify parquet":
        assert SD(arguments) == 1  # the checksum tells
        return
    if (name, fault) in tolerated or (name == "evaluate training" and fault == "empty"):
        with_fault = complaint(command, arguments, capsys)
        assert with_fault
        return
    said = complaint(command, arguments, capsys)
    assert str(path) in said or str(path.parent) in said, said


FOLDER_OUT: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "data own": (SD, "data own s questions.jsonl --out OUT"),
    "corpus convert": (SD, "corpus convert titled.jsonl --out OUT"),
    "world build": (SD, "world build --out OUT"),
    "build_index": (build_index.main, "--backend bm25s --corpus corpus.jsonl --index OUT"),
    "evaluate": (SD, "evaluate --model /nowhere --questions questions.jsonl --out OUT"),
    "local": (SD, "local --run OUT --inputs world --config cpu_demo"),
}
FILE_OUT: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "compare": (SD, "compare evaluation evaluation --out OUT"),
    "report": (SD, "report run --out OUT"),
    "server port file": (server.main, "--backend bm25s --port 0 --index built --port-file OUT"),
    "server log": (server.main, "--backend bm25s --port 0 --index built --access-log OUT"),
    "server key": (server.main, "--backend bm25s --port 0 --index built --api-key-file OUT"),
    "server certificate": (
        server.main,
        "--backend bm25s --port 0 --index built --tls-cert OUT --tls-key OUT",
    ),
}


def outputs(folder: Path) -> dict[str, Path]:
    file = folder / "file"
    file.write_text("x")
    return {
        "a file": file,
        "below a file": file / "x",
        "read-only": Path("/sys/sd_search"),
        "a folder": folder,
    }


def filled(line: str, good: Path, out: Path) -> list[str]:
    return [
        str(out) if part == "OUT" else str(good / part) if (good / part).exists() else part
        for part in line.split()
    ]


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
@pytest.mark.parametrize("name", FOLDER_OUT)
def test_a_folder_that_cannot_be_written_is_named(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, place: str
) -> None:
    command, line = FOLDER_OUT[name]
    out = outputs(tmp_path)[place]
    world = tmp_path / "world"  # the parts that `local` looks for
    (world / "model").mkdir(parents=True)
    for part in ("corpus.jsonl", "train.parquet", "val.parquet"):
        (world / part).touch()
    arguments = [
        str(world) if part == "world" and name == "local" else part for part in filled(line, good, out)
    ]
    said = complaint(command, arguments, capsys)
    assert str(out) in said, said
    assert "Fix: " in said or "exists" in said, said


@pytest.mark.parametrize("place", ["a folder", "below a file", "read-only"])
@pytest.mark.parametrize("name", FILE_OUT)
def test_a_file_that_cannot_be_written_is_named(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, place: str
) -> None:
    if (name, place) == ("report", "a folder"):
        pytest.skip("report.html is written into a folder")
    command, line = FILE_OUT[name]
    out = outputs(tmp_path)[place]
    said = complaint(command, filled(line, good, out), capsys)
    assert str(out) in said or str(out.parent) in said, said


@pytest.mark.parametrize("line", ["compare evaluation evaluation --out OUT", "report run --out OUT"])
def test_a_full_disk_is_one_line(good: Path, capsys: pytest.CaptureFixture, line: str) -> None:
    said = complaint(SD, filled(line, good, Path("/dev/full")), capsys)
    assert "/dev/full" in said
    assert "No space left on device. Fix: free some space" in said
    assert said.count("\n") == 1


FULL = """
mount -t tmpfs -o size=8k none "$1" || exit 99
shift; "$@"
"""


@pytest.mark.parametrize("name", ["data own", "corpus convert", "world build"])
def test_a_full_disk_of_a_folder_is_one_line(tmp_path: Path, name: str) -> None:
    """A file system of a few pages, which only the command sees."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    disk = tmp_path / "disk"
    disk.mkdir()
    many = [{**row, "question": f"{i} {'long ' * 200}"} for i in range(50) for row in QUESTIONS[:1]]
    lines(tmp_path / "questions.jsonl", many)
    lines(tmp_path / "titled.jsonl", [{**TITLED[0], "doc_id": str(i), "text": "x" * 999} for i in range(50)])
    _, line = FOLDER_OUT[name]
    command = [sys.executable, "-m", "sd_search_verl.cli", *filled(line, tmp_path, disk)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [*namespace, FULL, "sh", str(disk), *command], capture_output=True, text=True, env=environment
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("the system lets no test mount a file system of its own")
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert last.startswith("sd-search: ")
    assert str(disk) in last
    assert "No space left on device" in last
    assert "Fix: free some space" in last


def test_a_reader_that_stops_early_is_no_error(good: Path) -> None:
    command = f"{sys.executable} -m sd_search_verl.cli compare {good}/evaluation {good}/evaluation | true"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_a_path_may_hold_an_equals_sign(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(good, tmp_path / "lr=1e-3")
    line = ["evaluate", "--model", "/nowhere", "--out", str(tmp_path / "out"), "--set", "sample=2"]
    file = folder / "questions.jsonl"
    for given in (file, f"name={file}", f"={file}"):
        said = complaint(SD, [*line, "--questions", str(given)], capsys)
        assert "/nowhere holds no model" in said, said
    said = complaint(SD, [*line, "--questions", f"{folder}/none.jsonl"], capsys)
    assert f"{folder}/none.jsonl is missing" in said
