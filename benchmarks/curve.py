"""The demo's curve: every task against size, on `test`.

    python benchmarks/encoders.py runs/shapes runs/demo --alone
    nestling evaluate runs/shapes/* demo log-mel mfcc --task all --split both --out runs/suite
    python benchmarks/curve.py runs/suite --split both > benchmarks/curve.md

runs/demo is a finished run of `nestling demo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path

from checkpoints.versions import made_with
from nestling.workflows.evaluation import load_evaluations
from speech_tasks.comparison import MEAN, Comparison, Entry, describe_metric, format_value

SIZES = ("smallest", "middle", "container")
"""What the names of encoders hold that are to differ."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where `nestling evaluate --out` wrote.")
    parser.add_argument("--split", default="test", help="As in `nestling evaluate`.")
    arguments = parser.parse_args()
    folder = arguments.folder
    entries = sorted(load_evaluations(folder, arguments.split), key=lambda entry: entry.params or 0)
    comparison = Comparison(entries, "demo")
    command = f"python benchmarks/curve.py {folder} --split {arguments.split}"
    print(f"# Every task against size\n\n{date.today()}, `{command}`, {made_with()}\n")
    print(f"{comparison.caveat} On `test`; half of a 95 % interval after each ±.")
    print("The mean is over the metrics that all encoders have; those that lack some were scored by fewer tasks.\n")
    for condition in comparison.conditions:
        show(comparison, condition)
    sizes = [next(e for e in entries if name in e.name and "alone" not in e.name) for name in SIZES]
    print(
        f"## Whether sizes differ\n\n{', '.join(e.name for e in sizes)}: differences in domain, larger less smaller.\n"
    )
    show_steps(entries, sizes)


def show(comparison: Comparison, condition: str) -> None:
    """A row for each encoder, smallest first."""
    metrics = [m for m in (*comparison.metrics, MEAN) if comparison.cell(comparison.reference, m, condition)]
    heads = [f"{m} {'↑' if describe_metric(m).higher_is_better else '↓'}" for m in metrics]
    print(f"## {condition.capitalize()}\n\n| | parameters | {' | '.join(heads)} |\n|---|---:|{'---:|' * len(heads)}")
    for entry in comparison.entries:
        cells = [comparison.cell(entry, m, condition) for m in metrics]
        shown = [
            f"{format_value(m, c.score.value)} ± {format_value(m, c.score.half_interval)}" if c else "–"
            for m, c in zip(metrics, cells, strict=True)
        ]
        print(f"| {entry.name} | {entry.params or 0:,} | {' | '.join(shown)} |")
    print()


def show_steps(entries: Sequence[Entry], sizes: Sequence[Entry]) -> None:
    """Each size against the next, by paired differences."""
    steps = list(pairwise(sizes))
    print(
        f"| | {' | '.join(f'{SIZES[i]} to {SIZES[i + 1]}' for i in range(len(steps)))} |\n|---|{'---:|' * len(steps)}"
    )
    num_apart = 0
    comparisons = [Comparison(entries, small.name) for small, _ in steps]
    metrics = comparisons[0].metrics
    for metric in (*metrics, MEAN):
        shown, verdicts = [], []
        for comparison, (_, large) in zip(comparisons, steps, strict=True):
            cell = comparison.cell(large, metric, comparison.conditions[0])
            if cell and cell.difference is not None and cell.half_interval is not None:
                half = format_value(metric, cell.half_interval)
                shown.append(f"{format_value(metric, cell.difference, sign=True)} ± {half} {cell.verdict}")
                verdicts.append(cell.verdict)
        num_apart += metric != MEAN and verdicts == ["better"] * len(steps)
        print(f"| {metric} | {' | '.join(shown)} |")
    print(f"\nEach size beats the one below it by more than the interval in {num_apart} of {len(metrics)} metrics.")


if __name__ == "__main__":
    main()
