"""Wheel and sdist, built from a copy of the tree, work in a clean environment and from another folder."""

from __future__ import annotations

import json
import os
import re
import runpy
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

import retriever_server
from sd_search_verl import __version__
from sd_search_verl.supported import SUPPORTED

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


@pytest.mark.parametrize("name", ["paper", pytest.param("cpu_demo", marks=pytest.mark.slow)])
def test_hydra_finds_the_installed_configs(clean: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"defaults: [{name}, _self_]\nhydra: {{searchpath: ['pkg://sd_search_verl.hydra_configs']}}\n"
    )
    command = [clean / "python", "-m", "verl.trainer.main_ppo", "--config-dir=.", "--config-name=mine"]
    printed = yaml.safe_load(run(*command, "--cfg", "job", cwd=tmp_path, VERL_PLATFORM="cpu"))
    assert printed["trainer"]["v1"]["trainer_mode"] == "sd_search"
    assert printed["sd_search"]["hindsight"]["content"] == "queries"


def test_the_versions_agree() -> None:
    assert __version__ == retriever_server.__version__
    assert f'version="{__version__}"' in (REPO / "setup.py").read_text()
    assert yaml.safe_load((REPO / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__} " in (REPO / "CHANGELOG.md").read_text()


def test_the_versions_of_verl_are_stated_once() -> None:
    required = f"verl{SUPPORTED['verl']}\n"
    assert (REPO / "recipes" / "verl_recipe" / "REQUIRED_VERL.txt").read_text() == required


@pytest.mark.parametrize("path", sorted((REPO / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml_and_run_what_exists(path: Path) -> None:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.parent.name == "workflows":
        targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        for job in read["jobs"].values():
            for step in job["steps"]:
                for target in re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE):
                    assert target in targets, target
                for module in re.findall(r"-m (benchmarks(?:\.\w+)+)", step.get("run", "")):
                    assert (REPO / f"{module.replace('.', '/')}.py").exists(), module
    elif path.name != "config.yml":
        assert read["name"]
        assert all(part["type"] in {"textarea", "input", "markdown"} for part in read["body"])


def test_licences_and_bill_of_materials_are_those_of_the_pins() -> None:
    pins = runpy.run_path(str(REPO / "requirements" / "pins.py"))["pins"]("cpu")
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| (.+) \|$", (REPO / "requirements" / "licenses.md").read_text(), re.MULTILINE
    )
    found = {name: version for name, version, licence in rows[2:]}
    assert found == pins, "run make licenses"
    assert not any(licence == "not installed" for _, _, licence in rows)
    bom = json.loads((REPO / "requirements" / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert {part["name"]: part["version"] for part in bom["components"]} == pins
