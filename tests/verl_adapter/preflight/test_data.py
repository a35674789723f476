"""Questions that validate and train are counted: by file, and by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from support.good_run import change

from sd_search_verl.finding import Finding
from sd_search_verl.verl_adapter import preflight

SYSTEM = {"role": "system", "content": "Search by <search>..</search>, answer by <answer>..</answer>."}


def asking(text: str, source: str = "nq", system: str | None = None) -> dict[str, Any]:
    prompt = [{"role": "user", "content": text}]
    return {
        "data_source": source,
        "prompt": [{"role": "system", "content": system}, *prompt] if system else prompt,
        "reward_model": {"style": "rule", "ground_truth": {"target": ["Jane Austen"]}},
        "extra_info": {"index": 0},
    }


def write(path: Path, *rows: dict[str, Any]) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def failed(config: DictConfig, train: str, validation: Any) -> list[Finding]:
    values = {"data__train_files": train, "data__val_files": validation, "data__train_batch_size": 1}
    return [finding for finding in preflight.check_data(change(config, **values)) if not finding.ok]


def test_a_validation_on_the_training_files_is_warned_about(good: DictConfig, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", asking("who?"))
    (finding,) = failed(good, path, [f"{tmp_path}/../{tmp_path.name}/rows.parquet"])
    assert finding.warning
    assert "rows.parquet is among data.train_files too" in finding.found


def test_validation_questions_that_are_trained_on_are_counted(good: DictConfig, tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", asking("who?"), asking("when?"))
    own = write(tmp_path / "own.parquet", asking("who? ", "b"), asking("where?"), asking("when?"))
    clean = write(tmp_path / "clean.parquet", asking("where?"))
    (finding,) = failed(good, train, [own, clean])
    assert finding.warning
    assert f"2 of the 3 rows that were read of {own}" in finding.found
    assert failed(good, train, clean) == []


def test_the_question_is_the_last_message(good: DictConfig, tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", asking("who?", system="Search."))
    other = write(tmp_path / "other.parquet", asking("who?", system="Answer."))
    (finding,) = failed(good, train, other)
    assert "1 of the 1 rows" in finding.found
