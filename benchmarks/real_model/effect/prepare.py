"""Make what all runs share: index, groups of rollouts, and the starting policies.

``warm``     the given model after supervised training on short recorded successes
``lessons``  the same after lessons in reading hindsight blocks, on its own groups of other questions
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.data.wiki18_mini import PROTOCOL
from benchmarks.real_model.demonstrations import Example
from benchmarks.real_model.effect.data import Question, demonstrations, split
from benchmarks.real_model.effect.sampling import Retrieve, found_gold, retriever, rollouts
from sd_search_verl.probe.config import LessonsConfig
from sd_search_verl.probe.lessons import give_lessons, teach
from sd_search_verl.rollout.types import Rollout

WARM = LessonsConfig(steps=12, lessons=0, plain=8, learning_rate=3e-4)
TAUGHT = LessonsConfig(steps=12, lessons=8, plain=4, learning_rate=3e-4)
GROUP, BATCH = 5, 100
GROUPS = {"lessons": 40, "tuning": 20, "reported": 40, "train": 60, "held_out": 100}
"""Questions with a group of rollouts, of each part; those of the lessons are the warm start's."""
WITH_ANSWERS = ("tuning", "reported")


class Demonstrations:
    """Batches of demonstrations, each seen once before any is seen again."""

    def __init__(self, examples: Sequence[Example], size: int) -> None:
        self._size, self._examples = size, Random(0).sample(examples, len(examples))
        self._next = 0

    def batch(self) -> list[tuple[list[int], list[bool]]]:
        """Return the examples of one update."""
        places = range(self._next, self._next + self._size)
        self._next += self._size
        chosen = [self._examples[place % len(self._examples)] for place in places]
        return [(example.input_ids, [bool(wanted) for wanted in example.loss_mask]) for example in chosen]


def prepare(data: Path, model: Path, out: Path, device: str) -> None:
    """Write ``index``, ``warm``, ``groups/*.jsonl`` and ``lessons`` into ``out``; what is there is kept."""
    out.mkdir(parents=True, exist_ok=True)
    parts, retrieve = split(data), retriever(data / "corpus.jsonl", out / "index")
    if not (out / "warm").is_dir():
        warm_start(model, out / "warm", partial(demonstrations, data, parts["warm"]), WARM, device)
    policy, tokenizer = load(out / "warm", device, torch.bfloat16)
    (out / "groups").mkdir(exist_ok=True)
    parts["lessons"] = parts["warm"]
    for number, (name, count) in enumerate(GROUPS.items()):
        path = out / "groups" / f"{name}.jsonl"
        if not path.exists():
            found = _groups(policy, tokenizer, parts[name][:count], retrieve, number, name in WITH_ANSWERS)
            path.write_text("".join(json.dumps(line(rollout)) + "\n" for rollout in found))
            print(f"{path}: {summary(found)}", flush=True)
    if not (out / "lessons").is_dir():
        losses = give_lessons(out / "warm", out / "lessons", out / "groups" / "lessons.jsonl", TAUGHT)
        print(f"lessons: loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last", flush=True)


def load(folder: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return model and tokenizer of a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def line(rollout: Rollout) -> dict[str, object]:
    """Return a rollout as `sd-search probe` reads it."""
    return {
        "question": rollout.prompt.group,
        "prompt": rollout.prompt.messages,
        "golden_answers": list(rollout.prompt.golden_answers),
        "response": response(rollout),
        "score": found_gold(rollout),
        "queries": rollout.queries,
        "found": [search.has_gold for search in rollout.searches],
        "em": rollout.em,
        "f1": rollout.f1,
    }


def response(rollout: Rollout) -> str:
    """Return the response with whole observations: the closing tag of one that was cut is needed to parse it."""
    if not rollout.searches:
        return rollout.response
    begun, opened, rest = rollout.response.partition(PROTOCOL.observation_open)
    answer = rest[place:] if (place := rest.rfind(PROTOCOL.answer_open)) >= 0 and rollout.turns > 1 else ""
    return (
        f"{begun.rstrip()}{PROTOCOL.observation(rollout.searches[0].documents)}{answer}" if opened else begun
    )


def summary(found: Sequence[Rollout]) -> str:
    """Return a line of means."""
    count = len(found)
    return (
        f"{count} rollouts, EM {sum(r.em for r in found) / count:.3f}, F1 {sum(r.f1 for r in found) / count:.3f}, "
        f"searches {sum(len(r.queries) for r in found) / count:.2f}, "
        f"gold found {sum(map(found_gold, found)) / count:.3f}"
    )


def warm_start(
    model: Path, out: Path, read: Callable[[Any], Sequence[Example]], config: LessonsConfig, device: str
) -> None:
    """Train a policy on the examples that ``read`` gives for its tokenizer, and write it to ``out`` in bf16."""
    policy, tokenizer = load(model, device, torch.float32)
    examples = read(tokenizer)
    losses = teach(policy.train(), Demonstrations(examples, config.plain), config)
    print(f"warm start on {len(examples)} examples: loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
    policy.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _groups(
    policy: Any, tokenizer: Any, questions: Sequence[Question], retrieve: Retrieve, seed: int, answers: bool
) -> list[Rollout]:
    asked = [question for question in questions for _ in range(GROUP)]
    found = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        found += rollouts(policy, tokenizer, part, retrieve, seed * 1000 + start, answers)
    return found
