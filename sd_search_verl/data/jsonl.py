"""Read JSON lines strictly: every line becomes an object or a problem with its line number and field.

The checks are written by hand. pydantic's ``model_validate_json`` reads a corpus 2.3 times as fast, but keeps the last
of two fields of one name without a word and cannot name the field that holds half a surrogate pair; validating the
objects read here with it instead costs 1.1 times as much and saves no lines.
"""

from __future__ import annotations

import ast
import codecs
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_search_verl.errors import UserError


@dataclass(frozen=True)
class Problem:
    """An error in one line. ``line`` counts from 1; ``field`` is None when the line is not an object."""

    line: int
    field: str | None
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}" + (f", field {self.field!r}" if self.field else "") + f": {self.reason}"


class MalformedRowsError(UserError):
    """A file has malformed rows.

    Args:
        problems: the errors that the message names.
        bad: number of malformed rows, where it does not name all.
    """

    def __init__(self, path: Path, problems: Sequence[Problem], bad: int | None = None) -> None:
        shown = len({problem.line for problem in problems})
        more = [f"and {bad - shown} more rows"] if bad and bad > shown else []
        super().__init__("\n  ".join([f"{path}: {bad or shown} malformed rows", *map(str, problems), *more]))
        self.path, self.problems = path, list(problems)


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Yield line number and object, or problem, for every line of a file.

    Raises: as :func:`read_lines`.
    """
    return ((number, parse_object(number, line)) for number, line in read_lines(path))


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of every line of a file (gzipped if ``.gz``), without a byte order mark at its start.

    Raises:
        UserError: no such file, or one of another encoding; the file ends before its compressed data do.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file" if path.exists() else "missing"
        raise UserError(f"{path} is {kind}; give a file, which is read more than once")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = enumerate(file, start=1)
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except (EOFError, OSError, zlib.error) as error:
                raise UserError(f"{path} cannot be read to its end ({error}); copy it again") from error
            if number == 1:
                _refuse_encoding(path, line[:2])
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line


def _refuse_encoding(path: Path, head: bytes) -> None:
    """Raise where the file's first two bytes show what would make a problem of every line."""
    if head == b"\x1f\x8b" and path.suffix != ".gz":
        raise UserError(f"{path} is compressed by gzip. Fix: rename it to {path.name}.gz")
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in head:
        raise UserError(
            f"{path} is not UTF-8; it looks like UTF-16. Fix: `iconv -f UTF-16 -t UTF-8` makes UTF-8 of it"
        )


def get_field(row: Mapping[str, Any], field: str) -> Any:
    """Return the value at a dotted path, or None where a part of the path is missing."""
    value: Any = row
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def check_text(line: int, field: str, value: Any, free: bool = False) -> Problem | None:
    """Return the problem of a value that must be a text, or None; a ``free`` text, a policy's, may be empty."""
    if value is None:
        return Problem(line, field, "is missing or null; a text is needed")
    if not isinstance(value, str):
        return Problem(line, field, f"is {_kind(value)}; a text is needed")
    if free:
        return None
    if not value.strip():
        return Problem(line, field, "is empty; a text is needed")
    return _unwritable(line, field, value)


def check_answers(line: int, field: str, value: Any) -> Problem | None:
    """Return the problem of a value that must be a golden answer or a list of them, or None."""
    if value is None:
        return Problem(line, field, "is missing or null; a text or a list of texts is needed")
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list):
        return Problem(line, field, f"is {_kind(value)}; a text or a list of texts is needed")
    if not answers:
        return Problem(line, field, "is an empty list; at least one golden answer is needed")
    for position, answer in enumerate(answers):
        name = field if isinstance(value, str) else f"{field}[{position}]"
        if (problem := check_text(line, name, answer)) is not None:
            return problem
        if _is_written_list(answer):
            return Problem(line, field, f"is the text of a list, not a list: {answer[:60]!r}")
    return None


def _is_written_list(text: str) -> bool:
    """Return whether a text is a list of texts as JSON or Python writes it: nobody answers so."""
    if not text.lstrip().startswith(("[", "{")):
        return False
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(value, (list, dict)) and any(isinstance(item, str) for item in value)


def parse_object(number: int, line: bytes) -> dict[str, Any] | Problem:
    """Return the line's object, or its problem."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Problem(number, None, f"not UTF-8 (byte {error.start + 1} of the line)")
    if not text.strip():
        return Problem(number, None, "empty; each line must be one JSON object")
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        return Problem(number, None, f"not JSON ({error.msg}, character {error.pos + 1})")
    except _RepeatedFieldError as error:
        return Problem(number, error.field, "stands twice in the object")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return Problem(number, None, f"not readable JSON ({str(error)[:80]})")
    if not isinstance(value, dict):
        return Problem(number, None, f"is {_kind(value)}; each line must be one JSON object")
    return value


class _RepeatedFieldError(Exception):
    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _RepeatedFieldError(name)
        found[name] = value
    return found


def _unwritable(line: int, field: str, text: str) -> Problem | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Problem(line, field, "holds half a surrogate pair, which no UTF-8 file can hold")
    return Problem(line, field, "holds a NUL character") if "\0" in text else None


def _kind(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")
