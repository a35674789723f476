"""Two evaluations of the same questions, paired."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import pytest
from support.saved_evaluation import save

from sd_search_verl.cli import main
from sd_search_verl.evaluation.compare import compare, read_run

DRAW = random.Random(0)
BEFORE = {"nq": [int(DRAW.random() < 0.3) for _ in range(200)], "bamboogle": [0, 0, 1, 0]}
AFTER = {name: [em or int(DRAW.random() < 0.2) for em in ems] for name, ems in BEFORE.items()}


def test_questions_are_paired_by_id_not_by_line(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", BEFORE), save(tmp_path / "b", AFTER, shuffled=True)
    result = compare([read_run(a)], [read_run(b)])
    differences = [after - before for before, after in zip(BEFORE["nq"], AFTER["nq"], strict=True)]
    found = result["metrics"]["em"]["sets"]["nq"]
    assert found["mean"] == pytest.approx(fmean(differences))
    assert found["low"] > 0  # nothing got worse
    assert {(q["set"], q["id"]) for q in result["changed"]} == {
        (name, str(i))
        for name in BEFORE
        for i, (x, y) in enumerate(zip(BEFORE[name], AFTER[name], strict=True))
        if x != y
    }
    assert result["warnings"] == []
    macro = fmean(fmean(AFTER[n]) - fmean(BEFORE[n]) for n in BEFORE)
    assert result["metrics"]["em"]["macro"]["mean"] == pytest.approx(macro)


def test_the_text_holds_every_set_both_averages_and_the_questions_that_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = save(tmp_path / "a", {"nq": [0, 0, 1, 1], "bamboogle": [0, 1]})
    b = save(tmp_path / "b", {"nq": [1, 0, 1, 0], "bamboogle": [1, 1]})
    assert main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    em, f1, cover, changed, *_ = shown.split("\n\n")[1:]
    assert em.splitlines() == [
        "EM             n     A      B                 B - A",
        "-------------  -  ----  -----  --------------------",
        "nq             4  50.0   50.0   +0.0 [-75.0, +75.0]",
        "bamboogle      2  50.0  100.0  +50.0 [+0.0, +100.0]",
        "macro average  6               +25.0 [-25.0, +75.0]",
        "micro average  6               +16.7 [-33.3, +66.7]",
    ]
    assert [part.split()[0] for part in (f1, cover)] == ["F1", "cover-EM"]
    assert changed.splitlines()[:11] == [
        "2 questions gained in EM (B is right more often than A)",
        *("  nq/0  q0", "    A: x  B: x", "    golden: g"),
        *("  bamboogle/0  q0", "    A: x  B: x", "    golden: g"),
        "1 questions lost in EM (A is right more often than B)",
        *("  nq/3  q3", "    A: x  B: x", "    golden: g"),
    ]
    one = save(tmp_path / "one", {"nq": [0, 0, 1, 1]})
    assert main(["compare", str(one), str(one)]) == 0
    assert "average" not in capsys.readouterr().out


def test_of_several_seeds_the_answers_shown_are_those_that_differ(tmp_path: Path) -> None:
    sides = {"wrong": save(tmp_path / "wrong", {"s": [0]}), "right": save(tmp_path / "right", {"s": [1]})}
    for answer, folder in sides.items():
        file = folder / "trajectories.jsonl"
        file.write_text(file.read_text().replace('"answer": "x"', f'"answer": "{answer}"'))
    wrong, right = (read_run(folder) for folder in sides.values())
    ((gained,), (lost,)) = (
        compare(*pair)["changed"]
        for pair in (([wrong, wrong], [wrong, right]), ([wrong, right], [wrong, wrong]))
    )
    assert (gained["difference"], gained["a"], gained["b"]) == (0.5, "wrong", "right")
    assert (lost["difference"], lost["a"], lost["b"]) == (-0.5, "right", "wrong")


def test_a_negative_number_of_questions_to_list_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b", "--changed", "-1"]) == 1
    assert "--changed=-1 must be at least 0" in capsys.readouterr().err


def test_questions_without_ids_are_paired_by_text(tmp_path: Path) -> None:
    """Their ids are line numbers, which name other questions in a file of another order."""
    a = save(tmp_path / "a", {"s": [1, 0, 0]}, texts=["Linus?", "Oscar?", "Nora?"])
    b = save(tmp_path / "b", {"s": [0, 0, 1, 1]}, texts=["Boris?", "Nora?", "Oscar?", "Oscar?"])
    result = compare([read_run(a)], [read_run(b)])
    found = result["metrics"]["em"]["sets"]["s"]
    assert (found["n"], found["a"], found["b"]) == (2, 0.0, 0.5)
    assert [(q["id"], q["question"], q["difference"]) for q in result["changed"]] == [("Oscar?", "Oscar?", 1)]
    assert any("paired by text" in warning for warning in result["warnings"])
    # Questions that a set asks twice are paired one by one.
    twice = compare(
        [read_run(b)], [read_run(save(tmp_path / "c", {"s": [1, 0]}, texts=["Oscar?", "Oscar?"]))]
    )
    assert twice["metrics"]["em"]["sets"]["s"]["n"] == 2


def test_nothing_changed(tmp_path: Path) -> None:
    a = read_run(save(tmp_path / "a", BEFORE))
    result = compare([a], [a])
    assert result["changed"] == []
    assert result["metrics"]["f1"]["micro"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 204}


def test_several_seeds_a_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [[DRAW.randint(0, 1) for _ in range(50)] for _ in range(6)]
    folders = [str(save(tmp_path / str(i), {"nq": run})) for i, run in enumerate(runs)]
    out = tmp_path / "compared.json"
    assert main(["compare", *folders[:3], "--with", *folders[3:], "--out", str(out)]) == 0
    means = [fmean(run) for run in runs]
    difference = fmean(means[3:]) - fmean(means[:3])
    result = json.loads(out.read_text())
    assert result["metrics"]["em"]["sets"]["nq"]["mean"] == pytest.approx(difference)
    assert result["metrics"]["em"]["spread"]["a"]["sd"] == pytest.approx(stdev(means[:3]))
    spread = f"{100 * fmean(means[:3]):.1f} ± {100 * stdev(means[:3]):.1f}"
    shown = capsys.readouterr().out
    assert f"A: macro average {spread} (s.d. of 3 runs)" in shown
    pairs = result["metrics"]["em"]["over_runs"]["macro"]
    half = 4.303 * stdev(b - a for a, b in zip(means[:3], means[3:], strict=True)) / 3**0.5
    assert pairs["n"] == 3
    assert pairs["mean"] == pytest.approx(difference)
    assert pairs["high"] - pairs["mean"] == pytest.approx(half, rel=1e-3)
    assert result["metrics"]["em"]["over_runs"]["sets"]["nq"] == pytest.approx(pairs)
    assert f"[{100 * pairs['low']:+.1f}, {100 * pairs['high']:+.1f}]" in shown
    assert "over 3 pairs of runs" in shown


def shown_of(a: Sequence[Path], b: Sequence[Path], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The lines above the tables, and the first of these with what stands under it."""
    assert main(["compare", *map(str, a), "--with", *map(str, b)]) == 0
    above, first, *_ = capsys.readouterr().out.split("\n\n")
    return above, first


def test_the_text_says_what_each_interval_covers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over questions: with these very runs. Over runs: a column of its own, where both sides have several."""
    ems = ([0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 1])
    runs = [save(tmp_path / str(i), {"nq": em, "bamboogle": [em[0], 1]}) for i, em in enumerate(ems)]
    over_questions = (
        "95% bootstrap interval over questions: what other questions would give with these very runs, "
        "not what other trainings would"
    )
    above, one = shown_of(runs[:1], runs[2:3], capsys)
    assert over_questions in above
    assert "give several runs of other seeds on both sides" in above
    assert "over" not in one

    above, paired = shown_of(runs[:2], runs[2:4], capsys)
    assert over_questions in above
    assert "over 2 pairs of runs: 95% t interval, what other trainings would give" in above
    assert "other seeds" not in above
    assert paired.splitlines() == [
        "EM             n     A     B                 B - A    over 2 pairs of runs",
        "-------------  -  ----  ----  --------------------  ----------------------",
        "nq             4  37.5  75.0  +37.5 [-25.0, +87.5]  +37.5 [-121.3, +196.3]",
        "bamboogle      2  50.0  75.0   +25.0 [+0.0, +50.0]  +25.0 [-292.6, +342.6]",
        "macro average  6               +31.2 [+0.0, +62.5]  +31.2 [-207.0, +269.5]",
        "micro average  6               +33.3 [-8.3, +66.7]  +33.3 [-178.4, +245.1]",
        "A: macro average 43.8 ± 8.8 (s.d. of 2 runs)",
        "B: macro average 75.0 ± 35.4 (s.d. of 2 runs)",
    ]

    above, welch = shown_of(runs[:2], runs[2:], capsys)
    assert "over 2 and 3 runs: 95% t interval" in above
    assert welch.splitlines()[0].endswith("  over 2 and 3 runs")


def test_a_set_that_a_run_lacks_has_no_interval_over_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = [save(tmp_path / str(i), {"nq": [0, 1], "bamboogle": [i % 2, 1]}) for i in range(3)]
    _, shown = shown_of([*whole[:1], save(tmp_path / "part", {"nq": [1, 1]})], whole[1:], capsys)
    assert shown.splitlines()[3].split()[-1] == "-"


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = save(tmp_path / "a", {"nq": [1]})
    b = save(tmp_path / "b", {"popqa": [1]}, protocol="p2")
    assert main(["compare", str(a), str(b)]) == 1
    assert "no question in common" in capsys.readouterr().err
    assert main(["compare", str(a)]) == 1
    assert main(["compare", str(a), str(tmp_path)]) == 1
    assert "no evaluation has finished" in capsys.readouterr().err
    c = save(tmp_path / "c", {"nq": [0]}, protocol="p2", top_k=5, index="b2")
    assert main(["compare", str(a), str(c)]) == 0
    shown = capsys.readouterr().out
    assert "warning: the evaluations have different protocols (p1, p2)" in shown
    assert "warning: the evaluations have different options: search.top_k" in shown
    assert (
        'warning: the evaluations have different retrievers ({"version": "a1"}, {"version": "b2"})' in shown
    )
    assert "1 questions lost in EM" in shown
    assert shown.startswith(f"A: {a}\nB: {c}\n")


def test_questions_of_one_side_alone_are_counted(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a", {"s": [1, 0, 1, 1]}), save(tmp_path / "b", {"s": [1, 0]})
    result = compare([read_run(a)], [read_run(b)])
    assert result["metrics"]["em"]["spread"]["a"]["values"] == [0.5]  # 0.75 with those that B was not asked
    assert "2 questions of A and 0 of B are not in the other, and not compared" in result["warnings"]
    assert result["metrics"]["em"]["sets"]["s"]["n"] == 2


def test_questions_give_the_terminal_no_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["who\x1b]0;owned\x07\x9b2J"]
    a, b = (save(tmp_path / name, {"nq": [em]}, texts=texts) for name, em in (("a", 0), ("b", 1)))
    assert main(["compare", str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "who\ufffd]0;owned" in said
    assert all(line.isprintable() for line in said.splitlines())
