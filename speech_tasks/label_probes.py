"""Probes that read labels off a frozen encoder: phones of frames, and one label of an utterance.

The read-out is SUPERB's weighted sum with a linear map, fitted by L-BFGS instead of a sweep over learning rates.
N clips or frames, L hidden states, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from speech_data.corpus import Utterance
from speech_data.espeak import SILENCE
from speech_data.features import phone_labels
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.softmax import fit_softmax

Errors = NDArray[np.float64]
"""(N,), one number for each scored clip; their mean is a probe's error, a share."""
Label = Callable[[Utterance], str | None]

FRAME_STRIDE = 3
"""Phones are fitted on every third spoken frame: neighbours are alike."""
FRAME_DECAY, POOLED_DECAY = 1e-4, 1e-3
"""Of the squared weights, beside the mean cross-entropy; of pooled states there are fewer than weights."""
MAX_ITERATIONS = 40


class FrameProbe:
    """Which phone is spoken in a frame; silence does not count.

    Args:
        name: What it is called.
        train: Clips it is fitted on, with timed phones.
        scored: Clips it is scored on.

    Raises:
        NestlingError: An utterance has no phones, or nothing but silence.
    """

    def __init__(self, name: str, train: Sequence[Clip], scored: Sequence[Clip]) -> None:
        self.name, self.train, self.scored = name, train, scored
        self.inventory = sorted({symbol for clip in self.clips for symbol, _, _ in clip.utterance.phones})
        self._spoken = {clip.key: self._find_spoken(clip) for clip in self.clips}

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [*self.train, *self.scored]

    def errors(self, store: FeatureStore) -> Errors:
        """Share of wrong frames of each clip."""
        states, labels = [], []
        for clip in self.train:
            frames, phones = self._spoken[clip.key]
            states.append(store.frames(clip)[frames[::FRAME_STRIDE]])
            labels.append(phones[::FRAME_STRIDE])
        read = fit_reader(torch.cat(states), torch.cat(labels), len(self.inventory), FRAME_DECAY)
        wrong = []
        for clip in self.scored:
            frames, phones = self._spoken[clip.key]
            wrong.append(float((read(store.frames(clip)[frames]).argmax(1) != phones).float().mean()))
        return np.array(wrong)

    def _find_spoken(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """The frames of a clip that are no silence, and the phone of each."""
        labels = torch.from_numpy(phone_labels(clip.utterance, clip.num_frames, self.inventory, clip.first))
        silence = self.inventory.index(SILENCE) if SILENCE in self.inventory else -1
        frames = torch.nonzero((labels >= 0) & (labels != silence)).flatten()
        if not len(frames):
            raise NestlingError(f"{clip.utterance.id} is all silence; the probe `{self.name}` wants speech")
        return frames, labels[frames]


class LabelProbe:
    """One label an utterance, from the mean over time.

    Args:
        name: What it is called.
        label: The answer for an utterance.
        train: Clips it is fitted on; their labels are the classes.
        scored: Clips it is scored on.

    Raises:
        NestlingError: An utterance has no label, there is one label only, or nothing is scored.
    """

    def __init__(self, name: str, label: Label, train: Sequence[Clip], scored: Sequence[Clip]) -> None:
        self.name, self.train, self.scored = name, train, scored
        labels = {clip.key: label(clip.utterance) for clip in self.clips}
        if missing := next((clip for clip in self.clips if labels[clip.key] is None), None):
            raise NestlingError(
                f"{missing.utterance.id} has no label for the probe `{name}`; give a corpus that has it"
            )
        classes = {text: i for i, text in enumerate(sorted({str(labels[clip.key]) for clip in train}))}
        if len(classes) < 2 or not scored:
            raise NestlingError(
                f"the probe `{name}` wants two labels in `train` and a clip of `search`; "
                f"got {len(classes)} and {len(scored)}"
            )
        self.num_classes = len(classes)
        self._targets = torch.tensor([classes[str(labels[clip.key])] for clip in train])
        self._expected = torch.tensor([classes.get(str(labels[clip.key]), -1) for clip in scored])

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [*self.train, *self.scored]

    def errors(self, store: FeatureStore) -> Errors:
        """1 where the label of a clip is wrong, else 0."""
        read = fit_reader(store.pooled(self.train), self._targets, self.num_classes, POOLED_DECAY)
        return (read(store.pooled(self.scored)).argmax(1) != self._expected).double().numpy()


@dataclass(frozen=True)
class Reader:
    """A weighted sum of standardised hidden states, then a linear map: (N, L, D) -> scores of classes, (N, C)."""

    mean: Tensor
    """(L, D)."""
    scale: Tensor
    """Share of the layer over the deviation of the channel, (L, D)."""
    weight: Tensor
    """(C, D)."""
    bias: Tensor
    """(C,)."""

    def __call__(self, states: Tensor) -> Tensor:
        """Scores of classes."""
        mixed = ((states - self.mean) * self.scale).sum(1)  # (N, D)
        return F.linear(mixed, self.weight, self.bias)


def fit_reader(states: Tensor, targets: Tensor, num_classes: int, decay: float) -> Reader:
    """Fits the shares of the layers (a softmax, as SUPERB's) and a softmax regression together, from zero.

    Args:
        states: (N, L, D).
        targets: (N,), int64.
        num_classes: C.
        decay: Of the squared weights, beside the mean cross-entropy.
    """
    mean, std = states.mean(0), states.std(0).clamp_min(1e-3)  # (L, D); a store's states are about 1
    layers = ((states - mean) / std).transpose(0, 1).flatten(1)  # (L, N D): a sum of layers is one product
    shares = torch.zeros(states.shape[1], requires_grad=True)
    weight, bias = fit_softmax(
        lambda: (shares.softmax(0) @ layers).view(-1, states.shape[2]),  # (N, D)
        states.shape[2],
        targets,
        num_classes,
        decay=decay,
        max_iterations=MAX_ITERATIONS,
        inner=[shares],
    )
    return Reader(mean, shares.detach().softmax(0)[:, None] / std, weight, bias)


def take_each(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most so many clips of each speaker, the first that come."""
    taken: dict[str | None, int] = {}
    kept = []
    for clip in clips:
        speaker = clip.utterance.speaker
        taken[speaker] = taken.get(speaker, 0) + 1
        if taken[speaker] <= most:
            kept.append(clip)
    return kept
