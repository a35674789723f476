"""A rollout as plain values: nothing is lost on its way through verl, and evaluation's record keeps its keys."""

from __future__ import annotations

import dataclasses
import json

from sd_search_verl.rollout.record import from_plain, to_plain, to_record
from sd_search_verl.rollout.types import Prompt, Rollout, Search

ROLLOUT = Rollout(
    Prompt("g", [{"role": "user", "content": "q?"}], [1, 2], ["Jane Austen", "Austen"], num_cut=3),
    response_ids=[3, 4, 5],
    response_mask=[1, 0, 1],
    log_probs=[-0.1, 0.0, -0.2],
    queries=["who", "when"],
    spans=[(0, 1), (2, 2)],
    argument_spans=[(2, 3)],
    searches=[Search("who", "Doc 1", 0.25, None, True), Search("when", "", 0.5, "timeout", False)],
    answer="Austen \ud83d",
    status="answered",
    turns=2,
    malformed={"empty_query": 0, "unfinished": 1, "no_action": 2},
    truncated_observations=1,
    response="text",
    em=1.0,
    f1=0.5,
    cover_em=0.25,
    reward=0.75,
    versions=[(0, 3), (2, 4)],
)


def test_every_field_has_a_value_that_is_not_its_default() -> None:
    """Else the round trip below would not see that it was lost."""
    for value, default in ((ROLLOUT, Rollout(Prompt("", [], []))), (ROLLOUT.prompt, Prompt("", [], []))):
        for field in dataclasses.fields(value):
            assert getattr(value, field.name) != getattr(default, field.name), field.name


def test_a_rollout_survives_the_way_through_verl() -> None:
    """verl carries tokens, mask, log-probs and messages itself; the log-probs are not read back."""
    plain = json.loads(json.dumps(to_plain(ROLLOUT)))
    prompt = ROLLOUT.prompt
    found = from_plain(plain, prompt.messages, prompt.token_ids, ROLLOUT.response_ids, ROLLOUT.response_mask)
    assert found == dataclasses.replace(ROLLOUT, log_probs=None)


def test_plain_values_hold_no_token_twice() -> None:
    plain = to_plain(ROLLOUT)
    assert plain["response_ids"] == plain["response_mask"] == plain["prompt"]["token_ids"] == []
    assert plain["answer"] == ROLLOUT.answer  # read by sd_search_verl.scoring.compute_score


def test_the_record_of_an_evaluation() -> None:
    assert to_record(ROLLOUT) == {
        "answer": "Austen \ud83d",
        "golden_answers": ["Jane Austen", "Austen"],
        "em": 1.0,
        "f1": 0.5,
        "cover_em": 0.25,
        "status": "answered",
        "turns": 2,
        "queries": ["who", "when"],
        "gold_in_documents": [1, 0],
        "latencies_s": [0.25, 0.5],
        "failures": 1,
        "malformed": {"empty_query": 0, "unfinished": 1, "no_action": 2},
        "truncated_observations": 1,
        "response": "text",
        "prompt_tokens": 5,
        "truncated_prompt": 1,
        "response_tokens": 3,
        "policy_tokens": 2,
    }
