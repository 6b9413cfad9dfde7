"""The values a report is made of.

A report can be made at any time: a part that is not known yet is left empty, and its section is left out. All
values are plain. All strings are taken as hostile: whoever draws or writes a report escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from search_spaces.subnet import Subnet

SEARCHED = "searched"
UNIFORM = "uniform shape"
LARGEST = "largest that fits"
"""How a subnet came to be a candidate; the latter two are drawn apart."""


@dataclass(frozen=True)
class Measure:
    """A measured number, with its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def around(cls, value: float, half_interval: float) -> Measure:
        """`value` ± `half_interval`; without an interval if that has no bound."""
        return cls(value, value - half_interval, value + half_interval) if math.isfinite(half_interval) else cls(value)

    @property
    def margin(self) -> float | None:
        """The larger side of the interval; None without one."""
        if self.low is None or self.high is None:
            return None
        return max(self.high - self.value, self.value - self.low)


@dataclass(frozen=True)
class Facts:
    """What the run was given, so that it can be repeated."""

    teacher: str
    data: str
    data_hash: str
    hours: float
    """Of audio that trained the supernet."""
    seeds: tuple[int, ...]
    commands: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    """Package and version."""
    date: str
    draws: tuple[str, ...] = ()
    """How stages drew the random subnets that they trained."""


@dataclass(frozen=True)
class BudgetUse:
    """One bound of the budget, and what the chosen subnet spends of it."""

    asked: str
    """As the user wrote it: `25M`, `macs<=2G@1s`."""
    kind: Literal["params", "macs", "size", "latency"]
    limit: float
    """Parameters, MACs, bytes or ms."""
    used: float
    seconds: float = 1.0
    """Audio of a bound on MACs or latency."""

    @property
    def share(self) -> float | None:
        """What is spent of it, 1 for all; None of a budget of nothing."""
        return self.used / self.limit if self.limit else None


@dataclass(frozen=True)
class Chosen:
    """The subnet that the search chose: what it costs, and how good it was found to be."""

    subnet: Subnet
    params: int
    macs: int
    loss: Measure | None = None
    phone_error: Measure | None = None
    """Share of wrong frames, 0 to 1."""
    latency_ms: Measure | None = None


@dataclass(frozen=True)
class TeacherRow:
    """What the subnets learnt from."""

    name: str
    params: int
    macs: int
    phone_error: Measure | None = None
    latency_ms: Measure | None = None


@dataclass(frozen=True)
class CandidateRow:
    """A subnet that the search evaluated."""

    subnet: Subnet
    params: int
    macs: int
    loss: float
    origin: str = SEARCHED
    feasible: bool = True
    """Whether it holds the budget."""
    is_front: bool = False
    """Among `find_front` of parameters, MACs and loss."""


@dataclass(frozen=True)
class FinalistRow:
    """A row of the final table; rows come best first."""

    subnet: Subnet
    params: int
    macs: int
    loss: Measure
    origin: str = SEARCHED
    tied: bool = False
    """Not distinguishable from the chosen one."""
    excess: tuple[float, float] | None = None
    """95 % interval of its loss less the first row's, over the same utterances."""
    latency_ms: Measure | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Phone error of a linear probe on `test`."""

    label: str
    phone_error: Measure
    """Share of wrong frames, 0 to 1."""
    kind: Literal["subnet", "teacher", "reference"] = "subnet"
    params: int | None = None
    compute_share: float | None = None
    """Training compute, as a share of the supernet's."""


@dataclass(frozen=True)
class Series:
    """One loss over the steps of a stage."""

    name: str
    """Whose: `smallest`, `middle (random)`, `largest`."""
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class StageSummary:
    """What a training stage did to the container."""

    name: str
    steps: int
    series: tuple[Series, ...] = ()
    loss_before: float | None = None
    """Of the container, at the stage's step 0."""
    loss_after: float | None = None
    phone_error_before: float | None = None
    phone_error_after: float | None = None


@dataclass(frozen=True)
class Part:
    """One module group of the chosen subnet."""

    name: str
    """A key of `search_spaces.costs.breakdown`, or free text."""
    params: int
    macs: int


@dataclass(frozen=True)
class Counted:
    """What the numbers include."""

    text: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Usage:
    """How to load the result with one library."""

    title: str
    code: str


@dataclass(frozen=True)
class Report:
    """All that a report says."""

    title: str
    facts: Facts
    container: Subnet | None = None
    chosen: Chosen | None = None
    budget: tuple[BudgetUse, ...] = ()
    teacher: TeacherRow | None = None
    macs_seconds: float = 1.0
    """Audio for which every `macs` here is counted."""
    loss_name: str = "unexplained share of the teacher's variance on search"
    """What candidates are ranked by; lower is better."""
    candidates: tuple[CandidateRow, ...] = ()
    finalists: tuple[FinalistRow, ...] = ()
    latency_note: str = ""
    """Device, runtime, threads and seconds of audio of every latency here."""
    curve: tuple[CurvePoint, ...] = ()
    stages: tuple[StageSummary, ...] = ()
    counted: Counted | None = None
    usage: tuple[Usage, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to not misread the numbers."""
    spread_note: str = ""
    """Said at the top when the quality hardly depends on the size."""


def find_front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points are on the front: no other is at most as high on every axis and lower on one."""
    table = np.array(points, np.float64)  # counts are exact up to 2 ** 53
    return [not ((table <= point).all(axis=1) & (table < point).any(axis=1)).any() for point in table]


def describe(subnet: Subnet) -> str:
    """A subnet in four short lines."""
    return "\n".join(
        (
            "conv " + " ".join(map(str, subnet.conv_dims)),
            f"width {subnet.embed_dim}, layers " + " ".join(str(k + 1) for k in subnet.kept),
            "heads " + " ".join(str(layer.heads) for layer in subnet.layers),
            "FFN " + " ".join(str(layer.ffn_dim) for layer in subnet.layers),
        )
    )
