"""Neighbours and children of subnets, for searches: uniform over the part of a space that some genes span."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from search_spaces.budget import Budget
from search_spaces.counting import Census
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet


def mutate(space: SearchSpace, subnet: Subnet, rng: Random, budget: Budget | None = None) -> Subnet:
    """A neighbour that holds the budget: of up to four random genes one must change and the others may.

    It is uniform over the subnets that these genes span. Where none fits, other and more genes are freed.

    Raises:
        NestlingError: `subnet` is not in the space.
        InfeasibleBudget: Nothing holds the budget.
    """
    own = space.genes(subnet)
    variable = [gene for gene in own if len(space.choices[gene]) > 1]
    for num_free in _doubling(rng.randint(1, 4), len(variable)):
        freed = rng.sample(variable, num_free)
        part = {gene: (value,) for gene, value in own.items()}
        part |= {gene: space.choices[gene] for gene in freed}
        part[freed[0]] = tuple(value for value in space.choices[freed[0]] if value != own[freed[0]])
        if child := _draw(space, part, rng, budget):
            return child
    return space.sample(rng, budget)


def cross(space: SearchSpace, a: Subnet, b: Subnet, rng: Random, budget: Budget | None = None) -> Subnet:
    """A child of two subnets that holds the budget, each gene from either parent.

    It is uniform over all such children. Where none fits, random genes are freed, more and more.

    Raises:
        NestlingError: `a` or `b` is not in the space.
        InfeasibleBudget: Nothing holds the budget.
    """
    parents = space.genes(a), space.genes(b)
    genes = [gene for gene in space.choices if any(gene in parent for parent in parents)]
    both = {gene: tuple({parent[gene]: None for parent in parents if gene in parent}) for gene in genes}
    for num_free in (0, *_doubling(1, len(genes))):
        freed = {gene: space.choices[gene] for gene in rng.sample(genes, num_free)}
        if child := _draw(space, both | freed, rng, budget):
            return child
    return space.sample(rng, budget)


def _draw(space: SearchSpace, part: Mapping[str, tuple[Any, ...]], rng: Random, budget: Budget | None) -> Subnet | None:
    """A uniform subnet of a part of the space; None when nothing there holds the budget."""
    census = Census(space.boxes(part), budget.bounds if budget else ())
    return census.subnet(rng.randrange(census.total)) if census.total else None


def _doubling(start: int, end: int) -> Iterator[int]:
    """start, 2 start, 4 start … and last `end`; nothing when `end` is 0."""
    while 0 < start < end:
        yield start
        start *= 2
    if end:
        yield end
