"""Hidden states as heads read them: every channel of every state standardised, layers outermost.

B clips of a batch (N of all), T frames, L hidden states, D channels of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from speech_tasks.feature_store import Clip, FeatureStore

Statistics = tuple[Tensor, Tensor]
"""Mean and deviation of every channel, each (L, D): `FeatureStore.statistics` of the training clips."""
_LARGEST = 3e4  # what half precision holds


class StatesInMemory:
    """Hidden states of some clips: standardised, in half precision, layers outermost.

    Args:
        store: Holds the clips.
        clips: N of them.
        statistics: Mean and deviation of every channel, each (L, D).
    """

    def __init__(self, store: FeatureStore, clips: Sequence[Clip], statistics: Statistics) -> None:
        mean, std = (x.unsqueeze(1) for x in statistics)  # (L, 1, D)
        self.num_frames = [clip.num_frames for clip in clips]
        *self._starts, total = accumulate(self.num_frames, initial=0)
        self._states = torch.empty(store.num_layers, total, store.dim, dtype=torch.float16)
        for clip, start in zip(clips, self._starts, strict=True):
            states = store.frames(clip).transpose(0, 1)  # (L, T, D)
            kept = ((states - mean) / std).clamp_(-_LARGEST, _LARGEST)
            self._states[:, start : start + states.shape[1]] = kept
        self._buffer = torch.empty(0)  # one for all batches: fresh memory costs more than the copy

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States of some clips, (L, B, T, D), zero where padded, until the next call; and their lengths, (B,)."""
        lengths = [self.num_frames[row] for row in rows]
        shape = len(self._states), len(rows), max(lengths), self._states.shape[2]
        if self._buffer.numel() < (size := int(np.prod(shape))):
            self._buffer = torch.empty(size)
        states = self._buffer[:size].view(shape)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self._starts[row]
            states[:, i, :length] = self._states[:, start : start + length]
            states[:, i, length:] = 0
        return states, torch.tensor(lengths)


def standardise_means(store: FeatureStore, clips: Sequence[Clip], statistics: Statistics) -> Tensor:
    """Means over the frames of each clip, (L, N, D)."""
    mean, std = (x.unsqueeze(1) for x in statistics)  # (L, 1, D)
    return (store.pooled(clips).transpose(0, 1) - mean) / std
