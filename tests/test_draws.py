"""Draws: what each rule is even over, exactly, and what the shipped spaces' draws by size look like."""

from collections import Counter
from math import log
from random import Random

import numpy as np
import pytest

from search_spaces.budget import Bound, Budget, InfeasibleBudget
from search_spaces.costs import PARAMS, Cost
from search_spaces.draws import (
    NUM_BANDS,
    RULES,
    _balance,
    check_draws,
    describe_draws,
    draw_each_size,
    draw_subnet,
    smallest_in_turn,
)
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from tests.test_space_counting import SPACES, all_costs, fitting

SHIPPED = ["tiny", "base", "base-wavlm", "lighthubert-base", "lighthubert-small"]
"""Of more than one subnet."""
NUM_DRAWS = 20_000


def params(space, subnet):
    return PARAMS.count(space.backbone, subnet)


def tight(name):
    """A budget that 20 to 300 subnets hold, of several widths and depths."""
    high = int(np.quantile(all_costs(name)[PARAMS], 0.04))
    return Budget((Bound(PARAMS, high), Bound(Cost("macs", 0.1), int(np.median(all_costs(name)[Cost("macs", 0.1)])))))


def shares_of_cells(cells):
    """The chance of each subnet when cells are even and so is what is in a cell; `cells`: subnet -> its cell."""
    sizes = Counter(cells.values())
    return {subnet: 1 / len(sizes) / sizes[cell] for subnet, cell in cells.items()}


def shares_by_size(space, subnets, num_bands=NUM_BANDS):
    """As `shares_of_cells`, of bands that share their draws out among their depths."""
    counts = {subnet: params(space, subnet) for subnet in subnets}
    least, most = min(counts.values()), max(counts.values())
    band = {s: min(int(num_bands * log(n / least) / log(most / least)), num_bands - 1) for s, n in counts.items()}
    bands, depths = sorted(set(band.values())), sorted({len(subnet.layers) for subnet in subnets})
    cells = {s: (bands.index(band[s]), depths.index(len(s.layers))) for s in subnets}
    sizes = Counter(cells.values())
    shares = _balance(np.array([[(i, j) in sizes for j in range(len(depths))] for i in range(len(bands))]))
    return {subnet: shares[cell] / len(bands) / sizes[cell] for subnet, cell in cells.items()}


EXPECTED = {
    "size": shares_by_size,
    "depth": lambda _, subnets: shares_of_cells({s: len(s.layers) for s in subnets}),
    "dimension": lambda _, subnets: shares_of_cells({s: (s.embed_dim, len(s.layers)) for s in subnets}),
    "subnet": lambda _, subnets: dict.fromkeys(subnets, 1 / len(subnets)),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_exact_under_a_budget(name, rule):
    space, rng, budget = SPACES[name], Random(3), tight(name)
    subnets = fitting(name, budget.bounds)
    assert 20 < len(subnets) < 300
    assert len({len(subnet.layers) for subnet in subnets}) > 1
    expected = EXPECTED[rule](space, subnets)
    assert sum(expected.values()) == pytest.approx(1)
    num = 60 * len(subnets)
    drawn = Counter(draw_subnet(space, rng, rule, budget) for _ in range(num))
    assert set(drawn) <= set(expected)
    chi_square = sum((drawn[s] - num * share) ** 2 / (num * share) for s, share in expected.items())
    freedom = len(subnets) - 1
    rare = sum(1 / (num * share) for share in expected.values())  # what few expected draws add to the variance
    assert abs(chi_square - freedom) < 4 * (2 * freedom + rare) ** 0.5


@pytest.mark.parametrize("name", SPACES)
def test_dimensions_are_drawn_each_by_itself(name):
    """Without a budget this is LightHuBERT's: no dimension knows of another."""
    space, rng, num = SPACES[name], Random(4), 4000
    drawn = [draw_subnet(space, rng, "dimension") for _ in range(num)]
    first = [
        (s.embed_dim, len(s.layers), s.layers[0].heads, space.ffn_dims(s.embed_dim).index(s.layers[0].ffn_dim))
        for s in drawn
    ]
    cells = Counter((*values, s.conv_dims) for values, s in zip(first, drawn, strict=True))
    assert len({s.kept for s in drawn}) == sum(map(len, space.depth.values()))
    count = len(space.embed_dim) * len(space.depth) * len(space.heads) * len(space.ffn_dims(space.embed_dim[0]))
    count *= np.prod([len(widths) for widths in space.conv_dims])
    assert len(cells) == count
    chi_square = sum((n - num / count) ** 2 / (num / count) for n in cells.values())
    assert abs(chi_square - count) < 4 * (2 * count + count**2 / num) ** 0.5


@pytest.mark.parametrize("name", SHIPPED)
def test_draws_by_size_reach_every_size_depth_and_path(name):
    space, rng = SearchSpace.load(name), Random(0)
    drawn = [draw_subnet(space, rng, "size") for _ in range(NUM_DRAWS)]
    assert all(subnet in space for subnet in drawn[:200])
    depths = Counter(len(subnet.layers) for subnet in drawn)
    assert min(depths[n] for n in space.depth) > 0.5 * NUM_DRAWS / len(space.depth)
    assert {subnet.kept for subnet in drawn} == {kept for paths in space.depth.values() for kept in paths}
    least, most = (params(space, subnet) for subnet in (space.smallest(), space.container))
    ends = np.log([least, most])
    tenths = Counter(int(10 * (log(params(space, s)) - ends[0]) / (ends[1] - ends[0] + 1e-9)) for s in drawn)
    for i in range(10):
        if i in tenths:
            assert tenths[i] == pytest.approx(NUM_DRAWS / len(tenths), rel=0.15), i
        else:  # as in lighthubert-base from 53 to 57 M
            low, high = (least * (most / least) ** (j / 10) for j in (i, i + 1))
            assert not space.count(Budget((Bound(PARAMS, int(high), int(low) + 1),)))


@pytest.mark.parametrize("name", ["tiny", "base"])
@pytest.mark.parametrize("rule", ["depth", "dimension"])
def test_draws_by_depth_and_dimension_are_even_over_depths(name, rule):
    space, rng = SearchSpace.load(name), Random(0)
    depths = Counter(len(draw_subnet(space, rng, rule).layers) for _ in range(1000))
    assert {n: depths[n] for n in space.depth} == pytest.approx(dict.fromkeys(space.depth, 200), rel=0.2)


def test_a_space_of_one_subnet_has_one_draw():
    space = SearchSpace.load("demo-teacher")
    assert {draw_subnet(space, Random(0), rule) for rule in RULES} == {space.container}
    assert draw_each_size(space, Random(0), 3) == [space.container]


def test_depths_are_as_even_as_the_bands_allow():
    feasible = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1]], bool)
    shares = _balance(feasible)
    assert shares.sum(1) == pytest.approx(np.ones(6))
    assert shares.sum(0) == pytest.approx(np.full(3, 2.0), abs=1e-4)
    assert ((shares > 0) == feasible).all()
    crowded = _balance(np.array([[1, 0, 0]] * 3 + [[1, 1, 1]], bool))  # the first depth has to take more than a third
    assert crowded.sum(0) == pytest.approx([3, 0.5, 0.5], abs=1e-3)
    without = _balance(np.array([[1, 0, 1], [1, 0, 0]], bool))  # and the second none, under some budget
    assert without.sum(0) == pytest.approx([1, 0, 1], abs=0.03)
    assert without[:, 1].tolist() == [0, 0]


def test_one_of_each_size():
    space, rng = SearchSpace.load("tiny"), Random(0)
    budget = Budget.parse("1M", space)
    least, most = params(space, space.smallest()), params(space, space.largest(budget))
    drawn = draw_each_size(space, rng, 7, budget)
    assert [int(7 * log(params(space, s) / least) / log(most / least) - 1e-9) for s in drawn] == list(range(7))
    assert len({len(subnet.layers) for _ in range(5) for subnet in draw_each_size(space, rng, 7, budget)}) == 5
    assert draw_each_size(space, rng, 0, budget) == []


@pytest.mark.parametrize("rule", RULES)
def test_an_impossible_budget_is_explained(rule):
    space = SearchSpace.load("tiny")
    with pytest.raises(InfeasibleBudget, match=r"the smallest has 77,856 parameters"):
        draw_subnet(space, Random(0), rule, Budget.parse("10k", space))


def test_mixtures_take_each_rule_by_its_weight():
    space = SearchSpace.load("tiny")
    drawn = Counter(len(draw_subnet(space, rng, {"subnet": 3, "depth": 1}).layers) for rng in [Random(0)] * 4000)
    assert drawn[6] / 4000 == pytest.approx(0.75 * 0.882 + 0.25 * 0.2, abs=0.03)  # 88.2 % of all subnets are that deep
    assert drawn[2] / 4000 == pytest.approx(0.25 * 0.2, abs=0.015)
    for seed in range(5):
        one, other = (draw_subnet(space, Random(seed), d) for d in ({"size": 1, "depth": 1}, {"depth": 1, "size": 1}))
        assert one == other
    assert (
        draw_subnet(space, Random(1), "subnet")
        == draw_subnet(space, Random(1), {"subnet": 2})
        == space.sample(Random(1))
    )


def test_the_smallest_takes_turns_over_what_its_depth_may_keep():
    space = SearchSpace.load("tiny")
    turns = [smallest_in_turn(space, step) for step in range(4)]
    assert [subnet.kept for subnet in turns] == [(0, 3), (1, 4)] * 2
    assert all(subnet in space and params(space, subnet) == params(space, space.smallest()) for subnet in turns)
    assert smallest_in_turn(SearchSpace.load("base"), 1) == SearchSpace.load("base").smallest()


def test_draws_in_words():
    assert describe_draws("size") == "by size"
    assert describe_draws({"size": 3, "subnet": 1}) == "by size 75% and subnet 25%"


@pytest.mark.parametrize("value", [*RULES, {"size": 1}, {"size": 0.25, "dimension": 1000.0}])
def test_what_says_how_to_draw(value):
    assert check_draws(value) == value


@pytest.mark.parametrize(
    ("value", "problems"),
    [
        ("sise", ["no draws by `sise`; did you mean `size`? there are size, depth, dimension, subnet"]),
        ({"depths": 1}, ["no draws by `depths`; did you mean `depth`? there are size, depth, dimension, subnet"]),
        ({"size": 0}, ["the weight of `size` must be above 0 and at most 1000, got 0"]),
        ({"size": 1, "depth": -0.5}, ["the weight of `depth` must be above 0 and at most 1000, got -0.5"]),
        ({"size": 1000.5}, ["the weight of `size` must be above 0 and at most 1000, got 1000.5"]),
        ({"size": float("nan")}, ["the weight of `size` must be above 0 and at most 1000, got nan"]),
        ({"size": True}, ["the weight of `size` must be above 0 and at most 1000, got True"]),
        ({"size": "1"}, ["the weight of `size` must be above 0 and at most 1000, got '1'"]),
        (
            {"x": 1, "size": 0},
            [
                "no draws by `x`; there are size, depth, dimension, subnet",
                "the weight of `size` must be above 0 and at most 1000, got 0",
            ],
        ),
        *(
            (
                value,
                [
                    "want one of size, depth, dimension, subnet, or weights such as {size: 0.5, subnet: 0.5}; got "
                    f"{value!r}"
                ],
            )
            for value in ({}, 3, None, ["size"])
        ),
    ],
)
def test_what_does_not_is_explained(value, problems):
    with pytest.raises(NestlingError) as caught:
        check_draws(value)
    assert list(caught.value.args) == problems
