"""The demo teacher beside its baselines, all tasks, in and out of domain.

    nestling evaluate demo FIRST untrained:demo log-mel mfcc --task all --split both --out runs/teacher
    python benchmarks/teacher.py runs/teacher --split both > benchmarks/teacher.md

FIRST is an earlier teacher to compare with, or left out.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

from checkpoints.versions import made_with
from nestling.workflows.evaluation import load_evaluations
from speech_tasks.comparison import MEAN, Comparison, Entry, describe_metric, format_value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where `nestling evaluate --out` wrote.")
    parser.add_argument("--split", default="test", help="As in `nestling evaluate`.")
    arguments = parser.parse_args()
    folder = arguments.folder
    comparison = Comparison(load_evaluations(folder, arguments.split), "demo")
    command = f"python benchmarks/teacher.py {folder} --split {arguments.split}"
    print(f"# The demo teacher\n\n{date.today()}, `{command}`, {made_with()}\n")
    print(f"{comparison.caveat} Half of a 95 % interval after each ±; intervals of differences are paired.")
    print("The mean is over the metrics that all encoders have.\n")
    for condition in comparison.conditions:
        show_scores(comparison, condition)
        show_margins(comparison, condition)


def show_scores(comparison: Comparison, condition: str) -> None:
    """A row for each metric, a column for each encoder."""
    names = [entry.name for entry in comparison.entries]
    print(f"## {condition.capitalize()}\n\n| | {' | '.join(names)} |\n|---|{'---:|' * len(names)}")
    for metric in (*comparison.metrics, MEAN):
        cells = [comparison.cell(entry, metric, condition) for entry in comparison.entries]
        if any(cells):
            shown = [
                f"{format_value(metric, c.score.value)} ± {format_value(metric, c.score.half_interval)}" if c else "–"
                for c in cells
            ]
            kind = describe_metric(metric)
            print(f"| {metric} {kind.unit} {'↑' if kind.higher_is_better else '↓'} | {' | '.join(shown)} |")
    print()


def show_margins(comparison: Comparison, condition: str) -> None:
    """By how many intervals the teacher is better than each of the others."""
    others = [entry for entry in comparison.entries if entry is not comparison.reference]
    print("The teacher's advantage over each, in half intervals of the paired difference:\n")
    print(f"| | {' | '.join(entry.name for entry in others)} |\n|---|{'---:|' * len(others)}")
    for metric in comparison.metrics:
        margins = [margin(comparison, entry, metric, condition) for entry in others]
        if any(m != "–" for m in margins):
            print(f"| {metric} | {' | '.join(margins)} |")
    print()


def margin(comparison: Comparison, entry: Entry, metric: str, condition: str) -> str:
    cell = comparison.cell(entry, metric, condition)
    if cell is None or cell.difference is None or not cell.half_interval:
        return "–"
    sign = -1 if describe_metric(metric).higher_is_better else 1
    return f"{sign * cell.difference / cell.half_interval:+.1f}"


if __name__ == "__main__":
    main()
