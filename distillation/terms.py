"""Terms: one weighted loss each. An objective is a sum of terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from distillation.sources import Source, mean_of_last_two_thirds
from search_spaces.errors import NestlingError
from search_spaces.subnet import Subnet
from supernet.encoder import Trace

Matching = Literal["mean", "layers", "front_end", "codes"]
Distance = Literal["l1", "mse", "cosine", "cross_entropy"]
Frames = Literal["all", "masked", "unmasked"]


class Term(BaseModel):
    """What the student predicts, from which tap, how far off it may be, on which frames, and how much it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    """Which of the stage's sources gives the targets."""
    matching: Matching
    """Which student tensor meets which target; see `MATCHINGS`."""
    distance: Distance
    frames: Frames = "all"
    weight: float = Field(1.0, gt=0)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference, (N, K), (N, K) -> scalar."""
    return F.l1_loss(predicted, target)


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference, (N, K), (N, K) -> scalar."""
    return F.mse_loss(predicted, target)


def cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine, mean over frames, (N, K), (N, K) -> scalar."""
    return 1.0 - F.cosine_similarity(predicted, target, dim=-1).mean()


def cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    """Of codes (N,) under the scores `predicted` (N, K), in nats."""
    return F.cross_entropy(predicted, target)


DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "mse": mse,
    "cosine": cosine,
    "cross_entropy": cross_entropy,
}


class Head(nn.Module):
    """A linear map from any active width to a fixed dimension; dropped after training, so never counted.

    A narrow input uses the columns of the channels it has: the first ones, within each of `groups` blocks.
    """

    def __init__(self, width: int, dim: int, groups: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, width).normal_(0.0, width**-0.5, generator=generator))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if x.shape[-1] != weight.shape[1]:
            weight = weight.unflatten(1, (self.groups, -1))[..., : x.shape[-1] // self.groups].flatten(1)
        return F.linear(x, weight, self.bias)  # (..., d) -> (..., dim)

    @torch.no_grad()
    def reorder(self, order: Tensor) -> None:
        """Follows residual channels that were sorted: channel j is now what channel `order[j]` was."""
        self.weight.copy_(self.weight[:, order])


Pair = tuple[Head, Tensor, Tensor]
"""A head, its input (B, T, k) and what it should predict, (B, T, dim) or codes (B, T)."""


def match_mean(heads: nn.ModuleList, trace: Trace, targets: list[Tensor], subnet: Subnet) -> Iterator[Pair]:
    """The last hidden state meets the mean of the last two thirds of the targets. Source: LightHuBERT."""
    del subnet
    yield heads[0], trace.last, mean_of_last_two_thirds(targets)  # type: ignore[misc]


def match_layers(heads: nn.ModuleList, trace: Trace, targets: list[Tensor], subnet: Subnet) -> Iterator[Pair]:
    """Each layer meets the teacher's layer at the same relative depth of the container, through a head of its own."""
    for position, container_layer in enumerate(subnet.kept):
        teacher_layer = round((container_layer + 1) * len(targets) / len(heads)) - 1
        yield heads[container_layer], trace.hidden[position + 1], targets[max(teacher_layer, 0)]  # type: ignore[misc]


def match_front_end(heads: nn.ModuleList, trace: Trace, targets: list[Tensor], subnet: Subnet) -> Iterator[Pair]:
    """The front-end's output meets the only target."""
    del subnet
    assert trace.front_end is not None
    yield heads[0], trace.front_end, targets[0]  # type: ignore[misc]


def match_codes(heads: nn.ModuleList, trace: Trace, targets: list[Tensor], subnet: Subnet) -> Iterator[Pair]:
    """The last hidden state scores the codes."""
    del subnet
    yield heads[0], trace.last, targets[0]  # type: ignore[misc]


MATCHINGS: dict[Matching, Callable[[nn.ModuleList, Trace, list[Tensor], Subnet], Iterator[Pair]]] = {
    "mean": match_mean,
    "layers": match_layers,
    "front_end": match_front_end,
    "codes": match_codes,
}
TAPS: dict[Matching, tuple[str, ...]] = {
    "mean": (),
    "layers": ("hidden",),
    "front_end": ("front_end",),
    "codes": (),
}


class Objective(nn.Module):
    """A sum of terms, and the heads they need: one set for each (source, matching), shared by its terms.

    Args:
        terms: The terms.
        sources: The sources they name.
        container: The largest subnet; heads have its width and its number of layers.
        groups: Blocks of the residual stream; see `Head`.
        generator: Source of the heads' fresh weights.

    Raises:
        NestlingError: A term names a source that is not there.
    """

    def __init__(
        self,
        terms: tuple[Term, ...],
        sources: Mapping[str, Source],
        container: Subnet,
        groups: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if missing := {term.source for term in terms} - set(sources):
            raise NestlingError(f"terms name the sources {sorted(missing)}; there are only {sorted(sources)}")
        self.terms = terms
        self.heads = nn.ModuleDict()
        for term in terms:
            key = self._key(term)
            if key not in self.heads:
                front_end = term.matching == "front_end"
                width = container.conv_dims[-1] if front_end else container.embed_dim
                count = len(container.layers) if term.matching == "layers" else 1
                self.heads[key] = nn.ModuleList(
                    Head(width, sources[term.source].dim, 1 if front_end else groups, generator) for _ in range(count)
                )

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps the terms need."""
        return tuple(sorted({tap for term in self.terms for tap in TAPS[term.matching]}))

    def forward(
        self, trace: Trace, targets: Mapping[str, list[Tensor]], subnet: Subnet, masked: Tensor | None
    ) -> Tensor:
        """The weighted sum, a scalar in fp32.

        Args:
            trace: The student's, with the taps of `taps`.
            targets: By source.
            subnet: Which subnet made the trace.
            masked: Frames the student did not see, (B, T), bool; None when it saw all.
        """
        total = trace.last.new_zeros((), dtype=torch.float32)
        for term in self.terms:
            frames = _frames(term.frames, trace, masked)
            if frames is not None and not frames.any():
                continue
            pairs = list(
                MATCHINGS[term.matching](self.heads[self._key(term)], trace, targets[term.source], subnet)  # type: ignore[arg-type]
            )
            for head, x, target in pairs:
                predicted = head(_select(x, frames)).float()
                total = total + term.weight / len(pairs) * DISTANCES[term.distance](predicted, _select(target, frames))
        return total

    def reorder(self, order: Tensor) -> None:
        """Follows sorted residual channels; see `Head.reorder`."""
        for key, heads in self.heads.items():
            if not key.endswith(":front_end"):
                for head in heads:  # type: ignore[attr-defined]
                    head.reorder(order)

    @staticmethod
    def _key(term: Term) -> str:
        return f"{term.source}:{term.matching}"


def _frames(frames: Frames, trace: Trace, masked: Tensor | None) -> Tensor | None:
    """Which frames count, (B, T); None for all."""
    if frames == "all" or masked is None:
        if frames == "masked":
            return torch.zeros(trace.last.shape[:2], dtype=torch.bool, device=trace.last.device)
        return trace.valid
    chosen = masked if frames == "masked" else ~masked
    return chosen if trace.valid is None else chosen & trace.valid


def _select(x: Tensor, frames: Tensor | None) -> Tensor:
    """The chosen frames of x, (B, T, ...) -> (N, ...)."""
    return x.flatten(0, 1) if frames is None else x[frames]
