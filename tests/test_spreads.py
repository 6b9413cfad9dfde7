"""Spreads of small samples, against sums done by hand and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from speech_tasks.intervals import (
    NUM_GROUPS,
    SPEAKERS,
    UTTERANCES,
    Spread,
    Voices,
    combine,
    paired_interval,
    ratio,
    spread_of,
    spread_of_moves,
    spread_of_ratio,
    spread_of_trials,
)


def voices(*speakers):
    return Voices(speakers, tuple(f"u{i}" for i in range(len(speakers))))


def tallies(numerators, denominators=None):
    """One head's, (1, N, 2)."""
    below = np.ones(len(numerators)) if denominators is None else np.asarray(denominators, float)
    return np.stack([np.asarray(numerators, float), below], axis=-1)[None]


def test_two_known_speakers_make_blocks_of_speakers():
    two = voices("b", "a", None, "b")
    assert (two.over, two.reader, two.names) == (SPEAKERS, None, ["a", "b"])
    assert two.blocks == ["b", "a", "u2", "b"]


@pytest.mark.parametrize(("speakers", "reader"), [(("a", None, "a"), "a"), ((None, None, None), None)])
def test_without_two_speakers_each_utterance_is_a_block(speakers, reader):
    one = voices(*speakers)
    assert (one.over, one.reader) == (UTTERANCES, reader)
    assert one.blocks == ["u0", "u1", "u2"]


def test_a_mean_over_speakers_has_students_interval():
    numbers = np.array([3.0, 5.0, 4.0, 9.0])
    spread = spread_of_ratio("PER", tallies(numbers), voices(*"abcd"), scale=100.0)
    expected = student.ppf(0.975, 3) * 100 * numbers.std(ddof=1) / math.sqrt(4)
    assert spread.half_interval == pytest.approx(expected, rel=1e-9)
    assert spread.count == 4


def test_a_ratio_moves_as_it_does_without_each_speaker():
    above, below = np.array([1.0, 4.0, 2.0, 7.0]), np.array([10.0, 20.0, 5.0, 12.0])
    spread = spread_of_ratio("PER", tallies(above, below), voices("a", "b", "a", "c"))
    left = np.array([11 / 32, 10 / 27, 7 / 35])  # without a, b, c
    deviations = left - left.mean()
    assert [spread.moves[name] for name in "abc"] == pytest.approx(math.sqrt(2 / 3) * deviations, rel=1e-9)
    assert spread.half_interval == pytest.approx(
        student.ppf(0.975, 2) * math.sqrt(2 / 3 * (deviations**2).sum()), rel=1e-9
    )


def test_speakers_and_heads_share_degrees_of_freedom():
    spread = Spread({"a": 3.0, "b": -1.0, "c": -2.0}, 3, {("CTC", 3): (1.0, -1.0, 0.0)})
    of_speakers, of_heads = 14.0, 2.0
    degrees = (of_speakers + of_heads) ** 2 / (of_speakers**2 / 2 + of_heads**2 / 2)
    assert spread.half_interval == pytest.approx(student.ppf(0.975, degrees) * 4, rel=1e-9)


def test_a_single_head_says_nothing_of_heads():
    spread = spread_of_moves("CTC", [5.0], {"a": 1.0, "b": -1.0}, 2)
    assert spread.heads == {("CTC", 1): (0.0,)}
    assert spread.half_interval == pytest.approx(student.ppf(0.975, 1) * math.sqrt(2), rel=1e-9)


def test_heads_move_a_mean_by_its_standard_error():
    numbers = np.array([1.0, 2.0, 6.0])
    spread = spread_of("CTC", numbers, {"a": [0.0, 0.0, 0.0], "b": [0.0, 0.0, 0.0]}, 2)
    (away,) = spread.heads.values()
    assert sum(x**2 for x in away) == pytest.approx(numbers.var(ddof=1) / 3, rel=1e-9)


def test_two_heads_are_enough_to_differ():
    spread = Spread({"a": 0.0, "b": 0.0}, 2, {("CTC", 2): (1.0, -1.0)})
    assert spread.half_interval == pytest.approx(student.ppf(0.975, 1) * math.sqrt(2), rel=1e-9)


def test_a_scale_is_that_of_heads_as_well():
    two = np.concatenate([tallies([1.0, 3.0]), tallies([2.0, 4.0])])
    spread = spread_of_ratio("PER", two, voices("a", "b"), scale=100.0)
    assert spread.heads == {("PER", 2): pytest.approx((-50 / math.sqrt(2), 50 / math.sqrt(2)))}


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        (Spread({"a": 1.0}, 1), math.inf),
        (Spread({"a": math.nan, "b": 1.0}, 2), math.inf),
        (Spread({"a": 0.0, "b": 0.0}, 2), 0.0),
        (Spread({"a": 1.0, "b": -1.0}, 2), student.ppf(0.975, 1) * math.sqrt(2)),
    ],
    ids=["one speaker", "not a number", "nothing moves", "two speakers"],
)
def test_what_few_speakers_tell(spread, expected):
    assert spread.half_interval == pytest.approx(expected)


def test_chance_in_two_speakers_is_counted_once():
    moves = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert Spread(moves, 3, shared={"0": 2.0, "1": 1.0}).of_speakers == pytest.approx(14 - 5)
    assert Spread(moves, 3, shared={"0": 3.0, "1": 1.0}).of_speakers == pytest.approx(14 / 2)


def test_a_number_less_itself_has_no_spread():
    spread = Spread({"a": 3.0, "b": -1.0}, 2, {("CTC", 2): (1.0, -1.0)}, {"0": 0.5})
    nothing = combine([(1.0, spread), (-1.0, spread)])
    assert nothing.half_interval == 0
    assert (set(nothing.moves.values()), set(nothing.shared.values())) == ({0.0}, {0.0})


def test_sums_of_spreads_add_what_each_block_moves():
    one = Spread({"a": 3.0, "b": -1.0}, 5, {("CTC", 2): (1.0, -1.0)}, {"0": 0.5})
    other = Spread({"b": 2.0, "c": 1.0}, 3, {("CTC", 2): (0.5, -0.5), ("EER", 2): (1.0, -1.0)}, {"0": 1.0, "1": 2.0})
    both = combine([(1.0, one), (2.0, other)])
    assert both.moves == {"a": 3.0, "b": 3.0, "c": 2.0}
    assert both.shared == {"0": 2.5, "1": 4.0}
    assert both.heads == {("CTC", 2): (2.0, -2.0), ("EER", 2): (2.0, -2.0)}
    assert both.count == 3


def test_a_speaker_who_adds_nothing_to_the_denominator_does_not_count():
    # d says nothing that is counted, and the nameless one is nobody: two speakers judge.
    spread = spread_of_ratio("MTWV", tallies([1, 2, 0, 3], [4, 5, 0, 6]), voices("a", "b", "d", None))
    assert spread.count == 2
    alone = spread_of_ratio("MTWV", tallies([1, 2, 0, 3], [4, 5, 0, 6]), voices("a", "a", "a", "a"))
    assert alone.count == 3


def test_a_block_that_holds_all_of_the_denominator_moves_nothing():
    spread = spread_of_ratio("MTWV", tallies([1, 0], [4, 0]), voices("a", "b"))
    assert spread.moves == {"a": 0.0, "b": 0.0}
    assert spread.half_interval == math.inf  # one speaker judges


def test_ratios():
    sums = np.array([[1.0, 4.0], [3.0, 0.5], [2.0, 0.0]])
    assert ratio(sums).tolist() == [0.25, 6.0, 0.0]
    assert ratio(sums, 7.0).tolist() == [0.25, 6.0, 7.0]


def weighted_mean(values, sides):
    """A number over trials: their mean, each weighed by both of its speakers and by itself."""

    def measure(seed, speakers, trials):
        weights = speakers[sides[0]] * speakers[sides[1]] * trials
        return float((weights * values[seed]).sum() / weights.sum())

    return measure


def test_trials_move_as_they_do_when_a_speaker_or_a_pair_counts_half():
    rng = np.random.default_rng(0)
    sides = (np.array([0, 0, 1, 2, 3, 1, 2, 0, 2]), np.array([1, 2, 2, 3, 0, 0, 1, 0, 2]))
    values = rng.normal(size=(2, len(sides[0])))
    measure = weighted_mean(values, sides)
    names = ["a", "b", "c", "d"]
    whole = [measure(seed, np.ones(4), np.ones(9)) for seed in (0, 1)]
    spread = spread_of_trials("EER", whole, measure, sides, names)

    scale = math.sqrt(4 / 3) / 0.5

    def move(speakers, trials):
        return scale * np.mean([measure(seed, speakers, trials) - whole[seed] for seed in (0, 1)])

    for i, name in enumerate(names):
        half = np.ones(4)
        half[i] = 0.5
        assert spread.moves[name] == pytest.approx(move(half, np.ones(9)))
    pairs = {frozenset(pair) for pair in zip(*(side.tolist() for side in sides), strict=True) if len({*pair}) == 2}
    by_hand = []
    for pair in pairs:  # (1, 0) is the pair of (0, 1); what one speaker says twice has none
        halves = [0.5 if {a, b} == pair else 1.0 for a, b in zip(*(side.tolist() for side in sides), strict=True)]
        by_hand.append(move(np.ones(4), np.array(halves)))
    assert len(pairs) == 5
    assert sorted(spread.shared.values()) == pytest.approx(sorted(by_hand))
    assert spread.count == 4


def test_many_pairs_share_few_groups():
    size = 40
    low, high = np.triu_indices(size, 1)
    measure = weighted_mean(np.arange(len(low), dtype=float)[None], (low, high))
    spread = spread_of_trials("EER", [1.0], measure, (low, high), [str(i) for i in range(size)])
    assert 200 < len(spread.shared) <= NUM_GROUPS
    assert {"EER 0", f"EER {NUM_GROUPS - 1}"} <= {*spread.shared}


def test_trials_between_two_speakers():
    sides = (np.array([0, 0, 1]), np.array([1, 0, 1]))
    spread = spread_of_trials("EER", [0.0], weighted_mean(np.array([[3.0, -4.0, 1.0]]), sides), sides, ["a", "b"])
    half_a, half_b = (0.5 * 3 - 0.25 * 4 + 1) / 1.75, (0.5 * 3 - 4 + 0.25) / 1.75
    assert spread.moves == {
        "a": pytest.approx(2 * math.sqrt(2) * half_a),
        "b": pytest.approx(2 * math.sqrt(2) * half_b),
    }
    (once,) = spread.shared.values()
    assert once == pytest.approx(2 * math.sqrt(2) * (0.5 * 3 - 4 + 1) / 2.5)


def test_intervals_of_pairs_are_those_of_the_t_test():
    differences = np.random.default_rng(0).normal(1, 2, size=(3, 7))
    interval = ttest_1samp(differences, 0, axis=1).confidence_interval(0.95)
    assert paired_interval(differences) == pytest.approx(np.stack([interval.low, interval.high], axis=-1))
    two = ttest_1samp([1.0, 4.0], 0).confidence_interval(0.95)
    assert paired_interval([1.0, 4.0]) == pytest.approx([two.low, two.high])
    assert paired_interval([[2.0], [3.0]]).tolist() == [[2.0, 2.0], [3.0, 3.0]]
