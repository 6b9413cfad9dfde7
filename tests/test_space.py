"""Search spaces: the shipped ones, membership, extremes, variation, and what an impossible budget is told."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from random import Random

import pytest

from search_spaces.budget import Budget, InfeasibleBudget
from search_spaces.costs import PARAMS, Cost, count_macs, count_params
from search_spaces.space import SearchSpace
from search_spaces.subnet import Layer, Subnet
from search_spaces.variation import cross, mutate

NAMES = ("tiny", "base", "lighthubert-base", "lighthubert-small")
LOADED = {name: SearchSpace.load(name) for name in NAMES}
TINY, BASE = LOADED["tiny"], LOADED["base"]


def params(space: SearchSpace, subnet: Subnet) -> int:
    return count_params(space.backbone, subnet)


@pytest.mark.parametrize(
    ("name", "count", "least", "most"),
    [
        ("lighthubert-base", 6_530_347_008, 41_249_408, 94_377_856),
        ("lighthubert-small", 951_892_141_473, 11_448_704, 44_398_208),
        ("base", 53_294_604_765_567_167_692_800, 3_989_120, 94_377_856),
        ("tiny", 207_919_664_640, 77_856, 3_033_760),
    ],
)
def test_shipped_spaces(name, count, least, most):
    space = LOADED[name]
    assert space.name == name
    assert space.count() == count
    assert params(space, space.smallest()) == least
    assert params(space, space.container) == most
    assert space.largest() == space.container
    assert space.backbone.conv_norm == "layer"
    assert space.backbone.normalize_waveform


def test_base_wavlm_is_base_with_gates():
    space = SearchSpace.load("base-wavlm")
    plain = replace(space.backbone, gate_width=0)
    assert replace(space, name=BASE.name, description=BASE.description, backbone=plain) == BASE
    assert params(space, space.container) == 94_388_080  # WavLM-base, and six more layer norms in the front-end
    budget = Budget.parse("25M", space)
    assert params(space, space.largest(budget)) <= 25_000_000
    assert space.count(budget) < BASE.count(Budget.parse("25M", BASE))  # gates cost something


def test_lighthuberts_depth_map():
    depth = LOADED["lighthubert-small"].depth
    assert set(range(12)) - set(depth[10][0]) == {7, 11}
    assert set(range(12)) - set(depth[11][0]) == {11}


@pytest.mark.parametrize("name", NAMES)
def test_dicts_and_hashes(name):
    space = LOADED[name]
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)
    assert replace(space, name="other", description="").hash == space.hash
    assert replace(space, heads=space.heads[:-1]).hash != space.hash
    assert replace(space, backbone=replace(space.backbone, head_dim=16)).hash != space.hash
    assert len({each.hash for each in LOADED.values()}) == len(NAMES)


def test_from_dict_tells_what_is_wrong():
    with pytest.raises(ValueError, match=r"^space: unknown key `head`; did you mean `heads`\?$"):
        SearchSpace.from_dict(TINY.to_dict() | {"head": [1]})


def test_why_a_subnet_is_not_in_the_space():
    good = TINY.container
    assert good in TINY
    assert TINY.explain(good) is None
    wrong = replace(good, embed_dim=65, layers=(Layer(3, 768), *good.layers[1:-1], Layer(6, 100)))
    assert wrong not in TINY
    assert TINY.explain(wrong) == (
        "embed_dim=65 is not in the space; choices are (64, 96, 128, 160, 192); "
        "layers[0].heads=3 is not in the space; choices are (1, 2, 4, 6); "
        "layers[5].ffn_dim=100 is not in the space; choices are (64, 192, 384, 768)"
    )
    assert TINY.explain(replace(good, conv_dims=(16,))) == "1 conv_dims; the space has 7 convolutions"
    shallow = replace(good, layers=good.layers[:1], kept=(0,))
    assert TINY.explain(shallow) == "1 layers are not in the space; choices are (2, 3, 4, 5, 6)"
    dropped = replace(good, layers=good.layers[:2], kept=(0, 1))
    assert TINY.explain(dropped) == "kept=(0, 1) is not in the space; choices are ((0, 3), (1, 4))"
    with pytest.raises(ValueError, match="embed_dim=65 is not in the space"):
        mutate(TINY, wrong, Random(0))


def test_a_ratio_is_another_width_at_another_embed_dim():
    space = LOADED["lighthubert-small"]
    assert space.ffn_dims(256) == (768, 896, 1024)
    assert space.ffn_dims(384) == (1152, 1344, 1536)
    assert replace(space.smallest(), embed_dim=384) not in space


BUDGETS = {
    "tiny": [
        "500k",
        "params=500k..505k",
        "macs<=60M@1s",
        "macs=300M..310M@5s, 1M",
        "size<=1MB, macs<=40M@1s",
        "78k",
    ],
    "base": [
        "25M",
        "params=24.9M..25M",
        "macs<=2G@1s, 25M",
        "60%",
        "macs=1.5G..1.51G@1s, params=20M..21M",
        "4M",
    ],
    "lighthubert-base": ["60M", "params=60M..60.1M", "macs<=5G@1s, 60M"],
    "lighthubert-small": ["25M", "params=24.9M..25M", "macs<=3.5G@1s, 24M", "11.45M"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in NAMES for text in BUDGETS[name]])
def test_every_answer_is_in_the_space_and_holds_the_budget(name, text):
    space, rng = LOADED[name], Random(0)
    budget = Budget.parse(text, space)
    assert 0 < space.count(budget) < space.count()

    def check(subnet: Subnet) -> Subnet:
        assert subnet in space, space.explain(subnet)
        assert budget.holds(space.backbone, subnet)
        return subnet

    smallest, largest = check(space.smallest(budget)), check(space.largest(budget))
    cost = budget.bounds[0].cost
    subnet = other = check(space.sample(rng, budget))
    for _ in range(20):
        subnet = check(mutate(space, subnet, rng, budget))
        other = check(mutate(space, space.sample(rng), rng, budget))  # from a subnet that need not fit
        check(cross(space, subnet, other, rng, budget))
        check(cross(space, space.sample(rng), space.sample(rng), rng, budget))
        count = cost.count(space.backbone, subnet)
        assert cost.count(space.backbone, smallest) <= count <= cost.count(space.backbone, largest)


@pytest.mark.parametrize("name", NAMES)
def test_a_mutation_changes_few_genes_and_at_least_one(name):
    space, rng = LOADED[name], Random(1)
    for _ in range(100):
        parent = space.sample(rng)
        child = mutate(space, parent, rng)
        assert child != parent
        old, new = space.genes(parent), space.genes(child)
        changed = [gene for gene in old if gene in new and old[gene] != new[gene]]
        assert len(changed) <= 4


def test_a_cross_takes_each_gene_from_a_parent():
    rng = Random(2)
    for _ in range(100):
        a, b = TINY.sample(rng), TINY.sample(rng)
        parents = TINY.genes(a), TINY.genes(b)
        for gene, value in TINY.genes(cross(TINY, a, b, rng)).items():
            assert value in [parent[gene] for parent in parents if gene in parent]


def test_variation_ends_when_only_one_subnet_fits():
    only = TINY.smallest()
    budget = Budget.parse([str(params(TINY, only))], TINY)
    assert TINY.count(budget) == 2  # either of the two ways to keep two layers
    rng = Random(3)
    for _ in range(20):
        assert params(TINY, mutate(TINY, TINY.container, rng, budget)) == params(TINY, only)
        assert params(TINY, cross(TINY, TINY.container, TINY.container, rng, budget)) == params(TINY, only)
    single = SearchSpace.load("demo-teacher")
    assert mutate(single, single.container, rng) == cross(single, single.container, single.container, rng)


def test_randomness_is_an_argument():
    budget = Budget.parse("25M", BASE)
    assert [BASE.sample(Random(7), budget).id for _ in range(2)] == [BASE.sample(Random(7), budget).id] * 2
    parent = BASE.container
    assert mutate(BASE, parent, Random(7), budget) == mutate(BASE, parent, Random(7), budget)


def test_largest_shares_evenly():
    largest = BASE.largest(Budget.parse("params=24M..25M", BASE))
    for values in ([layer.heads for layer in largest.layers], [layer.ffn_dim for layer in largest.layers]):
        assert len(set(values)) <= 2


def test_extremes_are_of_the_first_bound_unless_that_is_params():
    by_macs = TINY.largest(Budget.parse("macs<=60M@1s, 1M", TINY))
    by_params = TINY.largest(Budget.parse("1M, macs<=60M@1s", TINY))
    assert count_macs(TINY.backbone, by_macs, 1) > count_macs(TINY.backbone, by_params, 1)
    assert params(TINY, by_macs) < params(TINY, by_params)


@pytest.mark.parametrize("name", NAMES)
def test_uniform_shapes(name):
    space = LOADED[name]
    shapes = space.uniform_shapes()
    assert shapes[0] == space.container
    assert len(set(shapes)) == len(shapes)
    for shape in shapes:
        assert shape in space
        assert len(set(shape.layers)) == 1
        assert len({dims.index(c) / len(dims) for c, dims in zip(shape.conv_dims, space.conv_dims, strict=True)}) == 1
    budget = Budget.parse("50%", space)
    fitting = space.uniform_shapes(budget)
    assert fitting == [shape for shape in shapes if budget.holds(space.backbone, shape)]
    sizes = [params(space, shape) for shape in fitting]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_is_uniform_when_it_is_among_the_uniform_shapes(name):
    space = LOADED[name]
    shapes = set(space.uniform_shapes())
    rng = Random(0)
    drawn = [space.sample(rng) for _ in range(50)]
    for subnet in (*list(shapes)[:50], *drawn, space.smallest(), space.container):
        assert space.is_uniform(subnet) == (subnet in shapes)


def test_uniform_shapes_where_convolutions_offer_different_numbers_of_choices():
    space = replace(TINY, conv_dims=((16,), (32, 96), *TINY.conv_dims[2:]))
    assert {shape.conv_dims[:3] for shape in space.uniform_shapes()} == {
        (16, 32, 32),
        (16, 32, 64),
        (16, 96, 96),
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["10k"], "no subnet of `tiny` has params<=10k; the smallest has 77,856 parameters"),
        (["1G..2G"], "no subnet of `tiny` has params=1G..2G; the largest has 3,033,760 parameters"),
        (
            ["3M..3_000_010"],
            "no subnet of `tiny` has params=3M..3_000_010; the nearest have 2,999,520 and 3,001,376 parameters",
        ),
        (["macs<=1M@1s"], "no subnet of `tiny` has macs<=1M@1s; the smallest has 12,169,440 MACs for 1 s"),
        (["size<=100kB"], "no subnet of `tiny` has size<=100kB; the smallest has 311,424 bytes"),
        (
            ["10k", "macs<=1M@1s", "size<=50MB"],
            "no subnet of `tiny` has params<=10k; the smallest has 77,856 parameters\n  "
            "no subnet of `tiny` has macs<=1M@1s; the smallest has 12,169,440 MACs for 1 s",
        ),
    ],
)
def test_a_bound_out_of_reach_is_named(texts, message):
    for question in (TINY.smallest, TINY.largest, lambda budget: TINY.sample(Random(0), budget)):
        with pytest.raises(InfeasibleBudget) as error:
            question(Budget.parse(texts, TINY))
        assert str(error.value) == message


def test_bounds_that_conflict_are_named_with_what_would_do():
    texts = ["params<=150k", "macs=100M..200M@1s", "size<=50MB"]
    with pytest.raises(InfeasibleBudget) as error:
        TINY.sample(Random(0), Budget.parse(texts, TINY))
    message = str(error.value)
    assert message.startswith(
        "no subnet of `tiny` has params<=150k and macs=100M..200M@1s together; "
        "with macs=100M..200M@1s and size<=50MB, the smallest has "
    )
    assert "; with params<=150k and size<=50MB, the largest has " in message
    need_params, need_macs = (
        int(part.split(" has ")[1].split()[0].replace(",", "")) for part in message.split("; ")[1:]
    )
    for relaxed in (
        [f"params<={need_params}", *texts[1:]],
        [texts[0], f"macs={need_macs}..200M@1s", texts[2]],
    ):
        assert TINY.count(Budget.parse(relaxed, TINY)) > 0
    for short in (
        [f"params<={need_params - 1}", *texts[1:]],
        [texts[0], f"macs={need_macs + 1}..200M@1s", texts[2]],
    ):
        assert TINY.count(Budget.parse(short, TINY)) == 0


def test_a_budget_that_does_not_bind():
    assert not TINY.binds(Budget.parse(["4M", "size<=50MB"], TINY))
    assert not TINY.binds(Budget.parse("latency<=1ms@1s", TINY))
    assert TINY.binds(Budget.parse("3M", TINY))


def test_a_profile():
    space = LOADED["lighthubert-small"]
    profile = space.profile(Budget.parse("25M", space))
    assert profile.total == space.count()
    assert 0 < profile.fitting_share == profile.fitting / profile.total < 1
    assert (profile.params.least, profile.params.most) == (11_448_704, 44_398_208)
    assert (profile.macs.least, profile.macs.most) == (2_816_180_224, 4_447_017_984)
    # at least half of all subnets are at or below the median, fewer than half below it
    assert 2 * space.count(Budget.parse([str(profile.params.median)], space)) >= profile.total
    assert 2 * space.count(Budget.parse([str(profile.params.median - 1)], space)) < profile.total
    assert (profile.smallest, profile.largest) == (space.smallest(), space.container)
    assert profile.smallest_fitting == profile.smallest
    assert profile.largest_fitting
    assert params(space, profile.largest_fitting) <= 25_000_000
    assert profile.floor_params == 4_199_424 + 7_168
    assert round(profile.floor_macs_share, 2) == 0.87
    assert round(profile.floor_params_share, 2) == 0.37
    empty = space.profile(Budget.parse("1M", space))
    assert (empty.fitting, empty.smallest_fitting, empty.largest_fitting) == (0, None, None)


def test_answers_come_in_about_a_second():
    """In CPU time, and loose by far, whatever the machine: a table must not turn into a scan."""
    space = replace(BASE, name="timed")
    start = time.process_time()
    budget = Budget.parse(["25M", "macs<=2G@1s", "size=20MB..100MB"], space)
    space.sample(Random(0), budget)
    space.largest(budget)
    assert time.process_time() - start < 20
    with pytest.raises(InfeasibleBudget):
        space.sample(Random(0), Budget.parse(["10M", "macs=3G..4G@1s"], space))
    assert time.process_time() - start < 10
    assert PARAMS.count(space.backbone, space.sample(Random(0), budget)) <= 25_000_000
    assert Cost("macs", 1.0).count(space.backbone, space.largest(budget)) <= 2_000_000_000
