"""The credit of a token: how much likelier the teacher finds it than the student, log P_teacher(x) - log P_student(x).

Above 0, hindsight speaks for the token; below 0, against it. L_SD follows whole distributions; the credit is what of
it can be shown at the token that was sampled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sd_search_verl.distill.targets import CHUNK_ROWS


@torch.no_grad()
def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of tokens ``[N]`` under logits ``[N, V]`` of any float type: ``[N]`` fp32, nats."""
    parts = [
        rows.float().gather(-1, chosen.unsqueeze(-1)).squeeze(-1) - rows.float().logsumexp(-1)
        for rows, chosen in zip(logits.split(CHUNK_ROWS), tokens.split(CHUNK_ROWS), strict=True)
    ]
    return torch.cat(parts)
