"""Rows read a little at a time have the logits of rows read at once."""

from __future__ import annotations

import random

import torch

from sd_search_verl.world.config import CHECKPOINT
from sd_search_verl.world.kv_cache import CachedDecoder
from sd_search_verl.world.model import load_model
from sd_search_verl.world.sampling import next_token_logits


def test_rows_that_grow_and_leave_read_as_if_whole() -> None:
    model = load_model(CHECKPOINT)
    draw = random.Random(0)

    def some(least: int, most: int) -> list[int]:
        return [draw.randrange(20, 200) for _ in range(draw.randint(least, most))]

    rows = [some(3, 9) for _ in range(6)]
    decoder, added = CachedDecoder(model, len(rows)), rows
    for _ in range(8):
        assert torch.allclose(decoder.append(added), next_token_logits(model, rows), atol=3e-5, rtol=1e-6)
        added = [some(1, 5) for _ in rows]
        rows = [row + more for row, more in zip(rows, added, strict=True)]
        if len(rows) > 2:
            gone = draw.randrange(len(rows))
            kept = [place for place in range(len(rows)) if place != gone]
            decoder.select(kept)
            rows, added = [rows[place] for place in kept], [added[place] for place in kept]
