"""Time and memory of encoders beside each other, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from nas.latency import Ratio
from nas.measurement import Timing, count_threads
from nestling.reports.terminal import markup, out, tell

Row = Mapping[str, Any]


def show_timings(timings: Sequence[Timing]) -> None:
    """For each number of threads, every encoder and runtime, five durations to a table; and what the rows mean."""
    durations = sorted({timing.seconds for timing in timings})
    for count in dict.fromkeys(timing.threads for timing in timings):
        for first in range(0, len(durations), 5):
            shown = durations[first : first + 5]
            out.print(_timing_table([t for t in timings if t.threads == count and t.seconds in shown], shown))
    said = [
        "ms: median for a waveform alone, ± half of its 95% interval",
        "× real time: seconds of audio in a second, more is faster",
    ]
    if references := dict.fromkeys(timing.reference for timing in timings if timing.reference):
        names = " or ".join(references)
        said.append(f"ratio: time over that of {names} in the same runtime; ▲ faster, ▼ slower by its paired interval")
    if any(timing.front_end for timing in timings):
        said.append("front-end: its share of the time; the rest is the Transformer's")
    tell("; ".join(said) + ".")


def _timing_table(timings: Sequence[Timing], durations: Sequence[float]) -> Table:
    """A block of rows for each encoder and runtime."""
    table = Table(
        title=f"Time on {count_threads(timings[0].threads)}", title_justify="left", box=SIMPLE, pad_edge=False
    )
    table.add_column("encoder", overflow="fold", max_width=22)
    table.add_column("")
    for seconds in durations:
        table.add_column(f"{seconds:g} s", justify="right", no_wrap=True)
    for encoder, runtime in dict.fromkeys((t.encoder, t.runtime) for t in timings):
        row = [t for t in timings if (t.encoder, t.runtime) == (encoder, runtime)]
        table.add_row(markup(encoder), "ms", *(_time(t) for t in row))
        table.add_row(f"  {runtime}", "× real time", *(_figure(t.times_real_time) for t in row), style="dim")
        if row[0].ratio:
            table.add_row("", "ratio", *(_ratio(t.ratio) for t in row if t.ratio), style="dim")
        if row[0].front_end:
            shares = (f"{t.front_end.median:.0%}" for t in row if t.front_end)
            table.add_row("", "front-end", *shares, style="dim")
    table.add_row("", "rounds", *(str(len(t.latency.rounds_ms)) for t in row), style="dim")
    return table


def _time(timing: Timing) -> str:
    """`12.3 ± 0.4`."""
    latency = timing.latency
    return f"{_figure(latency.median_ms)} ± {_figure((latency.high_ms - latency.low_ms) / 2)}"


def _ratio(ratio: Ratio) -> str:
    """`0.52 ± 0.01 ▲`."""
    mark = "  " if ratio.tied else " [green]▲[/]" if ratio.high < 1 else " [red]▼[/]"
    return f"{_figure(ratio.median)} ± {_figure((ratio.high - ratio.low) / 2)}{mark}"


def _figure(value: float) -> str:
    """Three digits or more: `0.52`, `12.3`, `1234`."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def show_memory(memories: Sequence[Row]) -> None:
    """What an encoder adds to its runtime, and what was measured."""
    if not memories:
        return
    table = Table(title="Peak memory, MB", title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("encoder", overflow="fold", max_width=40)
    for name in ("runtime", "encoder adds", "runtime alone", "in all"):
        table.add_column(name, justify="left" if name == "runtime" else "right", no_wrap=True)
    for row in memories:
        sizes = (row[f"{part}_bytes"] / 1e6 for part in ("encoder", "import", "peak"))
        table.add_row(markup(row["encoder"]), row["runtime"], *(f"{size:.0f}" for size in sizes))
    out.print(table)
    tell(
        "Memory: the highest resident memory of a fresh process that imports the runtime (alone: so far), opens the "
        f"encoder and encodes {memories[0]['seconds']:g} s of audio with {count_threads(memories[0]['threads'])}."
    )
