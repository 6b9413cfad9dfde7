"""The second synthesiser: a test split and no other, repeatable, labelled as the first one's corpora are."""

import dataclasses
import os
import shutil
import sys
from collections import Counter

import numpy as np
import pytest

from search_spaces.errors import FailedError
from speech_data import flite
from speech_data.corpus import Corpus
from speech_data.espeak import PHONE_CLASSES
from speech_data.flite import RECIPES, VOICES, flite_corpus, plan_test, say, synthesise_test
from speech_data.grammar import KEYWORD_CLASSES, KEYWORDS, NO_WORD, UNKNOWN_WORD
from speech_data.plans import plan_split, split_of_sentence
from speech_data.synthesis import KEYWORDS as KEYWORD_RECIPE
from speech_data.synthesis import VOICES as VOICE_RECIPE

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "flite"
    synthesise_test("flite", plan_test("sentences")[:12], folder, workers=2)
    return Corpus(folder, allow_test=True)


def fake_flite(folder, printed, voices="kal awb_time kal16 awb rms slt", code=0):
    """A program in the place of flite, which prints what it is told."""
    program = folder / "flite"
    wave = "import sys, numpy, soundfile; soundfile.write(sys.argv[1], numpy.sin(numpy.arange(8000) / 10) / 2, 16000)"
    program.write_text(
        f"""#!/bin/sh
case "$*" in
*-lv*) echo "Voices available: {voices}" ;;
*-psdur*) echo "{printed}"; for last; do :; done
    while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
    [ {code} = 0 ] || {{ echo "cannot say it" >&2; exit {code}; }}
    "{sys.executable}" -c "{wave}" "$out" ;;
*) echo "pau g ow pau" ;;
esac
"""
    )
    program.chmod(0o755)
    return program


def put_first(monkeypatch, folder):
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


# Planning: no flite needed


def test_sentences_are_the_test_splits_and_the_voices_take_turns():
    plan = plan_test("sentences")
    assert len({planned.text for planned in plan}) == len(plan) == 200
    assert all(split_of_sentence(planned.text) == "test" for planned in plan)
    assert Counter(planned.voice for planned in plan) == dict.fromkeys(VOICES, 50)
    assert {planned.style for planned in plan} == {"neutral"}
    assert len({planned.rate for planned in plan}) > 10


def test_keywords_are_balanced_and_other_words_are_the_test_splits():
    plan = plan_test("keywords")
    assert Counter(planned.intent for planned in plan) == dict.fromkeys(KEYWORD_CLASSES, 30)
    unknown = {planned.text for planned in plan if planned.intent == UNKNOWN_WORD}
    assert all(split_of_sentence(word) == "test" for word in unknown)
    trained = {planned.text for planned in plan_split(KEYWORD_RECIPE, "train")}
    assert not unknown & trained
    assert all(planned.text == planned.intent for planned in plan if planned.intent in KEYWORDS)


def test_voices_are_twenty_speakers_nobody_has_heard():
    plan = plan_test("voices")
    assert Counter(Counter(planned.speaker for planned in plan).values()) == {8: 20}
    heard = {planned.speaker for split in ("train", "test") for planned in plan_split(VOICE_RECIPE, split)}
    assert not heard & {planned.speaker for planned in plan}


def test_plans_are_repeatable_and_their_ids_unique():
    for material in RECIPES:
        assert plan_test(material) == plan_test(material)
        assert len({planned.id for planned in plan_test(material)}) == RECIPES[material].num_test


def test_unknown_material_names_the_known_ones():
    with pytest.raises(ValueError, match="flite speaks no 'songs'; it speaks sentences, keywords, commands, voices"):
        flite_corpus("songs")


def test_phones_are_of_our_inventory():
    assert set(flite.PHONES.values()) == set(PHONE_CLASSES.values()) - {"oh"}


# Without a working flite


def test_without_flite_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="out-of-domain set needs flite; run: apt-get install flite"):
        flite_corpus("keywords")


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
def test_missing_voice_is_named_for_flite_would_take_another(monkeypatch, tmp_path):
    fake_flite(tmp_path, "", voices="kal16 rms")
    put_first(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="lacks the voices awb, slt; it has kal16, rms"):
        synthesise_test("flite", plan_test("sentences"), tmp_path / "corpus")


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    ("printed", "code", "message"),
    [
        ("pau:0.1 xx:0.2 pau:0.3", 0, "flite's phone 'xx' has no class; add it to PHONES"),
        ("", 0, "flite printed no phones but"),
        ("pau:0.1", 3, "failed: cannot say it"),
    ],
)
def test_what_flite_gets_wrong_is_an_error_and_leaves_nothing_behind(monkeypatch, tmp_path, printed, code, message):
    (tmp_path / "bin").mkdir()
    fake_flite(tmp_path / "bin", printed, code=code)
    put_first(monkeypatch, tmp_path / "bin")
    with pytest.raises(FailedError, match=message):
        synthesise_test("flite", plan_test("sentences")[:2], tmp_path / "made" / "corpus", workers=1)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("sizes", [[2], [1, 1], [2, 2, 1]])
def test_word_said_in_another_way_than_alone_leaves_the_others_unplaced(sizes):
    phones = (("sil", 0), ("g", 100), ("ow", 200), ("aa", 300), ("n", 400), ("sil", 500))
    assert flite._place_words(["go", "on"], [2, 2], phones) == ((0, 100), (3, 300))
    assert flite._place_words(["go", "on"], sizes, phones) == ((0, 100),)


# Speaking


@needs_flite
def test_only_the_test_split_exists_and_only_for_evaluation(corpus):
    for split in ("train", "search", "dev"):
        with pytest.raises(ValueError, match=f"no split '{split}' in this corpus; it has test"):
            corpus.utterances(split)
    with pytest.raises(ValueError, match="test split is read once, by evaluate"):
        Corpus(corpus.folder).utterances("test")


@needs_flite
def test_one_plan_gives_one_corpus_whatever_the_workers(corpus, tmp_path):
    progress = []
    plan = plan_test("sentences")[:12]
    synthesise_test(
        "flite", plan, tmp_path / "again", workers=1, on_progress=lambda done, total: progress.append((done, total))
    )
    assert Corpus(tmp_path / "again").hash == corpus.hash
    assert progress == [(i + 1, 12) for i in range(12)]


@needs_flite
def test_labels_are_those_of_the_first_synthesiser(corpus):
    for utterance, planned in zip(corpus.utterances("test"), plan_test("sentences"), strict=False):
        assert (utterance.text, utterance.intent, utterance.slots) == (planned.text, planned.intent, planned.slots)
        assert utterance.speaker == planned.speaker
        edges = [0.0, *(end for _, _, end in utterance.phones)]
        assert edges[:-1] == [start for _, start, _ in utterance.phones]
        assert edges[-1] == pytest.approx(utterance.seconds, abs=1e-3)
        assert {symbol for symbol, _, _ in utterance.phones} <= set(corpus.phones)
        assert [word for word, _, _ in utterance.words] == utterance.text.split()
        times = [time for _, start, end in utterance.words for time in (start, end)]
        assert times == sorted(times)
        assert set(times) <= set(edges)


@needs_flite
def test_phone_times_fit_the_sound(corpus):
    """Hisses are high, nasals low, silence is silent: wrong times would blur that."""
    heard = {"s": [], "n": [], "sil": []}
    for utterance in corpus.utterances("test"):
        wave = corpus.read(utterance)
        for symbol, start, end in utterance.phones:
            sound = wave[round(start * 16_000) : round(end * 16_000)]
            if symbol in heard and len(sound) > 400:
                power = np.abs(np.fft.rfft(sound)) ** 2
                heard[symbol].append(
                    (np.sqrt(np.mean(sound**2)), power[len(power) // 4 :].sum() / max(power.sum(), 1e-9))
                )
    level, high = {}, {}
    for symbol, values in heard.items():
        assert len(values) >= 5
        level[symbol], high[symbol] = np.median(values, axis=0)
    assert high["s"] > 0.8
    assert high["n"] < 0.2
    assert level["sil"] < 0.2 * min(level["s"], level["n"])


@needs_flite
def test_words_begin_with_their_own_phones(corpus):
    """The first phone of a word that begins with one of these letters is the letter's."""
    seen = 0
    for utterance in corpus.utterances("test"):
        for word, start, _ in utterance.words:
            (symbol,) = [name for name, first, _ in utterance.phones if first == start]
            if word[0] in "bdfmnrvz":
                assert symbol == word[0], (utterance.text, word)
                seen += 1
    assert seen > 10


@needs_flite
def test_slower_is_longer_and_longer_tracts_keep_the_length(tmp_path):
    one = dataclasses.replace(plan_test("sentences")[0], rate=175, voice="slt", lead_ms=0, trail_ms=0)
    plan = [one, dataclasses.replace(one, rate=140), dataclasses.replace(one, rate=round(175 * 1.08), tract=1.08)]
    synthesise_test("three", plan, tmp_path / "three")
    usual, slow, long_tract = Corpus(tmp_path / "three", allow_test=True).utterances("test")
    assert slow.seconds / usual.seconds == pytest.approx(1.25, abs=0.02)
    assert long_tract.seconds / usual.seconds == pytest.approx(1.0, abs=0.02)


@needs_flite
def test_pitch_follows_its_shift():
    periods = []
    for shift in (0.8, 1.25):
        speech, rate = say("flite", "moon", "slt", {"f0_shift": shift})
        starts = dict(reversed([(name, first) for name, first in speech.phones]))
        vowel = speech.wave[starts["uw"] :][: round(0.06 * rate)].astype(float)
        match = np.correlate(vowel, vowel, "full")[len(vowel) - 1 :]
        periods.append(rate // 400 + int(np.argmax(match[rate // 400 : rate // 80])))
    assert periods[0] / periods[1] == pytest.approx(1.25 / 0.8, rel=0.1)


@needs_flite
def test_corpus_is_made_once_and_then_found(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    small = {name: dataclasses.replace(recipe, num_test=12) for name, recipe in RECIPES.items()}
    monkeypatch.setattr(flite, "RECIPES", small)
    made = flite_corpus("keywords", allow_test=True)
    monkeypatch.setattr(flite, "synthesise_test", None)
    found = flite_corpus("keywords", allow_test=True)
    assert (found.name, found.hash) == ("nestling-flite-keywords", made.hash)
    silences = [utterance for utterance in found.utterances("test") if utterance.intent == NO_WORD]
    assert [(u.text, u.speaker, {name for name, _, _ in u.phones}) for u in silences] == [("", None, {"sil"})]
    assert {u.intent for u in found.utterances("test")} == set(KEYWORD_CLASSES)
