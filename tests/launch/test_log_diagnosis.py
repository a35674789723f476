"""What stands in a log of a failed run, told apart from the traceback around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.launch.log_diagnosis import diagnose
from sd_search_verl.protocol.token_bytes import TokenizerError
from sd_search_verl.retriever_client.identity import DisagreementError, RetrieverUnavailableError

RAY = """Error executing job with overrides: []
Traceback (most recent call last):
ray.exceptions.RayTaskError(ConfigError): ray::TaskRunnerV1.run() (pid=1)
  File "main_ppo.py", line 3
sd_search_verl.config.ConfigError: data.train_files: none. Fix: build it
vocabulary: too large. Fix: resize it

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""


# Ray names memory among the causes of every death.
KILLED = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. There are some potential root causes. (1) The process was killed
by the OOM killer due to high memory usage. (2) ray stop --force is called."""


def test_our_own_message_is_found_in_rays_traceback() -> None:
    assert diagnose(RAY) == "data.train_files: none. Fix: build it\nvocabulary: too large. Fix: resize it"


@pytest.mark.parametrize("error", [DisagreementError, RetrieverUnavailableError, TokenizerError])
def test_errors_of_the_user_are_found_by_their_class(error: type[UserError]) -> None:
    assert diagnose(f"Traceback\n{error.__module__}.{error.__name__}: It is wrong. Fix: mend it\n\n") == (
        "It is wrong. Fix: mend it"
    )


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("OSError: [Errno 28] No space left on device: '/run/metrics.jsonl'", "the disk is full. Fix: "),
        (
            "RuntimeError: Insufficient space in /dev/shm: 160 MiB required, 64 MiB free. Increase /dev/shm (e.g. "
            "--shm-size or --ipc=host).",
            "/dev/shm is too small: 160 MiB needed, 64 MiB free. Fix: in a container `docker run --shm-size=2g`",
        ),
        ("OSError: [Errno 98] Address already in use", "a port is taken. Fix: "),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "lower actor_rollout_ref.actor.ppo_max",
        ),
        (
            "torch.AcceleratorError: CUDA error: out of memory",
            "something else holds the GPU's memory. Fix: `sd-search doctor`",
        ),
        ("ValueError: Unknown trainer 'sd_search'. Available trainers: sync", "Fix: `sd-search doctor`"),
        ("In 'paper': Could not find 'sd_search/default'", "Fix: `sd-search doctor`"),
        (
            "ImportError: FlashAttention2 has been toggled on, but it cannot be used",
            "`make install-gpu` builds it",
        ),
        (
            "OSError: validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /scratch",
            "`export TMPDIR=/tmp RAY_TMPDIR=/tmp`",
        ),
        (
            'zmq.error.ZMQError: ipc path "/scratch/a" is longer than 107 characters (sizeof(sockaddr_un.sun_path)).',
            "`export TMPDIR=/tmp RAY_TMPDIR=/tmp`",
        ),
        (
            "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
            "memory is full",
        ),
        (
            "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See above",
            "vLLM's engine died",
        ),
        (KILLED, "a process of the run died"),
        (f"{KILLED}\nOSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "sd_search_verl.verl_adapter.trainer.worker_watch.WorkerDiedError: worker 0 of 8 has died. Fix: look\n\n",
            "worker 0 of 8 has died. Fix: look",
        ),
        (
            "ValueError: When connecting to an existing cluster, num_cpus and num_gpus must not be provided.",
            "ray_kwargs.ray_init.num_cpus=null",
        ),
    ],
)
def test_known_symptoms(log: str, says: str) -> None:
    assert says in (diagnose(f"Traceback\n{log}\n") or "")


def test_a_full_disk_is_the_cause_of_what_the_log_says_but_for_our_own_errors() -> None:
    log = "Exception: Timed out waiting for file /scratch/ray/session_1/gcs_server_port_ab\n"
    slow = "Exception: The current node timed out during startup.\n"
    for text in (log, slow, log + slow):
        assert (diagnose(text, [Path("/scratch")]) or "").startswith("the disk of /scratch is full. Fix: ")
    assert (diagnose(log, [Path("/run"), Path("/tmp")]) or "").startswith(
        "the disk of /run and that of /tmp is full"
    )
    assert (diagnose(RAY, [Path("/run")]) or "").startswith("data.train_files: none")


def test_nothing_is_made_up() -> None:
    assert diagnose("Traceback\nKeyError: 'x'\n") is None
