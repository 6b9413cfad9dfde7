"""The plots of a report, as plain Plotly values. A colour is the name of a CSS variable: `--heads`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nestling.reports.markup import safe_text
from nestling.reports.run_facts import (
    LARGEST,
    UNIFORM,
    CandidateRow,
    Report,
    Series,
    StageSummary,
    describe,
)
from search_spaces.amounts import short_count

MAX_CURVE_POINTS = 1000
"""A longer loss curve is drawn as the means of equal runs of steps."""

Figure = dict[str, Any]
"""`id` of the element it is drawn in, and Plotly's `data` and `layout`."""


@dataclass(frozen=True)
class Group:
    """Candidates that are drawn alike."""

    name: str
    meaning: str
    colour: str
    symbol: str
    size: int
    opacity: float = 1.0


GROUPS = (
    Group("chosen", "the chosen subnet", "mark", "star", 18),
    Group("uniform", "uniform shape", "conv", "diamond", 10),
    Group("largest", "largest that fits", "ffn", "triangle-up", 12),
    Group("front", "on the front: no other is as small, as cheap in MACs and as good", "heads", "circle", 8),
    Group("feasible", "candidate", "dot", "circle", 6, 0.55),
    Group("infeasible", "over the budget", "dot", "circle-open", 6, 0.55),
)
"""The most telling first."""


def group_name(candidate: CandidateRow, report: Report) -> str:
    """The group that a candidate is drawn in."""
    if report.chosen and candidate.subnet.id == report.chosen.subnet.id:
        return "chosen"
    if candidate.origin in (UNIFORM, LARGEST):
        return "uniform" if candidate.origin == UNIFORM else "largest"
    return "front" if candidate.is_front else "feasible" if candidate.feasible else "infeasible"


def best_by_size(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (size, loss) that no other of at most their size beats, by size; only finite losses count."""
    best: list[tuple[float, float]] = []
    for size, loss in sorted(point for point in points if math.isfinite(point[1])):
        if not best or loss < best[-1][1]:
            best.append((size, loss))
    return best


def front_figures(report: Report) -> list[Figure]:
    """Loss against parameters, and against MACs."""
    return [_front_figure(report, "params"), _front_figure(report, "macs")] if report.candidates else []


def _front_figure(report: Report, axis: Literal["params", "macs"]) -> Figure:
    sizes = {c.subnet.id: c.params if axis == "params" else c.macs for c in report.candidates}
    front = best_by_size((sizes[c.subnet.id], c.loss) for c in report.candidates)
    line = {
        "x": [size for size, _ in front],
        "y": [loss for _, loss in front],
        "mode": "lines",
        "line": {"shape": "hv", "width": 1.5, "color": "--heads"},
        "hoverinfo": "skip",
    }
    traces = [line]
    for group in reversed(GROUPS):  # the most telling are drawn last, on top
        members = [c for c in report.candidates if group_name(c, report) == group.name]
        if members:
            traces.append(_markers(group, members, sizes, report))
    limits = [
        {
            "type": "line",
            "x0": bound.limit,
            "x1": bound.limit,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": "--mark", "width": 1.5, "dash": "dash"},
        }
        for bound in report.budget
        if bound.kind == axis and (axis == "params" or bound.seconds == report.macs_seconds)
    ]
    return {"id": f"front-{axis}", "data": traces, "layout": {"shapes": limits}}


def _markers(group: Group, members: Sequence[CandidateRow], sizes: dict[str, int], report: Report) -> Figure:
    rim = {"width": 1 if group.opacity == 1 else 0, "color": "--card"}
    return {
        "x": [sizes[c.subnet.id] for c in members],
        "y": [c.loss for c in members],
        "text": [_hover(c, report) for c in members],
        "mode": "markers",
        "hoverinfo": "text",
        "marker": {
            "symbol": group.symbol,
            "size": group.size,
            "color": f"--{group.colour}",
            "opacity": group.opacity,
            "line": rim,
        },
    }


def _hover(candidate: CandidateRow, report: Report) -> str:
    """Plotly reads this as HTML of its own kind, so it is escaped."""
    macs = f"{short_count(candidate.macs)} MACs@{report.macs_seconds:g}s"
    lines = (
        f"{candidate.subnet.id} · {candidate.origin}",
        f"loss {candidate.loss:.4f}{'' if candidate.feasible else ' · over the budget'}",
        f"{short_count(candidate.params)} parameters · {macs}",
        *describe(candidate.subnet).splitlines(),
    )
    return "<br>".join(safe_text(line) for line in lines)


def series_colours(stages: Sequence[StageSummary]) -> dict[str, str]:
    """Colours by the name of a series: the same in all stages."""
    names = dict.fromkeys(series.name for stage in stages for series in stage.series)
    return {name: ("heads", "conv", "ffn", "mark", "dot")[i % 5] for i, name in enumerate(names)}


def loss_figures(report: Report) -> list[Figure]:
    """Losses over steps, one figure for each stage that has some."""
    colours = series_colours(report.stages)
    return [
        {"id": f"loss-{i}", "layout": {}, "data": [_loss_trace(s, colours[s.name]) for s in stage.series]}
        for i, stage in enumerate(report.stages)
        if stage.series
    ]


def _loss_trace(series: Series, colour: str) -> Figure:
    thin = thin_series(series)
    return {
        "x": thin.steps,
        "y": thin.losses,
        "mode": "lines",
        "name": safe_text(series.name),
        "line": {"width": 1.8, "color": f"--{colour}"},
    }


def thin_series(series: Series, most: int = MAX_CURVE_POINTS) -> Series:
    """At most `most` points: the means of equal runs, each at its last step."""
    count = len(series.steps)
    run = -(-count // most)
    if run <= 1:
        return series
    starts = range(0, count, run)
    runs = [series.losses[start : start + run] for start in starts]
    return replace(
        series,
        steps=tuple(series.steps[min(start + run, count) - 1] for start in starts),
        losses=tuple(math.fsum(losses) / len(losses) for losses in runs),
    )
