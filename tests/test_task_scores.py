"""Intervals: against the textbook where there is one, else against leaving each speaker out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_rel

from speech_tasks.feature_store import Clip
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material, score_of_trials, score_ratio
from tests.speech_cases import FakeCorpus, utterance


def tallies(right, seeds=1):
    numerators = np.broadcast_to(np.asarray(right, float), (seeds, len(right)))
    return np.stack([numerators, np.ones_like(numerators)], 2)


def clips_of(speakers):
    """A clip of each of these speakers."""
    said = [utterance(f"u{i}", speaker=name) for i, name in enumerate(speakers)]
    corpus = FakeCorpus({"test": said})
    return [Clip(corpus, u, "clean") for u in said]


def score(right, speakers=None, seeds=1):
    speakers = [f"s{i}" for i in range(len(right))] if speakers is None else speakers
    return score_ratio("KS accuracy", IN_DOMAIN, tallies(right, seeds), clips_of(speakers))


def test_a_ratio_is_of_sums_and_its_seeds_are_averaged():
    counts = np.array([[[1, 4], [3, 6]], [[2, 4], [4, 6]]], float)
    score = score_ratio("PER", IN_DOMAIN, counts, clips_of("ab"))
    assert score.seeds == pytest.approx((40.0, 60.0))
    assert score.value == pytest.approx(50.0)


def test_with_an_utterance_of_each_speaker_the_interval_is_students_of_the_mean():
    right = np.random.default_rng(0).random(30) < 0.7
    textbook = ttest_1samp(100.0 * right, 0).confidence_interval()
    assert score(right).half_interval == pytest.approx((textbook.high - textbook.low) / 2)


def test_what_is_counted_are_speakers():
    """Four speakers who say one thing a hundred times over are no surer than if they said it once."""
    right = np.array([1.0, 0.0, 1.0, 1.0])
    once, often = score(right, "abcd"), score(np.repeat(right, 100), np.repeat(list("abcd"), 100).tolist())
    assert once.value == often.value
    assert often.half_interval == pytest.approx(once.half_interval)


def test_a_ratio_without_each_speaker_is_that_of_the_others():
    rng = np.random.default_rng(3)
    speakers = rng.choice(list("abcdefg"), 60).tolist()
    counts = np.stack([rng.integers(0, 9, (2, 60)), np.broadcast_to(rng.integers(9, 20, 60), (2, 60))], 2).astype(float)
    found = score_ratio("WER", IN_DOMAIN, counts, clips_of(speakers))
    left = []
    for name in "abcdefg":
        others = counts[:, [speaker != name for speaker in speakers]].sum(1)
        left.append((100 * others[:, 0] / others[:, 1]).mean())
    variance, of_seeds = 6 / 7 * np.square(left - np.mean(left)).sum(), np.var(found.seeds, ddof=1) / 2
    degrees = (variance + of_seeds) ** 2 / (variance**2 / 6 + of_seeds**2 / 1)
    assert found.half_interval == pytest.approx(student.ppf(0.975, degrees) * np.sqrt(variance + of_seeds))


def test_seeds_that_disagree_widen_the_interval():
    right = np.tile([1.0, 0.0], 200)
    agreeing = np.concatenate([tallies(right)] * 3)
    disagreeing = agreeing.copy()
    disagreeing[1, :, 0] = 1
    disagreeing[2, :, 0] = 0
    clips = clips_of(f"s{i}" for i in range(400))
    wide, narrow = (score_ratio("KS accuracy", IN_DOMAIN, t, clips).half_interval for t in (disagreeing, agreeing))
    assert wide > 3 * narrow


def test_a_paired_difference_knows_what_both_share():
    rng = np.random.default_rng(1)
    hard = rng.random(500) < 0.5
    worse = hard & (rng.random(500) < 0.9)  # right on a subset of what the better is right on
    better, other = (score(x) for x in (hard, worse))
    gap, half = better.difference(other)
    assert gap == pytest.approx(100 * (hard.mean() - worse.mean()))
    assert half < 0.6 * np.hypot(better.half_interval, other.half_interval)
    textbook = ttest_rel(100.0 * hard, 100.0 * worse).confidence_interval()
    assert half == pytest.approx((textbook.high - textbook.low) / 2)
    assert other.difference(better) == pytest.approx((-gap, half))


def test_one_reader_or_none_known_is_judged_by_utterances():
    right = np.random.default_rng(4).random(50) < 0.8
    alone, unknown, apart = score(right, ["ann"] * 50), score(right, [None] * 50), score(right)
    assert alone.half_interval == pytest.approx(apart.half_interval)
    assert unknown.half_interval == pytest.approx(apart.half_interval)
    assert (alone.errors.voices.over, alone.errors.voices.reader) == ("utterances", "ann")
    assert (unknown.errors.voices.over, unknown.errors.voices.reader) == ("utterances", None)
    assert apart.errors.voices.over == "speakers"


def test_an_utterance_of_nobody_adds_no_degree_of_freedom():
    """As silence among keywords: it counts for itself, but three speakers stay three."""
    right, speakers = [1, 0, 1, 1, 1, 0, 1, 1], ["a", "a", "b", "b", "c", "c", None, None]
    found = score(np.array(right), speakers)
    blocks = np.array([[1, 2], [2, 2], [1, 2], [1, 1], [1, 1]], float)
    left = 100 * (6 - blocks[:, 0]) / (8 - blocks[:, 1])
    assert found.half_interval == pytest.approx(
        student.ppf(0.975, 2) * np.sqrt(4 / 5 * np.square(left - left.mean()).sum())
    )


def test_who_says_nothing_that_counts_judges_nothing():
    """As a speaker without slots beside one with: there is but one to judge by, and no end to what chance may do."""
    counts = np.zeros((1, 8, 2))
    counts[0, :4] = [[1, 2], [0, 3], [2, 2], [1, 1]]
    assert score_ratio("slot CER", IN_DOMAIN, counts, clips_of("aaaabbbb")).half_interval == np.inf
    assert score_ratio("slot CER", IN_DOMAIN, counts, clips_of("aaccbbbb")).spread.count == 2
    assert score_ratio("slot CER", IN_DOMAIN, counts, clips_of([None] * 8)).spread.count == 4


def test_one_utterance_says_nothing_of_chance():
    assert score([1.0]).half_interval == np.inf
    assert score([1.0]).difference(score([0.0])) == (100.0, np.inf)


def test_a_score_over_trials_is_the_mean_of_its_seeds():
    sides, right = (np.array([0, 0, 1, 2]), np.array([1, 2, 2, 2])), np.array([1.0, 0.0, 1.0, 1.0])

    def measure(seed, speakers, trials):
        return seed + 100 * np.average(right, weights=trials * speakers[sides[0]] * speakers[sides[1]])

    errors = score([1.0, 0.0]).errors
    given = ("EER", OUT_OF_DOMAIN, [75.0, 76.0], measure, sides, "abc", errors)
    found = score_of_trials(*given, {"learning rate": 0.1}, count=2)
    assert (found.metric, found.condition, found.value, found.seeds) == ("EER", OUT_OF_DOMAIN, 75.5, (75.0, 76.0))
    assert (found.settings, found.errors, found.spread.count) == ({"learning rate": 0.1}, errors, 2)
    plain = score_of_trials(*given)
    assert (plain.settings, plain.spread.count) == ({}, 3)


def test_test_alone_is_drawn_from_a_corpus_of_its_own():
    corpus, tests = (
        FakeCorpus({split: [utterance(f"{name} {split}")] for split in ("dev", "test")}) for name in ("own", "crowd")
    )
    material = Material(corpus, tests=tests)
    assert [clip.utterance.id for split in ("dev", "test") for clip in material.clips(split)] == [
        "own dev",
        "crowd test",
    ]
    assert [clip.utterance.id for clip in Material(corpus).clips("test")] == ["own test"]


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
