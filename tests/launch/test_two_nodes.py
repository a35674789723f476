"""A Ray cluster of two nodes on loopback: one FSDP rank on each gives the losses of one node, rollouts being equal.

Takes minutes and much memory, so it runs only when asked for: ``pytest -n 0 -m slow tests/launch``.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from support.cli import build_world

from sd_search_verl.launch.environment import ENVIRONMENT
from sd_search_verl.launch.process_tree import end_children_on_exit, start
from sd_search_verl.launch.retriever import build_index, serving_index
from sd_search_verl.launch.training import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STEPS = 3
LOSSES = ["actor/pg_loss", "sd_search/loss", "sd_search/jsd", "sd_search/teacher_entropy", "actor/grad_norm"]


def overrides(run: Path, world: Path, recorded: Path) -> list[str]:
    return [
        "--config-name=cpu_demo",
        f"data.train_files={world / 'train.parquet'}",
        f"data.val_files={world / 'val.parquet'}",
        f"actor_rollout_ref.model.path={world / 'model'}",
        f"trainer.default_local_dir={run}",
        f"hydra.run.dir={run / 'hydra'}",
        f"trainer.total_training_steps={STEPS}",
        "data.seed=1",
        "sd_search.warmup_steps=0",
        # One update a step. With more, verl cuts each rank's rows into mini-batches, so that two ranks update on other
        # mini-batches than one, and only means over the whole batch can be compared.
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        # verl's own replay: the first run writes its rollouts down, later ones read them.
        "skip.rollout_tq.enable=True",
        f"skip.rollout_tq.dump_dir={recorded}",
        f"skip.rollout_tq.steps={list(range(1, STEPS + 1))}",
    ]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic world, laid out as paper_data.sh lays out the real one."""
    folder = build_world(tmp_path_factory.mktemp("world"))
    (folder / "wiki-18.jsonl").symlink_to(folder / "corpus.jsonl")
    build_index(folder / "wiki-18.jsonl", folder / "index")
    return folder


@contextmanager
def two_nodes() -> Iterator[tuple[str, dict[str, str]]]:
    """A cluster of two nodes with a logical GPU each: the dashboard's address, and the environment of its clients."""
    # A short folder, for the length of socket names, and its own, so that no other cluster of this machine is met.
    with tempfile.TemporaryDirectory(prefix="ray2", dir="/tmp") as folder, end_children_on_exit():
        environment = {
            **ENVIRONMENT,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        deadline = time.monotonic() + 300
        gcs, dashboard = free_ports(2)
        address = f"http://127.0.0.1:{dashboard}"
        join = f"--address={ray.util.get_node_ip_address()}:{gcs}"
        head = ["--head", f"--port={gcs}", "--dashboard-host=0.0.0.0", f"--dashboard-port={dashboard}"]
        for number, role in enumerate(([*head, f"--temp-dir={folder}"], [join])):
            names = ["dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"]
            ports = [f"--{name}={port}" for name, port in zip(names, free_ports(3), strict=True)]
            command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *role, *ports]
            log = Path(folder) / f"node{number}.log"
            # Ray gives a node 30 s to start, which a busy machine may not keep.
            while not has_nodes(
                start([*command, "--num-cpus=16", "--num-gpus=1"], log, environment),
                address,
                environment,
                number + 1,
            ):
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        yield address, {**os.environ, **environment}


def has_nodes(node: subprocess.Popen[bytes], address: str, environment: dict[str, str], count: int) -> bool:
    """Wait until the cluster has so many nodes; False if the process of the last one ends before."""
    headers = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{address}/nodes?view=summary", headers=headers)
    while node.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if len(json.load(answer)["data"]["summary"]) >= count:
                    return True
        except OSError:
            pass
        time.sleep(1)
    return False


def test_two_nodes_equal_one(world: Path, tmp_path: Path) -> None:
    recorded, one, two = tmp_path / "rollouts", tmp_path / "one", tmp_path / "two"
    corpus = world / "wiki-18.jsonl"
    with end_children_on_exit(), serving_index(corpus, world / "index", tmp_path) as retriever:
        # verl records rollouts in the order in which they finished and numbers them anew when it replays them, which
        # is their order in the block: only replays are equal. So both compared runs are.
        for run in (tmp_path / "recording", one):
            arguments = [*overrides(run, world, recorded), f"search.retriever_urls=[{retriever}]"]
            train(arguments, run, STEPS, ENVIRONMENT)
            assert len(list(recorded.rglob("tq_batch.pt"))) == STEPS

    spread = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1", "ray_kwargs.ray_init.num_cpus=null"]
    spread += ["~ray_kwargs.ray_init.num_gpus", "~ray_kwargs.ray_init.include_dashboard"]
    training = ["python", "-m", "verl.trainer.main_ppo", *overrides(two, world, recorded), *spread]
    (port,) = free_ports(1)
    with two_nodes() as (address, environment):
        done = subprocess.run(
            [REPO / "recipes" / "ray_job_submit.sh", address, str(world), *training],
            env={**environment, "RETRIEVER_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=1200,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    expected, found = metrics(one), metrics(two)
    assert len(expected) == len(found) == STEPS
    for before, after in zip(expected, found, strict=True):
        for name in LOSSES:
            print(f"step {before['step']} {name}: one node {before[name]:.8g}, two nodes {after[name]:.8g}")
    for before, after in zip(expected, found, strict=True):
        for name in LOSSES:
            assert after[name] == pytest.approx(before[name], rel=1e-5, abs=1e-7), name
