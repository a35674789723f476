"""Read every rollout behind every block and keep three numbers of each query token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.distill.divergence import divergence_and_stats
from sd_search_verl.distill.support import teacher_targets
from sd_search_verl.hindsight.block import is_correct
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs, TeacherRow, build_teacher_inputs
from sd_search_verl.pretrained import load_policy, load_tokenizer
from sd_search_verl.probe.conditions import EMPTY, blocks
from sd_search_verl.probe.config import ProbeConfig
from sd_search_verl.probe.groups import Group
from sd_search_verl.protocol.prompt import encode_messages
from sd_search_verl.protocol.spans import Span
from sd_search_verl.rollout.types import Rollout


@dataclass(frozen=True)
class Reading:
    """A rollout's query tokens behind one block, ``[n]`` each, in nats.

    Attributes:
        credit: log P_teacher - log P_student of the sampled token.
        divergence: JSD of teacher and student.
        entropy_gap: entropy of the student minus that of the teacher.
    """

    credit: Tensor
    divergence: Tensor
    entropy_gap: Tensor


@dataclass(frozen=True)
class ScoredRollout:
    """One rollout: its outcome, its queries and its readings.

    Attributes:
        queries: per query its text, whether its documents hold a golden answer, and the slice of its tokens.
        tokens: ids of the query tokens.
        readings: by condition.
    """

    group: str
    correct: bool
    queries: list[tuple[str, bool, slice]]
    tokens: list[int]
    readings: Mapping[str, Reading]

    @classmethod
    def of(cls, rollout: Rollout, config: ProbeConfig, readings: Mapping[str, Reading]) -> ScoredRollout:
        """Return the record of a rollout with a span for each query."""
        found = [search.has_gold for search in rollout.searches]
        # The last query of a rollout that ended at the limit of turns is not executed.
        found += [False] * (len(rollout.queries) - len(found))
        return cls(
            rollout.prompt.group,
            is_correct(rollout, config.hindsight),
            [*zip(map(_plain, rollout.queries), found, _slices(rollout.spans), strict=True)],
            [rollout.response_ids[i] for start, end in rollout.spans for i in range(start, end)],
            readings,
        )


def load_model(folder: Path, config: ProbeConfig) -> tuple[Any, Any]:
    """Return model and tokenizer of a Hugging Face folder, on the device of the config."""
    from transformers.utils import logging

    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    logging.disable_progress_bar()
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    model = load_policy(folder, dtype=dtype).to(device).eval()
    return model, load_tokenizer(folder)


def score_groups(
    model: Any, tokenizer: Any, groups: Sequence[Group], config: ProbeConfig
) -> list[list[ScoredRollout]]:
    """Return every group's rollouts that have query tokens and fit the model's context.

    Rows that are equal are run once, so a block that is empty gives the student's numbers to the last bit.
    """
    rollouts = [rollout for group in groups for rollout in group]
    template_kwargs = json.loads(config.chat_template_kwargs)
    inputs = {
        name: build_teacher_inputs(
            rollouts,
            SDSearchConfig(hindsight=hindsight),
            tokenizer,
            lambda messages: encode_messages(messages, tokenizer, template_kwargs),
            config.seed,
        )
        for name, hindsight in blocks(config.hindsight, config.conditions).items()
    }
    longest = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    scored: dict[str, list[ScoredRollout]] = {group[0].prompt.group: [] for group in groups}
    for place, rollout in enumerate(tqdm(rollouts, desc="probe", unit="rollout", dynamic_ncols=True)):
        items = {name: rows[place] for name, rows in inputs.items()}
        rows = [row for item in items.values() for row in item.rows]
        whole = len(rollout.spans) == len(rollout.queries)
        fits = all(len(row.input_ids) <= longest for row in rows)
        if all(item.rows for item in items.values()) and whole and fits:
            scored[rollout.prompt.group].append(
                ScoredRollout.of(rollout, config, _readings(model, items, config))
            )
    return [*scored.values()]


def _plain(query: str) -> str:
    """Return a query for comparisons: in lower case, with single spaces."""
    return " ".join(query.lower().split())


def _slices(spans: Sequence[Span]) -> Iterator[slice]:
    """Yield the place of each query among all query tokens."""
    first = 0
    for start, end in spans:
        yield slice(first, first + end - start)
        first += end - start


def _readings(model: Any, items: Mapping[str, TeacherInputs], config: ProbeConfig) -> dict[str, Reading]:
    rows = {_key(row): row for item in items.values() for row in item.rows}
    logits = dict(zip(rows, _forward(model, [*rows.values()], config.batch_tokens), strict=True))
    student = torch.cat([logits[_key(row)] for row in items[EMPTY].rows])
    tokens = torch.tensor(
        [row.input_ids[at + 1] for row in items[EMPTY].rows for at in row.teacher_positions],
        device=student.device,
    )
    method = SDSearchConfig()
    readings = {}
    for name, item in items.items():
        targets = teacher_targets(torch.cat([logits[_key(row)] for row in item.rows]), method, tokens)
        values, stats = divergence_and_stats(student, targets, method, tokens)
        assert targets.token_log_prob is not None
        readings[name] = Reading(
            (targets.token_log_prob - stats.token_log_prob).cpu(),
            values.cpu(),
            (stats.entropy - targets.entropy).cpu(),
        )
    return readings


def _key(row: TeacherRow) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(row.input_ids), tuple(row.teacher_positions)


@torch.no_grad()
def _forward(model: Any, rows: Sequence[TeacherRow], batch_tokens: int) -> list[Tensor]:
    """Return the logits ``[n, V]`` at the scored positions of every row; rows of like length share a batch."""
    found: dict[int, Tensor] = {}
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    while order:
        width = len(rows[order[0]].input_ids)
        count = max(1, batch_tokens // width)
        batch, order = order[:count], order[count:]
        # Padding is at the end, where causal attention of the scored positions does not reach it.
        ids = torch.tensor([[*rows[i].input_ids, *[0] * (width - len(rows[i].input_ids))] for i in batch])
        kept = sorted({at for i in batch for at in rows[i].teacher_positions})
        place = {at: number for number, at in enumerate(kept)}
        logits = model(
            input_ids=ids.to(model.device),
            logits_to_keep=torch.tensor(kept, device=model.device),
            use_cache=False,
        ).logits
        for i, row in zip(batch, logits, strict=True):
            found[i] = row[[place[at] for at in rows[i].teacher_positions]]
    return [found[i] for i in range(len(rows))]
