"""Both ends of verl's way of new weights to vLLM, with the names of :mod:`.weight_sockets`."""

from __future__ import annotations

import os
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout import vllm_async_server, vllm_rollout


class ServerAdapter(vllm_rollout.ServerAdapter):
    """The sending end, in the actor's process."""

    zmq_handle: str

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # verl makes the servers of a rollout in which prefill and decoding are apart by itself, with names of its own.
        if not self.config.disaggregation.enabled:
            verls, job = self.zmq_handle, ray.get_runtime_context().get_job_id()
            self.zmq_handle = verls.replace(f"-{job}-", f"-{job_on_node()}-")
            if self.zmq_handle == verls:
                raise RuntimeError(f"verl names the socket of new weights {verls}, without the Ray job {job}")


class vLLMHttpServer(vllm_async_server.vLLMHttpServer):
    """The server, whose vLLM processes are the receiving end and have its environment; its lines in a log begin so."""

    def _post_init(self, *arguments: Any, **options: Any) -> None:
        super()._post_init(*arguments, **options)
        os.environ["VERL_RAY_JOB_ID"] = job_on_node()


class Replica(vllm_async_server.vLLMReplica):
    """verl's replica, of such servers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.server_class = ray.remote(vLLMHttpServer)


def job_on_node() -> str:
    """Return what this Ray job is called on this node, in as few characters as are unique: a socket's path has 107."""
    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{context.get_node_id()[:16]}"
