"""Results that cannot be written, in every command: one message with the path and what to do, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import identity_server
from support.command_inputs import QUESTIONS, REPO, SD, TITLED, filled, write_inputs
from support.faults import Command, complaint, files_no_larger_than, without_privileges, write_lines
from support.own_mounts import OWN_MOUNTS
from support.processes import first_on_path

from benchmarks.data import wiki18_mini, wiki18_mini_data
from benchmarks.world import __main__ as world_benchmark
from retriever_server import __main__ as server
from retriever_server import build_index


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good inputs, which no test changes."""
    return write_inputs(tmp_path_factory.mktemp("good"))


FOLDER_OUT: dict[str, tuple[Command, str]] = {
    "data own": (SD, "data own s questions.jsonl --out OUT"),
    "corpus convert": (SD, "corpus convert titled.jsonl --out OUT"),
    "world build": (SD, "world build --out OUT"),
    "build_index": (build_index.main, "--backend bm25s --corpus corpus.jsonl --index OUT"),
    "evaluate": (SD, "evaluate --model /nowhere --questions questions.jsonl --out OUT"),
    "local": (SD, "local --run OUT --inputs inputs --config cpu_demo"),
    "data build": (SD, "data build --source source --out OUT --train nq --evaluation --any-rows"),
    "lessons": (SD, "lessons MODEL OUT --traces traces.jsonl"),
    "world warmstart": (SD, "world warmstart --out OUT"),
    "world tool-call": (SD, "world tool-call --out OUT"),
    "world compare": (world_benchmark.main, "compare --preset acceptance --out OUT"),
    "wiki18_mini": (wiki18_mini.main, "wiki MODEL --out OUT"),
    "wiki18_mini_data": (wiki18_mini_data.main, "--clone /nowhere --out OUT"),
}
FILE_OUT: dict[str, tuple[Command, str]] = {
    "compare": (SD, "compare evaluation evaluation --out OUT"),
    "report": (SD, "report trained --out OUT"),
    "probe": (SD, "probe MODEL --traces traces.jsonl --json OUT"),
    "world run": (world_benchmark.main, "run sd --out OUT"),
    "world compare": (world_benchmark.main, "compare --preset acceptance --out never --csv OUT"),
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


@pytest.mark.parametrize("place", ["a file", "below a file"])
@pytest.mark.parametrize("name", FOLDER_OUT)
def test_a_folder_that_cannot_be_written_is_named(good: Path, tmp_path: Path, name: str, place: str) -> None:
    command, line = FOLDER_OUT[name]
    out = outputs(tmp_path)[place]
    said = complaint(command, filled(line, good, out))
    assert str(out) in said, said
    assert "Fix: " in said or "exists" in said, said


@pytest.mark.parametrize("place", ["a folder", "below a file", "read-only"])
@pytest.mark.parametrize("name", FILE_OUT)
def test_a_file_that_cannot_be_written_is_named(good: Path, tmp_path: Path, name: str, place: str) -> None:
    if (name, place) == ("report", "a folder"):
        pytest.skip("report.html is written into a folder")
    command, line = FILE_OUT[name]
    out = outputs(tmp_path)[place]
    said = complaint(command, filled(line, good, out))
    assert str(out) in said or str(out.parent) in said, said


@pytest.mark.parametrize("line", ["compare evaluation evaluation --out OUT", "report trained --out OUT"])
def test_a_full_disk_is_one_line(good: Path, line: str) -> None:
    said = complaint(SD, filled(line, good, Path("/dev/full")))
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
    disk = tmp_path / "disk"
    disk.mkdir()
    many = [{**row, "question": f"{i} {'long ' * 200}"} for i in range(50) for row in QUESTIONS[:1]]
    write_lines(tmp_path / "questions.jsonl", many)
    write_lines(
        tmp_path / "titled.jsonl", [{**TITLED[0], "doc_id": str(i), "text": "x" * 999} for i in range(50)]
    )
    _, line = FOLDER_OUT[name]
    command = [sys.executable, "-m", "sd_search_verl.cli", *filled(line, tmp_path, disk)]
    environment = {**os.environ, "PYTHONPATH": first_on_path(REPO)}
    done = subprocess.run(
        [*OWN_MOUNTS, FULL, "sh", str(disk), *command], capture_output=True, text=True, env=environment
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


LARGE: dict[str, tuple[Command, str, int]] = {
    "data own": (SD, "data own s questions.jsonl --out OUT", 1000),
    "data build": (SD, "data build --source source --out OUT --train nq --evaluation --any-rows", 1000),
    "corpus convert": (SD, "corpus convert titled.jsonl --out OUT", 100),
    "world build": (SD, "world build --out OUT", 10_000),
    "model of world build": (SD, "world build --out OUT", 500_000),
    "lessons": (SD, "lessons MODEL OUT --traces traces.jsonl --set steps=1 lessons=1 plain=0", 10_000),
    "report": (SD, "report trained --out OUT", 1000),
    "compare": (SD, "compare evaluation evaluation --out OUT", 100),
    "evaluate": (SD, "evaluate --model MODEL --questions questions.jsonl --out OUT --retriever URL", 100),
    "build_index": (build_index.main, "--backend bm25s --corpus corpus.jsonl --index OUT", 100),
    "world plot": (world_benchmark.main, "plot rows.csv --out OUT", 1000),
}
"""Commands that write more than so many bytes into one file."""


@pytest.mark.parametrize("name", LARGE)
def test_a_disk_without_room_is_one_line(good: Path, tmp_path: Path, name: str) -> None:
    command, line, size = LARGE[name]
    out = tmp_path / "out"
    with identity_server.server(identity_server.READY) as url, files_no_larger_than(size):
        said = complaint(command, [url if part == "URL" else part for part in filled(line, good, out)])
    last = said.splitlines()[-1]
    assert str(out) in last, said
    assert "File too large. Fix: raise the limit" in last, said


@pytest.mark.parametrize("name", FOLDER_OUT)
def test_a_folder_that_may_not_be_written_is_named(good: Path, tmp_path: Path, name: str) -> None:
    command, line = FOLDER_OUT[name]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with without_privileges():
        said = complaint(command, filled(line, good, closed / "out"))
    assert str(closed / "out") in said, said
    assert "Permission denied. Fix: give one that this user may read and write" in said, said
