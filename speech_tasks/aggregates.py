"""One number from many metrics, as SUPERB makes it: the mean in points, and the score from a bottom to a top line.

They are SUPERB's formulas on our own data; numbers made here do not compare with SUPERB's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest

FULL_SCORE = 1000.0


def _keep(value: float) -> float:
    return value


def _complement(value: float) -> float:
    return 100.0 - value


def _times_hundred(value: float) -> float:
    return 100.0 * value


@dataclass(frozen=True)
class Metric:
    """What a number means and what it is worth."""

    name: str
    task: str
    """Metrics of one task share its part of the score."""
    unit: str
    """`%`, or nothing for a plain number."""
    higher_is_better: bool
    to_points: Callable[[float], float]
    """From a value in its unit to points, of which more is better and 100 is perfect."""


def _error(name: str, task: str) -> Metric:
    return Metric(name, task, "%", False, _complement)


def _share(name: str, task: str) -> Metric:
    return Metric(name, task, "%", True, _keep)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _error("PER", "phone recognition"),
        _share("KS accuracy", "keyword spotting"),
        _share("IC accuracy", "intent classification"),
        _error("EER", "speaker verification"),
        _share("SID accuracy", "speaker identification"),
        _error("WER", "speech recognition"),
        _share("slot F1", "slot filling"),
        _error("slot CER", "slot filling"),
        Metric("MTWV", "query by example", "", True, _times_hundred),
        # SUPERB's other two, so that its published rows can be computed.
        _error("DER", "speaker diarization"),
        _share("ER accuracy", "emotion recognition"),
    )
}
"""Every metric by its name."""


def mean_of_tasks(values: Mapping[str, float]) -> float:
    """SUPERB's overall score: the mean of all metrics in points.

    Error rates count as 100 - x and MTWV as 100 x. Slot filling has two metrics and so counts twice.

    Args:
        values: By metric, those that ran; MTWV as it is (at most 1), all others in percent.

    Returns:
        Points; 100 is perfect.

    Raises:
        NestlingError: There are none, one is unknown or not finite, or one is better than perfect.

    Source: the SUPERB leaderboard; it gives HuBERT Base 80.80 from its eleven published numbers.
    """
    points = _points(values)
    return sum(points.values()) / len(points)


def fitted_for(metric: str) -> str:
    """What the heads are for whose number a metric is: its task, so two metrics of one task are of the same heads."""
    return METRICS[metric].task if metric in METRICS else metric


def points_of_one(metric: str) -> float:
    """How many points one more of a metric is: -1 for an error rate in percent, 100 for MTWV. All are proportional."""
    to_points = METRICS[metric].to_points
    return to_points(1.0) - to_points(0.0)


def score_between(values: Mapping[str, float], bottom: Mapping[str, float], top: Mapping[str, float]) -> float:
    """SUPERB's score: 0 at the bottom line, 1000 at the top line, the mean over tasks.

    A task's part is 1000 (s - s_bottom) / (s_top - s_bottom); one with two metrics counts as the mean of its two.
    It goes below 0 and above 1000 where an encoder is worse than the bottom line or better than the top line.

    Args:
        values: By metric, as in `mean_of_tasks`.
        bottom: The same metrics of the bottom line; SUPERB's is FBANK.
        top: The same metrics of the top line; SUPERB's is the best known system in each.

    Returns:
        The score.

    Raises:
        NestlingError: A metric is missing in one of the three, is not as `mean_of_tasks` asks, or the top line is not
            better than the bottom line in it.

    Source: SUPERB at SLT 2022 (arXiv 2210.08634), SUPERB_s.
    """
    rows = {"values": values, "bottom": bottom, "top": top}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    gaps = [
        f"{row} lacks {', '.join(missing)}" for row in rows if (missing := [n for n in names if n not in rows[row]])
    ]
    if gaps:
        raise NestlingError(
            f"a score needs the same metrics in all three rows; {'; '.join(gaps)}; measure or drop them"
        )
    reached, low, high = _points(values), _points(bottom), _points(top)
    if flat := [f"{name} ({bottom[name]:g} and {top[name]:g})" for name in names if high[name] <= low[name]]:
        raise NestlingError(
            f"the top line must be better than the bottom line in every metric; it is not in {', '.join(flat)}: "
            "take another line or drop the metric"
        )
    tasks: dict[str, list[float]] = {}
    for name in names:
        share = (reached[name] - low[name]) / (high[name] - low[name])
        tasks.setdefault(METRICS[name].task, []).append(FULL_SCORE * share)
    return sum(sum(parts) / len(parts) for parts in tasks.values()) / len(tasks)


def _points(values: Mapping[str, float]) -> dict[str, float]:
    """Every metric in points."""
    if not values:
        raise NestlingError(f"an aggregate needs at least one metric, got none; it takes {', '.join(METRICS)}")
    points = {}
    for name, value in values.items():
        if name not in METRICS:
            raise NestlingError(f"no metric `{name}`; {suggest(name, METRICS)}")
        points[name] = METRICS[name].to_points(value)
        if not math.isfinite(value):
            raise NestlingError(f"{name} must be a finite number, got {value}; drop it or measure it again")
        if points[name] > 100 + 1e-6:
            raise NestlingError(
                f"{name}={value:g} is better than perfect; MTWV is at most 1 and all other metrics are percentages"
            )
    return points
