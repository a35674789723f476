"""``sd-search local``: index, retriever, training and report, one after the other, on this machine."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sd_search_verl.errors import UserError
from sd_search_verl.files import FolderLock, read_yaml
from sd_search_verl.launch.environment import environment
from sd_search_verl.launch.process_tree import end_children_on_exit, kill_children_on_death
from sd_search_verl.launch.retriever import build_index, serving_index
from sd_search_verl.launch.training import SILENCE_S, train
from sd_search_verl.report import write_report


@dataclass(frozen=True)
class LocalRun:
    """What to run.

    Attributes:
        run: folder for all that the run writes.
        inputs: folder with ``train.parquet``, ``val.parquet``, ``model/`` and, unless ``corpus`` says otherwise,
            ``corpus.jsonl``.
        config: name of a config in ``config_dir``.
        steps: training steps; None = what the config says.
        overrides: further Hydra overrides.
        retriever: /retrieve address of a running server; None = index the corpus and start one.
        silence_s: seconds without a new line of log or metrics after which the training counts as hung.
    """

    run: Path
    inputs: Path
    config_dir: Path
    config: str
    steps: int | None = None
    overrides: Sequence[str] = ()
    retriever: str | None = None
    corpus: Path | None = None
    silence_s: float = SILENCE_S


def run_local(job: LocalRun) -> Path:
    """Run a job on this machine; leaves no process behind, however it ends. Returns the report's path.

    Raises:
        UserError: the folder of inputs lacks a part, the config wants a GPU that is not here, or no number of steps
            is known.
        RetrieverFailedError, TrainingFailedError: with the end of the log.
    """
    corpus = job.corpus or job.inputs / "corpus.jsonl"
    if job.corpus is not None and not job.corpus.exists():
        raise UserError(f"--corpus={job.corpus} is missing")
    indexed = [corpus] if job.retriever is None else []
    for part in (*indexed, *(job.inputs / name for name in ("train.parquet", "val.parquet", "model"))):
        if not part.exists():
            others = job.inputs.is_dir() and any(job.inputs.iterdir())
            fix = (
                "put it there" if others else f"`sd-search world build --out {job.inputs}` writes the demo's"
            )
            raise UserError(f"{part} is missing. Fix: {fix}")
    device = str(setting(job, "trainer.device") or "cpu")
    if device == "cuda" and not _has_gpu():
        raise UserError(
            f"{job.config} runs on trainer.device=cuda, and no GPU is found here. "
            "Fix: a config for a CPU, such as cpu_demo"
        )
    steps = _steps(job)
    run = job.run.resolve()
    run.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    # The first for a SIGKILL of this process, the second for all other ends.
    with kill_children_on_death(), end_children_on_exit(), ExitStack() as stack:
        stack.callback(FolderLock(run, "local", "another `sd-search local`").release)
        url = job.retriever
        if url is None:
            _say(begun, f"indexing {corpus}")
            build_index(corpus, run / "index")
            url = stack.enter_context(serving_index(corpus, run / "index", run))
            _say(begun, f"retriever answers at {url}")
        _say(begun, f"training {steps} steps; log: {run / 'train.log'}")
        arguments = [*_arguments(job, run, url, steps), *job.overrides]
        if "RAY_ADDRESS" in os.environ:
            _say(begun, "RAY_ADDRESS is not used: a local run starts a Ray cluster of its own")
        variables = {**environment(device, os.environ), "RAY_ADDRESS": "local"}
        train(arguments, run, steps, variables, job.silence_s)
    page = write_report([run], run / "report.html")
    _say(begun, "done")
    return page


def _steps(job: LocalRun) -> int:
    """Return how many steps are trained, by the command line or the config."""
    name, steps = "--steps", job.steps
    if steps is None:
        path = job.config_dir / f"{job.config}.yaml"
        if not path.exists():
            raise UserError(f"{path} is missing; give --config-dir and --config of a Hydra config")
        name, steps = "trainer.total_training_steps", setting(job, "trainer.total_training_steps")
        if steps is None:
            raise UserError(f"{path} does not set {name}; give --steps")
    if not str(steps).isdecimal() or int(steps) < 1:
        raise UserError(f"{name}={steps} must be a whole number, at least 1. Fix: give --steps")
    return int(steps)


def _has_gpu() -> bool:
    import torch  # takes seconds, which a run on a CPU need not spend here

    return torch.cuda.is_available()


def setting(job: LocalRun, key: str) -> Any:
    """Return what an override says, else the config, else the last of its defaults in the same folder; or None."""
    given = [text.partition("=") for text in job.overrides]
    said = [value for name, _, value in given if name.lstrip("+") == key]
    return said[-1] if said else _configured(job.config_dir, job.config, key)


def _configured(folder: Path, config: str, key: str) -> Any:
    path = folder / f"{config}.yaml"
    if not path.exists():
        return None  # verl's own
    content = read_yaml(path)
    found = OmegaConf.select(content, key)
    for name in reversed(content.get("defaults", [])):
        if found is None and isinstance(name, str) and name != "_self_":
            found = _configured(folder, name, key)
    return found


def _arguments(job: LocalRun, run: Path, url: str, steps: int) -> list[str]:
    inputs = job.inputs.resolve()
    return [
        f"--config-dir={job.config_dir.resolve()}",
        f"--config-name={job.config}",
        f"hydra.run.dir={_quoted(run / 'hydra')}",
        f"data.train_files={_quoted(inputs / 'train.parquet')}",
        f"data.val_files={_quoted(inputs / 'val.parquet')}",
        f"actor_rollout_ref.model.path={_quoted(inputs / 'model')}",
        f"search.retriever_urls=[{_quoted(url)}]",
        f"trainer.default_local_dir={_quoted(run)}",
        f"trainer.total_training_steps={steps}",
    ]


def _quoted(value: Path | str) -> str:
    """Return a value as Hydra reads it whole: unquoted, ``=``, ``,`` and brackets in a path end it."""
    # Backslashes count as escapes only before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), str(value))
    return f"'{escaped}'"


def _say(begun: float, what: str) -> None:
    print(f"[{time.monotonic() - begun:5.1f} s] {what}", flush=True)
