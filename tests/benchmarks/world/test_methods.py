"""The comparison of methods: rates of tuning seeds, bars that can be missed, files of several settings."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.world import methods, methods_table
from benchmarks.world.arms import ARMS
from benchmarks.world.compare import cells
from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.methods_table import Verdict
from benchmarks.world.summary import summarize
from sd_search_verl.errors import UserError


def curve(arm: str, seed: int, successes: Sequence[float]) -> list[EvaluationRow]:
    return [
        EvaluationRow(
            arm=arm,
            seed=seed,
            device="test",
            step=7 * index,
            rollouts=280 * index,
            success=success,
            success_one_hop=success,
            success_more_hops=success,
            p_right=success,
            cpu_s=1.0,
        )
        for index, success in enumerate(successes)
    ]


def pairs(ours: Sequence[float], changed: Mapping[int, Sequence[float]] | None = None) -> list[EvaluationRow]:
    """Return rows of ``grpo`` and ``sd`` on four seeds; ``changed``: other curves of ``sd`` on some of them."""
    rows = []
    for seed in range(4):
        rows += curve("grpo", seed, [0.0, 0.1, 0.3, 0.5, 0.8])
        rows += curve("sd", seed, (changed or {}).get(seed, ours))
    return rows


def verdict(rows: list[EvaluationRow]) -> Verdict:
    return methods_table.verdict(summarize(rows)[1], rows)


GOOD = [0.0, 0.3, 0.5, 0.7, 0.8]
"""Half of the questions after 560 rollouts, where the baseline needs 840."""


def test_every_arm_is_known_and_drawn_arms_are_compared() -> None:
    assert set(methods.METHODS) <= ARMS.keys()
    assert set(methods.DRAWN) <= set(methods.METHODS)


def test_tuning_and_fresh_seeds_have_nothing_in_common() -> None:
    assert not set(methods.TUNING_SEEDS) & set(methods.SEEDS)
    assert len(methods.SEEDS) >= 8


def test_an_arm_that_is_faster_and_ends_as_high_holds_every_bar() -> None:
    assert verdict(pairs(GOOD)) == Verdict(collapsed=0, never_worse=True, faster=True)


def test_each_bar_can_be_missed() -> None:
    slower = verdict(pairs([0.0, 0.1, 0.2, 0.4, 0.8]))
    assert not slower.never_worse
    assert not slower.faster
    lower = verdict(pairs([*GOOD[:-1], 0.7]))
    assert not lower.never_worse
    assert lower.faster
    one = verdict(pairs(GOOD, {3: [*GOOD[:-1], 0.39]}))
    assert one.collapsed == 1
    assert not one.never_worse


def test_a_bar_is_for_the_end_of_the_interval_not_for_the_mean() -> None:
    """Two seeds at once, two as the baseline: the mean ratio is above 1.3, its interval's lower end is not."""
    rows = pairs([0.0, 0.5, 0.6, 0.7, 0.8], {seed: [0.0, 0.1, 0.3, 0.5, 0.8] for seed in (0, 1)})
    assert summarize(rows)[1].log_ratio.mean > 0.27
    assert not verdict(rows).faster


def test_rates_are_chosen_among_those_that_ran_on_every_tuning_seed(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    rows = [
        {"arm": "grpo", "learning_rate": rate, "seeds": seeds, "success": success}
        for rate, seeds, success in (("0.0007", "1", "0.9"), ("0.001", "3", "0.5"), ("0.0014", "3", "0.4"))
    ]
    methods.replace_setting(path, "usual_5", rows)
    assert methods.best_rates("usual_5", path) == {"grpo": 1e-3}
    with pytest.raises(UserError, match=r"no rates for usual_2.*methods tune usual_2"):
        methods.best_rates("usual_2", path)


def test_rows_of_a_setting_replace_its_own_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "methods.csv"
    for name, success in (("usual_2", 0.1), ("usual_5", 0.2), ("usual_2", 0.3)):
        rows = [{"learning_rate": "0.001", **cells(row)} for row in curve("grpo", 500, [success])]
        methods.replace_setting(path, name, rows)
    found = methods.read_result(path)
    assert [(name, rates, rows[0].success) for name, (rates, rows) in found.items()] == [
        ("usual_5", {"grpo": 1e-3}, 0.2),
        ("usual_2", {"grpo": 1e-3}, 0.3),
    ]
    with path.open(newline="") as file:
        assert "device" in next(csv.reader(file))


def test_tuning_runs_every_rate_on_the_first_seed_and_the_best_two_on_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int, float]] = []

    def compare(
        runs: Sequence[tuple[str, int]], out: Path, config: TrainConfig, checkpoint: Path
    ) -> list[EvaluationRow]:
        """Stand in for minutes of training: ``sd`` does best at the lowest rate, ``grpo`` at the highest."""
        rate = config.learning_rate
        ran.extend((arm, seed, rate) for arm, seed in runs)
        return [row for arm, seed in runs for row in curve(arm, seed, [rate if arm == "grpo" else 1 - rate])]

    monkeypatch.setattr(methods, "compare", compare)
    tuned = methods.tune("usual_5", tmp_path, ("grpo", "sd"))
    rates = sorted(methods.SETTINGS["usual_5"].rates)
    first, *others = methods.TUNING_SEEDS
    assert {run for run in ran if run[1] == first} == {
        (arm, first, rate) for arm in ("grpo", "sd") for rate in rates
    }
    assert {run for run in ran if run[1] != first} == {
        *(("grpo", seed, rate) for rate in rates[-2:] for seed in others),
        *(("sd", seed, rate) for rate in rates[:2] for seed in others),
    }
    path = tmp_path / "rates.csv"
    methods.replace_setting(path, "usual_5", tuned)
    assert methods.best_rates("usual_5", path) == {"grpo": rates[-1], "sd": rates[0]}


PAGE = methods.FIGURE.with_name("comparison.md")


@pytest.mark.parametrize("name", methods.SETTINGS)
def test_the_page_has_the_table_that_show_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert methods.main(["show", name]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == len(methods.METHODS) + 2
    assert f"\n\n{printed}\n" in PAGE.read_text(encoding="utf-8")


def test_show_without_a_setting_prints_every_table_and_draws_the_figure_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = methods.FIGURE.read_text(encoding="utf-8")
    monkeypatch.setattr(methods, "FIGURE", tmp_path / "comparison.svg")
    assert methods.main(["show"]) == 0
    assert methods.FIGURE.read_text(encoding="utf-8") == committed
    printed = capsys.readouterr().out
    assert all(
        methods_table.markdown(rates, rows) in printed for rates, rows in methods.read_result().values()
    )


def test_the_ratio_of_a_table_is_the_geometric_mean_over_the_pairs() -> None:
    """Two seeds after 560 rollouts, two after the baseline's 840: the median of the ratios is 1.25."""
    rows = pairs(GOOD, {seed: [0.0, 0.1, 0.3, 0.5, 0.8] for seed in (0, 1)})
    (line,) = (
        line
        for line in methods_table.markdown({"grpo": 1e-3, "sd": 2.8e-3}, rows).split("\n")
        if "`sd`" in line
    )
    assert line.startswith("| `sd` | 2.8e-3 | 700 | 1.22 (")


def test_a_setting_without_runs_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "read_result", dict)
    with pytest.raises(UserError, match=r"no rows of usual_2.*methods run usual_2"):
        methods.show("usual_2")
