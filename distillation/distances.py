"""Distances: how far what a student says is from a target.

Each takes the student's (B, T, K), the target and the frames that count, (B, T) bool or None for all, and gives a sum
and the number of things it is over; their ratio is the loss, and ranks may add either up. What lies outside of the
frames decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Part = tuple[Tensor, Tensor]
"""A sum in fp32 and a count, both scalars."""
Distance = Callable[[Tensor, Tensor, Tensor | None], Part]
DistanceName = Literal["l1", "mse", "cosine", "cross_entropy", "gram", "kl", "ctc"]


def l1(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """Mean absolute difference over channels, (B, T, K), (B, T, K); over frames."""
    return _sum((student - target).abs().mean(-1), frames)


def mse(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """Mean squared difference over channels, (B, T, K), (B, T, K); over frames."""
    return _sum((student - target).square().mean(-1), frames)


def cosine(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """One minus the cosine, (B, T, K), (B, T, K); over frames."""
    return _sum(1.0 - F.cosine_similarity(student, target, dim=-1), frames)


def cross_entropy(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """Of codes (B, T) under the scores `student` (B, T, K), in nats; over frames."""
    return _sum(F.cross_entropy(student.transpose(1, 2), target, reduction="none"), frames)


def gram(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """Squared difference of the cosines between frames, (B, T, K), (B, T, L); over pairs of frames.

    The channels of the two need not be alike, so no head is needed: what is compared is which moments resemble which.
    In fp32 under autocast too, whose bf16 tells cosines near 1 apart in steps of 1 / 256.
    """
    with torch.autocast(student.device.type, enabled=False):
        units = (F.normalize(x.float(), dim=-1) for x in (student, target))
        ours, theirs = (unit @ unit.transpose(1, 2) for unit in units)
    pairs = None if frames is None else frames.unsqueeze(1) & frames.unsqueeze(2)
    return _sum((ours - theirs).square(), pairs)  # (B, T, T)


def kl(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """Divergence of the distribution `student` from `target` in nats, both (B, T, K) that add up to 1; over frames."""
    divergence = torch.xlogy(target, target) - target * student.clamp_min(torch.finfo(student.dtype).tiny).log()
    return _sum(divergence.sum(-1), frames)


def ctc(student: Tensor, target: Tensor, frames: Tensor | None) -> Part:
    """Of transcripts (B, U), -1 beyond their end, under the scores `student` (B, T, K), in nats; over symbols.

    Class 0 is the blank. The frames of each row must be its first ones. A transcript that does not fit into its frames
    adds nothing to the sum.

    Source: connectionist temporal classification (Graves et al., 2006).
    """
    batch, time, _ = student.shape
    num_frames = torch.full((batch,), time, device=student.device) if frames is None else frames.sum(1)
    num_symbols = (target >= 0).sum(1)
    scores = F.log_softmax(student, -1).transpose(0, 1)  # (T, B, K)
    losses = F.ctc_loss(scores, target.clamp_min(0), num_frames, num_symbols, reduction="none", zero_infinity=True)
    return losses.sum(), num_symbols.sum()


DISTANCES: dict[DistanceName, Distance] = {
    "l1": l1,
    "mse": mse,
    "cosine": cosine,
    "cross_entropy": cross_entropy,
    "gram": gram,
    "kl": kl,
    "ctc": ctc,
}


def _sum(values: Tensor, chosen: Tensor | None) -> Part:
    """The sum of the chosen values, and how many they are. Nothing waits for the device."""
    if chosen is None:
        return values.sum(), torch.tensor(values.numel(), device=values.device)
    return torch.where(chosen, values, 0.0).sum(), chosen.sum()
