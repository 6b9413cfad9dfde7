"""Softmax regression on frozen features, by L-BFGS from zero.

N items, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def fit_softmax(
    features: Callable[[], Tensor],
    dim: int,
    targets: Tensor,
    num_classes: int,
    *,
    decay: float,
    max_iterations: int,
    inner: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """The weight (C, D) and bias (C,) of a linear map to scores of classes.

    Args:
        features: Makes the features, (N, D), of `inner` where they depend on it.
        dim: D.
        targets: Classes, (N,), int64.
        num_classes: C.
        decay: Of the squared weights, beside the mean cross-entropy.
        max_iterations: At most so many steps.
        inner: Tensors that are fitted together with the map, in place; they require gradients.
    """
    weight = torch.zeros(num_classes, dim, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([*inner, weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features(), weight, bias), targets) + decay * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()
