"""The documentation is current: tables, commands, links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from sd_search_verl.cli import parser

REPO = Path(__file__).resolve().parents[1]
PAGES = sorted([REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").glob("*.md")])


def test_the_configuration_tables_are_current() -> None:
    path = REPO / "docs" / "configuration_tables.py"
    spec = importlib.util.spec_from_file_location("configuration_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run python docs/configuration_tables.py"
    assert "| `alpha` | `0.001` | Weight of L_SD. |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(
        r"`((?:sd_search_verl|retriever_server|recipes|hydra_configs|docker|benchmarks)/[\w/.-]+)`", text
    ):
        assert (REPO / path).exists(), path
    for recipe in re.findall(r"\b(\w+\.sh)\b", text):
        assert (REPO / "recipes" / recipe).exists(), recipe


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page: Path) -> None:
    known = set(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]
    named = set(re.findall(r"(?:^|`)sd-search ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= known
