"""What a linear map can read off hidden states, fitted in closed form.

N frames, D channels of a state, K of a target.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PENALTY = 3e-3
"""Of the squared weights, for each frame, where channels of the states have unit variance."""
LEAST_DEVIATION = 1e-5
"""Of a channel, over the root mean square of all; one that varies less says nothing."""

Read = Callable[[Tensor], Tensor]
"""States (N, D) -> predicted targets (N, K)."""


def fit_ridge(states: Tensor, targets: Tensor, penalty: float = PENALTY) -> Read:
    """The linear map with the least squared error and small weights.

    States are standardised on these frames, so that the penalty weighs alike on wide and on narrow ones, whatever
    their scale. Statistics, squares and the solution are float64; only products with targets, most of the work, are
    summed in fp32.

    Args:
        states: Finite, (N, D).
        targets: Of the same frames, (N, K), fp32.
        penalty: Of the squared weights, for each frame.
    """
    wide = states.double()
    mean, root = wide.mean(0), wide.square().mean().sqrt()
    deviation = (wide - mean).square().mean(0).sqrt()
    scale = torch.where(deviation > LEAST_DEVIATION * root, 1 / deviation, 0.0)
    wide = (wide - mean) * scale
    square = wide.T @ wide
    square.diagonal().add_(penalty * len(states))
    product = (wide.float().T @ targets).double()
    weight = torch.cholesky_solve(product, torch.linalg.cholesky(square)).float()
    mean, scale, centre = mean.float(), scale.float(), targets.mean(0, dtype=torch.float64).float()
    return lambda x: torch.addmm(centre, (x - mean) * scale, weight)  # channels may lie far from 0
