"""Which phone is spoken in a frame, read off frozen features by a linear map.

The error counts frames, silence included. It is a sanity figure on synthesised speech, not SUPERB's phone error rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.batching import Batch, evaluation_batches
from speech_data.corpus import Corpus, Utterance
from speech_data.features import mfcc, phone_labels, stack_context
from speech_tasks.intervals import Voices, spread_of_ratio
from speech_tasks.softmax import fit_softmax
from supernet.encoder import Encoder

Encode = Callable[[Tensor, Tensor | None], Sequence[Tensor]]
"""Waveforms (B, S) and lengths (B,) -> features of every layer, each (B, T, d)."""
MAX_ITERATIONS = 60
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class Frames:
    """Labelled frames of some utterances, joined."""

    layers: tuple[Tensor, ...]
    """Features of every layer, each (N, d)."""
    labels: Tensor
    """Phone of every frame, (N,), int64."""
    utterances: NDArray[np.int64]
    """Which utterance each frame is of, (N,)."""
    first_layer: int
    """Which hidden state `layers[0]` is."""
    voices: Voices | None = None
    """Who says the utterances; without it each is taken to be by a speaker of its own."""


@dataclass(frozen=True)
class ProbeScore:
    """How well phones can be read off an encoder."""

    error: float
    """Share of wrong frames on the scored split."""
    half_interval: float
    """Half of the 95 % interval of `error`, over speakers, or over utterances where there are no two speakers."""
    layer: int
    """The layer it is of: the best on the tuning split. 0 is the input of the first Transformer layer."""
    tuning_errors: tuple[float, ...]
    """Error of every layer on the tuning split."""


class PhoneProbe:
    """The task: fit on `train`, pick the layer on `dev`, score a split.

    Args:
        corpus: A corpus with timed phones.
        split: Where the error is counted: `search` or `dev` while choosing, `test` for a final table.
        num_train: Utterances the probe is fitted on.
        num_tuning: Utterances of `dev` that pick the layer.
        num_scored: Utterances of `split`; None takes all.
        last_layers: Hidden states to try, counted from the end; None tries all.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        num_train: int = 300,
        num_tuning: int = 150,
        num_scored: int | None = None,
        last_layers: int | None = None,
    ) -> None:
        self.phones = corpus.phones
        self.last_layers = last_layers
        sizes = (("train", num_train), ("dev", num_tuning), (split, num_scored))
        self._batches = [
            list(evaluation_batches(corpus, name, batch_size=8, augment=True, max_utterances=size))
            for name, size in sizes
        ]

    def score(self, encode: Encode) -> ProbeScore:
        """Scores one frozen encoder, or any other features."""
        train, tuning, scored = (
            collect_frames(encode, batches, self.phones, self.last_layers) for batches in self._batches
        )
        return probe_phones(train, tuning, scored, len(self.phones))


def hidden_states(encoder: Encoder) -> Encode:
    """Every hidden state of an encoder, as a probe wants them."""
    return lambda wave, lengths: encoder(wave, lengths).hidden


def stacked_mfcc(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The baseline without learning: MFCC, deltas and four frames of context on either side, (B, T, 351)."""
    num_frames = count_frames(Backbone(), wave.shape[1])
    valid = None if lengths is None else torch.tensor([count_frames(Backbone(), n) for n in lengths.tolist()])
    return [stack_context(mfcc(wave, num_frames, num_valid=valid), 4, valid)]


@torch.no_grad()
def collect_frames(
    encode: Encode, batches: Iterable[Batch], inventory: Sequence[str], last_layers: int | None = None
) -> Frames:
    """Runs an encoder over whole utterances and keeps its layers (the last few) beside the phone of each frame."""
    layers: list[list[Tensor]] = []
    labels, owners = [], []
    said: list[Utterance] = []
    first_layer = 0
    for batch in batches:
        padded = bool((batch.lengths < batch.wave.shape[1]).any())
        lengths = torch.from_numpy(batch.lengths) if padded else None
        every = encode(torch.from_numpy(batch.wave), lengths)
        first_layer = max(0, len(every) - (last_layers or len(every)))
        outputs = [x.float() for x in every[first_layer:]]
        layers = layers or [[] for _ in outputs]
        for i, utterance in enumerate(batch.utterances):
            num_frames = count_frames(Backbone(), int(batch.lengths[i]))  # HuBERT's strides, as labels have
            labels.append(torch.from_numpy(phone_labels(utterance, num_frames, inventory)))
            owners.append(np.full(num_frames, len(said)))
            said.append(utterance)
            for kept, x in zip(layers, outputs, strict=True):
                kept.append(x[i, :num_frames])
    voices = Voices(tuple(u.speaker for u in said), tuple(u.id for u in said))
    return Frames(tuple(torch.cat(x) for x in layers), torch.cat(labels), np.concatenate(owners), first_layer, voices)


def fit_linear(features: Tensor, labels: Tensor, num_classes: int) -> Callable[[Tensor], Tensor]:
    """A softmax regression on standardised features, by L-BFGS from zero: (N, d), (N,) -> features to scores."""
    mean, std = features.mean(0), features.std(0).clamp_min(1e-5)
    x = (features - mean) / std
    weight, bias = fit_softmax(
        lambda: x, x.shape[1], labels, num_classes, decay=WEIGHT_DECAY, max_iterations=MAX_ITERATIONS
    )
    return lambda features: F.linear((features - mean) / std, weight, bias)


def probe_phones(train: Frames, tuning: Frames, scored: Frames, num_classes: int) -> ProbeScore:
    """Fits a probe to every layer on `train`, picks the layer on `tuning` and scores it on `scored`."""
    probes = [fit_linear(x, train.labels, num_classes) for x in train.layers]
    tuning_errors = tuple(
        float((probe(x).argmax(1) != tuning.labels).float().mean())
        for probe, x in zip(probes, tuning.layers, strict=True)
    )
    best = int(np.argmin(tuning_errors))
    wrong = (probes[best](scored.layers[best]).argmax(1) != scored.labels).numpy()
    counts = np.bincount(scored.utterances).astype(np.float64)
    tallies = np.stack([np.bincount(scored.utterances, wrong), counts], axis=1)
    voices = scored.voices or Voices((None,) * len(tallies), tuple(map(str, range(len(tallies)))))
    half_interval = spread_of_ratio("phones", tallies[None], voices).half_interval
    return ProbeScore(float(wrong.mean()), half_interval, scored.first_layer + best, tuning_errors)
