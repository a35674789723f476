"""A run whose agent loop worker has died ends; verl alone waits for its rollouts for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sd_search_verl.verl_adapter.trainer import worker_watch
from sd_search_verl.verl_adapter.trainer.worker_watch import WorkerDiedError, check_alive, watch


@ray.remote(num_cpus=0)
class Worker:
    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Buffer:
    """verl's replay buffer, as far as it looks for rollouts."""

    looks = 0

    def _sync_metadata_from_transfer_queue(self) -> None:
        self.looks += 1

    def sample(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._sync_metadata_from_transfer_queue()
            time.sleep(0.05)


def test_a_killed_worker_ends_the_wait_and_a_busy_one_does_not(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_watch, "EVERY_S", 0.2)
    workers: list[Any] = [Worker.remote() for _ in range(2)]  # type: ignore[attr-defined]
    pids = ray.get([worker.pid.remote() for worker in workers])
    buffer = Buffer()
    watch(buffer, SimpleNamespace(agent_loop_workers=workers))
    workers[0].sleep.remote(4.0)
    buffer.sample(2.5)
    assert buffer.looks > 2
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"agent loop worker 1 of 2 has died.*Fix: "):
        buffer.sample(60.0)


def test_a_manager_without_such_workers_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(worker_watch.logger, "warning", lambda text, *values: said.append(text % values))
    buffer = Buffer()
    watch(buffer, object())
    assert said == ["object shows no workers: their death would go unnoticed"]
    buffer.sample(0.1)
    assert buffer.looks > 0
    check_alive([])
