"""Room for a search, and the model's own context, are checked before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter.preflight.lengths import check_lengths

DATA, ROLLOUT = "data__max_", "actor_rollout_ref__rollout__"


def found(config: DictConfig, **values: Any) -> list[Finding]:
    return [*check_lengths(change(config, **values), [])]


def with_positions(config: DictConfig, folder: Path, **described: Any) -> DictConfig:
    """The good run with another context of its model."""
    shutil.copytree(config.actor_rollout_ref.model.path, folder / "model")
    file = folder / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **described}))
    return change(config, actor_rollout_ref__model__path=str(folder / "model"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"data__max_response_length": 100},
            "data.max_response_length=100 is less than one search can need, 112",
        ),
        ({"search__max_observation_tokens": 8000}, "search.max_observation_tokens=8000 between them"),
        ({"search__max_turn_tokens": 100}, "two turns of search.max_turn_tokens=100"),
    ],
)
def test_a_response_without_room_for_a_search_is_warned_about(
    good: DictConfig, values: dict[str, Any], says: str
) -> None:
    (finding,) = found(good, **values)
    assert finding.warning
    assert says in finding.found
    assert "without an answer" in finding.found
    assert "set data.max_response_length to at least " in finding.fix


def test_a_response_with_room_for_one_search_is_none_to_find(good: DictConfig) -> None:
    assert found(good, data__max_response_length=112) == []


def test_a_context_beyond_the_models_is_refused(good: DictConfig, tmp_path: Path) -> None:
    small = with_positions(good, tmp_path, max_position_embeddings=1500)
    (finding,) = found(small, sd_search__alpha=0)
    assert finding.fatal
    assert "max_model_len=2048 is more than max_position_embeddings=1500 of" in finding.found
    assert "set it to 1500 at most" in finding.fix
    assert found(small, sd_search__alpha=0, **{f"{ROLLOUT}max_model_len": 1500}) == []


def test_without_a_context_the_models_own_is_what_the_engine_has(good: DictConfig, tmp_path: Path) -> None:
    small = with_positions(good, tmp_path, max_position_embeddings=1100)
    (finding,) = found(small, **{f"{ROLLOUT}max_model_len": None})
    assert finding.warning
    assert (
        "max_model_len=null, for this model 1100, ends responses to a prompt of 1024 tokens" in finding.found
    )
    (finding,) = found(small, **{f"{ROLLOUT}max_model_len": None, f"{DATA}prompt_length": 1100})
    assert finding.fatal
    assert "leaves no token to answer a prompt of 1100" in finding.found


@pytest.mark.parametrize(
    ("values", "block"),
    [
        ({}, 5 * 3 * 24),
        ({"sd_search__hindsight__max_tokens": 200}, 200),
        ({"sd_search__hindsight__content": "full"}, 1024),
        ({"sd_search__alpha": 0}, None),
        ({"sd_search__hindsight__content": "none"}, None),
    ],
)
def test_rows_of_the_teacher_that_do_not_fit_are_warned_about(
    good: DictConfig, tmp_path: Path, values: dict[str, Any], block: int | None
) -> None:
    small = with_positions(good, tmp_path, max_position_embeddings=1300)
    findings = found(small, **{f"{ROLLOUT}max_model_len": 1300}, **values)
    assert [finding.warning for finding in findings] == ([] if block is None else [True])
    for finding in findings:
        assert f"may have {1024 + 192 + (block or 0)} tokens, 1024 of prompt, {block} of" in finding.found
        assert "max_position_embeddings=1300" in finding.found


def test_what_scaled_positions_hold_is_left_alone(good: DictConfig, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1300, "rope_theta": 100.0}
    small = with_positions(good, tmp_path, max_position_embeddings=1300, rope_parameters=yarn)
    assert found(small, **{f"{ROLLOUT}max_model_len": 1300}) == []


def test_the_models_positions_are_those_that_the_config_overrides(good: DictConfig, tmp_path: Path) -> None:
    """verl applies actor_rollout_ref.model.override_config before it looks."""
    small = with_positions(good, tmp_path, max_position_embeddings=1500)
    assert len(found(small, sd_search__alpha=0)) == 1
    override = "actor_rollout_ref__model__override_config__"
    assert found(small, **{f"{override}max_position_embeddings": 4096}) == []
    nested = {f"{override}model_config": {"max_position_embeddings": 4096}}
    assert found(small, **nested) == []
