"""SIGKILL of a whole run's first process: nothing of the run is left, neither process nor port.

``sd-search local`` ends what it started by itself. What a bare ``main_ppo`` started ends because Ray's daemons ask the
kernel to die with their parent, and workers when their raylet is gone; two of Ray's agents take a minute to notice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from support.cli import local

from sd_search_verl.launch.environment import ENVIRONMENT
from sd_search_verl.launch.retriever import build_index, serving_index

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOCAL_S, BARE_S = 30.0, 90.0
"""Longest times until nothing is left."""
MARK = "SD_SEARCH_TEST_RUN"


@pytest.fixture
def retriever(world: Path, tmp_path: Path) -> Iterator[str]:
    build_index(world / "corpus.jsonl", tmp_path / "index")
    # Not in `end_children_on_exit`: a process that adopts the orphans of a killed run keeps them alive, as Ray's
    # workers end when init becomes their parent.
    with serving_index(world / "corpus.jsonl", tmp_path / "index", tmp_path) as url:
        yield url


def bare(run: Path, world: Path, retriever: str) -> list[str]:
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "--config-name=cpu_demo"),
        f"data.train_files={world / 'train.parquet'}",
        f"data.val_files={world / 'val.parquet'}",
        f"actor_rollout_ref.model.path={world / 'model'}",
        f"search.retriever_urls=[{retriever}]",
        f"trainer.default_local_dir={run}",
        f"hydra.run.dir={run / 'hydra'}",
    ]


def test_killing_local_leaves_nothing(world: Path, tmp_path: Path) -> None:
    assert_nothing_outlives(local(tmp_path / "run", world), tmp_path / "run", LOCAL_S)


def test_killing_a_bare_training_leaves_nothing(world: Path, retriever: str, tmp_path: Path) -> None:
    assert_nothing_outlives(bare(tmp_path / "run", world, retriever), tmp_path / "run", BARE_S)


def assert_nothing_outlives(command: list[str], run: Path, seconds: float) -> None:
    """Start a run, kill its first process while it trains, and wait until its processes and ports are gone."""
    mark, log = uuid4().hex, run.with_suffix(".log")
    with log.open("wb") as output:
        first = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The last: or renamed processes lose their mark.
            env={**os.environ, **ENVIRONMENT, MARK: mark, "SPT_NOENV": "1"},
        )
    try:
        while not (run / "metrics.jsonl").exists():
            assert first.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.1)
        before = marked(mark)
        for daemon in ("raylet", "gcs_server"):
            assert any(f"name='{daemon}'" in str(process) for process in before)
        ports = listening({process.pid for process in before})
        assert ports
        begun = time.monotonic()
        first.kill()
        first.wait()
        while left := [*map(str, marked(mark)), *(ports & listening())]:
            assert time.monotonic() < begun + seconds, left
            time.sleep(0.2)
        print(f"{len(before)} processes, {len(ports)} ports; gone after {time.monotonic() - begun:.1f} s")
    finally:
        for process in [*marked(mark)]:
            process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """Every live process that inherited the run's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def listening(pids: set[int] | None = None) -> set[int]:
    """Ports that these processes listen on, or any process does."""
    return {
        connection.laddr.port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and (pids is None or connection.pid in pids)
    }
