"""Wrong arguments of a recipe are named before anything is done, and its usage is shown."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.recipes import REPO, commands

RECIPES = sorted(path.name for path in (REPO / "recipes").glob("*.sh"))


def test_an_unknown_asynchronous_mode_is_refused(tmp_path: Path) -> None:
    recipe = REPO / "recipes" / "paper_async.sh"
    done = subprocess.run([recipe, "data", str(tmp_path), "both"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "colocate|separate" in done.stderr


REFUSED = [
    ("cpu_demo.sh", ["sd_search.alpha=0"], "RUN_DIR is missing: sd_search.alpha=0 is an override"),
    ("cpu_demo.sh", ["+sd_search.alpha=0"], "RUN_DIR is missing"),
    ("cpu_demo.sh", ["precious"], "precious exists and is no run of this recipe"),
    ("cpu_demo.sh", ["file"], "file exists and is no run of this recipe"),
    ("gpu_demo.sh", ["sd_search.alpha=0"], "RUN_DIR is missing: sd_search.alpha=0 is an override"),
    ("gpu_demo.sh", ["precious"], "precious exists and is no run of this recipe"),
    ("cpu_wiki18_mini.sh", ["data", "precious"], "precious exists and is no run of this recipe"),
    ("cpu_wiki18_mini.sh", ["nowhere"], "nowhere/wiki18-mini/corpus.jsonl is missing. Fix: python -m"),
    ("cpu_smollm2.sh", ["nowhere", "precious"], "precious exists and is no run of this recipe"),
    ("cpu_smollm2.sh", ["nowhere", "new"], "nowhere/corpus.jsonl is missing. Fix: python -m"),
    (
        "paper_sd_search.sh",
        ["data", "sd_search.alpha=0"],
        "RUN_DIR is missing: sd_search.alpha=0 is an override",
    ),
    ("paper_grpo.sh", ["data", "+trainer.x=0"], "RUN_DIR is missing"),
    ("search_r1.sh", ["data", "seed=1"], "RUN_DIR is missing: seed=1 is an override"),
    ("paper_async.sh", ["data", "seed=1", "colocate"], "RUN_DIR is missing: seed=1 is an override"),
    ("paper_compare.sh", ["nowhere", "runs"], "no question set is there. Fix: recipes/paper_data.sh nowhere"),
    ("paper_ablations.sh", ["data", "runs", "mse labels"], "no ablation labels; there are "),
    ("compare_methods.sh", ["nothing", "0"], "no method nothing"),
]


@pytest.mark.parametrize(("recipe", "arguments", "says"), REFUSED)
def test_wrong_arguments_of_a_recipe_are_named_before_anything_is_done(
    recipe: str, arguments: list[str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError) as caught:
        commands(recipe, *arguments, folder=tmp_path)
    assert says in str(caught.value)
    assert (tmp_path / "calls").read_text() == ""
    assert (tmp_path / "precious" / "thesis").exists()


@pytest.mark.parametrize(
    ("recipe", "arguments"), [("world_compare.sh", ["0"]), ("compare_methods.sh", ["grpo", "0"])]
)
def test_a_comparison_in_the_world_replaces_only_its_own_runs(
    recipe: str, arguments: list[str], tmp_path: Path
) -> None:
    """Those of paper_compare.sh, which take days, have the same names."""
    run = tmp_path / "runs" / "grpo-seed0"
    (run / "global_step_200").mkdir(parents=True)
    with pytest.raises(AssertionError, match="grpo-seed0 exists and is no run of this recipe"):
        commands(recipe, *arguments, "runs", folder=tmp_path)
    assert (tmp_path / "calls").read_text() == ""
    with pytest.raises(AssertionError, match=r"RUN_DIR is missing: seed=1"):
        commands(recipe, *arguments, "seed=1", folder=tmp_path)
    (run / "world").mkdir()
    commands(recipe, *arguments, "runs", folder=tmp_path)
    assert not (run / "global_step_200").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_without_arguments_says_how_it_is_used(recipe: str, tmp_path: Path) -> None:
    text = (REPO / "recipes" / recipe).read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert f"\n# usage: {recipe} " in text
    assert os.access(REPO / "recipes" / recipe, os.X_OK)
    if "${1:?" in text:
        done = subprocess.run([REPO / "recipes" / recipe], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode != 0
        assert f"usage: {recipe} " in done.stderr
