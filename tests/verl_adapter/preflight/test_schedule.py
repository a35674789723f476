"""A run whose steps are not those that its config names is refused before anything is loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from support.good_run import change
from support.identity_server import READY, server
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from sd_search_verl.config import ConfigError
from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter import preflight
from sd_search_verl.verl_adapter.preflight.schedule import check_schedule
from sd_search_verl.verl_adapter.trainer.checkpoints import TRACKER
from sd_search_verl.verl_adapter.trainer.modes import SDSearchTrainer


def found(config: DictConfig, rows: int | None = 8, **values: Any) -> list[Finding]:
    """The findings for a run of two steps an epoch."""
    return [*check_schedule(change(config, data__train_batch_size=4, **values), rows)]


def test_the_good_run_has_nothing_to_find(good: DictConfig) -> None:
    assert found(good) == []
    assert found(good, rows=None) == []


def test_more_steps_than_the_epochs_hold_are_refused(good: DictConfig) -> None:
    values = {"trainer__total_epochs": 3, "trainer__total_training_steps": 7}
    (finding,) = found(good, rows=9, **values)
    assert finding.fatal
    assert (
        "trainer.total_training_steps=7 is more than the 6 steps that trainer.total_epochs=3" in finding.found
    )
    assert "set trainer.total_epochs to at least 4" in finding.fix
    assert found(good, rows=9, **{**values, "trainer__total_training_steps": 6}) == []


def test_a_run_of_warm_up_only_is_refused(good: DictConfig) -> None:
    values = {"trainer__total_epochs": 25, "trainer__total_training_steps": None}
    (finding,) = found(good, **values, sd_search__warmup_steps=50)
    assert finding.fatal
    assert (
        "sd_search.warmup_steps=50 leaves none of the run's 50 steps to sd_search.alpha=0.3" in finding.found
    )
    assert found(good, **values, sd_search__warmup_steps=49) == []
    assert found(good, **values, sd_search__warmup_steps=50, sd_search__alpha=0) == []


@pytest.mark.parametrize(
    ("schedule", "steps", "says"),
    [
        (
            "stages",
            11,
            "distil_steps=11 reaches the run's end at step 14: L_GRPO trains in no step after that",
        ),
        ("stages", 10, None),
        ("cosine", 5000, "last step, 14, alpha is still 100% of sd_search.alpha=0.3"),
        ("cosine", 25, "alpha is still 65% of"),
        ("cosine", 11, None),
        ("constant", 5000, None),
    ],
)
def test_a_schedule_that_the_run_does_not_reach_is_a_warning(
    good: DictConfig, schedule: str, steps: int, says: str | None
) -> None:
    values = {"sd_search__schedule": schedule, "sd_search__distil_steps": steps}
    findings = found(good, **values, trainer__total_training_steps=14)
    assert [finding.warning for finding in findings] == ([True] if says else [])
    assert all(str(says) in finding.found for finding in findings)
    assert found(good, **values, sd_search__alpha=0) == []


@pytest.mark.parametrize(("option", "value"), [("total_training_steps", 0), ("total_epochs", 0)])
def test_a_run_without_a_step_is_refused(good: DictConfig, option: str, value: int) -> None:
    findings = found(good, **{f"trainer__{option}": value})
    assert any(f"trainer.{option}={value}: no step would run" in f.found for f in findings if f.fatal)


def test_a_policy_that_is_never_updated_is_refused(good: DictConfig) -> None:
    values = {"algorithm__adv_estimator": "gae", "trainer__total_training_steps": 10}
    (finding,) = found(good, **values, trainer__critic_warmup=11)
    assert finding.fatal
    assert "critic_warmup=11 is more than the run's 10 steps" in finding.found
    assert found(good, **values, trainer__critic_warmup=10) == []


def test_a_warm_up_of_no_critic_is_a_warning(good: DictConfig) -> None:
    (finding,) = found(good, trainer__critic_warmup=5)
    assert finding.warning
    assert "algorithm.adv_estimator=grpo has no critic to warm up" in finding.found


@pytest.mark.parametrize(
    "option", [{"lr_warmup_steps": 14}, {"lr_warmup_steps": 1000}, {"lr_warmup_steps_ratio": 1.0}], ids=str
)
def test_a_learning_rate_that_is_never_reached_is_a_warning(
    good: DictConfig, option: dict[str, float]
) -> None:
    ((name, value),) = option.items()
    values = {"trainer__total_training_steps": 14, f"actor_rollout_ref__actor__optim__{name}": value}
    (finding,) = found(good, **values)
    assert finding.warning
    assert "it never reaches actor_rollout_ref.actor.optim.lr" in finding.found
    assert found(good, **{**values, f"actor_rollout_ref__actor__optim__{name}": value / 1001}) == []


def test_the_learning_rate_rises_with_every_update_between_two_versions(good: DictConfig) -> None:
    """verl's separate mode makes parameter_sync_step updates a step, and each is a step of the schedule."""
    values = {"trainer__total_training_steps": 14, "actor_rollout_ref__actor__optim__lr_warmup_steps": 20}
    assert len(found(good, **values)) == 1
    values |= {"trainer__v1__trainer_mode": "sd_search_separate_async"}
    assert found(good, **values, trainer__v1__separate_async__parameter_sync_step=2) == []
    assert len(found(good, **values, trainer__v1__separate_async__parameter_sync_step=1)) == 1


def test_a_validation_that_would_train_is_refused(good: DictConfig) -> None:
    values = {"trainer__val_only": True, "trainer__total_training_steps": 1}
    (finding,) = found(good, **values, trainer__val_before_train=False)
    assert finding.fatal
    assert "it would train" in finding.found
    assert found(good, **values, trainer__val_before_train=True) == []  # no step, so none can be wrong


@pytest.mark.parametrize("frequency", [-1, 0])
def test_a_run_without_checkpoints_is_a_warning(good: DictConfig, frequency: int) -> None:
    (finding,) = found(good, trainer__save_freq=frequency)
    assert finding.warning
    assert "no checkpoint is written" in finding.found


def test_a_run_that_is_done_is_a_warning(good: DictConfig, tmp_path: Path) -> None:
    (tmp_path / TRACKER).write_text("14")
    values = {"trainer__resume_mode": "auto", "trainer__default_local_dir": str(tmp_path)}
    (finding,) = found(good, **values, trainer__total_training_steps=14)
    assert finding.warning
    assert "is of step 14, and the run has 14 steps" in finding.found
    assert found(good, **values, trainer__total_training_steps=15) == []
    assert found(good, **{**values, "trainer__resume_mode": "disable"}) == []


def test_rows_that_verl_filters_do_not_count(good: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only verl's data set knows them; it is made before the models are."""

    def filtered(self: PPOTrainerSync) -> None:
        self.train_dataset = range(4)

    monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", filtered)
    values: dict[str, Any] = {"data__train_batch_size": 4, "trainer__total_epochs": 3}
    values["actor_rollout_ref__actor__ppo_mini_batch_size"] = 4
    with server(READY) as url:
        values["search__retriever_urls"] = [f"{url}/retrieve"]
        trainer = SDSearchTrainer(change(good, **values, trainer__total_training_steps=6))
    assert found(good, trainer__total_epochs=3, trainer__total_training_steps=6) == []
    with pytest.raises(ConfigError, match=r"=6 is more than the 3 steps .* of 4 rows"):
        trainer._init_dataloader()
    trainer.config = change(trainer.config, trainer__total_training_steps=3, sd_search__warmup_steps=2)
    trainer._init_dataloader()


@pytest.mark.parametrize("path", [None, "nowhere/global_step_3", "run", "run/global_step_3"])
def test_a_checkpoint_that_is_not_there_or_not_whole_is_refused(
    good: DictConfig, tmp_path: Path, path: str | None
) -> None:
    (tmp_path / "run" / "global_step_3" / "actor").mkdir(parents=True)
    given = path and str(tmp_path / path)
    values = {"trainer__resume_mode": "resume_path", "trainer__resume_from_path": given}
    (finding,) = preflight.check_checkpoint(change(good, **values))
    assert finding.fatal
    assert ("no whole checkpoint" in finding.found) == (path == "run/global_step_3")


def whole_checkpoint(folder: Path) -> None:
    """A checkpoint in verl's form: zip archives, as ``torch.save`` writes them."""
    (folder / "actor").mkdir(parents=True)
    for name in ("data.pt", "actor/model_world_size_1_rank_0.pt"):
        with zipfile.ZipFile(folder / name, "w"):
            pass


def resumed_from(config: DictConfig, path: str) -> list[Finding]:
    """The findings for a run that goes on from a path."""
    values = {"trainer__resume_mode": "resume_path", "trainer__resume_from_path": path}
    return [*preflight.check_checkpoint(change(config, **values))]


@pytest.mark.parametrize("name", ["global_step_20_copy", "global_step_", "global_step_20.bak"])
def test_a_checkpoint_whose_name_is_no_step_is_refused(good: DictConfig, tmp_path: Path, name: str) -> None:
    whole_checkpoint(tmp_path / name)
    (finding,) = resumed_from(good, f"{tmp_path}/{name}")
    assert finding.fatal
    assert "is no number" in finding.found
    assert "name the folder global_step_N" in finding.fix


@pytest.mark.parametrize("end", ["/", "//", "/."])
def test_a_slash_after_a_checkpoint_is_refused(good: DictConfig, tmp_path: Path, end: str) -> None:
    """As a shell completes the path of a folder."""
    path = f"{tmp_path}/global_step_20"
    whole_checkpoint(Path(path))
    assert resumed_from(good, path) == []
    (finding,) = resumed_from(good, path + end)
    assert finding.fatal
    assert f"trainer.resume_from_path={path}{end} " in finding.found
    assert finding.fix == f"set trainer.resume_from_path={path}"


def test_an_unknown_way_to_resume_is_refused(good: DictConfig) -> None:
    (finding,) = preflight.check_checkpoint(change(good, trainer__resume_mode="latest"))
    assert finding.fatal
    assert "trainer.resume_mode=latest is none of auto, disable, resume_path" in finding.found


def test_a_checkpoint_of_another_number_of_processes_is_refused(good: DictConfig, tmp_path: Path) -> None:
    """Every process looks for its own shard of as many as there are."""
    folder = tmp_path / "global_step_3"
    (folder / "actor").mkdir(parents=True)
    for name in ("data.pt", *(f"actor/model_world_size_2_rank_{rank}.pt" for rank in range(2))):
        with zipfile.ZipFile(folder / name, "w"):
            pass
    assert [f.found for f in resumed_from(good, str(folder))] == [
        f"{folder} was written by 2 processes, and this run has 1"
    ]
    two = change(good, trainer__n_gpus_per_node=2)
    assert resumed_from(two, str(folder)) == []
    (tmp_path / TRACKER).write_text("3")
    auto = change(good, trainer__resume_mode="auto", trainer__default_local_dir=str(tmp_path))
    (finding,) = preflight.check_checkpoint(auto)
    assert finding.fatal
    assert "on as many" in finding.fix
