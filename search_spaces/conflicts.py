"""Why no subnet holds a budget, and what would be feasible."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from search_spaces.budget import Bound
from search_spaces.costs import PARAMS, Cost
from search_spaces.counting import Extreme

Bounds = tuple[Bound, ...]


FindExtreme = Callable[[Bounds, Cost, bool], Extreme | None]
"""(bounds, cost, largest) -> the extreme of one space."""


def explain_infeasible(name: str, find: FindExtreme, bounds: Bounds) -> list[str]:
    """The smallest sets of bounds that conflict, a line each, with the nearest feasible values.

    Args:
        name: Of the space.
        find: Its extremes.
        bounds: They cannot all hold.
    """
    for size in range(1, len(bounds) + 1):
        conflicts = [some for some in combinations(bounds, size) if not _is_feasible(find, some)]
        if conflicts:
            return [f"no subnet of `{name}` has {_explain(find, some, bounds)}" for some in conflicts]
    raise AssertionError("the bounds can all hold")


def _is_feasible(find: FindExtreme, bounds: Bounds) -> bool:
    return find(bounds, PARAMS, False) is not None


def _explain(find: FindExtreme, conflict: Bounds, bounds: Bounds) -> str:
    """The conflict, then for each of its bounds the nearest feasible values while the others hold."""
    if len(conflict) == 1:
        bound = conflict[0]
        unit = f"; {bound.cost.describe(bound.high)}? write {bound.high}M" if bound.is_tiny else ""
        return f"{bound}; {_nearest(find, bound, ())}{unit}"
    parts = [f"{_and(conflict)} together"]
    for bound in conflict:
        others = tuple(other for other in bounds if other != bound)
        if not _is_feasible(find, others):  # another conflict; leave it to its own line
            others = tuple(other for other in conflict if other != bound)
        parts.append(f"with {_and(others)}, {_nearest(find, bound, others)}")
    return "; ".join(parts)


def _nearest(find: FindExtreme, bound: Bound, others: Bounds) -> str:
    """The feasible costs next to a bound that is infeasible with the others."""
    cost = bound.cost
    above = find((Bound(cost, low=bound.low), *others), cost, False)
    below = find((Bound(cost, high=bound.high), *others), cost, True)
    if above and below:
        return f"the nearest have {below.count:,} and {cost.describe(above.count)}"
    if above:
        return f"the smallest has {cost.describe(above.count)}"
    assert below, "the others can all hold"
    return f"the largest has {cost.describe(below.count)}"


def _and(bounds: Bounds) -> str:
    return " and ".join(map(str, bounds))
