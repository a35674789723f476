"""Names and files that verl looks up late are looked up before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from omegaconf import DictConfig
from support.good_run import change
from verl.trainer.ppo.core_algos import kl_penalty
from verl.utils.fs import copy_to_local

from sd_search_verl.verl_adapter.preflight import check_config
from sd_search_verl.verl_adapter.preflight.names import FILES, MODELS, PATHS, PENALTIES, check_names

ACTOR, CORRECTION = "actor_rollout_ref__actor__", "algorithm__rollout_correction__"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"trainer__logger": "console"},
        {"trainer__logger": ["console", "wandb", "tracking"]},
        {"algorithm__adv_estimator": "rloo"},
        {f"{ACTOR}policy_loss__loss_mode": "gspo"},
        {f"{ACTOR}kl_loss_type": "low_var_kl+", f"{ACTOR}use_kl_loss": True},
        {f"{ACTOR}kl_loss_type": "unused"},
        {f"{CORRECTION}rollout_is": "token", f"{CORRECTION}rollout_rs": "token_k1,seq_max_k2"},
        {f"{ACTOR}policy_loss__loss_mode": "mine", "actor_rollout_ref__model__external_lib": "my_losses"},
        {"data__custom_cls__path": "pkg://mine.data"},
        {f"{ACTOR}checkpoint__save_contents": ["model", "optimizer", "extra", "hf_model"]},
    ],
    ids=str,
)
def test_names_that_verl_has_are_none_to_find(good: DictConfig, options: dict[str, Any]) -> None:
    assert [*check_names(change(good, **options))] == []


@pytest.mark.parametrize(
    ("options", "found", "fix"),
    [
        ({"trainer__logger": ["console", "wandbb"]}, "trainer.logger=wandbb is unknown", "wandb"),
        ({"algorithm__adv_estimator": "gpro"}, "algorithm.adv_estimator=gpro is unknown", "grpo"),
        ({f"{ACTOR}policy_loss__loss_mode": "ppo"}, "loss_mode=ppo is unknown", "vanilla"),
        ({f"{ACTOR}kl_loss_type": "k4", f"{ACTOR}use_kl_loss": True}, "kl_loss_type=k4 is unknown", "k3"),
        ({"algorithm__kl_penalty": "k4", "algorithm__use_kl_in_reward": True}, "kl_penalty=k4", "k3"),
        ({"algorithm__kl_ctrl__type": "on", "algorithm__use_kl_in_reward": True}, "type=on", "adaptive"),
        ({f"{CORRECTION}rollout_is": "turn"}, "rollout_is=turn is unknown", "sequence"),
        ({f"{CORRECTION}rollout_rs": "token_k1,seq_k9"}, "rollout_rs=seq_k9 is unknown", "seq_max_k2"),
        ({f"{ACTOR}optim__optimizer": "Adamw"}, "optimizer=Adamw is not to be had", "AdamW"),
        ({f"{ACTOR}optim__optimizer_impl": "torchaoo.optim"}, "No module named 'torchaoo'", "torch.optim"),
        *(
            ({path.replace(".", "__"): "/no/file"}, f"{path}=/no/file does not exist", "path")
            for path in FILES
        ),
        ({f"{ACTOR}checkpoint__save_contents": ["hf_model"]}, "checkpoints would hold no weights", "model"),
    ],
    ids=str,
)
def test_a_name_that_verl_would_miss_later_is_refused_with_those_it_has(
    good: DictConfig, options: dict[str, Any], found: str, fix: str
) -> None:
    (finding,) = [one for one in check_names(change(good, **options)) if found in one.found]
    assert finding.fatal
    assert fix in finding.fix


def test_names_are_among_the_checks_of_a_start(good: DictConfig) -> None:
    findings = check_config(change(good, algorithm__adv_estimator="gpro"))
    assert "algorithm.adv_estimator=gpro is unknown to verl" in [finding.found for finding in findings]


@pytest.mark.parametrize("name", PENALTIES)
def test_verl_has_every_penalty_that_is_let_through(name: str) -> None:
    log_probs = torch.tensor([-0.5, -2.0])
    assert kl_penalty(log_probs, log_probs, name).shape == log_probs.shape


def test_a_checkpoint_whose_weights_are_not_loaded_is_refused(good: DictConfig) -> None:
    """verl would go on at the checkpoint's step with the weights that the run began with."""
    (finding,) = check_names(change(good, **{f"{ACTOR}checkpoint__load_contents": ["optimizer", "extra"]}))
    assert finding.fatal
    assert "lacks 'model': a resumed run would go on with the weights it began with" in finding.found
    (finding,) = check_names(change(good, **{f"{ACTOR}checkpoint__load_contents": ["model", "extra"]}))
    assert finding.warning
    assert "load_contents=['model', 'extra'] lacks optimizer" in finding.found


def test_checkpoints_that_cannot_be_resumed_are_warned_about(good: DictConfig) -> None:
    (finding,) = check_names(change(good, **{f"{ACTOR}checkpoint__save_contents": ["model"]}))
    assert finding.warning
    assert "lacks optimizer and extra" in finding.found


def test_contents_of_checkpoints_that_are_never_written_do_not_matter(good: DictConfig) -> None:
    config = change(good, **{f"{ACTOR}checkpoint__save_contents": ["model"]}, trainer__save_freq=-1)
    assert [*check_names(config)] == []


def test_the_path_of_a_file_that_is_there_is_none_to_find(good: DictConfig, tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text("")
    assert [*check_names(change(good, data__custom_cls__path=str(file)))] == []


@pytest.mark.parametrize("option", PATHS)
def test_a_path_that_verl_would_not_expand_is_refused(good: DictConfig, option: str) -> None:
    value: Any = ["a.parquet", "~/b.parquet"] if option.startswith("data.") and "files" in option else "~/b"
    found = [one for one in check_names(change(good, **{option.replace(".", "__"): value})) if one.fatal]
    first = next(one for one in found if one.name == option)
    assert first.found.startswith(f"{option}=~/b")
    assert first.fix.startswith(f"write {Path.home()}/b")


@pytest.mark.parametrize("name", ["a[1].parquet", "a*.parquet", "a?.parquet"])
def test_a_path_that_verls_reader_takes_for_a_pattern_is_refused(
    good: DictConfig, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(Path(good.data.train_files).read_bytes())
    (finding,) = check_names(change(good, data__train_files=[str(path)]))
    assert finding.fatal
    assert finding.found.startswith(f"data.train_files={path} holds one of")


def test_verls_reader_takes_a_path_for_a_pattern(good: DictConfig, tmp_path: Path) -> None:
    rows = Path(good.data.train_files).read_bytes()
    for name in ("a[1].parquet", "b.parquet", "bc.parquet", "b*.parquet"):
        (tmp_path / name).write_bytes(rows)
    with pytest.raises((ValueError, FileNotFoundError)):
        datasets.load_dataset("parquet", data_files=str(tmp_path / "a[1].parquet"), cache_dir=str(tmp_path))
    read = [
        datasets.load_dataset("parquet", data_files=str(tmp_path / name), cache_dir=str(tmp_path))["train"]
        for name in ("b.parquet", "b*.parquet")
    ]
    assert len(read[1]) == 3 * len(read[0])


@pytest.mark.parametrize("option", MODELS)
def test_a_model_behind_a_slash_is_refused_as_verl_does(good: DictConfig, option: str) -> None:
    with pytest.raises(AssertionError, match="last char"):
        copy_to_local("/models/qwen/")
    found = [*check_names(change(good, **{option.replace(".", "__"): "/models/qwen/"}))]
    assert (option, "write /models/qwen") in [(one.name, one.fix) for one in found]
