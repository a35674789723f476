"""The scalar L_SD of a mini-batch.

    L_SD = 1/|T| sum over tau in T of w_tau * 1/|Q_tau| sum over p in Q_tau of D(P_teacher,p || P_student,p)

T: the mini-batch's trajectories that have query tokens; Q_tau: a trajectory's query tokens; w_tau: its weight. |T| is
counted over all ranks and micro-batches, so the loss does not depend on how the mini-batch is cut up.
"""

from __future__ import annotations

from torch import Tensor


def token_weights(tokens_per_trajectory: Tensor, trajectory_weights: Tensor) -> Tensor:
    """Return the weight of every query token, w_tau / |Q_tau|, trajectory after trajectory.

    Args:
        tokens_per_trajectory: ``[B]`` integers, |Q_tau|; 0 contributes no entries.
        trajectory_weights: ``[B]`` floats, w_tau.

    Returns:
        ``[sum |Q_tau|]`` fp32.
    """
    share = trajectory_weights.float() / tokens_per_trajectory.clamp_min(1)
    return share.repeat_interleave(tokens_per_trajectory)


def sd_loss(divergences: Tensor, weights: Tensor, num_trajectories: int) -> Tensor:
    """Return L_SD, or one part's share of it, as a scalar; 0 without query tokens.

    Args:
        divergences: ``[N]`` at this part's query tokens.
        weights: ``[N]`` from :func:`token_weights`.
        num_trajectories: |T| of the whole mini-batch.
    """
    return (divergences * weights).sum() / max(num_trajectories, 1)
