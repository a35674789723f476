"""Positions in a packed micro-batch, whole or sharded by sequence parallelism.

verl packs the rows of a micro-batch one after the other. A field of positions counts from each row's start; the index
in the packed tokens adds the start of the row. With Ulysses each rank holds an equal share of the packed tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict
from torch import Tensor
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
