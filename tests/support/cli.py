"""Command lines of ``sd-search``, as tests run them in a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "hydra_configs"


def sd_search(*arguments: str | Path) -> list[str]:
    """Return the command line of ``sd-search ARGUMENTS``."""
    return [sys.executable, "-m", "sd_search_verl.cli", *map(str, arguments)]


def local(run: Path, inputs: Path, *arguments: str | Path) -> list[str]:
    """Return the command line of ``sd-search local`` with the demo's config."""
    return sd_search(
        *("local", "--run", run, "--inputs", inputs, "--config-dir", CONFIGS, "--config", "cpu_demo"),
        *arguments,
    )


def build_world(folder: Path) -> Path:
    """Write the synthetic world's files into ``folder`` and return it."""
    subprocess.run(sd_search("world", "build", "--out", folder), check=True)
    return folder
