"""Bytes on a card and on its host, counted from the shapes of a policy and the plan of a step.

P: parameters, A: trained ones (adapters or P), n: cards, L layers, H width, I width of the MLP, V vocabulary, T tokens
of a micro-batch, b: bytes of a stored weight (4 or 2), 2: bytes of a bf16 value. GB is 1e9 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.shapes import Shape
from sd_search_verl.config import SDSearchConfig

GB = 1e9
BF16, FP32 = 2, 4
"""Bytes of a value."""
QUERY_ROWS = 180 / 16384
"""Query tokens a token of the recorded rollouts (docs/performance.md)."""
CHUNK_ROWS = SDSearchConfig().chunk_rows
"""Default of ``sd_search.chunk_rows``."""
LONGEST = 6144
"""Tokens of the longest rollout that ``paper.yaml`` allows; a micro-batch and vLLM's cache must hold it."""
RESERVED = 3.0 * GB
"""Assumed, not measured: CUDA contexts and NCCL of trainer and vLLM, vLLM's graphs, the allocator's fragments."""
ROLLOUTS_AT_ONCE = 4
"""Our choice: a cache for fewer of the longest rollouts is counted as no fit."""


@dataclass(frozen=True)
class Plan:
    """How a step is run.

    Attributes:
        rank: of the adapters, or 0 where all weights are trained.
        stored: bytes of a stored weight, its gradient and each of AdamW's two moments (``fsdp_config.model_dtype``).
        tokens: ``ppo_max_token_len_per_gpu``.
        offload: ``param_offload`` and ``optimizer_offload``: weights and moments on the host while vLLM generates.
        offload_training: ``offload_policy``: weights, gradients and moments on the host in the update too.
        utilization: ``rollout.gpu_memory_utilization``.
        tensor_parallel: ``rollout.tensor_model_parallel_size``.
    """

    cards: int
    rank: int = 0
    stored: int = 4
    tokens: int = 16384
    offload: bool = False
    offload_training: bool = False
    utilization: float = 0.6
    tensor_parallel: int = 1


def trained(shape: Shape, plan: Plan) -> int:
    """Return A, the adapters, or all parameters."""
    return shape.adapters(plan.rank) if plan.rank else shape.parameters


def weights(shape: Shape, plan: Plan) -> float:
    """Return the bytes of stored weights on a card: b (P + adapters) / n."""
    whole = shape.parameters + (shape.adapters(plan.rank) if plan.rank else 0)
    return plan.stored * whole / plan.cards


def gradients(shape: Shape, plan: Plan) -> float:
    """Return the bytes of sharded gradients: b A / n."""
    return plan.stored * trained(shape, plan) / plan.cards


def moments(shape: Shape, plan: Plan) -> float:
    """Return the bytes of AdamW's two moments: 2 b A / n."""
    return 2 * gradients(shape, plan)


def checkpoints(shape: Shape, tokens: int, compute: int = BF16) -> float:
    """Return the bytes that gradient checkpointing keeps of the layers: their inputs, L T H values."""
    return compute * shape.layers * tokens * shape.hidden


def layer_activations(shape: Shape, tokens: int, compute: int = BF16) -> float:
    """Return the bytes that one layer keeps for its backward, made again layer by layer: with flash attention

        T (2 N H + 2 Q + 2 K + 4 I) values,     Q, K: widths of queries and of keys

    where each of the two norms keeps N = 4 values of H in bf16 (its input in fp32 counts twice, the normed one and the
    output once each) and 3 in fp32. Attention keeps queries, keys, values and its output; the MLP keeps gate, its SiLU,
    up and their product. Norms on queries and keys (Qwen3) keep 4 (3) times their widths more, and their fp32 scales.
    """
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norm = 4 if compute == BF16 else 3
    per_token = 2 * norm * shape.hidden + 2 * q + 2 * kv + 4 * shape.intermediate
    if not shape.biases:
        per_token += (norm - 1) * (q + kv)
    return compute * tokens * per_token


def logits(shape: Shape, plan: Plan) -> float:
    """Return the bytes of a micro-batch's logits: T V values, once with flash-attention's in-place cross entropy."""
    return BF16 * plan.tokens * shape.vocab


def sd_search(shape: Shape, plan: Plan) -> float:
    """Return the bytes of the distillation term: 4 N V (rows and gradient) + 14 V chunk_rows for N query tokens."""
    rows = plan.tokens * QUERY_ROWS
    return 4 * rows * shape.vocab + 14 * shape.vocab * min(CHUNK_ROWS, rows)


def update(shape: Shape, plan: Plan) -> dict[str, float]:
    """Return the bytes on a card at the update's highest moment, by part.

    Three moments compete: the head's backward (logits, distillation term), a layer's backward (its activations and its
    gradient) and the optimizer's step (AdamW's own temporary of the size of a gradient).
    """
    state = {
        "weights": weights(shape, plan),
        "gradients": gradients(shape, plan),
        "moments": moments(shape, plan),
    }
    if plan.offload_training:
        state = dict.fromkeys(state, 0.0)
    inputs = checkpoints(shape, plan.tokens)
    full = not plan.rank
    # Whole copies in bf16: the root, or the head as a unit of its own; two layers, since the next is gathered early.
    whole_head = BF16 * (shape.root if shape.tied else shape.head)
    gradient = BF16 + FP32 if full else 0
    # Last norm in fp32, its output and the gradient on the way back.
    last = 2 * FP32 * plan.tokens * shape.hidden
    at_head = {
        "whole weights": whole_head + gradient * shape.head,
        "activations": inputs + last,
        "logits": logits(shape, plan),
        "SD-Search": sd_search(shape, plan),
    }
    roots = 2 if full else 1  # its gradient is whole too
    at_layer = {
        "whole weights": BF16 * (roots * shape.root + 2 * shape.layer) + gradient * shape.layer,
        "activations": inputs + layer_activations(shape, plan.tokens),
    }
    at_step = {"optimizer's temporary": 0.0 if plan.offload_training else gradients(shape, plan)}
    moment = max((at_head, at_layer, at_step), key=lambda parts: sum(parts.values()))
    return state | moment


def rollout(shape: Shape, plan: Plan, card: float) -> dict[str, float]:
    """Return the bytes on a card while vLLM generates: the trainer's state, vLLM's sharded bf16 weights, its cache.

    The cache is what ``gpu_memory_utilization`` leaves; where that is negative, vLLM does not start.
    """
    state = 0.0 if plan.offload or plan.offload_training else weights(shape, plan) + moments(shape, plan)
    own = 2 * shape.parameters / plan.tensor_parallel
    return {"trainer": state, "vLLM's weights": own, "cache": plan.utilization * card - own}


def rollouts_at_once(shape: Shape, plan: Plan, card: float) -> int:
    """Return the number of longest rollouts that the cache of one vLLM replica holds."""
    cache = rollout(shape, plan, card)["cache"] * plan.tensor_parallel
    return max(0, int(cache // (shape.cache * LONGEST)))


def synchronisation(shape: Shape, plan: Plan) -> float:
    """Return the bytes on a card while weights go to vLLM: both sets, one whole parameter and a bucket of 2 GB.

    Offloaded weights are sent one by one; with adapters verl loads them all.
    """
    whole = 0.0 if plan.rank else plan.stored * shape.head
    parked = plan.offload_training or (plan.offload and not plan.rank)
    kept = 0.0 if parked else weights(shape, plan)
    return kept + 2 * shape.parameters / plan.tensor_parallel + whole + 2 * GB


def fits(shape: Shape, plan: Plan, card: float) -> bool:
    """Return True if update, rollout and weight synchronisation stay below the card less :data:`RESERVED`."""
    room = card - RESERVED
    generating = rollout(shape, plan, card)
    return (
        sum(update(shape, plan).values()) <= room
        and generating["trainer"] + plan.utilization * card <= room
        and rollouts_at_once(shape, plan, card) >= ROLLOUTS_AT_ONCE
        and synchronisation(shape, plan) <= room
    )


def host(shape: Shape, plan: Plan, cards_per_node: int) -> float:
    """Return the bytes of a node's memory: tied models that ranks read whole at the start, offloaded state later.

    The reference policy always does, in bf16: verl offloads it, and adapters need none.
    """
    ranks = min(plan.cards, cards_per_node)
    loading = plan.stored * shape.parameters * (ranks if shape.tied else 1)
    parked = 0.0 if plan.rank else 2 * shape.parameters / plan.cards
    if plan.offload or plan.offload_training:
        parked += weights(shape, plan) + moments(shape, plan)
    if plan.offload_training:
        parked += gradients(shape, plan)
    return max(loading, ranks * parked)
