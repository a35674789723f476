"""The ways in which verl runs an actor: sharding, packing, types, offloads, batching. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ACTOR = "actor_rollout_ref.actor"
FSDP = f"{ACTOR}.fsdp_config"
MODEL = "actor_rollout_ref.model"


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        overrides: of verl's configuration.
        options: of the batch.
        packed: rows without padding between them: with flash-attention's kernels in bf16, behind a mask in fp32.
        tied: whether embedding and head share one matrix.
        card: whether it needs a card.
    """

    name: str
    overrides: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    packed: bool = False
    bf16: bool = False
    tied: bool = False
    card: bool = False


FSDP1 = f"{ACTOR}.strategy=fsdp"
CHECKPOINTING = f"{MODEL}.enable_gradient_checkpointing=True"
OFFLOADED = (f"{FSDP}.param_offload=True", f"{FSDP}.optimizer_offload=True")
COMPILED = (f"{ACTOR}.use_torch_compile=True", f"{FSDP}.use_torch_compile=True")
DYNAMIC = {"use_dynamic_bsz": True, "max_token_len_per_gpu": 600}
WARM = {"temperature": 0.7}
DETERMINISTIC = f"{FSDP}.full_determinism=True"

WAYS = [
    Way("fsdp2 fp32, padded sdpa"),
    Way("fsdp2 fp32, padded sdpa, tied", tied=True),
    Way("fsdp2 fp32, packed sdpa", packed=True),
    Way("fsdp2 bf16, packed flash", packed=True, bf16=True),
    Way(
        "fsdp2 bf16, packed flash, tied, dynamic batches, checkpointing",
        (CHECKPOINTING,),
        DYNAMIC,
        packed=True,
        bf16=True,
        tied=True,
    ),
    Way("fsdp1 fp32, padded sdpa", (FSDP1,), card=True),
    Way("fsdp1 fp32, padded sdpa, tied", (FSDP1,), tied=True, card=True),
    Way(
        "fsdp1 bf16, packed flash, tied, dynamic batches, checkpointing",
        (FSDP1, CHECKPOINTING),
        DYNAMIC,
        packed=True,
        bf16=True,
        tied=True,
        card=True,
    ),
    Way(
        "fsdp2 bf16, packed flash, compiled entropy",
        COMPILED,
        {"calculate_entropy": True},
        packed=True,
        bf16=True,
        card=True,
    ),
    Way("fsdp2 fp32, parameters and optimizer offloaded", OFFLOADED),
    Way("fsdp2 fp32, offload policy", (f"{FSDP}.offload_policy=True",)),
    Way("fsdp1 fp32, parameters and optimizer offloaded", (FSDP1, *OFFLOADED), card=True),
    Way("fsdp1 fp32, original parameters", (FSDP1, f"{FSDP}.use_orig_params=True"), card=True),
    Way(
        "fsdp2 bf16, packed flash, forward prefetch",
        (f"{FSDP}.forward_prefetch=True",),
        DYNAMIC,
        packed=True,
        bf16=True,
    ),
    Way("fsdp2 fp32, temperature 0.7", (), WARM),
    Way("fsdp2 bf16, packed flash, temperature 0.7", (), WARM, packed=True, bf16=True),
    # Last: if it breaks off, its hooks stay in the process.
    Way(
        "fsdp2 bf16, packed flash, activations offloaded",
        (CHECKPOINTING, f"{MODEL}.enable_activation_offload=True"),
        packed=True,
        bf16=True,
        card=True,
    ),
]
BITWISE = [
    Way("alpha = 0, fsdp2 fp32, padded sdpa", (DETERMINISTIC,)),
    Way("alpha = 0, fsdp2 bf16, packed flash", (DETERMINISTIC,), packed=True, bf16=True),
]
