"""Every metric against numbers made by hand and against slow, plain computations of the same definition."""

import math
from collections import defaultdict
from itertools import product

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from speech_tasks.metrics import (
    BETA,
    beam_search,
    ctc_collapse,
    edit_tallies,
    equal_error_rate,
    maximum_term_weighted_value,
    normalize_scores,
    slot_tallies,
    slot_value_tallies,
)

TOKENS = st.lists(st.sampled_from(["", "\0", " ", "a", "b", "ab", "a b"]), max_size=7)


def plain_edits(said, heard):
    """Wagner and Fischer's table."""
    row = list(range(len(heard) + 1))
    for i, token in enumerate(said, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (token != other)))
    return row[-1]


# Edits


def test_edits_by_hand():
    said = [["k", "ae", "t"], "kitten", [], ["a", "b"], [], ["on", "off"]]
    heard = [["k", "ah", "t", "s"], "sitting", ["a"], [], [], ["onoff"]]
    assert edit_tallies(said, heard).tolist() == [[2, 3], [3, 6], [1, 0], [2, 2], [0, 0], [2, 2]]
    assert edit_tallies([], []).shape == (0, 2)


@settings(deadline=None)
@given(TOKENS, TOKENS)
def test_edits_of_any_tokens(said, heard):
    assert edit_tallies([said], [heard]).tolist() == [[plain_edits(said, heard), len(said)]]


def test_word_and_character_error_rates_are_jiwers():
    said = ["turn on the light", "what will the weather be", "call my mother"]
    heard = ["turn the light off", "what the weather be", "call my other mother"]
    words = edit_tallies([x.split() for x in said], [x.split() for x in heard]).sum(0)
    characters = edit_tallies(said, heard).sum(0)
    assert words[0] / words[1] == pytest.approx(jiwer.wer(said, heard))
    assert characters[0] / characters[1] == pytest.approx(jiwer.cer(said, heard))


@pytest.mark.parametrize("tallies", [edit_tallies, slot_tallies, slot_value_tallies])
def test_a_reference_without_a_hypothesis_is_refused(tallies):
    with pytest.raises(ValueError, match="each reference needs one hypothesis; got 2 and 1"):
        tallies([[], []], [[]])


# Equal error rate


def trials(seed, num_trials=300, distinct=None):
    """Scores that tell a little, and labels; `distinct` makes them tie."""
    rng = np.random.default_rng(seed)
    same = rng.random(num_trials) < 0.3
    scores = rng.normal(size=num_trials) + same
    return scores if distinct is None else np.round(scores * distinct) / distinct, same


def scanned_rates(scores, same):
    """(misses, false alarms) at every threshold, the strictest first."""
    thresholds = [np.inf, *sorted(set(scores.tolist()), reverse=True)]
    return [(np.mean(scores[same] < t), np.mean(scores[~same] >= t)) for t in thresholds]


def test_equal_error_rate_by_hand():
    # At 3 one impostor of three is accepted and one target of two missed, at 2 two impostors and the same target.
    assert equal_error_rate([4, 3, 2, 1, 0], [0, 1, 0, 1, 0]) == pytest.approx(1 / 2)
    assert equal_error_rate([3, 2, 1, 0], [1, 1, 0, 0]) == 0
    assert equal_error_rate([3, 2, 1, 0], [0, 0, 1, 1]) == 1
    # The tie of a target and an impostor goes from (1/2, 0) to (0, 1): the slant meets the diagonal at a third.
    assert equal_error_rate([2, 1, 1], [1, 1, 0]) == pytest.approx(1 / 3)
    assert equal_error_rate([5, 5, 5], [1, 0, 0]) == pytest.approx(1 / 2)
    assert equal_error_rate([np.inf, 1, -np.inf, -np.inf], [1, 0, 1, 0]) == pytest.approx(1 / 2)


@pytest.mark.parametrize("distinct", [None, 4, 1])
@pytest.mark.parametrize("seed", range(5))
def test_equal_error_rate_lies_between_scanned_thresholds_and_is_that_of_superb(seed, distinct):
    scores, same = trials(seed, distinct=distinct)
    rate = equal_error_rate(scores, same)
    rates = scanned_rates(scores, same)
    before = max(i for i, (misses, false_alarms) in enumerate(rates) if misses > false_alarms)
    (misses, false_alarms), (fewer_misses, more_false_alarms) = rates[before : before + 2]
    assert false_alarms <= rate <= more_false_alarms
    assert fewer_misses <= rate <= misses
    # On the straight line between the two, the same share of the way along both axes.
    along = (misses - rate) * (more_false_alarms - false_alarms)
    assert along == pytest.approx((rate - false_alarms) * (misses - fewer_misses))

    x, y, _ = roc_curve(same, scores, pos_label=1)
    assert rate == pytest.approx(brentq(lambda r: 1 - r - interp1d(x, y)(r), 0, 1), abs=1e-9)


@pytest.mark.parametrize("distinct", [None, 2])
def test_a_weight_is_a_repeat(distinct):
    scores, same = trials(7, distinct=distinct)
    counts = np.random.default_rng(8).integers(0, 4, len(scores))
    repeated = equal_error_rate(np.repeat(scores, counts), np.repeat(same, counts))
    assert equal_error_rate(scores, same, counts) == pytest.approx(repeated)
    assert repeated != equal_error_rate(scores, same)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30), st.randoms())
def test_equal_error_rate_knows_no_order_scale_or_side(pairs, random):
    scores, same = np.array(pairs).T
    same = same.astype(bool)
    if same.all() or not same.any():
        same[0] = not same[0]
    rate = equal_error_rate(scores, same)
    order = random.sample(range(len(scores)), len(scores))
    assert equal_error_rate(scores[order], same[order]) == pytest.approx(rate)
    assert equal_error_rate(np.exp(scores), same) == rate
    assert equal_error_rate(-scores, ~same) == pytest.approx(rate)
    assert equal_error_rate(-scores, same) == pytest.approx(1 - rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 1]), "trials of both kinds; there are 2 of the same speaker and 0 of different ones"),
        (([1, 2, 3], [1, 0, 0], [0, 1, 1]), "there are 0 of the same speaker and 2 of different"),
        (([1, 2], [1, 0, 0]), r"their shapes are \(2,\), \(3,\) and \(2,\)"),
        (([], []), "at least one"),
        (([1, math.nan], [1, 0]), "1 of 2 are NaN"),
        (([1, 2], [1, 0], [1, -1]), "weights must be finite and not negative"),
        (([1, 2], [1, 0], [1, math.inf]), "weights must be finite and not negative"),
    ],
)
def test_trials_that_give_no_equal_error_rate_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        equal_error_rate(*arguments)


# Term-weighted value


def searches(seed, num_queries=6, num_documents=25):
    """Scores of every query against every document, whether it holds it, and the query of each trial."""
    rng = np.random.default_rng(seed)
    relevant = rng.random((num_queries, num_documents)) < 0.2
    relevant[:, 0], relevant[:, 1] = True, False
    scores = np.round(rng.normal(size=relevant.shape) + 3 * relevant, 1)
    return scores.ravel(), relevant.ravel(), np.repeat(np.arange(num_queries), num_documents)


def plain_value(scores, relevant, queries, weights, beta):
    """The definition, by loops over thresholds, queries and trials."""
    best = 0.0
    for threshold in set(scores):
        losses = 0.0
        for query, weight in enumerate(weights):
            own = [(s, r) for s, r, q in zip(scores, relevant, queries, strict=True) if q == query]
            misses = [s < threshold for s, r in own if r]
            false_alarms = [s >= threshold for s, r in own if not r]
            losses += weight * (sum(misses) / len(misses) + beta * sum(false_alarms) / len(false_alarms))
        best = max(best, 1 - losses / sum(weights))
    return best


def test_beta_is_that_of_quesst():
    assert pytest.approx(12.49) == BETA


def test_term_weighted_value_by_hand():
    relevant, queries = [1, 1, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]
    scores = [9, 4, 5, 1, 6, 7, 2, 1]
    # At 9 half of query 0 is found and none of query 1: 1/4. At 7 a third of the others of query 1 is found, falsely.
    assert maximum_term_weighted_value(scores, relevant, queries) == pytest.approx(1 / 4)
    # With β = 1/2, at 4: all is found, with 1/2 of the others of query 0 and 1/3 of those of query 1.
    value = 1 - 0.5 * (1 / 2 + 1 / 3) / 2
    assert maximum_term_weighted_value(scores, relevant, queries, beta=0.5) == pytest.approx(value)
    assert maximum_term_weighted_value(relevant, relevant, queries) == pytest.approx(1)
    assert maximum_term_weighted_value(np.logical_not(relevant), relevant, queries) == 0
    assert maximum_term_weighted_value(np.zeros(8), relevant, queries, beta=0.25) == pytest.approx(0.75)


@pytest.mark.parametrize("beta", [BETA, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_term_weighted_value_by_loops(seed, beta):
    scores, relevant, queries = searches(seed)
    for weights in (np.ones(6), np.array([2, 0, 1, 3, 0, 1])):
        value = maximum_term_weighted_value(scores, relevant, queries, weights=weights, beta=beta)
        assert value == pytest.approx(plain_value(scores, relevant, queries, weights, beta))
        assert 0 < value < 1


def test_the_weight_of_a_query_is_a_repeat():
    scores, relevant, queries = searches(4)
    counts = np.array([1, 2, 0, 1, 1, 3])
    chosen = np.repeat(np.arange(6), counts)
    repeated = [(scores[queries == q], relevant[queries == q]) for q in chosen]
    values, labels = (np.concatenate(x) for x in zip(*repeated, strict=True))
    owners = np.repeat(np.arange(len(chosen)), 25)
    expected = maximum_term_weighted_value(values, labels, owners)
    assert maximum_term_weighted_value(scores, relevant, queries, weights=counts) == pytest.approx(expected)


def test_one_threshold_serves_all_queries_only_once_scores_are_normalised():
    scores, relevant, queries = [0.9, 0.8, 0.1, 0.2, 90, 80, 10, 20], [1, 1, 0, 0] * 2, [0] * 4 + [1] * 4
    assert maximum_term_weighted_value(scores, relevant, queries) == pytest.approx(1 / 2)
    assert maximum_term_weighted_value(normalize_scores(scores, queries), relevant, queries) == pytest.approx(1)


def test_normalised_scores():
    scores, _, queries = searches(5)
    normalised = normalize_scores(scores, queries)
    for query in range(6):
        own = scores[queries == query]
        assert normalised[queries == query] == pytest.approx((own - own.mean()) / own.std())
    assert normalize_scores([1, 3, 5, 5], [2, 2, 0, 0]).tolist() == [-1, 1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        (([1, 2, 3], [1, 0, 0], [0, 0, 1]), {}, "query 1 has 0 relevant and 1 other trials.*leave out the 1 such"),
        (([1, 2, 3], [1, 0, 1], [0, 0, 2]), {}, "query 1 has 0 relevant and 0 other.*leave out the 2 such"),
        (([1, 2], [1, 0], [0, 0]), {"weights": [0.0]}, "weights must be 1 numbers"),
        (([1, 2], [1, 0], [0, 0]), {"weights": [-1.0]}, "none negative"),
        (([1, 2, 3, 4], [1, 0, 1, 0], [0, 0, 1, 1]), {"weights": [1.0]}, "weights must be 2 numbers"),
        (([1, 2], [1, 0], [0]), {}, r"whole number for each of \(2,\) trials; got int64 \(1,\)"),
        (([1, 2], [1, 0], [0.0, 0.0]), {}, "got float64"),
        (([1, 2], [1, 0], [0, -1]), {}, "numbered from 0; got -1"),
        (([1, math.nan], [1, 0], [0, 0]), {}, "1 of 2 are NaN"),
    ],
)
def test_searches_that_have_no_value_are_refused(arguments, named, message):
    with pytest.raises(ValueError, match=message):
        maximum_term_weighted_value(*arguments, **named)


def test_infinite_scores_are_not_normalised():
    with pytest.raises(ValueError, match="scores must be finite"):
        normalize_scores([1, -math.inf], [0, 0])


# Slots


SAID = [
    [("city", "london"), ("day", "next week")],
    [("place", "the zoo"), ("place", "the station")],
    [("food", "rice")],
    [],
    [],
    [("room", "attic")],
]
HEARD = [
    [("day", "next weak"), ("time", "noon"), ("city", "london")],
    [("place", "the nation")],
    [],
    [],
    [("food", "rice")],
    [("task", "attic")],
]


def test_slot_types_by_hand():
    # Of types only: 2 of 2 found and 2 of 3 right; one type; missed; none and none; invented; mistaken.
    assert slot_tallies(SAID, HEARD) == pytest.approx(np.array([[4 / 5, 1], [1, 1], [0, 1], [1, 1], [0, 1], [0, 1]]))
    assert slot_tallies([], []).shape == (0, 2)


def test_slot_values_by_hand():
    # One letter; "the nation" is the closest for both places; what was not found costs its length; no cost if invented.
    zoo, station = plain_edits("the zoo", "the nation"), 2
    assert slot_value_tallies(SAID, HEARD).tolist() == [
        [1, 6 + 9], [zoo + station, 7 + 11], [4, 4], [0, 0], [0, 0], [5, 5],
    ]  # fmt: skip


def test_the_closest_value_of_a_type_counts():
    heard = [("place", "the z"), ("place", "the station"), ("place", "xxxxxxxxx")]
    for order in (heard, heard[::-1]):
        assert slot_value_tallies([SAID[1]], [order]).tolist() == [[2, 7 + 11]]


# Decoding


@pytest.mark.parametrize(
    ("ids", "blank", "labels"),
    [
        ([], 0, []),
        ([0, 0], 0, []),
        ([1, 1, 0, 1, 2, 2, 0], 0, [1, 1, 2]),
        ([1, 1, 0, 1, 2, 2, 0], 2, [1, 0, 1, 0]),
        ([3, 1, 3], 0, [3, 1, 3]),
    ],
)
def test_repeats_become_one_and_blanks_go(ids, blank, labels):
    assert ctc_collapse(ids, blank) == labels
    assert ctc_collapse(np.array(ids, np.int64), blank) == labels


def frames(seed, num_frames, num_classes, sharpness=2.0):
    logits = np.random.default_rng(seed).normal(size=(num_frames, num_classes)) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def labelling_probs(log_probs, blank):
    """The probability of every labelling, summed over all alignments."""
    probs = defaultdict(float)
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        probs[tuple(ctc_collapse(path, blank))] += math.exp(sum(log_probs[t, c] for t, c in enumerate(path)))
    return probs


def plain_beam(log_probs, beam_width, blank):
    """Prefix beam search over tuples, in probabilities."""
    beam = {(): (1.0, 0.0)}
    for row in np.exp(log_probs):
        after = defaultdict(lambda: [0.0, 0.0])
        for prefix, (after_blank, after_label) in beam.items():
            after[prefix][0] += (after_blank + after_label) * row[blank]
            for label, prob in enumerate(row):
                if label == blank:
                    continue
                if prefix[-1:] == (label,):
                    after[prefix][1] += after_label * prob
                    after[(*prefix, label)][1] += after_blank * prob
                else:
                    after[(*prefix, label)][1] += (after_blank + after_label) * prob
        beam = dict(sorted(after.items(), key=lambda item: -sum(item[1]))[:beam_width])
    return list(next(iter(beam)))


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize(("num_frames", "num_classes"), [(1, 3), (4, 3), (6, 3), (5, 4)])
def test_a_wide_beam_finds_the_likeliest_labelling(num_frames, num_classes, blank):
    greedy_was_right = []
    for seed in range(6):
        log_probs = frames(seed, num_frames, num_classes, sharpness=0.7)
        probs = labelling_probs(log_probs, blank)
        assert sum(probs.values()) == pytest.approx(1)
        best = max(probs, key=probs.__getitem__)
        assert beam_search(log_probs, 2000, blank) == list(best)
        greedy_was_right.append(ctc_collapse(log_probs.argmax(1), blank) == list(best))
    assert num_frames < 4 or not all(greedy_was_right)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 5), st.integers(0, 1))
def test_a_narrow_beam_keeps_what_a_plain_one_keeps(seed, beam_width, num_classes, blank):
    log_probs = frames(seed, 25, num_classes, sharpness=1.0)
    assert beam_search(log_probs, beam_width, blank) == plain_beam(log_probs, beam_width, blank)


def test_alignments_add_up():
    log_probs = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert ctc_collapse(log_probs.argmax(1)) == []  # 0.36
    assert beam_search(log_probs, 2) == [1]  # 0.64


def test_sure_frames_are_read_off():
    ids = [0, 1, 1, 0, 1, 2, 0, 0, 2]
    log_probs = np.full((len(ids), 3), -np.inf)
    log_probs[np.arange(len(ids)), ids] = 0.0
    assert beam_search(log_probs, 4) == [1, 1, 2, 2]
    assert beam_search(np.zeros((0, 3)), 4) == []


@pytest.mark.parametrize(
    ("log_probs", "beam_width", "blank", "message"),
    [
        (np.zeros((2, 3)), 0, 0, "beam_width must be at least 1, got 0"),
        (np.zeros((2, 3)), 4, 3, r"the class blank=3; its shape is \(2, 3\)"),
        (np.zeros(3), 4, 0, r"must be \(frames, classes\)"),
        (np.array([[0.0, math.nan]]), 4, 0, "not NaN"),
        (np.array([[0.0, math.inf]]), 4, 0, "below inf"),
        (np.array([[0.0, 0.0], [-math.inf, -math.inf]]), 4, 0, "a possible class in every frame"),
    ],
)
def test_frames_that_cannot_be_decoded_are_refused(log_probs, beam_width, blank, message):
    with pytest.raises(ValueError, match=message):
        beam_search(log_probs, beam_width, blank)
