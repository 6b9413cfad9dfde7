"""Scores of encoders beside each other, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from nestling.reports.terminal import markup, out, tell
from search_spaces.amounts import short_count
from speech_tasks.comparison import BOTTOM_LINE, MEAN, Cell, Comparison, describe_metric, format_value
from speech_tasks.task import IN_DOMAIN


def show_comparison(comparison: Comparison) -> None:
    """Every metric, five to a table, and what the marks mean."""
    columns = [*comparison.metrics, MEAN]
    scored = any(comparison.score(entry, IN_DOMAIN) is not None for entry in comparison.entries)
    for first in range(0, len(columns), 5):
        out.print(_comparison_table(comparison, columns[first : first + 5], first == 0, scored))
    said = ["± is half of the 95 % interval"]
    if len(comparison.entries) > 1:
        said.append(f"▲ better, ▼ worse than {comparison.reference.name} by more than the paired interval")
    if scored:
        said.append(f"score: 0 is {BOTTOM_LINE}, 1000 is {comparison.reference.name}")
    over = {condition: comparison.counted(condition) for condition in comparison.conditions}
    if len(set(over.values())) > 1:
        said += [f"{MEAN} {condition}: over {', '.join(metrics)}" for condition, metrics in over.items()]
    tell("; ".join(said) + ".")
    for remark in comparison.remarks:
        tell(remark)


def _comparison_table(comparison: Comparison, metrics: Sequence[str], costs: bool, scored: bool) -> Table:
    """A row for each encoder and condition; the last table, that with the mean, has the score too."""

    def cost(count: int | None) -> str:
        return short_count(count) if count is not None else "–"

    scored = scored and MEAN in metrics
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("encoder", overflow="fold", max_width=22)
    for name in [*(["params", "MACs@1s"] if costs else []), *metrics, *(["score"] if scored else [])]:
        metric = describe_metric(name) if name in metrics else None
        unit = f"\n{metric.unit} {'↑' if metric.higher_is_better else '↓'}" if metric else ""
        table.add_column(f"{name}{unit}", justify="right", no_wrap=True)
    for entry in comparison.entries:
        for condition in comparison.conditions:
            first = condition == comparison.conditions[0]
            score = comparison.score(entry, condition)
            table.add_row(
                markup(entry.name if first else f"  {condition}"),
                *([cost(n) if first else "" for n in (entry.params, entry.macs_1s)] if costs else []),
                *(_cell(comparison.cell(entry, name, condition)) for name in metrics),
                *(["–" if score is None else f"{score:.0f}"] if scored else []),
                style="" if first else "dim",
            )
    return table


def _cell(cell: Cell | None) -> str:
    """`12.3 ± 0.4 ▲`."""
    if cell is None:
        return "–"
    name, score = cell.score.metric, cell.score
    mark = {"better": " [green]▲[/]", "worse": " [red]▼[/]", "": "  "}[cell.verdict]
    return f"{format_value(name, score.value)} ± {format_value(name, score.half_interval)}{mark}"
