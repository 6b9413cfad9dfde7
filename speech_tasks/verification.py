"""Speaker verification: whether two clips are of one voice, for voices never heard before. SUPERB's ASV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from speech_tasks.heads import Plan, WeightedSum, shuffled, sweep
from speech_tasks.metrics import equal_error_rate
from speech_tasks.speakers import crop, speaker
from speech_tasks.states import StatesInMemory, Statistics
from speech_tasks.store import Clip, FeatureStore
from speech_tasks.task import Material, Score, score_resampled

PLAN = Plan(epochs=10, learning_rates=(1e-3, 3e-3))
BATCH = 32
PROJECTION = 64
WIDTH = 64
CONTEXTS = ((5, 1), (3, 2), (3, 3))
"""Kernel and dilation of each convolution: 15 frames in all, as the x-vector's."""
STATISTICS_WIDTH = 128
EMBEDDING = 64
SCALE, MARGIN = 30.0, 0.4
"""Of AM-softmax."""


class Verification:
    """Equal error rate over all pairs of clips of unseen voices.

    Speakers of `search` and of the scored split who also speak in `train` are left out. Departs from SUPERB in its
    data, in all pairs as trials, in an eighth of the x-vector's width and in hearing only the start of each clip. The
    interval is over speakers, since the pairs of one speaker hang together.

    Args:
        material: Utterances with speakers, some of whom do not speak in `train`.
        num_train: Clips the head is fitted on.

    Raises:
        ValueError: An utterance has no speaker, or a split has no two clips of an unseen speaker and another speaker.

    Source: SUPERB (arXiv 2105.01051), 3, ASV; scale and margin as in its reference code.
    """

    name = "verification"
    metrics = ("EER",)

    def __init__(self, material: Material, num_train: int | None = None) -> None:
        self.train = crop(material.clips("train", num_train))
        known = {speaker(clip.utterance) for clip in self.train}
        self.voices = {name: i for i, name in enumerate(sorted(known))}
        self.search = Trials.of(material.clips("search"), known, "search")
        self.scored = {
            condition: Trials.of(clips, known, condition) for condition, clips in material.scored_sets().items()
        }

    @cached_property
    def clips(self) -> list[Clip]:
        """All that it reads."""
        return [*self.train, *(clip for trials in (self.search, *self.scored.values()) for clip in trials.clips)]

    def score(self, store: FeatureStore) -> list[Score]:
        """The equal error rate in each condition."""
        statistics = store.statistics(self.train)
        states = StatesInMemory(store, self.train, statistics)
        targets = torch.tensor([self.voices[speaker(clip.utterance)] for clip in self.train])
        fitted = sweep(
            PLAN,
            partial(VoiceHead, store.num_layers, store.dim, len(self.voices)),
            lambda key: shuffled(range(len(targets)), BATCH, key),
            lambda rows: (*states.batch(rows), targets[rows]),
            lambda head, batch: head.loss(*batch),
            lambda head: self.search.error(embed(head, store, self.search.clips, statistics)),
        )
        scores = []
        for condition, trials in self.scored.items():
            heard = [trials.compare(embed(head, store, trials.clips, statistics)) for head in fitted.heads]
            settings = {"learning rate": fitted.learning_rate}
            num_speakers = len(trials.speakers)
            measure = partial(trials.error_of, heard)
            scores.append(score_resampled("EER", condition, measure, len(heard), num_speakers, settings))
        return scores


@dataclass(frozen=True)
class Trials:
    """All pairs of some clips."""

    clips: tuple[Clip, ...]

    @classmethod
    def of(cls, clips: Sequence[Clip], known: set[str], where: str) -> Trials:
        """The pairs of the clips whose speakers are not known.

        Raises:
            ValueError: There is no pair of one speaker, or none of two.
        """
        unseen = crop([clip for clip in clips if speaker(clip.utterance) not in known])
        trials = cls(tuple(unseen))
        if len(trials.speakers) < 2 or len(trials.speakers) == len(unseen):
            raise ValueError(
                f"{where} has {len(unseen)} clips of {len(trials.speakers)} speakers that train has not; speaker "
                "verification wants two such speakers at least, and two clips of one"
            )
        return trials

    @cached_property
    def speakers(self) -> list[str]:
        """Each once."""
        return sorted({speaker(clip.utterance) for clip in self.clips})

    @cached_property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The two clips of every trial."""
        first, second = np.triu_indices(len(self.clips), 1)
        return first, second

    @cached_property
    def owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The two speakers of every trial."""
        numbers = {name: i for i, name in enumerate(self.speakers)}
        owners = np.array([numbers[speaker(clip.utterance)] for clip in self.clips])
        return owners[self.pairs[0]], owners[self.pairs[1]]

    def compare(self, embeddings: Tensor) -> NDArray[np.float64]:
        """The cosine of every trial, from embeddings (N, E) of length one."""
        cosines = (embeddings @ embeddings.T).double().numpy()
        return np.asarray(cosines[self.pairs])

    def error(self, embeddings: Tensor) -> float:
        """The equal error rate, a share."""
        return equal_error_rate(self.compare(embeddings), self.owners[0] == self.owners[1])

    def error_of(self, heard: Sequence[NDArray[np.float64]], seed: int, counts: NDArray[np.float64]) -> float:
        """The equal error rate in percent of a head's cosines, given how often each speaker counts, (speakers,).

        A speaker drawn twice is two speakers, who are not compared with each other: they would be one voice. A draw
        without trials of both kinds, as of one speaker alone, happens where they are few; it counts as all of them.
        """
        first, second = self.owners
        same = first == second
        weights = np.where(same, counts[first], counts[first] * counts[second])
        if not (weights[same].any() and weights[~same].any()):
            weights = np.ones_like(weights)
        return 100 * equal_error_rate(heard[seed], same, weights)


class VoiceHead(nn.Module):
    """A small x-vector: weighted sum, projection, dilated convolutions, statistics over time, embedding.

    (L, B, T, D) and lengths (B,) -> (B, EMBEDDING), of length one.

    Source: x-vectors (Snyder et al. 2018); AM-softmax (arXiv 1801.05599).
    """

    def __init__(self, num_layers: int, dim: int, num_voices: int) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers)
        self.project = nn.Linear(dim, PROJECTION)
        widths = [PROJECTION, *[WIDTH] * len(CONTEXTS)]
        self.convs = nn.ModuleList(
            nn.Conv1d(c, d, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            for c, d, (kernel, dilation) in zip(widths, widths[1:], CONTEXTS, strict=False)
        )
        self.widen = nn.Conv1d(WIDTH, STATISTICS_WIDTH, 1)
        self.embed = nn.Linear(2 * STATISTICS_WIDTH, EMBEDDING)
        self.voices = nn.Parameter(torch.empty(num_voices, EMBEDDING))
        nn.init.xavier_normal_(self.voices)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States to embeddings; those of a clip do not depend on its padding."""
        valid = (torch.arange(states.shape[2]) < lengths.unsqueeze(1)).unsqueeze(1)  # (B, 1, T)
        x = self.project(self.sum(states)).transpose(1, 2)
        for conv in self.convs:
            x = F.relu(conv(x * valid))
        x = F.relu(self.widen(x)) * valid
        mean = x.sum(2) / lengths.unsqueeze(1)
        spread = ((x - mean.unsqueeze(2)).square() * valid).sum(2) / lengths.unsqueeze(1)
        return F.normalize(self.embed(torch.cat([mean, (spread + 1e-6).sqrt()], dim=1)), dim=1)

    def loss(self, states: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """AM-softmax over the voices of `train`."""
        cosines = self(states, lengths) @ F.normalize(self.voices, dim=1).T  # (B, voices)
        margins = MARGIN * F.one_hot(targets, len(self.voices))
        return F.cross_entropy(SCALE * (cosines - margins), targets)


@torch.no_grad()
def embed(head: VoiceHead, store: FeatureStore, clips: Sequence[Clip], statistics: Statistics) -> Tensor:
    """Embeddings of clips, (N, EMBEDDING)."""
    states = StatesInMemory(store, clips, statistics)
    rows = range(len(clips))
    return torch.cat([head(*states.batch(rows[first : first + BATCH])) for first in range(0, len(rows), BATCH)])
