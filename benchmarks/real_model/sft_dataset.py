"""Data set of verl's SFT trainer whose rows are token ids, so that it trains on exactly what the agent loop holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset


class TokenDataset(Dataset[dict[str, torch.Tensor]]):
    """Rows of ``input_ids`` and ``loss_mask``; chosen by ``data.custom_cls``, with verl's arguments."""

    def __init__(self, parquet_files: str | Sequence[str], **_: Any) -> None:
        files = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        self._rows = [row for file in files for row in pq.read_table(file).to_pylist()]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        return {
            "input_ids": torch.tensor(row["input_ids"]),
            "position_ids": torch.arange(len(row["input_ids"])),
            "loss_mask": torch.tensor(row["loss_mask"]),
        }
