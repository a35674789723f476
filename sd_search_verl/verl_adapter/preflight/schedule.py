"""How many steps the run has, and in how many of them policy and method are on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig

from sd_search_verl.config import ConfigError, SDSearchConfig
from sd_search_verl.distill.schedule import alpha_at
from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.settings import TRAINERS, read_sd_search
from sd_search_verl.verl_adapter.trainer import checkpoints

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
)
ONLY_DISTILLATION = Rule(
    "sd_search.distil_steps",
    "sd_search.schedule=stages trains L_SD alone after step {warmup}, and sd_search.distil_steps={distil} reaches the "
    "run's end at step {total}: L_GRPO trains in no step after that",
    "set sd_search.distil_steps below {left}, or raise trainer.total_training_steps, unless this is meant",
    warns=True,
)
HARDLY_FALLS = Rule(
    "sd_search.distil_steps",
    "sd_search.schedule=cosine falls over sd_search.distil_steps={distil} steps, so in the run's last step, {total}, "
    "alpha is still {share} of sd_search.alpha={alpha}",
    "set sd_search.distil_steps={left} to reach 0 at the end, or sd_search.schedule=constant",
    warns=True,
)
NO_TRAINING = Rule("trainer.{option}", "trainer.{option}={value}: no step would run", "set it to 1 or more")
NEVER_UPDATED = Rule(
    "trainer.critic_warmup",
    "trainer.critic_warmup={warmup} is more than the run's {total} steps: the policy would never be updated",
    "set trainer.critic_warmup below {total}, or 0",
)
TRAINS_ALL_THE_SAME = Rule(
    "trainer.val_only",
    "trainer.val_only=True with trainer.val_before_train=False: verl reads val_only after that validation only, so "
    "it would train",
    "set trainer.val_before_train=True, or trainer.val_only=False",
)
NO_CHECKPOINT = Rule(
    "trainer.save_freq",
    "trainer.save_freq={frequency}: no checkpoint is written, so nothing can be evaluated or resumed",
    "set trainer.save_freq to a number of steps, unless this is meant",
    warns=True,
)
DONE_ALREADY = Rule(
    "trainer.total_training_steps",
    "the checkpoint to go on from is of step {step}, and the run has {total} steps: no step is left",
    "raise trainer.total_training_steps, or train in another trainer.default_local_dir",
    warns=True,
)
SLOW_RATE = Rule(
    "actor_rollout_ref.actor.optim.lr_warmup_steps",
    "the learning rate rises for {warmup} steps (actor_rollout_ref.actor.optim.lr_warmup_steps, or "
    "lr_warmup_steps_ratio of the steps), and the run has {total} steps: it never reaches "
    "actor_rollout_ref.actor.optim.lr",
    "set lr_warmup_steps below {total}, or lr_warmup_steps_ratio below 1",
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
        batch = config.data.train_batch_size
        per_epoch = None if rows is None else rows // batch if batch > 0 else 0
        total = config.trainer.total_training_steps
        if total is None and per_epoch is not None:
            total = per_epoch * config.trainer.total_epochs
        return cls(rows, per_epoch, total)


def check_schedule(config: DictConfig, rows: int | None) -> Iterator[Finding]:
    """Check that the run has steps, its epochs hold them, and policy and method are on in some of them.

    Args:
        rows: of data.train_files; None = not known.
    """
    trainer, schedule = config.trainer, Schedule.of(config, rows)
    if trainer.get("val_only", False):
        if not trainer.get("val_before_train", True):
            yield TRAINS_ALL_THE_SAME.finding()
        return
    for option in ("total_epochs", "total_training_steps"):
        if (value := trainer[option]) is not None and value < 1:
            yield NO_TRAINING.finding(option=option, value=value)
    yield from _check_epochs(config, schedule)
    yield from _check_updates(config, schedule.total)
    if trainer.save_freq < 1:
        yield NO_CHECKPOINT.finding(frequency=trainer.save_freq)
    if (
        schedule.total
        and (step := checkpoints.step_of(checkpoints.checkpoint_to_resume(config))) >= schedule.total
    ):
        yield DONE_ALREADY.finding(step=step, total=schedule.total)


def refuse_schedule(config: DictConfig, rows: int) -> None:
    """Check the steps once more with the rows that verl has read and filtered.

    Raises:
        ConfigError: with every finding and its fix.
    """
    if fatal := [finding for finding in check_schedule(config, rows) if finding.fatal]:
        raise ConfigError("\n".join(finding.text for finding in fatal))


def _check_epochs(config: DictConfig, schedule: Schedule) -> Iterator[Finding]:
    batch, epochs = config.data.train_batch_size, config.trainer.total_epochs
    if schedule.per_epoch is None or epochs < 1:
        return
    held = schedule.per_epoch * epochs
    if schedule.per_epoch == 0:
        yield NO_STEP.finding(batch=batch, rows=schedule.rows)
    elif schedule.total is not None and schedule.total > held:
        needed = -(-schedule.total // schedule.per_epoch)
        steps = {"total": schedule.total, "held": held, "needed": needed}
        yield TOO_FEW_EPOCHS.finding(**steps, epochs=epochs, rows=schedule.rows, batch=batch)


def _check_updates(config: DictConfig, total: int | None) -> Iterator[Finding]:
    """Check in which of the run's ``total`` steps policy and method are on."""
    from verl.trainer.ppo.utils import need_critic

    warmup = config.trainer.critic_warmup
    if total and warmup > total:
        yield NEVER_UPDATED.finding(warmup=warmup, total=total)
    elif warmup > 1 and not need_critic(config):
        yield WARMUP_WITHOUT_CRITIC.finding(warmup=warmup, estimator=config.algorithm.adv_estimator)
    optim = config.actor_rollout_ref.actor.optim
    own = config.trainer.v1.get(TRAINERS.get(config.trainer.v1.trainer_mode, ""), {})
    updates = own.get("parameter_sync_step", 1)  # of a step; the learning rate moves with each
    share = optim.lr_warmup_steps_ratio * (total or 0)
    rising = optim.lr_warmup_steps / updates if optim.lr_warmup_steps > 0 else share
    if total and rising >= total:
        yield SLOW_RATE.finding(warmup=int(rising), total=total)
    method = read_sd_search(config)
    if total and method.alpha > 0:
        yield from _check_alpha(method, total)


def _check_alpha(method: SDSearchConfig, total: int) -> Iterator[Finding]:
    """Check what the run's ``total`` steps leave of the schedule of alpha."""
    left = total - method.warmup_steps
    values = {"warmup": method.warmup_steps, "total": total, "alpha": method.alpha}
    values |= {"distil": method.distil_steps, "left": left}
    share = alpha_at(total, method) / method.alpha
    if left <= 0:
        yield ONLY_WARMUP.finding(**values)
    elif method.schedule == "stages" and method.distil_steps >= left:
        yield ONLY_DISTILLATION.finding(**values)
    elif method.schedule == "cosine" and share > 0.5:
        yield HARDLY_FALLS.finding(**values, share=f"{share:.0%}")
