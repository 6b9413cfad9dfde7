"""Several encoders side by side: which differences are real, and one number for each.

A difference is real if the 95 % interval of the paired difference does not hold 0: the same speakers, and heads of the
same seeds, judge all encoders (`intervals.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from speech_tasks.aggregates import METRICS, Metric, mean_of_tasks, points_of_one, score_between
from speech_tasks.intervals import SPEAKERS, combine
from speech_tasks.suite import TASKS, Evaluation
from speech_tasks.task import IN_DOMAIN, ON_DEV, OUT_OF_DOMAIN, Score

MEAN = "mean of tasks"
MEAN_OF_TASKS = Metric(MEAN, "all", "points", True, lambda points: points)
CONDITIONS = (IN_DOMAIN, OUT_OF_DOMAIN, ON_DEV)
BOTTOM_LINE = "log-mel"
"""The encoder that scores 0; the reference scores 1000."""

SAME_WORDINGS = ("IC accuracy", "slot F1", "slot CER")
"""Metrics of tasks on commands, which are worded alike in every split where they are synthesised."""
MANY_CELLS = 10
"""Differences beside each other, from which on it is said what chance alone marks."""

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
    """Whether the difference is real, and which way; empty if it is not, or if there is but one utterance."""


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

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What must be said beside the numbers: one reader alone, wordings that are not new, and what chance marks."""
        scores = [score for entry in self.entries for score in entry.evaluation.scores]
        said = dict.fromkeys(describe_voices(score) for score in scores)
        remarks = [text for text in said if text]
        results = [result for entry in self.entries for result in entry.evaluation.results if result.synthesised]
        synthesised = {score.metric for result in results for score in result.scores}
        if repeated := [m for m in self.metrics if m in SAME_WORDINGS and m in synthesised]:
            remarks.append(
                f"{', '.join(repeated)}: all wordings of the synthesised commands occur in train; only voices are new."
            )
        num_cells = sum(
            cell is not None and cell.difference is not None
            for entry in self.entries
            for metric in self.metrics
            for condition in self.conditions
            for cell in [self.cell(entry, metric, condition)]
        )
        if num_cells >= MANY_CELLS:
            remarks.append(
                f"Of {num_cells} differences, about {max(1, round(num_cells / 20))} (5 %) are marked by chance alone "
                "where nothing differs."
            )
        return tuple(remarks)

    def cell(self, entry: Entry, metric: str, condition: str) -> Cell | None:
        """A score beside the reference's; `MEAN` is a metric too. None where it was not measured."""
        score, base = (self._find(e, metric, condition) for e in (entry, self.reference))
        if score is None or base is None or entry is self.reference:
            return Cell(score) if score else None
        difference, half = score.difference(base)
        if not abs(difference) > half:  # nor where one is no number
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
        """Plain JSON values, without errors by utterance."""
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

        def over_speakers(score: Score) -> bool:
            parts = self._parts(entry, score.condition) if score.metric == MEAN else [score]
            return all(map(is_over_speakers, parts))

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
                    "half_interval": _finite(cell.score.half_interval),
                    "speakers": cell.score.spread.count if over_speakers(cell.score) else None,
                    "seeds": list(cell.score.seeds),
                    "settings": dict(cell.score.settings),
                    "difference": cell.difference,
                    "difference_half_interval": _finite(cell.half_interval),
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
        """The mean in points."""
        scores = self._parts(entry, condition)
        if not scores:
            return None
        # All metrics are points in proportion; what a speaker moves in several of them adds up.
        parts = [(points_of_one(s.metric) / len(scores), s.spread) for s in scores]
        return Score(MEAN, condition, mean_of_tasks({s.metric: s.value for s in scores}), (), combine(parts))

    def _parts(self, entry: Entry, condition: str) -> list[Score]:
        """What the mean is of."""
        return [s for metric in self.counted(condition) if (s := entry.evaluation.find(metric, condition))]

    def _values(self, entry: Entry, condition: str) -> dict[str, float]:
        return {score.metric: score.value for score in self._parts(entry, condition)}


def describe_voices(score: Score) -> str:
    """A sentence where the interval of a score is not over several speakers; else nothing."""
    if score.errors is None or is_over_speakers(score):
        return ""
    voices = score.errors.voices
    who = f"is of this reader alone, {voices.reader}" if voices.reader else "is of unknown speakers"
    if voices.reader and None in voices.speakers:
        who = f"is of one known speaker, {voices.reader}, and of utterances that name none"
    return f"{score.metric} {score.condition} {who}: its interval is over utterances, and says nothing of other voices."


def is_over_speakers(score: Score) -> bool:
    """Whether the interval of a score is over several speakers."""
    return score.errors is None or score.errors.voices.over == SPEAKERS


def _finite(number: float | None) -> float | None:
    """A number as JSON has it; None for one without bound."""
    return number if number is not None and math.isfinite(number) else None


def describe_metric(name: str) -> Metric:
    """Unit and direction of a metric; a variant such as `WER (beam)` has those of its kind."""
    return MEAN_OF_TASKS if name == MEAN else METRICS[name.partition(" (")[0]]


def format_value(name: str, value: float, *, sign: bool = False) -> str:
    """A metric as tables show it: one digit after the point, three for a plain number."""
    if math.isinf(value):
        return "∞"
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
    hint = suggest(wanted, [name for name, _ in encoders])
    raise NestlingError(f"the reference `{wanted}` is not among the encoders; {hint}")
