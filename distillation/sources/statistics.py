"""Mean and deviation of every channel of targets, measured once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.identity import fingerprint
from supernet.weights import hash_weights


class ChannelStatistics:
    """Mean and deviation of every channel of every layer, measured once over some audio.

    Args:
        state: What `state` kept of an earlier measurement.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._count: int = state["count"] if state else 0
        self._sums: list[Tensor] = state["sums"] if state else []
        self._squares: list[Tensor] = state["squares"] if state else []

    @property
    def fingerprint(self) -> str:
        """A hash of what was measured, to the bit."""
        sums, squares = (
            hash_weights({str(i): x for i, x in enumerate(values)}) for values in (self._sums, self._squares)
        )
        return fingerprint(self._count, sums, squares)

    @property
    def state(self) -> dict[str, Any]:
        """What was measured, to the bit; nothing if nothing was."""
        return {"count": self._count, "sums": self._sums, "squares": self._squares} if self._count else {}

    def add(self, layers: Sequence[Tensor], valid: Tensor | None) -> None:
        """Counts the valid frames of one batch; layers (B, T, d)."""
        frames = [(x.flatten(0, 1) if valid is None else x[valid]).double() for x in layers]
        if not self._sums:
            self._sums = [torch.zeros_like(x[0]) for x in frames]
            self._squares = [torch.zeros_like(x[0]) for x in frames]
        self._count += len(frames[0])
        self._sums = [s + x.sum(0) for s, x in zip(self._sums, frames, strict=True)]
        self._squares = [s + x.square().sum(0) for s, x in zip(self._squares, frames, strict=True)]

    def standardize(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Layers with zero mean and unit variance in every channel.

        Raises:
            NestlingError: Nothing was measured.
        """
        if not self._count:
            raise ValueError("the channels of these targets were not measured; call calibrate first")
        out = []
        for x, total, square in zip(layers, self._sums, self._squares, strict=True):
            mean = total / self._count
            std = (square / self._count - mean.square()).clamp_min(1e-10).sqrt()
            out.append((x - mean.to(x)) / std.to(x))
        return out
