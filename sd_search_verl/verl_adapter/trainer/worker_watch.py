"""End a run whose agent loop worker has died: verl waits for its rollouts for ever.

verl hands prompts to the workers and looks for their rollouts in its data plane, again and again; nothing there says
that a worker is gone. Here every such look, at most every :data:`EVERY_S`, also asks whether the workers still live.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from sd_search_verl.errors import UserError

EVERY_S = 15.0
logger = logging.getLogger("verl.sd_search")  # below verl's, which is shown where the root logger is not


class WorkerDiedError(UserError):
    """A process that makes rollouts has died."""


def watch(replay_buffer: Any, agent_loop_manager: Any) -> None:
    """Let verl's wait for rollouts end when an agent loop worker has died."""
    workers = getattr(agent_loop_manager, "agent_loop_workers", [])
    if not workers:
        logger.warning(
            "%s shows no workers: their death would go unnoticed", type(agent_loop_manager).__name__
        )
    look, last = replay_buffer._sync_metadata_from_transfer_queue, time.monotonic()

    def look_at_workers_too() -> None:
        nonlocal last
        look()
        if time.monotonic() - last >= EVERY_S:
            check_alive(workers)
            last = time.monotonic()

    replay_buffer._sync_metadata_from_transfer_queue = look_at_workers_too


def check_alive(workers: Sequence[Any]) -> None:
    """Check that actors have not died; one that is busy, and does not answer within a second, counts as alive.

    Raises:
        WorkerDiedError: one has.
    """
    asked = [worker.__ray_ready__.remote() for worker in workers]
    answered = ray.wait(asked, num_returns=len(asked), timeout=1.0)[0] if asked else []
    for number, answer in enumerate(asked):
        if answer not in answered:
            continue
        try:
            ray.get(answer)
        except RayActorError as error:
            reason = " ".join(str(error).split())[:300]
            raise WorkerDiedError(
                f"agent loop worker {number} of {len(workers)} has died, and the rollouts it was making are lost "
                f"({reason}). Fix: `dmesg` and Ray's logs say why, often memory; the same command goes on from the "
                "last checkpoint"
            ) from error
