"""The objective of a stage: a sum of terms, and the heads they need."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillation.distances import DISTANCES, Part
from distillation.matchings import MATCHINGS
from distillation.sources.source import Source, Targets
from distillation.terms import Frames, Term
from search_spaces.errors import NestlingError
from search_spaces.subnet import Subnet
from supernet.encoder import Trace


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


class Objective(nn.Module):
    """A sum of terms, and the heads they need: one set for each source, tap and matching, shared by its terms.

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
        self.depth = len(container.layers)
        self.heads = nn.ModuleDict()
        self._taps = {term.heads: term.tap_in(tuple(sources[term.source].dims)) for term in terms}
        for term in terms:
            matching = MATCHINGS[term.matching]
            if matching.heads == "none" or term.heads in self.heads:
                continue
            width = container.conv_dims[-1] if matching.of_front_end else container.embed_dim
            count = self.depth if matching.heads == "layers" else 1
            dim = sources[term.source].dims[self._taps[term.heads]]
            self.heads[term.heads] = nn.ModuleList(
                Head(width, dim, 1 if matching.of_front_end else groups, generator) for _ in range(count)
            )

    @property
    def taps(self) -> tuple[str, ...]:
        """The student's taps that the terms read."""
        return tuple(sorted({tap for term in self.terms for tap in MATCHINGS[term.matching].reads}))

    def forward(
        self, trace: Trace, targets: Mapping[str, Targets], subnet: Subnet, masked: Tensor | None
    ) -> dict[str, Part]:
        """What each term adds up to, by its name; see `weigh`.

        Args:
            trace: The student's, with the taps of `taps`.
            targets: By source.
            subnet: Which subnet made the trace.
            masked: Frames the student did not see, (B, T), bool; None when it saw all.
        """
        predicted: dict[str, list[tuple[Tensor, Tensor]]] = {}
        parts: dict[str, Part] = {}
        for term in self.terms:
            if term.heads not in predicted:  # terms that differ in their distance alone share one pass of the heads
                predicted[term.heads] = self._predict(term, trace, targets[term.source], subnet)
            frames = _choose(term.frames, trace, masked)
            sums, counts = zip(
                *(DISTANCES[term.distance](student, target, frames) for student, target in predicted[term.heads]),
                strict=True,
            )
            parts[term.name] = torch.stack(sums).sum(), torch.stack(counts).sum()
        return parts

    def weigh(self, parts: Mapping[str, Part]) -> Tensor:
        """The loss, a scalar in fp32: the mean of each term, by its weight; one that counts nothing adds nothing."""
        return torch.stack([term.weight * mean(parts[term.name]) for term in self.terms]).sum()

    def reorder(self, order: Tensor) -> None:
        """Follows sorted residual channels; see `Head.reorder`."""
        of_front_end = {term.heads for term in self.terms if MATCHINGS[term.matching].of_front_end}
        for key, heads in self.heads.items():
            if key not in of_front_end:
                for head in heads:  # type: ignore[attr-defined]
                    head.reorder(order)

    def _predict(self, term: Term, trace: Trace, targets: Targets, subnet: Subnet) -> list[tuple[Tensor, Tensor]]:
        matching = MATCHINGS[term.matching]
        pairs = matching.pairs(trace, targets.taps[self._taps[term.heads]], subnet, self.depth)
        if matching.heads == "none":
            return [(student.float(), target) for _, student, target in pairs]
        heads = self.heads[term.heads]
        return [(heads[number](student).float(), target) for number, student, target in pairs]  # type: ignore[index]


def mean(part: Part) -> Tensor:
    """The mean that a sum and its count make; 0 of nothing."""
    total, count = part
    return total / count.clamp_min(1)


def _choose(frames: Frames, trace: Trace, masked: Tensor | None) -> Tensor | None:
    """Which frames count, (B, T); None for all."""
    if masked is None:
        masked = torch.zeros(trace.last.shape[:2], dtype=torch.bool, device=trace.last.device)
    match frames:
        case "all":
            return trace.valid
        case "masked":
            chosen = masked
        case "unmasked":
            chosen = ~masked
    return chosen if trace.valid is None else chosen & trace.valid
