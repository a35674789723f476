"""Read JSON, YAML and parquet so that every error names the file and says what to do; write files in one step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sd_search_verl.errors import UserError, on_one_line


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        UserError: not JSON, or not UTF-8. OSError: it cannot be opened.
    """
    with reading(path, "JSON"):
        return json.loads(path.read_text(encoding="utf-8"))


def read_yaml(path: Path) -> Any:
    """Return the OmegaConf config in a YAML file.

    Raises:
        UserError: not YAML, or not UTF-8. OSError: it cannot be opened.
    """
    from omegaconf import OmegaConf

    with reading(path, "YAML"):
        return OmegaConf.load(path)


def count_parquet_rows(path: Path) -> int:
    """Return the number of rows of a parquet file.

    Raises:
        UserError: not parquet, or cut short. OSError: it cannot be opened.
    """
    import pyarrow.parquet as pq

    with reading(path, "parquet"):
        return int(pq.ParquetFile(path).metadata.num_rows)


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file.

    Raises: as :func:`count_parquet_rows`.
    """
    import pyarrow.parquet as pq

    with reading(path, "parquet"):
        batches = pq.ParquetFile(path).iter_batches(batch_size=1024)
    while True:
        with reading(path, "parquet"):
            batch = next(batches, None)
        if batch is None:
            return
        yield from batch.to_pylist()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with indents, see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, so that a process that is killed leaves the old content or the new, whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def make_new_folder(path: Path) -> None:
    """Make a folder for results, before the work that they take; one that is empty will do.

    Raises:
        UserError: it holds files, which the results would overwrite.
    """
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"{path} holds files, which would be overwritten. Fix: give a new folder")
    path.mkdir(parents=True, exist_ok=True)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work whose result it gets; its content stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.exists()
    path.open("a").close()
    if not there:
        path.unlink()


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Name the file in the errors of its library, which do not; errors of the system name it themselves."""
    from yaml import YAMLError

    try:
        yield
    # Those of pyarrow are ValueErrors, or OSErrors without a number.
    except (ValueError, YAMLError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = on_one_line(error)[:200]
        raise UserError(
            f"{path} is not {kind} that can be read ({reason}). Fix: copy or write the file again"
        ) from error
