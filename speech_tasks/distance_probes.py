"""Probes that compare: whether two clips are of one voice, and whether two pieces are the same word.

N clips, M words, L hidden states, D channels, E = 2 D numbers that describe a voice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.features import HUBERT_GRID
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.label_probes import Errors
from speech_tasks.metrics import equal_error_rate

SHRINKAGES = (0.1, 0.3, 0.7)
"""Shares of a round covariance that are tried."""
NUM_FOLDS = 2
"""Settings are chosen on one voice in so many, which a first fit did not hear."""
MIN_WORD_SECONDS, MIN_WORD_LETTERS = 0.2, 4
"""Shorter words say little, or are said in every sentence."""
WORD_FRAMES = 8
"""Frames of a word that are compared, evenly spaced from its beginning to its end."""


class VoiceProbe:
    """Whether two clips are of the same voice, for voices not heard before.

    A clip is described by mean and deviation of each channel over time. Voices of `train` say how one voice varies;
    that covariance, shrunk, is made round, and clips are compared by cosine. Hidden state and shrinkage are chosen on
    voices of `train` that were held out. There is no network as in the task.

    Args:
        name: What it is called.
        train: Clips of known voices.
        scored: Clips of other voices; all pairs of them are trials.

    Raises:
        NestlingError: A voice is missing or occurs on both sides, or there are too few.
    """

    def __init__(self, name: str, train: Sequence[Clip], scored: Sequence[Clip]) -> None:
        self.name, self.train, self.scored = name, train, scored
        self._voices, self._others = _number_voices(name, train, 2 * NUM_FOLDS), _number_voices(name, scored, 2)
        if shared := {clip.utterance.speaker for clip in train} & {clip.utterance.speaker for clip in scored}:
            raise NestlingError(
                f"the probe `{name}` wants other voices in `search`; {min(map(str, shared))} is in both"
            )
        self._held = self._voices % NUM_FOLDS == 0

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [*self.train, *self.scored]

    def errors(self, store: FeatureStore) -> Errors:
        """What each clip adds to the equal error rate."""
        known, others = (_describe_voices(store, clips) for clips in (self.train, self.scored))  # (L, N, E)
        layer, shrinkage = self._choose(known)
        compare = fit_voices(known[layer], self._voices)
        return share_trial_errors(compare(others[layer], shrinkage).numpy(), self._others.numpy())

    def _choose(self, known: Tensor) -> tuple[int, float]:
        """The hidden state and the shrinkage with the least equal error rate on the voices held out."""
        held, rates = self._held, {}
        same, pairs = _pair(self._voices[held].numpy())
        for layer, x in enumerate(known):
            compare = fit_voices(x[~held], self._voices[~held])
            for shrinkage in SHRINKAGES:
                rates[layer, shrinkage] = equal_error_rate(compare(x[held], shrinkage).numpy()[pairs], same)
        return min(rates, key=lambda setting: rates[setting])


class WordProbe:
    """Whether two pieces of different speakers are the same word, without any training.

    Each word looks for its like among the words of all other speakers, by cosine; the error is 1 - average precision.
    The hidden state is chosen on `train`. A cheap stand-in for query by example.

    Args:
        name: What it is called.
        train: Clips that choose, with timed words.
        search: Clips that are scored, if they hold a word that another speaker says too.

    Raises:
        NestlingError: Either has no such word.

    Source: same-different word discrimination (Carlin et al. 2011), on evenly spaced frames (Levin et al. 2013).
    """

    def __init__(self, name: str, train: Sequence[Clip], search: Sequence[Clip]) -> None:
        self.name, self.train, self._search = name, train, search
        self._known, self._words = (_find_words(name, clips) for clips in (train, search))
        self.scored: Sequence[Clip] = [search[i] for i in np.unique(self._words.owners)]

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [*self.train, *self._search]

    def errors(self, store: FeatureStore) -> Errors:
        """1 - average precision, the mean over the words of each clip."""
        statistics = store.statistics(self.train)
        known = self._known.score(store, self.train, statistics)  # (L, M)
        layer = int(known.mean(1).argmax())
        found = self._words.score(store, self._search, statistics)[layer]
        counts = np.bincount(self._words.owners)
        heard = counts > 0
        return np.asarray(np.bincount(self._words.owners, 1 - found)[heard] / counts[heard])


@dataclass(frozen=True)
class Words:
    """The words of some clips that more than one speaker says, M of them, clip by clip."""

    owners: NDArray[np.int64]
    """Which clip each is of, (M,)."""
    frames: NDArray[np.int64]
    """(M, WORD_FRAMES), of that clip."""
    relevant: NDArray[np.bool_]
    """(M, M): the same word by another speaker."""
    others: NDArray[np.bool_]
    """(M, M): any word by another speaker."""

    def score(self, store: FeatureStore, clips: Sequence[Clip], statistics: tuple[Tensor, Tensor]) -> Errors:
        """Average precision in each hidden state, (L, M)."""
        mean, std = statistics  # (L, D)
        pieces = []
        for i in np.unique(self.owners):
            states = (store.frames(clips[i]) - mean) / std
            pieces.append(states[torch.from_numpy(self.frames[self.owners == i])])  # (words, WORD_FRAMES, L, D)
        vectors = F.normalize(torch.cat(pieces).permute(2, 0, 1, 3).flatten(2), dim=2)  # (L, M, WORD_FRAMES D)
        return np.stack([average_precision((x @ x.T).numpy(), self.relevant, self.others) for x in vectors])


def fit_voices(x: Tensor, voices: Tensor) -> VoiceComparison:
    """Learns how a voice varies from clip to clip.

    Args:
        x: (N, E).
        voices: Whose each clip is, (N,), int64 from 0; some may be missing.
    """
    mean, std = x.mean(0), x.std(0).clamp_min(1e-3)
    x = (x - mean) / std
    counts = torch.bincount(voices).clamp_min(1).to(x)
    centres = torch.zeros(len(counts), x.shape[1]).index_add(0, voices, x) / counts[:, None]
    _, values, basis = torch.linalg.svd(x - centres[voices], full_matrices=False)  # (k,), (k, E)
    return VoiceComparison(mean, std, values.square() / len(x), basis)


@dataclass(frozen=True)
class VoiceComparison:
    """Cosines of clips in a space where a voice varies equally in all directions."""

    mean: Tensor
    """(E,)."""
    std: Tensor
    """(E,)."""
    variances: Tensor
    """Within a voice, along each direction, (k,)."""
    basis: Tensor
    """The directions, (k, E); nothing varies along all others."""

    def __call__(self, x: Tensor, shrinkage: float) -> Tensor:
        """Similarities of clips (N, E) with each other, (N, N)."""
        x = (x - self.mean) / self.std
        level = shrinkage * self.variances.sum().clamp_min(1e-6) / x.shape[1]
        gain = ((1 - shrinkage) * self.variances + level).rsqrt() - level.rsqrt()
        x = F.normalize(x * level.rsqrt() + (x @ self.basis.T * gain) @ self.basis, dim=1)
        return x @ x.T


def share_trial_errors(scores: Errors, voices: NDArray[np.int64]) -> Errors:
    """What each clip adds to the equal error rate: its trials' misses and false alarms at the common threshold.

    Args:
        scores: Similarities, (N, N), symmetric.
        voices: (N,).

    Returns:
        (N,); their mean is that of the two rates at the threshold where they are closest.
    """
    same, pairs = _pair(voices)
    trials = scores[pairs]
    order = np.argsort(-trials, kind="stable")
    missed = 1 - np.cumsum(same[order]) / same.sum()
    accepted = np.cumsum(~same[order]) / (~same).sum()
    last = int(np.argmin(np.abs(missed - accepted)))
    wrong = (trials >= trials[order[last]]) != same
    weight = np.where(same, 1 / same.sum(), 1 / (~same).sum()) / 2 * wrong
    rows = (np.bincount(side, weight, len(voices)) for side in pairs)  # each side of a trial answers for half of it
    return np.asarray(len(voices) / 2 * sum(rows))


def average_precision(scores: Errors, relevant: NDArray[np.bool_], others: NDArray[np.bool_]) -> Errors:
    """Of each row, how far up its relevant columns come when `others` are sorted by score, (M,)."""
    order = np.argsort(-np.where(others, scores, -np.inf), axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, 1)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    return np.asarray((hits * precision).sum(1) / hits.sum(1))


def _number_voices(name: str, clips: Sequence[Clip], least: int) -> Tensor:
    """Whose each clip is, (N,), in the order in which voices occur."""
    speakers = [clip.utterance.speaker for clip in clips]
    if None in speakers:
        raise NestlingError(f"{clips[speakers.index(None)].utterance.id} has no speaker; the probe `{name}` wants one")
    order = {speaker: i for i, speaker in enumerate(dict.fromkeys(speakers))}
    voices = torch.tensor([order[speaker] for speaker in speakers], dtype=torch.int64)
    if not least <= len(order) <= len(clips) / 2:
        raise NestlingError(
            f"the probe `{name}` wants {least} voices and two clips of each; got {len(order)} in {len(clips)} clips"
        )
    return voices


def _describe_voices(store: FeatureStore, clips: Sequence[Clip]) -> Tensor:
    """Mean and deviation of each channel over the frames of each clip, (L, N, E)."""
    return torch.stack([torch.cat(store.statistics([clip]), dim=1) for clip in clips], dim=1)


def _pair(voices: NDArray[np.int64]) -> tuple[NDArray[np.bool_], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """All pairs of clips: whether they are of one voice, and the two clips."""
    pairs = np.triu_indices(len(voices), 1)
    return voices[pairs[0]] == voices[pairs[1]], pairs


def _find_words(name: str, clips: Sequence[Clip]) -> Words:
    """The words that two speakers or more say, clip by clip."""
    found = [
        (word, str(clip.utterance.speaker or clip.utterance.id), i, _space_frames(start, end, clip))
        for i, clip in enumerate(clips)
        for word, start, end in clip.utterance.words
        if end - start >= MIN_WORD_SECONDS and len(word) >= MIN_WORD_LETTERS
    ]
    said_by: dict[str, set[str]] = {}
    for word, speaker, _, _ in found:
        said_by.setdefault(word, set()).add(speaker)
    found = [entry for entry in found if len(said_by[entry[0]]) > 1]
    if not found:
        raise NestlingError(f"the probe `{name}` wants timed words that two speakers say; {len(clips)} clips have none")
    words, speakers, owners, frames = (np.array(column) for column in zip(*found, strict=True))
    others = speakers[:, None] != speakers
    return Words(owners, frames, others & (words[:, None] == words), others)


def _space_frames(start: float, end: float, clip: Clip) -> NDArray[np.int64]:
    """Frames of a clip that look at evenly spaced moments from `start` to `end`, in seconds of the utterance."""
    centres = np.linspace(start, end, WORD_FRAMES) * SAMPLE_RATE_HZ - clip.first - HUBERT_GRID.window / 2
    return np.clip(np.round(centres / HUBERT_GRID.hop), 0, clip.num_frames - 1).astype(np.int64)
