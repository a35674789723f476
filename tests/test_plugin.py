"""The entry point, in fresh interpreters: `import verl` alone must be enough, and failures must be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import first_on_path

from sd_search_verl.doctor import check_plugin, examine
from sd_search_verl.finding import Finding, show
from sd_search_verl.retriever_client.check import check_retriever

REPO = Path(__file__).resolve().parents[1]
PROBE = """
import json, verl
from hydra.core.config_store import ConfigStore
from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.plugin.platform import PlatformRegistry
import torch.distributed as dist
print("\\n" + json.dumps({
    "trainer": "sd_search" in TRAINER_REGISTRY,
    "agent": _agent_loop_registry.get("sd_search_agent", {}).get("_target_"),
    "group": "default.yaml" in ConfigStore.instance().list("sd_search"),
    "cpu": "cpu" in PlatformRegistry.registered_names(),
    "patched": dist.init_process_group.__module__,
}))
"""


def probe(**environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_import_verl_registers_everything() -> None:
    state = probe(VERL_PLATFORM="cpu")
    assert state["trainer"]
    assert state["agent"] == "sd_search_verl.verl_adapter.rollout.agent_loop.SearchAgentLoop"
    assert state["group"]
    assert state["cpu"]
    assert state["patched"] == "sd_search_verl.verl_adapter.cpu.patches"


def test_the_cpu_platform_is_inert_unless_asked_for() -> None:
    state = probe(VERL_PLATFORM="")
    assert state["trainer"]
    assert not state["cpu"]
    assert state["patched"].startswith("torch.")


def test_the_doctor_sees_a_plugin_that_verl_did_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "other")
    finding = check_plugin()
    assert not finding.ok
    assert "VERL_USE_EXTERNAL_PLUGINS include sd_search (it is 'other')" in finding.fix


def test_the_doctor_shows_what_failed_to_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "transfer_queue.py").write_text("raise ImportError('no transfer queue here')")
    monkeypatch.setenv("PYTHONPATH", first_on_path(tmp_path))
    finding = check_plugin()
    assert not finding.ok
    assert finding.found == "its trainer failed to load"
    assert "no transfer queue here" in finding.fix


def test_the_doctor_shows_a_fix_for_each_failure() -> None:
    text = show([Finding("a", True, "fine", "unused"), Finding("b", False, "broken", "mend it")])
    assert "ok    a  fine" in text
    assert "FAIL  b  broken" in text
    assert "b: mend it" in text
    assert "unused" not in text


def test_the_doctor_asks_a_retriever() -> None:
    finding = check_retriever("http://127.0.0.1:9/retrieve")
    assert not finding.ok
    assert "retriever_server" in finding.fix


def test_the_doctor_finds_nothing_wrong_here() -> None:
    findings = examine()
    assert {finding.name for finding in findings} >= {
        "Python",
        "verl",
        "plugin",
        "Java (for BM25)",
        "disk",
        "memory",
        "/dev/shm",
        "temporary folder",
    }
    machine = ("disk", "memory", "/dev/shm", "temporary folder")
    software = [finding for finding in findings if finding.name not in machine]
    assert [finding for finding in software if not finding.ok] == []


def test_a_module_of_the_adapter_may_be_imported_first() -> None:
    """One stands for all: each is imported after the package, which imports verl."""
    code = (
        "import sd_search_verl.verl_adapter.cpu.patches\n"
        "from sd_search_verl import plugin; assert not plugin.errors, plugin.errors"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_platform_of_the_cpu_does_not_stop_verl_beside_an_accelerator() -> None:
    """The commands that ask for the CPU (tests, benchmarks, `sd-search local`) are run on machines with a GPU too."""
    code = (
        "import torch; torch.cuda.is_available = lambda: True\n"
        "import os, verl; from verl.plugin.platform import get_platform\n"
        "print(get_platform().device_name, os.environ.get('VERL_PLATFORM'))"
    )
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["cuda", "None"]
