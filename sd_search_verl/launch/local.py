"""``sd-search local``: index, retriever, training and report, one after the other, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_search_verl.launch.processes import no_process_left
from sd_search_verl.launch.retriever import build_index, start_retriever
from sd_search_verl.launch.training import train
from sd_search_verl.verl_adapter.cpu.environment import ENVIRONMENT


@dataclass(frozen=True)
class LocalRun:
    """What to run.

    Attributes:
        run: folder of everything the run leaves behind.
        world: folder with ``corpus.jsonl``, ``train.parquet``, ``val.parquet`` and ``model/``.
        config: name of a config in ``config_dir``.
        steps: training steps.
        overrides: further Hydra overrides.
    """

    run: Path
    world: Path
    config_dir: Path
    config: str
    steps: int
    overrides: Sequence[str] = ()


def run_local(job: LocalRun) -> None:
    """Run a job on the CPU; leaves no process behind, however it ends.

    Raises:
        FileNotFoundError: the world's folder lacks a part.
        RetrieverFailedError, TrainingFailedError: with the end of the log.
    """
    corpus = job.world / "corpus.jsonl"
    for part in (corpus, job.world / "train.parquet", job.world / "val.parquet", job.world / "model"):
        if not part.exists():
            raise FileNotFoundError(f"{part} is missing; build the world first")
    run = job.run.resolve()
    run.mkdir(parents=True, exist_ok=True)
    for stale in ("metrics.jsonl", "traces.jsonl"):
        (run / stale).unlink(missing_ok=True)
    begun = time.monotonic()
    with no_process_left():
        _say(begun, f"indexing {corpus}")
        build_index(corpus, run / "index")
        url = start_retriever(corpus, run / "index", run)
        _say(begun, f"retriever answers at {url}")
        _say(begun, f"training {job.steps} steps; log: {run / 'train.log'}")
        train([*_arguments(job, run, url), *job.overrides], run, job.steps, ENVIRONMENT)
    _say(begun, "done")


def _arguments(job: LocalRun, run: Path, url: str) -> list[str]:
    world = job.world.resolve()
    return [
        f"--config-dir={job.config_dir.resolve()}",
        f"--config-name={job.config}",
        f"hydra.run.dir={run / 'hydra'}",
        f"data.train_files={world / 'train.parquet'}",
        f"data.val_files={world / 'val.parquet'}",
        f"actor_rollout_ref.model.path={world / 'model'}",
        f"search.retriever_urls=[{url}]",
        f"trainer.default_local_dir={run}",
        f"trainer.total_training_steps={job.steps}",
    ]


def _say(begun: float, what: str) -> None:
    print(f"[{time.monotonic() - begun:5.1f} s] {what}", flush=True)
