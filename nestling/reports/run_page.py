"""A run's report as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nestling.reports.page import Scale, render_page, write_page
from nestling.reports.run_facts import UNIFORM, Chosen, FinalistRow, Measure, Report
from nestling.reports.run_plots import GROUPS, front_figures, group_name, loss_figures, series_colours
from nestling.reports.subnet_drawing import draw_subnet
from search_spaces.amounts import short_count

PARTS = {
    "front_end": ("Convolutional front-end", "conv"),
    "projection": ("Projection", "dot"),
    "pos_conv": ("Positional convolution", "muted"),
    "attention": ("Attention", "heads"),
    "ffn": ("FFN", "ffn"),
    "other": ("Norms and mask embedding", "ghost"),
}
"""What the parts of `search_spaces.costs.breakdown` are called, and their colours."""


def write_report(report: Report, path: Path) -> None:
    """Writes the report as one file, at once: a reader never sees half of it."""
    write_page(render_report(report), path)


def render_report(report: Report) -> str:
    """The report as HTML."""
    chosen, container = report.chosen, report.container
    drawn = chosen.subnet if chosen else container
    paired = any(row.excess for row in report.finalists)
    losses = [_excess(row, report.finalists[0]) if paired else row.loss for row in report.finalists]
    errors = Scale.holding(point.phone_error for point in report.curve)
    errors.zero = next((point.phone_error.value for point in report.curve if point.kind == "teacher"), None)
    colours = series_colours(report.stages)
    return render_page(
        "run.html",
        [*front_figures(report), *loss_figures(report)],
        report=report,
        amount=amount,
        verdict=" ".join(_verdict(report, chosen)) if chosen else "",
        drawn=drawn,
        pictures={
            kind: draw_subnet(drawn, container, upright)
            for kind, upright in (("lying", False), ("upright", True))
            if drawn and container
        },
        marks=list(_marks(report)),
        finalists=list(zip(report.finalists, losses, strict=True)),
        paired=paired,
        loss_scale=Scale.holding(losses, zero=paired),
        error_scale=errors,
        stages=[(stage, [("line", colours[s.name], s.name) for s in stage.series]) for stage in report.stages],
        part_names=PARTS,
        commands=report.facts.commands,
        notes=report.notes,
    )


def amount(kind: str, used: float) -> str:
    """What is spent of a budget, or may be, with its unit."""
    if kind == "latency":
        return f"{used:.3g} ms"
    return short_count(used) + ("B" if kind == "size" else "")


def _verdict(report: Report, chosen: Chosen) -> Iterator[str]:
    """Who is tied with the winner, and what the uniform shape scores."""
    others = [row for row in report.finalists if row.subnet.id != chosen.subnet.id]
    tied = sum(row.tied for row in others)
    if tied:
        who = f"Of the {len(others)} other finalists, {tied}" if len(others) > 1 else "The other finalist"
        yield f"{who} {'is' if tied == 1 else 'are'} statistically tied with it."
    elif others:
        yield "It differs from every other finalist by more than the noise."
    own = next((row for row in report.finalists if row.subnet.id == chosen.subnet.id), None)
    uniform = next((row for row in others if row.origin == UNIFORM), None)
    if own and own.origin == UNIFORM:
        yield "It is a uniform shape itself."
    elif uniform and chosen.loss:
        scores = f"{chosen.loss.value:.3f} to {uniform.loss.value:.3f}"
        if uniform.tied:
            yield f"The best uniform shape is among the tied, {scores}."
        elif chosen.loss.value < uniform.loss.value:
            yield f"It beats the best uniform shape, {scores}."
        else:
            yield f"The best uniform shape beats it, {scores}."


def _marks(report: Report) -> Iterator[tuple[str, str, str]]:
    """The legend of the front."""
    present = {group_name(candidate, report) for candidate in report.candidates}
    for group in GROUPS:
        if group.name in present:
            yield group.symbol, group.colour, group.meaning
    if any(bound.kind in ("params", "macs") for bound in report.budget):
        yield "dashes", "mark", "budget"


def _excess(row: FinalistRow, first: FinalistRow) -> Measure:
    low, high = row.excess or (None, None)
    return Measure(row.loss.value - first.loss.value, low, high)
