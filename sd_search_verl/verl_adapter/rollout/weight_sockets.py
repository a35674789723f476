"""Sockets over which an actor hands its weights to vLLM, with names that no other run on the machine has.

verl names them after the Ray job, ``/tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock``, and every Ray cluster calls
its first job 01000000. Two runs on one machine, each with a cluster of its own, then take each other's weights: without
a word where the shapes are the same, as a run's and its twin's are; else they end, or wait for ever. Here the name
holds the node of the cluster too. Both ends are subclasses of verl's (:mod:`.vllm_rollout`) in verl's registries.
"""

from __future__ import annotations

from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

_MODULE = "sd_search_verl.verl_adapter.rollout.vllm_rollout"


def register() -> None:
    """Put both ends in the place of verl's; they are imported, with vLLM, only where they run."""
    _ROLLOUT_REGISTRY["vllm", "async"] = f"{_MODULE}.ServerAdapter"
    RolloutReplicaRegistry.register("vllm", _replica)


def _replica() -> type[RolloutReplica]:
    from sd_search_verl.verl_adapter.rollout.vllm_rollout import Replica

    return Replica
