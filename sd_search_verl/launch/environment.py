"""Environment variables with which verl, Ray and vLLM run on one machine. Set before any of them is imported."""

from __future__ import annotations

from collections.abc import Mapping

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
}

ENVIRONMENT = {
    **QUIET,
    "VERL_PLATFORM": "cpu",
    # One thread a process: about ten processes share the cores, and more threads only fight.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "TORCHDYNAMO_DISABLE": "1",  # compiling costs more than a small model ever gains
    # Ray's own 15 starves workers beside anything else that computes, and others then wait for them in vain.
    "RAY_worker_niceness": "0",
}
"""On a CPU."""

RESOURCES = ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_KVCACHE_SPACE")
"""Variables whose best value depends on the machine."""


def cpu_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return ``ENVIRONMENT`` with the values of ``RESOURCES`` that ``given``, the user's environment, has."""
    return {**ENVIRONMENT, **{name: given[name] for name in RESOURCES if name in given}}


def environment(device: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for ``cpu`` or ``cuda``."""
    return cpu_environment(given) if device == "cpu" else {**QUIET, "VERL_PLATFORM": "nvidia"}
