"""A model that reads growing rows, every token once: keys and values of what it has read are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class Reader:
    """Rows of different lengths grow at their own pace.

    What a call adds is padded at its end to the longest addition. Padding is masked out for good, and a row's positions
    count its own tokens only, so its logits are those of the row read alone.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.model = model
        self.mask = torch.zeros(rows, 0, dtype=torch.long)
        """``[rows, slots]``: 1 where the cache holds a token of the row."""
        self.cache = DynamicCache(config=model.config)

    @torch.no_grad()
    def read(self, added: Sequence[Sequence[int]]) -> Tensor:
        """Logits ``[rows, vocabulary]`` of the token after each row, once the row has its ``added`` tokens.

        A row to which nothing is added has no meaningful logits.
        """
        width = max(map(len, added))
        lengths = torch.tensor([len(tokens) for tokens in added])
        read = self.mask.sum(-1, keepdim=True)
        self.mask = torch.cat([self.mask, (torch.arange(width) < lengths[:, None]).long()], -1)
        hidden = self.model.model(
            input_ids=torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in added]),
            attention_mask=self.mask,
            position_ids=read + torch.arange(width),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden[torch.arange(len(added)), (lengths - 1).clamp_min(0)])
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows."""
        chosen = torch.tensor(rows)
        self.mask = self.mask[chosen]
        self.cache.batch_select_indices(chosen)
