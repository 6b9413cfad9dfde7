"""How sure a number is: 95 % intervals that hold for few speakers and few heads.

Utterances of one speaker go wrong together, so what counts is how many speakers there are, not how many utterances. A
number is computed again without each speaker (the jackknife): how far it moves says what another draw of speakers
would do to it. Heads of other seeds are a second source of chance. The interval is Student's, with as many degrees of
freedom as the speakers and the seeds allow; `benchmarks/intervals.md` has what it covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from search_spaces.randomness import generator
from speech_tasks.feature_store import Clip

Floats = NDArray[np.float64]

COVERAGE = 0.95
SPEAKERS, UTTERANCES = "speakers", "utterances"
"""What an interval is over."""
LESS = 0.5
"""How much less a speaker counts, where leaving one out would make numbers of few trials jump. With next to nothing,
intervals of few speakers would be too narrow."""
NUM_GROUPS = 256
"""Of trials between two speakers: enough that a group's chance is that of its trials."""


@dataclass(frozen=True)
class Voices:
    """Who says some utterances, and so what an interval over them can be of."""

    speakers: tuple[str | None, ...]
    """Of each utterance; None where nobody knows, or nobody speaks."""
    utterances: tuple[str, ...]
    """What tells each from all others."""

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Voices:
        """Those of some clips."""
        return cls(
            tuple(clip.utterance.speaker for clip in clips),
            tuple(f"{clip.corpus.name}: {clip.utterance.id}" for clip in clips),
        )

    @cached_property
    def names(self) -> list[str]:
        """Each known speaker once, sorted."""
        return sorted({name for name in self.speakers if name is not None})

    @property
    def over(self) -> str:
        """`speakers`, or `utterances` if there are no two speakers."""
        return SPEAKERS if len(self.names) > 1 else UTTERANCES

    @property
    def reader(self) -> str | None:
        """The speaker, if but one is known."""
        return self.names[0] if len(self.names) == 1 else None

    @cached_property
    def blocks(self) -> list[str]:
        """What each utterance goes with: its speaker, or itself where its speaker is unknown or the only one."""
        alone = self.over == UTTERANCES
        return [
            own if alone or name is None else name for name, own in zip(self.speakers, self.utterances, strict=True)
        ]


@dataclass(frozen=True)
class Spread:
    """What chance does to a number. Two spreads of the same speakers and seeds are paired where they are combined."""

    moves: Mapping[str, float]
    """By block: how far the number moves without it, scaled so that the squares add up to the variance."""
    count: int
    """How many speakers (or utterances) the blocks stand for."""
    heads: Mapping[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)
    """By what was fitted and by how many seeds: how far the number of each is from their mean, scaled alike."""
    shared: Mapping[str, float] = field(default_factory=dict)
    """By group of trials between two speakers: how far the number moves without them. Their chance is in the moves of
    both speakers, so it is taken away once."""

    @property
    def of_speakers(self) -> float:
        """The variance that speakers make: at least half of the squares of their moves, if all was counted twice."""
        both = sum(move**2 for move in self.moves.values())
        return max(both - sum(move**2 for move in self.shared.values()), both / 2)

    @cached_property
    def half_interval(self) -> float:
        """Half of the 95 % interval; infinite where there is but one speaker or utterance to judge by.

        The degrees of freedom are Satterthwaite's: between those of the speakers and those of the seeds, nearer to
        those of the larger part.
        """
        parts = [(self.of_speakers, self.count - 1)]
        parts += [(sum(x**2 for x in seeds), len(seeds) - 1) for seeds in self.heads.values() if len(seeds) > 1]
        variance = sum(part for part, _ in parts)
        if self.count < 2 or not math.isfinite(variance):
            return math.inf
        if variance == 0:
            return 0.0
        return quantile(variance**2 / sum(part**2 / degrees for part, degrees in parts)) * math.sqrt(variance)


def combine(parts: Sequence[tuple[float, Spread]]) -> Spread:
    """The spread of a weighted sum of numbers, such as a difference or a mean; what one block moves, it moves in all.

    Args:
        parts: Weights and spreads, one at least.
    """
    moves: dict[str, float] = {}
    shared: dict[str, float] = {}
    heads: dict[tuple[str, int], Floats] = {}
    for weight, spread in parts:
        for total, part in ((moves, spread.moves), (shared, spread.shared)):
            for name, move in part.items():
                total[name] = total.get(name, 0.0) + weight * move
        for fitted, seeds in spread.heads.items():
            heads[fitted] = heads.get(fitted, np.zeros(len(seeds))) + weight * np.array(seeds)
    count = min(spread.count for _, spread in parts)
    return Spread(moves, count, {fitted: tuple(seeds.tolist()) for fitted, seeds in heads.items()}, shared)


def spread_of(fitted: str, seeds: ArrayLike, without: Mapping[str, ArrayLike], count: int) -> Spread:
    """The spread of a mean over seeds.

    Args:
        fitted: What the heads are for; the same for numbers that are compared.
        seeds: The number by each seed's head, (S,).
        without: By block, the same when it is left out, (S,); NaN if there is no such number.
        count: How many speakers (or utterances) the blocks stand for.
    """
    left = np.array([np.mean(np.asarray(value, np.float64)) for value in without.values()])
    moves = math.sqrt((len(left) - 1) / len(left)) * (left - left.mean())
    return spread_of_moves(fitted, seeds, dict(zip(without, moves.tolist(), strict=True)), count)


def spread_of_moves(
    fitted: str, seeds: ArrayLike, moves: Mapping[str, float], count: int, shared: Mapping[str, float] | None = None
) -> Spread:
    """The spread of a mean over seeds, given what each block moves; as `spread_of`."""
    numbers = np.asarray(seeds, np.float64)
    away = (numbers - numbers.mean()) / math.sqrt(max(len(numbers) * (len(numbers) - 1), 1))
    return Spread(moves, count, {(fitted, len(numbers)): tuple(away.tolist())}, shared or {})


def spread_of_ratio(fitted: str, tallies: Floats, voices: Voices, scale: float = 1.0) -> Spread:
    """The spread of a ratio of sums over utterances, such as an error rate.

    Args:
        fitted: As in `spread_of`.
        tallies: What each utterance adds to numerator and denominator, (S, N, 2).
        voices: Of the N utterances.
        scale: Of the ratio; 100 for percent.
    """
    names, owners = np.unique(voices.blocks, return_inverse=True)
    sums = np.stack([tallies[:, owners == i].sum(1) for i in range(len(names))], axis=1)  # (S, blocks, 2)
    total = sums.sum(1)
    whole = ratio(total)
    # Without a block that holds all of the denominator there is no number; it says nothing, and moves nothing.
    left = np.stack([ratio(total - sums[:, i], whole) for i in range(len(names))])
    judging = names[sums[:, :, 1].any(0)]
    count = len({*judging} & {*voices.names}) if voices.over == SPEAKERS else len(judging)
    return spread_of(fitted, scale * whole, dict(zip(names.tolist(), scale * left, strict=True)), count)


def ratio(sums: Floats, otherwise: ArrayLike = 0.0) -> Floats:
    """Numerators over denominators, (..., 2) -> (...); `otherwise` where there is nothing to divide by."""
    above, below = sums[..., 0], sums[..., 1]
    return np.where(below > 0, above / np.maximum(below, 1e-12), otherwise)


def spread_of_trials(
    fitted: str,
    seeds: ArrayLike,
    measure: Callable[[int, Floats, Floats], float],
    sides: tuple[NDArray[np.int64], NDArray[np.int64]],
    names: Sequence[str],
    count: int | None = None,
) -> Spread:
    """The spread of a number over trials, each between what two speakers say, or between what one says twice.

    A speaker is not left out but counts half: what few trials make up would jump.

    Args:
        fitted: As in `spread_of`.
        seeds: The number by each seed's head, (S,).
        measure: A seed, how much each speaker counts, (K,), and each trial, (N,) -> the number.
        sides: The two speakers of each trial, (N,) twice, as places in `names`.
        names: The K speakers.
        count: How many of them the number can be judged by; None for all.
    """
    size, every = len(names), range(len(np.asarray(seeds)))
    speakers, trials = np.ones(size), np.ones(len(sides[0]))
    scale = math.sqrt(size / max(size - 1, 1)) / LESS

    def move(speakers: Floats, trials: Floats) -> float:
        return scale * float(np.mean([measure(seed, speakers, trials) - whole[seed] for seed in every]))

    whole = [measure(seed, speakers, trials) for seed in every]
    moves = {name: move(speakers - LESS * (np.arange(size) == i), trials) for i, name in enumerate(names)}
    low, high = np.minimum(*sides), np.maximum(*sides)
    group = generator("groups of trials", size).permutation(size**2)[low * size + high] % NUM_GROUPS
    group[low == high] = -1  # what one speaker says twice is counted once
    shared = {f"{fitted} {i}": move(speakers, trials - LESS * (group == i)) for i in np.unique(group[group >= 0])}
    return spread_of_moves(fitted, seeds, moves, size if count is None else count, shared)


def quantile(degrees: float) -> float:
    """Student's t between whose negative and itself 95 % lie."""
    return float(stdtrit(degrees, (1 + COVERAGE) / 2))


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], ArrayLike], num: int, rng: np.random.Generator, draws: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of a number over independent things, by drawing them anew: for what has no closed form.

    Args:
        statistic: Which of them are drawn, (draws, num) -> the number in each draw, (draws,).
        num: How many things.
        rng: All randomness comes from it.
        draws: How many times.
    """
    numbers = np.asarray(statistic(rng.integers(num, size=(draws, num))), np.float64)
    low, high = np.quantile(numbers, [0.025, 0.975])
    return float(low), float(high)


def paired_interval(differences: ArrayLike) -> Floats:
    """95 % intervals of means over independent pairs: (..., N) -> (..., 2), lower and upper end.

    One lone pair has no spread: its interval is a point.
    """
    values = np.asarray(differences, np.float64)
    size, mean = values.shape[-1], values.mean(-1)
    half = quantile(size - 1) * values.std(-1, ddof=1) / math.sqrt(size) if size > 1 else np.zeros_like(mean)
    return np.stack([mean - half, mean + half], axis=-1)
