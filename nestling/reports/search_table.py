"""What training and search came to, and what spaces and subnets cost, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from distillation.stages import Stage
from nestling.reports.run_facts import StageSummary
from nestling.reports.terminal import log, markup, out, tell
from search_spaces.amounts import short_count

Row = Mapping[str, Any]


def show_stages(stages: Sequence[StageSummary]) -> None:
    """What each stage did to the container."""
    table = Table(
        "stage", "steps", "container's loss", "its phone error", title="Training", title_justify="left", box=SIMPLE
    )
    for stage in stages:
        phones = (stage.phone_error_before, stage.phone_error_after)
        table.add_row(
            markup(stage.name),
            str(stage.steps),
            f"{stage.loss_before:.3f} → {stage.loss_after:.3f}",
            "–" if None in phones else f"{100 * phones[0]:.1f} % → {100 * phones[1]:.1f} %",  # type: ignore[operator]
        )
    log.print(table)


def show_estimate(stages: Sequence[Stage], step_seconds: Sequence[float], memory_bytes: float) -> None:
    """What training would take, stage by stage."""
    table = Table("stage", "steps", "seconds a step", "hours", title="What training would take (estimated)")
    for stage, seconds in zip(stages, step_seconds, strict=True):
        table.add_row(markup(stage.name), str(stage.steps), f"{seconds:.2f}", f"{seconds * stage.steps / 3600:.2f}")
    out.print(table)
    tell(f"memory: about {memory_bytes / 2**30:.1f} GiB; nothing was trained")


def show_result(result: Row) -> None:
    """The winner, who comes near it, and how sure that is."""
    finalists = result["finalists"]
    winner = finalists[0]
    table = Table(box=SIMPLE, title=f"Budget: {result['budget'] or 'none'}", title_justify="left", pad_edge=False)
    timed = bool(result["latency_seconds"])
    for name in ("", "id", "params", "MACs@1s", "loss", "above the best", "", *(["ms"] if timed else [])):
        table.add_column(name, no_wrap=True, justify="left" if name in ("", "id") else "right")
    named = [("–", result["uniform"]), ("–", result["largest"])]
    rows = [*((str(i), row) for i, row in enumerate(finalists, start=1)), *((k, v) for k, v in named if v)]
    shown: set[str] = set()
    for label, row in rows:
        if row["id"] not in shown:
            shown.add(row["id"])
            low, high = row["excess_loss"]
            table.add_row(
                label,
                row["id"],
                short_count(row["params"]),
                short_count(row["macs_1s"]),
                f"{row['loss']:.4f}",
                "" if row is winner else f"{low:+.3f} … {high:+.3f}",
                row["origin"] + (", tied" if row["tied"] and row is not winner else ""),
                *([" ".join(f"{latency['median']:.1f}" for latency in row["latency_ms"])] if timed else []),
            )
    out.print(table)
    tell(f"The loss is the {result['objective']}, a share.")
    used = "; ".join(f"{u['share']:.1%} of {u['bound']}" for u in result["utilization"])
    tell(
        f"Chosen: {winner['id']}, {winner['params']:,} parameters{f' ({used})' if used else ''}. "
        + describe_rivals(result["scored"] - 1, result["tied"] - 1)
    )


def describe_rivals(others: int, tied: int) -> str:
    """How far a search can tell its winner from the others that it scored."""
    if not others:
        return "Nothing else was scored."
    if not tied:
        return f"None of the other {others} that were scored is tied with it."
    return f"Of the other {others} that were scored, {tied} cannot be told from it."
