"""Batches that verl cannot cut: it finds out after the models are loaded, or after the first rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import gcd, prod

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.settings import TRAINERS

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_BATCH = "data.train_batch_size"
_MICRO = f"{_ACTOR}.ppo_micro_batch_size_per_gpu"
_LOG_PROB_MICRO = f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu"

UNEVEN = Rule(
    f"{_ACTOR}.ppo_mini_batch_size",
    f"{_ACTOR}.ppo_mini_batch_size={{mini}} and {_ROLLOUT}.n={{n}}: the {{rows}} rollouts of a mini-batch do not "
    "divide among {ranks} ranks, and verl ends the first update",
    f"set {_ACTOR}.ppo_mini_batch_size to a number that times {{n}} is a multiple of {{ranks}}, such as {{fitting}}",
)
UNEVEN_MICRO = Rule(
    "{option}",
    "{option}={micro} does not divide the {rows} rollouts that a rank has of a {part}: verl ends the first step",
    "set {option} to a divisor of {rows}, or actor_rollout_ref.actor.use_dynamic_bsz=True",
)
UNEVEN_SERVERS = Rule(
    f"{_ROLLOUT}.tensor_model_parallel_size",
    "the run's {ranks} processes do not divide into rollout servers of {size}, which is tensor_model_parallel_size x "
    "data_parallel_size x pipeline_model_parallel_size: verl ends the start",
    f"set {_ROLLOUT}.tensor_model_parallel_size to a divisor of {{ranks}}",
)
UNEVEN_READING = Rule(
    "data.gen_batch_size",
    "data.gen_batch_size={part} does not divide data.train_batch_size={batch}: verl ends the first step",
    "set data.gen_batch_size to a divisor of {batch}, or to null",
)
TWO_CUTS = Rule(
    f"{_ROLLOUT}.log_prob_use_dynamic_bsz",
    f"{_ACTOR}.use_dynamic_bsz={{actor}} and {_ROLLOUT}.log_prob_use_dynamic_bsz={{rollout}}: verl takes no difference "
    "and ends the start",
    f"leave {_ROLLOUT}.log_prob_use_dynamic_bsz out: it follows the actor's",
)
NO_SIZE = Rule(
    "{option}",
    f"{{option}} is null with {_ACTOR}.use_dynamic_bsz={{dynamic}}, and verl ends the start",
    "set {option}",
)
NEEDED = {
    False: (_MICRO, _LOG_PROB_MICRO),
    True: (f"{_ACTOR}.ppo_max_token_len_per_gpu", f"{_ROLLOUT}.log_prob_max_token_len_per_gpu"),
}
"""By ``use_dynamic_bsz`` the sizes without which verl's worker ends by an assertion that says nothing."""


def check_batch(config: DictConfig) -> Iterator[Finding]:
    """Check that mini-batches, servers and reading divide evenly, and that sizes of micro-batches are given."""
    value = partial(OmegaConf.select, config)

    def numbers(*paths: str) -> list[int]:
        """Return positive numbers; none where one is something else, which other checks refuse."""
        found = [value(path) for path in paths]
        return found if all(isinstance(number, int) and number > 0 for number in found) else []

    mode = TRAINERS.get(value("trainer.v1.trainer_mode"))
    if machines := numbers("trainer.nnodes", "trainer.n_gpus_per_node"):
        processes = prod(machines)
        ranks = max(processes // _sequence_parallel(config), 1)
        if cut := numbers(UNEVEN.name, f"{_ROLLOUT}.n"):
            mini, n = cut
            if mini * n % ranks:
                batch, step = value(_BATCH), ranks // gcd(n, ranks)
                sizes = range(step, (batch if isinstance(batch, int) else 0) + 1, step)
                fitting = min((s for s in sizes if batch % s == 0), key=lambda s: abs(s - mini), default=step)
                yield UNEVEN.finding(mini=mini, n=n, rows=mini * n, ranks=ranks, fitting=fitting)
            elif not value(f"{_ACTOR}.use_dynamic_bsz"):
                yield from _check_micro_batches(config, mode, mini * n // ranks)
        kinds = ("tensor_model", "pipeline_model", "data")
        size = prod(numbers(*(f"{_ROLLOUT}.{kind}_parallel_size" for kind in kinds)))
        # Only the separate mode can run the servers on devices of their own.
        apart = mode == "separate_async" and not value("actor_rollout_ref.hybrid_engine", default=True)
        if not apart and processes % size:
            yield UNEVEN_SERVERS.finding(ranks=processes, size=size)
    if reading := numbers(_BATCH, UNEVEN_READING.name):
        batch, part = reading
        if batch % part and not _reads_one_by_one(config, mode):
            yield UNEVEN_READING.finding(batch=batch, part=part)
    dynamic, of_log_probs = (bool(value(path)) for path in (f"{_ACTOR}.use_dynamic_bsz", TWO_CUTS.name))
    if dynamic != of_log_probs:
        yield TWO_CUTS.finding(actor=dynamic, rollout=of_log_probs)
    for option in NEEDED[dynamic]:
        if value(option) is None:
            yield NO_SIZE.finding(option=option, dynamic=dynamic)


def _check_micro_batches(config: DictConfig, mode: str | None, rows: int) -> Iterator[Finding]:
    """Check that micro-batches of a fixed size divide a rank's rows; the whole batch is a multiple of a mini-batch."""
    mini, batch = (OmegaConf.select(config, path) for path in (UNEVEN.name, _BATCH))
    parts = {_MICRO: ("mini-batch", rows)}
    if isinstance(batch, int) and mode == "sync":
        parts[_LOG_PROB_MICRO] = ("batch", -(-batch // mini) * rows)
    for option, (part, count) in parts.items():
        micro = OmegaConf.select(config, option)
        if isinstance(micro, int) and micro > 0 and count % micro:
            yield UNEVEN_MICRO.finding(option=option, micro=micro, rows=count, part=part)


def _sequence_parallel(config: DictConfig) -> int:
    """Return how many processes share a row, as verl's actor reads it: the older option comes first."""
    name = "ulysses_sequence_parallel_size"
    sizes = (OmegaConf.select(config, f"{_ACTOR}.{path}{name}") for path in ("", "fsdp_config."))
    return next((size for size in sizes if isinstance(size, int) and size > 1), 1)


def _reads_one_by_one(config: DictConfig, mode: str | None) -> bool:
    """Return whether verl reads single questions, whatever the option says."""
    switches = ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups")
    return mode not in ("sync", None) or any(OmegaConf.select(config, switch) for switch in switches)
