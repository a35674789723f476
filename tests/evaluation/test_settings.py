"""The training's limits are the evaluation's, and whatever differs is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml

from sd_search_verl.config import ConfigError, SearchConfig
from sd_search_verl.config_base import Affects
from sd_search_verl.errors import UserError
from sd_search_verl.evaluation.config import (
    EvaluationConfig,
    find_training_config,
    identity,
    protocol_hash,
    read_settings,
    seen_by_policy,
)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The config that Hydra leaves in a run folder."""
    whole = {
        "data": {
            "max_prompt_length": 100,
            "max_response_length": "${data.max_prompt_length}",
            "apply_chat_template_kwargs": {"enable_thinking": False},
        },
        "search": {**SearchConfig().model_dump(), "max_observation_tokens": 77, "top_k": 2},
    }
    path = tmp_path / "run" / "hydra" / ".hydra" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(whole))
    return path


def test_observations_are_cut_as_in_training(training: Path) -> None:
    """Elsewhere models trained at 512 tokens an observation are evaluated at 1024."""
    settings = read_settings(training, [], ["http://here/retrieve"])
    assert settings.config.search == SearchConfig().replace(
        max_observation_tokens=77, top_k=2, retriever_urls=["http://here/retrieve"]
    )
    assert (settings.config.max_prompt_tokens, settings.config.max_response_tokens) == (100, 100)
    assert json.loads(settings.config.chat_template_kwargs) == {"enable_thinking": False}
    assert settings.warnings() == []
    assert settings.training is not None
    assert protocol_hash(settings.config) == protocol_hash(settings.training)


def test_what_differs_is_said(training: Path) -> None:
    settings = read_settings(training, ["search.max_observation_tokens=1024", "temperature=1"])
    assert settings.warnings() == ["search.max_observation_tokens is not the training's: 1024 instead of 77"]
    assert settings.training is not None
    assert protocol_hash(settings.config) != protocol_hash(settings.training)
    other = read_settings(training, ["search.protocol=autorefine"]).warnings()
    assert any(warning.startswith("protocol.observation_open") for warning in other)
    assert "protocol.prompt_template is not the training's: the texts differ" in other
    (unknown,) = read_settings(None, []).warnings()
    assert "config is unknown" in unknown


def test_the_training_is_found_beside_its_checkpoint(training: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "global_step_4" / "actor" / "huggingface"
    checkpoint.mkdir(parents=True)
    assert find_training_config(checkpoint) == training
    assert find_training_config(tmp_path / "elsewhere" / "model") is None


def test_another_users_config_is_not_taken_unasked(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "run" / "global_step_4"
    owner = training.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    if owner == 0:  # root's are taken
        os.chown(training, 65534, 65534)
    with pytest.raises(UserError, match=rf"{training} is another user's.* Fix: --training {training} if"):
        find_training_config(model)
    assert read_settings(training, []).config.search.top_k == 2


@pytest.mark.parametrize("text", ["trainer: {}\n", "search: [google]\n", "- 1\n", "a: [\n", "\x00"])
def test_hydra_configs_of_other_programs_are_passed_over(training: Path, text: str, tmp_path: Path) -> None:
    model = tmp_path / "run" / "exports" / "model"
    for folder in (model.parent, tmp_path / "elsewhere"):
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(text)
    assert find_training_config(model) == training
    assert find_training_config(tmp_path / "elsewhere" / "model") is None


def test_the_hash_is_of_what_the_policy_sees() -> None:
    plain = read_settings(None, []).config
    same = read_settings(
        None, ["concurrency=3", "seeds=[5]", "search.timeout_s=1"], ["http://other/retrieve"]
    ).config
    assert protocol_hash(same) == protocol_hash(plain)
    for override in ("search.protocol=autorefine", "search.max_turns=4", "max_response_tokens=100"):
        assert protocol_hash(read_settings(None, [override]).config) != protocol_hash(plain)
    seen = seen_by_policy(plain)
    assert {"protocol.prompt_template", "protocol.invalid_action", "search.top_k"} <= set(seen)


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        ([], "d0bb8c219fb8d4de"),
        (["search.protocol=autorefine"], "179c669f21db9e00"),
        (["search.max_turns=4", "max_response_tokens=100"], "f7a74516aec47c96"),
        (
            ["search.top_k=5", "temperature=1", "concurrency=3", "search.max_turn_tokens=99"],
            "e676593d21639882",
        ),
    ],
)
def test_hashes_of_earlier_results_stay(overrides: list[str], recorded: str) -> None:
    assert protocol_hash(read_settings(None, overrides).config) == recorded


def test_a_restart_may_change_addresses_and_devices_and_nothing_that_an_answer_depends_on() -> None:
    assert identity(EvaluationConfig()) == {
        "seeds": [0],
        "temperature": 0.0,
        "top_p": 1.0,
        "sample": None,
        "max_prompt_tokens": 2048,
        "max_response_tokens": 4096,
        "dtype": "auto",
        "chat_template_kwargs": "{}",
        "search": {
            "top_k": 3,
            "max_turns": 5,
            "max_observation_tokens": 512,
            "max_turn_tokens": 512,
            "protocol": "search_r1",
        },
    }


def test_a_new_field_of_the_agent_loop_enters_the_hash_unless_it_is_marked() -> None:
    class MoreSearch(SearchConfig):
        stride: int = 1
        port: Annotated[int, Affects.OPERATION] = 1

    def seen(**more: int) -> dict[str, Any]:
        return seen_by_policy(EvaluationConfig(search=MoreSearch(**more)))

    assert seen()["search.stride"] == 1
    assert "search.port" not in seen()
    assert "port" not in identity(EvaluationConfig(search=MoreSearch()))["search"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("temprature=1", "temprature=1 is not a field. Fix: write temperature"),
        ("temperature=-1", "temperature=-1 must be greater than or equal to 0"),
        ("temperature=hot", "temperature='hot' must be a valid number"),
        ("seeds=[0,1]", "a single seed at temperature 0"),
        ("seeds=[]", "must have at least 1 item"),
        ("seeds=[1,1]", "must be distinct seeds"),
        ("search.protocol=react", "search.protocol='react' must be 'search_r1', 'autorefine' or"),
        ("search.max_turns=0", "must be greater than or equal to 1"),
        ("chat_template_kwargs=3", "chat_template_kwargs=3 must be a JSON object"),
        ("chat_template_kwargs='[3]'", "must be a JSON object"),
        ("sample=0", "sample=0 must be greater than or equal to 1, or null"),
        ("search=${nowhere}", "cannot be read"),
    ],
)
def test_wrong_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(None, [override])


@pytest.mark.parametrize("override", ["search", "search=1", "search=[1]"])
def test_a_section_that_is_none_is_named_beside_retrievers(override: str) -> None:
    with pytest.raises(ConfigError, match=r"search=.* must be a section"):
        read_settings(None, [override], ["http://h:1"])


def test_arguments_of_the_chat_template() -> None:
    plain = "{{ messages[0]['content'] }}"
    for override in (
        "{enable_thinking: false}",
        '{"enable_thinking": false}',
        """'{"enable_thinking": false}'""",
    ):
        config = read_settings(None, [f"chat_template_kwargs={override}"]).config
        assert json.loads(config.chat_template_kwargs) == {"enable_thinking": False}
    config = read_settings(None, [f'chat_template_kwargs={{chat_template: "{plain}"}}']).config
    assert json.loads(config.chat_template_kwargs) == {"chat_template": plain}


def test_a_config_of_another_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {}\n")
    with pytest.raises(ConfigError, match="no section 'search'"):
        read_settings(tmp_path / "config.yaml", [])
    with pytest.raises(UserError, match="is missing"):
        read_settings(tmp_path / "none.yaml", [])


def test_tools_of_verls_that_the_training_had_are_a_warning(tmp_path: Path) -> None:
    training: dict[str, Any] = {
        "search": {"protocol": "tool_call"},
        "actor_rollout_ref": {"rollout": {"multi_turn": {"function_tool_path": "tools.py"}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(training))
    (warning,) = read_settings(tmp_path / "config.yaml", []).warnings()
    assert "the training's tools of tools.py are not shown" in warning
    training["search"]["protocol"] = "search_r1"  # which never shows them
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(training))
    assert read_settings(tmp_path / "config.yaml", []).warnings() == []
