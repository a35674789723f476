"""Arms times seeds: run what is not yet there, and gather one CSV."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sd_search_verl.config import to_mapping
from sd_search_verl.world.arms import ARMS
from sd_search_verl.world.config import TrainConfig
from sd_search_verl.world.experiment import COLUMNS, Row, run


def compare(runs: Sequence[tuple[str, int]], out: Path, config: TrainConfig, jobs: int = 1) -> list[Row]:
    """Rows of every run. One that finished before, in this folder and equal, is read, not repeated.

    Args:
        runs: pairs of arm and seed, in the order in which they run.
        out: folder of a file per run.
        config: of every run, but for its seed.
        jobs: runs at a time; more than one have a process each.

    Raises:
        ValueError: an unknown arm, or ``out`` holds a run of other settings.
    """
    if unknown := [arm for arm, _ in runs if arm not in ARMS]:
        raise ValueError(f"arm {unknown[0]!r} is unknown; choose from {', '.join(ARMS)}")
    out.mkdir(parents=True, exist_ok=True)
    wanted = [(arm, replace(config, seed=seed)) for arm, seed in runs]
    missing = [(arm, config) for arm, config in wanted if not _finished(out, arm, config)]
    with tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="run") as bar, ExitStack() as stack:
        # Leaving a pool, by an interrupt too, ends its processes.
        work: Any = map if jobs == 1 else stack.enter_context(get_context("spawn").Pool(jobs)).imap_unordered
        for line in work(partial(_run, out), missing):
            bar.set_postfix_str(line)
            bar.update()
    return [row for arm, config in wanted for row in _load(_path(out, arm, config))]


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """One line per evaluation; an empty cell is nan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(_cell(value) for value in asdict(row).values())


def read_csv(path: Path) -> list[Row]:
    """What :func:`write_csv` wrote.

    Raises:
        ValueError: other columns.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path} has columns {reader.fieldnames}, not {COLUMNS}")
        return [_row(line) for line in reader]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.5g}"
    return str(value)


def _row(line: dict[str, str]) -> Row:
    texts, whole = ("arm", "device"), ("seed", "step", "rollouts")
    values: dict[str, object] = {
        name: cell if name in texts else int(cell) if name in whole else float(cell or "nan")
        for name, cell in line.items()
    }
    return Row(**values)  # type: ignore[arg-type]


def _settings(arm: str, config: TrainConfig) -> dict[str, object]:
    chosen = ARMS[arm]
    settings = {
        "arm": arm,
        "method": to_mapping(chosen.method),
        "flipped": chosen.flipped,
        "candidates": chosen.candidates,
        "train": asdict(config),
    }
    return dict(json.loads(json.dumps(settings)))  # as a file gives it back


def _path(out: Path, arm: str, config: TrainConfig) -> Path:
    return out / f"{arm}-{config.seed}.json"


def _finished(out: Path, arm: str, config: TrainConfig) -> bool:
    path = _path(out, arm, config)
    if not path.exists():
        return False
    if json.loads(path.read_text())["settings"] != _settings(arm, config):
        raise ValueError(f"{path} is a run of other settings; give another --out, or remove it")
    return True


def _run(out: Path, job: tuple[str, TrainConfig]) -> str:
    arm, config = job
    rows = [asdict(row) for row in run(arm, config)]
    path = _path(out, arm, config)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"settings": _settings(arm, config), "rows": rows}))
    os.replace(part, path)  # whole or absent
    return f"{arm} seed {config.seed}: success {rows[-1]['success']:.2f}"


def _load(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text())["rows"]]
