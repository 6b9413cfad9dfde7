"""Which subnets to score next. Every proposal holds the budget, and none is proposed twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import astuple
from itertools import chain, zip_longest
from random import Random
from typing import Protocol

import numpy as np

from nas.record import Candidate
from search_spaces.budget import Budget
from search_spaces.counting import Census
from search_spaces.draws import draw_each_size, draw_subnet
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from search_spaces.variation import cross, mutate

ATTEMPTS = 16
"""Draws for each proposal that is wanted, before the rest is filled up with subnets not seen yet."""


class Proposer(Protocol):
    """A way to choose what to score next."""

    @property
    def name(self) -> str:
        """What `--sampler` calls it."""

    def propose(self, rng: Random, history: Sequence[Candidate], budget: Budget, n: int) -> list[Subnet]:
        """Up to `n` subnets that hold the budget and are not in `history`; fewer only if there are no more.

        Args:
            rng: The only source of randomness.
            history: All that is scored and holds the budget, in the order in which it was.
            budget: Its exact bounds count, no others.
            n: >= 1.
        """


class RandomProposer:
    """Uniform draws from all subnets that hold the budget: the baseline, unbiased over subnets.

    So nearly all it draws are deep (`search_spaces.draws`). It says what the mean subnet is worth, and evolution has to
    beat it; draws that are even over something else would be a second heuristic, and no baseline.
    """

    name = "random"

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def propose(self, rng: Random, history: Sequence[Candidate], budget: Budget, n: int) -> list[Subnet]:
        """See `Proposer`."""
        seen = {candidate.subnet for candidate in history}
        return draw_unseen(lambda: self.space.sample(rng, budget), self.space, rng, seen, budget, n)


class EvolutionProposer:
    """Children of the best: one parent mutated, or two crossed; and some fresh draws beside them.

    Mutation and crossover are exact draws from the subnets that hold the budget, so nothing needs repair.

    Args:
        space: Where to search.
        population: The best so many are parents.
        tournament: Parents drawn at random, of which the best is taken.
        cross_share: Share of children with two parents.
        fresh_share: Share of proposals that are drawn anew, evenly over depths. Not over sizes: most of those are far
            below the budget, where the winner hardly is.

    Source: tournaments of regularised evolution (arXiv 1802.01548); here the best never age: scores do not.
    """

    name = "evolution"

    def __init__(
        self,
        space: SearchSpace,
        population: int = 24,
        tournament: int = 4,
        cross_share: float = 0.5,
        fresh_share: float = 0.1,
    ) -> None:
        self.space = space
        self.population, self.tournament = population, tournament
        self.cross_share, self.fresh_share = cross_share, fresh_share

    def propose(self, rng: Random, history: Sequence[Candidate], budget: Budget, n: int) -> list[Subnet]:
        """See `Proposer`."""
        scored = [candidate for candidate in history if not candidate.score.failed]
        best = sorted(scored, key=lambda candidate: candidate.rank)[: self.population]

        def pick() -> Subnet:
            return best[min(rng.randrange(len(best)) for _ in range(self.tournament))].subnet

        def draw() -> Subnet:
            if not best or rng.random() < self.fresh_share:
                return draw_subnet(self.space, rng, "depth", budget)
            if rng.random() < self.cross_share:
                return cross(self.space, pick(), pick(), rng, budget)
            return mutate(self.space, pick(), rng, budget)

        return draw_unseen(draw, self.space, rng, {candidate.subnet for candidate in history}, budget, n)


def propose_first(
    space: SearchSpace, rng: Random, history: Sequence[Candidate], budget: Budget, n: int
) -> list[Subnet]:
    """What every search looks at before it has learned anything.

    The largest subnet that fits; then, in turn, uniform shapes that cannot grow, spread evenly, and random
    subnets, one from each band of parameters between the least and the most that fit, as training draws by size.

    Raises:
        InfeasibleBudget: Nothing holds the budget.
    """
    uniform = _spread(find_maximal_uniform(space, budget), n // 2)
    strata = draw_each_size(space, rng, n - 1 - len(uniform), budget)
    ordered = dict.fromkeys([space.largest(budget), *chain(*zip_longest(uniform, strata))])
    seen = {candidate.subnet for candidate in history}
    first = [subnet for subnet in ordered if subnet is not None and subnet not in seen][:n]
    seen.update(first)
    return first + draw_unseen(lambda: space.sample(rng, budget), space, rng, seen, budget, n - len(first))


def find_maximal_uniform(space: SearchSpace, budget: Budget) -> list[Subnet]:
    """The uniform shapes that cannot grow: no other that fits is nowhere smaller. By width, then by depth."""
    shapes = space.uniform_shapes(budget)
    sizes = np.array([(s.embed_dim, len(s.layers), sum(s.conv_dims), *astuple(s.layers[0])) for s in shapes])
    maximal = [i for i, size in enumerate(sizes) if (sizes >= size).all(axis=1).sum() == 1]
    return [shapes[i] for i in sorted(maximal, key=lambda i: tuple(sizes[i]))]


def draw_unseen(
    draw: Callable[[], Subnet],
    space: SearchSpace,
    rng: Random,
    seen: Collection[Subnet],
    budget: Budget,
    n: int,
) -> list[Subnet]:
    """`n` different subnets from `draw` that are not in `seen`; fewer only if no more hold the budget.

    When `draw` keeps repeating itself, the rest are uniform draws from what is left.
    """
    drawn: dict[Subnet, None] = {}
    for _ in range(ATTEMPTS * n):
        if len(drawn) < n and (subnet := draw()) not in seen:
            drawn[subnet] = None
    missing = n - len(drawn)
    return [*drawn, *_draw_rest(space, rng, {*seen, *drawn}, budget, missing)] if missing else list(drawn)


def _draw_rest(space: SearchSpace, rng: Random, seen: set[Subnet], budget: Budget, n: int) -> list[Subnet]:
    """`n` uniform draws without replacement from what is not in `seen`; all there is if that is less."""
    total = space.count(budget)
    if total <= 2 * (len(seen) + n):  # so few that they can be listed
        census = Census(space.boxes(), budget.bounds)
        rest = [subnet for subnet in map(census.subnet, range(total)) if subnet not in seen]
        return rng.sample(rest, min(n, len(rest)))
    drawn: dict[Subnet, None] = {}
    for _ in range(64 * n):  # each draw is new with a chance above one half
        if len(drawn) < n and (subnet := space.sample(rng, budget)) not in seen:
            drawn[subnet] = None
    return list(drawn)


def _spread(subnets: Sequence[Subnet], n: int) -> list[Subnet]:
    """At most `n` of them, evenly spaced, both ends included."""
    if len(subnets) <= n:
        return list(subnets)
    return [subnets[round(i)] for i in np.linspace(0, len(subnets) - 1, n)]
