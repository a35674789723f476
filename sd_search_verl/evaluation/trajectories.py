"""``trajectories.jsonl``: one line per finished rollout, from which a killed evaluation resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sd_search_verl.errors import UserError
from sd_search_verl.files import try_lock

Key = tuple[str, str, int]
"""Set, question id, seed."""


def key_of(row: Mapping[str, Any]) -> Key:
    """Return set, question id and seed of a line."""
    return row["set"], row["id"], row["seed"]


def read_trajectories(path: Path) -> dict[Key, dict[str, Any]]:
    """Return the lines of a file by key; a last line without its line end is incomplete and left out.

    Raises:
        UserError: a whole line is no such record, or there are two of one set, question and seed.
    """
    found: dict[Key, dict[str, Any]] = {}
    if not path.exists():
        return found
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            key = key_of(row)
            if [type(part) for part in key] != [str, str, int]:
                raise TypeError("set and id must be texts, and seed a whole number")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number} is no trajectory of `sd-search evaluate` ({error!r}); remove the line, "
                "its question is asked again"
            ) from None
        if key in found:
            raise UserError(f"{path}:{number}: set {key[0]}, question {key[1]}, seed {key[2]} stands twice")
        found[key] = row
    return found


class TrajectoryFile:
    """The file, open for appending and locked, so that two evaluations cannot write one folder.

    Raises:
        UserError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._path = path.open("ab+"), path
        if not try_lock(self._file):
            self._file.close()
            raise UserError(f"another evaluation is writing {path}; wait for it or choose --out")
        _drop_torn_line(path)
        self.rows = read_trajectories(path)

    def append(self, row: dict[str, Any]) -> None:
        """Write a line and flush it, so that a later kill does not lose it.

        Raises:
            OSError: with the path, such as on a full disk; a part of the line is removed when the file is opened again.
        """
        try:
            # A policy can write half a surrogate pair; JSON escapes keep the file readable.
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.rows[key_of(row)] = row

    def __enter__(self) -> TrajectoryFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:  # it writes again what a full disk did not take
            if error is None:
                raise


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
