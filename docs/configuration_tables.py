"""Writes the tables of docs/configuration.md from the dataclasses: ``python docs/configuration_tables.py``."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sd_search_verl import config

PAGE = Path(__file__).with_name("configuration.md")
SECTIONS = {
    "sd_search": config.SDSearchConfig,
    "sd_search.hindsight": config.HindsightConfig,
    "search": config.SearchConfig,
    "health": config.HealthConfig,
}
_BEGIN, _END = "<!-- tables: made by docs/configuration_tables.py -->", "<!-- end of tables -->"


def tables() -> str:
    """A Markdown table for every section: field, default, choices and meaning."""
    parts = []
    for path, cls in SECTIONS.items():
        meanings = _docstrings(cls)
        lines = [
            f"### `{path}`",
            "",
            inspect.getdoc(cls) or "",
            "",
            "| field | default | meaning |",
            "| --- | --- | --- |",
        ]
        for field in dataclasses.fields(cls):
            if dataclasses.is_dataclass(get_type_hints(cls)[field.name]):
                continue  # a section of its own
            choices = _choices(get_type_hints(cls)[field.name])
            lines.append(f"| `{field.name}` | `{_default(field)}` | {choices}{meanings[field.name]} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def page(text: str) -> str:
    """The page with its tables replaced."""
    head, _, rest = text.partition(_BEGIN)
    return f"{head}{_BEGIN}\n\n{tables()}\n\n{_END}{rest.partition(_END)[2]}"


def _docstrings(cls: type) -> dict[str, str]:
    """The text below each field of a dataclass, on one line."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split()).replace(
                "|", "\\|"
            )
    return found


def _choices(hint: Any) -> str:
    names = [choice for choice in get_args(hint) if isinstance(choice, str)]
    return f"one of {', '.join(f'`{name}`' for name in names)}. " if names else ""


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if callable(field.default_factory) else field.default
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"['\"]", "", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
