"""Data of the plots: gaps, seed bands, warm-up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sd_search_verl.report import curves
from sd_search_verl.report.run_names import read_runs

MakeRun = Callable[..., Path]


def lines(data: dict[str, Any], title: str) -> list[dict[str, Any]]:
    return next(p["lines"] for s in data["sections"] for p in s["panels"] if p["title"] == title)


def test_a_metric_missing_in_some_steps_leaves_a_gap(make_run: MakeRun) -> None:
    values = [
        {"sd_search/alpha": 0.0, "search/em": 0.1},
        {"sd_search/alpha": 0.1, "search/em": 0.2, "sd_search/jsd": 0.5},
        {"sd_search/alpha": 0.1, "search/em": 0.3, "sd_search/jsd": float("nan")},
        {"sd_search/alpha": 0.1, "search/em": 0.4, "sd_search/jsd": 0.25},
    ]
    runs = read_runs([make_run("run", values)])
    data = curves.build(runs)
    (jsd,) = lines(data, "JSD")
    assert (jsd["first"], jsd["mean"]) == (2, [0.5, None, 0.25])
    assert lines(data, "Exact match")[0]["mean"] == [0.1, 0.2, 0.3, 0.4]
    assert (data["first"], data["last"], data["warmup"]) == (1, 4, [[1, 1]])
    assert "Entropy gap" in data["absent"]
    assert "JSD" not in data["absent"]
    assert curves.non_finite(runs[0]) == ["sd_search/jsd is not finite in 1 step(s), first in step 3"]


def test_each_validated_question_set_has_a_panel_from_the_validation_before_training_on(
    make_run: MakeRun,
) -> None:
    run = make_run("run", [{"search/em": 0.1}, {"val-aux/nq/em/mean@1": 0.5, "val-aux/a/b/f1/mean@4": 0.3}])
    first = {"step": 0, "val-aux/nq/em/mean@1": 0.25, "val-aux/nq/em/std@4": 1, "val-aux/failed_sessions": 2}
    path = run / "metrics.jsonl"
    path.write_text(json.dumps(first) + "\n" + path.read_text())
    data = curves.build(read_runs([run]))
    (em,) = lines(data, "nq")
    assert (em["label"], em["first"], em["mean"]) == ("em", 0, [0.25, None, 0.5])
    (f1,) = lines(data, "a/b")
    assert (f1["label"], f1["first"], f1["mean"]) == ("f1 mean@4", 2, [0.3])
    assert lines(data, "Failed sessions")[0]["mean"] == [2.0]
    titles = [panel["title"] for section in data["sections"] for panel in section["panels"]]
    assert [title for title in titles if "std" in title] == []
    assert (data["first"], data["last"]) == (0, 2)


def test_steps_missing_from_the_file_leave_a_gap(make_run: MakeRun) -> None:
    run = make_run("run", [{"search/em": 0.1}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "search/em": 0.4}) + "\n")
    (em,) = lines(curves.build(read_runs([run])), "Exact match")
    assert em["mean"] == [0.1, None, None, 0.4]


def test_seeds_are_one_series_with_mean_and_band(make_run: MakeRun) -> None:
    folders = [
        make_run("sd-seed0", [{"search/em": 0.1}, {"search/em": 0.2}]),
        make_run("sd-seed1", [{"search/em": 0.3}]),
        make_run("grpo_seed0", [{"search/em": 0.0}]),
    ]
    data = curves.build(read_runs(folders))
    assert data["series"] == [{"name": "sd", "seeds": 2}, {"name": "grpo", "seeds": 1}]
    sd, grpo = lines(data, "Exact match")
    assert (sd["mean"], sd["low"], sd["high"], sd["seeds"]) == ([0.2, 0.2], [0.1, 0.2], [0.3, 0.2], [2, 1])
    assert (grpo["series"], grpo["mean"], "low" in grpo) == (1, [0.0], False)


def test_warmup_is_that_of_the_runs_that_distil(make_run: MakeRun) -> None:
    def alphas(name: str, *values: float) -> Path:
        return make_run(name, [{"sd_search/alpha": value} for value in values])

    sd, grpo = alphas("sd", 0, 0, 0.1, 0.1), alphas("grpo", 0, 0, 0, 0)
    assert curves.warmup(read_runs([sd, grpo])) == [[1, 2]]
    assert curves.warmup(read_runs([grpo])) == [[1, 4]]
    assert curves.warmup(read_runs([make_run("plain", [{"search/em": 0.1}])])) == []


def test_every_timing_has_a_panel_the_step_first(make_run: MakeRun) -> None:
    run = make_run("run", [{"timing_s/gen": 1.0, "timing_s/step": 3.0, "timing_s/adv": 0.1}])
    time = next(s for s in curves.build(read_runs([run]))["sections"] if s["title"] == "Time")
    assert [panel["title"] for panel in time["panels"]] == ["step", "adv", "gen"]
