"""The data files: there, with their columns, and written for the protocol that the run speaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from sd_search_verl import protocol as protocols
from sd_search_verl.finding import Finding


def check_data(config: DictConfig) -> Iterator[Finding]:
    """Every local parquet file: its columns, its number of rows, and the protocol that its prompts speak."""
    rows = 0
    for option in ("train_files", "val_files"):
        for file in _as_list(config.data[option]):
            path = Path(str(file)).expanduser()
            if "://" not in str(file) and path.suffix not in (".json", ".jsonl"):
                count, wrong, fix = _parquet(path, config)
                yield Finding(f"data.{option}", not wrong, wrong or f"{path}: {count} rows", fix)
                rows += count if option == "train_files" else 0
    if 0 < rows < (batch := config.data.train_batch_size):
        found = f"{batch} is more than the {rows} rows of data.train_files: no step would run"
        yield Finding("data.train_batch_size", False, found, "lower it, or add rows")


def _parquet(path: Path, config: DictConfig) -> tuple[int, str, str]:
    """Rows of a file, what is wrong with it, and the fix; nothing wrong is an empty text."""
    import pyarrow.parquet as pq

    if not path.is_file():
        return (
            0,
            f"{path} does not exist",
            "build it with `sd-search data build --out DIR`, or give another path",
        )
    try:
        table = pq.ParquetFile(path)
    except Exception as error:
        return 0, f"{path} is not parquet: {error}", "build it with `sd-search data build --out DIR`"
    if config.data.custom_cls.path:  # a data set class of the user's own reads what it wants
        return table.metadata.num_rows, "", ""
    there = table.schema_arrow.names
    wanted = {config.data.prompt_key, config.data.reward_fn_key, "reward_model"}
    if missing := sorted(wanted - set(there)):
        wrong = f"{path} has no column {', '.join(missing)}; it has {', '.join(there)}"
        return 0, wrong, "`sd-search data own NAME FILE` makes every column that is needed"
    if other := _other_protocol(table, config):
        ours = config.search.protocol
        wrong = f"the prompts of {path} speak {other}, but search.protocol={ours}"
        return (
            0,
            wrong,
            f"rebuild it with `sd-search data build --protocol {ours}`, or set search.protocol={other}",
        )
    return table.metadata.num_rows, "", ""


def _other_protocol(table: Any, config: DictConfig) -> str | None:
    """Return the protocol of the first prompt where it differs from the configured one."""
    if not table.metadata.num_rows:
        return None
    batch = next(table.iter_batches(batch_size=1, columns=[config.data.prompt_key]))
    text = json.dumps(batch.to_pylist()[0], default=str)
    configured = protocols.get(config.search.protocol)
    if configured.observation_open in text:
        return None
    found = protocols.detect(text, default=configured)
    return found.name if found is not configured else None


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, ListConfig)) else [value]
