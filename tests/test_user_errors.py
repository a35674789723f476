"""Ordinary faults of files and folders, in every command: one message with the path and what to do, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import identity_server
from support.faults import Command, complaint, files_no_larger_than, without_privileges, write_lines

from benchmarks import step_overhead, wiki18_mini, wiki18_mini_data
from benchmarks.world import __main__ as world_benchmark
from benchmarks.world.compare import COLUMNS
from retriever_server import __main__ as server
from retriever_server import build_index
from sd_search_verl import cli, protocol
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.rollout.retriever_check import check_retriever
from sd_search_verl.world.config import CHECKPOINT

REPO = Path(__file__).resolve().parents[1]
QUESTIONS = [{"question": f"who is {i}?", "golden_answers": [f"{i}"]} for i in range(3)]
PASSAGES = [{"id": str(i), "contents": f'"title {i}"\ntext {i}'} for i in range(3)]
TITLED = [{"doc_id": str(i), "title": f"title {i}", "text": f"text {i}"} for i in range(3)]


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Commands that run in this process may set variables, which must not reach the tests after them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good inputs, which no test changes."""
    folder = tmp_path_factory.mktemp("good")
    write_lines(folder / "questions.jsonl", QUESTIONS)
    write_lines(folder / "corpus.jsonl", PASSAGES)
    write_lines(folder / "titled.jsonl", TITLED)
    form = protocol.get("search_r1")
    rows = [verl_row("s", "own", i, str(i), f"who is {i}?", ["a"], form) for i in range(3)]
    write_parquet(folder / "questions.parquet", rows)
    assert (
        cli.main(["data", "own", "s", str(folder / "questions.jsonl"), "--out", str(folder / "built")]) == 0
    )
    run = folder / "trained"
    run.mkdir()
    write_lines(run / "metrics.jsonl", [{"step": 1, "critic/score/mean": 0.5}])
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
    write_lines(evaluation / "trajectories.jsonl", [row])
    seeds = {metric: {"values": {"0": 1.0}} for metric in scores}
    results = {"protocol_hash": "x", "questions": "y", "sets": {}, "seeds": seeds}
    (evaluation / "results.json").write_text(json.dumps(results))
    traces = [
        {"question": f"who is {i}?", "response": f"<search> {i} </search>", "golden_answers": ["a"]}
        for i in range(3)
    ]
    write_lines(folder / "traces.jsonl", traces)
    (folder / "source" / "nq").mkdir(parents=True)
    write_lines(
        folder / "source" / "nq" / "train.jsonl", [{"id": str(i), **row} for i, row in enumerate(QUESTIONS)]
    )
    (folder / "inputs").mkdir()  # the parts that `local` looks for
    for part in ("corpus.jsonl", "train.parquet", "val.parquet", "model"):
        (folder / "inputs" / part).touch()
    (folder / "wiki").mkdir()
    shutil.copy(folder / "questions.jsonl", folder / "wiki" / "questions_nq.jsonl")
    (folder / "rows.csv").write_text(",".join(COLUMNS) + "\n")
    shutil.copytree(run, folder / "sd-seed0")
    (folder / "sd-seed0" / "world").mkdir()
    (folder / "sd-seed0" / "world" / "oracle.json").write_text('{"relations": {}}')
    return folder


SD = cli.main
ANYWHERE = "http://127.0.0.1:9"

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
        with_fault = complaint(command, arguments)
        assert with_fault
        return
    said = complaint(command, arguments)
    assert str(path) in said or str(path.parent) in said, said


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


def filled(line: str, good: Path, out: Path) -> list[str]:
    return [
        str({"OUT": out, "MODEL": CHECKPOINT}.get(part, good / part if (good / part).exists() else part))
        for part in line.split()
    ]


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only"])
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
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    disk = tmp_path / "disk"
    disk.mkdir()
    many = [{**row, "question": f"{i} {'long ' * 200}"} for i in range(50) for row in QUESTIONS[:1]]
    write_lines(tmp_path / "questions.jsonl", many)
    write_lines(
        tmp_path / "titled.jsonl", [{**TITLED[0], "doc_id": str(i), "text": "x" * 999} for i in range(50)]
    )
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


@pytest.mark.parametrize("name", READ)
def test_a_file_that_may_not_be_read_is_named(good: Path, tmp_path: Path, name: str) -> None:
    command, line, bad = READ[name]
    inputs = shutil.copytree(good, tmp_path / "in")
    (inputs / bad).chmod(0)
    with without_privileges():
        said = complaint(command, read_arguments(inputs, line, bad))
    assert bad.rpartition("/")[2] in said, said
    assert "Permission denied" in said, said


@pytest.mark.parametrize("name", FOLDER_OUT)
def test_a_folder_that_may_not_be_written_is_named(good: Path, tmp_path: Path, name: str) -> None:
    command, line = FOLDER_OUT[name]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with without_privileges():
        said = complaint(command, filled(line, good, closed / "out"))
    assert str(closed / "out") in said, said
    assert "Permission denied. Fix: give one that this user may read and write" in said, said


@pytest.mark.parametrize("part", ["corpus.jsonl", "train.parquet", "val.parquet", "model"])
def test_inputs_of_a_run_without_a_part_are_named(tmp_path: Path, part: str) -> None:
    for name in ("corpus.jsonl", "train.parquet", "val.parquet", "model"):
        if name != part:
            (tmp_path / name).touch()
    run = ["--run", str(tmp_path / "run"), "--config", "cpu_demo"]
    for command, arguments in ((SD, ["local", *run]), (step_overhead.main, [])):
        said = complaint(command, [*arguments, "--inputs", str(tmp_path)])
        assert f"{tmp_path / part} is missing" in said, said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config-dir=/nowhere", "--config-name=mine"], "/nowhere"),
        (["--config-dir=FOLDER", "--config-name=none"], "'none'"),
        (["--config-dir=FOLDER", "--config-name=broken"], "broken"),
        (["--config-name"], "Cannot find primary config ''"),
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
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
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
