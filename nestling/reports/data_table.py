"""Recorded corpora, as a table in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from nestling.reports.terminal import markup, out, tell


def show_corpora(rows: Sequence[Mapping[str, Any]]) -> None:
    """A row for each corpus, from `workflows.data.describe_corpora`."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("hours", justify="right")
    table.add_column("speakers", justify="right")
    table.add_column("languages")
    table.add_column("licence")
    table.add_column("fetched", no_wrap=True)
    table.add_column("on disk, or to get", justify="right", no_wrap=True)
    for row in rows:
        languages = " ".join(f"{name}*" if name in row["evaluation_alone"] else name for name in row["languages"])
        size, there = row["bytes" if row["fetched"] else "download_bytes"] / 1e6, "yes" if row["fetched"] else "no"
        cells = f"{row['hours']:.2f}", str(row["speakers"]), languages, row["licence"], there, f"{size:.0f} MB"
        table.add_row(row["name"], *map(markup, cells))
    out.print(table)
    tell("* for evaluation alone. Where nobody says who speaks, a language counts as one speaker.")


def describe_row(row: Mapping[str, Any]) -> str:
    """A corpus in the cache, in a line."""
    phones = f", {row['timed_phones']:,} timed phones" if row["timed_phones"] else ""
    return (
        f"{row['name']}: {row['recordings']:,} recordings, {row['hours']:.2f} hours, {len(row['languages'])} "
        f"{'language' if len(row['languages']) == 1 else 'languages'}{phones}, {row['bytes'] / 1e6:.0f} MB; "
        f"licence: {row['licence']}."
    )
