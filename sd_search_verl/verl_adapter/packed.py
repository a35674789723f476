"""Positions in a packed micro-batch, whole or sharded by sequence parallelism.

verl packs the rows of a micro-batch one after the other. A field of positions counts from each row's start; the index
in the packed tokens adds the start of the row. With Ulysses each rank holds an equal share of the packed tokens.
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


def packed_positions(data: TensorDict, name: str) -> Tensor:
    """Return every entry of field ``name`` as an index in the packed tokens.

    A placeholder (-1) gives the index before its row's start.
    """
    field = data[name]
    values = field.values()
    starts = data["input_ids"].offsets()[:-1]
    return starts.repeat_interleave(field.offsets().diff(), output_size=len(values)) + values


def positions_in_shard(data: TensorDict, name: str, *others: str, shard: SequenceShard) -> tuple[Tensor, ...]:
    """Return the packed positions of field ``name`` inside a shard, and the other fields at the same entries.

    Placeholders are left out. ``nonzero`` synchronises with the device once.
    """
    index = packed_positions(data, name)
    inside = (data[name].values() >= 0) & (index >= shard.start) & (index < shard.stop)
    at = inside.nonzero().squeeze(-1)
    return (index[at], *(data[other].values()[at] for other in others))


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
    model = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)
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
