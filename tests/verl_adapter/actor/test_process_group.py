"""A worker that is alone starts also where the port that verl chose for it is taken by then."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forked import start

VERLS = "from verl.utils.distributed import initialize_global_process_group_ray as start; start()"
OURS = """
import sys
from support.engine import compose, make_worker
import torch.distributed as dist
make_worker(compose(sys.argv[1]))
dist.barrier()
print("one rank of", dist.get_world_size())
"""


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def run(code: str, log: Path, port: str, *arguments: object, **variables: str) -> tuple[int | None, str]:
    """Return the exit code and the output."""
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    process = start(code, [*map(str, arguments)], os.environ | alone | variables, log)
    try:
        process.join(180)
        return process.exitcode, log.read_text()
    finally:
        process.kill()


def test_a_taken_port_does_not_matter_to_one_rank(model: Path, taken: str, tmp_path: Path) -> None:
    code, said = run(OURS, tmp_path / "log", taken, model)
    assert code == 0, said[-3000:]
    assert "one rank of 1" in said


def test_verl_still_listens_on_a_port_that_it_chose_before(taken: str, tmp_path: Path) -> None:
    """When this fails, ``process_group.py`` can go."""
    code, said = run(VERLS, tmp_path / "log", taken)
    assert code == 1
    assert "EADDRINUSE" in said


@pytest.mark.parametrize("change", [{"WORLD_SIZE": "2"}, {"DIST_INIT_METHOD": "env://"}], ids=str)
def test_several_ranks_and_a_users_own_method_are_left_to_verl(
    taken: str, tmp_path: Path, change: dict[str, str]
) -> None:
    program = "from sd_search_verl.verl_adapter.actor import process_group as p; p.initialize_alone(); "
    program += "assert not p.dist.is_initialized()"
    code, said = run(program, tmp_path / "log", taken, **change)
    assert code == 0, said[-3000:]
