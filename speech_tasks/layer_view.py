"""What each hidden state of an encoder knows, and which hidden states of two encoders are alike.

N utterances (or frames), T frames of one, L hidden states, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.randomness import generator
from speech_data.corpus import Utterance
from speech_data.features import phone_labels
from speech_data.grammar import NO_INTENT
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.phone_probe import fit_linear
from speech_tasks.task import Material, score_ratio

NUM_TRAIN, NUM_SCORED = 220, 100
NUM_SPEAKERS = 20
"""Few, so that each is heard often enough to be learnt from `NUM_TRAIN` clips."""
NUM_TRAIN_COMMANDS, NUM_SCORED_COMMANDS = 280, 120
FRAME_STRIDE = 4
"""The phone probe is fitted on every fourth frame: neighbours are alike."""
MAX_FRAMES = 4000
"""That two encoders are compared on."""

Label = Callable[[Utterance], str | None]


@dataclass(frozen=True)
class ProbeErrors:
    """What one kind of label costs to read off each hidden state."""

    label: str
    """`phone`, `intent` or `speaker`."""
    errors: tuple[float, ...]
    """Of each hidden state, in percent; the first is the input of the first layer."""
    half_intervals: tuple[float, ...]
    """Half of the 95 % interval of each, over speakers."""
    chance: float
    """Error of always saying the most frequent label, in percent."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "label": self.label,
            "errors": list(self.errors),
            "half_intervals": list(self.half_intervals),
            "chance": self.chance,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeErrors:
        """The errors that `to_dict` wrote."""
        return cls(values["label"], tuple(values["errors"]), tuple(values["half_intervals"]), values["chance"])


@dataclass(frozen=True)
class LayerView:
    """What the hidden states of an encoder know, and which of another encoder's they are like."""

    probes: tuple[ProbeErrors, ...]
    likeness: NDArray[np.float64] | None = None
    """CKA, (its hidden states, the other's); None if it was compared with none."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        likeness = None if self.likeness is None else self.likeness.round(4).tolist()
        return {"probes": [errors.to_dict() for errors in self.probes], "likeness": likeness}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerView:
        """The view that `to_dict` wrote."""
        likeness = None if values["likeness"] is None else np.array(values["likeness"])
        return cls(tuple(map(ProbeErrors.from_dict, values["probes"])), likeness)


class LayerProbe:
    """Linear probes of every hidden state, fitted alike: for phones, for intents and for speakers.

    It looks, it does not rank: nothing is chosen and little audio is read. Phones are read off frames, speakers off
    the mean over time, intents off the means of the beginning, the middle and the end. Phones and intents are scored
    on the scored split, with other voices; speakers on other utterances of `train`, the only split with their voices.
    What the audio has no labels for, or but one clip to score, is left out.

    Args:
        material: Sentences.
        commands: What intents are read off; default: the sentences that have one.
        scale: Clips over the usual number.
    """

    name = "layers"

    def __init__(self, material: Material, commands: Material | None = None, *, scale: float = 1.0) -> None:
        def most(usual: int) -> int:
            return max(1, round(usual * scale))

        drawn = material.clips("train")
        speakers = list(dict.fromkeys(clip.utterance.speaker for clip in drawn))[:NUM_SPEAKERS]
        heard = [clip for clip in drawn if clip.utterance.speaker in speakers]
        self.train, heard = heard[: most(NUM_TRAIN)], heard[most(NUM_TRAIN) :]
        self.same_speakers = heard[: most(NUM_SCORED)]
        self.scored = material.clips(material.scored, most(NUM_SCORED))
        commands = commands or material
        self.commands = commands.clips("train", most(NUM_TRAIN_COMMANDS), _is_command)
        self.scored_commands = commands.clips(commands.scored, most(NUM_SCORED_COMMANDS), _is_command)

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them; some serve twice."""
        return [*self.train, *self.same_speakers, *self.scored, *self.commands, *self.scored_commands]

    def probe(self, store: FeatureStore) -> list[ProbeErrors]:
        """The errors of every kind of label that the audio has."""

        def thirds(clips: Sequence[Clip]) -> Tensor:
            parts = (store.frames(clip).tensor_split(3) for clip in clips)
            return torch.stack([torch.cat([part.mean(0) for part in three], dim=1) for three in parts])  # (N, L, 3 D)

        found = (
            self._probe_phones(store),
            _probe_labels("intent", lambda u: u.intent, thirds, self.commands, self.scored_commands),
            _probe_labels("speaker", lambda u: u.speaker, store.pooled, self.train, self.same_speakers),
        )
        return [errors for errors in found if errors]

    def sample(self, store: FeatureStore, max_frames: int = MAX_FRAMES) -> Tensor:
        """Hidden states of the same frames for every encoder, from all over the scored clips, (L, N, D)."""
        frames = torch.cat([store.frames(clip) for clip in self.scored])  # (N, L, D)
        rows = generator("frames to compare", len(frames)).permutation(len(frames))[:max_frames]
        return frames[np.sort(rows)].transpose(0, 1).contiguous()

    def _probe_phones(self, store: FeatureStore) -> ProbeErrors | None:
        if not all(clip.utterance.phones for clip in (*self.train, *self.scored)):
            return None
        spans = (span for clip in (*self.train, *self.scored) for span in clip.utterance.phones)
        inventory = sorted({symbol for symbol, _, _ in spans})

        def labels(clips: Sequence[Clip]) -> list[NDArray[np.int64]]:
            return [phone_labels(clip.utterance, clip.num_frames, inventory) for clip in clips]

        targets, expected = torch.from_numpy(np.concatenate(labels(self.train))), labels(self.scored)
        owners = np.repeat(np.arange(len(expected)), [len(x) for x in expected])
        inputs = torch.cat([store.frames(clip) for clip in self.train])  # (N, L, D)
        scored = torch.cat([store.frames(clip) for clip in self.scored])
        fitted = slice(None, None, FRAME_STRIDE)
        return _describe(
            "phone",
            [
                fit_linear(inputs[fitted, i], targets[fitted], len(inventory))(scored[:, i]).argmax(1).numpy()
                for i in range(store.num_layers)
            ],
            np.concatenate(expected),
            owners,
            self.scored,
        )


def _is_command(utterance: Utterance) -> bool:
    """Whether it has an intent; sentences without would be the largest class by far."""
    return utterance.intent not in (None, NO_INTENT)


def _probe_labels(
    name: str, label: Label, features: Callable[[Sequence[Clip]], Tensor], train: Sequence[Clip], scored: Sequence[Clip]
) -> ProbeErrors | None:
    """Reads one label an utterance off features of it, (N, L, D) in all."""
    labels = [[label(clip.utterance) for clip in clips] for clips in (train, scored)]
    classes = {text: i for i, text in enumerate(sorted(set(map(str, labels[0]))))}
    if None in (*labels[0], *labels[1]) or len(classes) < 2 or not scored:
        return None
    targets, expected = (np.array([classes.get(str(text), -1) for text in texts]) for texts in labels)
    inputs, others = features(train), features(scored)
    found = [
        fit_linear(inputs[:, i], torch.from_numpy(targets), len(classes))(others[:, i]).argmax(1).numpy()
        for i in range(inputs.shape[1])
    ]
    return _describe(name, found, expected, np.arange(len(expected)), scored)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """How alike two representations of the same frames are: 1 if one is the other rotated, scaled and shifted.

    Args:
        x: (N, D), N frames.
        y: (N, E), the same frames.

    Returns:
        0 to 1. Unrelated noise gives about D E / sqrt((N + D) D (N + E) E), not 0: take many more frames than channels.

    Raises:
        ValueError: They are not of equally many frames, or one of them is constant.

    Source: Kornblith et al. (arXiv 1905.00414), linear CKA in feature space, with HSIC's biased estimator.
    """
    if len(x) != len(y):
        raise ValueError(f"CKA compares the same frames; got {len(x)} of one and {len(y)} of the other")
    x, y = x - x.mean(0), y - y.mean(0)
    norms = (x.T @ x).norm() * (y.T @ y).norm()
    if norms == 0:
        raise ValueError("CKA wants frames that differ; got a constant representation")
    return float((y.T @ x).square().sum() / norms)


def compare_layers(ours: Tensor, theirs: Tensor) -> NDArray[np.float64]:
    """CKA of every hidden state of one encoder with every one of another, (L, M).

    Args:
        ours: (L, N, D).
        theirs: (M, N, E), the same frames.
    """
    return np.array([[linear_cka(x, y) for y in theirs] for x in ours])


def _describe(
    label: str,
    found: Sequence[NDArray[np.int64]],
    expected: NDArray[np.int64],
    owners: NDArray[np.int64],
    clips: Sequence[Clip],
) -> ProbeErrors | None:
    """Errors of each hidden state: labels found and expected, (N,), and which of the clips each is of, (N,).

    None of a single clip, which says nothing of chance.
    """
    if len(clips) < 2:
        return None
    counts = np.bincount(owners).astype(np.float64)
    scores = [
        score_ratio(label, "", np.stack([np.bincount(owners, labels != expected), counts], axis=1)[None], clips)
        for labels in found
    ]
    chance = 100 * (1 - float(np.bincount(expected[expected >= 0]).max(initial=0)) / len(expected))
    return ProbeErrors(label, tuple(s.value for s in scores), tuple(s.half_interval for s in scores), chance)
