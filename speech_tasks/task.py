"""What a task is, and how sure its scores are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speech_data.batching import draw_utterances
from speech_data.corpus import SpeechCorpus, Utterance
from speech_tasks.aggregates import fitted_for
from speech_tasks.feature_store import Clip, FeatureStore, Rendition
from speech_tasks.intervals import Spread, Voices, combine, ratio, spread_of_ratio, spread_of_trials

Tallies = NDArray[np.float64]
"""(seeds, utterances, 2): what an utterance adds to a metric's numerator and to its denominator."""
IN_DOMAIN, OUT_OF_DOMAIN, ON_DEV = "in domain", "out of domain", "on dev"


@dataclass(frozen=True)
class Material:
    """The audio that a task reads."""

    corpus: SpeechCorpus
    rendition: Rendition = "noisy"
    """How an encoder hears it."""
    other: SpeechCorpus | None = None
    """A second corpus, of which only `test` is read: other voices by another synthesiser, heard `otherwise`."""
    scored: str = "test"
    """The split that scores are of; the second corpus is scored only beside `test`."""
    dev_too: bool = False
    """Whether the same heads are scored on `dev` as well, for choices that must not look at `test`."""
    tests: SpeechCorpus | None = None
    """Where `test` is drawn from, if not from `corpus`: more speakers."""

    def clips(
        self, split: str, max_utterances: int | None = None, accept: Callable[[Utterance], bool] = lambda _: True
    ) -> list[Clip]:
        """Clips of a split: at most so many, from all over it; a smaller draw is part of a larger one."""
        corpus = self.tests if self.tests and split == "test" else self.corpus
        drawn = draw_utterances(corpus, split, None)
        return [Clip(corpus, u, self.rendition) for u in drawn if accept(u)][:max_utterances]

    def other_clips(self) -> list[Clip]:
        """Clips of the second corpus; none unless `test` is scored."""
        if self.other is None or self.scored != "test":
            return []
        return [Clip(self.other, u, "otherwise") for u in draw_utterances(self.other, "test", None)]

    def scored_sets(
        self, max_utterances: int | None = None, accept: Callable[[Utterance], bool] = lambda _: True
    ) -> dict[str, list[Clip]]:
        """What is scored, by condition: the split in domain, the second corpus and `dev`, as far as they are."""
        sets = {
            IN_DOMAIN: self.clips(self.scored, max_utterances, accept),
            OUT_OF_DOMAIN: self.other_clips(),
            ON_DEV: self.clips("dev", max_utterances, accept) if self.dev_too else [],
        }
        return {condition: clips for condition, clips in sets.items() if clips}


@dataclass(frozen=True)
class Errors:
    """What each scored utterance adds to a metric, so that intervals can be made anew without scoring again."""

    voices: Voices
    """Of the utterances, in the order of the task's clips."""
    tallies: Tallies
    """Sums over utterances, divided, are the metric; for one that is no ratio of sums, at its own threshold."""


@dataclass(frozen=True)
class Score:
    """One metric of one encoder."""

    metric: str
    """A key of `aggregates.METRICS`, which says its unit and direction."""
    condition: str
    """`in domain`, `out of domain` or `on dev`."""
    value: float
    """Mean over seeds."""
    seeds: tuple[float, ...]
    """Of each seed."""
    spread: Spread
    """What chance does to it: other speakers, other seeds."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """What the sweep chose, such as the learning rate."""
    errors: Errors | None = None
    """By utterance; None for a mean of metrics."""

    @property
    def half_interval(self) -> float:
        """Half of the 95 % interval of `value`."""
        return self.spread.half_interval

    def difference(self, other: Score) -> tuple[float, float]:
        """This score less another of the same metric, and half of the 95 % interval, paired by speaker and seed."""
        return self.value - other.value, combine([(1.0, self.spread), (-1.0, other.spread)]).half_interval


class Task(Protocol):
    """Data, head and metric that score a frozen encoder."""

    @property
    def name(self) -> str:
        """What the command line calls it."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of `aggregates.METRICS`."""

    @property
    def clips(self) -> Sequence[Clip]:
        """Everything whose hidden states it will ask for."""

    def score(self, store: FeatureStore) -> list[Score]:
        """Fits heads on `train`, chooses on `search` and scores: each metric in each condition."""


def score_ratio(
    metric: str,
    condition: str,
    tallies: Tallies,
    clips: Sequence[Clip],
    *,
    scale: float = 100.0,
    settings: Mapping[str, float] | None = None,
) -> Score:
    """A metric that is a ratio of sums over utterances, such as an error rate, an accuracy or F1.

    Args:
        metric: Its name.
        condition: In or out of domain.
        tallies: (seeds, utterances, 2).
        clips: The utterances.
        scale: 100 for percent.
        settings: What the sweep chose.
    """
    voices = Voices.of(clips)
    seeds = scale * ratio(tallies.sum(1))
    spread = spread_of_ratio(fitted_for(metric), tallies, voices, scale)
    errors = Errors(voices, tallies)
    return Score(metric, condition, float(seeds.mean()), tuple(seeds.tolist()), spread, settings or {}, errors)


def score_of_trials(
    metric: str,
    condition: str,
    seeds: Sequence[float],
    measure: Callable[[int, NDArray[np.float64], NDArray[np.float64]], float],
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    speakers: Sequence[str],
    errors: Errors,
    settings: Mapping[str, float] | None = None,
    count: int | None = None,
) -> Score:
    """A metric over trials between two utterances, such as an equal error rate.

    Args:
        metric: Its name.
        condition: In or out of domain.
        seeds: The metric by each head.
        measure: A seed, how much each speaker counts and how much each trial -> the metric at its threshold.
        sides: The two speakers of each trial, as places in `speakers`.
        speakers: All of them.
        errors: By utterance.
        settings: What the sweep chose.
        count: How many of the speakers the metric can be judged by; None for all.
    """
    spread = spread_of_trials(fitted_for(metric), seeds, measure, sides, speakers, count)
    return Score(metric, condition, float(np.mean(seeds)), tuple(seeds), spread, settings or {}, errors)
