"""Views: what the student and the targets see of one batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Rendition = Literal["noisy", "clean"]


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
