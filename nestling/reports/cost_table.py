"""What spaces and subnets cost, as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from nestling.reports.terminal import markup, out, tell
from search_spaces.budget import Budget
from search_spaces.profile import SpaceProfile

if TYPE_CHECKING:
    from nas.cross_check import Check  # which brings the counters with it


def show_space(name: str, budget: Budget, profile: SpaceProfile, held: Mapping[str, Mapping[str, Any]]) -> None:
    """How many subnets a space has and what they cost; how many hold the budget, the smallest and largest of them."""
    table = Table("", "least", "median", "most", "front-end floor", title=markup(f"{name}: {profile.total:,} subnets"))
    for label, span, floor, share in (
        ("parameters", profile.params, profile.floor_params, profile.floor_params_share),
        ("MACs @1s", profile.macs, profile.floor_macs, profile.floor_macs_share),
    ):
        spans = f"{span.least:,}", f"{span.median:,}", f"{span.most:,}"
        table.add_row(label, *spans, f"{floor:,} ({share:.0%} of least)")
    out.print(table)
    if budget.bounds:
        tell(f"{budget.text}: {profile.fitting:,} subnets hold it ({profile.fitting_share:.2%})")
        for label, cost in held.items():
            tell(f"  {label} {cost['id']}: {cost['params']:,} parameters, {cost['macs_1s']:,} MACs @1s")
        if profile.fitting == profile.total:
            tell("  the budget does not bind: every subnet holds it")
    for bound in budget.latency:
        tell(f"{bound} is measured, which takes a supernet: a search holds it, and nothing is counted for it here.")
    tell("Parameters are counted as transformers counts a HubertModel: no prediction heads.")


def show_costs(name: str, parts: Mapping[str, tuple[int, int]], seconds: float, checks: Sequence[Check] = ()) -> None:
    """Parameters and MACs of each group of modules, and what other counters say."""
    table = Table("group", "parameters", f"MACs @{seconds:g}s", title=markup(name))
    for group, (params, macs) in parts.items():
        table.add_row(group, f"{params:,}", f"{macs:,}")
    table.add_row("total", *(f"{sum(p[i] for p in parts.values()):,}" for i in (0, 1)), style="bold")
    out.print(table)
    if checks:
        table = Table("", "tool", "as it says", "corrected", "", "correction", title="Other counters, the same encoder")
        for check in checks:
            verdict = "exact" if check.exact else f"closed form {check.expected:,}"
            table.add_row(
                check.quantity, check.tool, f"{check.raw:,}", f"{check.corrected:,}", verdict, check.correction
            )
        out.print(table)
