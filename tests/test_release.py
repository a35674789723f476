"""Wheel and sdist, built from a copy of the tree, work in a clean environment and from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from support import build_context

from sd_search_verl import __version__

REPO = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=280, env=clean | environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, made from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(REPO, folder / "tree", symlinks=True, ignore=build_context.ignore)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "tree")
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def clean(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with the wheel; the dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", built[0], cwd=folder)
    # A plain path entry: the .pth files there, the editable install of this tree among them, are not read.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin"


def test_the_wheel_holds_what_is_needed_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[0]).namelist()
    for name in (
        "sd_search_verl/py.typed",
        "retriever_server/py.typed",
        "sd_search_verl/hydra_configs/paper.yaml",
        "sd_search_verl/hydra_configs/policy/qwen2.5_7b_instruct.yaml",
        "sd_search_verl/world/checkpoint/model.safetensors",
        "sd_search_verl/report/template.html",
    ):
        assert name in names
    configs = {path.relative_to(REPO).as_posix() for path in (REPO / "hydra_configs").rglob("*.yaml")}
    assert configs == {
        name.removeprefix("sd_search_verl/")
        for name in names
        if name.startswith("sd_search_verl/hydra_configs/") and name.endswith(".yaml")
    }
    assert {name.split("/")[0] for name in names} == {
        "sd_search_verl",
        "retriever_server",
        f"sd_search_verl-{__version__}.dist-info",
    }


def test_the_sdist_is_the_whole_repository(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for part in ("Makefile", "LICENSE", "requirements/cpu.txt", "recipes/cpu_demo.sh", "docker/compose.yaml"):
        assert part in names
    for part in ("docs/method.md", "tests/conftest.py", "hydra_configs/cpu_demo.yaml", "CHANGELOG.md"):
        assert part in names


def test_the_installed_package_works_from_another_folder(clean: Path, tmp_path: Path) -> None:
    assert run(clean / "sd-search", "--version", cwd=tmp_path).strip() == __version__
    where = (
        "import sd_search_verl, retriever_server; print(sd_search_verl.__file__, retriever_server.__file__)"
    )
    for path in run(clean / "python", "-c", where, cwd=tmp_path).split():
        assert Path(path).is_relative_to(clean.parent)
    run(
        clean / "python",
        "-m",
        "sd_search_verl.cli",
        "world",
        "build",
        "--out",
        tmp_path / "world",
        cwd=tmp_path,
    )
    assert (tmp_path / "world" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["paper", "cpu_demo"])
def test_hydra_finds_the_installed_configs(clean: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"defaults: [{name}, _self_]\nhydra: {{searchpath: ['pkg://sd_search_verl.hydra_configs']}}\n"
    )
    command = [clean / "python", "-m", "verl.trainer.main_ppo", "--config-dir=.", "--config-name=mine"]
    printed = yaml.safe_load(run(*command, "--cfg", "job", cwd=tmp_path, VERL_PLATFORM="cpu"))
    assert printed["trainer"]["v1"]["trainer_mode"] == "sd_search"
    assert printed["sd_search"]["hindsight"]["content"] == "queries"


def test_the_versions_agree() -> None:
    assert f'version="{__version__}"' in (REPO / "setup.py").read_text()
    assert yaml.safe_load((REPO / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__} " in (REPO / "CHANGELOG.md").read_text()
