"""No container engine is needed here: the images' own commands run, with their folders mapped into a temporary one."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import build_context

from sd_search_verl.retriever_client.check import check_retriever

REPO = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted((REPO / "docker").glob("Dockerfile.*"))
COMPOSE: dict[str, Any] = yaml.safe_load((REPO / "docker" / "compose.yaml").read_text())


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments) in order, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split()))
        for name, _, rest in (line.partition(" ") for line in text.splitlines())
        if name
    ]


def all_of(dockerfile: Path, name: str) -> list[str]:
    return [arguments for found, arguments in instructions(dockerfile) if found == name]


def make_of(dockerfile: Path) -> str:
    """The one command that installs."""
    (make,) = [run for run in all_of(dockerfile, "RUN") if run.startswith("make ")]
    return make


def copy_context(dockerfile: Path, app: Path) -> None:
    """What the COPY lines put into /app."""
    for arguments in all_of(dockerfile, "COPY"):
        *sources, target = arguments.split()
        for source in sources:
            path = REPO / source
            if path.is_dir():
                destination = app / (source if target == source else target)
                shutil.copytree(path, destination, ignore=build_context.ignore, dirs_exist_ok=True)
            else:
                app.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, app / target)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_is_silent(dockerfile: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_install_with_make_alone(dockerfile: Path) -> None:
    """The targets are those of the Makefile, so an image cannot drift from what is installed without one."""
    made = [
        run for run in all_of(dockerfile, "RUN") if not run.startswith(("apt-get update &&", "python3 -c "))
    ]
    target = shlex.split(make_of(dockerfile))[1]
    assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE)
    assert len(made) == 1
    assert target == "install-gpu" or "COMPILE=--compile" in made[0]  # that one is pip's own default
    before = [name for name, _ in instructions(dockerfile)]
    for source in {word for copy in all_of(dockerfile, "COPY") for word in copy.split()[:-1]}:
        assert (REPO / source).exists(), source
    assert before.index("COPY") < len(before) - 1 - before[::-1].index("RUN")


def test_the_trainers_image_imports_what_it_trains_with() -> None:
    """After the installation, which may change packages under the base image's compiled ones."""
    runs = all_of(REPO / "docker" / "Dockerfile.trainer", "RUN")
    assert runs[-1].startswith("python3 -c ")
    assert {"verl,", "vllm,", "flash_attn_2_cuda"} <= set(runs[-1].replace('"', " ").split())


def test_the_trainer_downloads_its_model_once() -> None:
    assert "huggingface:/root/.cache/huggingface" in COMPOSE["services"]["trainer-gpu"]["volumes"]
    assert "huggingface" in COMPOSE["volumes"]


def test_compose_starts_each_service_when_what_it_needs_is_there() -> None:
    services = COMPOSE["services"]
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert needs["retriever"] == {"world": {"condition": "service_completed_successfully"}}
    assert needs["trainer"] == {"retriever": {"condition": "service_healthy"}}
    assert needs["trainer-gpu"] == {"retriever-wiki18": {"condition": "service_healthy"}}
    assert {name for name, service in services.items() if service.get("profiles") == ["gpu"]} == {
        "retriever-wiki18",
        "trainer-gpu",
    }
    for name, service in services.items():
        dockerfile = REPO / service["build"]["dockerfile"]
        assert dockerfile in DOCKERFILES
        assert bool(all_of(dockerfile, "HEALTHCHECK")) == name.startswith("retriever")
        for address in re.findall(r"http://([\w-]+):", json.dumps(service.get("command", []))):
            assert address in needs[name]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The retriever's image without a container: its context in app/, its clean environment in venv/."""
    folder = tmp_path_factory.mktemp("image")
    dockerfile = REPO / "docker" / "Dockerfile.retriever"
    copy_context(dockerfile, folder / "app")
    command = (
        make_of(dockerfile).replace("/opt/venv", str(folder / "venv")).replace("python3", sys.executable)
    )
    done = subprocess.run(
        shlex.split(command), cwd=folder / "app", capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def fill_volume(folder: Path) -> None:
    """Run the command of compose's service `world`."""
    command = [part.replace("/data", str(folder)) for part in COMPOSE["services"]["world"]["command"]]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The volume /data, filled by the command of compose's service `world`."""
    folder = tmp_path_factory.mktemp("data")
    fill_volume(folder)
    return folder


def test_a_second_run_leaves_the_world_that_a_retriever_is_reading(data: Path) -> None:
    """Compose starts the service `world` again with every run; a retriever that still runs serves what it opened."""

    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in sorted(data.rglob("*"))}

    before = state()
    fill_volume(data)
    assert state() == before


@pytest.fixture
def retriever(image: Path, data: Path) -> Iterator[str]:
    """ENTRYPOINT and CMD of the image in its clean environment, awaited with its own HEALTHCHECK."""
    dockerfile, port = REPO / "docker" / "Dockerfile.retriever", str(free_port())

    def mapped(part: str) -> str:
        return part.replace("/data", str(data)).replace("8000", port)

    start = [*json.loads(all_of(dockerfile, "ENTRYPOINT")[0]), *json.loads(all_of(dockerfile, "CMD")[0])]
    check = json.loads(all_of(dockerfile, "HEALTHCHECK")[0].partition("CMD ")[2])
    environment = {"PATH": f"{image / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": "/nonexistent"}
    python = str(image / "venv" / "bin" / "python")
    process = subprocess.Popen(
        [python, *map(mapped, start[1:])],
        cwd=image / "app",
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            [python, *map(mapped, check[1:])], capture_output=True, env=environment
        ).returncode:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/retrieve"
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


@pytest.mark.timeout(900)
def test_the_retrievers_image_starts_and_answers(retriever: str) -> None:
    finding = check_retriever(retriever)
    assert finding.ok, finding


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_smoke_run_of_compose(retriever: str, data: Path, tmp_path: Path) -> None:
    command = COMPOSE["services"]["trainer"]["command"]
    folders = {"/data": str(data), "/runs": str(tmp_path), "http://retriever:8000/retrieve": retriever}
    for inside, outside in folders.items():
        command = [part.replace(inside, outside) for part in command]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--steps=1", "sd_search.warmup_steps=0"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=500,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (step,) = [json.loads(line) for line in (tmp_path / "demo" / "metrics.jsonl").read_text().splitlines()]
    assert step["search/searches_per_rollout"] > 0.5
    assert step["search/failures"] == 0
    assert (tmp_path / "demo" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_trainers_image_installs_and_starts(tmp_path: Path) -> None:
    """About 20 minutes and 11 GB. flash-attn, which its base image brings compiled, is only declared to be there."""
    dockerfile, python = REPO / "docker" / "Dockerfile.trainer", tmp_path / "venv" / "bin" / "python"
    copy_context(dockerfile, tmp_path / "app")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=300)
    (version,) = re.findall(
        r"^flash-attn==(.+)$", (REPO / "requirements" / "versions.txt").read_text(), re.MULTILINE
    )
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    declared = packages / f"flash_attn-{version}.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {version}\n")
    done = subprocess.run(
        shlex.split(make_of(dockerfile).replace("python3", str(python))),
        cwd=tmp_path / "app",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (start,) = map(json.loads, all_of(dockerfile, "CMD"))
    environment = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        start, cwd=tmp_path / "app", env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    shutil.rmtree(tmp_path / "venv")
