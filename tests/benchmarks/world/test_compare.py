"""The comparison: what it measures against the oracle, how it pairs seeds, and that it goes on where it stopped."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.world import oracle, summary
from benchmarks.world.__main__ import main
from benchmarks.world.arms import ARMS
from benchmarks.world.compare import compare, read_csv, write_csv
from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import EvaluationRow
from benchmarks.world.from_runs import read_stack_runs
from benchmarks.world.plot import plot_learning, plot_oracle
from benchmarks.world.records import Step
from benchmarks.world.reference import train
from sd_search_verl.errors import UserError
from sd_search_verl.rollout.types import Prompt, Rollout
from sd_search_verl.runs.schema import Trace
from sd_search_verl.runs.writer import append_metrics, append_traces
from sd_search_verl.world import Question, World, WorldConfig, questions, text
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.files import write_world

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)


def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)


def first_steps(arm: str, seed: int, steps: int) -> tuple[World, list[Step]]:
    world, seen = World(WorldConfig(seed=seed)), []
    config = TrainConfig(seed=seed, steps=steps)
    train(policy(), TOKENIZER, world, ARMS[arm].method, config, seen.append)
    return world, seen


def early_gap(arm: str) -> float:
    """Teacher's minus student's p(right phrasing), mean over the first five steps of two seeds."""
    gaps = []
    for seed in (200, 201):
        world, steps = first_steps(arm, seed, 5)
        found = [oracle.measure(step, TOKENIZER, world) for step in steps]
        gaps += [values["teacher_p_right"] - values["student_p_right"] for values in found]
    return statistics.fmean(gaps)


def test_the_teacher_knows_the_right_phrasing_better_only_with_true_labels() -> None:
    assert early_gap("sd") > 0.08
    assert early_gap("shuffled") < 0.04


def mixed_teacher(arm: str) -> float:
    """The teacher's p(right phrasing) in mixed groups, mean over the first three steps of two seeds."""
    values = []
    for seed in (200, 201):
        world, steps = first_steps(arm, seed, 3)
        found = [oracle.measure(step, TOKENIZER, world) for step in steps]
        values += [value["teacher_p_right_mixed"] for value in found if "teacher_p_right_mixed" in value]
    return statistics.fmean(values)


def test_flipped_labels_turn_the_teacher_away_from_the_right_phrasing() -> None:
    assert mixed_teacher("flipped") < 0.5 * mixed_teacher("sd")


def test_the_oracle_reads_the_position_before_the_phrasing() -> None:
    """Against one forward pass per hop, on text."""
    model = policy()
    world, (step,) = first_steps("sd", 7, 1)
    expected = []
    for question, rollout in zip(step.asked, step.batch, strict=True):
        response = TOKENIZER.decode(rollout.response_ids)
        start = 0
        for relation in question.relations:
            start = response.find("<search>", start) + len("<search>")
            if start < len("<search>"):
                break
            seen = text.render(text.prompt(question.text)) + response[:start]
            with torch.no_grad():
                logits = model(torch.tensor([TOKENIZER.encode(seen)])).logits[0, -1]
            token = TOKENIZER.convert_tokens_to_ids(f" {world.right_phrasing(relation)}")
            expected.append(float(logits.softmax(-1)[token]))
    measured = oracle.measure(step, TOKENIZER, world)
    assert len(expected) > 40
    assert measured["student_p_right"] == pytest.approx(statistics.fmean(expected), rel=1e-4)


def test_an_untrained_policy_is_ignorant_of_the_world() -> None:
    world = World(WorldConfig(seed=4))
    asked = questions(world, "val")
    assert 0.09 < oracle.policy_p_right(policy(), TOKENIZER, world, asked) < 0.16
    assert {len(question.relations) for question in asked} == {1, 2}
    assert isinstance(asked[0], Question)


def row(arm: str, seed: int, step: int, success: float, p_right: float, **more: float) -> EvaluationRow:
    return EvaluationRow(
        arm=arm,
        seed=seed,
        device="test",
        step=step,
        rollouts=40 * step,
        success=success,
        success_one_hop=success,
        success_more_hops=success,
        p_right=p_right,
        cpu_s=1.0,
        **more,
    )


def curve(arm: str, seed: int, values: list[float], **more: float) -> list[EvaluationRow]:
    return [row(arm, seed, 7 * i, value, value, **(more if i else {})) for i, value in enumerate(values)]


ROWS = [
    *curve("grpo", 0, [0.0, 0.2, 0.4, 0.6]),
    *curve("grpo", 1, [0.0, 0.1, 0.3, 0.4]),
    *curve("sd", 0, [0.0, 0.5, 0.7, 0.9], teacher_p_right=0.8, student_p_right=0.5),
    *curve("sd", 1, [0.0, 0.2, 0.4, 0.8], teacher_p_right=0.6, student_p_right=0.5),
]


def test_rollouts_to_a_level_are_linear_between_evaluations() -> None:
    assert summary.rollouts_to(curve("sd", 0, [0.0, 0.2, 0.4, 0.6]), 0.5) == pytest.approx(700)
    assert summary.rollouts_to(curve("sd", 0, [0.0, 0.2]), 0.5) == math.inf
    assert summary.rollouts_to(curve("sd", 0, [0.6, 0.2]), 0.5) == 0
    assert summary.p_right_at(curve("sd", 0, [0.0, 0.2, 0.4]), 420) == pytest.approx(0.3)
    assert math.isnan(summary.p_right_at(curve("sd", 0, [0.0, 0.2, 0.4]), 840))


def test_arms_are_paired_by_seed() -> None:
    baseline, sd = summary.summarize(ROWS)
    assert (baseline.arm, sd.arm, sd.seeds) == ("grpo", "sd", 2)
    assert baseline.to_half == math.inf
    assert sd.to_half == pytest.approx((280 + 630) / 2)
    assert sd.ratio == math.inf  # seed 1 of the baseline never gets there; a median of two
    assert sd.faster == 2
    assert sd.early.mean == pytest.approx(0.85)
    assert sd.early_gain.mean == pytest.approx((0.3 + 0.4) / 2)
    assert sd.higher == 2
    assert sd.gap is not None
    assert sd.gap.mean == pytest.approx(0.2)
    assert baseline.gap is None
    assert (sd.final.mean, sd.worst) == (pytest.approx(0.85), 0.8)
    assert "never" in summary.table([baseline, sd])


def test_an_arm_that_never_gets_there_is_slower() -> None:
    swapped = [replace(r, arm={"sd": "grpo", "grpo": "sd"}[r.arm]) for r in ROWS]
    _, worse = summary.summarize(sorted(swapped, key=lambda r: r.arm))
    assert worse.faster == 0
    assert worse.ratio == pytest.approx((280 / 700 + 0) / 2)
    with pytest.raises(UserError, match="no grpo run"):
        summary.summarize(ROWS[8:])


def test_runs_that_end_before_the_early_measure_have_a_table_without_it() -> None:
    short = [row for row in ROWS if row.rollouts < summary.EARLY]
    _, sd = summary.summarize(short)
    assert math.isnan(sd.early.mean)
    assert math.isnan(sd.early_gain.mean)
    line = summary.table(summary.summarize(short)).splitlines()[-1].split()
    assert line.count("-") == 2
    assert "nan" not in line


def test_the_interval_is_students() -> None:
    values = [0.1, 0.4, 0.3, 0.6, 0.2, 0.5]
    found = summary.interval(values)
    assert found.mean == pytest.approx(0.35)
    assert found.half_width == pytest.approx(2.571 * statistics.stdev(values) / math.sqrt(6))


def test_a_csv_gives_its_rows_back(tmp_path: Path) -> None:
    path = tmp_path / "world.csv"
    write_csv(ROWS, path)
    assert [repr(r) for r in read_csv(path)] == [repr(r) for r in ROWS]
    path.write_text("arm,seed\nsd,1\n")
    with pytest.raises(UserError, match="columns"):
        read_csv(path)


def test_plots_are_svg_with_a_line_and_a_band_per_arm(tmp_path: Path) -> None:
    for draw, lines in ((plot_learning, 4), (plot_oracle, 2)):  # the baseline has no teacher
        path = tmp_path / "plot.svg"
        draw(ROWS, path)
        paths = ElementTree.parse(path).findall(".//{http://www.w3.org/2000/svg}path")
        bands = [p for p in paths if p.get("opacity")]
        curves = [p for p in paths if p.get("fill") == "none"]
        assert len(bands) == len(curves) == lines


def test_an_interrupted_comparison_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(steps=1)
    first = compare([("grpo", 3)], tmp_path, config)
    file = tmp_path / "grpo-3.json"
    before = file.stat().st_mtime_ns
    command = ["compare", "grpo", "--seeds", "3", "--out", str(tmp_path), "--steps"]
    assert main([*command, "1", "--csv", str(tmp_path / "all.csv")]) == 0
    assert file.stat().st_mtime_ns == before
    assert [row.step for row in read_csv(tmp_path / "all.csv")] == [row.step for row in first] == [0, 1]
    assert main([*command, "2"]) == 1
    assert "other settings" in capsys.readouterr().err
    with pytest.raises(UserError, match="other settings"):
        compare([("grpo", 3)], tmp_path, config, learning_rates={"grpo": 2e-3})
    assert compare([("grpo", 3)], tmp_path, config, learning_rates={"sd": 2e-3})[1].step == 1


def test_runs_of_the_whole_stack_become_rows_of_the_same_table(tmp_path: Path) -> None:
    """Files by the trainer's own writers; of four queries a step three have the right phrasing."""
    world = World(WorldConfig(seed=5))
    question = next(q for q in questions(world, "train") if len(q.relations) == 2)
    first, second = world.right_queries(question)
    wrong = next(p for p in world.phrasings(question.relations[1]) if p not in second)
    folder = tmp_path / "sd-seed5"
    write_world(world, folder / "world")
    for step in range(1, 15):
        prompt = Prompt("g", text.prompt(question.text), [1], ["x"])
        rollouts = [
            Rollout(prompt, response_ids=[2], response_mask=[1], queries=queries)
            for queries in ([first, second], [first, f"{wrong} {question.subject}"])
        ]
        append_traces(folder, [Trace.of(step, rollout, 0.0, ["a"]) for rollout in rollouts])
        append_metrics(folder, step, {"search/em": step / 14, "sd_search/loss": 0.1})
    early, late = read_stack_runs([folder])
    assert (early.arm, early.seed, early.step, late.step) == ("sd", 5, 7, 14)
    assert (early.rollouts, late.rollouts) == (14, 28)
    assert early.p_right == pytest.approx(3 / 4)
    assert early.success == pytest.approx(4 / 14)
    assert late.sd_loss == pytest.approx(0.1)
    with pytest.raises(UserError, match="not named"):
        read_stack_runs([tmp_path])
