"""The probe: right where credit is known, honest about a policy that cannot read, zero for an empty block."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from sd_search_verl.cli import main
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.measures import Measures, verdict
from sd_search_verl.probe.run import Probe, probe
from sd_search_verl.probe.scores import ScoredRollout, load_model, score_groups
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.world import World, WorldConfig, questions
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.facts import Question
from sd_search_verl.world.model import build_model
from sd_search_verl.world.model import load_model as load_policy
from sd_search_verl.world.sampling import rollouts

TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
WORLD = World(WorldConfig(seed=11))
SIZE = 5


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return [question for question in questions(WORLD, "train")[:120] for _ in range(SIZE)]


@pytest.fixture(scope="module")
def sampled(asked: list[Question]) -> list[Rollout]:
    return rollouts(load_policy(CHECKPOINT), TOKENIZER, WORLD, asked, seed=5)


@pytest.fixture(scope="module")
def traces(sampled: list[Rollout], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines as a training run writes them, as far as the probe reads them."""
    path = tmp_path_factory.mktemp("probe") / "traces.jsonl"
    lines = [
        {
            "step": 1,
            "group": rollout.prompt.group,
            "prompt": rollout.prompt.messages,
            "golden_answers": list(rollout.prompt.golden_answers),
            "response": rollout.response,
            "score": rollout.em,
        }
        for rollout in sampled
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def scored(sampled: list[Rollout]) -> list[list[ScoredRollout]]:
    config = ProbeConfig(conditions="needed")
    model, tokenizer = load_model(CHECKPOINT, config)
    groups = [sampled[i : i + SIZE] for i in range(0, len(sampled), SIZE)]
    return score_groups(model.float(), tokenizer, groups, config)


def test_sign_accuracy_agrees_with_the_oracle(
    scored: list[list[ScoredRollout]], asked: list[Question]
) -> None:
    """The oracle knows the right query of each last hop; the probe only what the documents hold."""
    found = Measures.of(scored).sign_accuracy
    assert found is not None
    right = {question.text: WORLD.right_queries(question) for question in asked}
    shares = []
    for group in scored:
        ordered = []
        for one in group:
            for other in group:
                last = len(right[one.group]) - 1
                if min(len(one.queries), len(other.queries)) <= last:
                    continue
                (text, _, at), (sibling, _, there) = one.queries[last], other.queries[last]
                if text == right[one.group][last].lower() != sibling:
                    credits = one.readings["true"].credit[at], other.readings["true"].credit[there]
                    ordered.append(float(credits[0].mean() > credits[1].mean()))
        if ordered:
            shares.append(fmean(ordered))
    assert found.n > 20
    assert found.mean == pytest.approx(fmean(shares), abs=0.03)
    assert found.mean > 0.8


def test_a_policy_that_reads_blocks_can_be_its_own_teacher(scored: list[list[ScoredRollout]]) -> None:
    found = Measures.of(scored)
    assert verdict(found)[0] == "can", found
    assert found.label_sensitivity is not None
    assert found.label_sensitivity.low > 0.3


def test_a_policy_without_lessons_cannot(sampled: list[Rollout]) -> None:
    config = ProbeConfig(conditions="needed")
    torch.manual_seed(0)
    groups = [sampled[i : i + SIZE] for i in range(0, 100, SIZE)]
    found = Measures.of(score_groups(build_model(TOKENIZER).eval(), TOKENIZER, groups, config))
    assert verdict(found)[0] == "cannot", found


def test_an_empty_block_gives_zero_and_chance_exactly(traces: Path) -> None:
    config = ProbeConfig.model_validate({"groups": 8, "hindsight": {"content": "none"}})
    found = probe(Probe(CHECKPOINT, config, traces))
    chance = {"label_sensitivity": 0, "copy_share": 0, "sign_accuracy": 0.5, "leave_one_out_gain": 0}
    for name, value in chance.items():
        assert (found[name]["mean"], found[name]["low"], found[name]["high"]) == (value,) * 3, name
    for name, values in found["conditions"].items():
        assert set(values.values()) <= {0.0, None}, name
    assert found["verdict"] == "cannot be its own teacher"


def test_a_policy_of_nan_is_named(traces: Path, tmp_path: Path, capsys: Any) -> None:
    policy = load_policy(CHECKPOINT)
    with torch.no_grad():
        policy.model.norm.weight.fill_(torch.nan)
    policy.save_pretrained(tmp_path / "nan")
    TOKENIZER.save_pretrained(tmp_path / "nan")
    given = ["probe", str(tmp_path / "nan"), "--traces", str(traces), "--json", str(tmp_path / "found.json")]
    assert main([*given, "--set", "groups=10"]) == 1
    assert "are not finite: its weights hold NaN" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()


def test_groups_of_one_are_left_out_and_counted(traces: Path, tmp_path: Path, capsys: Any) -> None:
    lines = traces.read_text().splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join(lines[: 2 * SIZE] + lines[2 * SIZE :: SIZE][:3]) + "\n")
    options = ["--traces", str(tmp_path / "some.jsonl"), "--json", str(tmp_path / "probe.json")]
    assert main(["probe", str(CHECKPOINT), *options, "--set", "conditions=needed"]) == 0
    found = json.loads((tmp_path / "probe.json").read_text())
    assert (found["groups"], found["groups_of_one"], found["rollouts"]) == (2, 3, 2 * SIZE)
    assert "; 3 questions with one rollout left out" in capsys.readouterr().out


def test_the_command_writes_the_numbers(traces: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "probe.json"
    assert (
        main(["probe", str(CHECKPOINT), "--traces", str(traces), "--json", str(out), "--set", "groups=6"])
        == 0
    )
    found = json.loads(out.read_text())
    for name in ("label_sensitivity", "copy_share", "sign_accuracy", "leave_one_out_gain"):
        assert set(found[name]) == {"mean", "low", "high", "n"}
        assert found[name]["low"] <= found[name]["mean"] <= found[name]["high"]
    assert set(found["conditions"]) >= {
        "true",
        "flipped",
        "shuffled",
        "no_labels",
        "leave_one_out",
        "other_question",
    }
    assert found["mixed_groups"] == found["groups"] == 6
    shown = capsys.readouterr().out
    assert f"This policy {found['verdict']}." in shown
    assert "leave one out gain" in shown


def test_a_run_with_another_block_is_told(traces: Path, tmp_path: Path, capsys: Any) -> None:
    """`label=reward` of the run against the probe's own f1 may give the opposite verdict."""
    options = {"sd_search.hindsight.label": "em", "sd_search.hindsight.layout": "lines", "data.seed": 1}
    (tmp_path / "options.json").write_text(json.dumps(options))
    (mine := tmp_path / "traces.jsonl").write_text(traces.read_text())
    arguments = ["probe", str(CHECKPOINT), "--traces", str(mine), "--set", "groups=2", "conditions=needed"]
    assert main(arguments) == 0
    assert (
        "the run had another block: --set hindsight.label=em reads with that one" in capsys.readouterr().out
    )
    assert main([*arguments, "hindsight.label=em"]) == 0
    assert "another block" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(CHECKPOINT)], "there is nothing to probe with. Fix: give --traces FILE"),
        ([str(CHECKPOINT), "--traces", "none.jsonl"], "none.jsonl is missing"),
        ([str(CHECKPOINT), "--traces", "bad.jsonl"], "bad.jsonl:1 has no field 'question'"),
        ([str(CHECKPOINT), "--traces", "silent.jsonl"], "holds no rollout with a query"),
        (["nowhere", "--traces", "bad.jsonl"], "nowhere holds no model"),
        ([str(CHECKPOINT), "--traces", "single.jsonl"], "single.jsonl holds one rollout of each question"),
        (
            [str(CHECKPOINT), "--traces", "single.jsonl", "--questions", "q.jsonl"],
            "--questions and --retriever would make others",
        ),
        (
            [str(CHECKPOINT), "--set", "groups=0"],
            "groups=0 must be greater than or equal to 1, or null. Fix: set groups",
        ),
        ([str(CHECKPOINT), "--set", "group=4"], "group=4 is not a field. Fix: write groups"),
    ],
)
def test_what_cannot_be_probed_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"response": "<search> a </search>"}\n')
    silent = {"question": "q", "response": "<answer> a </answer>", "golden_answers": ["a"]}
    Path("silent.jsonl").write_text(json.dumps(silent) + "\n")
    single = {**silent, "response": "<search> a </search>"}
    Path("single.jsonl").write_text("".join(json.dumps({**single, "question": q}) + "\n" for q in "ab"))
    assert main(["probe", *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
