"""Runs with and without L_SD beside each other: what is paired with what, and what the sentence says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.run_folders import make_run

from sd_search_verl.cli import main
from sd_search_verl.evaluation import paired_runs
from sd_search_verl.evaluation.statistics import t_interval
from sd_search_verl.report.run_names import read_runs

__all__ = ["make_run"]
MakeRun = Callable[..., Path]
ANSWERS = {"answers": ["Jane Austen"]}


def steps(em: Sequence[float], alpha: float) -> list[dict[str, Any]]:
    """One warm-up step, then one per value of ``em``."""
    values = [{"search/em": value, "sd_search/alpha": alpha} for value in em]
    return [{"search/em": 0.9, "sd_search/alpha": 0.0}, *values]


def sentence(*folders: Path) -> str:
    (found,) = paired_runs.sentences(read_runs(folders))
    return found


def test_the_steps_of_one_pair_of_runs_are_no_repetitions(make_run: MakeRun) -> None:
    """Of methods that are equal, an interval over steps would say of half of the pairs that one is better."""
    grpo = make_run("grpo", steps([0.1, 0.2, 0.1, 0.2], 0.0), **ANSWERS)
    sd = make_run("sd", steps([0.3, 0.3, 0.4, 0.3], 0.3), **ANSWERS)
    shown = (
        "sd minus grpo, paired: +17.5 points over 4 steps of one seed; another seed may show the opposite."
    )
    assert sentence(sd, grpo).endswith(shown)


def test_several_seeds_are_compared_over_seeds_whatever_their_steps(make_run: MakeRun) -> None:
    gains = {0: 0.2, 1: 0.1, 3: 0.3}
    folders = [make_run(f"grpo-seed{seed}", steps([0.1, 0.1], 0.0), **ANSWERS) for seed in (0, 1, 2, 3)]
    folders += [
        make_run(f"sd-seed{seed}", steps([0.1, 0.1 + 2 * g], 0.3), **ANSWERS) for seed, g in gains.items()
    ]
    estimate = t_interval(list(gains.values()))
    found = sentence(*folders)
    assert (
        f"{100 * estimate.mean:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}] points over 3 seeds"
        in found
    )
    assert "contains 0" in found
    assert "another seed" not in found


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.1, 0.1, 0.1], "SD-Search is higher"),
        ([-0.1, -0.1, -0.1], "SD-Search is lower"),
        ([0.1, -0.1, 0.0], "do not show which is higher"),
    ],
)
def test_the_verdict_follows_the_interval(make_run: MakeRun, gains: list[float], verdict: str) -> None:
    runs = [make_run(f"grpo-seed{seed}", steps([0.5], 0.0), **ANSWERS) for seed in range(3)]
    runs += [make_run(f"sd-seed{seed}", steps([0.5 + g], 0.3), **ANSWERS) for seed, g in enumerate(gains)]
    assert verdict in sentence(*runs)


def test_runs_that_saw_other_questions_are_not_paired(make_run: MakeRun) -> None:
    grpo = make_run("grpo", steps([0.5], 0.0), **ANSWERS)
    sd = make_run("sd", steps([0.6], 0.3), question="Who wrote Persuasion?", **ANSWERS)
    assert sentence(grpo, sd) == "sd and grpo saw other questions, so there is no paired difference."


def test_runs_without_a_common_seed_or_step_say_so(make_run: MakeRun) -> None:
    grpo = make_run("grpo-seed0", steps([0.5], 0.0))
    assert "no seed in common" in sentence(grpo, make_run("sd-seed1", steps([0.6], 0.3)))
    late = make_run("late-seed0", [{"search/em": 0.1, "sd_search/alpha": 0.0}] * 3 + steps([0.6], 0.3))
    assert "no step with α above 0 in common" in sentence(grpo, late)


def test_reward_stands_in_for_a_missing_exact_match(make_run: MakeRun) -> None:
    grpo = make_run("grpo", [{"critic/score/mean": 0.1, "sd_search/alpha": 0.0}])
    sd = make_run("sd", [{"critic/score/mean": 0.2, "sd_search/alpha": 0.3}])
    assert sentence(grpo, sd).startswith("Reward of training rollouts")


def test_the_metric_is_one_that_every_pair_has(make_run: MakeRun) -> None:
    def values(alpha: float, **metrics: float) -> list[dict[str, float]]:
        return [{"critic/score/mean": 0.1 + alpha, "sd_search/alpha": alpha, **metrics}]

    em = {"search/em": 0.5}
    runs = [make_run("grpo-seed0", values(0.0, **em)), make_run("sd-seed0", values(0.3, **em))]
    runs += [make_run("grpo-seed1", values(0.0)), make_run("sd-seed1", values(0.3, **em))]
    assert sentence(*runs).startswith("Reward of training rollouts")


def test_nothing_is_said_without_one_grpo_series(make_run: MakeRun) -> None:
    sd = make_run("sd", steps([0.6], 0.3))
    assert paired_runs.sentences(read_runs([sd])) == []
    one, other = (make_run(name, steps([0.5], 0.0)) for name in ("grpo", "other"))
    assert paired_runs.sentences(read_runs([one, other, sd])) == []


def test_the_page_and_the_command_show_the_sentence(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grpo, sd = make_run("grpo", steps([0.5], 0.0)), make_run("sd", steps([0.6], 0.3))
    said = sentence(grpo, sd)
    assert main(["report", str(grpo), str(sd), "--out", str(tmp_path / "page.html")]) == 0
    assert said in capsys.readouterr().out
    assert json.dumps(said)[1:-1] in (tmp_path / "page.html").read_text(encoding="utf-8")
