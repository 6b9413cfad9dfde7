"""Exact counting against brute force on spaces small enough to list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.budget import Bound, Budget, InfeasibleBudget
from search_spaces.costs import PARAMS, Cost
from search_spaces.counting import Census, Shares, find_median
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Layer, Subnet
from search_spaces.variation import cross

BACKBONE = Backbone(head_dim=8, conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), pos_conv_kernel=8, pos_conv_groups=8)
COSTS = (PARAMS, Cost("size"), Cost("macs", 0.1), Cost("macs", 3.0))
SPACES = {
    "widths": SearchSpace(
        name="widths",
        backbone=BACKBONE,
        conv_dims=((8, 16), (8, 24), (16, 32)),
        embed_dim=(16, 40),
        heads=(1, 2),
        ffn_dim=(16, 40, 72),
        depth={1: ((0,), (2,)), 2: ((0, 2),), 3: ((0, 1, 2),)},
    ),
    "ratios": SearchSpace(
        name="ratios",
        backbone=BACKBONE,
        conv_dims=((8, 16), (16,), (16, 24, 32)),
        embed_dim=(16, 24, 40),
        heads=(1, 2, 5),
        ffn_ratio=(1.5, 3.3),
        depth={1: ((1,),), 2: ((0, 1), (0, 2)), 3: ((0, 1, 2),)},
    ),
}


@cache
def all_subnets(name: str) -> list[Subnet]:
    return list(enumerate_subnets(SPACES[name]))


def enumerate_subnets(space: SearchSpace) -> Iterator[Subnet]:
    for width in space.embed_dim:
        options = [Layer(h, f) for h in space.heads for f in space.ffn_dims(width)]
        for num_layers, alternatives in space.depth.items():
            for layers in product(options, repeat=num_layers):
                for kept, front in product(alternatives, product(*space.conv_dims)):
                    yield Subnet(front, width, layers, kept)


@cache
def all_costs(name: str) -> dict[Cost, np.ndarray]:
    return {cost: np.array([cost.count(BACKBONE, s) for s in all_subnets(name)]) for cost in COSTS}


def fitting(name: str, bounds: tuple[Bound, ...]) -> list[Subnet]:
    fits = np.ones(len(all_subnets(name)), dtype=bool)
    for bound in bounds:
        counts = all_costs(name)[bound.cost]
        fits &= (bound.low <= counts) & (counts <= bound.high)
    return [all_subnets(name)[i] for i in np.flatnonzero(fits)]


def random_bound(name: str, rng: Random) -> Bound:
    """An upper bound, a wide band or a narrow one; sometimes out of reach."""
    cost = rng.choice(COSTS)
    counts = all_costs(name)[cost]
    a, b = sorted(round(int(rng.choice(counts)) * rng.choice([0.5, 0.9, 1, 1, 1.1, 2])) for _ in range(2))
    kind = rng.choice(["upper", "wide", "narrow"])
    if kind == "upper":
        return Bound(cost, high=b)
    return Bound(cost, high=b if kind == "wide" else a + a // 1000, low=a)


@pytest.mark.parametrize("name", SPACES)
def test_the_whole_space_is_listed_once(name):
    space, expected = SPACES[name], all_subnets(name)
    census = Census(space.boxes())
    listed = [census.subnet(rank) for rank in range(census.total)]
    assert len(listed) == len(set(listed)) == len(expected) == space.count()
    assert set(listed) == set(expected)
    assert all(subnet in space for subnet in listed)
    with pytest.raises(IndexError, match=f"a rank is below the total of {len(expected):,} subnets"):
        census.subnet(len(expected))


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("num_bounds", [1, 2, 3])
def test_random_budgets_against_brute_force(name, num_bounds):
    space, rng = SPACES[name], Random(num_bounds)
    verdicts: Counter[str] = Counter()
    for n in range(100):
        bounds = tuple(random_bound(name, rng) for _ in range(num_bounds))
        budget, expected = Budget(bounds), fitting(name, bounds)
        assert space.count(budget) == len(expected)
        assert space.binds(budget) == (len(expected) < space.count())
        verdicts["infeasible" if not expected else "binding" if space.binds(budget) else "all fit"] += 1
        if not expected:
            for question in (space.smallest, space.largest, lambda budget: space.sample(rng, budget)):
                with pytest.raises(InfeasibleBudget, match=f"^no subnet of `{name}` has"):
                    question(budget)
            continue
        if n % 5 == 0:
            census = Census(space.boxes(), bounds)
            assert {census.subnet(rank) for rank in range(census.total)} == set(expected)
        assert space.sample(rng, budget) in expected
        cost = bounds[0].cost
        counts = [cost.count(BACKBONE, subnet) for subnet in expected]
        for subnet, extreme in ((space.smallest(budget), min), (space.largest(budget), max)):
            assert subnet in expected
            assert cost.count(BACKBONE, subnet) == extreme(counts)
    assert min(verdicts["infeasible"], verdicts["binding"]) > 5, verdicts


@pytest.mark.parametrize("name", SPACES)
def test_samples_are_uniform(name):
    space, rng = SPACES[name], Random(3)
    high = int(np.quantile(all_costs(name)[PARAMS], 0.03))
    budget = Budget((Bound(PARAMS, high), Bound(Cost("macs", 0.1), int(np.median(all_costs(name)[Cost("macs", 0.1)])))))
    expected = fitting(name, budget.bounds)
    assert 20 < len(expected) < 200
    drawn = Counter(space.sample(rng, budget) for _ in range(100 * len(expected)))
    assert set(drawn) == set(expected)
    chi_square = sum((count - 100) ** 2 / 100 for count in drawn.values())
    freedom = len(expected) - 1
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5  # mean k, variance 2k


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("cost", COSTS)
def test_the_median_is_exact(name, cost):
    counts = sorted(all_costs(name)[cost].tolist())
    assert find_median(SPACES[name].boxes(), cost) == counts[(len(counts) - 1) // 2]


@pytest.mark.parametrize("name", SPACES)
def test_a_part_of_a_space_against_brute_force(name):
    space, rng = SPACES[name], Random(4)
    for _ in range(40):
        parent = space.genes(rng.choice(all_subnets(name)))
        part = {gene: (value,) for gene, value in parent.items() if rng.random() < 0.6}
        bounds = (random_bound(name, rng),)
        expected = {
            subnet
            for subnet in fitting(name, bounds)
            if all(
                genes.get(gene, values[0]) in values for genes in [space.genes(subnet)] for gene, values in part.items()
            )
        }
        census = Census(space.boxes(part), bounds)
        assert {census.subnet(rank) for rank in range(census.total)} == expected
        assert census.total == len(expected)


@pytest.mark.parametrize("name", SPACES)
def test_a_cross_is_uniform_over_the_children_that_fit(name):
    space, rng = SPACES[name], Random(5)
    a, b = rng.choice(all_subnets(name)), rng.choice(all_subnets(name))
    genes = space.genes(a), space.genes(b)
    budget = Budget((Bound(PARAMS, max(PARAMS.count(BACKBONE, s) for s in (a, b)) - 1),))
    children = {
        subnet
        for subnet in fitting(name, budget.bounds)
        if all(value in [g[gene] for g in genes if gene in g] for gene, value in space.genes(subnet).items())
    }
    drawn = Counter(cross(space, a, b, rng, budget) for _ in range(40 * len(children)))
    assert set(drawn) == children
    assert len(children) > 10
    freedom = len(children) - 1
    assert abs(sum((n - 40) ** 2 / 40 for n in drawn.values()) - freedom) < 4 * (2 * freedom) ** 0.5


CHOICES = st.lists(
    st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True).map(lambda values: tuple(sorted(values))),
    min_size=1,
    max_size=5,
).map(tuple)


@given(CHOICES)
@settings(deadline=None)
def test_shares_list_every_way_once(choices):
    shares = Shares(choices)
    by_total: dict[int, set[tuple[int, ...]]] = {}
    for values in product(*choices):
        by_total.setdefault(sum(values), set()).add(values)
    assert shares.totals.tolist() == sorted(by_total)
    for total, ways in zip(shares.totals.tolist(), shares.ways, strict=True):
        assert {shares.share(total, rank) for rank in range(ways)} == by_total[total]
        assert ways == len(by_total[total])
        even = shares.share_evenly(total)
        assert even in by_total[total]
        assert sum(v * v for v in even) == min(sum(v * v for v in values) for values in by_total[total])


def test_even_shares_spread_over_the_depth():
    assert Shares(((4, 6),) * 6).share_evenly(30) == (4, 6, 4, 6, 4, 6)
    assert Shares(((4, 6),) * 8).share_evenly(36) == (4, 4, 6, 4, 4, 4, 6, 4)


def test_counts_beyond_64_bits_are_exact():
    space = SearchSpace(
        name="deep",
        conv_dims=((512,),) * 7,
        embed_dim=(768,),
        heads=tuple(range(1, 13)),
        ffn_dim=tuple(range(256, 3073, 256)),
        depth={24: (tuple(range(24)),)},
    )
    assert space.count() == 144**24 > 2**63
    high = PARAMS.count(space.backbone, space.largest())
    low = PARAMS.count(space.backbone, space.smallest())
    middle = (high + low) // 2
    below, above = Budget((Bound(PARAMS, middle),)), Budget((Bound(PARAMS, high, middle + 1),))
    assert space.count(below) + space.count(above) == 144**24
    assert space.count(below) > 2**63
    assert below.holds(space.backbone, space.sample(Random(0), below))
