"""What the documentation's code names, and what of it exists."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
CHECKS = REPO / "tests" / "test_docs.py"
"""Names what does not exist, to see that it is found."""


def code(page: Path) -> Iterator[str]:
    """Yield the inline code and the lines of code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    for block in blocks:
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    prose = re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`]+)`", prose)


def check_arguments(arguments: str) -> None:
    """Follow sub-commands through the parser; every option must belong to the last one."""
    from sd_search_verl.cli import parser

    try:
        words = shlex.split(re.sub(r"\$\(.*?\)", "", arguments.split("#")[0]))
    except ValueError:
        words = arguments.split()
    current: Any = parser()
    for word in words:
        actions = [a for a in current._actions if isinstance(a, argparse._SubParsersAction)]
        if actions and re.fullmatch(r"[a-z][\w-]*", word):
            assert word in actions[0].choices, f"sd-search {arguments.strip()}: {word}"
            current = actions[0].choices[word]
            if word == "check":
                return  # the rest is Hydra's
        elif word.startswith("--"):
            assert word.split("=")[0] in current._option_string_actions, (
                f"sd-search {arguments.strip()}: {word}"
            )


@cache
def options_of_module(name: str) -> str:
    """Return the source of a program, which holds the names of its options, dashes or underscores."""
    path = REPO.joinpath(*name.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    if name == "benchmarks.world":  # most of its options are the fields of the world's configs
        files.append(REPO / "sd_search_verl" / "world" / "config.py")
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    return text + " ".join(
        f"--{field.replace('_', '-')}" for field in re.findall(r"^    (\w+): ", text, re.MULTILINE)
    )


@cache
def python_sources() -> str:
    return "".join(
        path.read_text(encoding="utf-8")
        for package in ("sd_search_verl", "retriever_server", "benchmarks")
        for path in (REPO / package).rglob("*.py")
    )


@cache
def symbols(file: Path) -> set[str]:
    """Return the names that a module defines, those of its classes and functions included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
    return found


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a module and a name defined in it."""
    path, parts = REPO, name.split(".")
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if not parts:
        return True
    file = path / f"{parts.pop(0)}.py" if (path / f"{parts[0]}.py").exists() else path / "__init__.py"
    return not parts or (file.exists() and parts[0] in symbols(file))


@cache
def composed_config() -> Any:
    """verl's default configuration with our sections."""
    import verl  # noqa: F401  (registers our config group)
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+sd_search=default"])
    # As plain containers: OmegaConf hides keys whose value is missing.
    return OmegaConf.to_container(config)


def in_config(key: str, overridable: bool = False) -> bool:
    """Whether verl's config has a key; ``overridable``: so that ``key=value`` overrides it without a plus."""
    node: Any = composed_config()
    for part in key.split("."):
        if node is None or isinstance(node, str | int | float) or part not in node:
            # verl leaves open sections whose keys are not listed.
            return not overridable and node is not None and hasattr(node, "keys") and not list(node.keys())
        node = node[part]
    return True


@cache
def identifiers() -> set[str]:
    folders = (
        "sd_search_verl",
        "retriever_server",
        "benchmarks",
        "recipes",
        "hydra_configs",
        "docker",
        "tests",
    )
    files = [path for folder in folders for path in (REPO / folder).rglob("*") if path.is_file()]
    files = [f for f in files if f.suffix in {".py", ".sh", ".yaml", ".js", ""} and f != CHECKS]
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    return set(re.findall(r"\w+", text)) | set(re.findall(r"\w+", str(composed_config())))
