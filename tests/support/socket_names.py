"""``python -m support.socket_names MODEL``: a Ray cluster of its own, with both ends of the way of new weights to vLLM.

The last line is JSON: the cluster's node, and the socket that each end takes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray


def both_ends(_: Any, rollout: Any) -> tuple[str, str]:
    """What the actor's process binds, and what a process of vLLM, which has the server's environment, connects to."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.rollout.base import get_rollout_class
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

    os.environ |= {"RANK": "0", "RAY_LOCAL_WORLD_SIZE": "1"}
    adapter = get_rollout_class("vllm")(omega_conf_to_dataclass(rollout), model_config=None, device_mesh=None)
    worker = SimpleNamespace(local_rank=0, model_runner=None)
    return adapter.zmq_handle, vLLMColocateWorkerExtension._get_zmq_handle(worker)


def main(model: str) -> None:
    from verl.workers.rollout.replica import RolloutMode, get_rollout_replica_class

    from support.engine import compose

    config = compose(
        Path(model), ["actor_rollout_ref.rollout.tensor_model_parallel_size=1"]
    ).actor_rollout_ref
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    replica = get_rollout_replica_class("vllm")(0, config.rollout, config.model, gpus_per_node=1)
    server = replica.server_class.remote(
        replica.config, config.model, RolloutMode.HYBRID, [], 0, 0, 1, 1, cuda_visible_devices=""
    )
    names = ray.get(server.__ray_call__.remote(both_ends, config.rollout))
    print(json.dumps([ray.get_runtime_context().get_node_id(), *names]))


if __name__ == "__main__":
    main(sys.argv[1])
