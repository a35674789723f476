"""An episode as plain Python values: one record for training's metrics and traces and for evaluation's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sd_search_verl import scoring
from sd_search_verl.rollout.episode import Episode


def make_record(episode: Episode, golden_answers: Sequence[str], tokenizer: Any) -> dict[str, Any]:
    """What became of an episode. ``gold_in_documents`` and ``latencies_s`` have an entry for each executed query."""
    found = [scoring.contains_answer(search.documents, golden_answers) for search in episode.searches]
    return {
        "answer": episode.answer,
        "golden_answers": list(golden_answers),
        "em": scoring.exact_match(episode.answer, golden_answers),
        "f1": scoring.token_f1(episode.answer, golden_answers),
        "cover_em": scoring.cover_exact_match(episode.answer, golden_answers),
        "status": episode.status,
        "turns": episode.turns,
        "queries": episode.queries,
        "gold_in_documents": [int(value) for value in found],
        "latencies_s": [round(search.latency_s, 4) for search in episode.searches],
        "failures": sum(search.error is not None for search in episode.searches),
        "malformed": episode.malformed,
        "truncated_observations": episode.truncated_observations,
        "response": tokenizer.decode(episode.response_ids, skip_special_tokens=False),
    }
