"""What was measured, kept: an append-only file that any search with the same supernet and data can reuse."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.costs import count_params
from search_spaces.errors import NestlingError
from search_spaces.subnet import Backbone, Subnet

FileRow = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Score:
    """The quality of a subnet: a loss for each of some fixed utterances, so that subnets compare in pairs."""

    per_utterance: NDArray[np.float32]
    """(N,), lower is better; always the same utterances in the same order. A lone number is a list of one."""

    @cached_property
    def failed(self) -> bool:
        """Whether some loss is not a finite number."""
        return not np.isfinite(self.per_utterance).all()

    @cached_property
    def mean(self) -> float:
        """What candidates are ranked by; not a number when scoring failed."""
        return float("nan") if self.failed else float(self.per_utterance.mean(dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A subnet and its measured quality."""

    subnet: Subnet
    score: Score

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Sorts candidates best first; failed ones come last, and equals have a fixed order."""
        return self.score.failed, self.score.mean, self.subnet.id


class Record:
    """Every candidate ever scored, in a JSONL file that only grows.

    A row is on the disk before `add` returns, so a killed search loses at most the candidate it was scoring.
    Rows know no budget: what was found under one serves all. Rows of another fingerprint are left alone and
    not read.

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
        self._whole_bytes: int | None = 0  # what a killed writer left whole; None once the rest is cut off
        if path is not None and path.exists():
            self._read(path.read_bytes())

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All of this fingerprint, in the order they were scored."""
        return tuple(self._candidates.values())

    def find(self, subnet: Subnet) -> Candidate | None:
        """What is known of a subnet."""
        return self._candidates.get(subnet)

    def add(self, candidate: Candidate) -> None:
        """Keeps a candidate for good."""
        losses = [float(f"{x:.9g}") if np.isfinite(x) else None for x in candidate.score.per_utterance]
        row = {
            "fingerprint": self.fingerprint,
            "id": candidate.subnet.id,
            "params": count_params(self.backbone, candidate.subnet),
            "loss": None if candidate.score.failed else candidate.score.mean,
            "subnet": candidate.subnet.to_dict(),
            "per_utterance": losses,
        }
        self._append(row)
        self._candidates.setdefault(candidate.subnet, candidate)

    def start(self, search: str) -> tuple[Candidate, ...]:
        """The candidates that were known when `search` first started: now, unless it is resumed.

        Args:
            search: Names it; all that its proposals depend on.
        """
        if search not in self._starts:
            self._append({"fingerprint": self.fingerprint, "search": search})
            self._starts[search] = len(self._candidates)
        return self.candidates[: self._starts[search]]

    def _read(self, content: bytes) -> None:
        *lines, torn = content.split(b"\n")  # every whole line ends with a newline
        self._whole_bytes = len(content) - len(torn)
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if row["fingerprint"] == self.fingerprint:
                    self._take(row)
            except (KeyError, TypeError, ValueError) as error:
                raise NestlingError(
                    f"line {number} of {self.path} is damaged ({error}); delete that line to go on without it"
                ) from error

    def _take(self, row: FileRow) -> None:
        if "search" in row:
            self._starts.setdefault(row["search"], len(self._candidates))
            return
        losses = [np.nan if loss is None else loss for loss in row["per_utterance"]]
        subnet = Subnet.from_dict(row["subnet"])
        self._candidates.setdefault(subnet, Candidate(subnet, Score(np.array(losses, np.float32))))

    def _append(self, row: FileRow) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if self._whole_bytes is not None:
                file.truncate(self._whole_bytes)
                self._whole_bytes = None
            file.write(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
