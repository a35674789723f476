"""A run that goes on with other options than it began with says which."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.runs.schema import OPTIONS_FILE
from sd_search_verl.verl_adapter.preflight.changed_options import (
    check_changed_options,
    keep_options,
    options_of,
)
from sd_search_verl.verl_adapter.trainer.checkpoints import TRACKER


@pytest.fixture
def begun(good: DictConfig, tmp_path: Path) -> DictConfig:
    """The config of a run that has a checkpoint of step 5."""
    config = change(good, trainer__default_local_dir=str(tmp_path / "run"), trainer__resume_mode="auto")
    keep_options(tmp_path / "run", options_of(config), resumed=False)
    (tmp_path / "run" / TRACKER).write_text("5")
    return config


def test_the_same_options_elsewhere_are_the_same(begun: DictConfig, tmp_path: Path) -> None:
    assert [*check_changed_options(begun)] == []
    assert not any(name.startswith("ray_kwargs") for name in options_of(begun))  # which may hold keys
    branch = {"trainer__resume_mode": "resume_path", "trainer__default_local_dir": str(tmp_path / "other")}
    branch |= {"trainer__experiment_name": "other"}
    branch |= {"trainer__resume_from_path": str(tmp_path / "run" / "global_step_5")}
    assert [
        *check_changed_options(change(begun, search__retriever_urls=["http://h:1/retrieve"], **branch))
    ] == []
    (finding,) = check_changed_options(change(begun, sd_search__alpha=0.0, **branch))
    assert finding.warning


def test_changed_new_and_removed_options_are_shown_with_both_values(begun: DictConfig) -> None:
    alpha = begun.sd_search.alpha
    changed = change(begun, sd_search__alpha=0, data__train_files=["a", "b"], trainer__mine={"x": 1})
    del changed.trainer.save_freq
    (finding,) = check_changed_options(changed)
    assert finding.warning
    assert "goes on from" in finding.found
    assert "global_step_5 with other options than it began with: " in finding.found
    assert f"sd_search.alpha=0 (was {alpha})" in finding.found
    assert f"data.train_files=['a', 'b'] (was {begun.data.train_files})" in finding.found
    assert "trainer.mine.x=1 (was None)" in finding.found
    assert f"trainer.save_freq=None (was {begun.trainer.save_freq})" in finding.found
    many = change(begun, **{f"trainer__mine{number}": number for number in range(10)})
    (finding,) = check_changed_options(many)
    assert finding.found.endswith("trainer.mine7=7 (was None), and 2 more")


def test_other_questions_or_another_reward_under_the_same_name_are_shown(
    good: DictConfig, tmp_path: Path
) -> None:
    questions, reward = tmp_path / "train.parquet", tmp_path / "reward.py"
    for file in (questions, reward):
        file.write_text("first")
    config = change(
        good,
        trainer__default_local_dir=str(tmp_path / "run"),
        trainer__resume_mode="auto",
        data__train_files=str(questions),
        reward__custom_reward_function__path=str(reward),
    )
    keep_options(tmp_path / "run", options_of(config), resumed=False)
    (tmp_path / "run" / TRACKER).write_text("5")
    assert [*check_changed_options(config)] == []
    questions.write_text("second")
    reward.write_text("third")
    (finding,) = check_changed_options(config)
    assert finding.warning
    for file in (questions, reward):
        assert f"content of {file}=" in finding.found


def test_runs_that_start_anew_or_kept_none_say_nothing(begun: DictConfig, tmp_path: Path) -> None:
    assert [*check_changed_options(change(begun, trainer__resume_mode="disable", sd_search__alpha=0))] == []
    assert [*check_changed_options(change(begun, trainer__mine="${nowhere}"))] == []  # named by what reads it
    validated = change(begun, trainer__val_only=True, sd_search__alpha=0)
    assert [*check_changed_options(validated)] == []  # it trains nothing
    for damaged in ("{", "[]", ""):
        (tmp_path / "run" / OPTIONS_FILE).write_text(damaged)
        (finding,) = check_changed_options(begun)
        assert finding.warning
        assert str(tmp_path / "run" / OPTIONS_FILE) in finding.found
    (tmp_path / "run" / OPTIONS_FILE).unlink()
    assert [*check_changed_options(change(begun, sd_search__alpha=0))] == []


def test_a_run_that_goes_on_keeps_the_options_of_its_beginning(tmp_path: Path) -> None:
    for options, resumed, kept in [({"a": 1}, True, 1), ({"a": 2}, True, 1), ({"a": 3}, False, 3)]:
        keep_options(tmp_path / "run", options, resumed)
        assert (tmp_path / "run" / OPTIONS_FILE).read_text() == f'{{\n  "a": {kept}\n}}\n'
