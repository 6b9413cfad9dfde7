"""The suite: which tasks there are, what they read, and one encoder's scores on them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from speech_tasks.aggregates import METRICS, fitted_for
from speech_tasks.characters import Characters
from speech_tasks.feature_store import Encode, FeatureStore
from speech_tasks.intervals import Voices, spread_of_moves
from speech_tasks.labels import intent, keywords
from speech_tasks.phones import Phones
from speech_tasks.provenance import fingerprint_task, name_audio
from speech_tasks.queries import Queries
from speech_tasks.slots import Slots
from speech_tasks.speakers import Speakers
from speech_tasks.task import Errors, Material, Score, Task
from speech_tasks.verification import Verification

SENTENCES, KEYWORDS, COMMANDS, VOICES = "sentences", "keywords", "commands", "voices"

TASKS: dict[str, tuple[Callable[[Material], Task], str]] = {
    "phones": (Phones, SENTENCES),
    "keywords": (keywords, KEYWORDS),
    "intent": (intent, COMMANDS),
    "verification": (Verification, VOICES),
    "speakers": (Speakers, VOICES),
    "characters": (Characters, SENTENCES),
    "slots": (Slots, COMMANDS),
    "queries": (Queries, SENTENCES),
}
"""Name of a task -> the task, and the material it reads. A new task is a file, or a label, and a line here."""
FIRST = ("phones", "keywords", "intent", "verification")
"""Those that cost least and say most."""


@dataclass(frozen=True)
class ErrorValues:
    """Errors by utterance, as they are stored."""

    utterances: tuple[str, ...]
    speakers: tuple[str, ...]
    speaker_of: tuple[int, ...]
    """Place among the speakers; negative where nobody knows who it is."""
    added: tuple[tuple[float, ...], ...]
    of: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.utterances)
        if {len(row) for row in (self.speaker_of, self.of, *self.added)} != {count} or not self.added:
            raise NestlingError(f"speaker_of, of and each of added must have {count} entries, as many as utterances")
        if max(self.speaker_of, default=-1) >= len(self.speakers):
            raise NestlingError(f"speaker_of names speaker {max(self.speaker_of)} of {len(self.speakers)}")


@dataclass(frozen=True)
class ScoreValues:
    """A score as it is stored."""

    metric: str
    condition: str
    value: float
    half_interval: float | None
    """None where nobody knows."""
    seeds: tuple[float, ...]
    settings: Mapping[str, float]
    count: int
    moves: Mapping[str, float]
    shared: Mapping[str, float]
    errors: ErrorValues | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise NestlingError(f"no metric `{self.metric}`; {suggest(self.metric, METRICS)}")
        if not self.seeds:
            raise NestlingError("seeds is empty")


@dataclass(frozen=True)
class TaskValues:
    """A `TaskResult` as it is stored."""

    task: str
    fingerprint: str
    audio: tuple[str, ...]
    seconds: float
    scores: tuple[ScoreValues, ...]
    synthesised: bool = True


@dataclass(frozen=True)
class TaskResult:
    """What one task says about one encoder."""

    task: str
    fingerprint: str
    """Of the task's code and audio: the same encoder under the same fingerprint scores the same."""
    audio: tuple[str, ...]
    """Name and hash of every corpus it read."""
    scores: tuple[Score, ...]
    seconds: float
    """Wall time of heads and decoding, without encoding."""
    synthesised: bool = True
    """Whether a program spoke any of the audio. Results that do not say are taken to be."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "task": self.task,
            "fingerprint": self.fingerprint,
            "audio": list(self.audio),
            "synthesised": self.synthesised,
            "seconds": round(self.seconds, 2),
            "scores": [_write_score(score) for score in self.scores],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskResult:
        """The result that `to_dict` wrote."""
        scores = tuple(map(_read_score, values["scores"]))
        audio, synthesised = tuple(values["audio"]), values.get("synthesised", True)
        return cls(values["task"], values["fingerprint"], audio, scores, values["seconds"], synthesised)


@dataclass(frozen=True)
class Evaluation:
    """One encoder's scores."""

    name: str
    results: tuple[TaskResult, ...]
    encode_seconds: float
    """Wall time of encoding all clips, once for all tasks."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """Of all tasks."""
        return tuple(score for result in self.results for score in result.scores)

    @property
    def task_seconds(self) -> dict[str, float]:
        """Wall time of each task, without encoding."""
        return {result.task: result.seconds for result in self.results}

    def find(self, metric: str, condition: str) -> Score | None:
        """The score of a metric in a condition; None where it was not measured."""
        return next((s for s in self.scores if (s.metric, s.condition) == (metric, condition)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "encode_seconds": round(self.encode_seconds, 2),
            "tasks": [result.to_dict() for result in self.results],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` wrote."""
        results = tuple(map(TaskResult.from_dict, values["tasks"]))
        return cls(values["name"], results, values["encode_seconds"])


def find_tasks(names: Sequence[str]) -> list[str]:
    """The tasks of some names, `first` and `all` among them; each once, in the order of `TASKS`.

    Raises:
        NestlingError: There is no such task.
    """
    groups: dict[str, tuple[str, ...]] = {"first": FIRST, "all": tuple(TASKS)}
    wanted: set[str] = set()
    for name in names:
        if name not in TASKS and name not in groups:
            raise NestlingError(f"no task `{name}`; {suggest(name, [*TASKS, *groups])}")
        wanted.update(groups.get(name, (name,)))
    return [name for name in TASKS if name in wanted]


def find_materials(names: Sequence[str]) -> list[str]:
    """The materials that tasks read, each once."""
    return list(dict.fromkeys(TASKS[name][1] for name in names))


def build_tasks(names: Sequence[str], materials: Mapping[str, Material]) -> list[Task]:
    """Tasks with their audio: which clips they read is decided here, and is the same for every encoder."""
    return [TASKS[name][0](materials[TASKS[name][1]]) for name in names]


def evaluate(
    name: str,
    encode: Encode,
    tasks: Sequence[Task],
    *,
    on_encode: Callable[[int, int], None] = lambda *_: None,
    on_task: Callable[[str], None] = lambda _: None,
    on_result: Callable[[TaskResult], None] = lambda _: None,
) -> Evaluation:
    """Encodes every clip once and scores each task.

    Args:
        name: What tables call the encoder.
        encode: It.
        tasks: From `build_tasks`.
        on_encode: Called with the number of clips encoded and the number of all.
        on_task: Called with a task's name before its heads are fitted.
        on_result: Called with what each task found, as soon as it did.
    """
    started = time.perf_counter()
    results: list[TaskResult] = []
    with FeatureStore(encode, (clip for task in tasks for clip in task.clips), on_progress=on_encode) as store:
        encode_seconds = time.perf_counter() - started
        for task in tasks:
            on_task(task.name)
            started = time.perf_counter()
            scores = tuple(task.score(store))
            seconds = time.perf_counter() - started
            synthesised = any(clip.corpus.synthesised for clip in task.clips)
            facts = (task.name, fingerprint_task(task), name_audio(task))
            results.append(TaskResult(*facts, scores, seconds, synthesised))
            on_result(results[-1])
    return Evaluation(name, tuple(results), encode_seconds)


def _write_score(score: Score) -> dict[str, Any]:
    """Plain JSON values of a score; its errors by utterance are rounded to four digits after the point."""
    half, errors = score.half_interval, score.errors
    values: dict[str, Any] = {
        "metric": score.metric,
        "condition": score.condition,
        "value": score.value,
        "half_interval": half if math.isfinite(half) else None,
        "seeds": list(score.seeds),
        "settings": dict(score.settings),
        "count": score.spread.count,
        "moves": {name: float(f"{move:.7g}") for name, move in score.spread.moves.items()},
        "shared": {name: float(f"{move:.7g}") for name, move in score.spread.shared.items()},
    }
    if errors:
        number = {name: i for i, name in enumerate(errors.voices.names)}
        prefix = os.path.commonprefix(errors.voices.utterances)  # noqa: RUF071 - letters are shared, not paths
        values["errors"] = {
            "prefix": prefix,
            "utterances": [name.removeprefix(prefix) for name in errors.voices.utterances],
            "speakers": errors.voices.names,
            "speaker_of": [-1 if name is None else number[name] for name in errors.voices.speakers],
            "added": [list(map(_plain, one)) for one in errors.tallies[:, :, 0].tolist()],
            "of": list(map(_plain, errors.tallies[0, :, 1].tolist())),
        }
    return values


def _read_score(values: Mapping[str, Any]) -> Score:
    """The score that `_write_score` wrote."""
    seeds, kept = tuple(values["seeds"]), values.get("errors")
    errors = None
    if kept:
        speakers = tuple(None if i < 0 else kept["speakers"][i] for i in kept["speaker_of"])
        added = np.array(kept["added"], np.float64)
        tallies = np.stack([added, np.broadcast_to(np.array(kept["of"], np.float64), added.shape)], axis=2)
        errors = Errors(Voices(speakers, tuple(kept["prefix"] + name for name in kept["utterances"])), tallies)
    spread = spread_of_moves(fitted_for(values["metric"]), seeds, values["moves"], values["count"], values["shared"])
    return Score(values["metric"], values["condition"], values["value"], seeds, spread, values["settings"], errors)


def _plain(number: float) -> float:
    """A whole number as one, so that it takes one digit; any other to four digits after the point."""
    return int(number) if number == int(number) else round(number, 4)
