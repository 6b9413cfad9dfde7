"""Spoken queries: the matching against every path, the trials, and what encoders that hear or do not hear find."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.corpus import Utterance
from speech_tasks import queries
from speech_tasks.aggregates import METRICS
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.metrics import BETA
from speech_tasks.queries import Queries, Shelf, choose_trials, score_trials
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material
from tests.speech_cases import FakeCorpus, spectral_states

PHONE_SECONDS = 0.08
"""Four frames."""
LETTERS = "abdefghiklmnoprstuvz"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small only wait for a second one
    yield
    torch.set_num_threads(before)


def spell(name, text, speaker="s"):
    """An utterance whose phones are the letters of its words; silence is before, between and after them."""
    symbols = ["sil", *(letter if letter != " " else "sil" for letter in text), "sil"]
    ends = [round(PHONE_SECONDS * i, 6) for i in range(len(symbols) + 1)]
    phones = tuple((symbol, *span) for symbol, span in zip(symbols, pairwise(ends), strict=True))
    words, at = [], 1
    for word in text.split():
        words.append((word, ends[at], ends[at + len(word)]))
        at += len(word) + 1
    return Utterance(name, speaker, round(ends[-1] * 16_000), text=text, phones=phones, words=tuple(words))


def clips_of(texts, speakers=("ann", "bob", "cat")):
    """Clips of these texts; the speakers take turns."""
    said = [spell(f"d{i:03}", text, speakers[i % len(speakers)]) for i, text in enumerate(texts)]
    return [Clip(FakeCorpus({"test": said}), u, "clean") for u in said]


def sentences(prefix, num_words=20, num_documents=100, seed=0):
    """Sentences of a short word and a long one or none, said by five; each long one is said four times."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(LETTERS), 8, replace=False)) for _ in range(num_words)]
    said = [[f"{''.join(rng.choice(list(LETTERS), 4))}"] for _ in range(num_documents)]  # too short to ask for
    for i in range(4 * num_words):
        said[i % num_documents].append(words[i % num_words])
    return [spell(f"{prefix}{i:03}", " ".join(text), f"{prefix} {i // 7 % 5}") for i, text in enumerate(said)]


def home(allow_test=True):
    splits = {split: sentences(split[0], seed=i) for i, split in enumerate(("search", "dev", "test"))}
    return FakeCorpus(splits | {"train": ()}, name="home", hash="home", allow_test=allow_test)


def abroad(allow_test=True):
    return FakeCorpus({"test": sentences("o", seed=8)}, name="abroad", hash="abroad", allow_test=allow_test)


@cache
def direction(symbol, dim):
    return np.random.default_rng(list(symbol.encode())).standard_normal(dim)


def hear(clips, clear, dim=16):
    """An encoder of three hidden states of noise; those that `clear` gives a clip have a direction for each phone."""
    heard = {clip.read()[:32].tobytes(): (i, clip) for i, clip in enumerate(clips)}

    def states(num_frames, number, clip):
        made = np.random.default_rng(number).standard_normal((3, num_frames, dim))
        phones = clip.utterance.phones
        at = (clip.first / 16_000 + 0.02 * np.arange(num_frames) + 0.01) / PHONE_SECONDS
        symbols = [phones[min(int(place), len(phones) - 1)][0] for place in at]
        for layer in clear(clip):
            made[layer] *= 0.1
            made[layer] += [direction(symbol, dim) for symbol in symbols]
        return torch.from_numpy(made).float()

    def encode(wave, lengths):
        del lengths
        num_frames = count_frames(Backbone(), wave.shape[1])
        return list(torch.stack([states(num_frames, *heard[row[:32].numpy().tobytes()]) for row in wave], 1))

    return encode


def score(task, clear):
    with FeatureStore(hear(task.clips, clear), task.clips) as store:
        return task.score(store)


def unit_rows(num_frames, rng, dim=4):
    rows = rng.standard_normal((num_frames, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def try_every_path(query, document):
    """The least mean distance of all paths that stay, go on, or skip a frame."""
    distances = np.exp(1 - query.astype(float) @ document.T.astype(float)) - 1
    low, high = distances.min(1, keepdims=True), distances.max(1, keepdims=True)
    distances = (distances - low) / (high - low)
    costs = []
    for start, *steps in product(range(len(document)), *[(0, 1, 2)] * (len(query) - 1)):
        path = np.cumsum([start, *steps])
        if path[-1] < len(document):
            costs.append(distances[range(len(query)), path].sum())
    return min(costs) / len(query)


# Matching


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_match_is_the_best_of_all_paths_through_each_document(num_frames, seed):
    rng = np.random.default_rng([seed, num_frames])
    query = unit_rows(num_frames, rng)
    documents = [unit_rows(length, rng) for length in (7, 2, 3, 11, 2, 4)]
    expected = [try_every_path(query, document) for document in documents]
    assert Shelf(documents).match(query) == pytest.approx(expected, abs=1e-5)


def test_steps_are_none_one_or_two():
    at = np.eye(6, dtype=np.float32)
    document = at[:5]

    def distance(*frames):
        return float(Shelf([document]).match(at[list(frames)])[0])

    assert distance(1, 1, 1) == distance(1, 2, 3) == distance(0, 2, 4) == distance(0, 0, 2, 3) == pytest.approx(0)
    assert distance(0, 3) == pytest.approx(1 / 2)  # three on
    assert distance(2, 1) == pytest.approx(1 / 2)  # back
    assert distance(4, 4, 3) == pytest.approx(1 / 3)


def test_no_path_leads_from_one_document_into_the_next():
    at = np.eye(5, dtype=np.float32)
    first, second, query = at[[1, 3, 0]], at[[1, 4, 0]], at[[0, 1]]
    assert Shelf([first, second]).match(query) == pytest.approx([1 / 2, 1 / 2])
    assert Shelf([np.concatenate([first, second])]).match(query) == pytest.approx([0])


def test_a_distance_is_scaled_for_each_frame_of_the_query():
    document = np.array([[-1, 0], [0.6, 0.8], [1, 0]], np.float32)
    # Cosines are -1, 0.6 and 1 with the first frame of the query and 0, 0.8 and 0 with the second, which stays there.
    query = np.array([[1, 0], [0, 1]], np.float32)
    assert Shelf([document]).match(query)[0] == pytest.approx((np.exp(0.4) - 1) / (np.exp(2) - 1) / 2, abs=1e-6)
    assert Shelf([document]).match(query[::-1])[0] == pytest.approx(0, abs=1e-6)


def test_a_document_all_alike_is_a_number():
    same = np.tile(np.float32([[0.6, 0.8]]), (5, 1))
    assert np.isfinite(Shelf([same, same]).match(same[:3])).all()


@pytest.mark.parametrize("at_a_time", [1, 3, 50])
def test_scores_are_of_standardised_frames_whatever_is_matched_at_a_time(monkeypatch, at_a_time):
    words = ["kitchen", "window", "heating"] * 3
    documents = [replace(clip, max_samples=3000) for clip in clips_of(words)]
    cuts = [replace(documents[0], first=1280, max_samples=1600), replace(documents[4], first=640, max_samples=1200)]
    trials = queries.Trials(tuple(cuts), tuple(documents), np.ones((2, 9), bool), np.ones((2, 9), bool))
    monkeypatch.setattr(queries, "DOCUMENTS_AT_A_TIME", at_a_time)

    def encode(wave, lengths):  # queries have an offset
        return [x + (lengths < 2000).view(-1, 1, 1) for x in spectral_states(wave, lengths)]

    with FeatureStore(encode, trials.clips) as store:
        frames = [store.frames(clip).double().numpy() for clip in trials.clips]
        scores = score_trials(store, trials, [1, 0])
    assert scores.shape == (2, 2, 9)
    everything = np.concatenate(frames)
    for layer, found in zip([1, 0], scores, strict=True):
        mean, std = everything[:, layer].mean(0), everything[:, layer].std(0)
        ready = [(x[:, layer] - mean) / std for x in frames]
        ready = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in ready]
        expected = [[-try_every_path(query, document) for document in ready[2:]] for query in ready[:2]]
        np.testing.assert_allclose(found, expected, atol=5e-3)  # frames are in half precision


# Trials


def asked_words(trials):
    """The words of each query, from the labels of the piece of sound it is."""
    assert len({query.utterance.id for query in trials.queries}) == len(trials.queries)
    found = []
    for query in trials.queries:
        start, end = query.first / 16_000, (query.first + query.num_samples) / 16_000
        found.append(
            [word for word, first, last in query.utterance.words if start - 1e-4 <= first and last <= end + 1e-4]
        )
        spans = [span for span in query.utterance.words if span[0] in found[-1]]
        assert start == pytest.approx(spans[0][1], abs=1e-4)
        assert end == pytest.approx(spans[-1][2], abs=1e-4)
    return found


def says(clip, words):
    text = clip.utterance.text.split()
    return any(text[i : i + len(words)] == words for i in range(len(text)))


def choose(texts, num_queries=99, speakers=("ann", "bob", "cat")):
    return choose_trials(clips_of(texts, speakers), num_queries)


def filled(*texts):
    """These texts among so many of other words that a word in four of them is rare; the others are never said twice."""
    return [*texts, *("".join(np.random.default_rng(i).choice(list(LETTERS), 4)) for i in range(100 - len(texts)))]


def words_asked(texts, **options):
    """What is looked for in these texts; nothing if they are refused."""
    try:
        trials = choose(texts, **options)
    except ValueError as error:
        assert str(error).startswith(f"no query to be had from {len(texts)} utterances")  # noqa: PT017
        return set()
    return {" ".join(words) for words in asked_words(trials)}


@pytest.mark.parametrize("seed", range(3))
def test_queries_are_looked_for_in_what_others_say(seed):
    documents = [Clip(FakeCorpus({"test": ()}), u, "clean") for u in sentences("d", seed=seed)]
    trials = choose_trials(documents, 99)
    words = asked_words(trials)
    assert 10 < len(words) <= 99
    assert trials.documents == tuple(documents)
    assert len({" ".join(one) for one in words}) == len(words)
    for query, one, asked, relevant in zip(trials.queries, words, trials.asked, trials.relevant, strict=True):
        others = [document.utterance.speaker != query.utterance.speaker for document in documents]
        assert asked.tolist() == others
        assert relevant.tolist() == [
            other and says(document, one) for other, document in zip(others, documents, strict=True)
        ]
        assert relevant.sum() >= 2
        assert says(query, one)


def test_what_is_chosen_is_chosen_again_and_a_few_come_first():
    documents = [Clip(FakeCorpus({"test": ()}), u, "clean") for u in sentences("d")]
    one, two, few = choose_trials(documents, 99), choose_trials(documents, 99), choose_trials(documents, 6)
    assert [query.key for query in one.queries] == [query.key for query in two.queries]
    assert [query.key for query in few.queries] == [query.key for query in one.queries[:6]]
    assert few.documents == one.documents


def test_queries_are_of_one_word_or_two_in_their_order():
    pairs = words_asked(filled(*["harbour light"] * 4), speakers=("ann", "bob", "cat", "dan"))
    assert pairs == {"harbour", "light", "harbour light"}
    assert words_asked(filled("an oak", "an oak", "an oak", "oak an")) == {"an oak"}  # one alone is too short
    assert words_asked(filled("one two six", "two six one", "six one two")) == set()


def test_a_word_within_another_is_not_it():
    with pytest.raises(ValueError, match="no query to be had"):
        choose(filled("harbour", "harbours", "harbours", "bigharbour"))
    trials = choose(filled("harbour", "harbours", "harbour", "harbour"), speakers=("ann", "bob", "cat", "dan"))
    assert trials.relevant.sum(1).tolist() == [2]


@pytest.mark.parametrize(
    ("texts", "speakers", "asked"),
    [
        (["harbour"] * 3, "abc", {"harbour"}),
        (["harbour"] * 2, "ab", set()),  # one other says it
        (["harbour"] * 4, "a", set()),  # no other does
        (["harbour"] * 4, "abcd", {"harbour"}),
        (["harbour"] * 5, "abcde", set()),  # more than 4 % of the documents
        (["haven"] * 3, "abc", {"haven"}),
        (["port"] * 3, "abc", set()),  # four phones
        (["a port"] * 3, "abc", {"a port"}),  # five, and silence between
        (["of it"] * 3, "abc", set()),  # four and silence, which is no phone
        (["harbour"] * 3 + ["the"] * 5, "abcde", {"harbour"}),
        (["the harbour"] * 3 + ["the"] * 5, "abc", {"harbour"}),  # every word of a query is rare
    ],
)
def test_what_may_be_a_query(texts, speakers, asked):
    assert words_asked(filled(*texts), speakers=tuple(speakers)) == asked


def test_a_query_lasts_a_third_of_a_second_and_more():
    quick = [replace(u, **hurried(u)) for u in (clip.utterance for clip in clips_of(filled(*["haven"] * 3)))]
    with pytest.raises(
        ValueError, match=r"a rare word or two of 0.35 s and 5 phones that 2 utterances by other speakers"
    ):
        choose_trials([Clip(FakeCorpus({"test": quick}), u, "clean") for u in quick], 9)


def hurried(u, factor=0.85):
    """Labels of an utterance said faster."""
    return {
        name: tuple((symbol, factor * start, factor * end) for symbol, start, end in getattr(u, name))
        for name in ("phones", "words")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "has no text; queries are cut out of sentences with timed words and phones"),
        ({"speaker": None}, "has no speaker;"),
        ({"words": (), "phones": ()}, "has no words and no phones;"),
    ],
)
@pytest.mark.parametrize("split", ["search", "test"])
def test_an_utterance_without_labels_is_named(split, change, message):
    corpus = home()
    first, *others = corpus.splits[split]
    corpus.splits[split] = [*others, replace(first, **change)]
    with pytest.raises(ValueError, match=f"^{first.id} {message}"):
        Queries(Material(corpus, "clean"))


# Scores


def test_who_hears_phones_finds_all_and_who_hears_noise_finds_nothing():
    task = Queries(Material(home(allow_test=False), "clean", scored="dev"))
    (found,) = score(task, lambda _: [1])
    assert found.value > 0.9
    assert found.settings["hidden state"] == 1
    assert found.settings["MTWV on search"] > 0.9
    assert len(found.seeds) == 1
    (missed,) = score(task, lambda _: [])
    assert 0 <= missed.value < 0.15


def test_search_chooses_the_hidden_state():
    task = Queries(Material(home(allow_test=False), "clean", scored="dev"))
    (found,) = score(task, lambda clip: [2] if clip.utterance.id[0] == "s" else [0])
    assert found.settings["hidden state"] == 2
    assert found.settings["MTWV on search"] > 0.9
    assert found.value < 0.15


def test_the_interval_is_that_of_what_each_speaker_moves():
    """As who asks and as who says, trial by trial, at the best threshold by trying all."""
    trials = Queries(Material(home(allow_test=False), "clean", scored="dev")).scored[IN_DOMAIN]
    rng = np.random.default_rng(0)
    scores = (rng.standard_normal(trials.asked.shape) + 2.5 * trials.relevant).astype(np.float32)
    normal = np.full(scores.shape, -np.inf)
    for row, (asked, one) in enumerate(zip(trials.asked, scores.astype(float), strict=True)):
        normal[row, asked] = (one[asked] - one[asked].mean()) / one[asked].std()
    hits, others = trials.relevant, trials.asked & ~trials.relevant
    ones = [side.sum(1, keepdims=True) for side in (hits, others)]

    def gains(threshold):  # what each trial adds to the worth of its query
        return (normal >= threshold) * (hits / ones[0] - BETA * others / ones[1])

    best = max(np.unique(normal[trials.asked]), key=lambda threshold: gains(threshold).sum())
    worth = gains(best).sum(1)
    found = queries.score_found("MTWV", IN_DOMAIN, trials, scores)
    assert found.value == pytest.approx(worth.mean())
    assert 0.1 < found.value < 1
    np.testing.assert_allclose(found.errors.tallies[0, :, 0], worth, atol=1e-9)
    assert [f"home: {clip.utterance.id}" for clip in trials.queries] == list(found.errors.voices.utterances)

    accepted = normal >= best
    asks, says = (np.array([c.utterance.speaker for c in clips]) for clips in (trials.queries, trials.documents))
    names = sorted({*asks, *says})

    def value(of_queries, of_trials):
        shares = [np.average(accepted, axis=1, weights=side * of_trials) for side in (hits, others)]
        return np.average(shares[0] - BETA * shares[1], weights=of_queries)

    def move(of_queries, of_trials):
        return 2 * (value(1 - of_queries / 2, 1 - of_trials / 2) - worth.mean())

    moves = [move(asks == name, np.broadcast_to(says == name, hits.shape)) for name in names]
    shared = [
        move(np.zeros(len(asks)), np.outer(asks == a, says == b) | np.outer(asks == b, says == a))
        for a, b in combinations(names, 2)
    ]
    variance = np.square(moves).sum() - np.square(shared).sum()
    assert variance > np.square(moves).sum() / 2
    variance *= len(names) / (len(names) - 1)
    expected = student.ppf(0.975, len(names) - 1) * np.sqrt(variance)
    assert found.half_interval == pytest.approx(expected)


def test_documents_by_the_querys_own_speaker_and_the_scale_of_a_query_change_nothing():
    trials = Queries(Material(home(), "clean")).scored[IN_DOMAIN]
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(trials.asked.shape) + 2.5 * trials.relevant
    other = np.where(trials.asked, scores, 1e3) * rng.uniform(1, 9, (len(scores), 1)) + rng.standard_normal(
        (len(scores), 1)
    )
    one, two = (queries.score_found("MTWV", IN_DOMAIN, trials, x) for x in (scores, other))
    assert 0.1 < one.value < 1
    assert two.value == pytest.approx(one.value)
    assert two.half_interval == pytest.approx(one.half_interval)


def test_metrics_are_known_and_both_conditions_scored_beside_test():
    task = Queries(Material(home(), "clean", abroad()))
    with FeatureStore(spectral_states, task.clips) as store:
        scores = task.score(store)
    assert set(task.metrics) <= METRICS.keys()
    assert [(found.metric, found.condition) for found in scores] == [("MTWV", IN_DOMAIN), ("MTWV", OUT_OF_DOMAIN)]
    assert {clip.rendition for clip in task.scored[OUT_OF_DOMAIN].clips} == {"otherwise"}
    assert {clip.utterance.id[0] for clip in task.scored[OUT_OF_DOMAIN].clips} == {"o"}


def test_scoring_dev_needs_no_test():
    task = Queries(Material(home(allow_test=False), "clean", abroad(allow_test=False), scored="dev"))
    assert list(task.scored) == [IN_DOMAIN]
    assert {clip.utterance.id[0] for clip in task.search.clips} == {"s"}
    assert {clip.utterance.id[0] for clip in task.scored[IN_DOMAIN].clips} == {"d"}
    with pytest.raises(ValueError, match="the test split is read once"):
        Queries(Material(home(allow_test=False), "clean"))


def test_search_has_half_of_the_documents_and_a_third_of_the_queries(monkeypatch):
    monkeypatch.setattr(queries, "MAX_WORD_SHARE", 0.1)
    task = Queries(Material(home(), "clean", abroad()), num_queries=6, num_documents=90)
    assert (len(task.search.documents), len(task.search.queries)) == (45, 2)
    for trials in task.scored.values():
        assert (len(trials.documents), len(trials.queries)) == (90, 6)
