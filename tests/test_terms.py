"""Distances, matchings, frames and heads against numbers made by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from distillation.distances import cosine, cross_entropy, ctc, gram, kl, l1, mse
from distillation.matchings import MATCHINGS
from distillation.objective import Head, Objective
from distillation.sources.source import Targets
from distillation.terms import Term
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
    sources = {term.source: SimpleNamespace(dims={MATCHINGS[term.matching].tap: dim}) for term in terms}
    return Objective(terms, sources, container, groups, torch.Generator().manual_seed(0))


def term(matching="mean", distance="l1", source="teacher", **values):
    return Term(source=source, matching=matching, distance=distance, **values)


def targets(layers, tap="hidden"):
    return Targets({tap: layers}, 50.0, None)


def loss_of(objective, made, targets, subnet=CONTAINER, masked=None):
    return objective.weigh(objective(made, targets, subnet, masked))


def mean(distance, student, target, frames=None):
    total, count = distance(student, target, frames)
    return total / count


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
    predicted = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    target = torch.tensor([[[0.0, 1.0], [3.0, 4.0]]])
    assert mean(distance, predicted, target).item() == pytest.approx(expected)


def test_cross_entropy_is_in_nats():
    scores = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    total, count = cross_entropy(scores, torch.tensor([[1, 1]]), None)
    assert (total.item(), count) == (pytest.approx(math.log(2) + math.log(4)), 2)


def test_gram_compares_which_frames_resemble_which():
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]])
    target = torch.tensor([[[0.0, 0.0, 5.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]])  # the same angles, another width
    assert mean(gram, student, target).item() == pytest.approx(0, abs=1e-12)
    target[0, 1] = torch.tensor([0.0, 0.0, 4.0])  # now the second frame is the first
    expected = 2 * (1**2 + 0) / 9  # cos(1, 2) and cos(2, 1) are 1 and not 0; those with the third stay
    assert mean(gram, student, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", [l1, mse, cosine, gram, kl, cross_entropy, ctc])
def test_sums_are_as_exact_under_autocast(distance):
    """Which multiplied cosines in bf16, and gave their sum in it."""
    student, target = (randn(2, 40, 8, seed=i).softmax(-1) for i in (1, 2))
    target = {cross_entropy: target.argmax(-1), ctc: torch.tensor([[1, 2, -1], [3, 4, 5]])}.get(distance, target)
    expected, _ = distance(student, target, None)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = distance(student, target, None)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


def test_kl_is_torchs_own():
    ours, theirs = (randn(B, T, T, seed=i).softmax(-1) for i in (1, 2))
    theirs[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    expected = F.kl_div(ours.log(), theirs, reduction="sum")
    total, count = kl(ours, theirs, None)
    torch.testing.assert_close(total, expected)
    assert count == B * T
    assert kl(ours, ours, None)[0].item() == pytest.approx(0, abs=1e-6)
    none = torch.tensor([[[0.0, 1.0]]]).requires_grad_()
    kl(none, torch.tensor([[[0.5, 0.5]]]), None)[0].backward()
    assert none.grad.isfinite().all()


def test_ctc_by_counting_alignments():
    """Two frames, even scores over blank, a, b: `a` has the paths aa, a-, -a, `ab` has one, `aba` none."""
    scores = torch.zeros(4, 2, 3)
    said = torch.tensor([[1, -1, -1], [1, 2, -1], [1, 2, 1], [-1, -1, -1]])
    total, count = ctc(scores, said, None)
    assert total.item() == pytest.approx(math.log(9 / 3) + math.log(9 / 1) + 0 + math.log(9 / 1))
    assert count == 1 + 2 + 3
    frames = torch.tensor([[True, False]] * 4)
    total, _ = ctc(scores, said, frames)
    assert total.item() == pytest.approx(math.log(3) + 0 + 0 + math.log(3))


@pytest.mark.parametrize("distance", [l1, mse, cosine, gram, kl, cross_entropy])
def test_what_lies_outside_of_the_frames_decides_nothing(distance):
    student = randn(B, T, T, seed=1).softmax(-1)
    target = torch.tensor([[0, 1, 2], [1, 2, 0]]) if distance is cross_entropy else randn(B, T, T, seed=2).softmax(-1)
    frames = torch.tensor([[True, True, True], [True, True, False]])
    expected = distance(student, target, frames)
    student[1, 2] = float("inf")
    if distance is not cross_entropy:
        target[1, 2] = float("nan")
    got = distance(student, target, frames)
    assert (got[0].item(), got[1]) == (expected[0].item(), expected[1])
    if distance is not gram:
        rows = [distance(student[i : i + 1, :n], target[i : i + 1, :n], None) for i, n in ((0, 3), (1, 2))]
        assert got[0].item() == pytest.approx(sum(total.item() for total, _ in rows))
        assert got[1] == sum(count for _, count in rows) == 5


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
    layers = [torch.full((B, T, 5), value) for value in (100.0, 100.0, 1.0, 2.0, 3.0, 6.0)]
    (head,) = objective.heads["teacher:mean"]
    expected = (head(made.last) - 3.0).abs().mean()
    torch.testing.assert_close(loss_of(objective, made, {"teacher": targets(layers)}), expected)


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
    theirs = [randn(B, T, 5, seed=10 + i) for i in range(num_targets)]
    heads = objective.heads["teacher:layers"]
    losses = [
        mean(mse, heads[layer](made.hidden[position + 1]), theirs[target])
        for position, (layer, target) in enumerate(zip(kept, expected, strict=True))
    ]
    got = loss_of(objective, made, {"teacher": targets(theirs)}, subnet)
    torch.testing.assert_close(got, torch.stack(losses).mean())
    assert len(heads) == num_layers


def test_front_end_and_codes():
    objective = make(term("front_end", "mse", "signal"), term("codes", "cross_entropy", "codes"))
    made, signal, codes = trace(), randn(B, T, 5, seed=3), torch.tensor([[0, 1, 2], [3, 4, 0]])
    (front,), (scores,) = objective.heads["signal:front_end"], objective.heads["codes:codes"]
    expected = mean(mse, front(made.front_end), signal) + F.cross_entropy(
        scores(made.last).flatten(0, 1), codes.flatten()
    )
    met = {"signal": targets([signal], "front_end"), "codes": targets([codes], "codes")}
    torch.testing.assert_close(loss_of(objective, made, met), expected)


@pytest.mark.parametrize(("kept", "met"), [((0, 1), [1, 3]), ((1,), [3])])
@pytest.mark.parametrize(
    ("matching", "distance", "tap"), [("relations", "gram", "hidden"), ("attention", "kl", "probabilities")]
)
def test_relations_need_no_head(kept, met, matching, distance, tap):
    """Whatever the widths and the heads of attention: those of the student are not the teacher's."""
    objective = make(term(matching, distance))
    subnet = Subnet((8,), D, (Layer(1, 4),) * len(kept), kept)
    made = trace(num_layers=len(kept))
    made.probabilities = [randn(B, 1, T, T, seed=i).softmax(-1) for i in range(len(kept))]
    theirs = [
        randn(B, T, 7, seed=20 + i) if tap == "hidden" else randn(B, 3, T, T, seed=i).softmax(-1) for i in range(4)
    ]
    assert not list(objective.parameters())
    assert objective.taps == (tap,)
    ours = made.hidden[1:] if tap == "hidden" else [x.mean(1) for x in made.probabilities]
    measure = {"gram": gram, "kl": kl}[distance]
    expected = [
        mean(measure, x, theirs[i] if tap == "hidden" else theirs[i].mean(1)) for x, i in zip(ours, met, strict=True)
    ]
    got = loss_of(objective, made, {"teacher": targets(theirs, tap)}, subnet)
    torch.testing.assert_close(got, torch.stack(expected).mean())


def test_labels_are_scored_by_the_last_state():
    objective, made = make(term("labels", "ctc", "labels"), dim=4), trace(VALID)
    said = torch.tensor([[1, 3], [2, -1]])
    (head,) = objective.heads["labels:labels"]
    expected = mean(ctc, head(made.last), said, VALID)
    torch.testing.assert_close(loss_of(objective, made, {"labels": targets([said], "labels")}), expected)


def test_a_term_may_name_another_tap():
    sources = {"teacher": SimpleNamespace(dims={"hidden": 5, "ffn": 6})}
    terms = (term("layers"), term("layers", tap="ffn"))
    objective = Objective(terms, sources, CONTAINER, 2, torch.Generator().manual_seed(0))
    assert {key: heads[0].weight.shape[0] for key, heads in objective.heads.items()} == {
        "teacher:layers": 5,
        "teacher:layers:ffn": 6,
    }
    named = term("layers", "cosine", tap="hidden")  # the matching's own: as if it were not named
    assert (named.heads, named.name) == ("teacher:layers", "teacher:layers:cosine")
    met = Targets({"hidden": [randn(B, T, 5)] * 2, "ffn": [randn(B, T, 6)] * 2}, 50.0, None)
    assert list(objective(trace(), {"teacher": met}, CONTAINER, None)) == ["teacher:layers:l1", "teacher:layers:ffn:l1"]


@pytest.mark.parametrize(
    ("matchings", "taps"),
    [(("mean",), ()), (("layers", "mean"), ("hidden",)), (("layers", "front_end"), ("front_end", "hidden"))],
)
def test_taps_are_those_the_terms_need(matchings, taps):
    assert make(*map(term, matchings)).taps == taps


def test_terms_share_heads_and_add_up_by_weight():
    terms = (term(weight=2.0), term(distance="cosine", weight=0.5))
    objective, made, target = make(*terms), trace(), randn(B, T, 5, seed=3)
    assert list(objective.heads) == ["teacher:mean"]
    calls = []
    objective.heads["teacher:mean"][0].register_forward_hook(lambda *_: calls.append(1))
    predicted = objective.heads["teacher:mean"][0](made.last)
    calls.clear()
    parts = objective(made, {"teacher": targets([target])}, CONTAINER, None)
    assert len(calls) == 1  # one pass for both
    first, second = l1(predicted, target, None), cosine(predicted, target, None)
    assert {name: (total.item(), int(count)) for name, (total, count) in parts.items()} == {
        "teacher:mean:l1": (pytest.approx(first[0].item()), B * T),
        "teacher:mean:cosine": (pytest.approx(second[0].item()), B * T),
    }
    torch.testing.assert_close(objective.weigh(parts), 2.0 * first[0] / (B * T) + 0.5 * second[0] / (B * T))


def test_parts_of_several_batches_add_up():
    objective, target = make(term("mean", "mse")), randn(B, T, 5, seed=3)
    made = [trace(valid) for valid in (VALID, None)]
    parts = [objective(x, {"teacher": targets([target])}, CONTAINER, None)["teacher:mean:mse"] for x in made]
    together = Trace(torch.cat([x.last for x in made]), torch.cat([VALID, torch.ones(B, T, dtype=torch.bool)]), 50.0)
    expected = loss_of(objective, together, {"teacher": targets([torch.cat([target, target])])})
    total, count = (sum(numbers) for numbers in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, expected)


def test_unknown_source_is_named():
    with pytest.raises(ValueError, match=r"terms name the sources \['teacher'\]; there are only \['signal'\]"):
        Objective((term(),), {"signal": SimpleNamespace(dims={"signal": 5})}, CONTAINER, 2, torch.Generator())


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
    expected = F.l1_loss(objective.heads["teacher:mean"][0](made.last)[chosen], target[chosen])
    assert chosen.sum() > 0
    torch.testing.assert_close(loss_of(objective, made, {"teacher": targets([target])}, masked=masked), expected)


@pytest.mark.parametrize("masked", [None, torch.zeros(B, T, dtype=torch.bool)])
def test_nothing_masked_is_no_loss(masked):
    made = trace()
    target = targets([randn(B, T, 5)])
    assert loss_of(make(term(frames="masked")), made, {"teacher": target}, masked=masked).item() == 0.0


# Sorting by importance


def test_reordering_leaves_the_containers_loss_alone():
    supernet = Supernet(SPACE, torch.Generator().manual_seed(0))
    supernet.load_encoder(make_teacher(1).state_dict())
    sources = {"teacher": SimpleNamespace(dims={"hidden": 32}), "codes": SimpleNamespace(dims={"codes": 6})}
    terms = (term("layers"), term("mean", "cosine"), term("codes", "cross_entropy", "codes"))
    objective = Objective(terms, sources, SPACE.container, SPACE.backbone.pos_conv_groups, torch.Generator())
    wave = torch.from_numpy(make_wave(8000, 0)).view(2, 4000)
    met = {
        "teacher": targets([randn(2, 12, 32, seed=i) for i in range(2)]),
        "codes": targets([torch.arange(24).view(2, 12) % 6], "codes"),
    }

    def loss(subnet):
        return loss_of(objective, supernet(wave, None, subnet, objective.taps), met, subnet)

    before = loss(SPACE.container)
    before.backward()
    order = reorder(supernet, taylor_importance(supernet))
    assert order.tolist() != sorted(order.tolist())
    unsorted_heads = loss(SPACE.container).item()
    objective.reorder(order)
    assert loss(SPACE.container).item() == pytest.approx(before.item(), rel=1e-5)
    assert abs(unsorted_heads - before.item()) > 1e-3
