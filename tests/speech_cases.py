"""A small corpus of tones, and encoders whose hidden states are known, for the tests of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.corpus import Utterance, Waveform, check_split, refuse_test


@dataclass
class FakeCorpus:
    """Utterances given by split; each sounds like noise keyed by its id, scaled so that it can be told apart."""

    splits: Mapping[str, Sequence[Utterance]]
    name: str = "fake"
    hash: str = "0123456789abcdef"
    allow_test: bool = True
    synthesised: bool = True
    reads: list[str] = field(default_factory=list)

    def utterances(self, split: str) -> Sequence[Utterance]:
        check_split(split, self.splits)
        refuse_test(split, self.allow_test)
        return self.splits[split]

    def read(self, utterance: Utterance) -> Waveform:
        self.reads.append(utterance.id)
        seed = int.from_bytes(utterance.id.encode(), "big") % 2**32
        return (0.1 * np.random.default_rng(seed).standard_normal(utterance.num_samples)).astype(np.float32)


def spectral_states(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """Two "hidden states" that are plain functions of each 20 ms: (B, T, 8) and its square."""
    del lengths
    frames = count_frames(Backbone(), wave.shape[1])
    pieces = wave[:, : 320 * frames].reshape(len(wave), frames, 8, 40)
    first = pieces.square().mean(-1).sqrt()
    return [first, first.square()]


def utterance(name: str, num_samples: int = 8000, **labels: object) -> Utterance:
    return Utterance(name, labels.pop("speaker", "s"), num_samples, **labels)  # type: ignore[arg-type]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
