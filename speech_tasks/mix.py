"""Which probes stand in for the suite: the cheapest whose mean ranks encoders as the suite does.

K encoders. A mix is a plain mean of points, so nothing is fitted but the choice of its probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search_spaces.randomness import generator
from speech_tasks.intervals import bootstrap_interval

LEAST = 0.9
"""Rank correlation that a mix must keep whichever encoder is left out."""
MIN_ENCODERS = 5

Points = Mapping[str, float]
"""By encoder."""
Seconds = Mapping[str, float]
"""By what they were spent on."""


@dataclass(frozen=True)
class Mix:
    """Some probes, and how well they stand in for the suite."""

    probes: tuple[str, ...]
    seconds: float
    """Of one encoder; what several probes need, such as the hidden states of the same clips, counts once."""
    correlation: float
    """Spearman's, of the mean of the probes with the suite, over all encoders."""
    low: float
    high: float
    """95 % interval of it, by bootstrap over encoders."""
    lowest: float
    """The lowest that leaving out one encoder gives."""


def choose_mix(
    suite_points: Points,
    probe_points: Mapping[str, Points],
    probe_seconds: Mapping[str, Seconds],
    least: float = LEAST,
) -> Mix:
    """The cheapest mix that ranks as the suite does, whichever encoder is left out; of those alike, the closest.

    Args:
        suite_points: The suite's mean, more is better.
        probe_points: Of each probe, the same encoders.
        probe_seconds: Of each probe.
        least: What `Mix.lowest` must reach.

    Raises:
        ValueError: None does; says how near the nearest came. Or as `judge_mixes`.
    """
    mixes = judge_mixes(suite_points, probe_points, probe_seconds)
    good = [mix for mix in mixes if mix.lowest >= least - 1e-9]
    if not good:
        best = max(mixes, key=lambda mix: mix.lowest)
        raise ValueError(
            f"no mix of {', '.join(probe_points)} ranks {len(suite_points)} encoders as the suite does: a rank "
            f"correlation of {least:g} must be left whichever encoder is left out, and the nearest, "
            f"{' + '.join(best.probes)}, has {best.lowest:.3f}; add probes, or give them more clips"
        )
    return good[0]


def judge_mixes(
    suite_points: Points, probe_points: Mapping[str, Points], probe_seconds: Mapping[str, Seconds]
) -> list[Mix]:
    """Every mix of the probes, cheapest first; of those that cost the same, the closest to the suite first.

    Raises:
        ValueError: The encoders are too few or not those of the suite, or a number is missing or not finite.
    """
    suite, probes = _align(suite_points, probe_points, probe_seconds)
    mixes = [
        _judge(names, suite, np.mean([probes[name] for name in names], axis=0), probe_seconds)
        for size in range(1, len(probes) + 1)
        for names in combinations(probes, size)
    ]
    return sorted(mixes, key=lambda mix: (mix.seconds, -mix.correlation, len(mix.probes)))


def held_out_agreement(
    suite_points: Points,
    probe_points: Mapping[str, Points],
    probe_seconds: Mapping[str, Seconds],
    least: float = LEAST,
) -> float:
    """How well a mix ranks an encoder that did not take part in choosing it.

    Each encoder in turn is left out, a mix is chosen by the others, and the encoder is compared with each of them.

    Returns:
        Share of comparisons that go as the suite says; 0.5 is chance. A tie in either counts as half.

    Raises:
        ValueError: As `choose_mix`.
    """
    agreed = []
    for left_out in suite_points:
        seen = {name: points for name, points in suite_points.items() if name != left_out}
        probes = {name: {k: v for k, v in points.items() if k != left_out} for name, points in probe_points.items()}
        chosen = choose_mix(seen, probes, probe_seconds, least).probes
        for other in seen:
            suite = np.sign(suite_points[left_out] - suite_points[other])
            found = np.sign(sum(probe_points[name][left_out] - probe_points[name][other] for name in chosen))
            agreed.append((1 + suite * found) / 2)
    return float(np.mean(agreed))


def spearman(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rank correlation over the last axis, (..., K) twice -> (...).

    Ties share their mean rank. Where all of one side are tied it says nothing of the other, and counts as 0.
    """
    ranks = [_rank(np.asarray(side, np.float64)) for side in (x, y)]
    centred = [r - r.mean(-1, keepdims=True) for r in ranks]
    norms = [np.sqrt((r**2).sum(-1)) for r in centred]
    return np.asarray((centred[0] * centred[1]).sum(-1) / np.maximum(norms[0] * norms[1], 1e-12))


def _rank(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks over the last axis, from 0."""
    below = (x[..., None] > x[..., None, :]).sum(-1)
    alike = (x[..., None] == x[..., None, :]).sum(-1) - 1
    return np.asarray(below + alike / 2)


def _judge(
    names: tuple[str, ...],
    suite: NDArray[np.float64],
    mean: NDArray[np.float64],
    probe_seconds: Mapping[str, Seconds],
) -> Mix:
    num = len(suite)
    rng = generator("encoders of a mix", num)
    low, high = bootstrap_interval(lambda drawn: spearman(suite[drawn], mean[drawn]), num, rng)
    kept = np.array([[i for i in range(num) if i != left_out] for left_out in range(num)])
    lowest = spearman(suite[kept], mean[kept]).min()
    spent = {part: seconds for name in names for part, seconds in probe_seconds[name].items()}
    return Mix(names, sum(spent.values()), float(spearman(suite, mean)), low, high, float(lowest))


def _align(
    suite_points: Points, probe_points: Mapping[str, Points], probe_seconds: Mapping[str, Seconds]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """The points in one order of encoders: of the suite, and of each probe."""
    encoders = list(suite_points)
    if len(encoders) < MIN_ENCODERS or not probe_points:
        raise ValueError(
            f"a mix is chosen from one probe or more by {MIN_ENCODERS} encoders or more; "
            f"got {len(probe_points)} and {len(encoders)}"
        )
    if untimed := sorted(probe_points.keys() - probe_seconds.keys()):
        raise ValueError(f"a mix is chosen by its cost; the seconds of {', '.join(untimed)} are missing")
    for probe, points in probe_points.items():
        if odd := sorted(points.keys() ^ suite_points.keys()):
            raise ValueError(f"the suite and the probe `{probe}` must score the same encoders; they differ in {odd[0]}")
    rows = {name: np.array([points[e] for e in encoders]) for name, points in probe_points.items()}
    suite = np.array([suite_points[e] for e in encoders])
    if bad := [name for name, row in {"the suite": suite, **rows}.items() if not np.isfinite(row).all()]:
        raise ValueError(f"points must be finite numbers; those of {bad[0]} are not")
    return suite, rows
