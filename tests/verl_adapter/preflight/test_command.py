"""`sd-search check` takes what main_ppo takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.good_run import UNLISTENED
from support.recipes import REPO

from sd_search_verl.cli import main
from sd_search_verl.config import ConfigError
from sd_search_verl.verl_adapter.preflight import compose


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


EDITED = "defaults: [/start/search_r1, _self_]\nseed: 7\n"


@pytest.mark.parametrize("flag", ["--config-dir=FOLDER", "-cd FOLDER"])
def test_a_file_that_a_package_hides_is_named(tmp_path: Path, flag: str) -> None:
    """Hydra looks for the name in the user's folder last: a copy of ours under its name would not be read."""
    given = [*flag.replace("FOLDER", str(tmp_path)).split(), "--config-name=paper"]
    (tmp_path / "paper.yaml").write_text((REPO / "hydra_configs" / "paper.yaml").read_text())
    assert compose(given).seed == 0  # the same text
    (tmp_path / "paper.yaml").write_text(EDITED)
    with pytest.raises(ConfigError, match=r"paper.yaml is not read: .*/hydra_configs has another"):
        compose(given)
    (tmp_path / "paper.yaml").rename(tmp_path / "mine.yaml")
    assert compose([*given[:-1], "--config-name=mine"]).seed == 7
    (tmp_path / "actor").mkdir()
    (tmp_path / "actor" / "dp_actor.yaml").write_text("strategy: fsdp\n")
    with pytest.raises(ConfigError, match=r"verl/trainer/config has another actor/dp_actor.yaml"):
        compose([*given[:-1], "--config-name=paper"])


def test_a_hidden_file_that_nothing_chooses_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine", "demo", "nobodys"):
        (tmp_path / f"{name}.yaml").write_text("defaults: [paper, _self_]\nseed: 7\n")
    assert compose([f"--config-dir={tmp_path}", "--config-name=mine"]).seed == 7
    shown = capsys.readouterr().err
    assert f"warning: {tmp_path}/demo.yaml is not read: " in shown
    assert "nobodys" not in shown


def test_the_first_folder_is_read_and_a_package_that_is_nowhere_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine.yaml").write_text("# @package _global_\nmine: 7\n")
    path = f"hydra.searchpath=[pkg://nowhere.at.all,file://{tmp_path},pkg://sd_search_verl.hydra_configs]"
    assert compose(["--config-name=paper", path, "policy=mine"]).mine == 7


def test_hydra_composes_as_it_does_for_verls_command(tmp_path: Path) -> None:
    """It has modes of its earlier versions, which accept what the command refuses."""
    (tmp_path / "mine.yaml").write_text("defaults: [paper, {logs: nope, optional: true}, _self_]\n")
    with pytest.raises(ConfigError, match="Too many keys"):
        compose([f"--config-dir={tmp_path}", "--config-name=mine"])


def test_a_sweep_is_several_runs() -> None:
    with pytest.raises(ConfigError, match="check one of them"):
        compose(["-m", "--config-name=paper", "seed=0,1"])


def test_options_of_hydras_command_are_taken(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text(EDITED)
    primary = [f"--config-path={tmp_path}", "--config-name=paper"]
    assert compose(primary).seed == compose([*primary, "--cfg", "job"]).seed == 7
    with pytest.raises(ConfigError, match=r"paper.yaml is not read"):
        compose([f"hydra.searchpath=[file://{tmp_path}]", "--config-name=paper"])
    assert "hydra" not in compose(["hydra.run.dir=elsewhere", "hydra.verbose=True"])


PAPER = "from sd_search_verl.verl_adapter.preflight import check_verl, compose\n"
PAPER += "print([f.found for f in check_verl(compose(['--config-name=paper', 'gpus=1x1'])) if not f.ok])"


def test_a_config_of_adapters_is_accepted_where_vllm_has_the_name_of_its_cpu_build() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    command = [sys.executable, "-c", PAPER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
