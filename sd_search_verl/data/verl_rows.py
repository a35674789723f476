"""Questions in verl's RL format: rows, schema and parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sd_search_verl.files import whole
from sd_search_verl.protocol.base import Protocol

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct(
            {"style": pa.string(), "ground_truth": pa.struct({"target": pa.list_(pa.string())})}
        ),
        "extra_info": pa.struct(
            {"index": pa.int64(), "split": pa.string(), "id": pa.string(), "question": pa.string()}
        ),
    }
)
_BATCH = 2000


def verl_row(
    name: str,
    split: str,
    index: int,
    identity: str,
    question: str,
    golden_answers: Sequence[str],
    protocol: Protocol,
) -> dict[str, Any]:
    """Return a question as a row of verl's RL data set.

    ``data_source`` is the name of the question set, ``index`` the question's position in its split.
    """
    return {
        "data_source": name,
        "prompt": protocol.prompt(question),
        "ability": "search",
        "reward_model": {"style": "rule", "ground_truth": {"target": list(golden_answers)}},
        "extra_info": {"index": index, "split": split, "id": identity, "question": question},
    }


def write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write all rows, or no file if one fails; return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, left = 0, iter(rows)
    with whole(path) as part, pq.ParquetWriter(part, SCHEMA) as writer:
        while batch := list(islice(left, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=SCHEMA))
            count += len(batch)
    return count
