"""What a machine has and lacks, as a table in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from nestling.reports.terminal import markup, out, tell


def show_findings(rows: Sequence[tuple[str, str, str]]) -> None:
    """A row for each thing that was looked at: its name, what was found, and what to do if that is a problem."""
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, said, remedy in rows:
        table.add_row(name, markup(said) + (f"\n[yellow]→ {markup(remedy)}[/]" if remedy else ""))
    out.print(table)
    problems = sum(1 for *_, remedy in rows if remedy)
    tell(f"{problems} of {len(rows)} could be better: see →" if problems else "Nothing is in the way.")
