"""The spectrogram that Whisper hears.

B batch, S samples, C mel bands, M frames of the spectrogram, 100 a second.

Source: Whisper (arXiv 2212.04356), section 2.2; `WhisperFeatureExtractor` of `transformers`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from search_spaces.subnet import SAMPLE_RATE_HZ

WINDOW = 400
HOP = 160
_FLOOR = 1e-10
_RANGE = 8.0
"""Powers of ten below the loudest band of all, from which on a band is as quiet as can be."""
_LINEAR_MELS = 15
"""Of Slaney's scale: from here, at 1 kHz, it grows with the logarithm."""


def log_mel_spectrogram(wave: Tensor, num_mels: int) -> Tensor:
    """Log energies in mel bands, as far below the loudest as Whisper hears.

    Frame m is of the samples [160 m, 160 m + 400), all of which there are. Whisper itself centres frame m at sample
    160 m, and mirrors the wave at its ends for that: its frames are those of the wave so extended.

    Args:
        wave: (B, S), float32, 16 kHz, at least one window.
        num_mels: C; bands from 0 to 8 kHz. 80, or 128 since large-v3.

    Returns:
        (B, C, M).
    """
    frames = wave.unfold(1, WINDOW, HOP)  # (B, M, window)
    window = torch.hann_window(WINDOW, dtype=wave.dtype, device=wave.device)
    power = torch.fft.rfft(frames * window).abs().square()  # (B, M, bins)
    bands: Tensor = (power @ mel_filters(num_mels).to(power)).clamp_min(_FLOOR).log10()  # (B, M, C)
    bands = bands.maximum(bands.amax((1, 2), keepdim=True) - _RANGE)
    return ((bands + 4.0) / 4.0).transpose(1, 2)


@lru_cache(maxsize=4)
def mel_filters(num_mels: int) -> Tensor:
    """Triangles of equal area, evenly spaced on Slaney's mel scale from 0 to 8 kHz; (bins, num_mels)."""
    mels = np.linspace(0, _LINEAR_MELS + 27 * np.log(SAMPLE_RATE_HZ / 2000) / np.log(6.4), num_mels + 2)
    growth = np.exp(np.log(6.4) / 27 * np.maximum(0, mels - _LINEAR_MELS))
    corners = np.minimum(mels, _LINEAR_MELS) * 200 / 3 * growth
    bins = np.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW // 2 + 1)[:, None]
    rising = (bins - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - bins) / np.diff(corners)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (corners[2:] - corners[:-2])
    return torch.from_numpy(triangles.astype(np.float32))
