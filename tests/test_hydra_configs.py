"""The configs of ``hydra_configs/``: they compose, restate no default, and say where a value comes from."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from support.recipes import REPO, composed, differing, wrong_with

from sd_search_verl.config import HealthConfig, SDSearchConfig, SearchConfig


def test_every_field_of_the_papers_config_is_stated_or_marked() -> None:
    """Values without the mark: those that the paper states, and those that follow or change no result."""
    stated = {"adv_estimator", "n", "name", "top_k", "total_training_steps", "train_files"}
    follows = {
        "do_sample",
        "logger",
        "max_model_len",
        "project_name",
        "resume_mode",
        "data_loader_seed",
        "seed",
    }
    for number, line in enumerate((REPO / "hydra_configs" / "paper.yaml").read_text().splitlines(), 1):
        value = re.match(r"\s+(\w+): \S", line)
        if value and "our choice" not in line:
            assert value[1] in stated | follows, f"paper.yaml:{number}: {line}"


def test_configs_do_not_restate_a_default() -> None:
    """A default stands in the models alone; the paper's config marks the values that are the paper's own."""
    defaults = {"sd_search": SDSearchConfig(), "search": SearchConfig(), "health": HealthConfig()}
    for path in sorted((REPO / "hydra_configs").rglob("*.yaml")):
        config, lines = yaml.safe_load(path.read_text()), path.read_text().splitlines()
        for section in defaults.keys() & config.keys():
            for name in restated(config[section], defaults[section].model_dump()):
                marked = [line for line in lines if f" {name}: " in line and "the paper's" in line]
                assert path.name == "paper.yaml" and marked, f"{path.name}: {section}.{name}"  # noqa: PT018


def restated(values: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    """Yield the names of fields whose value is the default."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from restated(value, defaults[name])
        elif value == defaults[name]:
            yield name


@pytest.mark.parametrize("name", ["cpu", "cpu_demo", "cpu_smollm2", "cpu_wiki18_mini", "cpu_separate_async"])
def test_the_cpu_configs_compose(name: str) -> None:
    config = composed(f"--config-name={name}")
    if name == "cpu":  # a base: batch sizes are its users'
        config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu = 1
        config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu = 1
    assert wrong_with(config) == []


@pytest.mark.parametrize("name", ["demo", "smollm2"])
def test_a_run_is_the_same_on_a_gpu(name: str) -> None:
    cpu, gpu = (composed(f"--config-name={kind}_{name}") for kind in ("cpu", "gpu"))
    for section in ("sd_search", "search", "algorithm"):
        assert gpu[section] == cpu[section]
    assert gpu.trainer.device == "cuda"
    assert wrong_with(gpu) == []


def test_main_ppo_finds_them_from_any_folder(tmp_path: Path) -> None:
    """Through a config of one's own that starts from ours, as the installed command composes it."""
    (tmp_path / "mine.yaml").write_text(
        "defaults: [paper, {override policy: qwen2.5_7b_base}, _self_]\n"
        "hydra: {searchpath: ['pkg://sd_search_verl.hydra_configs']}\nseed: 5\n"
    )
    arguments = [f"--config-dir={tmp_path}", "--config-name=mine", "gpus=2x8"]
    done = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *arguments, "--cfg", "job", "--resolve"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    mine = OmegaConf.create(done.stdout)
    same = composed("--config-name=paper", "policy=qwen2.5_7b_base", "gpus=2x8", "seed=5")
    assert differing(mine, same) == differing(composed(*arguments), same) == set()
