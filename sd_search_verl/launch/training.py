"""``python -m verl.trainer.main_ppo`` as a child process, its log in a file and its progress on the terminal."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from sd_search_verl.errors import UserError
from sd_search_verl.launch.log_diagnosis import RAY_TOO_SLOW, diagnose
from sd_search_verl.launch.process_tree import start
from sd_search_verl.runs.console import format_step

# After such a line verl's workers wait for each other for ever.
_DEADLY = re.compile(
    r"WorkerProc hit an exception|EngineDeadError|EngineCore encountered a fatal error"
    r"|A worker died or was killed while executing a task"
)
# What verl and its data plane write while they wait, for ever if need be.
_WAITING = re.compile(
    r"pending: \d+, running: \d+|\[Performance\] Total|Time range: last|Per-operation statistics"
)
_STAGES = (
    ("Started a local Ray instance", "Ray is up"),
    ("Before FSDP", "loading the actor"),
    ("After FSDP", "starting vLLM"),
    ("Training Progress", "first rollouts"),
)
_SHOWN = 25  # last lines of a log in a message
_FULL = 2**20  # free bytes of a disk that is full

RAY_STARTS = 3
SILENCE_S = 300.0
"""Seconds without a new line of log or metrics after which a training counts as hung."""
GRACE_S = 5.0
"""Seconds that a training has for ending by itself, with an error of its own, when a process of it has died."""


class TrainingFailedError(UserError):
    """Training ended early, hung, or never began."""


class _RayTooSlowError(TrainingFailedError):
    """Ray's own daemons were not up within the 30 s that Ray gives them, which nothing can set."""


def train(
    overrides: Sequence[str],
    run: Path,
    steps: int,
    environment: Mapping[str, str],
    silence_s: float = SILENCE_S,
) -> None:
    """Run the training to its end. A busy machine gets further tries to start Ray.

    Args:
        overrides: arguments of main_ppo, Hydra's own included.
        run: folder of ``metrics.jsonl``; the log goes to ``train.log`` in it.
        steps: how many are expected, for the progress bar.
        environment: added to this process's.
        silence_s: give up when neither log nor metrics have grown for so long.

    Raises:
        TrainingFailedError: with the end of the log.
    """
    for _ in range(RAY_STARTS - 1):
        try:
            _train(overrides, run, steps, environment, silence_s)
            return
        except _RayTooSlowError:
            print("Ray did not start within its 30 s, as the machine is busy: once more", flush=True)
    _train(overrides, run, steps, environment, silence_s)


def _train(
    overrides: Sequence[str], run: Path, steps: int, environment: Mapping[str, str], silence_s: float
) -> None:
    log, metrics = _GrowingLog(run / "train.log"), run / "metrics.jsonl"
    seen = set(_lines(metrics))  # of a run that this one goes on from, or replaces
    process = start([sys.executable, "-m", "verl.trainer.main_ppo", *overrides], log.path, environment)
    begun = time.monotonic()
    last_growth, size, died = begun, 0, math.inf
    every = 0.5 if sys.stderr.isatty() else 15.0  # a log file needs no animation
    with tqdm(total=steps, desc="training", unit="step", dynamic_ncols=True, mininterval=every) as bar:
        while True:
            status = process.poll()
            for line in _lines(metrics):
                if line in seen:
                    continue
                seen.add(line)
                step = json.loads(line)
                if step["step"] == 0:  # a validation
                    continue
                bar.set_postfix_str("", refresh=False)
                bar.write(format_step(step))
                bar.update(step["step"] - bar.n)
            log.read_on()
            if not bar.n:
                bar.set_postfix_str(f"{log.stage}, {time.monotonic() - begun:.0f} s", refresh=False)
                bar.update(0)
            if log.told + len(seen) != size:
                size, last_growth = log.told + len(seen), time.monotonic()
            if status is not None:
                break
            if log.is_deadly and bar.n < steps:  # after the last step Ray ends vLLM, whose engine says so too
                died = min(died, time.monotonic())
            if time.monotonic() - died > GRACE_S:
                raise _failure("a worker died", process, log.path, environment)
            if time.monotonic() - last_growth > silence_s:
                raise _failure(
                    f"nothing happened for {silence_s:.0f} s, see --silence", process, log.path, environment
                )
            time.sleep(0.5)
    if status != 0:
        raise _failure(f"status {status}", process, log.path, environment)


class _GrowingLog:
    """A log that another process writes; each of its lines is read once.

    Attributes:
        told: bytes by now, without lines that are written while nothing happens.
        stage: what the training does before its first step.
        is_deadly: a line says that a worker died.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.told = path, 0
        self.stage, self.is_deadly = "importing", False
        self._read = self._whole = 0  # bytes of whole lines, and of those that tell something

    def read_on(self) -> None:
        """Read the lines that were added; one without its end is left for the next call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        text = whole.decode(errors="replace")
        self._whole += sum(len(line) for line in text.splitlines() if not _WAITING.search(line))
        self.told = self._whole + len(added) - len(whole)
        self.stage = next((label for mark, label in reversed(_STAGES) if mark in text), self.stage)
        self.is_deadly = self.is_deadly or _DEADLY.search(text) is not None


def _content(path: Path) -> str:
    """Return what a file holds by now; nothing where there is none yet."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file; what follows the last line end is still being written."""
    return _content(path).split("\n")[:-1]


def _failure(
    why: str, process: subprocess.Popen[bytes], log: Path, environment: Mapping[str, str]
) -> TrainingFailedError:
    process.kill()
    text = _content(log)
    if reason := diagnose(text, _full_disks(log.parent, environment)):
        kind = _RayTooSlowError if reason == RAY_TOO_SLOW else TrainingFailedError
        return kind(f"training failed; all of it is in {log}\n{reason}")
    end = "\n".join(text.splitlines()[-_SHOWN:])
    return TrainingFailedError(f"training failed ({why}); {log} ends:\n{end}")


def _full_disks(run: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return which of the run's folder and the temporary ones, where Ray keeps its files, are on a full disk.

    A log on a full disk lacks its end, and Ray only says that it waited for a file in vain.
    """
    variables = os.environ | environment
    temporary = [variables[name] for name in ("RAY_TMPDIR", "TMPDIR") if variables.get(name)]
    full: dict[int, Path] = {}
    for folder in [run, *map(Path, temporary), Path(tempfile.gettempdir())]:
        if folder.is_dir() and shutil.disk_usage(folder).free < _FULL:
            full.setdefault(folder.stat().st_dev, folder)  # each disk once
    return list(full.values())
