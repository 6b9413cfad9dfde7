"""How random subnets are drawn: evenly over sizes, depths, dimensions or architectures, or a mixture of these.

Every further layer multiplies the architectures, so what is even over architectures is hardly ever shallow: 97 % of
`base` keeps all twelve layers. The other rules cut the space into parts, give each a share, and draw uniformly inside.
Nothing is ever rejected: all of it is exact counting, done once for a space and a budget and then kept.

    size         even over ten bands of the logarithm of parameters, then over depths and over kept layers
    depth        even over depths, then over kept layers
    dimension    each dimension by itself: LightHuBERT's (arXiv 2203.15610)
    subnet       even over architectures
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise, product
from math import ceil
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.budget import Bound, Budget
from search_spaces.costs import PARAMS
from search_spaces.counting import Census
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet

Draws = str | dict[str, float]
"""A rule, or rules with their weights."""
RULES = ("size", "depth", "dimension", "subnet")
NUM_BANDS = 10
"""Of sizes. In each the larger are the more likely where there are more of them."""
MAX_WEIGHT = 1000.0
ROUNDS = 20
"""Of evening out the depths; in the shipped spaces they are even to four digits after five."""


def check_draws(value: Any) -> Draws:
    """`value`, if it says how to draw.

    Raises:
        NestlingError: It names no rule, or a weight is not a positive number; lists every problem.
    """
    if isinstance(value, str):
        names: Iterable[Any] = [value]
    elif isinstance(value, dict) and value:
        names = value
    else:
        rules = ", ".join(RULES)
        raise NestlingError(f"want one of {rules}, or weights such as {{size: 0.5, subnet: 0.5}}; got {value!r}")
    problems = [f"no draws by `{name}`; {suggest(name, RULES)}" for name in names if name not in RULES]
    for name, weight in value.items() if isinstance(value, dict) else ():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
            problems.append(f"the weight of `{name}` must be above 0 and at most {MAX_WEIGHT:g}, got {weight!r}")
    if problems:
        raise NestlingError(*problems)
    draws: Draws = value
    return draws


def describe_draws(draws: Draws) -> str:
    """In words: `by size`, or `by size 50% and subnet 50%` of a mixture."""
    if isinstance(draws, str):
        return f"by {draws}"
    total = sum(draws.values())
    return "by " + " and ".join(f"{rule} {weight / total:.0%}" for rule, weight in draws.items())


def draw_subnet(space: SearchSpace, rng: Random, draws: Draws = "subnet", budget: Budget | None = None) -> Subnet:
    """A random subnet that holds the budget.

    Args:
        space: Where to draw.
        rng: The only source of randomness.
        draws: As `check_draws` passes it.
        budget: What a rule is even over is then what holds it.

    Raises:
        InfeasibleBudget: Nothing holds the budget.
    """
    weights = {draws: 1.0} if isinstance(draws, str) else draws
    rules = [rule for rule in RULES if rule in weights]  # however they were listed
    rule = rules[0] if len(rules) == 1 else rng.choices(rules, [weights[each] for each in rules])[0]
    if rule == "subnet":
        return space.sample(rng, budget)
    return rng.choice(_RULES[rule](space, _bounds(budget))).draw(rng)


def draw_each_size(space: SearchSpace, rng: Random, n: int, budget: Budget | None = None) -> list[Subnet]:
    """As `draw_subnet` by size does, but one from each of `n` bands, smallest first; a band that is empty has none.

    Raises:
        InfeasibleBudget: Nothing holds the budget.
    """
    return [band.draw(rng) for band in _bands(space, _bounds(budget), n)] if n > 0 else []


def smallest_in_turn(space: SearchSpace, step: int) -> Subnet:
    """The smallest subnet, at each step with the next of the sets of layers that one of its depth may keep."""
    smallest = space.smallest()
    paths = space.depth[len(smallest.layers)]
    return replace(smallest, kept=paths[step % len(paths)])


class _Strata:
    """Disjoint parts of a space that hold some bounds, none of them empty, each with its share of the draws."""

    def __init__(self, parts: Sequence[Census], shares: Iterable[float]) -> None:
        self._parts, self._running = parts, list(accumulate(shares))

    def draw(self, rng: Random) -> Subnet:
        """A part by its share, then a uniform subnet of it."""
        (part,) = rng.choices(self._parts, cum_weights=self._running)
        return part.subnet(rng.randrange(part.total))


@lru_cache(maxsize=8)
def _bands(space: SearchSpace, bounds: tuple[Bound, ...], num_bands: int = NUM_BANDS) -> tuple[_Strata, ...]:
    """Bands of parameters, even in their logarithm, each of them over depths; smallest first."""
    budget = Budget((Bound(PARAMS), *bounds)) if bounds else None  # the first bound says what is extreme
    least, most = (PARAMS.count(space.backbone, s) for s in (space.smallest(budget), space.largest(budget)))
    edges = [ceil(least * (most / least) ** (i / num_bands)) for i in range(num_bands)] + [most + 1]
    rows = [
        [_census(space, {"kept": paths}, (*bounds, Bound(PARAMS, high - 1, low))) for paths in space.depth.values()]
        for low, high in pairwise(edges)
        if low < high
    ]
    rows = [row for row in rows if any(part.total for part in row)]
    shares = _balance(np.array([[part.total > 0 for part in row] for row in rows]))
    return tuple(
        _Strata([part for part in row if part.total], [share for share in shared if share])
        for row, shared in zip(rows, shares.tolist(), strict=True)
    )


def _balance(feasible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each band, the shares of its depths, so that over all bands, which are even, depths are as even as can be.

    Iterative proportional fitting: what is found is the nearest to even shares in every band that has the totals.
    Where no shares have them (most bands may be too big for a small depth), the nearest totals are taken.

    Args:
        feasible: Which depths each band has, (bands, depths); no band is empty.
    """
    shares = feasible.astype(np.float64)
    for _ in range(ROUNDS):
        shares /= np.maximum(shares.sum(0), np.finfo(np.float64).tiny)
        shares /= shares.sum(1, keepdims=True)
    return shares


@lru_cache(maxsize=8)
def _depths(space: SearchSpace, bounds: tuple[Bound, ...]) -> tuple[_Strata, ...]:
    return _even(space, bounds, ({"kept": paths} for paths in space.depth.values()))


@lru_cache(maxsize=8)
def _dimensions(space: SearchSpace, bounds: tuple[Bound, ...]) -> tuple[_Strata, ...]:
    """At one width and depth all other dimensions have the same choices: uniform there is each by itself."""
    pairs = product(space.embed_dim, space.depth.values())
    return _even(space, bounds, ({"embed_dim": (width,), "kept": paths} for width, paths in pairs))


def _even(
    space: SearchSpace, bounds: tuple[Bound, ...], parts: Iterable[Mapping[str, tuple[Any, ...]]]
) -> tuple[_Strata, ...]:
    """Those parts in which something holds the bounds."""
    found = [census for part in parts if (census := _census(space, part, bounds)).total]
    if not found:
        space.largest(Budget(bounds))  # says why
    return tuple(_Strata([census], [1.0]) for census in found)


def _census(space: SearchSpace, part: Mapping[str, tuple[Any, ...]], bounds: tuple[Bound, ...]) -> Census:
    return Census(space.boxes(part), bounds)


def _bounds(budget: Budget | None) -> tuple[Bound, ...]:
    return budget.bounds if budget else ()


_RULES: dict[str, Callable[[SearchSpace, tuple[Bound, ...]], tuple[_Strata, ...]]] = {
    "size": _bands,
    "depth": _depths,
    "dimension": _dimensions,
}
