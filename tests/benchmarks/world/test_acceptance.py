"""The acceptance: its plan can run, and each criterion can be missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.svg import COLOURS
from benchmarks.world import __main__ as program
from benchmarks.world import acceptance, arms
from benchmarks.world.__main__ import main
from benchmarks.world.arms import ARMS
from benchmarks.world.experiment import EvaluationRow
from sd_search_verl.errors import UserError
from sd_search_verl.world.config import FitConfig
from sd_search_verl.world.warmstart import WarmStartError


def run(arm: str, seed: int, values: list[float], **more: float) -> list[EvaluationRow]:
    def row(index: int, value: float) -> EvaluationRow:
        base: dict[str, Any] = {"arm": arm, "seed": seed, "device": "test", "step": 7 * index, "cpu_s": 1.0}
        success = {"success": value, "success_one_hop": value, "success_more_hops": value, "p_right": value}
        return EvaluationRow(**base, rollouts=280 * index, **success, **(more if index else {}))

    return [row(index, value) for index, value in enumerate(values)]


def good() -> list[EvaluationRow]:
    rows = []
    for arm, seed in acceptance.plan():
        if arm == "sd":
            rows += run(arm, seed, [0.1, 0.4, 0.6, 0.8], teacher_p_right=0.7, student_p_right=0.4)
        elif arm == "no_block":
            rows += run(
                arm, seed, [0.1, 0.2, 0.4, 0.6], teacher_p_right=0.4, student_p_right=0.4, sd_loss=1e-8
            )
        elif arm in acceptance.FALSE:
            rows += run(
                arm, seed, [0.1, 0.2, 0.3, 0.5], teacher_p_right=0.4, student_p_right=0.4, sd_loss=0.1
            )
        else:
            rows += run(arm, seed, [0.1, 0.2, 0.4, 0.6])
    return rows


def missed(rows: list[EvaluationRow]) -> list[str]:
    return [c.demand for c in acceptance.criteria(rows) if not c.met]


def test_the_plan_is_of_known_arms_and_pairs_every_seed() -> None:
    plan = acceptance.plan()
    assert {arm for arm, _ in plan} <= ARMS.keys()
    assert len(set(plan)) == len(plan)
    baselines = {seed for arm, seed in plan if arm == "grpo"}
    assert len(baselines) == 12
    assert {seed for _, seed in plan} == baselines


def test_every_arm_of_the_plan_has_a_colour_of_its_own() -> None:
    assert len({arm for arm, _ in acceptance.plan()}) <= len(set(COLOURS)) == len(COLOURS)


def test_a_good_comparison_meets_every_bar() -> None:
    assert missed(good()) == []
    assert "MISSED" not in acceptance.verdict(acceptance.criteria(good()))


def changed(arm: str, **values: float) -> list[EvaluationRow]:
    return [replace(row, **values) if row.arm == arm and row.step else row for row in good()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arm", "values", "criterion"),
    [
        ("sd", {"teacher_p_right": 0.49}, "teacher - student: "),
        ("shuffled", {"teacher_p_right": 0.46}, "shuffled labels"),
        ("sd", {"p_right": 0.3}, "gain in p(right)"),
        ("sd", {"success": 0.3}, "log ratio"),
        ("grpo", {"success": 0.55}, "log ratio"),
        ("grpo", {"success": 0.81}, "success at the end"),
        ("flipped", {"p_right": 0.9, "success": 0.9}, "minus flipped's"),
        ("no_block", {"sd_loss": 1e-5}, "JSD at most"),
        ("no_block", {"success": 0.9}, "curve within"),
    ],
)
def test_every_criterion_can_be_missed(arm: str, values: dict[str, float], criterion: str) -> None:
    found = missed(changed(arm, **values))
    assert any(criterion in demand for demand in found), found


def test_a_bar_is_for_the_end_of_the_interval_not_for_the_mean() -> None:
    """The same mean gain, 0.2, with seeds far apart: 0.9 in half of them, -0.5 in the others."""
    rows = [
        replace(row, p_right=row.p_right + (0.7 if row.seed % 2 else -0.7)) if row.arm == "sd" else row
        for row in good()
    ]
    assert [demand for demand in missed(rows) if "gain in p(right)" in demand]


def test_a_missing_arm_is_named() -> None:
    with pytest.raises(UserError, match="no uniform run"):
        acceptance.criteria([row for row in good() if row.arm != "uniform"])


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "START", FitConfig(steps=4, batch=4))
    with pytest.raises(WarmStartError, match="does not copy"):
        acceptance.start(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_is_there_is_kept_if_it_was_made_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(out: Path, *_: object, **__: object) -> str:
        out.mkdir()
        made.append(out)
        return "made"

    monkeypatch.setattr(acceptance, "make_checkpoint", make)  # training takes minutes
    assert acceptance.start(tmp_path) == acceptance.start(tmp_path) == tmp_path / "start"
    assert made == [tmp_path / "start.part"]
    monkeypatch.setattr(acceptance, "HEAD_DIM", 8)
    with pytest.raises(UserError, match=r"start was made in another way.*another --out"):
        acceptance.start(tmp_path)


def test_another_start_has_a_seed_and_comparison_seeds_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def stop(runs: Any, *_: object) -> None:
        asked.append(runs)
        raise UserError("enough")

    monkeypatch.setattr(
        acceptance, "make_checkpoint", lambda out, fit, *_, **__: (out.mkdir(), asked.append(fit))
    )
    monkeypatch.setattr(program, "compare", stop)
    given = [
        "compare",
        "--preset",
        "acceptance",
        "--out",
        str(tmp_path),
        "--start-seed",
        "12",
        "--seeds",
        "492-503",
    ]
    assert main(given) == 1
    fit, plan = asked
    assert fit == acceptance.START.replace(seed=12)
    assert plan == acceptance.plan(range(492, 504))
    assert {seed for arm, seed in plan if arm == "flipped"} == {492, 493, 494, 495}
    assert main(given[:5]) == 1
    assert "made in another way" in capsys.readouterr().err
    assert main(["compare", "grpo", "--seeds", "1", "--start-seed", "12"]) == 1
    assert "--start-seed is of a preset's warm start" in capsys.readouterr().err


def test_alpha_is_that_of_all_arms_that_distil() -> None:
    assert [arms.arm(name, 2.0).method.alpha for name in ("grpo", "sd", "shuffled")] == [0.0, 2.0, 2.0]
    assert arms.arm("sd") is ARMS["sd"]
    with pytest.raises(UserError, match="arm 'sdd' is unknown"):
        arms.arm("sdd")
    with pytest.raises(UserError, match=r"arm\.alpha=-1\.0 must be greater than or equal to 0"):
        arms.arm("sd", -1.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [("steps", "0"), ("questions", "0"), ("group", "1"), ("evaluate-every", "0"), ("learning-rate", "0")],
)
def test_numbers_that_train_nothing_are_named(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "grpo", f"--{option}", value]) == 1
    assert f"--{option}=" in capsys.readouterr().err


def test_arms_and_preset_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["grpo", "--seeds", "1", "--preset", "acceptance"], ["grpo"], ["--seeds", "1"]):
        assert main(["compare", *given]) == 1
        assert "give arms with --seeds, or --preset" in capsys.readouterr().err
    assert main(["compare", "--preset", "acceptance", "--group", "5"]) == 1
    assert "--preset fixes group" in capsys.readouterr().err
    assert main(["compare", "--preset", "acceptance", "--alpha", "0.3"]) == 1
    assert "--preset fixes alpha" in capsys.readouterr().err
