"""Whole runs that are killed and started again with the same command, against one that is not.

The sampling seed makes rollouts depend on step, question and place only, so the same must come out: data order,
rollouts, alpha, weights, and one line of metrics for every step.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from support.cli import local
from torch.distributed.tensor import DTensor
from torch.utils._pytree import keystr, tree_flatten_with_path

REPO = Path(__file__).resolve().parents[1]
STEPS = 14
EXIT_S = 90.0
"""Longest time until everything of a killed run is gone."""

OVERRIDES = [
    "trainer.save_freq=1",
    "trainer.resume_mode=auto",
    "search.sampling_seed=3",
    "sd_search.warmup_steps=3",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
]


def start(run: Path, world: Path, steps: int) -> subprocess.Popen[bytes]:
    run.mkdir(parents=True, exist_ok=True)
    with (run / "terminal.log").open("ab") as log:
        return subprocess.Popen(
            local(run, world, "--steps", str(steps), *OVERRIDES), stdout=log, stderr=subprocess.STDOUT
        )


def finish(run: Path, world: Path, steps: int) -> None:
    process = start(run, world, steps)
    try:
        status = process.wait(timeout=1500)
    finally:
        process.kill()
    assert status == 0, (run / "terminal.log").read_text(errors="replace")[-6000:]


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    path = run / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def checkpointed(run: Path) -> int:
    tracker = run / "latest_checkpointed_iteration.txt"
    return int(tracker.read_text() or 0) if tracker.exists() else 0


def below(process: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    return {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}


def victims(process: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """Processes of a run by what they are."""
    marks = {
        "driver": "verl.trainer.main_ppo",
        "trainer": "TaskRunner",
        "worker": "WorkerDict",
        "engine": "EngineCore",
        "raylet": "raylet/raylet",
    }
    found = {"command": psutil.Process(process.pid)}
    for child in below(process).values():
        try:
            text = " ".join(child.cmdline()) + child.name()
        except psutil.Error:
            continue
        found |= {name: child for name, mark in marks.items() if mark in text}
    return found


def kill(process: subprocess.Popen[bytes], victim: str) -> list[str]:
    """SIGKILL one process of a run, wait until the run is over; returns what is still there of it."""
    known = below(process)
    chosen = victims(process).get(victim) or psutil.Process(process.pid)
    chosen.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    while True:
        if process.poll() is None:
            known |= below(process)
        left = [p for p in known.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if process.poll() is not None and not left:
            print(f"all gone {time.monotonic() - killed:.0f} s after the kill of the {victim}", flush=True)
            return []
        if time.monotonic() > killed + EXIT_S:
            return [" ".join(p.cmdline())[:200] for p in left] or ["the command itself"]
        time.sleep(0.5)


def killed_at(run: Path, world: Path, steps: int, moment: Callable[[], bool], victim: str) -> list[str]:
    """Start a run and kill it at a moment; returns what is left of it. Ends early where the run does."""
    process = start(run, world, steps)
    try:
        deadline = time.monotonic() + 1200
        while process.poll() is None and not moment():
            assert time.monotonic() < deadline, "the run hangs"
            time.sleep(0.05)
        return kill(process, victim) if process.poll() is None else []
    finally:
        process.kill()


def told(run: Path) -> list[tuple[int, str, str]]:
    """Question and response of every recorded rollout, by step."""
    traces = rows(run, "traces.jsonl")
    return sorted((trace["step"], trace["prompt"][-1]["content"], trace["response"]) for trace in traces)


def assert_same_run(run: Path, whole: Path, steps: int) -> None:
    """Every step once, with the same questions, rollouts, alpha and learning rate, and the same end: weights, Adam's
    moments and place in the data.
    """
    assert (
        [row["step"] for row in rows(run)]
        == [row["step"] for row in rows(whole)]
        == list(range(1, steps + 1))
    )
    assert told(run) == told(whole)
    assert len(told(run)) == 20 * steps
    for ours, theirs in zip(rows(run), rows(whole), strict=True):
        assert ours["sd_search/alpha"] == theirs["sd_search/alpha"] == (0.0 if ours["step"] <= 3 else 0.3)
        for name in ("critic/score/mean", "search/searches_per_rollout", "response_length/mean", "actor/lr"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), (ours["step"], name)
    ours, theirs = (
        torch.load(folder / f"global_step_{steps}" / "data.pt", weights_only=False) for folder in (run, whole)
    )
    assert str(ours) == str(theirs)
    for part in ("model", "optim"):
        distance = farthest(shard(run, steps, part), shard(whole, steps, part))
        print(f"{part} after step {steps}: at most {distance:.2e} apart, relative")
        assert distance < 1e-5


def shard(run: Path, step: int, part: str) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint's only shard."""
    file = run / f"global_step_{step}" / "actor" / f"{part}_world_size_1_rank_0.pt"
    leaves, _ = tree_flatten_with_path(torch.load(file, weights_only=False))
    tensors = {keystr(path): leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}
    return {
        name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()
    }


def farthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest ||a - b|| / ||b|| over all tensors."""
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    return max(float((ours[name] - b).norm() / b.norm()) for name, b in theirs.items())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(world: Path, tmp_path: Path) -> None:
    steps = 4
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(whole, world, steps)
    # After the checkpoint of step 2, before the line of that step or in the middle of the next.
    assert killed_at(run, world, steps, lambda: checkpointed(run) == 2, "driver") == []
    finish(run, world, steps)
    assert_same_run(run, whole, steps)


def random_moment(run: Path, rng: random.Random) -> Callable[[], bool]:
    """Somewhere in the start of a run, or some seconds after its first step."""
    before, seconds = len(rows(run)), rng.uniform(5, 100)
    begun = time.monotonic()
    if rng.random() < 0.3:
        return lambda: time.monotonic() > begun + seconds
    training: list[float] = []

    def moment() -> bool:
        if not training and (run / "train.log").exists() and len(rows(run)) != before:
            training.append(time.monotonic())
        return bool(training) and time.monotonic() > training[0] + seconds / 8

    return moment


def kills(run: Path, world: Path, numbers: range) -> None:
    """SIGKILL at random moments, each followed by the same command."""
    for number in numbers:
        rng = random.Random(number)
        saved, victim = (
            checkpointed(run),
            rng.choice(["command", "driver", "trainer", "worker", "engine", "raylet"]),
        )
        begun = time.monotonic()
        left = killed_at(run, world, STEPS, random_moment(run, rng), victim)
        now = checkpointed(run)
        print(
            f"kill {number}: {victim}, {time.monotonic() - begun:.0f} s, checkpoint {saved} -> {now}, "
            f"lines {[row['step'] for row in rows(run)]}, left {left}",
            flush=True,
        )
        assert left == []
        assert now >= saved


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_kills_at_random_moments(world: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(whole, world, STEPS)
    kills(run, world, range(10))
    finish(run, world, STEPS)
    assert_same_run(run, whole, STEPS)
