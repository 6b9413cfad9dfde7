"""Matchings: which of the student's tensors meets which target, through which head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distillation.distances import DistanceName
from search_spaces.subnet import Subnet
from supernet.encoder import Trace
from supernet.slicing import layer_at_depth

Pair = tuple[int, Tensor, Tensor]
"""Which head, its input, and what it should predict; where a matching has no heads, its input is the prediction."""
MatchingName = Literal["mean", "layers", "front_end", "codes", "relations", "attention", "labels"]


@dataclass(frozen=True)
class Matching:
    """One way for a student to meet a source."""

    tap: str
    """The source's tap, unless a term names another."""
    pairs: Callable[[Trace, Sequence[Tensor], Subnet, int], Iterator[Pair]]
    """(the student's trace, the tap's layers, which subnet it is, layers of the container) -> what meets what."""
    distances: tuple[DistanceName, ...] = ("l1", "mse", "cosine", "gram")
    """Those that understand its pairs."""
    reads: tuple[str, ...] = ()
    """The student's taps, beside its last state."""
    heads: Literal["one", "layers", "none"] = "one"
    """One head, one for each layer of the container, or none."""
    of_front_end: bool = False
    """Whether heads read channels of the front-end, which sorting by importance does not follow."""


def _mean(trace: Trace, targets: Sequence[Tensor], subnet: Subnet, depth: int) -> Iterator[Pair]:
    """The last hidden state meets the mean of the last two thirds of the layers. Source: LightHuBERT."""
    del subnet, depth
    yield 0, trace.last, mean_of_last_two_thirds(targets)


def _layers(trace: Trace, targets: Sequence[Tensor], subnet: Subnet, depth: int) -> Iterator[Pair]:
    """Each layer meets the teacher's layer at the same relative depth of the container, through a head of its own."""
    for position, layer in enumerate(subnet.kept):
        yield layer, trace.hidden[position + 1], targets[layer_at_depth(layer, depth, len(targets))]


def _front_end(trace: Trace, targets: Sequence[Tensor], subnet: Subnet, depth: int) -> Iterator[Pair]:
    """The front-end's output meets the only target."""
    del subnet, depth
    assert trace.front_end is not None
    yield 0, trace.front_end, targets[0]


def _last(trace: Trace, targets: Sequence[Tensor], subnet: Subnet, depth: int) -> Iterator[Pair]:
    """The last hidden state scores classes."""
    del subnet, depth
    yield 0, trace.last, targets[0]


def _attention(trace: Trace, targets: Sequence[Tensor], subnet: Subnet, depth: int) -> Iterator[Pair]:
    """What each layer attends to, mean over heads, (B, T, T), meets what the teacher's at the same depth does."""
    for position, layer in enumerate(subnet.kept):
        ours = trace.probabilities[position]
        assert ours is not None
        yield layer, ours.mean(1), targets[layer_at_depth(layer, depth, len(targets))].mean(1)


MATCHINGS: dict[MatchingName, Matching] = {
    "mean": Matching("hidden", _mean),
    "layers": Matching("hidden", _layers, reads=("hidden",), heads="layers"),
    "front_end": Matching("front_end", _front_end, reads=("front_end",), of_front_end=True),
    "codes": Matching("codes", _last, ("cross_entropy",)),
    "relations": Matching("hidden", _layers, ("gram",), ("hidden",), "none"),
    "attention": Matching("probabilities", _attention, ("kl",), ("probabilities",), "none"),
    "labels": Matching("labels", _last, ("ctc",)),
}


def mean_of_last_two_thirds(layers: Sequence[Tensor]) -> Tensor:
    """Mean of the last two thirds of the layers (the last 8 of 12): LightHuBERT's target."""
    chosen = layers[len(layers) - round(2 * len(layers) / 3) :]
    return torch.stack(list(chosen)).mean(0)
