"""How many steps the run has, and in how many of them the method is on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig

from sd_search_verl.config import ConfigError
from sd_search_verl.finding import Finding, Rule

TOO_FEW_EPOCHS = Rule(
    "trainer.total_training_steps",
    "trainer.total_training_steps={total} is more than the {held} steps that trainer.total_epochs={epochs} of {rows} "
    "rows hold in batches of {batch}: verl would end early, without its last checkpoint and validation",
    "set trainer.total_epochs to at least {needed}, or trainer.total_training_steps to {held}",
)
NO_STEP = Rule(
    "data.train_batch_size",
    "{batch} is more than the {rows} rows of data.train_files: no step would run",
    "lower it, or add rows",
)
ONLY_WARMUP = Rule(
    "sd_search.warmup_steps",
    "sd_search.warmup_steps={warmup} leaves none of the run's {total} steps to sd_search.alpha={alpha}: all of them "
    "are plain GRPO",
    "set sd_search.warmup_steps below {total} (0 = from the first step), raise trainer.total_training_steps, or set "
    "sd_search.alpha=0 for a run of GRPO",
    warns=True,
)
WARMUP_WITHOUT_CRITIC = Rule(
    "trainer.critic_warmup",
    "trainer.critic_warmup={warmup}: the policy is not updated before step {warmup}, and "
    "algorithm.adv_estimator={estimator} has no critic to warm up",
    "set trainer.critic_warmup=0",
    warns=True,
)


@dataclass(frozen=True)
class Schedule:
    """Steps of a run, as verl counts them.

    Attributes:
        rows: rows of data.train_files that verl reads, an upper bound where it filters them; None = not known.
        per_epoch: steps of one epoch; None = not known.
        total: steps of the run; None = not known.
    """

    rows: int | None
    per_epoch: int | None
    total: int | None

    @classmethod
    def of(cls, config: DictConfig, rows: int | None) -> Schedule:
        """Return the schedule for so many rows in data.train_files."""
        most = config.data.get("train_max_samples", -1)
        if rows is not None and most > 0:
            rows = min(rows, most)
        per_epoch = None if rows is None else rows // config.data.train_batch_size
        total = config.trainer.total_training_steps
        if total is None and per_epoch is not None:
            total = per_epoch * config.trainer.total_epochs
        return cls(rows, per_epoch, total)


def check_schedule(config: DictConfig, rows: int | None) -> Iterator[Finding]:
    """Check that the run has steps, its epochs hold them, and the method is on in some of them.

    Args:
        rows: of data.train_files; None = not known.
    """
    from verl.trainer.ppo.utils import need_critic

    from sd_search_verl.verl_adapter.settings import read_sd_search

    schedule, trainer = Schedule.of(config, rows), config.trainer
    if schedule.per_epoch is not None and schedule.rows is not None:
        held = schedule.per_epoch * trainer.total_epochs
        if schedule.per_epoch == 0:
            yield NO_STEP.finding(batch=config.data.train_batch_size, rows=schedule.rows)
        elif schedule.total is not None and schedule.total > held:
            yield TOO_FEW_EPOCHS.finding(
                total=schedule.total,
                held=held,
                epochs=trainer.total_epochs,
                rows=schedule.rows,
                batch=config.data.train_batch_size,
                needed=-(-schedule.total // schedule.per_epoch),
            )
    try:
        method = read_sd_search(config)
    except ConfigError:
        return  # check_verl reports it
    if schedule.total and method.alpha > 0 and schedule.total <= method.warmup_steps:
        yield ONLY_WARMUP.finding(warmup=method.warmup_steps, total=schedule.total, alpha=method.alpha)
    if trainer.critic_warmup > 1 and not need_critic(config):
        yield WARMUP_WITHOUT_CRITIC.finding(
            warmup=trainer.critic_warmup, estimator=config.algorithm.adv_estimator
        )
