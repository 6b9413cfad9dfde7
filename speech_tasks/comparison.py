"""Several encoders side by side: which differences are real, and one number for each.

A difference is real if it exceeds half of the 95 % interval of the paired difference: all encoders are scored on the
same resampled utterances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

import numpy as np

from search_spaces.errors import NestlingError
from speech_tasks.aggregates import METRICS, Metric, mean_of_tasks, score_between
from speech_tasks.suite import TASKS, Evaluation
from speech_tasks.task import IN_DOMAIN, ON_DEV, OUT_OF_DOMAIN, Score

MEAN = "mean of tasks"
MEAN_OF_TASKS = Metric(MEAN, "all", "points", True, lambda points: points)
CONDITIONS = (IN_DOMAIN, OUT_OF_DOMAIN, ON_DEV)
BOTTOM_LINE = "log-mel"
"""The encoder that scores 0; the reference scores 1000."""

Verdict = Literal["", "better", "worse"]


@dataclass(frozen=True)
class Entry:
    """An encoder of a comparison."""

    name: str
    """What tables call it; unique in a comparison."""
    source: str
    """What it was opened by."""
    fingerprint: str
    params: int | None
    macs_1s: int | None
    """Multiply-accumulates for 1 s of audio."""
    evaluation: Evaluation


@dataclass(frozen=True)
class Cell:
    """A score beside the reference's."""

    score: Score
    difference: float | None = None
    """This less the reference's; None for the reference itself."""
    half_interval: float | None = None
    """Of the paired difference, 95 %."""
    verdict: Verdict = ""
    """Whether the difference is real, and which way; empty if it is not."""


class Comparison:
    """Encoders that were scored by the same tasks.

    Args:
        entries: In the order of rows.
        reference: Name or source of the one that the others are compared with. Default: the first.

    Raises:
        NestlingError: There is no such encoder; or scores of a task are of different code or audio.
    """

    def __init__(self, entries: Sequence[Entry], reference: str | None = None) -> None:
        if unlike := find_unlike(entries):
            raise NestlingError(
                f"only scores of the same code, libraries and audio compare, and {'; '.join(map(str, unlike))}; "
                f"evaluate these encoders again, in one command"
            )
        self.entries = tuple(entries)
        self.reference = self.entries[find_reference([(e.name, e.source) for e in entries], reference)]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """All that were measured, in the order of the suite's tasks."""
        order = {task: i for i, task in enumerate(TASKS)}
        results = [result for entry in self.entries for result in entry.evaluation.results]
        results.sort(key=lambda result: order.get(result.task, len(order)))
        return tuple(dict.fromkeys(score.metric for result in results for score in result.scores))

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """In domain, and out of domain if anything was scored there."""
        found = {score.condition for entry in self.entries for score in entry.evaluation.scores}
        return tuple(condition for condition in CONDITIONS if condition in found)

    @property
    def caveat(self) -> str:
        """What must be said beside the numbers."""
        if any(result.synthesised for entry in self.entries for result in entry.evaluation.results):
            return "Synthesised speech: never SUPERB."
        return "Splits, sizes and heads of our own: never SUPERB."

    def cell(self, entry: Entry, metric: str, condition: str) -> Cell | None:
        """A score beside the reference's; `MEAN` is a metric too. None where it was not measured."""
        score, base = (self._find(e, metric, condition) for e in (entry, self.reference))
        if score is None or base is None or entry is self.reference:
            return Cell(score) if score else None
        difference, half = score.difference(base)
        if abs(difference) <= half:
            return Cell(score, difference, half)
        better = (difference > 0) == describe_metric(metric).higher_is_better
        return Cell(score, difference, half, "better" if better else "worse")

    def counted(self, condition: str) -> tuple[str, ...]:
        """The metrics of a condition that the mean is over: those that all encoders have."""

        def has(entry: Entry, metric: str) -> bool:
            score = entry.evaluation.find(metric, condition)
            return score is not None and math.isfinite(score.value)

        return tuple(m for m in self.metrics if m in METRICS and all(has(e, m) for e in self.entries))

    def score(self, entry: Entry, condition: str) -> float | None:
        """The score from the bottom line, 0, to the reference, 1000.

        None unless both lines are among the encoders and the reference is better in every metric.
        """
        bottom = next((e for e in self.entries if e.source == BOTTOM_LINE), None)
        if bottom is None or bottom is self.reference:
            return None
        try:
            return score_between(*(self._values(e, condition) for e in (entry, bottom, self.reference)))
        except ValueError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the resamples."""
        return {
            "reference": self.reference.name,
            "metrics": {
                name: {"unit": m.unit, "higher_is_better": m.higher_is_better}
                for name in (*self.metrics, MEAN)
                for m in [describe_metric(name)]
            },
            "mean_is_over": {condition: list(self.counted(condition)) for condition in self.conditions},
            "encoders": [self._describe(entry) for entry in self.entries],
        }

    def _describe(self, entry: Entry) -> dict[str, Any]:
        cells = [self.cell(entry, m, c) for c in self.conditions for m in (*self.metrics, MEAN)]
        return {
            "name": entry.name,
            "source": entry.source,
            "fingerprint": entry.fingerprint,
            "params": entry.params,
            "macs_1s": entry.macs_1s,
            "encode_seconds": entry.evaluation.encode_seconds,
            "task_seconds": entry.evaluation.task_seconds,
            "scores": [
                {
                    "metric": cell.score.metric,
                    "condition": cell.score.condition,
                    "value": cell.score.value,
                    "half_interval": cell.score.half_interval,
                    "seeds": list(cell.score.seeds),
                    "settings": dict(cell.score.settings),
                    "difference": cell.difference,
                    "difference_half_interval": cell.half_interval,
                    "verdict": cell.verdict,
                }
                for cell in cells
                if cell
            ],
            "score_from_log_mel_to_reference": {c: self.score(entry, c) for c in self.conditions},
        }

    def _find(self, entry: Entry, metric: str, condition: str) -> Score | None:
        return self._mean(entry, condition) if metric == MEAN else entry.evaluation.find(metric, condition)

    def _mean(self, entry: Entry, condition: str) -> Score | None:
        """The mean in points, of the scores and of each of their resamples."""
        scores = [s for metric in self.counted(condition) if (s := entry.evaluation.find(metric, condition))]
        if not scores:
            return None

        def mean(pick: Callable[[Score], float]) -> float:
            return mean_of_tasks({s.metric: pick(s) for s in scores})

        draws = np.array([mean(lambda s, i=i: float(s.draws[i])) for i in range(len(scores[0].draws))])  # type: ignore[misc]
        return Score(MEAN, condition, mean(lambda s: s.value), (), draws)

    def _values(self, entry: Entry, condition: str) -> dict[str, float]:
        scores = (entry.evaluation.find(metric, condition) for metric in self.counted(condition))
        return {score.metric: score.value for score in scores if score}


def describe_metric(name: str) -> Metric:
    """Unit and direction of a metric; a variant such as `WER (beam)` has those of its kind."""
    return MEAN_OF_TASKS if name == MEAN else METRICS[name.partition(" (")[0]]


def format_value(name: str, value: float, *, sign: bool = False) -> str:
    """A metric as tables show it: one digit after the point, three for a plain number."""
    digits = 1 if describe_metric(name).unit else 3
    return f"{value:{'+' if sign else ''}.{digits}f}"


@dataclass(frozen=True)
class Unlike:
    """Scores of an encoder that do not compare with others."""

    entry: Entry
    tasks: tuple[str, ...]
    newest: str
    """Name of the encoder whose scores of these tasks came last."""

    def __str__(self) -> str:
        return f"{', '.join(self.tasks)} of {self.entry.name} are of others than those of {self.newest}"


def find_unlike(entries: Sequence[Entry]) -> list[Unlike]:
    """Scores whose task had other code, other libraries or other audio than the last entry that has that task."""
    found = []
    newest = {result.task: (result.fingerprint, entry.name) for entry in entries for result in entry.evaluation.results}
    for entry in entries:
        stale: dict[str, list[str]] = {}
        for result in entry.evaluation.results:
            fingerprint, name = newest[result.task]
            if result.fingerprint != fingerprint:
                stale.setdefault(name, []).append(result.task)
        found += [Unlike(entry, tuple(tasks), name) for name, tasks in stale.items()]
    return found


def find_reference(encoders: Sequence[tuple[str, str]], wanted: str | None) -> int:
    """Which of some encoders, each a name and a source, is meant.

    Raises:
        NestlingError: None is; names the nearest.
    """
    if wanted is None:
        return 0
    for i, names in enumerate(encoders):
        if wanted in names:
            return i
    known = [name for name, _ in encoders]
    near = get_close_matches(wanted, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
    raise NestlingError(f"the reference `{wanted}` is not among the encoders; {hint}")
