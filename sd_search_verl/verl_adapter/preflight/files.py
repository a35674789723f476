"""Data files as verl reads them: parquet, and JSON by way of `datasets`, whose type guesses are part of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig


@dataclass(frozen=True)
class DataFile:
    """A readable file.

    Attributes:
        columns: names of its columns.
        num_rows: number of its rows.
        read: yields batches of rows with the columns asked for.
    """

    path: Path
    columns: Sequence[str]
    num_rows: int
    read: Callable[[Sequence[str]], Iterator[Any]]

    def rows(self, columns: Sequence[str], chosen: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield number, counted from 1, and values of every row, or of the rows at the sorted indices ``chosen``."""
        import numpy as np

        start, wanted = 0, None if chosen is None else np.asarray(chosen)
        for batch in self.read([name for name in columns if name in self.columns]):
            end = start + batch.num_rows
            numbers: Sequence[int] = range(start + 1, end + 1)
            if wanted is not None:
                low, high = np.searchsorted(wanted, [start, end])
                numbers = [int(i) + 1 for i in wanted[low:high]]
                batch = batch.take([number - 1 - start for number in numbers])
            yield from zip(numbers, batch.to_pylist(), strict=True)
            start = end


def data_files(config: DictConfig, option: str) -> list[str]:
    """Return the files of ``data.train_files`` or ``data.val_files``."""
    value = config.data[option]
    return [str(file) for file in (value if isinstance(value, (list, tuple, ListConfig)) else [value])]


def is_remote(path: object) -> bool:
    """Return whether verl downloads a file or folder when it starts."""
    return "://" in str(path)


def open_file(path: Path) -> DataFile:
    """Open a file as verl does.

    Raises:
        Exception: of the library that cannot read it.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.ParquetFile(path)
        return DataFile(
            path,
            table.schema_arrow.names,
            table.metadata.num_rows,
            lambda columns: table.iter_batches(batch_size=4096, columns=list(columns)),
        )
    import datasets

    rows = datasets.load_dataset("json", data_files=str(path), split="train")
    return DataFile(
        path,
        rows.column_names,
        rows.num_rows,
        lambda columns: rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=4096),
    )
