"""A worker that is alone starts also where the port that verl chose for it is taken by then."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

VERLS = "from verl.utils.distributed import initialize_global_process_group_ray as start; start()"
OURS = """
import sys
from support.engine import compose, make_worker
import torch.distributed as dist
make_worker(compose(sys.argv[1]))
dist.barrier()
print(dist.get_world_size(), dist.get_backend())
"""


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def run(code: str, port: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | path | alone | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


def test_a_taken_port_does_not_matter_to_one_rank(model: Path, taken: str) -> None:
    done = run(OURS, taken, model)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-2].split()[0] == "1"


def test_verl_still_listens_on_a_port_that_it_chose_before(taken: str) -> None:
    """When this fails, ``process_group.py`` can go."""
    done = run(VERLS, taken)
    assert done.returncode != 0
    assert "EADDRINUSE" in done.stderr


@pytest.mark.parametrize("change", [{"WORLD_SIZE": "2"}, {"DIST_INIT_METHOD": "env://"}], ids=str)
def test_several_ranks_and_a_users_own_method_are_left_to_verl(taken: str, change: dict[str, str]) -> None:
    code = "from sd_search_verl.verl_adapter import process_group as p; p.initialize_alone(); "
    done = run(code + "print(p.dist.is_initialized())", taken, **change)
    assert done.stdout.split() == ["False"], done.stderr[-3000:]
