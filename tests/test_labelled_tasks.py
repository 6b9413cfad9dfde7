"""Tasks of one label an utterance score what a mean over time knows, on the clips and classes they say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from speech_tasks import labels, speakers
from speech_tasks.aggregates import METRICS
from speech_tasks.classification import LabelledClips, PooledClassifier, score_classification
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.labels import intent, keywords
from speech_tasks.speakers import Speakers
from speech_tasks.standardised_states import standardise_means
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material
from tests.probe_cases import knowing, talk
from tests.speech_cases import FakeCorpus, seeded, spectral_states, utterance

TASKS = {keywords: labels, intent: labels, Speakers: speakers}
VOICES, STRANGERS = [f"voice {i}" for i in range(4)], ["stranger 0", "stranger 1"]
COUNTS = {"train": 60, "search": 24, "dev": 42, "test": 36}
QUICK = Plan(epochs=15, learning_rates=(1e-2,), num_seeds=2)
ONCE = Plan(epochs=1, learning_rates=(1e-3,), num_seeds=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small only wait for a second one
    yield
    torch.set_num_threads(before)


def home(allow_test=True):
    """Sentences by voices of `train`; a third of the others are by strangers."""
    splits = {
        split: talk(split, VOICES if split == "train" else VOICES + STRANGERS, count, 3, seed)
        for seed, (split, count) in enumerate(COUNTS.items())
    }
    return FakeCorpus(splits, name="home", hash="home", allow_test=allow_test)


def abroad(allow_test=True):
    return FakeCorpus({"test": talk("test", VOICES, 20, 3, 8)}, name="abroad", hash="abroad", allow_test=allow_test)


def hear(corpus, known):
    """An encoder for all splits of a corpus."""
    everything = [u for split in corpus.splits.values() for u in split]
    return knowing({"all": Material(FakeCorpus({"train": everything, "search": []}), "clean")}, known)


def with_labels(labels):
    """A corpus and a label for each clip, by split: the splits' labels joined."""
    splits = {
        split: [
            replace(u, intent=name) for u, name in zip(talk(split, VOICES, len(names), 2, seed), names, strict=True)
        ]
        for seed, (split, names) in enumerate(labels.items())
    }
    return FakeCorpus(splits, name="labels", hash="labels")


def label(corpus, *conditions):
    """All clips of a corpus of labels; the conditions that are scored are its splits."""
    part = {split: [Clip(corpus, u, "clean") for u in us] for split, us in corpus.splits.items()}
    return LabelledClips(lambda u: u.intent, part["train"], part["search"], {name: part[name] for name in conditions})


def score(corpus, *conditions, plan=QUICK, known=1.0, sounds=None):
    labelled = label(corpus, *conditions)
    with FeatureStore(hear(sounds or corpus, known), labelled.clips) as store:
        return score_classification(store, labelled, "IC accuracy", plan)


def names(clips):
    return [clip.utterance.id for clip in clips]


# Head


def test_a_mean_taken_first_is_every_frame_projected_and_then_the_mean():
    torch.manual_seed(0)
    head = PooledClassifier(3, 8, 5)
    states = torch.randn(3, 4, 11, 8, generator=seeded(0))  # (L, N, T, D)
    with torch.no_grad():
        head.sum.weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
        share = torch.tensor([0.5, -1.0, 2.0]).exp()
        frames = torch.einsum("l,lntd->ntd", share / share.sum(), states)
        projected = frames @ head.project.weight.T + head.project.bias
        expected = projected.mean(1) @ head.classify.weight.T + head.classify.bias
        torch.testing.assert_close(head(states.mean(2)), expected)


def test_means_from_the_store_score_as_frames_do():
    corpus = FakeCorpus({"train": [utterance(f"u{i}", n) for i, n in enumerate((4000, 16_000, 7900))]})
    clips = [Clip(corpus, u, "clean") for u in corpus.utterances("train")]
    torch.manual_seed(0)
    head = PooledClassifier(2, 8, 4)
    with torch.no_grad(), FeatureStore(spectral_states, clips) as store:
        mean, std = store.statistics(clips)
        pooled = head(standardise_means(store, clips, (mean, std)))
        for clip, scores in zip(clips, pooled, strict=True):
            frames = (store.frames(clip) - mean) / std  # (T, L, D)
            by_frame = head(frames.transpose(0, 1)).mean(0)
            torch.testing.assert_close(scores, by_frame, rtol=5e-3, atol=5e-3)  # frames are in half precision


# Labels


def test_classes_are_those_of_train():
    labelled = label(with_labels({"train": "cabca", "search": "ab", "test": "bxc"}), "test")
    assert labelled.classes == {"a": 0, "b": 1, "c": 2}
    assert labelled.targets(labelled.scored["test"]).tolist() == [1, -1, 2]


def test_one_class_is_none():
    labels = {"train": "aaa", "search": "ab", "test": "ab"}
    with pytest.raises(ValueError, match=r"two classes at least; train has only a$"):
        label(with_labels(labels), "test")


@pytest.mark.parametrize(
    ("part", "sizes"), [("train", "0, 2 and 3"), ("search", "4, 0 and 3"), ("test", "4, 2 and 0"), (None, "4, 2 and 0")]
)
def test_nothing_to_fit_choose_or_score_on_is_refused(part, sizes):
    labels = {"train": "abab", "search": "ab", "test": "abb"} | ({part: ""} if part else {})
    with pytest.raises(ValueError, match=f"to fit on, to choose by and to score; there are {sizes}$"):
        label(with_labels(labels), *(["test"] if part else []))


# Scores


@pytest.mark.parametrize(("known", "low", "high"), [(1.0, 97, 100), (0.0, 10, 42)])
def test_who_knows_the_label_is_right_and_who_hears_noise_guesses(known, low, high):
    labels = {"train": "abcd" * 20, "search": "abcd" * 8, "test": "abcd" * 20}
    (found,) = score(with_labels(labels), "test", known=known)
    assert low <= found.value <= high
    assert len(found.seeds) == 2
    assert found.settings == {"learning rate": 1e-2}


def test_a_label_unknown_in_train_is_wrong():
    labels = {"train": "ab" * 20, "search": "abx", "test": "ab" * 8 + "xxyx"}
    (found,) = score(with_labels(labels), "test")
    assert found.seeds == (80.0, 80.0)


def test_conditions_are_scored_apart():
    labels = {"train": "ab" * 20, "search": "ab" * 4, "dev": "ab" * 10, "test": "ab" * 6 + "xxxx"}
    one, two = score(with_labels(labels), "dev", "test")
    assert (one.condition, two.condition) == ("dev", "test")
    assert (one.value, two.value) == (100, 75)


def test_channels_are_standardised_by_train_alone(monkeypatch):
    asked = []
    statistics = FeatureStore.statistics
    monkeypatch.setattr(
        FeatureStore, "statistics", lambda store, clips: asked.append(clips) or statistics(store, clips)
    )
    corpus = with_labels({"train": "abab", "search": "ab", "test": "ab"})
    score(corpus, "test", plan=ONCE)
    assert [names(clips) for clips in asked] == [[u.id for u in corpus.splits["train"]]]


def test_search_chooses_the_rate():
    right = with_labels({"train": "ab" * 20, "search": "ab" * 8, "test": "ab" * 8})
    plan = Plan(epochs=15, learning_rates=(1e-9, 1e-2), num_seeds=1)
    (found,) = score(right, "test", plan=plan)
    assert (found.settings["learning rate"], found.value) == (1e-2, 100)
    # Where `search` calls everything by the other's name, whoever learns nothing does best.
    wrong = with_labels({"train": "ab" * 20, "search": "ba" * 8, "test": "ab" * 8})
    (found,) = score(wrong, "test", plan=plan, sounds=right)
    assert found.settings["learning rate"] == 1e-9
    assert found.value < 90


# Keywords, intents, speakers


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("known", "low", "high"), [(1.0, 85, 100), (0.0, 3, 60)])
def test_tasks_find_their_label_where_it_is(monkeypatch, task, known, low, high):
    corpus = home(allow_test=False)
    built = task(Material(corpus, "clean", scored="dev"))
    monkeypatch.setattr(TASKS[task], "PLAN", QUICK)
    with FeatureStore(hear(corpus, known), built.clips) as store:
        (found,) = built.score(store)
    assert low <= found.value <= high


def test_speakers_are_known_by_their_voice_and_commands_by_their_intent():
    said = utterance("u", speaker="ann", intent="stop", text="halt")
    built = [task(Material(home(), "clean")) for task in TASKS]
    assert [task.labelled.label(said) for task in built] == ["stop", "stop", "ann"]
    assert [(task.name, task.metrics) for task in built] == [
        ("keywords", ("KS accuracy",)),
        ("intent", ("IC accuracy",)),
        ("speakers", ("SID accuracy",)),
    ]


@pytest.mark.parametrize("task", TASKS)
def test_metrics_are_known_and_scored_where_there_is_audio(monkeypatch, task):
    built = task(Material(home(), "clean", abroad()))
    monkeypatch.setattr(TASKS[task], "PLAN", ONCE)
    with FeatureStore(spectral_states, built.clips) as store:
        scores = built.score(store)
    assert set(built.metrics) <= METRICS.keys()
    assert {found.metric for found in scores} == set(built.metrics)
    conditions = [IN_DOMAIN] if task is Speakers else [IN_DOMAIN, OUT_OF_DOMAIN]
    assert [found.condition for found in scores] == conditions


@pytest.mark.parametrize("task", TASKS)
def test_scoring_dev_needs_no_test(task):
    built = task(Material(home(allow_test=False), "clean", abroad(allow_test=False), scored="dev"))
    assert list(built.labelled.scored) == [IN_DOMAIN]
    assert {name.split("-")[0] for name in names(built.clips)} == {"train", "search", "dev"}
    with pytest.raises(ValueError, match="the test split is read once"):
        task(Material(home(allow_test=False), "clean"))


@pytest.mark.parametrize("task", [keywords, intent])
def test_every_clip_is_of_its_split(task):
    labelled = task(Material(home(), "noisy", abroad())).labelled
    corpora = {"train": labelled.train, "search": labelled.search, "test": labelled.scored[IN_DOMAIN]}
    for split, clips in corpora.items():
        assert sorted(names(clips)) == sorted(u.id for u in home().splits[split])
        assert {clip.rendition for clip in clips} == {"noisy"}
    outside = labelled.scored[OUT_OF_DOMAIN]
    assert sorted(names(outside)) == sorted(u.id for u in abroad().splits["test"])
    assert {(clip.corpus.name, clip.rendition) for clip in outside} == {("abroad", "otherwise")}


@pytest.mark.parametrize("task", TASKS)
def test_so_many_clips_are_fitted_on_and_all_are_scored(task):
    few = task(Material(home(), "clean"), num_train=20, num_search=7).labelled
    every = task(Material(home(), "clean")).labelled
    assert (len(few.train), len(few.search)) == (20, 7)
    assert names(every.train)[:20] == names(few.train)
    assert names(few.scored[IN_DOMAIN]) == names(every.scored[IN_DOMAIN])


@pytest.mark.parametrize(
    ("task", "field", "message"),
    [
        (keywords, "intent", "is labelled with no keyword; keyword spotting wants a corpus of keywords"),
        (intent, "intent", "is labelled with no intent; this task wants a corpus of commands with intents"),
        (Speakers, "speaker", "has no speaker; tasks on speakers want a corpus that names them"),
    ],
)
@pytest.mark.parametrize("split", ["train", "search", "test"])
def test_a_clip_without_its_label_is_named(task, field, message, split):
    corpus = home()
    first, *others = corpus.splits[split]
    corpus.splits[split] = [*others, replace(first, **{field: None})]
    with pytest.raises(ValueError, match=f"^{re.escape(first.id)} {message}$"):
        task(Material(corpus, "clean"))


# Speakers


def test_speakers_who_do_not_speak_in_train_are_left_out():
    labelled = Speakers(Material(home(), "clean")).labelled
    assert list(labelled.classes) == VOICES
    for split, clips in {"search": labelled.search, "test": labelled.scored[IN_DOMAIN]}.items():
        expected = [u.id for u in home().splits[split] if u.speaker in VOICES]
        assert 0 < len(expected) < COUNTS[split]
        assert sorted(names(clips)) == sorted(expected)
        assert -1 not in labelled.targets(clips)


def test_the_number_of_clips_that_choose_is_of_known_voices():
    most = sum(u.speaker in VOICES for u in home().splits["search"])
    assert len(Speakers(Material(home(), "clean"), num_search=most).labelled.search) == most


def test_speakers_are_heard_for_a_second_and_a_half_at_most():
    splits = {
        split: [
            utterance(f"{split[:2]}{i}", n, speaker=f"voice {i % 2}") for i, n in enumerate((16_000, 24_001, 64_000))
        ]
        for split in ("train", "search", "test")
    }
    task = Speakers(Material(FakeCorpus(splits), "clean"))
    assert len(task.clips) == 9
    for clip in task.clips:
        assert (clip.first, clip.num_samples) == (0, min(clip.utterance.num_samples, 24_000))


@pytest.mark.parametrize("split", ["search", "dev"])
def test_a_split_of_strangers_has_no_speakers_to_identify(split):
    corpus = home()
    corpus.splits[split] = talk(split, STRANGERS, 8, 2, 9)
    with pytest.raises(
        ValueError, match=f"no speaker of train speaks in {split} of home; speaker identification wants"
    ):
        Speakers(Material(corpus, "clean", scored="dev"))


def test_one_voice_is_nobody_to_tell_from_another():
    corpus = home()
    corpus.splits["train"] = talk("train", VOICES[:1], 8, 2, 9)
    with pytest.raises(ValueError, match="two classes at least; train has only voice 0"):
        Speakers(Material(corpus, "clean"))
