"""``trajectories.jsonl``: a line per finished episode, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sd_search_verl.errors import UserError

Key = tuple[str, str, int]
"""Set, question id, seed."""


def key_of(row: Mapping[str, Any]) -> Key:
    """What a line is about."""
    return row["set"], row["id"], row["seed"]


def read_trajectories(path: Path) -> dict[Key, dict[str, Any]]:
    """Every whole line of a file, by what it is about. A last line without its end was being written: not read.

    Raises:
        UserError: a whole line is no such record, or a second one of the same episode.
    """
    found: dict[Key, dict[str, Any]] = {}
    if not path.exists():
        return found
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            key = key_of(row)
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
    """The file, open for appending and locked: two evaluations into one folder would ask everything twice.

    Raises:
        UserError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"another evaluation is writing {path}; wait for it or choose --out") from None
        _drop_torn_line(path)
        self.rows = read_trajectories(path)

    def append(self, row: dict[str, Any]) -> None:
        """Write a line, whole and at once: whoever is killed later has it."""
        # A policy can write half a surrogate pair; JSON escapes keep the file readable.
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        self.rows[key_of(row)] = row

    def __enter__(self) -> TrajectoryFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _drop_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
