"""Block lessons: short supervised training in which nothing but a label says which query to write.

Of several plausible queries of a question one, drawn at random, is labelled CORRECT in the block and is the target; the
labels say nothing about the world, so that reading them is all there is to learn. Queries are those of the policy's
own rollouts, the question with words left out, and one of another question: no outside teacher. Plain turns of the same
rollouts, without a block, keep the student as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from sd_search_verl import protocol as protocols
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.model import find_weights
from sd_search_verl.files import part_of
from sd_search_verl.hindsight.block import RolloutSummary, insert_block, render_block
from sd_search_verl.pretrained import load_policy, load_tokenizer
from sd_search_verl.probe.config import LessonsConfig
from sd_search_verl.probe.groups import Group, read_groups
from sd_search_verl.protocol.control_tokens import encode_text
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.tags import TagProtocol
from sd_search_verl.rollout.types import Rollout
from sd_search_verl.supervised import descend

Example = tuple[list[int], list[bool]]
"""Token ids, and which of them carry loss."""


class Examples(Protocol):
    """What :func:`teach` trains on."""

    def batch(self) -> Sequence[Example]:
        """Return the examples of one update."""
        ...


class Lessons:
    """Draws examples from groups of rollouts."""

    def __init__(self, groups: Sequence[Group], tokenizer: Any, config: LessonsConfig) -> None:
        self._tokenizer, self._config, self._draw = tokenizer, config, Random(config.seed)
        self._protocol: TagProtocol = protocols.get(config.protocol)
        self._template_kwargs = json.loads(config.chat_template_kwargs)
        searching = [[rollout for rollout in group if rollout.spans] for group in groups]
        self._groups = [group for group in searching if group]
        if len(self._groups) < 2:
            raise UserError(f"lessons need two questions with a query, there are {len(self._groups)}")

    def batch(self) -> list[Example]:
        """Return the examples of one update."""
        lessons = [self._lesson() for _ in range(self._config.lessons)]
        return lessons + [self._plain() for _ in range(self._config.plain)]

    def _lesson(self) -> Example:
        draw, config = self._draw, self._config
        rollout = draw.choice(draw.choice(self._groups))
        tried = self._queries(rollout)[: draw.randint(2, 4)]
        good = draw.randrange(len(tried))
        lines = [RolloutSummary([query], f1=float(i == good)) for i, query in enumerate(tried)]
        lines += [draw.choice(lines) for _ in range(config.attempts - len(lines))]
        draw.shuffle(lines)
        messages = insert_block(
            rollout.prompt.messages, render_block(lines, 0, config.hindsight), config.hindsight
        )
        turn, first = self._turn(rollout, tried[good])
        prompt = encode_messages(messages, self._tokenizer, self._template_kwargs)
        return [*prompt, *turn], [False] * (len(prompt) + first) + [True] * (len(turn) - first)

    def _plain(self) -> Example:
        rollout = self._draw.choice(self._draw.choice(self._groups))
        turn, _ = self._turn(rollout, rollout.queries[0])
        prompt = rollout.prompt.token_ids
        return [*prompt, *turn], [False] * len(prompt) + [True] * len(turn)

    def _turn(self, rollout: Rollout, query: str) -> tuple[list[int], int]:
        """Return the first turn of a rollout with another query in it, and the place of the query's first token."""
        opened = self._protocol.search_open
        before = rollout.response.partition(opened)[0]
        turn = encode_text(f"{before}{opened} {query} {self._protocol.search_close}", self._tokenizer)
        return turn, query_spans(turn, self._tokenizer, self._protocol)[0][0]

    def _queries(self, rollout: Rollout) -> list[str]:
        """Return distinct plausible queries in random order."""
        draw = self._draw
        own = next(group for group in self._groups if group[0].prompt.group == rollout.prompt.group)
        words = own[0].queries[0].split()
        shorter = [
            " ".join(words[i] for i in sorted(draw.sample(range(len(words)), draw.randint(1, len(words)))))
            for _ in range(3)
        ]
        other = draw.choice(draw.choice([group for group in self._groups if group is not own]))
        found = [member.queries[0] for member in own] + shorter + [other.queries[0]]
        distinct = list({query.lower(): query for query in found}.values())
        draw.shuffle(distinct)
        return distinct


def teach(model: Any, lessons: Examples, config: LessonsConfig) -> list[float]:
    """Train ``model``, in fp32 under bf16 autocast, in place; returns the loss of every update."""
    return descend(
        model,
        lambda _: _accumulate(model, lessons.batch()),
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=4,
        final_share=0.05,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        title="lessons",
    )


def _accumulate(model: Any, examples: Sequence[Example]) -> float:
    """Add the gradient of the mean over tokens of all examples, four rows of like length at a time."""
    total, count = 0.0, sum(sum(loss) for _, loss in examples)
    ordered = sorted(examples, key=lambda example: len(example[0]))
    for start in range(0, len(ordered), 4):
        part = ordered[start : start + 4]
        width = max(len(ids) for ids, _ in part)
        ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in part], device=model.device)
        wanted = torch.tensor(
            [[*loss, *[False] * (width - len(loss))] for _, loss in part], device=model.device
        )
        # The head at the columns that carry loss only: it is a fifth of a small model's work.
        columns = wanted[:, 1:].any(0).nonzero()[:, 0]
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=columns).logits
        at = wanted[:, 1:][:, columns]
        loss = F.cross_entropy(logits[at].float(), ids[:, 1:][:, columns][at], reduction="sum") / count
        loss.backward()
        total += float(loss.detach())
    return total


def give_lessons(model: Path, out: Path, traces: Path, config: LessonsConfig) -> list[float]:
    """Teach the policy of a Hugging Face folder and write it to ``out``, in the data type it was stored in.

    Raises:
        UserError: no model, no groups, or ``out`` exists.
    """
    if out.exists():
        raise UserError(f"{out} exists; give a folder that does not")
    model = find_weights(model)
    tokenizer = load_tokenizer(model)
    template_kwargs = json.loads(config.chat_template_kwargs)
    groups = read_groups(traces, tokenizer, protocols.get(config.protocol), template_kwargs)
    lessons = Lessons(groups, tokenizer, config)
    policy = load_policy(model, dtype="auto")
    part = part_of(out)
    part.mkdir(parents=True, exist_ok=True)  # before the training, where it cannot be written
    stored = policy.dtype
    device = "cuda" if torch.cuda.is_available() else "cpu"
    losses = teach(policy.float().to(device).train(), lessons, config)
    policy.to(stored).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.replace(out)
    return losses
