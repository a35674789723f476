"""Parts in processes of their own: each with a limit, and none that another can break."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from benchmarks.gpu.plan import Part
from benchmarks.gpu.results import Run

REPO = Path(__file__).resolve().parents[2]
LOG = "log.txt"
SHORTEST_S = 20
"""With less time left no part is started."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended.

    Attributes:
        state: ``ok``, ``failed: LAST LINE OF ITS OUTPUT``, ``ended at its limit`` or ``not started``.
    """

    part: str
    state: str
    seconds: float
    limit_s: float

    @property
    def ok(self) -> bool:
        """Whether the part ran to its end."""
        return self.state == "ok"


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float
    limit_s: float


def environment(rehearse: bool, paths: Sequence[Path]) -> dict[str, str]:
    """Return the environment of a part's process; ``paths`` are searched for packages before this repository."""
    searched = [*map(str, paths), str(REPO), str(REPO / "tests"), os.environ.get("PYTHONPATH", "")]
    values = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in searched if path),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    }
    values.pop("PYTHONDONTWRITEBYTECODE", None)  # every process would compile its imports anew
    if rehearse:
        cpu = {"VERL_PLATFORM": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return values | cpu | {"VERL_DISABLE_FLASH_ATTN_CE": "1"}  # Triton kernels need a card
    values.setdefault("VERL_PLATFORM", "nvidia")
    return values


def run_side_by_side(
    parts: Sequence[tuple[Part, Mapping[str, str]]], run: Run, seconds_left: float
) -> list[Outcome]:
    """Run parts with their environments at once, each for at most its limit and ``seconds_left``.

    The output of every part is appended to ``log.txt`` when it ends.
    """
    if seconds_left < SHORTEST_S:
        return [Outcome(part.name, "not started", 0.0, part.limit_s) for part, _ in parts]
    running = [_start(part, values, run, seconds_left) for part, values in parts]
    outcomes = []
    try:
        while running:
            for item in list(running):
                outcome = _outcome(item)
                if outcome is not None:
                    running.remove(item)
                    outcomes.append(outcome)
            time.sleep(0.1)
    finally:
        for item in running:  # interrupted: no process stays on the card
            _kill(item)
    return outcomes


def _start(part: Part, values: Mapping[str, str], run: Run, seconds_left: float) -> _Running:
    limit_s = min(part.limit_s, seconds_left)
    told = asdict(run) | {"part": part.name, "out": str(run.out), "limit_s": limit_s}
    command = [sys.executable, "-m", "benchmarks.gpu.part", part.module, json.dumps(told), *part.arguments]
    log = (run.out / f".{part.name}.log").open("w+b")
    process = subprocess.Popen(
        command, cwd=REPO, env=values, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    return _Running(part, process, log, time.monotonic(), limit_s)


def _outcome(item: _Running) -> Outcome | None:
    """Return how it ended, or None while it runs."""
    code, seconds = item.process.poll(), time.monotonic() - item.began
    if code is None and seconds < item.limit_s:
        return None
    _kill(item)
    text = _output(item)
    state = "ok" if code == 0 else "ended at its limit"
    if code:
        state = f"failed: {(text.strip().splitlines() or [f'exit code {code}'])[-1][:200]}"
    with (Path(item.log.name).parent / LOG).open("a") as log:
        log.write(f"=== {item.part.name}: {state}\n{text}\n")
    return Outcome(item.part.name, state, round(seconds, 1), round(item.limit_s, 1))


def _kill(item: _Running) -> None:
    """End the part's process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(item.process.pid, signal.SIGKILL)
    item.process.wait()


def _output(item: _Running) -> str:
    """Return the part's output and remove its file."""
    item.log.seek(0)
    text = item.log.read().decode(errors="replace")
    item.log.close()
    Path(item.log.name).unlink()
    return text
