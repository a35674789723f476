"""`sd-search check` says in five lines what would run."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.good_run import UNLISTENED, change

from sd_search_verl.verl_adapter.preflight import describe_run


def test_the_run_in_five_lines(good: DictConfig) -> None:
    trainer, policy, data, retriever, method = describe_run(good)
    assert trainer == (
        "trainer:   sd_search on 1 x 1 cpu, agent loop sd_search_agent, reward pkg://sd_search_verl.scoring:compute_score"
    )
    assert policy.startswith(f"policy:    {good.actor_rollout_ref.model.path} (Qwen2ForCausalLM), tokenizer ")
    assert "(byte-level BPE), " in policy
    assert data == "data:      8 rows to train on, 8 to validate; the first question: 'question 0'"
    assert retriever.startswith(f"retriever: 1 documents a query, {UNLISTENED} (states no identity: ")
    assert method == (
        "method:    L_GRPO + 0.3 L_SD from step 4 (jsd, queries block); groups of 5, 14 steps of 8"
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sd_search__alpha": 0}, "L_GRPO + no L_SD (sd_search.alpha=0); groups of 5"),
        ({"sd_search__warmup_steps": 14}, "no L_SD (sd_search.warmup_steps=14 is not over before the end)"),
        (
            {"trainer__total_training_steps": None, "trainer__total_epochs": 3},
            "no L_SD (sd_search.warmup_steps=3",
        ),
        ({"trainer__total_training_steps": None, "trainer__total_epochs": 4}, "4 steps of 8"),
        ({"algorithm__adv_estimator": "gae"}, "L_GAE + 0.3 L_SD"),
        (
            {"sd_search__use": "advantage"},
            "no L_SD, advantages scaled with alpha 0.3 from step 4 with use=advantage",
        ),
        (
            {"sd_search__schedule": "stages", "sd_search__distil_steps": 5000},
            "L_GRPO to step 3, then 0.3 L_SD alone from step 4 to 14 (jsd, queries block) with schedule=stages",
        ),
        (
            {"sd_search__schedule": "stages", "sd_search__distil_steps": 4, "sd_search__warmup_steps": 0},
            "method:    0.3 L_SD alone from step 1 to 4, then L_GRPO alone to the end (jsd",
        ),
        (
            {"sd_search__schedule": "stages", "sd_search__distil_steps": 4, "sd_search__rl_steps": 2},
            "0.3 L_SD alone from step 4 to 7, then L_GRPO alone to step 9, and so on in turns (jsd",
        ),
        (
            {"sd_search__schedule": "cosine", "sd_search__distil_steps": 20},
            "0.3 L_SD from step 4 (jsd, queries block), alpha 0.15 in step 14, with schedule=cosine",
        ),
        (
            {"sd_search__gate": "sigmoid", "sd_search__regularizer": "llds"},
            "0.3 L_SD from step 4 (jsd, queries block) with gate=sigmoid, regularizer=llds; groups",
        ),
    ],
)
def test_the_method_is_what_the_options_make_of_it(
    good: DictConfig, values: dict[str, object], says: str
) -> None:
    assert says in describe_run(change(good, **values))[4]


def test_what_cannot_be_found_out_is_unknown(good: DictConfig, tmp_path: Path) -> None:
    values = {
        "actor_rollout_ref__model__path": str(tmp_path / "no"),
        "data__train_files": str(tmp_path / "no.parquet"),
    }
    lines = describe_run(change(good, **values))
    assert len(lines) == 5
    assert lines[1].startswith("policy:    unknown (")
    assert lines[2].startswith("data:      unknown (")
    assert lines[4].endswith("groups of 5, 14 steps of 8")


def test_other_trainers_and_rewards_are_named(good: DictConfig) -> None:
    values = {"trainer__v1__trainer_mode": "sync", "reward__custom_reward_function__path": None}
    trainer = describe_run(change(good, **values))[0]
    assert trainer.startswith("trainer:   sync on ")
    assert trainer.endswith("reward verl's, by data_source")
