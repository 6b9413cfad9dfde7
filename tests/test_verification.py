"""Verification compares every two clips of unseen voices once, with a head that hears no padding."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch.nn import functional as F

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_tasks import verification
from speech_tasks.aggregates import METRICS
from speech_tasks.comparison import Comparison
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.metrics import equal_error_rate, find_equal_errors
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material
from speech_tasks.verification import EMBEDDING, Trials, Verification, VoiceHead, score_verification
from tests.evaluation_cases import make_entry
from tests.probe_cases import talk
from tests.speech_cases import FakeCorpus, seeded, spectral_states, utterance

KNOWN, UNSEEN = [f"known {i}" for i in range(8)], [f"unseen {i}" for i in range(6)]
LAYERS, DIM, VOICES = 3, 6, 4
QUICK = Plan(epochs=8, learning_rates=(3e-3,), num_seeds=1)
ONCE = Plan(epochs=1, learning_rates=(1e-3,), num_seeds=2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small only wait for a second one
    yield
    torch.set_num_threads(before)


def home(allow_test=True):
    splits = {"train": talk("train", KNOWN, 64, 2, 0)} | {
        split: talk(split, [*UNSEEN, KNOWN[0]], 35, 2, seed) for seed, split in enumerate(("search", "dev", "test"), 1)
    }
    return FakeCorpus(splits, name="home", hash="home", allow_test=allow_test)


def abroad(allow_test=True):
    return FakeCorpus({"test": talk("test", UNSEEN[:3], 12, 2, 8)}, name="abroad", hash="abroad", allow_test=allow_test)


def spoken_by(speakers, num_samples=8000):
    """A clip of each of these speakers, in a corpus of their own."""
    said = [utterance(f"u{i}", num_samples, speaker=name) for i, name in enumerate(speakers)]
    corpus = FakeCorpus({"test": said})
    return [Clip(corpus, u, "clean") for u in said]


def trials_of(speakers):
    return Trials.of(spoken_by(speakers), set(), "test")


def draw_embeddings(speakers, seed):
    """Directions, (N, 5), of one speaker more alike than of two."""
    rng = np.random.default_rng(seed)
    voices = {name: rng.standard_normal(5) for name in sorted(set(speakers))}
    rows = np.stack([voices[name] + rng.standard_normal(5) for name in speakers])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scan_thresholds(pairs):
    """The equal error rate of (score, same) by trying every threshold: where the polygon between them is even."""
    rates = []
    for threshold in [np.inf, *sorted({score for score, _ in pairs}, reverse=True)]:
        misses, false_alarms = (
            np.mean([(score >= threshold) != same for score, same in pairs if same == kind]) for kind in (True, False)
        )
        rates.append((misses, false_alarms))
    place = np.linspace(0, len(rates) - 1, 20_001 * len(rates))
    misses, false_alarms = (np.interp(place, range(len(rates)), rate) for rate in zip(*rates, strict=True))
    return false_alarms[np.argmin(abs(misses - false_alarms))]


def closest_rate(scores, same):
    """The mean of misses and false alarms at the highest threshold where they are closest."""
    rates = [(np.mean(scores[same] < x), np.mean(scores[~same] >= x)) for x in sorted(scores, reverse=True)]
    return np.mean(min(rates, key=lambda rate: round(abs(rate[0] - rate[1]), 9)))


# Trials


@pytest.mark.parametrize("speakers", ["aab", "aabbcca", "abcdabcdabcda"])
def test_every_two_clips_meet_once(speakers):
    trials = trials_of(speakers)
    met = [frozenset(pair) for pair in zip(*trials.pairs, strict=True)]
    assert sorted(map(sorted, met)) == [list(pair) for pair in combinations(range(len(speakers)), 2)]
    same = trials.owners[0] == trials.owners[1]
    assert same.tolist() == [speakers[i] == speakers[j] for i, j in zip(*trials.pairs, strict=True)]


def test_cosines_are_of_the_two_clips_of_a_trial():
    trials = trials_of("abab")
    rows = draw_embeddings("abab", 0)
    expected = [rows[i] @ rows[j] for i, j in zip(*trials.pairs, strict=True)]
    assert trials.compare(torch.from_numpy(rows)) == pytest.approx(expected)


def test_only_unseen_speakers_meet_and_are_heard_for_a_second_and_a_half():
    trials = Trials.of(spoken_by("abacbda", 40_000), {"a", "d"}, "test")
    assert [clip.utterance.id for clip in trials.clips] == ["u1", "u3", "u4"]
    assert trials.speakers == ["b", "c"]
    assert {clip.num_samples for clip in trials.clips} == {24_000}


@pytest.mark.parametrize(
    ("speakers", "found"),
    [("kkk", "0 clips of 0"), ("akaa", "3 clips of 1"), ("abkc", "3 clips of 3"), ("", "0 clips of 0")],
)
def test_a_split_without_pairs_of_both_kinds_is_refused(speakers, found):
    message = f"here has {found} speakers that train has not; .* wants two such speakers at least, and two clips of one"
    with pytest.raises(ValueError, match=message):
        Trials.of(spoken_by(speakers), {"k"}, "here")


def test_the_least_that_can_be_compared():
    assert len(trials_of("aab").clips) == 3


# Equal error rate


def test_an_equal_error_rate_by_hand():
    at = {"a": (1, 0), "A": (0.8, 0.6), "b": (0.6, 0.8), "B": (0, 1)}
    trials = trials_of("aabb")
    # Of one speaker 0.8 and 0.8; of two 0.6, 0, 0.96 and 0.6. One of four impostors is above both: along its edge and
    # the next, misses fall from 1 to 0 while false alarms stay at 1/4.
    assert trials.error(torch.tensor([at[name] for name in "aAbB"])) == pytest.approx(1 / 4)
    assert trials.error(torch.tensor([at[name] for name in "aaBB"], dtype=torch.float32)) == 0
    assert trials.error(torch.tensor([at[name] for name in "aBaB"], dtype=torch.float32)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_an_equal_error_rate_by_trying_every_threshold(seed):
    speakers = "abcdabcabaab"
    rows = draw_embeddings(speakers, seed)
    pairs = [(rows[i] @ rows[j], speakers[i] == speakers[j]) for i, j in combinations(range(len(speakers)), 2)]
    trials = trials_of(speakers)
    expected = scan_thresholds(pairs)
    assert 0.05 < expected < 0.5
    assert trials.error(torch.from_numpy(rows)) == pytest.approx(expected, abs=1e-4)
    (found,) = score_verification("", trials, [torch.from_numpy(rows)]).seeds
    assert found == pytest.approx(100 * expected, abs=1e-2)


# Head


def make_head(num_voices=VOICES, layers=LAYERS, dim=DIM):
    torch.manual_seed(0)
    head = VoiceHead(layers, dim, num_voices).eval().requires_grad_(False)
    head.sum.weights.copy_(torch.linspace(-1, 1, layers))
    return head


def test_an_embedding_is_the_mean_of_projected_frames_at_length_one():
    head = make_head()
    frames = torch.randn(LAYERS, 4, 23, DIM, generator=seeded(1))
    together = head(frames.mean(2))
    assert together.shape == (4, EMBEDDING)
    expected = F.normalize(head.embed(head.project(head.sum(frames)).mean(1)), dim=1)
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    assert torch.pdist(together).min() > 0.01


def test_the_loss_is_am_softmax():
    head = make_head()
    pooled = torch.randn(LAYERS, 3, DIM, generator=seeded(3))
    targets = [2, 0, 3]
    expected = 0.0
    for row, target in zip(head(pooled).tolist(), targets, strict=True):
        worth = []
        for i, voice in enumerate(head.voices.tolist()):
            cosine = sum(a * b for a, b in zip(row, voice, strict=True)) / sqrt(sum(b * b for b in voice))
            worth.append(exp(30 * (cosine - 0.4 * (i == target))))
        expected -= log(worth[target] / sum(worth)) / len(targets)
    assert head.loss(pooled, torch.tensor(targets)).item() == pytest.approx(expected, rel=1e-4)


# The task


def hear(clips, clear, dim=16):
    """An encoder in whose last hidden state four channels are of the speaker if it hears clearly, else of the clip.

    All else is noise, most of which lasts as long as the clip.
    """
    voices = {
        clip.read()[:32].tobytes(): (i, clip.utterance.speaker if clear else f"{i}") for i, clip in enumerate(clips)
    }

    def states(num_frames, number, voice):
        rng = np.random.default_rng(number)
        made = rng.standard_normal((2, num_frames, dim))
        made[1] = made[1] / 2 + 2 * rng.standard_normal(dim)
        made[1, :, :4] = np.random.default_rng(list(voice.encode())).standard_normal(4)
        made[1, :, :4] += 0.3 * rng.standard_normal((num_frames, 4))
        return torch.from_numpy(made).float()

    def encode(wave, lengths):
        del lengths
        num_frames = count_frames(Backbone(), wave.shape[1])
        return list(torch.stack([states(num_frames, *voices[row[:32].numpy().tobytes()]) for row in wave], 1))

    return encode


def score(clear, plan, monkeypatch):
    monkeypatch.setattr(verification, "PLAN", plan)
    corpus = home(allow_test=False)
    corpus.splits["train"] = talk("train", [f"known {i}" for i in range(40)], 160, 2, 0)
    task = Verification(Material(corpus, "clean", scored="dev"))
    with FeatureStore(hear(task.clips, clear), task.clips) as store:
        (found,) = task.score(store)
    return found


def test_who_hears_the_speaker_learns_to_and_who_hears_noise_guesses(monkeypatch):
    learnt = score(True, QUICK, monkeypatch)
    untaught = score(True, replace(ONCE, learning_rates=(1e-9,)), monkeypatch)
    guesses = score(False, QUICK, monkeypatch)
    assert learnt.value < 30
    assert untaught.value > 36
    assert 38 < guesses.value < 62
    assert learnt.settings == {"learning rate": 3e-3}


def test_the_interval_is_that_of_what_each_speaker_moves():
    """Misses and false alarms at the threshold, trial by trial, for two heads that are given."""
    trials = trials_of("aaabbbccccdd")
    names = np.array(list("aaabbbccccdd"))
    heads = [draw_embeddings("".join(names), seed) for seed in range(2)]
    found = score_verification("", trials, [torch.from_numpy(x) for x in heads])
    pairs = list(combinations(range(12), 2))
    same = np.array([names[i] == names[k] for i, k in pairs])
    owners = [tuple(sorted({names[i], names[k]})) for i, k in pairs]
    judged = [find_equal_errors([rows[i] @ rows[k] for i, k in pairs], same) for rows in heads]
    rates = [100 * equal_error_rate([rows[i] @ rows[k] for i, k in pairs], same) for rows in heads]

    def rate(counts):
        kinds = same, ~same
        return np.mean(
            [
                100 * np.average(wrong[kind], weights=counts[kind]) * share
                for wrong, weight in judged
                for kind, share in zip(kinds, (2 * weight, 2 * (1 - weight)), strict=True)
            ]
        )

    def move(is_less):
        return 2 * (rate(np.where([is_less(of) for of in owners], 0.5, 1.0)) - rate(np.ones(len(pairs))))

    moves = [move(lambda of, name=name: name in of) for name in "abcd"]
    shared = [move(lambda of, two=two: of == two) for two in combinations("abcd", 2)]
    variance = 4 / 3 * (np.square(moves).sum() - np.square(shared).sum())
    of_seeds = np.var(rates, ddof=1) / 2
    degrees = (variance + of_seeds) ** 2 / (variance**2 / 3 + of_seeds**2)
    assert found.seeds == pytest.approx(rates)
    assert found.half_interval == pytest.approx(student.ppf(0.975, degrees) * np.sqrt(variance + of_seeds))
    at_thresholds = [100 * closest_rate(np.array([rows[i] @ rows[k] for i, k in pairs]), same) for rows in heads]
    np.testing.assert_allclose(found.errors.tallies[:, :, 0].mean(1), at_thresholds)
    np.testing.assert_allclose(at_thresholds, rates, atol=6)  # at a threshold, not between two


@pytest.mark.parametrize(
    ("speakers", "count"), [("aaabbb", 1), ("aaab", 1), ("aaabcd", 1), ("aabbc", 2), ("aabbcc", 3)]
)
def test_two_voices_or_one_that_is_heard_twice_judge_nothing(speakers, count):
    """False alarms of two voices are those of one pair, misses of one voice its own: nothing says how they vary."""
    heads = [[torch.from_numpy(draw_embeddings(speakers, seed)) for seed in seeds] for seeds in ((0, 1), (2, 3))]
    scores = [score_verification(IN_DOMAIN, trials_of(speakers), one) for one in heads]
    entries = [make_entry(name, [score]) for name, score in zip("ab", scores, strict=True)]
    cell = Comparison(entries).cell(entries[1], "EER", IN_DOMAIN)
    assert scores[0].spread.count == count
    assert json.dumps(scores[0].spread.count) == str(count)
    for half in (scores[0].half_interval, cell.half_interval):
        assert np.isfinite(half) == (count > 1)
    assert count > 1 or cell.verdict == ""


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_misses_weigh_by_the_densities_at_the_threshold(ratio):
    """Scores of both kinds are normal, so densities are known where misses and false alarms are equal."""
    rng = np.random.default_rng(1)
    same = rng.random(100_000) < 0.1
    apart = 1.05 * (1 + ratio)  # of each deviation: 15 % of either go wrong
    scores = rng.normal(0, 1, same.size) * np.where(same, ratio, 1) + apart * same
    wrong, weight = find_equal_errors(scores, same)
    assert wrong[same].mean() == pytest.approx(wrong[~same].mean(), abs=0.01)
    assert weight == pytest.approx(ratio / (1 + ratio), abs=0.03)  # 1 over 1 + 1 / ratio


def test_what_a_speaker_moves_is_what_the_rate_does_when_the_threshold_follows():
    """Many trials, one speaker counted half: the exact rate moves as the weight of misses says."""
    rng = np.random.default_rng(0)
    same = rng.random(200_000) < 0.2
    scores = rng.normal(0, 1, same.size) * np.where(same, 1.5, 0.8) + 2 * same
    mine = rng.random(same.size) < 0.1
    scores[mine & same] -= 0.7  # this speaker is hard to know again
    wrong, weight = find_equal_errors(scores, same)
    counts = np.where(mine, 0.5, 1.0)
    moved = equal_error_rate(scores, same, counts) - equal_error_rate(scores, same)
    by_kind = [np.average(wrong[kind], weights=counts[kind]) - wrong[kind].mean() for kind in (same, ~same)]
    assert moved < -0.002
    assert weight * by_kind[0] + (1 - weight) * by_kind[1] == pytest.approx(moved, rel=0.1)


def test_the_trial_at_the_threshold_is_accepted():
    wrong, _ = find_equal_errors([3, 2, 1, 0], [True, False, True, False])
    assert wrong.tolist() == [False, True, True, False]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rate", [0.03, 0.05, 0.07, 0.15])
def test_misses_weigh_alike_where_few_go_wrong(rate, ratio):
    """Of 120 trials of one speaker, the worst of all says little of what is at the threshold."""
    few, many = (norm.ppf((np.arange(count) + 0.5) / count) for count in (120, 2000))
    apart = -norm.ppf(rate) * (1 + ratio)
    _, weight = find_equal_errors(np.append(apart + ratio * few, many), np.arange(2120) < 120)
    assert weight == pytest.approx(ratio / (1 + ratio), abs=0.035)


def test_metrics_are_known_and_both_conditions_scored_beside_test(monkeypatch):
    monkeypatch.setattr(verification, "PLAN", ONCE)
    task = Verification(Material(home(), "clean", abroad()))
    with FeatureStore(spectral_states, task.clips) as store:
        scores = task.score(store)
    assert set(task.metrics) <= METRICS.keys()
    assert [(found.metric, found.condition) for found in scores] == [("EER", IN_DOMAIN), ("EER", OUT_OF_DOMAIN)]
    assert all(np.isfinite(found.half_interval) and len(found.seeds) == 2 for found in scores)
    assert {clip.rendition for clip in task.scored[OUT_OF_DOMAIN].clips} == {"otherwise"}


def test_channels_are_standardised_by_what_heads_are_fitted_on_alone(monkeypatch):
    monkeypatch.setattr(verification, "PLAN", ONCE)
    asked, measure = [], FeatureStore.statistics

    def note(store, clips):
        asked.append([clip.utterance.id for clip in clips])
        return measure(store, clips)

    monkeypatch.setattr(FeatureStore, "statistics", note)
    task = Verification(Material(home(), "clean"))
    with FeatureStore(spectral_states, task.clips) as store:
        task.score(store)
    assert asked == [[clip.utterance.id for clip in task.train]]


def test_scoring_dev_needs_no_test():
    task = Verification(Material(home(allow_test=False), "clean", abroad(allow_test=False), scored="dev"))
    assert list(task.scored) == [IN_DOMAIN]
    assert {clip.utterance.id.split("-")[0] for clip in task.clips} == {"train", "search", "dev"}
    with pytest.raises(ValueError, match="the test split is read once"):
        Verification(Material(home(allow_test=False), "clean"))


def test_the_voices_are_those_of_the_clips_fitted_on():
    task = Verification(Material(home(), "clean"))
    assert list(task.voices) == KNOWN
    assert len(task.train) == 64
    assert task.search.speakers == task.scored[IN_DOMAIN].speakers == UNSEEN
    few = Verification(Material(home(), "clean"), num_train=3)
    assert [clip.utterance.id for clip in few.train] == [clip.utterance.id for clip in task.train[:3]]
    assert sorted(few.voices) == sorted({clip.utterance.speaker for clip in few.train})


@pytest.mark.parametrize("split", ["train", "search", "test"])
def test_a_clip_without_a_speaker_is_named(split):
    corpus = home()
    first, *others = corpus.splits[split]
    corpus.splits[split] = [*others, replace(first, speaker=None)]
    with pytest.raises(ValueError, match=f"^{first.id} has no speaker; tasks on speakers want"):
        Verification(Material(corpus, "clean"))


@pytest.mark.parametrize(("split", "where"), [("search", "search"), ("test", IN_DOMAIN)])
def test_a_split_of_known_voices_is_refused_by_its_name(split, where):
    corpus = home()
    corpus.splits[split] = talk(split, KNOWN, 16, 2, 9)
    with pytest.raises(ValueError, match=f"^{where} has 0 clips of 0 speakers that train has not"):
        Verification(Material(corpus, "clean"))
