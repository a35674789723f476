"""`make install-gpu`, run where the active python only writes down its arguments."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sd_search_verl.gpu_stack import MIN_DRIVER

REPO = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPO / "requirements"


def install(
    folder: Path, *options: str, driver: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the target; returns how it ended and the pip commands that it would have run."""
    log = folder / "calls"
    log.write_text("")
    scripts = {
        "python": f'echo "$@" >> {log}',
        "python3": f'echo python3 "$@" >> {log}',
        "python3.11": "echo not the active environment >&2; exit 9",
        "nvidia-smi": f"echo {driver}" if driver else "exit 9",
    }
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["make", "install-gpu", *options],
        cwd=REPO,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, log.read_text().splitlines()


def requirements(name: str) -> list[Requirement]:
    lines = (REQUIREMENTS / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def test_what_flash_attns_build_imports_is_installed_before_it(tmp_path: Path) -> None:
    done, calls = install(tmp_path)
    assert done.returncode == 0, done.stderr
    whole_set = next(i for i, call in enumerate(calls) if "-r requirements/gpu.txt" in call)
    (built,) = [i for i, call in enumerate(calls) if "--no-build-isolation" in call]
    assert whole_set < built
    assert calls[built].endswith("-c requirements/versions.txt flash-attn")
    assert {"torch", "wheel", "setuptools", "ninja", "packaging", "psutil"} <= {
        requirement.name for requirement in requirements("gpu.txt")
    }


def test_another_python_can_be_named(tmp_path: Path) -> None:
    done, calls = install(tmp_path, "PYTHON=python3")
    assert done.returncode == 0, done.stderr
    assert all(call.startswith("python3 -m pip install ") for call in calls)


def test_a_wheel_of_flash_attn_takes_the_place_of_the_build(tmp_path: Path) -> None:
    _, calls = install(tmp_path, "FLASH_ATTN_WHEEL=/wheels/flash_attn-2.8.3.whl")
    assert any(call.endswith(" /wheels/flash_attn-2.8.3.whl") for call in calls)
    assert not any(call.endswith(" flash-attn") for call in calls)


def test_size_cuda_and_driver_are_said_before_the_download(tmp_path: Path) -> None:
    done, _ = install(tmp_path)
    said = done.stdout.partition("python -m pip")[0]
    assert "11 GB" in said
    assert "CUDA 13" in said
    assert f"R{MIN_DRIVER[13]} or newer" in said


@pytest.mark.parametrize("driver", ["535.183.01", "570.124.06"])
def test_an_older_driver_stops_before_the_download(tmp_path: Path, driver: str) -> None:
    done, calls = install(tmp_path, driver=driver)
    assert done.returncode != 0
    assert calls == []
    assert f"this machine's driver is {driver}, too old for CUDA 13" in done.stdout
    assert "make install-gpu MIN_DRIVER=0" in done.stdout
    done, calls = install(tmp_path, "MIN_DRIVER=0", driver=driver)
    assert done.returncode == 0
    assert calls


def test_a_driver_of_cuda_13_passes(tmp_path: Path) -> None:
    done, calls = install(tmp_path, driver="580.65.06")
    assert (done.returncode, len(calls)) == (0, 4)


def test_every_version_is_pinned_in_one_place() -> None:
    """torch and vLLM alone differ with and without an accelerator."""
    pinned: dict[str, list[str]] = {}
    for path in sorted(REQUIREMENTS.glob("*.txt")):
        for requirement in requirements(path.name):
            if requirement.specifier:
                pinned.setdefault(requirement.name, []).append(path.name)
    assert {name for name, files in pinned.items() if len(files) > 1} == {"torch"}
    for name in ("gpu.txt", "cpu.txt", "dev.txt", "retriever.txt"):
        assert re.search(r"^-c versions\.txt$", (REQUIREMENTS / name).read_text(), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_gpu_set_resolves(tmp_path: Path, python: str) -> None:
    """By metadata alone, with the resolver of uv, which downloads no wheel."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
    tool = tmp_path / "venv" / "bin"
    subprocess.run([tool / "pip", "install", "-q", "uv"], check=True, timeout=300)
    command = [tool / "uv", "pip", "compile", "-q", f"--python-version={python}"]
    command += ["--python-platform=x86_64-manylinux_2_28", REQUIREMENTS / "gpu.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    for requirement in requirements("versions.txt"):
        if re.search(rf"^{re.escape(requirement.name)}==", done.stdout, re.MULTILINE | re.IGNORECASE):
            assert re.search(rf"^{re.escape(str(requirement))}$", done.stdout, re.MULTILINE | re.IGNORECASE)
    assert re.search(r"^wheel==", done.stdout, re.MULTILINE)
