"""`sd-search check` takes what main_ppo takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from omegaconf import DictConfig
from support.good_run import UNLISTENED

from sd_search_verl.cli import main


def test_the_command_takes_what_main_ppo_takes(good: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--config-name=cpu_demo",
        f"data.train_files={good.data.train_files}",
        f"data.val_files={good.data.val_files}",
        f"actor_rollout_ref.model.path={good.actor_rollout_ref.model.path}",
        f"search.retriever_urls=[{UNLISTENED}]",
        "search.timeout_s=0.1",
        "+algorithm.gama=1",
    ]
    assert main(["check", *arguments]) == 1
    shown = capsys.readouterr().out
    assert "ok    sd_search section" in shown
    assert "warn  config key" in shown
    names = ["trainer:", "policy:", "data:", "retriever:", "method:"]
    assert [line.split()[0] for line in shown.partition("This run:\n")[2].splitlines()] == names
    assert "config key: did you mean gamma?" in shown
    assert f"retriever {UNLISTENED}: start one with" in shown
    assert main(["check", "--config-name=nothing"]) == 1
    assert "Cannot find primary config 'nothing'" in capsys.readouterr().err


PAPER = "from sd_search_verl.verl_adapter.preflight import check_verl, compose\n"
PAPER += "print([f.found for f in check_verl(compose(['--config-name=paper', 'gpus=1x1'])) if not f.ok])"


def test_a_config_of_adapters_is_accepted_where_vllm_has_the_name_of_its_cpu_build() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    command = [sys.executable, "-c", PAPER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
