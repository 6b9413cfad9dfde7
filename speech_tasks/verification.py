"""Speaker verification: whether two clips are of one voice, for voices never heard before. SUPERB's ASV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from speech_tasks.distance_probes import share_trial_errors
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan, WeightedSum, shuffled, sweep
from speech_tasks.intervals import Voices
from speech_tasks.metrics import equal_error_rate, find_equal_errors
from speech_tasks.speakers import crop, speaker
from speech_tasks.standardised_states import standardise_means
from speech_tasks.task import Errors, Material, Score, score_of_trials

PLAN = Plan(epochs=10, learning_rates=(3e-4, 1e-3, 3e-3))
BATCH = 32
PROJECTION, EMBEDDING = 256, 128
SCALE, MARGIN = 30.0, 0.4
"""Of AM-softmax."""


class Verification:
    """Equal error rate over all pairs of clips of unseen voices.

    Speakers of `search` and of the scored split who also speak in `train` are left out. Departs from SUPERB in its
    data, in all pairs as trials, in hearing only the start of each clip and in its head: that of speaker
    identification with AM-softmax, for an x-vector. The interval is over speakers, since the pairs of one speaker
    hang together.

    Args:
        material: Utterances with speakers, some of whom do not speak in `train`.
        num_train: Clips the head is fitted on.

    Raises:
        NestlingError: An utterance has no speaker, or a split has no two clips of an unseen speaker and another
            speaker.

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

        def load(clips: Sequence[Clip]) -> Tensor:
            return standardise_means(store, clips, statistics)

        states, search = load(self.train), load(self.search.clips)
        targets = torch.tensor([self.voices[speaker(clip.utterance)] for clip in self.train])
        fitted = sweep(
            PLAN,
            partial(VoiceHead, store.num_layers, store.dim, len(self.voices)),
            lambda key: shuffled(range(len(targets)), BATCH, key),
            lambda rows: (states[:, rows], targets[rows]),
            lambda head, batch: head.loss(*batch),
            lambda head: self.search.error(head(search)),
        )
        scores = []
        for condition, trials in self.scored.items():
            pooled = load(trials.clips)
            embeddings = [head(pooled) for head in fitted.heads]
            settings = {"learning rate": fitted.learning_rate}
            scores.append(score_verification(condition, trials, embeddings, settings))
        return scores


@dataclass(frozen=True)
class Trials:
    """All pairs of some clips."""

    clips: tuple[Clip, ...]

    @classmethod
    def of(cls, clips: Sequence[Clip], known: set[str], where: str) -> Trials:
        """The pairs of the clips whose speakers are not known.

        Raises:
            NestlingError: There is no pair of one speaker, or none of two.
        """
        unseen = crop([clip for clip in clips if speaker(clip.utterance) not in known])
        trials = cls(tuple(unseen))
        if len(trials.speakers) < 2 or len(trials.speakers) == len(unseen):
            raise NestlingError(
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


def score_verification(
    condition: str, trials: Trials, embeddings: Sequence[Tensor], settings: Mapping[str, float] | None = None
) -> Score:
    """The equal error rate in percent of the embeddings of each head, (N, E), and what speakers move."""
    first, second = trials.owners
    heard = [trials.compare(x) for x in embeddings]
    wrong, weights = zip(*(find_equal_errors(cosines, first == second) for cosines in heard), strict=True)
    # All trials between two speakers, or of one, count alike: they are added up once.
    size = len(trials.speakers)
    places, pair_of = np.unique(np.minimum(first, second) * size + np.maximum(first, second), return_inverse=True)
    sides = places // size, places % size
    same = sides[0] == sides[1]
    num_trials, num_wrong = np.bincount(pair_of), [np.bincount(pair_of, x) for x in wrong]

    def measure(seed: int, speakers: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
        # A speaker who counts twice is two speakers, who are not compared with each other: they would be one voice.
        counts = counts * np.where(same, speakers[sides[0]], speakers[sides[0]] * speakers[sides[1]])
        misses, false_alarms = (
            counts[kind] @ num_wrong[seed][kind] / (counts[kind] @ num_trials[kind]) for kind in (same, ~same)
        )
        return 100 * float(weights[seed] * misses + (1 - weights[seed]) * false_alarms)

    owners = np.array([trials.speakers.index(speaker(clip.utterance)) for clip in trials.clips])
    shares = [100 * share_trial_errors((x @ x.T).double().numpy(), owners) for x in embeddings]
    errors = Errors(Voices.of(trials.clips), np.stack([np.stack([x, np.ones(len(x))], axis=1) for x in shares]))
    seeds = [100 * equal_error_rate(cosines, first == second) for cosines in heard]
    # Misses are judged by who says two clips; false alarms of two speakers alone are those of one pair.
    judges = min(int(same.sum()), size if size > 2 else 1)
    return score_of_trials("EER", condition, seeds, measure, sides, trials.speakers, errors, settings, judges)


class VoiceHead(nn.Module):
    """Weighted sum, projection, mean over time, embedding: means over time (L, N, D) -> (N, EMBEDDING), of length 1.

    There is no nonlinearity before the mean, so it is taken first, as in `classification.PooledClassifier`.

    Source: AM-softmax (arXiv 1801.05599).
    """

    def __init__(self, num_layers: int, dim: int, num_voices: int) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers)
        self.project = nn.Linear(dim, PROJECTION)
        self.embed = nn.Linear(PROJECTION, EMBEDDING)
        self.voices = nn.Parameter(torch.empty(num_voices, EMBEDDING))
        nn.init.xavier_normal_(self.voices)

    def forward(self, pooled: Tensor) -> Tensor:
        """Means over time to embeddings."""
        return F.normalize(self.embed(self.project(self.sum(pooled))), dim=1)

    def loss(self, pooled: Tensor, targets: Tensor) -> Tensor:
        """AM-softmax over the voices of `train`."""
        cosines = self(pooled) @ F.normalize(self.voices, dim=1).T  # (N, voices)
        margins = MARGIN * F.one_hot(targets, len(self.voices))
        return F.cross_entropy(SCALE * (cosines - margins), targets)
