"""Heads on frozen features: the weighted sum of all hidden states, and the sweep over learning rates.

L hidden states, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.randomness import generator

Head = TypeVar("Head", bound=nn.Module)
Item = TypeVar("Item")
Batch = TypeVar("Batch")

WARMUP_SHARE = 0.1
CLIP_NORM = 1.0
NUM_SEEDS = 3


class WeightedSum(nn.Module):
    """SUPERB's read-out: a softmax-weighted sum of all hidden states, (L, ..., D) -> (..., D).

    Layers are outermost, so that the sum is one product of a vector and a matrix. Differs from SUPERB in that the
    states are standardised first, channel by channel, so that one range of learning rates serves encoders and spectral
    features of any scale.

    Source: SUPERB (arXiv 2105.01051), 2.2.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_layers))

    def forward(self, states: Tensor) -> Tensor:
        """Standardised states to their sum."""
        return (self.weights.softmax(0) @ states.flatten(1)).view(states.shape[1:])


def shuffled(
    items: Sequence[Item], batch_size: int, key: str, *, size: Callable[[Item], int] | None = None
) -> list[list[Item]]:
    """The batches of an epoch: a permutation drawn from `key`; with `size`, of items of similar size together."""
    rng = generator("epoch of heads", key)
    order = rng.permutation(len(items))
    if size is not None:
        sizes = np.array([size(items[i]) for i in order]) * rng.uniform(0.9, 1.1, len(items))
        order = order[np.argsort(sizes)]
    batches = [[items[i] for i in order[first : first + batch_size]] for first in range(0, len(items), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class Plan:
    """How a task trains its heads."""

    epochs: int
    learning_rates: tuple[float, ...]
    """What the sweep tries."""
    num_seeds: int = NUM_SEEDS


@dataclass(frozen=True)
class Fitted(Generic[Head]):
    """Heads that came out of a sweep."""

    heads: tuple[Head, ...]
    """One for each seed, all at the best learning rate."""
    learning_rate: float
    search_errors: tuple[float, ...]
    """Of each learning rate, on the split that chose."""


def sweep(
    plan: Plan,
    make_head: Callable[[], Head],
    make_batches: Callable[[str], Sequence[Item]],
    load: Callable[[Item], Batch],
    loss: Callable[[Head, Batch], Tensor],
    search_error: Callable[[Head], float],
) -> Fitted[Head]:
    """Fits a head at every learning rate, takes the one with the least error on `search`, and fits its other seeds.

    Args:
        plan: Epochs, learning rates, seeds.
        make_head: A fresh head; torch's default generator is seeded before each call.
        make_batches: What the batches of an epoch are made of, keyed by seed and epoch.
        load: Makes a batch, which all heads that are fitted side by side share.
        loss: Of a head on a batch, a scalar.
        search_error: Of a fitted head, the less the better; NaN counts as worst.
    """
    fit = partial(_fit, plan, make_head, make_batches, load, loss)
    tried = fit([(rate, 0) for rate in plan.learning_rates])
    errors = [float(np.nan_to_num(search_error(head), nan=np.inf)) for head in tried]
    best = int(np.argmin(errors))
    rate = plan.learning_rates[best]
    others = fit([(rate, seed) for seed in range(1, plan.num_seeds)])
    return Fitted((tried[best], *others), rate, tuple(errors))


def _fit(
    plan: Plan,
    make_head: Callable[[], Head],
    make_batches: Callable[[str], Sequence[Item]],
    load: Callable[[Item], Batch],
    loss: Callable[[Head, Batch], Tensor],
    replicas: Sequence[tuple[float, int]],
) -> list[Head]:
    """One head for each (learning rate, seed), trained side by side on the same batches."""
    if not replicas:
        return []
    heads = []
    for _, seed in replicas:
        torch.manual_seed(seed)
        heads.append(make_head())
    optimizers = [
        torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.0)
        for head, (rate, _) in zip(heads, replicas, strict=True)
    ]
    for share, item in _steps(plan.epochs, make_batches, replicas[0][1]):
        batch = load(item)
        factor = min(1.0, (share + 1e-3) / WARMUP_SHARE) * (1 - share)
        for head, optimizer, (rate, _) in zip(heads, optimizers, replicas, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
            loss(head, batch).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP_NORM)
            optimizer.step()
    return [head.eval().requires_grad_(False) for head in heads]


def _steps(epochs: int, make_batches: Callable[[str], Sequence[Item]], seed: int) -> Iterator[tuple[float, Item]]:
    """Every item of every epoch, with the share of the training that came before it."""
    for epoch in range(epochs):
        items = make_batches(f"{seed}/{epoch}")
        for i, item in enumerate(items):
            yield (epoch + i / len(items)) / epochs, item
