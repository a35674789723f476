"""A port belongs to one server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import wait_until

from retriever_server.options import SettingsError
from retriever_server.server import bind


def test_a_second_server_on_a_port_is_refused_before_the_first_serves() -> None:
    first = bind("127.0.0.1", 0)
    try:
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(SettingsError, match="cannot listen on"):
                bind(host, first.getsockname()[1])
    finally:
        first.close()


@pytest.mark.parametrize(
    "host", ["http://127.0.0.1", "localhost:8000", "[::1]", "no.such.host.invalid", "203.0.113.7"]
)
def test_a_host_that_is_none_of_this_machines_is_told_apart_from_a_taken_port(host: str) -> None:
    with pytest.raises(SettingsError, match=r"Fix: give --host a name or an address of this machine"):
        bind(host, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_port_file_appears_whole(bm25_index: Path, corpus: Path, tmp_path: Path, workers: int) -> None:
    """It replaces a file of that name; written into that file, a part of it could be read."""
    port_file, other_name = tmp_path / "url", tmp_path / "other"
    port_file.touch()
    options = {"backend": "bm25", "index": bm25_index, "corpus": corpus, "port-file": port_file}
    command = [sys.executable, "-m", "retriever_server", "--workers", str(workers), "--port", "0"]
    server = subprocess.Popen([*command, *(f"--{name}={value}" for name, value in options.items())])
    try:
        wait_until(lambda: not port_file.exists())  # removed by the server before it loads
        other_name.touch()
        os.link(other_name, port_file)
        wait_until(lambda: port_file.read_text().endswith("\n"))
        assert other_name.read_text() == ""
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0
    assert not port_file.exists()


def test_a_worker_that_fails_slowly_is_not_restarted_for_ever(tmp_path: Path) -> None:
    """``sitecustomize`` stands for a slow file system: every worker needs six seconds to fail."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nif os.environ.get('RETRIEVER_SOCKET'): time.sleep(6)"
    )
    command = [
        sys.executable,
        "-m",
        "retriever_server",
        "--backend",
        "bm25s",
        "--index",
        str(tmp_path / "absent"),
    ]
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    done = subprocess.run(
        [*command, "--workers", "2", "--port", "0"], capture_output=True, text=True, timeout=100,
        env={"PATH": "/usr/bin", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 1
    assert "a worker ended with code 1 while starting" in done.stderr
