"""A rollout as plain Python values: whole for verl's data plane, and as a readable record for evaluation's file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sd_search_verl.protocol.base import Messages
from sd_search_verl.rollout.types import Prompt, Rollout, Search

ROLLOUT_KEY = "sd_search"
"""Key of the rollout in the agent loop's extra fields, and so in a reward's ``extra_info``."""


def to_plain(rollout: Rollout) -> dict[str, Any]:
    """Return everything but the messages and the token tensors, which verl carries itself (see :func:`from_plain`)."""
    prompt = dataclasses.replace(rollout.prompt, messages=[], token_ids=[])
    return dataclasses.asdict(
        dataclasses.replace(rollout, prompt=prompt, response_ids=[], response_mask=[], log_probs=None)
    )


def from_plain(
    plain: Mapping[str, Any],
    messages: Messages,
    prompt_ids: list[int],
    response_ids: list[int],
    response_mask: list[int],
) -> Rollout:
    """Return the rollout of :func:`to_plain`, without ``log_probs``."""
    return Rollout(
        **{
            **plain,
            "prompt": Prompt(**{**plain["prompt"], "messages": messages, "token_ids": prompt_ids}),
            "response_ids": response_ids,
            "response_mask": response_mask,
            **{
                name: [(first, second) for first, second in plain[name]]
                for name in ("spans", "argument_spans", "versions")
            },
            "searches": [Search(**search) for search in plain["searches"]],
        }
    )


def to_record(rollout: Rollout) -> dict[str, Any]:
    """Return a line of ``trajectories.jsonl``; ``gold_in_documents`` and ``latencies_s`` have an entry per search."""
    return {
        "answer": rollout.answer,
        "golden_answers": list(rollout.prompt.golden_answers),
        "em": rollout.em,
        "f1": rollout.f1,
        "cover_em": rollout.cover_em,
        "status": rollout.status,
        "turns": rollout.turns,
        "queries": rollout.queries,
        "gold_in_documents": [int(search.has_gold) for search in rollout.searches],
        "latencies_s": [round(search.latency_s, 4) for search in rollout.searches],
        "failures": sum(search.error is not None for search in rollout.searches),
        "malformed": rollout.malformed,
        "truncated_observations": rollout.truncated_observations,
        "response": rollout.response,
        "prompt_tokens": len(rollout.prompt.token_ids) + rollout.prompt.num_cut,
        "truncated_prompt": int(rollout.prompt.num_cut > 0),
        "response_tokens": len(rollout.response_ids),
        "policy_tokens": sum(rollout.response_mask),
    }
