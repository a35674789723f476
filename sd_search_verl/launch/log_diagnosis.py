"""Finds the cause of a failed run in its log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# Our own errors, in Ray's traceback or in a line that Ray forwards: up to the end of the message.
_OURS = re.compile(
    r"\b(?:UserError|ConfigError|TokenizerError|DisagreementError|RetrieverUnavailableError|SearchUnavailableError"
    r"|NonFiniteError|WorkerDiedError): (?P<message>.+?)"
    r"(?=\n\s*\n|\n\(|\nTraceback|\n\S*Error\b|\n\s+File |\Z)",
    re.DOTALL,
)

RAY_TOO_SLOW = "Ray did not start within its 30 s. Fix: end what keeps the machine busy, and start again"

_FREE_SPACE = (
    "Fix: free space, point trainer.default_local_dir (and RAY_TMPDIR, for Ray's own files) elsewhere, or lower "
    "trainer.max_actor_ckpt_to_keep"
)

# A pattern's named groups are filled into its message.
_SYMPTOMS = (
    (r"The current node timed out during startup", RAY_TOO_SLOW),
    (
        r"Insufficient space in /dev/shm: (?P<needed>[^,\n]+) required, (?P<free>[^.\n]+) free",
        "/dev/shm is too small: {needed} needed, {free} free. Fix: in a container `docker run --shm-size=2g`, "
        "elsewhere a larger tmpfs (`mount -o remount,size=2g /dev/shm`)",
    ),
    (r"No space left on device|Disk quota exceeded|File too large", f"the disk is full. {_FREE_SPACE}"),
    (
        r"Address already in use",
        "a port is taken. Fix: end what listens there (`ss -ltnp` shows it), or give another port",
    ),
    (
        r"CUDA out of memory|OutOfMemoryError: CUDA",
        "the GPU's memory is full. Fix: lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu (training) or "
        "actor_rollout_ref.rollout.gpu_memory_utilization (vLLM)",
    ),
    (
        r"CUDA error: out of memory",
        "something else holds the GPU's memory. Fix: `sd-search doctor` says how much, `nvidia-smi` which process; "
        "end it, or choose another GPU by CUDA_VISIBLE_DEVICES",
    ),
    (
        r"ray\.exceptions\.OutOfMemoryError|node running low on memory|killed due to memory pressure",
        "the machine's memory is full. Fix: lower reward.num_workers and actor_rollout_ref.rollout.agent.num_workers, "
        "or put the retriever on another machine",
    ),
    (
        r"FlashAttention2 has been toggled on, but it cannot be used|No module named 'flash_attn'",
        "flash-attn is not installed. Fix: `make install-gpu` builds it, or set "
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    ),
    (
        r"Could not find 'sd_search/default'|Unknown trainer 'sd_search'",
        "verl did not load this package's plugin. Fix: `sd-search doctor` says why",
    ),
    (
        r"AF_UNIX path length cannot exceed|ipc path .+ is longer than \d+ characters",
        "the folder for the sockets of Ray and vLLM has too long a path, often by TMPDIR. Fix: `export TMPDIR=/tmp "
        "RAY_TMPDIR=/tmp`, or another short folder",
    ),
    (
        r"When connecting to an existing cluster, num_cpus and num_gpus must not be provided",
        "a running Ray cluster was found. Fix: ray_kwargs.ray_init.num_cpus=null and no num_gpus, or unset RAY_ADDRESS",
    ),
)


# The last ones: what is known above may be their cause.
_DEATHS = (
    (
        r"EngineDeadError|EngineCore encountered a fatal error|WorkerProc hit an exception",
        "vLLM's engine died: it was killed, ran out of memory, or raised an error, which then stands in the log above. "
        "Fix: look there and into `dmesg`; the same command goes on from the last checkpoint",
    ),
    (
        r"ActorDiedError|A worker died or was killed while executing a task",
        "a process of the run died: it was killed, crashed, or the system ended it for want of memory. Fix: `dmesg` "
        "and the log say which; the same command goes on from the last checkpoint",
    ),
)


def diagnose(log: str, full_disks: Sequence[Path] = ()) -> str | None:
    """Return the first known cause of a failure in ``log`` with its fix; None if there is none.

    Args:
        full_disks: folders without space, where the log may lack the line that would say so.
    """
    if found := _OURS.search(log):
        return found["message"].strip()
    if full_disks:
        return f"the disk of {' and that of '.join(map(str, full_disks))} is full. {_FREE_SPACE}"
    for symptom, message in _SYMPTOMS + _DEATHS:
        if found := re.search(symptom, log):
            return message.format(**found.groupdict())
    return None
