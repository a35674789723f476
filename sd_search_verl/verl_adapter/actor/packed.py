"""Positions in a packed micro-batch, whole or sharded by sequence parallelism.

verl packs the rows of a micro-batch one after the other. Positions count from each row's start; the index in the packed
tokens adds the start of the row. With Ulysses each rank holds an equal share of the packed tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from transformers import PreTrainedModel
from verl.utils.ulysses import get_ulysses_sequence_parallel_rank, get_ulysses_sequence_parallel_world_size

from sd_search_verl.verl_adapter.fields import SLOTS


@dataclass(frozen=True)
class SequenceShard:
    """Half-open range of the packed tokens that this rank holds; all of them without sequence parallelism."""

    start: int
    stop: int

    @classmethod
    def of(cls, num_tokens: int) -> SequenceShard:
        """Return this rank's shard of ``num_tokens`` packed tokens, padded to equal shares as verl pads them."""
        share = -(-num_tokens // get_ulysses_sequence_parallel_world_size())
        start = share * get_ulysses_sequence_parallel_rank()
        return cls(start, start + share)


def packed_positions(data: TensorDict, positions: Tensor) -> Tensor:
    """Return every slot's index in the packed tokens of a micro-batch; a placeholder's is the one before its row.

    Args:
        data: has the slots.
        positions: index of each slot in its row, see :func:`~.fields.by_slot`.
    """
    field = data[SLOTS]
    slots = field.values()
    starts = data["input_ids"].offsets()[:-1]
    return starts.repeat_interleave(field.offsets().diff(), output_size=len(slots)) + positions[slots]


def positions_in_shard(data: TensorDict, positions: Tensor, shard: SequenceShard) -> tuple[Tensor, Tensor]:
    """Return the packed index and the slot of every scored token inside a shard.

    Placeholders are left out. ``nonzero`` synchronises with the device once.
    """
    index, slots = packed_positions(data, positions), data[SLOTS].values()
    inside = (slots >= 0) & (index >= shard.start) & (index < shard.stop)
    at = inside.nonzero().squeeze(-1)
    return index[at], slots[at]


def policy_in(module: torch.nn.Module) -> PreTrainedModel | None:
    """Return the model of transformers inside ``module``, whatever wraps it."""
    return next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)


def attention_bounds(
    module: torch.nn.Module, offsets: Tensor, num_tokens: int, device: int | str
) -> dict[str, Any]:
    """Return where the packed rows begin and end, in the names of transformers' ``FlashAttentionKwargs``.

    Without them transformers finds the rows again from the position ids, in every layer, and waits for the device each
    time. Empty where these are not the bounds of the attention: the tokens are sharded or padded, or the model's
    forward takes no such names.

    Args:
        module: the model, wrapped or not.
        offsets: ``[rows + 1]``, on the host.
        num_tokens: of the model's input.
        device: where the model is.
    """
    model = policy_in(module)
    kinds = () if model is None else [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds or num_tokens != int(offsets[-1]):
        return {}
    longest = int(offsets.diff().max())
    bounds = offsets.to(torch.int32).to(device, non_blocking=True)
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
