"""Every command of every recipe is one that its program takes, with options that exist."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.recipes import REPO, commands, composed, wrong_with

from sd_search_verl import command_line
from sd_search_verl.config import ConfigError

RECIPES: dict[str, list[str]] = {
    "compare_methods.sh": ["grpo sd", "0", "worlds", "2"],
    "cpu_demo.sh": ["run"],
    "cpu_smollm2.sh": ["mini", "run"],
    "cpu_wiki18_mini.sh": [".", "run"],
    "gpu_demo.sh": ["run"],
    "paper_ablations.sh": ["data", "runs", "mse"],
    "paper_async.sh": ["data", "run", "colocate"],
    "paper_compare.sh": ["data", "runs", "0"],
    "paper_data.sh": ["data"],
    "paper_grpo.sh": ["data", "run"],
    "paper_retriever.sh": ["data"],
    "paper_sd_search.sh": ["data", "run"],
    "search_r1.sh": ["data", "run"],
    "world_compare.sh": ["0", "worlds", "2"],
}
OTHERS = {"ray_job_submit.sh"}
"""Submits another recipe; tests/test_recipe_services.py runs it."""


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder with the files that recipes look for before they start anything."""
    real = [f"mini/{name}" for name in ("corpus.jsonl", "questions_nq.jsonl", "trajectories_nq.jsonl.gz")]
    for name in ("wiki18-mini/corpus.jsonl", "qwen2.5-tokenizer/vocab", "data/eval/nq.parquet", *real):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for arm in ("grpo", "sd_search"):
        (tmp_path / "runs" / f"{arm}-seed0").mkdir(parents=True)
        (tmp_path / "runs" / f"{arm}-seed0" / "latest_checkpointed_iteration.txt").write_text("200")
    return tmp_path


def test_no_recipe_is_left_out() -> None:
    assert RECIPES.keys() | OTHERS == {path.name for path in (REPO / "recipes").glob("*.sh")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_programs_take_the_commands_of_a_recipe(
    recipe: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = commands(recipe, *RECIPES[recipe], folder=prepared)
    assert found
    for call in found:
        check(call, monkeypatch)


@pytest.mark.parametrize(
    "call",
    [
        ["sd-search", "report", "run", "--output", "report.html"],
        ["python", "-m", "retriever_server", "--backend", "bm25", "--korpus", "data"],
        ["python", "-m", "benchmarks.world", "from-run", "run"],
        ["sd-search", "local", "--run", "r", "--inputs", "i", "--config", "cpu_demo", "sd_search.alfa=1"],
    ],
    ids=lambda call: call[-1],
)
def test_an_option_that_does_not_exist_is_found(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, ConfigError), match=r"^2$|alfa"):
        check(call, monkeypatch)


def check(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the program the command as far as its parser; compose what is trained."""
    program, arguments = call[0], call[1:]
    if program == "python":
        assert arguments[0] == "-m", call
        program, arguments = arguments[1], arguments[2:]
    if program == "verl.trainer.main_ppo":
        assert wrong_with(composed(*arguments)) == []
        return
    given = parsed("sd_search_verl.cli" if program == "sd-search" else program, arguments, monkeypatch)
    if hasattr(given, "config_dir"):
        assert wrong_with(composed(f"--config-name={given.config}", *given.overrides)) == []


class Parsed(Exception):
    """Ends a program when its command line is read."""


def parsed(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    original, ours = argparse.ArgumentParser.parse_args, command_line._parsed

    def parse_args(self: argparse.ArgumentParser, *options: Any) -> None:
        raise Parsed(original(self, *options))

    def parse_command(parser: argparse.ArgumentParser, given: Sequence[str] | None) -> None:
        raise Parsed(ours(parser, given))

    package = (REPO / module.replace(".", "/")).is_dir()
    program = importlib.import_module(f"{module}.__main__" if package else module)
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(command_line, "_parsed", parse_command)
        patch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(Parsed) as caught:
            program.main()
    (found,) = caught.value.args
    return found
