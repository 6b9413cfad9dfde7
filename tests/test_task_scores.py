"""Intervals: against the textbook where there is one, and paired differences against differences of pairs."""

from __future__ import annotations

import numpy as np
import pytest

from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material, half_width, score_ratio, score_resampled
from tests.speech_cases import FakeCorpus, utterance


def tallies(right, seeds=1):
    numerators = np.broadcast_to(np.asarray(right, float), (seeds, len(right)))
    return np.stack([numerators, np.ones_like(numerators)], 2)


def test_a_ratio_is_of_sums_and_its_seeds_are_averaged():
    counts = np.array([[[1, 4], [3, 6]], [[2, 4], [4, 6]]], float)
    score = score_ratio("PER", IN_DOMAIN, counts)
    assert score.seeds == pytest.approx((40.0, 60.0))
    assert score.value == pytest.approx(50.0)


def test_the_interval_of_an_accuracy_is_the_binomial_one():
    rng = np.random.default_rng(0)
    right = rng.random(800) < 0.7
    score = score_ratio("KS accuracy", IN_DOMAIN, tallies(right))
    share = right.mean()
    textbook = 100 * 1.96 * np.sqrt(share * (1 - share) / 800)
    assert score.half_interval == pytest.approx(textbook, rel=0.15)  # 400 draws give a quantile to about a tenth


def test_seeds_that_disagree_widen_the_interval():
    right = np.tile([1.0, 0.0], 200)
    agreeing = np.concatenate([tallies(right)] * 3)
    disagreeing = agreeing.copy()
    disagreeing[1, :, 0] = 1
    disagreeing[2, :, 0] = 0
    wide, narrow = (score_ratio("KS accuracy", IN_DOMAIN, t).half_interval for t in (disagreeing, agreeing))
    assert wide > 3 * narrow


def test_a_paired_difference_knows_what_both_share():
    rng = np.random.default_rng(1)
    hard = rng.random(500) < 0.5
    worse = hard & (rng.random(500) < 0.9)  # right on a subset of what the better is right on
    better, other = (score_ratio("KS accuracy", IN_DOMAIN, tallies(x)) for x in (hard, worse))
    gap, half = better.difference(other)
    assert gap == pytest.approx(100 * (hard.mean() - worse.mean()))
    assert half < 0.6 * np.hypot(better.half_interval, other.half_interval)
    pairs = np.array([100 * (hard.astype(float) - worse)[rng.integers(500, size=500)].mean() for _ in range(2000)])
    assert half == pytest.approx(half_width(pairs), rel=0.2)
    assert other.difference(better)[0] == pytest.approx(-gap)


def test_resampling_any_metric_agrees_with_that_of_ratios():
    rng = np.random.default_rng(2)
    counts = tallies(rng.random(100) < 0.3, seeds=2)

    def measure(seed, weights):
        return 100 * float(weights @ counts[seed, :, 0] / weights.sum())

    one = score_ratio("PER", IN_DOMAIN, counts)
    other = score_resampled("PER", IN_DOMAIN, measure, 2, 100)
    assert other.value == pytest.approx(one.value)
    np.testing.assert_allclose(other.draws, one.draws)


def test_the_second_corpus_is_scored_beside_test_alone():
    corpus = FakeCorpus({"dev": [utterance("d")], "test": [utterance("t")]})
    other = FakeCorpus({"test": [utterance("o")]}, hash="other")
    sets = Material(corpus, other=other).scored_sets()
    assert {name: [c.utterance.id for c in clips] for name, clips in sets.items()} == {
        IN_DOMAIN: ["t"],
        OUT_OF_DOMAIN: ["o"],
    }
    assert sets[OUT_OF_DOMAIN][0].rendition == "otherwise"
    assert list(Material(corpus, other=other, scored="dev").scored_sets()) == [IN_DOMAIN]


def test_a_corpus_that_was_not_opened_for_test_is_not_scored_on_it():
    corpus = FakeCorpus({"dev": [utterance("d")], "test": [utterance("t")]}, allow_test=False)
    with pytest.raises(ValueError, match="the test split is read once, by evaluate"):
        Material(corpus).scored_sets()
    assert Material(corpus, scored="dev").scored_sets()
