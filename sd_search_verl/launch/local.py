"""``sd-search local``: index, retriever, training and report, one after the other, on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from sd_search_verl.errors import UserError
from sd_search_verl.launch.guard import children_end_with_us
from sd_search_verl.launch.processes import no_process_left
from sd_search_verl.launch.retriever import build_index, start_retriever
from sd_search_verl.launch.training import train
from sd_search_verl.report import write_report
from sd_search_verl.verl_adapter.cpu.environment import ENVIRONMENT


@dataclass(frozen=True)
class LocalRun:
    """What to run.

    Attributes:
        run: folder of everything the run leaves behind.
        world: folder with ``train.parquet``, ``val.parquet``, ``model/`` and, unless ``corpus`` says otherwise,
            ``corpus.jsonl``.
        config: name of a config in ``config_dir``.
        steps: training steps; None = what the config says.
        overrides: further Hydra overrides.
        retriever: /retrieve address of a running server; None = index the corpus and start one.
    """

    run: Path
    world: Path
    config_dir: Path
    config: str
    steps: int | None = None
    overrides: Sequence[str] = ()
    retriever: str | None = None
    corpus: Path | None = None


def run_local(job: LocalRun) -> Path:
    """Run a job on the CPU; leaves no process behind, however it ends. Returns the report's path.

    Raises:
        UserError: the world's folder lacks a part.
        RetrieverFailedError, TrainingFailedError: with the end of the log.
    """
    corpus = job.corpus or job.world / "corpus.jsonl"
    for part in (corpus, job.world / "train.parquet", job.world / "val.parquet", job.world / "model"):
        if not part.exists():
            raise UserError(f"{part} is missing; build the world first")
    run = job.run.resolve()
    run.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    # The first for a SIGKILL of this process, the second for all other ends.
    with children_end_with_us(), no_process_left():
        url = job.retriever
        if url is None:
            _say(begun, f"indexing {corpus}")
            build_index(corpus, run / "index")
            url = start_retriever(corpus, run / "index", run)
            _say(begun, f"retriever answers at {url}")
        steps = job.steps or _configured_steps(job)
        _say(begun, f"training {steps} steps; log: {run / 'train.log'}")
        train([*_arguments(job, run, url, steps), *job.overrides], run, steps, ENVIRONMENT)
    page = write_report([run], run / "report.html")
    _say(begun, "done")
    return page


def _configured_steps(job: LocalRun) -> int:
    path = job.config_dir / f"{job.config}.yaml"
    if not path.exists():
        raise UserError(f"{path} is missing; give --config-dir and --config of a Hydra config")
    steps = OmegaConf.select(OmegaConf.load(path), "trainer.total_training_steps")
    if steps is None:
        raise UserError(f"{path} does not set trainer.total_training_steps; give --steps")
    return int(steps)


def _arguments(job: LocalRun, run: Path, url: str, steps: int) -> list[str]:
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
        f"trainer.total_training_steps={steps}",
    ]


def _say(begun: float, what: str) -> None:
    print(f"[{time.monotonic() - begun:5.1f} s] {what}", flush=True)
