"""Every recipe, run with a `python` that only writes down its arguments, composes on the installed verl."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.recipes import REPO, commands, composed, differing, trainings, wrong_with

from sd_search_verl.config import SDSearchConfig
from sd_search_verl.verl_adapter.preflight import check_hindsight, check_method

POLICIES = [f"qwen2.5_{size}_{kind}" for size in ("3b", "7b") for kind in ("base", "instruct")]
GPUS = sorted(path.stem for path in (REPO / "hydra_configs" / "gpus").glob("*.yaml"))

NUMBER = {"trainer.nnodes", "trainer.n_gpus_per_node", "actor_rollout_ref.rollout.n_gpus_per_node"}
ADAPTERS = {
    *(f"actor_rollout_ref.model.{name}" for name in ("lora_rank", "lora_alpha")),
    *(f"actor_rollout_ref.actor.fsdp_config.{name}" for name in ("param_offload", "optimizer_offload")),
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu",
    "actor_rollout_ref.rollout.load_format",
    "actor_rollout_ref.rollout.layered_summon",
}
"""What `gpus` with fewer than eight cards changes: adapters, and the memory for them."""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("gpus", ["1x8", "2x8"])
def test_the_papers_run_and_its_twin(policy: str, gpus: str, tmp_path: Path) -> None:
    arguments = ["data", "run", f"policy={policy}", f"gpus={gpus}", "seed=3"]
    (sd_search,) = trainings("paper_sd_search.sh", *arguments, folder=tmp_path)
    (grpo,) = trainings("paper_grpo.sh", *arguments, folder=tmp_path)
    ours, twin = composed(*sd_search), composed(*grpo)
    assert wrong_with(ours) == wrong_with(twin) == []
    assert differing(ours, twin) == {"sd_search.alpha"}
    assert (
        ours.data.seed
        == ours.actor_rollout_ref.rollout.seed
        == ours.actor_rollout_ref.actor.data_loader_seed
        == 3
    )
    assert ours.trainer.nnodes * ours.trainer.n_gpus_per_node == {"1x8": 8, "2x8": 16}[gpus]
    size, kind = policy.split("_")[1:]
    name = f"Qwen/Qwen2.5-{size.upper()}" + ("-Instruct" if kind == "instruct" else "")
    assert ours.actor_rollout_ref.model.path == name


@pytest.mark.parametrize("gpus", GPUS)
def test_every_number_of_gpus_starts(gpus: str, tmp_path: Path) -> None:
    (arguments,) = trainings("paper_sd_search.sh", "data", "run", f"gpus={gpus}", folder=tmp_path)
    config, eight = composed(*arguments), composed(*arguments[:-1])
    assert wrong_with(config) == []
    nodes, cards = map(int, gpus.split("x"))
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (nodes, cards)
    adapters = ADAPTERS if cards < 8 else set()
    assert adapters <= differing(config, eight) <= NUMBER | adapters
    assert (config.actor_rollout_ref.model.lora_rank > 0) == (cards < 8)
    # One micro-batch holds the longest rollout there may be.
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu >= longest


def test_the_papers_values(tmp_path: Path) -> None:
    (arguments,) = trainings("paper_sd_search.sh", "data", "run", folder=tmp_path)
    config = composed(*arguments)
    assert OmegaConf.to_container(config.sd_search) == SDSearchConfig().model_dump()
    assert config.algorithm.adv_estimator == "grpo"
    assert (config.actor_rollout_ref.rollout.n, config.search.top_k) == (5, 3)
    assert config.trainer.total_training_steps == 200
    assert (
        config.actor_rollout_ref.rollout.max_model_len
        == config.data.max_prompt_length + config.data.max_response_length
    )
    # The longest rollout that the limits of the agent loop allow fits.
    search = config.search
    longest = (
        search.max_turns * (search.max_turn_tokens + search.max_observation_tokens) + search.max_turn_tokens
    )
    assert longest <= config.data.max_response_length


def test_the_ablations_change_one_field_each(tmp_path: Path) -> None:
    """The ablation without future masking also changes the block's limit, which whole rollouts would exceed."""
    (base,) = trainings("paper_sd_search.sh", "data", "runs/x", folder=tmp_path)
    found = trainings("paper_ablations.sh", "data", "runs", "all", folder=tmp_path)
    assert len(found) == 11
    table = (REPO / "docs" / "method.md").read_text()
    for arguments in found:
        config = composed(*arguments)
        assert wrong_with(config) == []
        changed = differing(config, composed(*base))
        changed = {name for name in changed if not name.endswith(("default_local_dir", "experiment_name"))}
        if config.sd_search.hindsight.content == "full":
            changed.remove("sd_search.hindsight.max_tokens")
        (name,) = changed
        assert name.startswith("sd_search.")
        assert all(finding.ok for finding in check_hindsight(config)), name
        assert name in table
        assert str(OmegaConf.select(config, name)) in table
    assert len({tuple(arguments) for arguments in found}) == 11


@pytest.mark.parametrize("mode", ["colocate", "separate"])
def test_the_papers_run_with_asynchronous_rollouts(mode: str, tmp_path: Path) -> None:
    (arguments,) = trainings("paper_async.sh", "data", "run", mode, "seed=3", folder=tmp_path)
    (sync,) = trainings("paper_sd_search.sh", "data", "run", "seed=3", folder=tmp_path)
    config = composed(*arguments)
    assert wrong_with(config) == []
    assert [finding.found for finding in check_method(config)] == []
    changed = {"trainer.v1.trainer_mode", "algorithm.rollout_correction.rollout_is"}
    if mode == "separate":
        rollout = "actor_rollout_ref.rollout"
        changed |= {"actor_rollout_ref.hybrid_engine", "trainer.v1.separate_async.parameter_sync_step"}
        changed |= {f"{rollout}.nnodes", f"{rollout}.n_gpus_per_node", f"{rollout}.checkpoint_engine.backend"}
        changed |= {"trainer.n_gpus_per_node"}
        assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size
    assert differing(config, composed(*sync)) == changed


def test_plain_search_r1(tmp_path: Path) -> None:
    (arguments,) = trainings("search_r1.sh", "data", "run", folder=tmp_path)
    config = composed(*arguments)
    assert wrong_with(config) == []
    assert config.sd_search.alpha == 0
    assert (config.search.protocol, config.search.max_turns) == ("search_r1", 4)
    assert config.reward.custom_reward_function.reward_kwargs.metric == "em"
    (arguments,) = trainings("search_r1.sh", "data", "run", "sd_search.alpha=1e-3", folder=tmp_path)
    assert composed(*arguments).sd_search.alpha == 1e-3


def test_the_comparison_is_paired(tmp_path: Path) -> None:
    (tmp_path / "data" / "eval").mkdir(parents=True)
    for name in ("nq", "musique"):
        (tmp_path / "data" / "eval" / f"{name}.parquet").touch()
    for arm in ("grpo", "sd_search"):
        for seed in (0, 1):
            run = tmp_path / "runs" / f"{arm}-seed{seed}"
            run.mkdir(parents=True)
            (run / "latest_checkpointed_iteration.txt").write_text("200")
    calls = commands("paper_compare.sh", "data", "runs", "0 1", folder=tmp_path)
    trained = [call for call in calls if "verl.trainer.main_ppo" in call]
    assert [[a for a in call if a.startswith("seed=")] for call in trained] == [["seed=0"]] * 2 + [
        ["seed=1"]
    ] * 2
    evaluated = [call for call in calls if call[:2] == ["sd-search", "evaluate"]]
    assert [call.count("--questions") for call in evaluated] == [2] * 4
    assert "runs/grpo-seed0/global_step_200" in evaluated[0]
    assert not any("--retriever" in call for call in evaluated), "the training's own is the default"
    assert [call[1] for call in calls if call[0] == "sd-search"] == [
        "evaluate",
        "evaluate",
        "compare",
    ] * 2 + ["report"]


def test_the_comparison_in_the_world_makes_one_update_a_step(tmp_path: Path) -> None:
    calls = commands("world_compare.sh", "0 1", "runs", "3", folder=tmp_path)
    runs = [call for call in calls if call[:2] == ["sd-search", "local"]]
    assert [call[call.index("--run") + 1] for call in runs] == [
        f"runs/{arm}-seed{seed}" for seed in (0, 1) for arm in ("grpo", "sd")
    ]
    for call in runs:
        config = composed("--config-name=cpu_demo", *(word for word in call if "=" in word))
        assert config.actor_rollout_ref.actor.ppo_mini_batch_size == config.data.train_batch_size == 8
        assert config.sd_search.alpha == (0.3 if "runs/sd" in " ".join(call) else 0)
    (table,) = [call for call in calls if "--csv" in call]
    assert table[table.index("--csv") + 1] == "runs/world.csv"


METHODS = re.findall(r"^  \[(\w+)\]=", (REPO / "recipes" / "compare_methods.sh").read_text(), re.MULTILINE)


def test_every_method_of_the_comparison_composes_and_is_another(tmp_path: Path) -> None:
    calls = commands("compare_methods.sh", " ".join(METHODS), "0", "runs", "2", folder=tmp_path)
    runs = [call for call in calls if call[:2] == ["sd-search", "local"]]
    assert len(runs) == len(METHODS) >= 15
    found = {}
    for method, call in zip(METHODS, runs, strict=True):
        overrides = [word for word in call if "=" in word]
        found[method] = composed("--config-name=cpu_demo", *overrides)
        assert wrong_with(found[method]) == [], method
        assert [f.found for f in check_method(found[method]) if f.fatal] == [], method
    for method in METHODS[1:]:
        assert differing(found["grpo"], found[method]), method


@pytest.mark.parametrize("policy", ["qwen3_1.7b", "qwen3_4b", "qwen3_8b", "qwen3.5_4b"])
def test_tool_calls_of_newer_models(policy: str, tmp_path: Path) -> None:
    arguments = ["data", "run", f"policy={policy}", "start=tool_call"]
    (started,) = trainings("paper_sd_search.sh", *arguments, folder=tmp_path)
    config = composed(*started)
    assert wrong_with(config) == []
    family = "qwen3_coder" if policy == "qwen3.5_4b" else "hermes"
    assert (config.search.protocol, config.search.tool_call.family) == ("tool_call", family)
    name, size = policy.split("_")
    assert config.actor_rollout_ref.model.path == f"Qwen/{name.capitalize()}-{size.upper()}"
    assert config.data.apply_chat_template_kwargs.enable_thinking is False
    # The longest rollout fits, with 32 tokens of the template around each result.
    search = config.search
    turns = search.max_turns * (search.max_turn_tokens + search.max_observation_tokens + 32)
    assert turns + search.max_turn_tokens <= config.data.max_response_length
