"""Numbers with which verl starts, and nothing would be learnt, are refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.verl_adapter.preflight.method import check_method
from sd_search_verl.verl_adapter.preflight.numbers import check_numbers

ACTOR, ROLLOUT = "actor_rollout_ref__actor__", "actor_rollout_ref__rollout__"


def test_the_good_run_has_nothing_to_find(good: DictConfig) -> None:
    assert [*check_numbers(good)] == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (f"{ACTOR}optim__lr", 0.0, "optim.lr=0.0: no update would lower the loss"),
        (f"{ACTOR}optim__lr", -1e-6, "optim.lr=-1e-06: no update would lower the loss"),
        (f"{ACTOR}grad_clip", 0.0, "grad_clip=0.0: every gradient would be scaled to nothing"),
        (f"{ACTOR}ppo_epochs", 0, "ppo_epochs=0: no update would run"),
        (f"{ROLLOUT}temperature", 0, "temperature=0: all rollouts of a question would be alike"),
        (f"{ROLLOUT}top_p", 0.0, "top_p=0.0: all rollouts of a question would be alike"),
        (f"{ROLLOUT}top_k", 1, "top_k=1: all rollouts of a question would be alike"),
        (f"{ROLLOUT}agent__num_workers", 0, "agent.num_workers=0: no agent loop would run"),
        ("data__max_response_length", 0, "data.max_response_length=0: the policy could write no token"),
    ],
)
def test_a_number_that_leaves_nothing_to_learn_is_refused(
    good: DictConfig, option: str, value: Any, said: str
) -> None:
    findings = [finding for finding in check_method(change(good, **{option: value})) if said in finding.found]
    assert len(findings) == 1
    assert findings[0].fatal
    assert findings[0].fix.startswith("set it")


def test_an_option_that_verl_ignores_is_warned_about(good: DictConfig) -> None:
    (finding,) = check_numbers(change(good, **{f"{ROLLOUT}do_sample": False}))
    assert finding.warning
    assert "do_sample=False changes nothing" in finding.found
