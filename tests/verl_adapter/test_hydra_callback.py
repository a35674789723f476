"""verl's own command ends before it starts anything that is not SD-Search, or that would save a key."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from support.forked import start
from support.good_run import change, good_config

from sd_search_verl.verl_adapter.hydra_callback import RefuseOtherMethod

ABOVE = "defaults: [{sd_search: default}, ppo_trainer, _self_]\nalgorithm: {adv_estimator: grpo}\n"
BY_HAND = "defaults: [ppo_trainer, _self_]\nsd_search: {alpha: 0.3}\nsearch: {}\nhealth: {}\n"


def main_ppo(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Run verl's own command in ``folder``; return its exit status and what it printed."""
    code = f"import os, runpy; os.chdir({str(folder)!r}); runpy.run_module('verl.trainer.main_ppo', {{}}, '__main__')"
    process = start(code, [*arguments, f"hydra.run.dir={folder}/hydra"], {}, folder / "log")
    process.join(120)
    return process.exitcode, (folder / "log").read_text()


def typed_main_ppo(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """The same in a new interpreter, in which verl has to load the plugin."""
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *arguments, f"hydra.run.dir={folder}/hydra"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, cwd=folder
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (None, ["+sd_search=default", "trainer.v1.trainer_mode=sync", "sd_search.alpha=0.3"]),
        (ABOVE, []),
        (BY_HAND, []),
    ],
    ids=["command line", "below ppo_trainer", "sections by hand"],
)
def test_verls_command_refuses_sections_of_ours_with_its_own_trainer(
    tmp_path: Path, text: str | None, arguments: list[str]
) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text + "hydra: {searchpath: ['pkg://verl.trainer.config']}\n")
        arguments = [f"--config-dir={tmp_path}", "--config-name=mine", *arguments]
    code, printed = (typed_main_ppo if text is None else main_ppo)(tmp_path, *arguments)
    assert code == 1
    assert "sd_search_verl refuses to start:\ntrainer.v1.trainer_mode=sync is verl's own trainer" in printed
    assert "Fix: set trainer.v1.trainer_mode=sd_search" in printed
    assert "Traceback" not in printed
    assert "ray init kwargs" not in printed  # nothing was started


def test_a_key_in_an_address_is_refused_before_it_is_saved(tmp_path: Path) -> None:
    code, printed = main_ppo(
        tmp_path, "+sd_search=default", "search.retriever_urls=['http://:hidden@host:8000']"
    )
    assert code == 1
    assert "http://host:8000 is given with a key" in printed
    assert "RETRIEVER_API_KEY" in printed
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "hidden" in path.read_text()]


def test_a_config_that_another_one_hides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cpu_demo.yaml").write_text("defaults: [demo, _self_]\nsd_search: {alpha: 0.1}\n")
    code, printed = main_ppo(tmp_path, f"--config-dir={tmp_path}", "--config-name=cpu_demo")
    assert code == 1
    assert "refuses to start:\n" + f"{tmp_path}/cpu_demo.yaml is not read: " in printed
    (tmp_path / "cpu_demo.yaml").unlink()
    (tmp_path / "actor").mkdir()
    (tmp_path / "actor" / "dp_actor.yaml").write_text("strategy: fsdp\n")
    code, printed = main_ppo(tmp_path, f"--config-dir={tmp_path}", "--config-name=cpu_demo")
    assert code == 1
    assert "verl/trainer/config has another actor/dp_actor.yaml" in printed


def test_jobs_of_a_sweep_do_not_go_on_from_each_other(tmp_path: Path) -> None:
    code = "import verl.trainer.main_ppo as m\nfrom omegaconf import OmegaConf\n"
    # As verl does in a process of Ray's, where Hydra's own resolver is not known.
    code += "def run(config, **_):\n    OmegaConf.clear_resolver('hydra')\n    OmegaConf.resolve(config)\n"
    code += "    print('ran', config.trainer.default_local_dir)\nm.run_ppo = run\nm.main()"
    sweep = ["-m", "--config-name=cpu_demo", "sd_search.alpha=0,0.5", f"hydra.sweep.dir={tmp_path}"]
    printed = []
    for name, folder in (("one", "runs/x"), ("each", "runs/alpha-${sd_search.alpha}")):
        process = start(code, [*sweep, f"trainer.default_local_dir='{folder}'"], {}, tmp_path / name)
        process.join(120)
        printed.append((tmp_path / name).read_text())
    assert printed[0].count("ran runs/x\n") == 1
    assert "runs/x is that of an earlier job of this sweep" in printed[0]
    assert "ran runs/alpha-0\n" in printed[1]
    assert "ran runs/alpha-0.5\n" in printed[1]


def test_jobs_in_folders_of_their_own_or_that_train_nothing_may_share_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, callback = change(good_config(tmp_path), trainer__default_local_dir="runs/x"), RefuseOtherMethod()
    for folder, values, refused in [
        ("a", {}, False),
        ("b", {}, False),
        ("b", {"trainer__val_only": True}, False),
        ("b", {"trainer__default_local_dir": "runs/x/"}, True),
    ]:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        with pytest.raises(SystemExit, match="earlier job") if refused else nullcontext():
            callback.on_job_start(change(config, **values))


def test_verls_command_is_left_alone_without_sections_of_ours(tmp_path: Path) -> None:
    code, printed = main_ppo(tmp_path, "trainer.v1.trainer_mode=sync", "data.train_batch_size=0")
    assert code
    assert "AssertionError" in printed or "ValueError" in printed  # verl's own complaint
    assert "sd_search_verl refuses" not in printed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("reward__custom_reward_function__path", 5),
        ("search__retriever_urls", 5),
        ("search__retriever_urls", "${nowhere}"),
    ],
)
def test_a_value_that_a_check_cannot_read_starts_nothing(tmp_path: Path, option: str, value: Any) -> None:
    config = change(good_config(tmp_path), trainer__use_v1=False, **{option: value})
    with pytest.raises(SystemExit, match="refuses to start:\nthe check of the method could not be made"):
        RefuseOtherMethod().on_job_start(config)


def test_before_hydra_can_resolve_its_own_values_only_keys_are_looked_for(tmp_path: Path) -> None:
    path = "${hydra:runtime.cwd}/brief.py"
    config = change(good_config(tmp_path), reward__custom_reward_function__path=path)
    RefuseOtherMethod().on_run_start(config)
    config = change(config, search__retriever_urls=["http://:hidden@host:8000"])
    with pytest.raises(SystemExit, match="http://host:8000 is given with a key"):
        RefuseOtherMethod().on_run_start(config)
    RefuseOtherMethod().on_run_start(OmegaConf.create({"search": OmegaConf.to_container(config.search)}))
