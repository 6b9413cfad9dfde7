"""What a task is, and how sure its scores are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speech_data.batching import draw_utterances
from speech_data.corpus import SpeechCorpus, Utterance
from speech_data.randomness import generator
from speech_tasks.store import Clip, FeatureStore, Rendition

Tallies = NDArray[np.float64]
"""(seeds, utterances, 2): what an utterance adds to a metric's numerator and to its denominator."""
DRAWS = 400
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

    def clips(
        self, split: str, max_utterances: int | None = None, accept: Callable[[Utterance], bool] = lambda _: True
    ) -> list[Clip]:
        """Clips of a split: at most so many, from all over it; a smaller draw is part of a larger one."""
        drawn = draw_utterances(self.corpus, split, None)
        return [Clip(self.corpus, u, self.rendition) for u in drawn if accept(u)][:max_utterances]

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
    draws: NDArray[np.float64]
    """(DRAWS,): the metric on resampled utterances and seeds. Every encoder gets the same resamples, so differences
    of draws are draws of the difference."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """What the sweep chose, such as the learning rate."""

    @cached_property
    def half_interval(self) -> float:
        """Half of the 95 % interval of `value`."""
        return half_width(self.draws)

    def difference(self, other: Score) -> tuple[float, float]:
        """This score less another of the same metric, and half of the 95 % interval of that, by paired resampling."""
        return self.value - other.value, half_width(self.draws - other.draws)


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


def half_width(draws: NDArray[np.float64]) -> float:
    """Half of the distance between the 2.5 % and the 97.5 % quantile."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(high - low) / 2


def score_ratio(
    metric: str, condition: str, tallies: Tallies, *, scale: float = 100.0, settings: Mapping[str, float] | None = None
) -> Score:
    """A metric that is a ratio of sums over utterances, such as an error rate, an accuracy or F1.

    Args:
        metric: Its name.
        condition: In or out of domain.
        tallies: (seeds, utterances, 2).
        scale: 100 for percent.
        settings: What the sweep chose.
    """
    seeds = scale * tallies[:, :, 0].sum(1) / tallies[:, :, 1].sum(1)
    draws = np.empty(DRAWS)
    for i, (chosen, counts) in enumerate(_resamples(len(tallies), tallies.shape[1])):
        sums = counts @ tallies[chosen]  # (seeds, 2)
        draws[i] = scale * np.mean(sums[:, 0] / np.maximum(sums[:, 1], 1e-12))
    return Score(metric, condition, float(seeds.mean()), tuple(map(float, seeds)), draws, settings or {})


def score_resampled(
    metric: str,
    condition: str,
    measure: Callable[[int, NDArray[np.float64]], float],
    num_seeds: int,
    num_units: int,
    settings: Mapping[str, float] | None = None,
) -> Score:
    """A metric that is no ratio of sums, such as an equal error rate.

    Args:
        metric: Its name.
        condition: In or out of domain.
        measure: A seed's number and how often each unit counts, (num_units,) -> the metric.
        num_seeds: How many heads were fitted.
        num_units: What is resampled: utterances, or queries.
        settings: What the sweep chose.
    """
    seeds = tuple(measure(seed, np.ones(num_units)) for seed in range(num_seeds))
    draws = [
        float(np.mean([measure(int(seed), counts) for seed in chosen]))
        for chosen, counts in _resamples(num_seeds, num_units)
    ]
    return Score(metric, condition, float(np.mean(seeds)), seeds, np.array(draws), settings or {})


def _resamples(num_seeds: int, num_units: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Seeds drawn with replacement, and how often each unit was, (num_units,); the same for the same numbers."""
    units, heads = generator("bootstrap of units", num_units), generator("bootstrap of seeds", num_seeds)
    for _ in range(DRAWS):
        counts = np.bincount(units.integers(num_units, size=num_units), minlength=num_units).astype(np.float64)
        yield heads.integers(num_seeds, size=num_seeds), counts
