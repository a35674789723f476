"""Arms times seeds: run what is not yet there, and gather one CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.table import write_rows
from benchmarks.world import arms
from benchmarks.world.config import TrainConfig
from benchmarks.world.experiment import COLUMNS, EvaluationRow, run
from sd_search_verl.errors import UserError
from sd_search_verl.files import reading, write_text
from sd_search_verl.fingerprint import fingerprint
from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.files import difficulty


@dataclass(frozen=True)
class Job:
    """A run to do, the file it goes to, and all that decides its rows."""

    arm: str
    config: TrainConfig
    checkpoint: Path
    alpha: float | None
    path: Path
    settings: dict[str, object]


def compare(
    runs: Sequence[tuple[str, int]],
    out: Path,
    config: TrainConfig,
    jobs: int = 1,
    checkpoint: Path = CHECKPOINT,
    alpha: float | None = None,
    learning_rates: Mapping[str, float] | None = None,
) -> list[EvaluationRow]:
    """Return the rows of every run. One that finished before, in this folder and equal, is read and not run again.

    Args:
        runs: pairs of arm and seed, in the order in which they run.
        out: folder of a file per run.
        config: of every run, but for its seed.
        jobs: runs at a time; more than one have a process each.
        checkpoint: the warm-started model; its world is that of the runs.
        alpha: of all arms that distil, in place of their own.
        learning_rates: of some arms, in place of the config's.

    Raises:
        UserError: an unknown arm, or ``out`` holds a run of other settings.
    """
    rates = learning_rates or {}
    wanted = [
        _job(
            arm,
            config.replace(seed=seed, learning_rate=rates.get(arm, config.learning_rate)),
            checkpoint,
            alpha,
            out,
        )
        for arm, seed in runs
    ]
    out.mkdir(parents=True, exist_ok=True)
    missing = [job for job in wanted if not _finished(job)]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar, ExitStack() as stack:
        # Leaving a pool, by an interrupt too, ends its processes.
        work: Any = map if jobs == 1 else stack.enter_context(get_context("spawn").Pool(jobs)).imap_unordered
        for line in work(_run, missing):
            bar.set_postfix_str(line)
            bar.update()
    return [EvaluationRow(**row) for job in wanted for row in json.loads(job.path.read_text())["rows"]]


def write_csv(rows: Iterable[EvaluationRow], path: Path) -> None:
    """Write one line per evaluation; an empty cell is nan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, map(cells, rows))


def read_csv(path: Path) -> list[EvaluationRow]:
    """Read the rows that :func:`write_csv` wrote.

    Raises:
        UserError: other columns.
    """
    with reading(path, "CSV"), path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise UserError(f"{path} has columns {reader.fieldnames}, not {COLUMNS}")
        return [row_of(line) for line in reader]


def cells(row: EvaluationRow) -> dict[str, str]:
    """Return a row's cells by the names of their columns."""
    return {name: _cell(value) for name, value in asdict(row).items()}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.5g}"
    return str(value)


def row_of(line: Mapping[str, str]) -> EvaluationRow:
    """Return the row that :func:`cells` gave."""
    texts, whole = ("arm", "device"), ("seed", "step", "rollouts")
    values: dict[str, object] = {
        name: cell if name in texts else int(cell) if name in whole else float(cell or "nan")
        for name, cell in line.items()
    }
    return EvaluationRow(**values)  # type: ignore[arg-type]


def _job(arm: str, config: TrainConfig, checkpoint: Path, alpha: float | None, out: Path) -> Job:
    chosen = arms.arm(arm, alpha)
    settings = {
        "arm": arm,
        "method": chosen.method.model_dump(),
        "candidates": chosen.candidates,
        "train": config.model_dump(),
        "world": difficulty(checkpoint).model_dump(),
        "model": fingerprint(checkpoint),
    }
    as_read = json.loads(json.dumps(settings))
    return Job(arm, config, checkpoint, alpha, out / f"{arm}-{config.seed}.json", as_read)


def _finished(job: Job) -> bool:
    if not job.path.exists():
        return False
    if json.loads(job.path.read_text())["settings"] != job.settings:
        raise UserError(f"{job.path} is a run of other settings; give another --out, or remove it")
    return True


def _run(job: Job) -> str:
    rows = [asdict(row) for row in run(job.arm, job.config, job.checkpoint, job.alpha)]
    write_text(job.path, json.dumps({"settings": job.settings, "rows": rows}))
    return f"{job.arm} seed {job.config.seed}: success {rows[-1]['success']:.2f}"
