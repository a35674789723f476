"""Decode growing rows with a key-value cache, so that the model computes every token once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class CachedDecoder:
    """A batch of rows of different lengths, to each of which any number of tokens can be appended.

    Appended tokens are padded at their end to the longest. Padding stays masked and a row's positions count its own
    tokens only, so its logits equal those of the row alone.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.model = model
        self.mask = torch.zeros(rows, 0, dtype=torch.long, device=model.device)
        """``[rows, slots]``: 1 where the cache holds a token of the row."""
        self.cache = DynamicCache(config=model.config)

    @torch.no_grad()
    def append(self, added: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens and return the logits ``[rows, vocabulary]`` of the token after each row.

        The logits of a row to which nothing is appended have no meaning.
        """
        width, device = max(map(len, added)), self.mask.device
        lengths = torch.tensor([len(tokens) for tokens in added], device=device)
        places = torch.arange(width, device=device)
        lengths_before = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, (places < lengths[:, None]).long()], -1)
        hidden = self.model.model(
            input_ids=torch.tensor(
                [[*tokens, *[0] * (width - len(tokens))] for tokens in added], device=device
            ),
            attention_mask=self.mask,
            position_ids=lengths_before + places,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(
            hidden[torch.arange(len(added), device=device), (lengths - 1).clamp_min(0)]
        )
        return logits

    def select(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        chosen = torch.tensor(rows, device=self.mask.device)
        self.mask = self.mask[chosen]
        self.cache.batch_select_indices(chosen)
