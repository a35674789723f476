"""The command that measures on a card, rehearsed on the CPU: table, verdict, failing and slow parts, wrong results."""

from __future__ import annotations

import importlib
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.processes import has_ended

from benchmarks.gpu import bundle, plan, process, results, stack_bundle, verdict
from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.plan import Check, Part
from benchmarks.gpu.process import Outcome
from benchmarks.gpu.results import Row, Run

REPO = Path(__file__).resolve().parents[3]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


def rows_of(out: Path, part: str) -> list[Row]:
    return [row for row in results.read(out) if row.part == part]


def run_of(out: Path, **changes: float) -> Run:
    results.start(out)
    return Run("values", "cpu", 0, out, 100.0, **changes)


def test_a_rehearsal_of_the_cheap_parts_writes_the_table_and_the_verdict(tmp_path: Path) -> None:
    done = command("--rehearse", "--only", "values", "divergence", "head", "--out", tmp_path, "--seed", 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "verdict.txt").read_text() in done.stdout
    rows = results.read(tmp_path)
    assert {row.part for row in rows} == {"values", "divergence", "head"}
    assert {(row.torch, row.seed) for row in rows} == {(torch.__version__, 3)}
    assert all(row.device.startswith("CPU") and row.verl == "0.9.1" for row in rows)
    measured = {(row.part, row.case, row.measure) for row in rows}
    for name in ("divergence", "head"):
        part = PARTS[name]
        assert {(name, check.case, check.measure) for check in part.checks} <= measured
    assert "RIGHT    values: jsd float32: error " in done.stdout
    assert "(bar 1e-05)" in done.stdout
    assert "MET      head: 180 query rows, cost: GB beside GRPO" in done.stdout
    assert "NOT RUN  actor-3b: qwen2.5-3b: part not asked for" in done.stdout
    assert "WRONG 0" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.csv",
        "verdict.txt",
        "log.txt",
        "divergence.csv",
    }


def test_an_injected_error_is_called_wrong(tmp_path: Path) -> None:
    done = command("--rehearse", "--only", "values", "head", "--inject-error", 0.2, "--out", tmp_path)
    assert done.returncode == 1
    assert "WRONG    values: jsd float32" in done.stdout
    assert "WRONG    values: mse bfloat16" in done.stdout
    assert "WRONG    head: 180 query rows" in done.stdout


def test_a_wrong_gradient_in_verls_engine_is_called_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One way of verl's and the bitwise comparison, right and falsified."""
    from benchmarks.gpu import ways
    from benchmarks.gpu.parts import gradients

    monkeypatch.setattr(gradients, "WAYS", ways.WAYS[:1])
    monkeypatch.setattr(gradients, "BITWISE", ways.BITWISE[:1])
    cases = (ways.WAYS[0].name, ways.BITWISE[0].name)
    part = replace(plan.GRADIENTS, checks=[c for c in plan.GRADIENTS.checks if c.case in cases])
    statuses = []
    for error in (0.0, 1e-3):
        gradients.run(replace(run_of(tmp_path, inject_error=error), part=part.name))
        found = verdict.findings([part], results.read(tmp_path), [])
        statuses.append([finding.status for finding in found])
    assert statuses == [["RIGHT", "RIGHT"], ["WRONG", "WRONG"]]


def test_parts_that_fail_or_exceed_their_limit_are_reported_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text("def run(run): run.record('case', 'error', 0.5)\n")
    (tmp_path / "bad.py").write_text(
        "def run(run):\n    run.record('first', 'error', 0.5)\n    raise RuntimeError('broke off')\n"
    )
    (tmp_path / "slow.py").write_text(
        "import subprocess, time\n"
        "def run(run):\n"
        "    run.record('first', 'error', 0.5)\n"
        "    child = subprocess.Popen(['sleep', '60'])\n"
        "    open(run.out / 'child', 'w').write(str(child.pid))\n"
        "    time.sleep(60)\n"
    )
    out = tmp_path / "out"
    checks = [Check("first", "error", 1.0), Check("second", "error", 1.0)]
    parts = [
        Part("bad", "", "bad", 60, checks),
        Part("slow", "", "slow", 15, checks),
        Part("good", "", "good", 60, [Check("case", "error", 1.0, right=True)]),
    ]
    run = run_of(out)
    values = process.environment(rehearse=True, paths=[tmp_path])
    outcomes = [
        outcome
        for part in parts
        for outcome in process.run_side_by_side([(part, values)], run, seconds_left=99)
    ]
    assert [outcome.state for outcome in outcomes] == [
        "failed: RuntimeError: broke off",
        "ended at its limit",
        "ok",
    ]
    found = verdict.findings(parts, results.read(out), outcomes)
    assert [(finding.case, finding.status) for finding in found] == [
        ("first", "MET"),
        ("second", "NOT RUN"),
        ("first", "MET"),
        ("second", "NOT RUN"),
        ("case", "RIGHT"),
    ]
    text = verdict.page("title", found, results.read(out), outcomes)
    assert "NOT RUN  bad: second: part failed: RuntimeError: broke off" in text
    assert "NOT RUN  slow: second: part ended at its limit" in text
    assert verdict.exit_code(found, outcomes) == 1
    assert "RuntimeError: broke off" in (out / process.LOG).read_text()
    assert has_ended(int((out / "child").read_text()))


def test_without_time_a_part_is_not_started(tmp_path: Path) -> None:
    done = process.run_side_by_side([(PARTS["values"], {})], run_of(tmp_path), seconds_left=5)
    assert [outcome.state for outcome in done] == ["not started"]
    found = verdict.findings([PARTS["values"]], [], done)
    assert {finding.status for finding in found} == {"NOT RUN"}
    assert found[0].text == "part not started"
    assert verdict.exit_code(found, done) == 0


def row(case: str, measure: str, value: float, state: str = "measured", detail: str = "") -> Row:
    return Row("", "", "", "", "", "", 0, "part", case, measure, value, state, detail)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([row("x", "error", 1.0)], "MET"),
        ([row("x", "error", 1.001)], "MISSED"),
        ([row("x", "error", float("nan"))], "MISSED"),
        ([row("x", "error", float("inf"))], "MISSED"),
        ([row("x", "error", 0.5, "incomplete")], "NOT RUN"),
        ([row("x", "error", 1.5, "incomplete")], "MISSED"),
        ([row("x", "", float("nan"), "failed", "out of memory")], "FAILED"),
        ([row("x", "", float("nan"), "not run", "needs a card")], "NOT RUN"),
        ([], "NOT RUN"),
    ],
    ids=str,
)
def test_a_figure_meets_its_bar_or_not(rows: list[Row], status: str) -> None:
    part = Part("part", "", "", 1, [Check("x", "error", 1.0)])
    (found,) = verdict.findings([part], rows, [Outcome("part", "ok", 1.0, 2.0)])
    assert found.status == status


def test_the_plan_holds_the_bars() -> None:
    bars = {(part.name, check.measure): check.bar for part in PARTS.values() for check in part.checks}
    for part in ("actor-3b", "actor-7b", "actor-3b-fsdp1"):
        assert bars[part, plan.RATIO] == 1.10
        assert bars[part, plan.TEACHER] == 1.3
        assert bars[part, plan.LOSS] == 0.02
        assert bars[part, plan.BESIDE] == 1.0
        assert bars[part, plan.PEAK] == 80.0
    assert bars["divergence", plan.SECONDS] == bars["divergence", plan.MEMORY] == 1.0
    gradients = {check.case: check.bar for check in PARTS["gradients"].checks}
    assert {bar for case, bar in gradients.items() if "fp32" in case and "alpha" not in case} == {1e-5}
    assert {bar for case, bar in gradients.items() if "bf16" in case and "alpha" not in case} == {0.05}
    assert {bar for case, bar in gradients.items() if "alpha = 0" in case} == {0.0}
    assert all((REPO / target).exists() for target in plan.TESTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_command_stops_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "no card" in (said := capsys.readouterr().out)
    assert "--rehearse" in said


def test_the_list_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PARTS)


def test_every_package_of_the_bundle_is_pinned() -> None:
    version = bundle.pins()
    for name in (*bundle.VERL, *bundle.COMPARED, bundle.SOURCE_ONLY, "ray", "flash-attn"):
        assert version[name]


def test_a_stripped_wheel_lacks_what_it_shall(tmp_path: Path) -> None:
    wheel = tmp_path / "ray-1.0-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ray/__init__.py", "x = 1")
        archive.writestr("ray/jars/big.jar", "java")
        archive.writestr("ray-1.0.dist-info/RECORD", "ray/__init__.py,,\nray/jars/big.jar,,\n")
    (tmp_path / "out").mkdir()
    stripped = zipfile.ZipFile(bundle.strip(wheel, tmp_path / "out", bundle.RAY_WITHOUT))
    assert stripped.namelist() == ["ray/__init__.py", "ray-1.0.dist-info/RECORD"]
    assert stripped.read("ray-1.0.dist-info/RECORD") == b"ray/__init__.py,,\n"


def test_the_stand_in_for_flash_attn_is_attention_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the part that checks the real one on a card."""
    from benchmarks.gpu.parts import values

    monkeypatch.syspath_prepend(bundle.NAMES)
    monkeypatch.setattr(values, "installed", lambda name: "here")
    values._packed_attention(run_of(tmp_path))
    (found,) = rows_of(tmp_path, "values")
    assert found.value < plan.BF16


def test_the_stand_in_for_flash_attn_refuses_what_it_does_not_compute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(bundle.NAMES)
    attention = importlib.import_module("flash_attn").flash_attn_func
    rows, longer = torch.zeros(1, 2, 1, 8), torch.zeros(1, 3, 1, 8)
    with pytest.raises(NotImplementedError, match="2 queries and 3 keys"):
        attention(rows, longer, longer)
    for option in ({"dropout_p": 0.1}, {"window_size": (4, 0)}, {"softcap": 30.0}):
        with pytest.raises(NotImplementedError, match="dropout"):
            attention(rows, rows, rows, **option)


def fat_binary(*entries: tuple[int, int, bytes]) -> bytes:
    """Return a container of machine code as nvcc writes it: kind (1 PTX, 2 ELF), architecture, payload."""
    inside = b""
    for kind, card, payload in entries:
        head = struct.pack("<HHIQIIHHI", kind, 0x101, 64, len(payload), 0, 0, 0, 0, card)
        inside += head.ljust(64, b"\0") + payload
    return struct.pack("<IHHQ", stack_bundle.FATBIN, 1, 16, len(inside)) + inside


def test_a_library_keeps_the_code_of_one_card() -> None:
    def filled(kept: bytes, size: int) -> bytes:
        return kept.ljust(size, b"\0")

    mark = struct.pack("<I", stack_bundle.FATBIN)  # in ordinary data, too
    of_all = fat_binary((2, 80, b"old card"), (2, 90, b"this card"), (1, 90, b"ptx"), (2, 90, b"sm_90a"))
    to_compile = fat_binary((2, 120, b"new card"), (1, 80, b"ptx"), (1, 100, b"newer"))
    of_others = fat_binary((2, 75, b"old card"))
    library = b"".join((b"head", mark, b"data", of_all, b"between", to_compile, of_others, b"tail"))
    of_one = filled(fat_binary((2, 90, b"this card"), (2, 90, b"sm_90a")), len(of_all))
    compiled = filled(fat_binary((1, 80, b"ptx")), len(to_compile))
    expected = b"".join((b"head", mark, b"data", of_one, b"between", compiled, of_others, b"tail"))
    assert stack_bundle.keep_architecture(library, 90) == expected


def test_wheels_are_laid_into_folders_that_can_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_bundle, "PART_BYTES", 100)
    wheels = []
    for name, size in (("a", 90), ("b", 60), ("c", 30), ("d", 20)):
        wheels.append(tmp_path / f"{name}.whl")
        wheels[-1].write_bytes(bytes(size))
    folders = stack_bundle.lay_out(wheels, tmp_path / "out")
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [
        ["a.whl"],
        ["b.whl", "c.whl"],
        ["d.whl"],
    ]


@pytest.mark.slow
def test_the_rehearsal_of_a_whole_run(tmp_path: Path) -> None:
    done = command("--rehearse", "--only", "stack", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RIGHT    stack: whole run: error 0 (bar 0); 10 steps" in done.stdout
    assert "RIGHT    stack: teacher in a whole run: error 0" in done.stdout
