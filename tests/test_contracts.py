"""Names of other packages that no documentation promises to keep, and ours that depend on their signatures.

One row a name: where it is, the parameters we rely on, and what breaks without it. An upgrade that removes or changes
one fails here within seconds, with a sentence, before any engine is started.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.upstream_names import ATTRIBUTES, NAMES, TRAINER, Name

REPO = Path(__file__).resolve().parents[1]
UPSTREAM = (
    "verl",
    "vllm",
    "transfer_queue",
    "ray",
    "uvicorn",
    "huggingface_hub",
    "tensordict",
    "hydra",
    "omegaconf",
)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_the_name_exists_with_its_parameters(name: Name) -> None:
    problem = _problem(name)
    assert not problem, f"{problem}; sd_search_verl/{name.used_by} relies on it"


def _problem(name: Name) -> str:
    module, attributes = name.path.split(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            return f"{module} has no {attributes} any more"
        found = getattr(found, attribute)
    if name.parameters is None:
        return ""
    parameters = tuple(inspect.signature(inspect.unwrap(found)).parameters)
    missing = [parameter for parameter in name.parameters if parameter not in parameters]
    return f"{module}.{attributes}{parameters} has no parameter {', '.join(missing)}" if missing else ""


@pytest.mark.parametrize(
    ("module", "attribute"), [(module, name) for module, names in ATTRIBUTES.items() for name in names]
)
def test_the_attribute_is_still_used_by_its_owner(module: str, attribute: str) -> None:
    assert attribute in _sources(module), f"{module} does not use {attribute} any more; we read it"


@cache
def _sources(module: str) -> str:
    """Return the text of a module and of the modules beside it, where base classes and helpers are."""
    file = Path(inspect.getfile(importlib.import_module(module)))
    folders = [file.parent, file.parent.parent]
    return "".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))


def imported_names() -> list[tuple[str, str, str]]:
    """Return (module, name, file) of every import from another package whose interface may move."""
    found = []
    for package in ("sd_search_verl", "retriever_server"):
        for file in sorted((REPO / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UPSTREAM:
                    found += [
                        (str(node.module), alias.name, str(file.relative_to(REPO))) for alias in node.names
                    ]
    return sorted(set(found))


@pytest.mark.parametrize(("module", "name", "file"), imported_names())
def test_the_import_exists(module: str, name: str, file: str) -> None:
    found = importlib.import_module(module)
    exists = hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
    assert exists, f"{module} has no {name} any more; {file} imports it"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (Name(f"{TRAINER}._no_such_step", (), "x.py"), "has no PPOTrainerSync._no_such_step"),
        (Name(f"{TRAINER}._update_actor", ("batch", "gone"), "x.py"), "has no parameter gone"),
    ],
)
def test_a_removed_name_is_reported(name: Name, words: str) -> None:
    assert words in _problem(name)


def test_every_private_name_we_import_has_a_row() -> None:
    listed = {name.path for name in NAMES}
    private = {f"{module}:{name}" for module, name, _ in imported_names() if name.startswith("_")}
    assert private <= listed
