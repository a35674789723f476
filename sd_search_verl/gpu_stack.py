"""Checks of GPUs and their software: driver against CUDA, memory that others hold, flash-attn's extension, trl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from sd_search_verl.finding import Finding

MIN_DRIVER = {13: 580, 12: 525, 11: 450}
"""Oldest driver branch of each CUDA major version (CUDA release notes, minor version compatibility)."""

WITHOUT_FLASH_ATTENTION = (
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa "
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096"
)
"""Overrides with which a GPU trains without flash-attn; docs/troubleshooting.md says what they cost."""

TAKEN = 0.05
"""Share of a GPU's memory above which something else runs there; an idle one holds less."""

DRIVER_S, IMPORT_S = 60.0, 300.0
"""Limits of a call of nvidia-smi, which hangs where the driver has died, and of an import."""

_EXTENSION = "import torch, flash_attn_2_cuda"

# The import of verl/models/transformers/monkey_patch.py (apply_monkey_patch) where trl is installed.
_VALUE_HEAD = """
try:
    from trl.experimental.ppo import AutoModelForCausalLMWithValueHead
except ImportError:
    from trl import AutoModelForCausalLMWithValueHead
"""


def check_driver(cuda: str | None) -> list[Finding]:
    """Compare the driver that nvidia-smi reports with the CUDA version that torch was built for.

    Args:
        cuda: ``torch.version.cuda``, None for a build without CUDA.

    Returns:
        One finding, or none where there is no nvidia-smi.
    """
    done = _ask_driver("--query-gpu=driver_version", "--format=csv,noheader")
    if done is None:
        return []
    driver = (done.stdout.split() or [""])[0]
    if done.returncode != 0 or not driver.partition(".")[0].isdigit():
        said = (done.stderr or done.stdout).strip()[:200]
        return [Finding("driver", False, f"nvidia-smi failed: {said}", "install or load the NVIDIA driver")]
    if cuda is None:
        return [Finding("driver", True, f"{driver}; torch is a build without CUDA and does not use it")]
    needed = MIN_DRIVER.get(int(cuda.split(".")[0]), max(MIN_DRIVER.values()))
    fix = (
        f"update the driver to R{needed} or newer; on data-centre GPUs NVIDIA's cuda-compat package of CUDA {cuda} on "
        "LD_LIBRARY_PATH may do"
    )
    ok = int(driver.partition(".")[0]) >= needed
    found = f"{driver}; torch was built for CUDA {cuda}, which needs R{needed} or newer"
    return [Finding("driver", ok, found, fix)]


def check_gpu_memory() -> list[Finding]:
    """Return whether other processes hold memory of the GPUs in ``CUDA_VISIBLE_DEVICES``; none without a GPU."""
    done = _ask_driver("--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
    if done is None:
        return []
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",") if part]
    by_index = all(part.isdigit() for part in visible)  # not by UUID; none is visible where it is empty
    taken, gpus = [], 0
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        index, *memory = (part.strip() for part in line.split(","))
        if by_index and index not in visible:
            continue
        if not all(part.isdigit() for part in memory):  # "[N/A]" where memory is shared with the host
            continue
        used, total = (int(part) / 1024 for part in memory)
        gpus += 1
        if used > TAKEN * total:
            taken.append(f"GPU {index}: {used:.1f} of {total:.1f} GiB are taken")
    fix = (
        "end what runs there (`nvidia-smi` names the processes; a retriever with a dense back end is one), or choose "
        "other GPUs by CUDA_VISIBLE_DEVICES"
    )
    return [Finding("GPU memory", not taken, "; ".join(taken) or f"{gpus} free", fix)] if gpus else []


def check_flash_attention() -> Finding:
    """Import flash-attn's compiled extension, which fails when it was built for another torch."""
    torch, found = installed("torch"), installed("flash-attn")
    without = (
        f"without it, train with {WITHOUT_FLASH_ATTENTION} (docs/troubleshooting.md, 'Without flash-attn')"
    )
    if found is None:
        fix = (
            f"`make install-gpu` compiles it (needs nvcc), or FLASH_ATTN_WHEEL=FILE takes a wheel; {without}"
        )
        return Finding("flash-attn", False, "not installed", fix)
    error = _error_of(_EXTENSION)
    if error is None:
        return Finding("flash-attn", True, found)
    fix = (
        f"it was built for another torch or CUDA: pip uninstall flash-attn, and compile it against torch {torch} with "
        f"`make install-gpu`, or FLASH_ATTN_WHEEL=FILE takes a wheel built for it; {without}"
    )
    return Finding("flash-attn", False, f"{found} cannot be loaded with torch {torch}: {error}", fix)


def check_trl() -> list[Finding]:
    """Import from trl what verl imports where trl is installed; a failure there stops verl's workers."""
    if find_spec("trl") is None:
        return []
    found, error = installed("trl") or "unknown version", _error_of(_VALUE_HEAD)
    if error is None:
        return [Finding("trl", True, found)]
    fix = (
        "pip uninstall trl, or pip install 'trl>=0.27,<1.13'; verl imports that class where trl is installed"
    )
    return [Finding("trl", False, f"{found} stops verl's workers: {error}", fix)]


def _ask_driver(*query: str) -> subprocess.CompletedProcess[str] | None:
    """Return what nvidia-smi answers to a query, None where there is none."""
    tool = shutil.which("nvidia-smi")
    return None if tool is None else run([tool, *query], DRIVER_S)


def _error_of(code: str) -> str | None:
    """Return the last line of the error that ``code`` ends with in a fresh interpreter, None without one."""
    done = run([sys.executable, "-c", code], IMPORT_S)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it crashed"])[-1]


def run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; one that takes longer is ended and has failed with that as its error."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {timeout_s:g} s")


def installed(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
