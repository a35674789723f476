"""Names of other packages that no documentation promises to keep, and ours that depend on their signatures.

One row a name: where it is, the parameters we rely on, and what breaks without it. An upgrade that removes or changes
one fails here within seconds, with a sentence, before any engine is started.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.upstream_names import ATTRIBUTES, NAMES, TRAINER, Name

from sd_search_verl.verl_adapter.actor.worker import (
    SDActorRolloutRefWorker,
    SDDetachActorWorker,
    SDTrainingWorker,
)
from sd_search_verl.verl_adapter.rollout.agent_loop import SearchAgentLoop
from sd_search_verl.verl_adapter.rollout.server_client import ResumingServerClient
from sd_search_verl.verl_adapter.trainer.modes import (
    SDSearchColocateAsyncTrainer,
    SDSearchSeparateAsyncTrainer,
    SDSearchTrainer,
)

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
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no {module} any more; we read its {attribute}"
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    found = re.search(rf"(?<!\w){re.escape(attribute)}(?!\w)", text)
    assert found, f"{module} does not use {attribute} any more; we read it"


SUBCLASSES = [
    *(SDSearchTrainer, SDSearchColocateAsyncTrainer, SDSearchSeparateAsyncTrainer),
    *(SDTrainingWorker, SDActorRolloutRefWorker, SDDetachActorWorker),
    *(ResumingServerClient, SearchAgentLoop),
]


@pytest.mark.parametrize("ours", SUBCLASSES)
def test_an_override_takes_what_verls_method_takes(ours: type) -> None:
    """verl would give it a new parameter, and fail at the first call, maybe hours into a run."""
    problems = [problem for name, mine, theirs in overrides(ours) for problem in _misfits(name, mine, theirs)]
    assert not problems, f"{ours.__name__}: {'; '.join(problems)}"


def overrides(ours: type) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, function and verl's function of every method of verl's that a class or its bases of ours override."""
    classes = ours.__mro__
    for place, owner in enumerate(classes):
        if owner.__module__.startswith("sd_search_verl"):
            for name, mine in vars(owner).items():
                theirs = [vars(base)[name] for base in classes[place + 1 :] if _is_verls(base, name)]
                if inspect.isfunction(mine) and theirs:
                    yield name, mine, theirs[0]


def _is_verls(base: type, name: str) -> bool:
    return base.__module__.startswith("verl.") and name in vars(base)


def _misfits(name: str, ours: Any, theirs: Any) -> list[str]:
    mine, wanted = (inspect.signature(inspect.unwrap(method)).parameters for method in (ours, theirs))
    takes_any = inspect.Parameter.VAR_KEYWORD in {parameter.kind for parameter in mine.values()}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p, parameter in wanted.items() if parameter.kind not in variable]
    absent = [] if takes_any else [p for p in named if p not in mine]
    both = [p for p in mine if p in wanted]
    moved = both != [p for p in wanted if p in mine]
    return [f"{name} does not take {p}" for p in absent] + [f"{name} has another order"] * moved


def test_an_override_that_lags_behind_is_reported() -> None:
    def ours(self: Any, metrics: Any, batch: Any) -> None: ...
    def theirs(self: Any, batch: Any, metrics: Any, new: int = 0) -> None: ...

    assert _misfits("step", ours, theirs) == ["step does not take new", "step has another order"]
    assert len({name for ours in SUBCLASSES for name, _, _ in overrides(ours)}) > 15


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
