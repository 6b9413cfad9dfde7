"""Distances, matchings, frames and heads against numbers made by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from distillation.terms import Head, Objective, Term, cosine, cross_entropy, l1, mse
from search_spaces.subnet import Layer, Subnet
from supernet.encoder import Trace
from supernet.importance import reorder, taylor_importance
from supernet.model import Supernet
from tests.training_cases import SPACE, make_teacher, make_wave

B, T, D = 2, 3, 4
CONTAINER = Subnet((8,), D, (Layer(1, 4),) * 2, (0, 1))
MASKED = torch.tensor([[True, False, False], [False, True, True]])
VALID = torch.tensor([[True, True, True], [True, True, False]])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trace(valid=None, num_layers=2, width=D):
    hidden = [randn(B, T, width, seed=i) for i in range(num_layers + 1)]
    return Trace(hidden[-1], valid, 50.0, hidden=hidden, front_end=randn(B, T, 8, seed=9))


def make(*terms, dim=5, container=CONTAINER, groups=2):
    """An objective whose sources give targets of `dim` channels."""
    sources = {term.source: SimpleNamespace(dim=dim) for term in terms}
    return Objective(terms, sources, container, groups, torch.Generator().manual_seed(0))


def term(matching="mean", distance="l1", source="teacher", **values):
    return Term(source=source, matching=matching, distance=distance, **values)


# Distances


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (l1, (1 + 1 + 0 + 4) / 4),
        (mse, (1 + 1 + 0 + 16) / 4),
        (cosine, 1 - (2 / math.sqrt(5) + 0.6) / 2),  # (1, 2)·(0, 1) / √5 and (3, 0)·(3, 4) / (3·5)
    ],
)
def test_distances(distance, expected):
    predicted = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    target = torch.tensor([[0.0, 1.0], [3.0, 4.0]])
    assert distance(predicted, target).item() == pytest.approx(expected)


def test_cross_entropy_is_in_nats():
    scores = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert cross_entropy(scores, torch.tensor([1, 1])).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


# Heads


@pytest.mark.parametrize("width", [8, 16, 24])
def test_a_narrow_head_takes_the_first_columns_of_every_group(width):
    groups, head = 4, Head(24, 5, 4, torch.Generator().manual_seed(0))
    columns = [24 // groups * group + i for group in range(groups) for i in range(width // groups)]
    x = randn(7, width)
    torch.testing.assert_close(head(x), x @ head.weight[:, columns].T + head.bias)
    assert len(set(columns)) == width


def test_a_head_follows_sorted_channels():
    head, x, order = Head(8, 5, 2, torch.Generator()), randn(7, 8), torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    before = head(x)
    head.reorder(order)
    torch.testing.assert_close(head(x[:, order]), before)


# Matchings


def test_mean_of_the_last_two_thirds():
    objective, made = make(term("mean")), trace()
    targets = [torch.full((B, T, 5), value) for value in (100.0, 100.0, 1.0, 2.0, 3.0, 6.0)]
    (head,) = objective.heads["teacher:mean"]
    expected = (head(made.last) - 3.0).abs().mean()
    torch.testing.assert_close(objective(made, {"teacher": targets}, CONTAINER, None), expected)


@pytest.mark.parametrize(
    ("kept", "num_layers", "num_targets", "expected"),
    [
        ((0, 1, 2, 3), 4, 4, [0, 1, 2, 3]),
        ((1, 3), 4, 4, [1, 3]),  # by their place in the container, not in the subnet
        ((0, 1, 3), 4, 12, [2, 5, 11]),  # a deeper teacher: the same relative depth
        ((0, 1, 2, 3), 4, 2, [0, 0, 1, 1]),  # a shallower one
        ((0, 3), 4, 1, [0, 0]),
    ],
)
def test_layers_meet_those_at_the_same_depth(kept, num_layers, num_targets, expected):
    container = Subnet((8,), D, (Layer(1, 4),) * num_layers, tuple(range(num_layers)))
    objective = make(term("layers", "mse"), container=container)
    subnet = Subnet((8,), D, (Layer(1, 4),) * len(kept), kept)
    made = trace(num_layers=len(kept))
    targets = [randn(B, T, 5, seed=10 + i) for i in range(num_targets)]
    heads = objective.heads["teacher:layers"]
    losses = [
        mse(heads[layer](made.hidden[position + 1]), targets[target])
        for position, (layer, target) in enumerate(zip(kept, expected, strict=True))
    ]
    got = objective(made, {"teacher": targets}, subnet, None)
    torch.testing.assert_close(got, torch.stack(losses).mean())
    assert len(heads) == num_layers


def test_front_end_and_codes():
    objective = make(term("front_end", "mse", "signal"), term("codes", "cross_entropy", "codes"))
    made, signal, codes = trace(), randn(B, T, 5, seed=3), torch.tensor([[0, 1, 2], [3, 4, 0]])
    (front,), (scores,) = objective.heads["signal:front_end"], objective.heads["codes:codes"]
    expected = mse(front(made.front_end), signal) + F.cross_entropy(scores(made.last).flatten(0, 1), codes.flatten())
    torch.testing.assert_close(objective(made, {"signal": [signal], "codes": [codes]}, CONTAINER, None), expected)


@pytest.mark.parametrize(
    ("matchings", "taps"),
    [(("mean",), ()), (("layers", "mean"), ("hidden",)), (("layers", "front_end"), ("front_end", "hidden"))],
)
def test_taps_are_those_the_terms_need(matchings, taps):
    assert make(*map(term, matchings)).taps == taps


def test_terms_share_heads_and_add_up_by_weight():
    terms = (term(weight=2.0), term(distance="cosine", weight=0.5))
    objective, made, targets = make(*terms), trace(), {"teacher": [randn(B, T, 5, seed=3)]}
    assert list(objective.heads) == ["teacher:mean"]
    predicted = objective.heads["teacher:mean"][0](made.last).flatten(0, 1)
    target = targets["teacher"][0].flatten(0, 1)
    expected = 2.0 * l1(predicted, target) + 0.5 * cosine(predicted, target)
    torch.testing.assert_close(objective(made, targets, CONTAINER, None), expected)


def test_unknown_source_is_named():
    with pytest.raises(ValueError, match=r"terms name the sources \['teacher'\]; there are only \['signal'\]"):
        Objective((term(),), {"signal": SimpleNamespace(dim=5)}, CONTAINER, 2, torch.Generator())


# Frames


@pytest.mark.parametrize(
    ("frames", "masked", "valid", "chosen"),
    [
        ("all", None, None, torch.ones(B, T, dtype=torch.bool)),
        ("all", MASKED, VALID, VALID),
        ("masked", MASKED, None, MASKED),
        ("masked", MASKED, VALID, MASKED & VALID),
        ("unmasked", MASKED, VALID, ~MASKED & VALID),
        ("unmasked", None, VALID, VALID),
    ],
)
def test_frames_that_count(frames, masked, valid, chosen):
    objective, made, target = make(term(frames=frames)), trace(valid), randn(B, T, 5, seed=3)
    expected = l1(objective.heads["teacher:mean"][0](made.last)[chosen], target[chosen])
    assert chosen.sum() > 0
    torch.testing.assert_close(objective(made, {"teacher": [target]}, CONTAINER, masked), expected)


@pytest.mark.parametrize("masked", [None, torch.zeros(B, T, dtype=torch.bool)])
def test_nothing_masked_is_no_loss(masked):
    made = trace()
    assert make(term(frames="masked"))(made, {"teacher": [made.last]}, CONTAINER, masked).item() == 0.0


# Sorting by importance


def test_reordering_leaves_the_containers_loss_alone():
    supernet = Supernet(SPACE, torch.Generator().manual_seed(0))
    supernet.load_encoder(make_teacher(1).state_dict())
    sources = {"teacher": SimpleNamespace(dim=32), "codes": SimpleNamespace(dim=6)}
    terms = (term("layers"), term("mean", "cosine"), term("codes", "cross_entropy", "codes"))
    objective = Objective(terms, sources, SPACE.container, SPACE.backbone.pos_conv_groups, torch.Generator())
    wave = torch.from_numpy(make_wave(8000, 0)).view(2, 4000)
    targets = {"teacher": [randn(2, 12, 32, seed=i) for i in range(2)], "codes": [torch.arange(24).view(2, 12) % 6]}

    def loss(subnet):
        return objective(supernet(wave, None, subnet, objective.taps), targets, subnet, None)

    before = loss(SPACE.container)
    before.backward()
    order = reorder(supernet, taylor_importance(supernet))
    assert order.tolist() != sorted(order.tolist())
    unsorted_heads = loss(SPACE.container).item()
    objective.reorder(order)
    assert loss(SPACE.container).item() == pytest.approx(before.item(), rel=1e-5)
    assert abs(unsorted_heads - before.item()) > 1e-3
