"""What was measured, kept: an append-only file that any search with the same supernet and data can reuse."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nas.latency import Latency
from nas.score import Score
from search_spaces.costs import count_params
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import explaining
from search_spaces.locks import take_lock
from search_spaces.strict_json import load_json
from search_spaces.strict_yaml import parse_config
from search_spaces.subnet import Backbone, Subnet

Times = dict[Subnet, tuple[Latency, ...]]
"""Subnet -> its latency under each latency bound of a budget."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A subnet and its measured quality."""

    subnet: Subnet
    score: Score

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Sorts candidates best first; failed ones come last, and equals have a fixed order."""
        return self.score.failed, self.score.mean, self.subnet.id


@dataclass(frozen=True)
class ScoreRow:
    """A line of the file that holds a candidate."""

    fingerprint: str
    id: str
    params: int
    loss: float | None
    """None if scoring failed."""
    subnet: Subnet
    per_utterance: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if self.id != self.subnet.id:
            raise NestlingError(f"id {self.id!r} is not that of its subnet, {self.subnet.id}")
        if not self.per_utterance:
            raise NestlingError("per_utterance is empty")
        mean = self.score.mean
        if (self.loss is None) != self.score.failed or (self.loss is not None and not np.isclose(self.loss, mean)):
            raise NestlingError(f"loss {self.loss} is not the mean of per_utterance, {mean:.9g}")

    @cached_property
    def score(self) -> Score:
        """Utterance by utterance."""
        return Score(np.array(self.per_utterance, np.float32))  # None is NaN


@dataclass(frozen=True)
class Timed:
    """A subnet's latency under each latency bound of a budget."""

    subnet: Subnet
    latencies: tuple[Latency, ...]


@dataclass(frozen=True)
class SearchRow:
    """A line of the file that says when a search first started, what it timed, or that it came to its end."""

    fingerprint: str
    search: str
    """Names it."""
    machine: str = ""
    timed: tuple[Timed, ...] = ()
    """On that machine."""
    done: bool = False
    """What it timed is history: the next time it is timed anew."""


Row = ScoreRow | SearchRow


class RecordFile:
    """The lines of a record as they come, each checked.

    A line has a number and a checksum of its own, so that lines which are gone or changed are noticed. (Lines of
    Nestling 0.1 have neither, and are taken as they are.) Several processes may append: each first takes note of
    what others did, and cuts off what one that was killed left unfinished, under a lock on the file.

    Args:
        path: May not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.doubts: list[str] = []
        """What is wrong with lines that are otherwise sound."""
        self._num_bytes = self._num_lines = self._number = 0  # of rows, newlines included; number of the last
        self._num_utterances: dict[str, int] = {}

    def read(self) -> list[Row]:
        """All lines since the last time, but for a torn last one.

        Raises:
            NestlingError: A line was damaged; names it.
        """
        if not self.path.exists():
            return []
        try:
            with self.path.open("rb") as file:
                return list(self._read(file))
        except OSError as error:
            raise NestlingError(f"{self.path}: {(error.strerror or str(error)).lower()}") from error

    def append(self, row: Mapping[str, Any]) -> list[Row]:
        """Adds a line, which is on the disk before this returns.

        Returns:
            The lines that others added since the last time.

        Raises:
            FailedError: The file was cut or deleted since it was read, or the disk refused.
        """
        if not (self.path if self._num_bytes else self.path.parent.parent).exists():
            raise FailedError(f"{self.path} was deleted while it was written; nothing more is kept there")
        with explaining(self.path):
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a+b") as file:
                take_lock(file, wait=True)
                others = list(self._read(file))
                lacking = b"\n" if file.seek(0, os.SEEK_END) < self._num_bytes else b""  # after the row before
                file.truncate(self._num_bytes - len(lacking))
                line = _seal({**row, "number": self._number + 1})
                file.write(lacking + line)
                file.flush()
                os.fsync(file.fileno())
        self._num_bytes, self._num_lines = self._num_bytes + len(line), self._num_lines + 1
        self._number += 1
        return others

    def _read(self, file: BinaryIO) -> Iterator[Row]:
        if file.seek(0, os.SEEK_END) < self._num_bytes - 1:
            raise FailedError(f"{self.path} was cut while it was written; nothing more is kept there")
        file.seek(self._num_bytes)
        *lines, last = file.read().split(b"\n")
        if _is_whole(last):  # but for its newline
            lines.append(last)
        for line in lines:
            self._num_bytes, self._num_lines = self._num_bytes + len(line) + 1, self._num_lines + 1
            try:
                yield self._parse(line)
            except NestlingError as error:
                raise NestlingError(
                    f"line {self._num_lines} of {self.path} is damaged ({error}); delete that line to go on without it"
                ) from error

    def _parse(self, line: bytes) -> Row:
        values = load_json(line, "the line")
        if isinstance(values, dict):
            self._check(values)
        if isinstance(values, dict) and "search" in values:
            return parse_config(SearchRow, values, "the line", most=1)
        row = parse_config(ScoreRow, values, "the line", most=1)
        count = self._num_utterances.setdefault(row.fingerprint, len(row.per_utterance))
        if len(row.per_utterance) != count:
            raise NestlingError(f"per_utterance has {len(row.per_utterance)} losses, and those before it have {count}")
        return row

    def _check(self, values: dict[str, Any]) -> None:
        number, sealed = values.get("number", self._number + 1), values.pop("check", None)
        if sealed is not None and sealed != _checksum(values):
            raise NestlingError("it is not what was written there")
        if not isinstance(number, int) or number <= self._number:
            self.doubts.append(f"line {self._num_lines} of {self.path} is row {number}, which has its place before it")
            return
        if (gone := number - self._number - 1) > 0:
            rows = "a row is" if gone == 1 else f"{gone} rows are"
            self.doubts.append(f"{rows} missing before line {self._num_lines} of {self.path}")
        self._number = number


def _is_whole(line: bytes) -> bool:
    """Whether a line without a newline is a row; no part of a row is JSON."""
    try:
        load_json(line, "the line")
    except NestlingError:
        return False
    return True


def _seal(row: Mapping[str, Any]) -> bytes:
    """A row as a line of the file."""
    return _dump({**row, "check": _checksum(row)}) + b"\n"


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(row)).hexdigest()[:8]


def _dump(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False).encode()


class Record:
    """Every candidate ever scored, in a JSONL file that only grows.

    A row is on the disk before `add` returns, so a killed search loses at most the candidate it was scoring.
    Rows know no budget: what was found under one serves all. Rows of another fingerprint are left alone and
    not used.

    Args:
        path: The file; made with the first row. None keeps the record in memory.
        fingerprint: Of all that a score depends on: space, weights, utterances, metric.
        backbone: Of the space; rows show parameters to whoever reads the file.

    Raises:
        NestlingError: A row other than a torn last one cannot be read.
    """

    def __init__(self, path: Path | None, fingerprint: str, backbone: Backbone) -> None:
        self.path, self.fingerprint, self.backbone = path, fingerprint, backbone
        self._candidates: dict[Subnet, Candidate] = {}
        self._starts: dict[str, int] = {}  # search -> candidates there were when it first started
        self._times: dict[str, Times] = {}  # search that is under way -> what it timed on this machine
        self._file = RecordFile(path) if path else None
        self._take(self._file.read() if self._file else [])

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All of this fingerprint, in the order they were scored."""
        return tuple(self._candidates.values())

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a user should know of the file: rows that are missing, say."""
        return tuple(self._file.doubts) if self._file else ()

    def find(self, subnet: Subnet) -> Candidate | None:
        """What is known of a subnet."""
        return self._candidates.get(subnet)

    def add(self, candidate: Candidate) -> Candidate:
        """Keeps a candidate for good.

        Returns:
            What holds for its subnet, which another process may have scored first.
        """
        losses = [float(f"{x:.9g}") if np.isfinite(x) else None for x in candidate.score.per_utterance]
        row = {
            "id": candidate.subnet.id,
            "params": count_params(self.backbone, candidate.subnet),
            "loss": None if candidate.score.failed else candidate.score.mean,
            "subnet": candidate.subnet.to_dict(),
            "per_utterance": losses,
        }
        self._append(row)
        return self._candidates.setdefault(candidate.subnet, candidate)

    def start(self, search: str) -> tuple[Candidate, ...]:
        """The candidates that were known when `search` first started: now, unless it is resumed.

        Args:
            search: Names it; all that its proposals depend on.
        """
        if search not in self._starts:
            self._append({"search": search})
            self._starts.setdefault(search, len(self._candidates))
        return self.candidates[: self._starts[search]]

    def times(self, search: str) -> Times:
        """What a search that never came to its end timed on this machine."""
        return self._times.get(search, {})

    def add_times(self, search: str, times: Times) -> None:
        """Keeps what a search timed, on which its further proposals depend, until it is done."""
        timed = [{"subnet": s.to_dict(), "latencies": [asdict(x) for x in row]} for s, row in times.items()]
        self._append({"search": search, "machine": platform.node(), "timed": timed})
        self._times.setdefault(search, {}).update(times)

    def finish(self, search: str) -> None:
        """The search came to its end: what it timed is not used again."""
        if self._times.pop(search, None):
            self._append({"search": search, "done": True})

    def _append(self, row: Mapping[str, Any]) -> None:
        if self._file:
            self._take(self._file.append({"fingerprint": self.fingerprint, **row}))

    def _take(self, rows: list[Row]) -> None:
        for row in rows:
            if row.fingerprint != self.fingerprint:
                continue
            if isinstance(row, ScoreRow):
                self._candidates.setdefault(row.subnet, Candidate(row.subnet, row.score))
                continue
            self._starts.setdefault(row.search, len(self._candidates))
            if row.done:
                self._times.pop(row.search, None)
            elif row.timed and row.machine == platform.node():
                self._times.setdefault(row.search, {}).update({timed.subnet: timed.latencies for timed in row.timed})
