"""Budgets: what a person writes, as exact integer bounds.

The grammar, by example:

    25M                 parameters, at most
    params=24M..25M     a band
    60%                 share of the container's parameters
    macs<=2G@1s         MACs for 1 s of audio; flops<=4G@1s is the same
    size<=50MB          bytes of the fp32 weights; MB is 10^6, MiB is 2^20
    latency<=30ms@2s    measured, so kept apart: `search_spaces` never checks it
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import NoReturn, Protocol

from search_spaces.amounts import format_bytes, format_count
from search_spaces.costs import MAX_SECONDS, PARAMS, Cost, count_frames, plain
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone, Subnet

UNBOUNDED = 1 << 62
"""Above every cost of every space; a bound never needs more."""

EXAMPLES = "25M, params=24M..25M, 60%, macs<=2G@1s, flops<=4G@1s, size<=50MB, latency<=30ms@2s"

_KINDS = ("params", "macs", "flops", "size", "latency")
_Units = dict[str, Fraction]
_COUNT_UNITS: _Units = {unit: Fraction(1000**power) for power, unit in enumerate(("", "k", "m", "g", "t"))}
_BYTE_UNITS: _Units = {unit: Fraction(1000**power) for power, unit in enumerate(("b", "kb", "mb", "gb"))}
_BYTE_UNITS |= {unit: Fraction(1024**power) for power, unit in enumerate(("b", "kib", "mib", "gib"))}
_TIME_UNITS: _Units = {"ms": Fraction(1, 1000), "s": Fraction(1)}
_FORM = re.compile(r"(?:(?P<kind>[a-z]+)\s*(?P<sign>[<>=]+))?(?P<amount>[^@<>=]+)(?:@(?P<duration>[^@]+))?")
_NUMBER = re.compile(r"(\d[\d_]{0,30}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)\s*([a-z%]*)")


class InfeasibleBudget(NestlingError):  # noqa: N818
    """No subnet holds the budget; the message says why and what would be feasible."""


class _Space(Protocol):
    @property
    def backbone(self) -> Backbone: ...
    @property
    def container(self) -> Subnet: ...


@dataclass(frozen=True)
class Bound:
    """`low <= cost <= high`."""

    cost: Cost
    high: int = UNBOUNDED
    low: int = 0

    @property
    def is_tiny(self) -> bool:
        """So little is asked for that the unit was forgotten."""
        return self.high < 1000 and self.cost.kind != "size"

    def __str__(self) -> str:
        kind, at, duration = str(self.cost).partition("@")
        write = format_bytes if kind == "size" else format_count
        band = f"={write(self.low)}..{write(self.high)}" if self.low else f"<={write(self.high)}"
        return kind + band + at + duration


@dataclass(frozen=True)
class LatencyBound:
    """An upper bound on measured time."""

    high_ms: float
    seconds: float
    """Audio that is timed."""

    def __str__(self) -> str:
        return f"latency<={plain(self.high_ms)}ms@{plain(self.seconds)}s"


@dataclass(frozen=True)
class Budget:
    """Bounds that must all hold. Without any, everything fits."""

    bounds: tuple[Bound, ...] = ()
    """On costs that are counted exactly."""
    latency: tuple[LatencyBound, ...] = ()
    """On time, which only a clock can tell."""

    @property
    def text(self) -> str:
        """The budget in its own grammar: `Budget.parse(budget.text, space) == budget`."""
        return ", ".join(str(bound) for bound in (*self.bounds, *self.latency))

    def holds(self, backbone: Backbone, subnet: Subnet) -> bool:
        """Whether a subnet keeps every exact bound."""
        return all(bound.low <= bound.cost.count(backbone, subnet) <= bound.high for bound in self.bounds)

    @classmethod
    def parse(cls, texts: str | Sequence[str], space: _Space) -> Budget:
        """The budget that these texts, or one comma-separated text, ask for.

        Args:
            texts: Each as in the head of this module.
            space: Gives a share (`60%`) its meaning.

        Raises:
            NestlingError: A text is not a budget; says what is wrong with it and shows good ones.
        """
        if isinstance(texts, str):
            texts = texts.split(",") if texts.strip() else []
        bounds = dict.fromkeys(_parse(text.strip(), space) for text in texts)
        return cls(
            tuple(bound for bound in bounds if isinstance(bound, Bound)),
            tuple(bound for bound in bounds if isinstance(bound, LatencyBound)),
        )


def _parse(text: str, space: _Space) -> Bound | LatencyBound:
    form = _FORM.fullmatch(text.lower())
    if form is None:
        _refuse(text, "not a cost, a relation and an amount")
    kind = form["kind"] or "params"
    if kind not in _KINDS:
        _refuse(text, f"unknown cost `{kind}`; {suggest(kind, _KINDS, brief=True)}")
    low, dots, high = form["amount"].partition("..")
    if dots and not (low.strip() and high.strip()):
        _refuse(text, "a band has two ends")
    if form["sign"] and form["sign"] != ("=" if dots else "<="):
        _refuse(text, f"write {kind}<=HIGH for an upper bound and {kind}=LOW..HIGH for a band")
    seconds = _parse_seconds(text, kind, form["duration"], space)
    if kind == "latency":
        if dots:
            _refuse(text, "latency takes an upper bound, not a band")
        return LatencyBound(float(_parse_amount(text, low, _TIME_UNITS, "a time: ms or s") * 1000), seconds)
    cost = PARAMS if kind == "params" else Cost("size") if kind == "size" else Cost("macs", seconds)
    return _parse_bound(text, kind, cost, (low, high) if dots else (None, low), space)


def _parse_bound(text: str, kind: str, cost: Cost, ends: tuple[str | None, str], space: _Space) -> Bound:
    """The bound on a counted cost. FLOPs are halved: they are twice the MACs."""
    units = _BYTE_UNITS if kind == "size" else _COUNT_UNITS
    wanted = "bytes: MB or MiB" if kind == "size" else "a count: k, M, G or %"
    scale = Fraction(1, 2) if kind == "flops" else Fraction(1)
    share = {"%": Fraction(cost.count(space.backbone, space.container), 100) / scale}
    low, high = (_parse_amount(text, end, units | share, wanted) * scale if end is not None else 0 for end in ends)
    if ceil(low) > floor(high):
        _refuse(text, "no whole number lies from the lower end to the upper end")
    return Bound(cost, high=min(floor(high), UNBOUNDED), low=min(ceil(low), UNBOUNDED))


def _parse_seconds(text: str, kind: str, duration: str | None, space: _Space) -> float:
    """Seconds of audio; 0 for the costs that need none."""
    if kind in ("params", "size"):
        if duration is not None:
            _refuse(text, f"{kind} does not depend on the duration; leave out the @{duration}")
        return 0.0
    if duration is None:
        _refuse(text, f"{kind} needs a duration of audio, such as {text}@1s: it does not grow in proportion")
    seconds = float(_parse_amount(text, duration, _TIME_UNITS, "a time: s or ms"))
    if not count_frames(space.backbone, round(seconds * SAMPLE_RATE_HZ)) or seconds > MAX_SECONDS:
        _refuse(text, f"the audio must give at least one frame and last at most {MAX_SECONDS:g} s")
    return seconds


def _parse_amount(text: str, amount: str, units: _Units, wanted: str) -> Fraction:
    amount = amount.strip()
    match = _NUMBER.fullmatch(amount)
    if match is None:
        _refuse(text, f"`{_as_typed(text, amount)}` is not a positive number with a unit")
    number, unit = match.groups()
    if unit not in units:
        typed, hint = _as_typed(text, amount), ""
        if unit in _BYTE_UNITS:
            hint = f"; for bytes write size<={typed}"
        elif unit in _TIME_UNITS:
            hint = f"; for time write latency<={typed}@1s"
        elif unit[1:] == unit[:1] in units:
            hint = f"; did you mean {typed[:-1]}?"
        _refuse(text, f"`{typed}` is not {wanted}{hint}")
    value = Fraction(number.replace("_", "")) * units[unit]
    if not value:
        _refuse(text, "the amount must be above zero")
    return value


def _as_typed(text: str, part: str) -> str:
    """A part of a budget, which was read in lower case, as it was typed."""
    start = max(text.lower().find(part), 0)
    return text[start : start + len(part)]


def _refuse(text: str, why: str) -> NoReturn:
    stop = "" if why.endswith("?") else "."
    raise NestlingError(f"budget `{text}`: {why}{stop} Examples: {EXAMPLES}")
