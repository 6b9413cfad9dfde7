"""Views: what the student and the targets see of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from search_spaces.randomness import seed_of
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch

Rendition = Literal["noisy", "clean"]


@dataclass(frozen=True)
class Seen:
    """What each side sees of one batch."""

    student: Tensor
    """(B, S)."""
    target: Tensor
    """(B, S)."""
    lengths: Tensor | None
    """Valid samples of each row, (B,); None when nothing is padded."""
    masked: Tensor | None = None
    """Frames that the student does not see, (B, T), bool; None when it sees all."""
    clean: bool = True
    """Whether what targets are computed from has no noise added."""

    def valid_frames(self, grid: FrameGrid) -> Tensor | None:
        """True where a frame comes from audio and not from padding, (B, T); None when every frame does."""
        if self.lengths is None:
            return None
        frames = torch.arange(grid.count(self.target.shape[1]), device=self.target.device)
        return frames < grid.count(self.lengths).unsqueeze(1)


class View(BaseModel):
    """A pair of input transforms: the student's and the targets'."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mask_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of frames covered by masked spans, were they not to overlap. 0 masks nothing; HuBERT uses 0.8."""
    mask_length: int = Field(default=10, ge=1)
    """Frames in one span."""
    student: Rendition = "noisy"
    """What the student hears. A user's own audio has one rendition only."""
    target: Rendition = "noisy"
    """What the targets are computed from."""

    def draw(self, batch: Batch, grid: FrameGrid, device: torch.device, *key: int | str) -> Seen:
        """What both sides see of `batch`.

        Args:
            batch: Waveforms.
            grid: Where the student's frames lie.
            device: Where tensors go.
            key: Of the randomness; each utterance adds its id. None: nothing is masked.
        """
        padded = bool((batch.lengths < batch.wave.shape[1]).any())
        masked = None
        if self.mask_share and key:
            mask = np.zeros((len(batch.wave), grid.count(batch.wave.shape[1])), dtype=bool)
            for row, count, utterance in zip(mask, grid.count(batch.lengths), batch.utterances, strict=True):
                row[:count] = draw_mask(int(count), self, np.random.default_rng(seed_of(*key, "mask", utterance.id)))
            masked = torch.from_numpy(mask).to(device)
        return Seen(
            self._hear(batch, self.student, device),
            self._hear(batch, self.target, device),
            torch.from_numpy(batch.lengths).to(device) if padded else None,
            masked,
            clean=self.target == "clean" or batch.wave is batch.clean,
        )

    @staticmethod
    def _hear(batch: Batch, rendition: Rendition, device: torch.device) -> Tensor:
        return torch.from_numpy(batch.wave if rendition == "noisy" else batch.clean).to(device)


def draw_mask(num_frames: int, view: View, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Masked frames of one utterance, (num_frames,).

    Spans start at distinct places drawn without replacement and may overlap, so fewer than `mask_share` of the frames
    are masked; the number of spans is rounded at random, so that its mean is right.

    Source: span masking of wav2vec 2.0 (arXiv 2006.11477, 3.1) with a fixed number of spans, as HuBERT uses it.
    """
    mask = np.zeros(num_frames, dtype=bool)
    length = min(view.mask_length, num_frames)
    if length == 0 or view.mask_share == 0.0:
        return mask
    starts_possible = num_frames - length + 1
    num_spans = min(int(view.mask_share * num_frames / view.mask_length + rng.random()), starts_possible)
    for start in rng.choice(starts_possible, num_spans, replace=False):
        mask[start : start + length] = True
    return mask
