"""``python -m verl.trainer.main_ppo`` as a child process, its log in a file and its progress on the terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sd_search_verl.launch.processes import start, tail

# After such a line verl's workers wait for each other for ever.
_DEADLY = re.compile(r"WorkerProc hit an exception|EngineDeadError|EngineCore encountered a fatal error")
_STAGES = (
    ("Started a local Ray instance", "Ray is up"),
    ("Before FSDP", "loading the actor"),
    ("Initializing a V1 LLM engine", "starting vLLM"),
    ("Training Progress", "first rollouts"),
)


class TrainingFailedError(RuntimeError):
    """Training ended early, hung, or never began."""


def train(
    overrides: Sequence[str], run: Path, steps: int, environment: Mapping[str, str], silence_s: float = 300.0
) -> None:
    """Run the training to its end.

    Args:
        overrides: arguments of main_ppo, Hydra's own included.
        run: folder of ``metrics.jsonl``; the log goes to ``train.log`` in it.
        steps: how many are expected, for the progress bar.
        environment: added to this process's.
        silence_s: give up when neither log nor metrics have grown for so long.

    Raises:
        TrainingFailedError: with the end of the log.
    """
    log, metrics = run / "train.log", run / "metrics.jsonl"
    process = start([sys.executable, "-m", "verl.trainer.main_ppo", *overrides], log, environment)
    begun = time.monotonic()
    seen, last_growth, size = 0, begun, 0
    every = 0.5 if sys.stderr.isatty() else 15.0  # a log file needs no animation
    with tqdm(total=steps, desc="training", unit="step", dynamic_ncols=True, mininterval=every) as bar:
        while True:
            status = process.poll()
            for step in _new_steps(metrics, seen):
                seen += 1
                bar.set_postfix_str("", refresh=False)
                bar.write(describe(step))
                bar.update()
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            if seen == 0:
                bar.set_postfix_str(f"{_stage(text)}, {time.monotonic() - begun:.0f} s", refresh=False)
                bar.update(0)
            if len(text) + seen != size:
                size, last_growth = len(text) + seen, time.monotonic()
            if status is not None:
                break
            if _DEADLY.search(text):
                raise _failure("a worker died", process, log)
            if time.monotonic() - last_growth > silence_s:
                raise _failure(f"nothing happened for {silence_s:.0f} s", process, log)
            time.sleep(0.5)
    if status != 0:
        raise _failure(f"status {status}", process, log)


def describe(metrics: Mapping[str, Any]) -> str:
    """One step as a line a person can read."""

    def show(name: str, key: str, form: str = ".3f") -> str:
        return f"{name} {metrics[key]:{form}}" if key in metrics else ""

    parts = [
        f"step {metrics['step']:>4.0f}",
        show("reward", "critic/score/mean"),
        show("EM", "search/em"),
        show("searches", "search/searches_per_rollout", ".2f"),
        show("gold found", "search/gold_in_documents", ".2f"),
        show("alpha", "sd_search/alpha", ".3g"),
        show("JSD", "sd_search/jsd", ".4f"),
        show("entropy gap", "sd_search/entropy_gap", "+.3f"),
        f"{metrics['timing_s/step']:.1f} s" if "timing_s/step" in metrics else "",
    ]
    return "  ".join(part for part in parts if part)


def _new_steps(path: Path, seen: int) -> Iterator[dict[str, Any]]:
    if path.exists():
        lines = path.read_text(encoding="utf-8").split("\n")[
            :-1
        ]  # what follows the last line end is not whole yet
        yield from (json.loads(line) for line in lines[seen:])


def _stage(log: str) -> str:
    reached = [label for mark, label in _STAGES if mark in log]
    return reached[-1] if reached else "importing"


def _failure(why: str, process: subprocess.Popen[bytes], log: Path) -> TrainingFailedError:
    process.kill()
    return TrainingFailedError(f"training failed ({why}); {log} ends:\n{tail(log)}")
