"""The evaluation of several encoders as one HTML page: the table, every metric with its intervals, the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from nestling.reports.layer_drawing import colour_of, draw_errors, draw_likeness
from nestling.reports.page import Scale, own_text, render_page, write_page
from nestling.reports.run_facts import Measure
from speech_tasks.comparison import BOTTOM_LINE, MEAN, Cell, Comparison, Entry, describe_metric, format_value
from speech_tasks.layer_view import LayerView
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN

TONES = {"better": "real", "worse": "worse", "": "unreal"}
"""How a difference is drawn, by its verdict."""
PLACES = {IN_DOMAIN: "own", OUT_OF_DOMAIN: "other hollow"}
"""How a row of a metric is drawn, by its condition."""


@dataclass(frozen=True)
class EvaluationFacts:
    """How an evaluation was made."""

    split: str
    audio: tuple[str, ...]
    """Name and hash of every corpus."""
    command: str
    versions: tuple[tuple[str, str], ...]
    date: str
    notes: tuple[str, ...]
    """What a reader must know to not misread the numbers."""


@dataclass(frozen=True)
class _Card:
    """A metric: values on the left, differences on the right."""

    metric: str
    better: str
    cells: list[tuple[Entry, str, Cell]]
    values: Scale
    differences: Scale


def write_evaluation(comparison: Comparison, views: Mapping[str, LayerView], made: EvaluationFacts, path: Path) -> None:
    """Writes the page as one file, at once."""
    write_page(render_evaluation(comparison, views, made), path)


def render_evaluation(comparison: Comparison, views: Mapping[str, LayerView], made: EvaluationFacts) -> str:
    """The page as HTML.

    Args:
        comparison: The scores.
        views: What the layers of encoders know, by the encoder's name; may be empty.
        made: On what, when and by which versions.
    """
    places = {entry.name: i for i, entry in enumerate(comparison.entries)}
    evaluations = [entry.evaluation for entry in comparison.entries]
    return render_page(
        "evaluation.html",
        style=own_text("evaluation.css"),
        comparison=comparison,
        made=made,
        scored=any(comparison.score(entry, IN_DOMAIN) is not None for entry in comparison.entries),
        cards=list(_cards(comparison)),
        charts=list(_charts(views, places)),
        maps=list(_maps(views, comparison.reference.name)),
        key=[("line", colour_of(places[name]), name) for name in views],
        minutes=sum(e.encode_seconds + sum(e.task_seconds.values()) for e in evaluations) / 60,
        in_domain=IN_DOMAIN,
        out_of_domain=OUT_OF_DOMAIN,
        mean=MEAN,
        bottom_line=BOTTOM_LINE,
        places=PLACES,
        tones=TONES,
        count=_count,
        excess=_excess,
        format_value=format_value,
        measure=_measure,
        standing=_standing,
        title=_title,
        commands=[made.command],
        notes=made.notes,
    )


def _standing(comparison: Comparison, entry: Entry) -> str:
    """How an encoder stands to the reference."""
    if entry is comparison.reference:
        return "the reference"
    cells = [cell for metric in comparison.metrics if (cell := comparison.cell(entry, metric, IN_DOMAIN))]
    better, worse = (sum(cell.verdict == verdict for cell in cells) for verdict in ("better", "worse"))
    return f"better in {better}, worse in {worse} of {_count(cells, 'metric')}"


def _cards(comparison: Comparison) -> Iterator[_Card]:
    for metric in (*comparison.metrics, MEAN):
        cells = [
            (entry, condition, cell)
            for entry in comparison.entries
            for condition in comparison.conditions
            if (cell := comparison.cell(entry, metric, condition))
        ]
        if cells:
            values = Scale.holding(_measure(cell) for *_, cell in cells)
            differences = Scale.holding((_excess(cell) for *_, cell in cells), zero=True)
            better = "higher" if describe_metric(metric).higher_is_better else "lower"
            yield _Card(metric, better, cells, values, differences)


def _charts(views: Mapping[str, LayerView], places: Mapping[str, int]) -> Iterator[tuple[str, float, Markup]]:
    """Probes over hidden states: label, error of always saying the most frequent, and the drawing."""
    for label in dict.fromkeys(errors.label for view in views.values() for errors in view.probes):
        found = {
            name: (places[name], errors)
            for name, view in views.items()
            for errors in view.probes
            if errors.label == label
        }
        yield label, next(iter(found.values()))[1].chance, draw_errors(found)


def _maps(views: Mapping[str, LayerView], reference: str) -> Iterator[tuple[str, Markup]]:
    """Heat maps, by the encoder beside the reference."""
    for name, view in views.items():
        if name != reference and view.likeness is not None:
            yield name, draw_likeness(view.likeness, name, reference)


def _title(metric: str) -> str:
    unit = describe_metric(metric).unit
    return MEAN.capitalize() if metric == MEAN else f"{metric}, {unit}" if unit else metric


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _measure(cell: Cell) -> Measure:
    return Measure.around(cell.score.value, cell.score.half_interval)


def _excess(cell: Cell) -> Measure:
    return Measure.around(cell.difference or 0.0, cell.half_interval or 0.0)
