"""Faults of input files and arguments, in every command: one message with the path and what to do, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_inputs import ANYWHERE, REPO, SD, filled, write_inputs
from support.faults import Command, complaint, without_privileges
from support.processes import first_on_path

from benchmarks.cost import step_overhead
from benchmarks.data import wiki18_mini
from benchmarks.world import __main__ as world_benchmark
from retriever_server import __main__ as server
from retriever_server import build_index
from sd_search_verl.retriever_client.check import check_retriever
from sd_search_verl.world.config import CHECKPOINT


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good inputs, which no test changes."""
    return write_inputs(tmp_path_factory.mktemp("good"))


# FILE stands for an input file, DIR for a folder of inputs, OUT for a folder and NEW for a file to write.
READ: dict[str, tuple[Command, str, str]] = {
    "data own": (SD, "data own s FILE --out NEW", "questions.jsonl"),
    "data own parquet": (SD, "data own s FILE --out NEW", "questions.parquet"),
    "data verify": (SD, "data verify DIR", "built/manifest.json"),
    "data verify parquet": (SD, "data verify DIR", "built/s.parquet"),
    "corpus check": (SD, "corpus check FILE", "corpus.jsonl"),
    "corpus convert": (SD, "corpus convert FILE --out NEW", "titled.jsonl"),
    "score": (SD, "score FILE --answer question --golden golden_answers", "questions.jsonl"),
    "compare": (SD, "compare DIR DIR", "evaluation/results.json"),
    "compare trajectories": (SD, "compare DIR DIR", "evaluation/trajectories.jsonl"),
    "report": (SD, "report DIR", "trained/metrics.jsonl"),
    "evaluate questions": (SD, "evaluate --model /nowhere --questions FILE --out NEW", "questions.jsonl"),
    "evaluate parquet": (SD, "evaluate --model /nowhere --questions FILE --out NEW", "questions.parquet"),
    "evaluate training": (
        SD,
        "evaluate --model /nowhere --training FILE --questions questions.jsonl --out NEW",
        "built/manifest.json",
    ),
    "data build": (SD, "data build --source UP --out NEW --train nq --evaluation", "source/nq/train.jsonl"),
    "ask training": (SD, "ask who --model MODEL --training FILE", "built/manifest.json"),
    "probe traces": (SD, "probe MODEL --traces FILE", "traces.jsonl"),
    "probe questions": (SD, f"probe MODEL --questions FILE --retriever {ANYWHERE}", "questions.jsonl"),
    "lessons": (SD, "lessons MODEL NEW --traces FILE", "traces.jsonl"),
    "wiki18_mini": (wiki18_mini.main, "DIR MODEL --out NEW", "wiki/questions_nq.jsonl"),
    "world from-runs": (world_benchmark.main, "from-runs UP", "sd-seed0/world/oracle.json"),
    "world plot": (world_benchmark.main, "plot FILE --out NEW", "rows.csv"),
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


def read_arguments(inputs: Path, line: str, bad: str) -> list[str]:
    path = inputs / bad
    values = {
        "FILE": path,
        "DIR": path.parent,
        "UP": path.parents[1],
        "NEW": inputs.with_name("new"),
        "MODEL": CHECKPOINT,
        "questions.jsonl": inputs / "questions.jsonl",
    }
    return [str(values.get(part, part)) for part in line.split()]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", READ)
def test_a_bad_input_is_named(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, fault: str
) -> None:
    command, line, bad = READ[name]
    inputs = shutil.copytree(good, tmp_path / "in")
    path = inputs / bad
    FAULTS[fault](path)
    arguments = read_arguments(inputs, line, bad)
    # The report of these is of whole lines, so that no path stands in it.
    unnamed = {("score", "cut_short"), ("compare trajectories", "without"), ("evaluate training", "empty")}
    if (name, fault) == ("data verify parquet", "without"):
        assert SD(arguments) == 1
        assert "s.parquet is missing" in capsys.readouterr().out
        return
    if name == "data verify parquet":
        assert SD(arguments) == 1  # the checksum tells
        return
    said = complaint(command, arguments)
    assert said
    assert (name, fault) in unnamed or str(path.parent) in said, said


@pytest.mark.parametrize("name", READ)
def test_a_file_that_may_not_be_read_is_named(good: Path, tmp_path: Path, name: str) -> None:
    command, line, bad = READ[name]
    inputs = shutil.copytree(good, tmp_path / "in")
    (inputs / bad).chmod(0)
    with without_privileges():
        said = complaint(command, read_arguments(inputs, line, bad))
    assert bad.rpartition("/")[2] in said, said
    assert "Permission denied" in said, said


@pytest.mark.parametrize("part", ["corpus.jsonl", "train.parquet", "val.parquet", "model"])
def test_inputs_of_a_run_without_a_part_are_named(tmp_path: Path, part: str) -> None:
    for name in ("corpus.jsonl", "train.parquet", "val.parquet", "model"):
        if name != part:
            (tmp_path / name).touch()
    run = ["--run", str(tmp_path / "run"), "--config", "cpu_demo"]
    for command, arguments in ((SD, ["local", *run]), (step_overhead.main, [])):
        said = complaint(command, [*arguments, "--inputs", str(tmp_path)])
        assert f"{tmp_path / part} is missing" in said, said
    assert "Fix: put it there" in complaint(SD, ["local", *run, "--inputs", str(tmp_path)])


def test_inputs_that_are_nowhere_are_advised_to_be_the_demos(tmp_path: Path) -> None:
    command = [
        "local",
        "--run",
        str(tmp_path / "run"),
        "--config",
        "cpu_demo",
        "--inputs",
        str(tmp_path / "none"),
    ]
    said = complaint(SD, command)
    assert f"Fix: `sd-search world build --out {tmp_path / 'none'}` writes the demo's" in said, said
    assert f"--corpus={tmp_path / 'mine'} is missing" in complaint(
        SD, [*command, f"--corpus={tmp_path / 'mine'}"]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config-dir=/nowhere", "--config-name=mine"], "/nowhere"),
        (["--config-dir=FOLDER", "--config-name=none"], "'none'"),
        (["--config-dir=FOLDER", "--config-name=broken"], "broken"),
        (["--config-name"], "--config-name/-cn: expected one argument"),
        (["sd_search.alpha"], "sd_search.alpha"),
    ],
)
def test_what_check_cannot_compose_is_named(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "broken.yaml").write_text("a: [1\nb: }\n")
    said = complaint(SD, ["check", *(part.replace("FOLDER", str(tmp_path)) for part in arguments)])
    assert says in said, said


@pytest.mark.parametrize(
    "command", ["ask who --model MODEL", "evaluate --questions questions.jsonl --model MODEL --out OUT"]
)
@pytest.mark.parametrize(
    "address", ["nonsense", "http://127.0.0.1:9", "http://[::1", "http://h:99999", "ftp://h:1"]
)
def test_a_retriever_that_is_none_is_named(good: Path, tmp_path: Path, command: str, address: str) -> None:
    arguments = filled(command, good, tmp_path / "out")
    said = complaint(
        SD, [*arguments, "--retriever", address, "--set", "search.timeout_s=0.2", "search.max_retries=0"]
    )
    assert address.removeprefix("http://") in said, said


@pytest.mark.parametrize("address", ["nonsense", "http://[::1", "http://h:99999"])
def test_the_doctor_names_an_address_that_is_none(address: str) -> None:
    finding = check_retriever(address)
    assert not finding.ok
    assert finding.fix


def test_a_reader_that_stops_early_is_no_error(good: Path) -> None:
    command = f"{sys.executable} -m sd_search_verl.cli compare {good}/evaluation {good}/evaluation | true"
    environment = {**os.environ, "PYTHONPATH": first_on_path(REPO)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_a_path_may_hold_an_equals_sign(good: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(good, tmp_path / "lr=1e-3")
    line = ["evaluate", "--model", "/nowhere", "--out", str(tmp_path / "out"), "--set", "sample=2"]
    file = folder / "questions.jsonl"
    for given in (file, f"name={file}", f"={file}"):
        said = complaint(SD, [*line, "--questions", str(given)])
        assert "/nowhere holds no model" in said, said
    said = complaint(SD, [*line, "--questions", f"{folder}/none.jsonl"])
    assert f"{folder}/none.jsonl is missing" in said
