"""What `make` would run, by its own word (`make -n`)."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TARGETS = re.findall(r"^([\w-]+):(?! PYTHON)", (REPO / "Makefile").read_text(), re.MULTILINE)


def would_run(target: str, folder: Path, *variables: str) -> str:
    """The commands of a target, in a folder with the Makefile and what it reads."""
    folder.mkdir(exist_ok=True)
    for name in ("Makefile", "setup.py", "requirements"):
        (folder / name).symlink_to(REPO / name)
    done = subprocess.run(["make", "-n", target, *variables], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_with_the_name_of_a_target_does_not_stand_for_it(target: str, tmp_path: Path) -> None:
    """The documentation lies in docs/, and `make docs` said that it was up to date."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for stamp in ("bin/python", ".cpu", ".dev"):
        (tmp_path / ".venv" / stamp).touch()
    (tmp_path / target).mkdir()
    later = time.time() + 60
    os.utime(tmp_path / target, (later, later))
    assert "is up to date" not in would_run(target, tmp_path)


@pytest.mark.parametrize("target", ["demo", "demo-llm"])
def test_a_demo_runs_in_the_environment_that_was_made_for_it(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    assert f'PATH="{folder}/.venv/bin:$PATH"' in would_run(target, folder)
    assert 'PATH="/opt/venv/bin:$PATH"' in would_run(target, tmp_path / "c", "VENV=/opt/venv")


@pytest.mark.parametrize("target", ["install", "install-retriever"])
def test_only_an_image_compiles_what_it_installs(target: str, tmp_path: Path) -> None:
    """A virtual environment writes bytecode at the first import; an image would write it again at every start."""
    lines = would_run(target, tmp_path / "venv").splitlines()
    image = would_run(target, tmp_path / "image", "COMPILE=--compile").splitlines()
    assert all("--no-compile" in line for line in lines if "pip" in line and " install " in line)
    assert [line.replace("--compile", "--no-compile") for line in image] == [
        line.replace(str(tmp_path / "venv"), str(tmp_path / "image")) for line in lines
    ]
    assert "--compile" in "".join(image)
