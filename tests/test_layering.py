"""``docs/architecture.md`` is true: what every room imports, and the way of a query token."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "sd_search_verl"
PAGE = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
USES_VERL = {"plugin.py", "verl_adapter/"}


def table(heading: str) -> list[list[str]]:
    """Return the cells of the rows of the table below a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


ROOMS = {
    re.findall(r"`([^`]+)`", room)[0]: set(re.findall(r"`([^`]+)`", uses)) for room, _, uses in table("Rooms")
}
"""Room -> the rooms that it imports, as the page says, from the lowest to the highest."""


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first if first.endswith(".py") else f"{first}/"


def room_named(dotted: str) -> str | None:
    """Return the room that an imported name is in; None for other packages and for the package itself."""
    top, *rest = dotted.split(".")
    if top == "retriever_server":
        return "retriever_server/"
    if top != "sd_search_verl" or not rest:
        return None
    return next((name for name in (f"{rest[0]}.py", f"{rest[0]}/") if (PACKAGE / name).exists()), None)


FILES = sorted(PACKAGE.rglob("*.py"))
FOUND: dict[str, set[str]] = {
    room_of(path): set() for path in FILES if path.parent != PACKAGE or path.name != "__init__.py"
}
for file in FILES:
    FOUND.setdefault(room_of(file), set()).update(filter(None, map(room_named, imports(file))))
FOUND.pop("__init__.py")


def test_every_room_is_in_the_table() -> None:
    assert {room for room in ROOMS if room != "retriever_server/"} == {*FOUND} - {"hydra_configs/"}


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "retriever_server/"])
def test_a_room_imports_what_its_row_says(room: str) -> None:
    found = FOUND[room] - {room}
    assert found == ROOMS[room], (
        f"the row of {room} must be: {', '.join(f'`{name}`' for name in sorted(found))}"
    )


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it_in_the_table(room: str) -> None:
    above = list(ROOMS)[: list(ROOMS).index(room)]
    assert ROOMS[room] <= {*above}


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {
        ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {}
    for name, path in modules.items():
        targets = ((dotted, dotted.rpartition(".")[0]) for dotted in imports(path))
        graph[name] = {next(filter(modules.__contains__, pair), name) for pair in targets} - {name}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_only_the_adapter_and_the_plugin_import_verl() -> None:
    using = {room_of(path) for path in FILES if any(re.match(r"verl\b", name) for name in imports(path))}
    assert using == USES_VERL


def test_the_retrieval_server_imports_nothing_of_the_rest() -> None:
    for path in (REPO / "retriever_server").rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith(("sd_search_verl", "verl"))], path


@pytest.mark.parametrize("stop", table("The way of a query token"), ids=lambda stop: stop[0])
def test_a_stop_of_the_query_token_exists(stop: list[str]) -> None:
    _, _, functions, file = stop
    path = PACKAGE / file.strip("`")
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    defined = {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    named = [part for name in re.findall(r"`([^`]+)`", functions) for part in name.split(".")]
    assert named
    assert {*named} <= defined
