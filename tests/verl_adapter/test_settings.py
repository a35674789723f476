"""Start-up checks on verl's real config: what is missing, and what verl cannot carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict
from support.engine import compose

from sd_search_verl.config import ConfigError, SDSearchConfig, SearchConfig
from sd_search_verl.verl_adapter.preflight.method import check_unsupported
from sd_search_verl.verl_adapter.settings import read_sd_search, read_search

MODEL = Path("model")


def test_one_override_configures_everything() -> None:
    config = compose(MODEL)
    assert read_sd_search(config) == SDSearchConfig()
    assert read_search(config) == SearchConfig()
    assert config.trainer.v1.trainer_mode == "sd_search"
    assert config.actor_rollout_ref.rollout.agent.default_agent_loop == "sd_search_agent"
    assert config.reward.custom_reward_function.path == "pkg://sd_search_verl.scoring"
    assert [*check_unsupported(config)] == []


def test_overrides_reach_the_sections() -> None:
    config = compose(MODEL, ["sd_search.alpha=0.25", "sd_search.hindsight.group=own", "search.top_k=5"])
    assert read_sd_search(config).alpha == 0.25
    assert read_sd_search(config).hindsight.group == "own"
    assert read_search(config).top_k == 5


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"sd_search\.divergence='kl' must be 'jsd'"):
        read_sd_search(compose(MODEL, ["sd_search.divergence=kl"]))


def test_a_missing_plugin_is_named() -> None:
    config = compose(MODEL)
    with open_dict(config):
        config.sd_search = "default"  # what Hydra makes of an unknown group
    with pytest.raises(ConfigError, match="the plugin was not loaded"):
        read_sd_search(config)
    with pytest.raises(ConfigError, match="is missing; add"):
        read_search(OmegaConf.create({}))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.use_v1=False",
        "actor_rollout_ref.model.use_fused_kernels=True",
        "actor_rollout_ref.actor.fsdp_config.pad_to_length=True",
        "distillation.enabled=True",
        "actor_rollout_ref.actor.use_prefix_grouper=True",
        "actor_rollout_ref.actor.strategy=megatron",
        "actor_rollout_ref.rollout.name=sglang",
    ],
)
def test_what_verl_cannot_carry_is_refused(override: str) -> None:
    config = compose(MODEL, [override])
    finding, *_ = check_unsupported(config)
    assert "does not work with SD-Search: " in finding.found
    assert override.split("=")[0] == finding.name
    assert finding.fatal
