"""Whole asynchronous runs on the CPU: rollouts that weight updates interrupt in vLLM, and kills that lose nothing."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.cli import local
from test_resume import checkpointed, killed_at, rows

from benchmarks.asynchronous.delay import slow_proxy
from sd_search_verl.launch.retriever import build_index, serving_index
from sd_search_verl.verl_adapter.trainer.checkpoints import BUFFER

BATCH = 8
MODES = {
    "colocate": ["--config", "cpu_demo", "trainer.v1.trainer_mode=sd_search_colocate_async"],
    "separate": ["--config", "cpu_separate_async"],
}
"""Mode -> options of ``sd-search local``, the config first."""
OVERRIDES = [
    "sd_search.warmup_steps=1",
    "algorithm.rollout_correction.rollout_is=token",
    "trainer.save_freq=1",
    "trainer.resume_mode=auto",
    "data.shuffle=False",
]


def train(run: Path, world: Path, steps: int, *options: str) -> None:
    """Run ``sd-search local`` to its end."""
    import subprocess

    run.mkdir(parents=True, exist_ok=True)
    with (run / "terminal.log").open("ab") as log:
        status = subprocess.call(command(run, world, steps, *options), stdout=log, stderr=subprocess.STDOUT)
    assert status == 0, (run / "terminal.log").read_text(errors="replace")[-6000:]


def command(run: Path, world: Path, steps: int, *options: str) -> list[str]:
    return local(run, world, "--steps", str(steps), *options, *OVERRIDES)


def check_traces(run: Path) -> list[dict[str, Any]]:
    """Every recorded rollout is whole, whatever interrupted it; returns them."""
    traces = rows(run, "traces.jsonl")
    for trace in traces:
        assert "".join(trace["tokens"]) == trace["response"]
        for (start, end), query in zip(trace["spans"], trace["queries"], strict=True):
            assert "".join(trace["tokens"][start:end]).strip() in query
            assert all(trace["mask"][start:end])
        starts = [start for start, _ in trace["versions"]]
        versions = [version for _, version in trace["versions"]]
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert versions == sorted(set(versions))
        assert versions[-1] < trace["step"]
    groups = [(trace["step"], trace["group"]) for trace in traces]
    assert all(groups.count(group) == 5 for group in set(groups))
    return traces


def assert_no_question_is_lost_or_repeated(run: Path, world: Path, steps: int, traced: int) -> None:
    """Of the questions in order, those of ``steps`` steps were trained on, and at most two batches are in flight.

    Args:
        traced: questions of a step whose rollouts are recorded.
    """
    asked = [prompt[-1]["content"] for prompt in pd.read_parquet(world / "train.parquet")["prompt"]]
    trained = [trace["prompt"][-1]["content"] for trace in rows(run, "traces.jsonl")][::5]
    assert len(trained) == steps * traced
    assert sorted(trained) == sorted(set(trained))
    assert set(trained) <= set(asked[: (steps + 2) * BATCH])


@pytest.fixture(scope="module")
def late_retriever(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a retriever that answers a tenth of all requests eight seconds late, so updates interrupt rollouts."""
    folder = tmp_path_factory.mktemp("retriever")
    build_index(world / "corpus.jsonl", folder / "index")
    with (
        serving_index(world / "corpus.jsonl", folder / "index", folder) as url,
        slow_proxy(url, delay=0.4, slow=0.1, seed=0) as late,
    ):
        yield late


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_mode_trains_the_world(
    options: list[str], world: Path, late_retriever: str, tmp_path: Path
) -> None:
    steps = 6
    address = ["--retriever", late_retriever]
    train(tmp_path, world, steps, *options[:2], *address, *options[2:], "search.sampling_seed=3")
    lines = rows(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for line in lines:
        assert math.isfinite(line["actor/pg_loss"])
        assert line["health/partial_groups"] == line["health/missing_rollouts"] == 0
        assert 0 <= line["sd_search/staleness_mean"] <= line["sd_search/staleness_max"] <= 8
        # Tokens and log-probs are those of the engine: exact where nothing is stale.
        assert line["sd_search/stale_query_tokens"] > 0 or abs(line["rollout_corr/kl"]) < 1e-4
        if line["step"] > 1:
            assert 0 < line["sd_search/jsd"] < math.log(2)
    assert any(line["sd_search/stale_query_tokens"] > 0 for line in lines)
    traces = check_traces(tmp_path)
    assert any(len(trace["versions"]) > 1 for trace in traces), "no rollout was interrupted"
    model = tmp_path / f"global_step_{steps}" / "actor" / "model_world_size_1_rank_0.pt"
    assert all(torch.isfinite(weight).all() for weight in torch.load(model, weights_only=False).values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "traced"), [("colocate", BATCH), ("separate", BATCH // 2)])
def test_a_killed_asynchronous_run_loses_no_step_and_no_question(
    mode: str, traced: int, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import test_resume

    steps, options, draw = 5, MODES[mode], random.Random(7)
    monkeypatch.setattr(test_resume, "OVERRIDES", [*options, *OVERRIDES])
    for step, victim in ((2, "driver"), (3, "engine")):
        moment = some_time_after(tmp_path, step, draw.uniform(0, 4))
        assert killed_at(tmp_path, world, steps, moment, victim) == []
        saved = checkpointed(tmp_path)
        assert saved >= step
        assert (tmp_path / f"global_step_{saved}" / BUFFER).is_dir()
    train(tmp_path, world, steps, *options)
    assert [line["step"] for line in rows(tmp_path)] == list(range(1, steps + 1))
    check_traces(tmp_path)
    assert_no_question_is_lost_or_repeated(tmp_path, world, steps, traced)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == steps


def some_time_after(run: Path, step: int, seconds: float) -> Callable[[], bool]:
    """Return whether so many seconds have passed since the checkpoint of a step was seen."""
    seen: list[float] = []

    def moment() -> bool:
        if checkpointed(run) >= step:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + seconds

    return moment
