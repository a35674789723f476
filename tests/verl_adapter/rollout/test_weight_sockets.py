"""New weights reach the run's own vLLM, whatever other run is on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.processes import first_on_path

from sd_search_verl.world.config import CHECKPOINT

TESTS = Path(__file__).resolve().parents[2]


def test_the_socket_of_new_weights_is_named_after_the_node_of_the_ray_cluster() -> None:
    """verl names it after the Ray job alone, which has the same number in every cluster on a machine."""
    done = subprocess.run(
        [sys.executable, "-m", "support.socket_names", str(CHECKPOINT)],
        env={**os.environ, "PYTHONPATH": first_on_path(TESTS)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    node, sends, receives = json.loads(done.stdout.splitlines()[-1])
    assert sends == receives
    assert node[:16] in sends
    assert len(sends.removeprefix("ipc://")) < 108  # sun_path of unix(7)
