"""Classic features and frame labels on the grid of an encoder's frames.

B batch, S samples, T frames, C features of a frame.

Frame t looks at the receptive field of the front-end's frame t; with HuBERT's (kernels 10,3,3,3,3,2,2, strides
5,2,2,2,2,2,2), unless another is named, at samples [320 t, 320 t + 400). So a feature, a label and a hidden state with
the same index are about the same 25 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ, FrameGrid
from speech_data.corpus import Utterance

HUBERT_GRID = FrameGrid()
IGNORED = -100
"""Label of a frame beyond the utterance; what `torch.nn.functional.cross_entropy` ignores."""

_FFT_SAMPLES = 512
"""Of a spectrum, unless a frame hears more."""
_PREEMPHASIS = 0.97
_FLOOR = 1e-5  # of the power in a mel band, so that digital silence is finite
_DELTA_REACH = 2


def log_mel(wave: Tensor, num_frames: int, num_mels: int = 40, grid: FrameGrid = HUBERT_GRID) -> Tensor:
    """Log energies in mel bands.

    Args:
        wave: (B, S), float32.
        num_frames: T, what the front-end makes of S samples; missing samples count as zeros.
        num_mels: C; bands from 0 to 8 kHz.
        grid: Where the front-end's frames lie.

    Returns:
        (B, T, C), natural logarithm.
    """
    needed = (num_frames - 1) * grid.hop + grid.window
    wave = F.pad(wave, (1, max(0, needed - wave.shape[1])))
    wave = wave[:, 1:] - _PREEMPHASIS * wave[:, :-1]  # (B, S)
    frames = wave[:, :needed].unfold(1, grid.window, grid.hop)  # (B, T, window)
    window = torch.hann_window(grid.window, periodic=False, dtype=wave.dtype, device=wave.device)
    fft_samples = max(_FFT_SAMPLES, grid.window)
    power = torch.fft.rfft(frames * window, fft_samples).abs().square()  # (B, T, bins)
    bands: Tensor = power @ _mel_matrix(num_mels, fft_samples).to(power)
    return bands.clamp_min(_FLOOR).log()


def mfcc(
    wave: Tensor,
    num_frames: int,
    *,
    num_valid: Tensor | None = None,
    deltas: bool = True,
    grid: FrameGrid = HUBERT_GRID,
) -> Tensor:
    """13 cepstral coefficients of 40 mel bands, and their first and second differences.

    Args:
        wave: (B, S), float32.
        num_frames: T, what the front-end makes of S samples.
        num_valid: Valid frames of each row, (B,), int64; the last one is repeated beyond. Default: all T.
        deltas: Whether to append the differences.
        grid: Where the front-end's frames lie.

    Returns:
        (B, T, 39), or (B, T, 13) without deltas.
    """
    static = log_mel(wave, num_frames, grid=grid) @ _dct_matrix(13, 40).to(wave)  # (B, T, 13)
    static = hold_last_frame(static, num_valid)
    if not deltas:
        return static
    first = hold_last_frame(difference(static), num_valid)
    return torch.cat([static, first, difference(first)], dim=2)


def stack_context(features: Tensor, context: int = 4, num_valid: Tensor | None = None) -> Tensor:
    """Each frame with its neighbours.

    Args:
        features: (B, T, C).
        context: Neighbours on either side; the first and the last valid frame are repeated beyond the ends.
        num_valid: Valid frames of each row, (B,), int64. Default: all T.

    Returns:
        (B, T, (2 context + 1) C), earliest neighbour first.
    """
    held = hold_last_frame(features, num_valid)
    padded = _repeat_ends(held, context)
    return torch.cat([padded[:, i : i + features.shape[1]] for i in range(2 * context + 1)], dim=2)


def hold_last_frame(features: Tensor, num_valid: Tensor | None) -> Tensor:
    """The features, with the last valid frame of each row repeated beyond it; (B, T, C)."""
    if num_valid is None:
        return features
    frames = torch.arange(features.shape[1], device=features.device)
    source = torch.minimum(frames, (num_valid[:, None] - 1).clamp_min(0))  # (B, T)
    return features.gather(1, source[:, :, None].expand_as(features))


def phone_labels(
    utterance: Utterance,
    num_frames: int,
    inventory: Sequence[str],
    offset: int = 0,
    grid: FrameGrid = HUBERT_GRID,
) -> NDArray[np.int64]:
    """The class of the phone at the centre of each frame.

    Args:
        utterance: With phones that tile it.
        num_frames: T.
        inventory: The phones by class, such as `corpus.phones`.
        offset: The sample of the utterance at which the first frame starts.
        grid: Where frames lie.

    Returns:
        (T,): classes, and `IGNORED` where the centre is beyond the utterance.

    Raises:
        NestlingError: The utterance has no phones, or one that the inventory lacks.
    """
    if not utterance.phones:
        raise NestlingError(f"{utterance.id} has no phone labels; only the synthesised corpus has them")
    index = {phone: i for i, phone in enumerate(inventory)}
    unknown = sorted({symbol for symbol, _, _ in utterance.phones} - index.keys())
    if unknown:
        raise NestlingError(f"{utterance.id} has phones that the inventory lacks: {', '.join(unknown)}")
    classes = np.array([index[symbol] for symbol, _, _ in utterance.phones], np.int64)
    starts = np.array([start for _, start, _ in utterance.phones])
    centres = offset + grid.hop * np.arange(num_frames) + grid.window // 2
    spoken = np.searchsorted(starts, centres / SAMPLE_RATE_HZ, side="right") - 1
    return np.where(centres < utterance.num_samples, classes[spoken], IGNORED)


def difference(features: Tensor) -> Tensor:
    """Slope of a line through the two frames on either side; (B, T, C)."""
    num_frames = features.shape[1]
    padded = _repeat_ends(features, _DELTA_REACH)
    total = torch.zeros_like(features)
    for reach in range(1, _DELTA_REACH + 1):
        ahead, behind = _DELTA_REACH + reach, _DELTA_REACH - reach
        total = total + reach * (padded[:, ahead : ahead + num_frames] - padded[:, behind : behind + num_frames])
    return total / (2 * sum(reach**2 for reach in range(1, _DELTA_REACH + 1)))


def _repeat_ends(features: Tensor, count: int) -> Tensor:
    first = features[:, :1].expand(-1, count, -1)
    last = features[:, -1:].expand(-1, count, -1)
    return torch.cat([first, features, last], dim=1)


@lru_cache(maxsize=4)
def _mel_matrix(num_mels: int, fft_samples: int) -> Tensor:
    """Triangles that meet at half height, evenly spaced in mel = 2595 log10(1 + f / 700); (bins, num_mels)."""
    top = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(fft_samples, 1 / SAMPLE_RATE_HZ)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)).astype(np.float32))


@lru_cache(maxsize=4)
def _dct_matrix(num_coefficients: int, num_mels: int) -> Tensor:
    """The first columns of the orthonormal DCT-II; (num_mels, num_coefficients)."""
    angles = np.pi / num_mels * (np.arange(num_mels)[:, None] + 0.5) * np.arange(num_coefficients)
    matrix = np.sqrt(2 / num_mels) * np.cos(angles)
    matrix[:, 0] /= np.sqrt(2)
    return torch.from_numpy(matrix.astype(np.float32))
