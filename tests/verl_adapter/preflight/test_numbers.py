"""Numbers with which verl starts, and nothing would be learnt, are refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change
from verl.workers.config import FSDPActorConfig

from sd_search_verl.verl_adapter.preflight.method import check_method
from sd_search_verl.verl_adapter.preflight.numbers import STOCK_CLIP, check_numbers

ACTOR, ROLLOUT = "actor_rollout_ref__actor__", "actor_rollout_ref__rollout__"


def test_the_good_run_has_nothing_to_find(good: DictConfig) -> None:
    assert [*check_numbers(good)] == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (f"{ACTOR}optim__lr", 0.0, "optim.lr=0.0: no update would lower the loss"),
        (f"{ACTOR}optim__lr", -1e-6, "optim.lr=-1e-06: no update would lower the loss"),
        (f"{ACTOR}optim__clip_grad", 0.0, "clip_grad=0.0: every gradient would be scaled to nothing"),
        (f"{ACTOR}ppo_epochs", 0, "ppo_epochs=0: no update would run"),
        (f"{ROLLOUT}temperature", 0, "temperature=0: all rollouts of a question would be alike"),
        (f"{ROLLOUT}top_p", 0.0, "top_p=0.0: vLLM refuses it"),
        (f"{ROLLOUT}top_k", 1, "top_k=1: all rollouts of a question would be alike"),
        (f"{ROLLOUT}agent__num_workers", 0, "agent.num_workers=0: no agent loop would run"),
        ("data__max_response_length", 0, "data.max_response_length=0: the policy could write no token"),
        (
            f"{ACTOR}clip_ratio_low",
            -0.2,
            "clip_ratio_low=-0.2 and actor_rollout_ref.actor.clip_ratio_high=0.2",
        ),
        (f"{ACTOR}clip_ratio_high", -0.2, "clip_ratio_high=-0.2 leave the policy no room"),
        (f"{ACTOR}clip_ratio_c", 1.0, "clip_ratio_c=1.0: verl ends the first update"),
        (f"{ACTOR}ppo_mini_batch_size", 0, "ppo_mini_batch_size=0: no update would run"),
        (f"{ACTOR}ppo_micro_batch_size_per_gpu", 0, "ppo_micro_batch_size_per_gpu=0: no row would be read"),
        (f"{ROLLOUT}top_p", 1.5, "top_p=1.5: vLLM refuses it"),
        (f"{ROLLOUT}val_kwargs__top_p", 0, "val_kwargs.top_p=0: vLLM refuses it"),
        (f"{ROLLOUT}gpu_memory_utilization", 2, "gpu_memory_utilization=2: it is vLLM's share"),
        (f"{ROLLOUT}val_kwargs__n", 0, "val_kwargs.n=0: the validation would draw no rollout"),
        (f"{ROLLOUT}max_num_seqs", 0, "max_num_seqs=0: vLLM would run no sequence"),
        ("reward__num_workers", 0, "reward.num_workers=0: no process would score rollouts"),
        ("trainer__nnodes", 0, "trainer.nnodes=0: there would be no machine to train on"),
        ("trainer__n_gpus_per_node", 0, "trainer.n_gpus_per_node=0: there would be no process to train in"),
        ("data__val_batch_size", 0, "data.val_batch_size=0: no question would be read for the validation"),
    ],
)
def test_a_number_that_leaves_nothing_to_learn_is_refused(
    good: DictConfig, option: str, value: Any, said: str
) -> None:
    findings = [finding for finding in check_method(change(good, **{option: value})) if said in finding.found]
    assert len(findings) == 1
    assert findings[0].fatal
    assert findings[0].fix.startswith("set ")


@pytest.mark.parametrize(
    ("clip", "low", "high", "says"),
    [
        (0.2, 0.2, 0.28, None),
        (0.2, 3e-4, 4e-4, None),
        (0.3, None, None, None),
        (0.2, 0.0, 0.2, None),
        (
            0,
            None,
            None,
            "clip_ratio_low=0 and actor_rollout_ref.actor.clip_ratio_high=0 leave the policy no room",
        ),
        (
            0.3,
            0.2,
            0.2,
            "clip_ratio=0.3 changes nothing: verl clips by actor_rollout_ref.actor.clip_ratio_low=0.2",
        ),
    ],
)
def test_the_range_of_ratios_is_the_one_that_verl_reads(
    good: DictConfig, clip: float, low: float | None, high: float | None, says: str | None
) -> None:
    values = {f"{ACTOR}clip_ratio": clip, f"{ACTOR}clip_ratio_low": low, f"{ACTOR}clip_ratio_high": high}
    found = [finding.found for finding in check_numbers(change(good, **values))]
    assert (says is None) == (found == [])
    assert all(str(says) in text for text in found)


def test_the_default_of_the_clip_is_verls(good: DictConfig) -> None:
    stock = FSDPActorConfig(strategy="fsdp", rollout_n=5, ppo_micro_batch_size_per_gpu=1)
    assert STOCK_CLIP == stock.clip_ratio == stock.clip_ratio_low == stock.clip_ratio_high


@pytest.mark.parametrize("option", [f"{ACTOR}optim__lr", "data__train_batch_size", f"{ACTOR}clip_ratio_low"])
@pytest.mark.parametrize("value", ["a word", None])
def test_what_is_no_number_is_left_to_verls_own_checks(good: DictConfig, option: str, value: Any) -> None:
    assert [*check_numbers(change(good, **{option: value}))] == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("data__train_max_samples", 0, "data.train_max_samples=0 is no limit"),
        ("data__val_max_samples", 0, "data.val_max_samples=0 is no limit"),
        (
            f"{ACTOR}ppo_mini_batch_size",
            3,
            "empty rollouts to those of 9 questions, and an update sees fewer",
        ),
        (f"{ACTOR}ppo_mini_batch_size", 32, "data.train_batch_size=8 is no multiple of"),
        (
            f"{ACTOR}ppo_mini_batch_size",
            32,
            "empty rollouts to those of 32 questions, and an update sees fewer",
        ),
    ],
)
def test_a_number_that_verl_reads_as_another_is_warned_about(
    good: DictConfig, option: str, value: int, said: str
) -> None:
    (finding,) = check_numbers(change(good, **{option: value}))
    assert finding.warning
    assert said in finding.found
