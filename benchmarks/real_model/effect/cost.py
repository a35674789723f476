"""Time of one update with each teacher, alternated on the same rollouts."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.real_model.effect.prepare import GROUP, load
from benchmarks.real_model.effect.runs import Held
from benchmarks.real_model.effect.sampling import found_gold, rollouts
from benchmarks.real_model.effect.train import items, update
from sd_search_verl.config import HindsightConfig, SDSearchConfig

QUESTIONS = 2


def cost(folder: Path, held: Held, device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Return by teacher the median time in seconds, and its ratio to GRPO's in the same round, with its range."""
    on = SDSearchConfig(alpha=1.0, hindsight=HindsightConfig(label="reward"))
    methods = {"grpo": SDSearchConfig(alpha=0.0), "teacher": on, "contrast": on.replace(target="contrast")}
    policy, tokenizer = load(folder / "warm", device, torch.float32)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    asked = [one.question for one in held.trained[:QUESTIONS] for _ in range(GROUP)]
    batch = rollouts(policy, tokenizer, asked, held.retrieve, seed=0, answers=False)
    for place, rollout in enumerate(batch):
        rollout.reward = found_gold(rollout) if place else 0.5  # the first group has an advantage
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            chosen = items(batch, GROUP, method, tokenizer, 0)
            start = time.perf_counter()
            update(policy, optimizer, batch, chosen, method)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    found = {}
    for name, times in seconds.items():
        ratios = [one / base for one, base in zip(times, seconds["grpo"], strict=True)]
        found[name] = {"s": median(times), "ratio": median(ratios), "low": min(ratios), "high": max(ratios)}
    return found
