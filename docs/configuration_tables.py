"""Write the tables of docs/configuration.md from the option sets: ``python docs/configuration_tables.py``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sd_search_verl import config
from sd_search_verl.config_base import default_text, description, fields_of, unit
from sd_search_verl.data.config import DataConfig
from sd_search_verl.evaluation.config import EvaluationConfig

PAGE = Path(__file__).with_name("configuration.md")
SECTIONS: dict[str, type[BaseModel]] = {
    "sd_search": config.SDSearchConfig,
    "sd_search.hindsight": config.HindsightConfig,
    "search": config.SearchConfig,
    "search.tool_call": config.ToolCallConfig,
    "health": config.HealthConfig,
    "sd-search evaluate --set": EvaluationConfig,
    "sd-search data": DataConfig,
}
_BEGIN, _END = "<!-- tables: made by docs/configuration_tables.py -->", "<!-- end of tables -->"


def page(text: str) -> str:
    """Return the page with its tables replaced: field, default, unit, choices and meaning."""
    head, _, rest = text.partition(_BEGIN)
    tables = "\n\n".join(_table(path, model) for path, model in SECTIONS.items())
    return f"{head}{_BEGIN}\n\n{tables}\n\n{_END}{rest.partition(_END)[2]}"


def _table(path: str, model: type[BaseModel]) -> str:
    lines = [f"### `{path}`", "", inspect.getdoc(model) or "", "", "| field | default | unit | meaning |"]
    lines.append("| --- | --- | --- | --- |")
    for name, field in fields_of(model):
        meaning = f"{_choices(field)}{description(field)}".replace("|", "\\|")
        lines.append(f"| `{name}` | `{default_text(field)}` | {unit(field)} | {meaning} |")
    return "\n".join(lines)


def _choices(field: FieldInfo) -> str:
    names = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return f"one of {', '.join(f'`{name}`' for name in names)}. " if names else ""


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
