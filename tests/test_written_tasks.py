"""Phones, characters and slots: what is to be written, what counts as an error, and which clips are read for what."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search_spaces.errors import FailedError
from speech_data import espeak
from speech_data.espeak import INSTALL_HINT, READING_HINT, SILENCE, Espeak, phonemize
from speech_tasks import characters, phones, slots
from speech_tasks.aggregates import METRICS
from speech_tasks.characters import BEAM_WIDTH, Characters, compare_decoders, count_word_edits, label_characters
from speech_tasks.ctc import Writer
from speech_tasks.feature_store import Clip
from speech_tasks.heads import Fitted, Plan
from speech_tasks.phones import Phones, label_phones
from speech_tasks.slots import Slots, find_slots, label_slots, mark_slots
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material
from tests.speech_cases import FakeCorpus, utterance
from tests.written_cases import hearing, spell

TASKS = [Phones, Characters, Slots]
WORDS = ("red", "blue", "on", "off", "lamp", "bed")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small only wait for a second one
    yield
    torch.set_num_threads(before)


def clip(text=None, name="u", **labels):
    return Clip(FakeCorpus({}), utterance(name, text=text, **labels), "clean")


def spans(*symbols):
    return tuple((symbol, 0.1 * i, 0.1 * (i + 1)) for i, symbol in enumerate(symbols))


def commands(split, count, seed):
    """Utterances of two words, the first of which is a slot; every fourth is no command."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        first, second = rng.choice(WORDS, 2, replace=False).tolist()
        labels = {"intent": "none"} if i % 4 == 3 else {"intent": "do", "slots": (("thing", first),)}
        made.append(spell(f"{split}-{i}", f"{first} {second}", **labels))
    return made


def material(scored="test", allow_test=True, num_train=40, other=True):
    sizes = {"train": num_train, "search": 8, "dev": 8, "test": 8}
    splits = {split: commands(split, size, i) for i, (split, size) in enumerate(sizes.items())}
    second = FakeCorpus({"test": commands("other", 8, 9)}, hash="other", allow_test=allow_test) if other else None
    return Material(FakeCorpus(splits, allow_test=allow_test), "clean", second, scored)


def parts(task):
    return {"train": task.train, "search": task.search, **task.scored}


def names(part):
    return [spoken.clip.utterance.id for spoken in part]


class Told:
    """A writer that wrote what it is told, by the id of the utterance, once for each head."""

    fitted = Fitted((), 0.25, ())

    def __init__(self, *heard):
        self.heard = heard

    def write(self, store, clips):
        del store
        return [[tuple(one[clip.utterance.id]) for clip in clips] for one in self.heard]


# Phones


def test_phones_are_those_of_the_corpus_without_silence():
    labelled = label_phones([clip("never read", phones=spans("sil", "k", "ae", "sil", "t", "sil", "sil"))])
    assert [spoken.symbols for spoken in labelled] == [("k", "ae", "t")]


def test_phones_of_a_text_are_read_where_the_corpus_has_none():
    pytest.importorskip("espeakng_loader", reason="reading a text needs the extra nestling[demo]")
    clips = [clip("cat"), clip("cat", phones=spans("sil", "x", "y")), clip(" ship\n")]
    labelled = label_phones(clips)
    assert [spoken.clip for spoken in labelled] == clips
    assert [spoken.symbols for spoken in labelled] == [("k", "ae", "t"), ("x", "y"), ("sh", "ih", "p")]


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_neither_phones_nor_text_is_refused_by_name(text):
    with pytest.raises(ValueError, match="nameless has neither phones nor a text to read them from"):
        label_phones([clip("cat", phones=spans("k")), clip(text, name="nameless")])


def test_phone_errors_are_edits_over_phones_said(monkeypatch):
    said = {"a": ("k", "ae", "t"), "b": ("p",), "c": ("s", "ih", "t", "s")}
    corpus = FakeCorpus(
        {
            "train": [utterance("t", phones=spans("k"))],
            "search": [utterance("s", phones=spans("k"))],
            "test": [utterance(name, phones=spans("sil", *symbols)) for name, symbols in said.items()],
        }
    )
    one = {**said, "a": ("k", "t"), "b": ("p", "p", "b")}  # one deletion, two insertions
    other = dict.fromkeys(said, ())
    monkeypatch.setattr(phones, "fit_writer", lambda *_: Told(one, other, said))
    (score,) = Phones(Material(corpus, "clean")).score(None)
    assert (score.metric, score.condition) == ("PER", IN_DOMAIN)
    assert score.seeds == pytest.approx((100 * 3 / 8, 100.0, 0.0))
    assert score.value == pytest.approx(137.5 / 3)
    assert score.settings == {"learning rate": 0.25}


def test_who_hears_every_phone_makes_no_error_and_who_hears_noise_many(monkeypatch):
    def babble(split, count, seed):
        rng = np.random.default_rng(seed)
        texts = ["".join(rng.choice(list("abcdef"), rng.integers(2, 7))) for _ in range(count)]
        return [spell(f"{split}-{i}", text) for i, text in enumerate(texts)]

    sizes = {"train": 80, "search": 8, "test": 8}
    corpus = FakeCorpus({split: babble(split, size, i) for i, (split, size) in enumerate(sizes.items())})
    other = FakeCorpus({"test": babble("other", 8, 3)}, hash="other")
    monkeypatch.setattr(phones, "PLAN", Plan(epochs=30, learning_rates=(1e-6, 4e-2), num_seeds=2))
    task = Phones(Material(corpus, "clean", other))
    spoken = [one for part in parts(task).values() for one in part]
    assert [one.clip for one in spoken] == task.clips
    values = {}
    for clear in (True, False):
        with hearing(spoken, clear) as store:
            values[clear] = task.score(store)
    assert [(s.condition, s.value) for s in values[True]] == [(IN_DOMAIN, 0.0), (OUT_OF_DOMAIN, 0.0)]
    assert all(score.settings == {"learning rate": 4e-2} for score in values[True])
    assert all(score.value > 60 for score in values[False])


# espeak's reading


def test_texts_are_read_in_order_and_apart_from_each_other():
    pytest.importorskip("espeakng_loader")
    assert phonemize(["ship", "cat", "", "thing"]) == [
        ("sh", "ih", "p"),
        ("k", "ae", "t"),
        (),
        ("th", "ih", "ng"),
    ]
    text = "stop the music, please. judge your yellow zebra"
    (alone,) = phonemize([text])
    assert phonemize(["something else?", text, text])[1:] == [alone, alone]
    assert SILENCE not in alone
    assert alone[:4] == ("s", "t", "oh", "p")
    assert alone[-5:] == ("z", "iy", "b", "r", "ax")  # all clauses are read


def test_a_voice_has_its_own_reading():
    pytest.importorskip("espeakng_loader")
    american, british = (phonemize(["tomato"], voice)[0] for voice in ("gmw/en-US", "gmw/en"))
    assert american == ("t", "ax", "m", "ey", "t", "ow") == phonemize(["tomato"])[0]
    assert british == ("t", "ax", "m", "aa", "t", "ow")


def test_a_failure_to_read_is_told():
    pytest.importorskip("espeakng_loader")
    with pytest.raises(FailedError, match=r"espeak-ng cannot read the texts: .*no voice 'gmw/none'"):
        phonemize(["cat"], "gmw/none")


def test_the_reading_of_a_text_is_what_would_be_said():
    pytest.importorskip("espeakng_loader")
    text = "turn the lamp off"
    speech = Espeak().say(text, "gmw/en-US", rate=160, pitch=50, pitch_range=50, seed=1)
    assert phonemize([text]) == [tuple(symbol for symbol, _ in speech.phones if symbol != SILENCE)]


def test_without_espeak_it_is_said_what_reading_needs(monkeypatch):
    monkeypatch.setattr(espeak, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=re.escape(READING_HINT)):
        label_phones([clip("cat")])
    assert READING_HINT != INSTALL_HINT
    assert label_phones([clip("cat", phones=spans("k"))])[0].symbols == ("k",)


# Characters


def test_the_text_is_written_with_single_blanks():
    (spoken,) = label_characters([clip("  it's\n time \t now ")])
    assert "".join(spoken.symbols) == "it's time now"
    assert len(spoken.symbols) == 13


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "u has no text; recognising characters wants one"),
        (" ", "u has no text"),
        ("room 12", "u has 1 2 in its text; write it in small letters"),
        ("Hello", "u has H in its text"),
        ("café, now", "u has , é in its text"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        label_characters([clip(text)])


def test_word_errors_by_hand():
    part = label_characters([clip("turn it off"), clip("stop"), clip("go on")])
    heard = [tuple("turn of"), tuple("  stop  "), tuple("goon")]
    assert count_word_edits(part, heard).tolist() == [[2, 3], [0, 1], [2, 2]]


class Even(nn.Module):
    """In every frame nothing is said with probability 0.6, an `a` with 0.4."""

    def forward(self, states, lengths):
        del lengths
        return torch.tensor([0.6, 0.4]).log().expand(*states.shape[1:3], 2)


def test_word_error_rates_by_hand(monkeypatch):
    corpora = {
        "train": [utterance("t", text="a")],
        "search": [utterance("s", text="a")],
        "test": [utterance("a", text="turn it off"), utterance("b", text="stop")],
    }
    other = FakeCorpus({"test": [utterance("c", text="go on")]}, hash="other")
    one, two = {"a": "turn of", "b": "stop", "c": "goon"}, {"a": "turn it off", "b": "stop now", "c": "go on"}
    asked = []

    def compare(writer, store, part, greedy):
        del writer, store
        asked.append((names(part), greedy[:, 0].tolist()))
        return {"WER by other means": float(len(part))}

    monkeypatch.setattr(characters, "fit_writer", lambda *_, **__: Told(one, two))
    monkeypatch.setattr(characters, "compare_decoders", compare)
    inside, outside = Characters(Material(FakeCorpus(corpora), "clean", other)).score(None)
    assert (inside.condition, outside.condition) == (IN_DOMAIN, OUT_OF_DOMAIN)
    assert inside.seeds == pytest.approx((100 * 2 / 4, 100 * 1 / 4))
    assert outside.seeds == pytest.approx((100.0, 0.0))
    assert [dict(zip(*pair, strict=True)) for pair in asked] == [{"a": 2, "b": 0}, {"c": 2}]  # the first head's edits
    assert inside.settings == {"learning rate": 0.25, "WER by other means": 2.0}


def test_both_decoders_are_told_of_the_same_clips(monkeypatch):
    # Two frames are all blank with 0.36 and an `a` with 0.64; the best frames alone say nothing.
    texts = ("a", "a", "b a", "b", "b")
    corpus = FakeCorpus({"test": [utterance(f"u{i}", 720, text=text) for i, text in enumerate(texts)]})
    part = label_characters([Clip(corpus, u, "clean") for u in corpus.utterances("test")])
    with hearing(part) as store:
        statistics = store.statistics([spoken.clip for spoken in part])
        writer = Writer(Fitted((Even(), nn.Identity()), 1.0, ()), ("", "a"), statistics)
        greedy = np.array([[1, 1], [1, 1], [2, 2], [9, 1], [9, 1]], float)
        beam, same = f"WER, beam of {BEAM_WIDTH}", "WER, greedy on the same"
        rates = compare_decoders(writer, store, part, greedy)
        assert rates == {beam: pytest.approx(100 * 3 / 6), same: pytest.approx(100 * 22 / 6)}
        monkeypatch.setattr(characters, "BEAM_CLIPS", 3)
        rates = compare_decoders(writer, store, part, greedy)
        assert rates == {beam: pytest.approx(100 * 1 / 4), same: pytest.approx(100.0)}


# Slots


def test_marks_stand_around_the_values():
    said = clip("turn on the  living room light", slots=(("room", "living room"), ("device", "light")), intent="on")
    written = mark_slots(said)
    assert written[:13] == (*"turn on the ", "<room>")
    assert "".join(written) == "turn on the <room>living room</room> <device>light</device>"
    assert find_slots(written) == [("room", "living room"), ("device", "light")]
    assert mark_slots(clip("stop", intent="stop")) == tuple("stop")


def test_a_value_is_whole_words_and_after_the_one_before():
    twice = clip("redder red red", slots=(("from", "red"), ("to", "red")))
    assert "".join(mark_slots(twice)) == "redder <from>red</from> <to>red</to>"


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("turn it off", ("lamp",), "'lamp', which 'turn it off' does not say"),
        ("redder", ("red",), "'red', which 'redder' does not say"),
        ("big red", ("red", "big"), "u has the slot thing with the value 'big', which '' does not say"),
        ("red on", ("r.d",), "'r.d', which 'red on' does not say"),
        ("red", ("red", "red"), "'red', which '' does not say"),
    ],
)
def test_a_value_that_the_text_does_not_say_is_refused(text, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mark_slots(clip(text, slots=tuple(("thing", value) for value in values)))


def test_a_corpus_without_slots_is_refused_and_one_without_commands_is_empty():
    with pytest.raises(ValueError, match="u is labelled with no slots; slot filling wants a corpus of commands"):
        label_slots([clip("turn it off")])
    assert label_slots([clip("a fine day", intent="none")]) == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", []),
        ("turn on", []),
        ("<a>x</a>", [("a", "x")]),
        ("<a>x</a><a>y</a>", [("a", "x"), ("a", "y")]),
        ("<a> living   room </a>", [("a", "living room")]),
        ("<a>x", []),
        ("x</a>", []),
        ("x</a><a>y", []),
        ("<a>x</b>", []),
        ("<b><a>x</a>", [("a", "x")]),
        ("<a>x</a></a>", [("a", "x")]),
        ("<a>x<b>y</a>", [("a", "xy")]),
        ("<a>x</b>y</a>", [("a", "xy")]),
        ("<a>x<b>y</a>z</b>", [("a", "xy")]),
    ],
)
def test_slots_are_found_between_a_mark_and_its_other(written, expected):
    assert find_slots(tuple(re.findall(r"<[^>]*>|.", written))) == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "to"]), st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))))
def test_what_is_marked_is_found_and_the_rest_is_the_text(pieces):
    text = " ".join(word for _, words in pieces for word in words) or "stop"
    given_slots = tuple((slot, " ".join(words)) for slot, words in pieces if slot)
    written = mark_slots(clip(text, slots=given_slots, intent="do"))
    assert find_slots(written) == list(given_slots)
    assert "".join(symbol for symbol in written if symbol[0] != "<") == text
    assert sum(symbol[0] == "<" for symbol in written) == 2 * len(given_slots)


def test_slot_scores_by_hand(monkeypatch):
    def command(name, text, *values):
        return utterance(name, text=text, intent="do", slots=values)

    corpus = FakeCorpus(
        {
            "train": [command("t", "red", ("thing", "red"))],
            "search": [command("s", "red", ("thing", "red"))],
            "test": [command("a", "red lamp on", ("colour", "red"), ("thing", "lamp")), command("b", "stop")],
        }
    )
    right = {"a": ("<colour>", *"red", "</colour>", "<thing>", *"lamp", "</thing>"), "b": "stop"}
    # One of two types, its value with one of seven characters wrong and the four of the other lacking.
    wrong = {"a": ("<colour>", *"rid", "</colour>"), "b": ("<thing>", "x", "</thing>")}
    monkeypatch.setattr(slots, "fit_writer", lambda *_, **__: Told(right, wrong))
    f1, cer = Slots(Material(corpus, "clean")).score(None)
    assert (f1.metric, cer.metric) == ("slot F1", "slot CER")
    assert f1.seeds == pytest.approx((100.0, 100 * (2 / 3 + 0) / 2))
    assert cer.seeds == pytest.approx((0.0, 100 * 5 / 7))


# All three


@pytest.mark.parametrize("build", TASKS)
def test_every_clip_is_of_its_split_and_no_other(build):
    splits = parts(build(material()))
    assert list(splits) == ["train", "search", IN_DOMAIN, OUT_OF_DOMAIN]
    for (part, spoken), prefix in zip(splits.items(), ("train", "search", "test", "other"), strict=True):
        assert spoken, part
        assert all(name.startswith(f"{prefix}-") for name in names(spoken))
        assert len(set(names(spoken))) == len(spoken)
    assert {one.clip.rendition for one in splits[OUT_OF_DOMAIN]} == {"otherwise"}
    assert {one.clip.rendition for one in [*splits["train"], *splits["search"], *splits[IN_DOMAIN]]} == {"clean"}


@pytest.mark.parametrize("build", TASKS)
def test_scoring_dev_needs_no_test(build):
    task = build(material("dev", allow_test=False))
    assert list(task.scored) == [IN_DOMAIN]
    assert {name.split("-")[0] for part in parts(task).values() for name in names(part)} == {"train", "search", "dev"}
    with pytest.raises(ValueError, match="the test split is read once"):
        build(material("test", allow_test=False))


@pytest.mark.parametrize("build", TASKS)
def test_so_many_clips_are_fitted_on_and_all_are_scored(build):
    task = build(material(), num_train=12, num_search=5)
    assert (len(task.train), len(task.search)) == (12, 5)
    larger = build(material(), num_train=20, num_search=5)
    assert names(larger.train)[:12] == names(task.train)
    every = 6 if build is Slots else 8  # two are no commands
    assert [len(part) for part in task.scored.values()] == [every, every]


def test_slots_are_of_commands_alone():
    task = Slots(material())
    for part in parts(task).values():
        assert part
        assert all(spoken.clip.utterance.intent == "do" for spoken in part)
    corpora = material()
    idle = [u for u in corpora.other.splits["test"] if u.intent == "none"]
    no_commands = FakeCorpus({"test": idle}, hash="idle")
    assert list(Slots(Material(corpora.corpus, "clean", no_commands)).scored) == [IN_DOMAIN]


def test_commands_without_a_slot_are_no_score_of_slots():
    bare = [utterance("stop", text="stop", intent="stop"), utterance("go", text="go", intent="go")]
    task = Slots(Material(material().corpus, "clean", FakeCorpus({"test": bare}, hash="bare")))
    assert list(task.scored) == [IN_DOMAIN]


@pytest.mark.parametrize(("build", "module"), [(Characters, characters), (Slots, slots)])
def test_who_hears_every_letter_and_mark_learns_to_write_them(monkeypatch, build, module):
    monkeypatch.setattr(module, "PLAN", Plan(epochs=24, learning_rates=(1.4e-2,), num_seeds=1))
    task = build(material(num_train=100))
    spoken = [one for part in parts(task).values() for one in part]
    assert [one.clip for one in spoken] == task.clips
    with hearing(spoken) as store:
        scores = task.score(store)
    assert [(s.metric, s.condition) for s in scores] == [
        (metric, condition) for condition in (IN_DOMAIN, OUT_OF_DOMAIN) for metric in task.metrics
    ]
    for score in scores:
        assert score.settings["learning rate"] == 1.4e-2
        assert METRICS[score.metric].to_points(score.value) > 50, score
    if build is Characters:
        for score in scores:
            # The few clips are all decoded twice, by the first head.
            assert score.settings["WER, greedy on the same"] == pytest.approx(score.seeds[0])
            assert score.settings[f"WER, beam of {BEAM_WIDTH}"] == pytest.approx(score.seeds[0], abs=30)


@pytest.mark.parametrize("build", TASKS)
def test_metrics_are_known_and_scored_where_there_is_audio(monkeypatch, build):
    for module in (phones, characters, slots):
        monkeypatch.setattr(module, "PLAN", Plan(epochs=1, learning_rates=(1e-3,), num_seeds=2))
    task = build(material(other=False))
    with hearing([one for part in parts(task).values() for one in part], clear=False) as store:
        scores = task.score(store)
    assert [score.metric for score in scores] == list(task.metrics)
    assert set(task.metrics) <= METRICS.keys()
    assert {score.condition for score in scores} == {IN_DOMAIN}
    assert all(score.value == pytest.approx(np.mean(score.seeds)) for score in scores)
