"""Descriptors of the waveform itself, frame by frame, standardised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from distillation.sources.source import Givens, Source, Spec, Targets
from distillation.sources.statistics import ChannelStatistics
from distillation.views import Seen
from search_spaces.identity import fingerprint, hash_code
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch
from speech_data.features import log_mel, mfcc

SIGNAL_DIM = 40 + 13


class SignalSpec(Spec):
    """Log-mel energies and MFCC."""

    kind: Literal["signal"]

    @property
    def taps(self) -> tuple[str, ...]:
        """See `Spec`."""
        return ("signal",)

    def open(self, givens: Givens) -> Source:
        """See `Spec`."""
        return SignalSource(describe_signal, SIGNAL_DIM, givens.grid, givens.saved)


class SignalSource:
    """Gives the tap `signal`, one layer.

    Args:
        describe: Waveforms (B, S), a number of frames and their grid -> descriptors (B, T, F).
        dim: F.
        grid: Where the student's frames lie.
        state: What was kept of an earlier one's `state`; then nothing need be measured.
    """

    reads = frozenset({"audio"})

    def __init__(
        self,
        describe: Callable[[Tensor, int, FrameGrid], Tensor],
        dim: int,
        grid: FrameGrid,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.describe = describe
        self.dims = {"signal": dim}
        self.grid = grid
        self._statistics = ChannelStatistics(state)

    @property
    def state(self) -> dict[str, Any]:
        """The statistics."""
        return self._statistics.state

    @property
    def fingerprint(self) -> str:
        """Of the descriptors, their code, their frames, and how they are standardised."""
        code = hash_code(__name__, self.describe.__module__)
        settings = [self.describe.__qualname__, self.dims, self.grid.hop, self.grid.window]
        return fingerprint("signal", code, settings, self._statistics.fingerprint)

    def calibrate(self, batch: Batch, seen: Seen) -> None:
        """Adds one batch to the statistics."""
        del batch
        self._statistics.add(*self._layers(seen))

    def __call__(self, batch: Batch, seen: Seen) -> Targets:
        """Standardised descriptors, (B, T, F)."""
        del batch
        layers, valid = self._layers(seen)
        return Targets({"signal": self._statistics.standardize(layers)}, self.grid.rate_hz, valid)

    def _layers(self, seen: Seen) -> tuple[list[Tensor], Tensor | None]:
        num_frames = self.grid.count(seen.target.shape[1])
        return [self.describe(seen.target, num_frames, self.grid)], seen.valid_frames(self.grid)


def describe_signal(wave: Tensor, num_frames: int, grid: FrameGrid) -> Tensor:
    """Log-mel energies and MFCC of every frame, (B, S) -> (B, T, 53)."""
    energies, cepstra = log_mel(wave, num_frames, grid=grid), mfcc(wave, num_frames, deltas=False, grid=grid)
    return torch.cat([energies, cepstra], dim=-1)
