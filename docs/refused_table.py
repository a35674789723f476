"""Write the table of docs/refused.md from the rules of the start checks: ``python docs/refused_table.py``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from types import ModuleType

from sd_search_verl.finding import Rule
from sd_search_verl.retriever_client import check
from sd_search_verl.verl_adapter import preflight

PAGE = Path(__file__).with_name("refused.md")
_BEGIN, _END = "<!-- table: made by docs/refused_table.py -->", "<!-- end of table -->"


def page(text: str) -> str:
    """Return the page with its table replaced: what is checked, what is said, the fix; refusals first."""
    head, _, rest = text.partition(_BEGIN)
    every = [*rules()]
    lines = ["| what | start | it says | fix |", "| --- | --- | --- | --- |"]
    for rule in (*[r for r in every if not r.warns], *[r for r in every if r.warns]):
        start = "warned about" if rule.warns else "refused"
        lines.append(f"| {_text(rule.name)} | {start} | {_text(rule.broken)} | {_text(rule.fix)} |")
    table = "\n".join(lines)
    return f"{head}{_BEGIN}\n\n{table}\n\n{_END}{rest.partition(_END)[2]}"


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(preflight.__path__):
        yield importlib.import_module(f"{preflight.__name__}.{found.name}")
    yield from (preflight, check)


def rules() -> Iterator[Rule]:
    """Yield every rule of the start checks."""
    seen: set[Rule] = set()
    for module in _modules():
        for value in vars(module).values():
            several = [*value, *value.values()] if isinstance(value, dict) else value
            for rule in several if isinstance(several, list | tuple) else [value]:
                if isinstance(rule, Rule) and rule not in seen:
                    seen.add(rule)
                    yield rule


def _text(template: str) -> str:
    """Return a rule's text with its ``{words}`` as WORDS, safe for a table."""
    words = {word: word.upper() for _, word, *_ in Formatter().parse(template) if word}
    return template.format(**words).replace("|", "\\|").replace("<", "&lt;").replace("__", "\\_\\_")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
