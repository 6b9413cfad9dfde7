"""What turns speech into frames and needs no training.

B batch, S samples, T frames, d channels of a frame. An utterance's frames never depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.features import difference, hold_last_frame, log_mel, mfcc
from speech_tasks.feature_store import Encode

_NUM_MELS = 80


def _num_frames(wave: Tensor, lengths: Tensor | None) -> tuple[int, Tensor | None]:
    """T, and the valid frames of each row, (B,)."""
    counts = None if lengths is None else [count_frames(Backbone(), n) for n in lengths.tolist()]
    return count_frames(Backbone(), wave.shape[1]), None if counts is None else torch.tensor(counts, device=wave.device)


def _mfcc(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """13 coefficients and their first and second differences, (B, T, 39), with their mean: it tells speakers apart."""
    num_frames, valid = _num_frames(wave, lengths)
    return [mfcc(wave, num_frames, num_valid=valid)]


def _log_mel(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """80 log energies and their first and second differences, (B, T, 240), standardised over each utterance.

    Source: SUPERB (arXiv 2105.01051), the FBANK baseline, with our window, mel bands and frames.
    """
    num_frames, valid = _num_frames(wave, lengths)
    static = hold_last_frame(log_mel(wave, num_frames, _NUM_MELS), valid)
    first = hold_last_frame(difference(static), valid)
    x = torch.cat([static, first, difference(first)], dim=2)
    weight = torch.ones_like(x[..., :1])
    if valid is not None:
        weight = (torch.arange(num_frames, device=wave.device) < valid[:, None])[..., None].to(x)
    count = weight.sum(1, keepdim=True)
    centred = (x - (x * weight).sum(1, keepdim=True) / count) * weight
    return [centred * (centred.square().sum(1, keepdim=True) / count + 1e-5).rsqrt()]


BASELINES: Mapping[str, Encode] = {"mfcc": _mfcc, "log-mel": _log_mel}
"""What needs no training, by name; one hidden state each."""
