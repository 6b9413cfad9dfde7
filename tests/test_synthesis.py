"""The synthesised corpus: repeatable, honestly split, sensibly labelled."""

import dataclasses
import hashlib
import json
import random
from collections import Counter

import numpy as np
import pytest

from search_spaces.errors import FailedError
from speech_data import plans, shards, synthesis
from speech_data.corpus import SPLITS, Corpus, Utterance
from speech_data.espeak import SILENCE
from speech_data.grammar import (
    INTENTS,
    KEYWORD_CLASSES,
    KEYWORDS,
    NO_INTENT,
    NO_WORD,
    PHRASES_EACH,
    SLOTS,
    UNKNOWN_WORD,
    draw_sentence,
    other_words,
)
from speech_data.plans import TRACTS, CorpusRecipe, plan_split, split_of_sentence
from speech_data.recordings import SILENCE_LEVEL_DB
from speech_data.synthesis import COMMANDS, FULL, VARIED, corpus_folder, synthesise_corpus
from speech_data.synthesis import KEYWORDS as KEYWORD_RECIPE
from speech_data.synthesis import VOICES as VOICE_RECIPE
from speech_data.voices import SPEAKERS, STYLES
from speech_tasks import materials
from tests.speech_cases import FakeCorpus

TINY = CorpusRecipe("tiny", seed=3, num_train=40, num_search=6, num_dev=6, num_test=6)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("espeakng_loader", reason="the synthesised corpus needs the extra nestling[demo]")
    folder = tmp_path_factory.mktemp("corpora") / "tiny"
    synthesise_corpus(TINY, folder, workers=2)
    return Corpus(folder, allow_test=True)


def every_utterance(corpus):
    return [utterance for split in SPLITS for utterance in corpus.utterances(split)]


# Planning and grammar: no synthesiser needed


@pytest.mark.parametrize("intent", INTENTS)
def test_sentences_are_plain_words_that_say_their_slots(intent):
    rng = random.Random(intent)
    sentences = [draw_sentence(intent, rng) for _ in range(300)]
    for sentence in sentences:
        assert sentence.text.replace("'", "").replace(" ", "").isalpha()
        assert sentence.text == " ".join(sentence.text.lower().split())
        assert all(slot in SLOTS and value in sentence.text for slot, value in sentence.slots)
        assert bool(sentence.slots) != (intent == NO_INTENT)
    assert len({sentence.text for sentence in sentences}) > 200


def test_there_are_a_dozen_intents_and_none():
    assert len(INTENTS) == 13


def test_no_word_list_is_drawn_from_twice_for_the_same_word():
    rng = random.Random(0)
    for _ in range(300):
        foods = [value for slot, value in draw_sentence("buy", rng).slots if slot == "food"]
        assert len(foods) == len(set(foods))


def test_splits_share_neither_sentences_nor_voices():
    plans = {split: plan_split(CorpusRecipe(num_train=600), split) for split in SPLITS}
    for split, plan in plans.items():
        assert len({planned.text for planned in plan}) == len(plan)
        assert all(split_of_sentence(planned.text) == split for planned in plan)
        others = {other.speaker for name in SPLITS if name != split for other in plans[name]}
        assert not others & {planned.speaker for planned in plan}


def test_another_seed_cannot_leak_a_test_sentence_into_training():
    held_out = {planned.text for planned in plan_split(CorpusRecipe(seed=1), "test")}
    trained_on = {planned.text for planned in plan_split(CorpusRecipe(seed=2, num_train=2000), "train")}
    assert not held_out & trained_on


def test_voices_are_many_and_no_variant_speaks_in_two_splits():
    assert {split: len(voices) for split, voices in SPEAKERS.items()} == {
        "train": 44,
        "search": 8,
        "dev": 8,
        "test": 12,
    }
    variants = [voice.variant for voices in SPEAKERS.values() for voice in voices]
    assert len(variants) == len(set(variants))


def test_voices_take_turns_and_styles_mix():
    plan = plan_split(CorpusRecipe(num_train=440), "train")
    turns = [planned.speaker for planned in plan]
    assert all(turns.count(voice.name) == 10 for voice in SPEAKERS["train"])
    assert {planned.style for planned in plan} == set(STYLES)
    assert {planned.intent for planned in plan} == set(INTENTS)


def test_keywords_occur_in_every_split():
    for split in SPLITS:
        words = {word for planned in plan_split(CorpusRecipe(), split) for word in planned.text.split()}
        assert words >= set(KEYWORDS)


def test_larger_recipe_begins_with_the_smaller_one():
    assert plan_split(CorpusRecipe(num_train=50), "train") == plan_split(CorpusRecipe(num_train=90), "train")[:50]


def test_cache_folder_depends_on_what_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    folder = corpus_folder(TINY)
    assert folder.parent == tmp_path / "corpora"
    assert folder == corpus_folder(dataclasses.replace(TINY))
    assert folder != corpus_folder(dataclasses.replace(TINY, seed=4))
    monkeypatch.setattr(shards, "FORMAT", shards.FORMAT + 1)
    assert folder != corpus_folder(TINY)


def test_asking_for_more_sentences_than_there_are_says_how_many_there_are(monkeypatch):
    sentence = draw_sentence(NO_INTENT, random.Random(0))
    monkeypatch.setattr(plans, "draw_sentence", lambda *_: sentence)
    with pytest.raises(ValueError, match="no more than 1 sentences for"):
        plan_split(CorpusRecipe(), split_of_sentence(sentence.text))


def test_published_corpora_are_planned_as_they_were():
    """Long runs keep the audio of these recipes in the cache; another plan would be another corpus."""
    prefix = [dataclasses.asdict(planned) for planned in plan_split(FULL, "train")[:40]]
    assert hashlib.sha256(json.dumps(prefix, sort_keys=True).encode()).hexdigest()[:16] == "9bac915804d9cbc6"
    assert corpus_folder(FULL).name == "nestling-english-329511f4d2"
    assert corpus_folder(VARIED).name == "nestling-english-varied-1fb3dd709d"


@pytest.mark.parametrize("material", ["sentences", "keywords", "commands"])
def test_a_crowd_speaks_what_is_scored(monkeypatch, material):
    """Four times as many speakers, none of whom is heard before; sentences that no other split may say."""

    def planned_corpus(recipe, **_):
        plans = {split: plan_split(recipe, split) for split in SPLITS}
        said = {split: [Utterance(p.id, p.speaker, 8000, text=p.text) for p in plan] for split, plan in plans.items()}
        return FakeCorpus(said, name=recipe.name)

    monkeypatch.setattr(materials, "synthesised_corpus", planned_corpus)
    opened = materials.open_materials([material], out_of_domain=False)[material]
    heard = {split: Counter(clip.utterance.speaker for clip in opened.clips(split)) for split in SPLITS}
    assert {split: len(speakers) for split, speakers in heard.items()} == {
        "train": 44,
        "search": 8,
        "dev": 8,
        "test": 48,
    }
    assert max(heard["test"].values()) - min(heard["test"].values()) <= 1
    assert not heard["test"].keys() & {name for split in SPLITS[:3] for name in heard[split]}
    if material == "sentences":
        assert all(split_of_sentence(clip.utterance.text) == "test" for clip in opened.clips("test"))


def test_speakers_of_a_crowd_differ_in_accent_and_tract():
    plan = plan_split(CorpusRecipe(num_test=480, crowd=True), "test")
    variants = {voice.variant for voice in SPEAKERS["test"]}
    ways = {(planned.voice, planned.tract) for planned in plan}
    assert {voice.partition("+")[2] for voice, _ in ways} == variants
    for variant in variants:
        own = [(voice, tract) for voice, tract in ways if voice.endswith(f"+{variant}")]
        assert len(own) == len({tract for _, tract in own}) == len({voice for voice, _ in own}) == 4


def test_unknown_material_names_the_known_ones():
    with pytest.raises(ValueError, match="no material 'songs'; there are sentences, keywords, commands, voices"):
        plan_split(CorpusRecipe(material="songs"), "train")


# Keywords


def test_keywords_come_in_twelve_balanced_classes_by_the_voices_of_the_split():
    for split in SPLITS:
        plan = plan_split(KEYWORD_RECIPE, split)
        counts = Counter(planned.intent for planned in plan)
        assert set(counts) == set(KEYWORD_CLASSES)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert {planned.speaker for planned in plan} == {voice.name for voice in SPEAKERS[split]}
    assert [len(plan_split(KEYWORD_RECIPE, split)) for split in SPLITS] == [1500, 300, 300, 700]


def test_text_of_a_keyword_is_the_word_and_that_of_silence_is_empty():
    for planned in plan_split(KEYWORD_RECIPE, "train"):
        if planned.intent == NO_WORD:
            assert planned.text == ""
            assert 600 <= planned.lead_ms + planned.trail_ms <= 1000
        elif planned.intent == UNKNOWN_WORD:
            assert planned.text in other_words()
        else:
            assert planned.text == planned.intent


def test_unknown_words_of_a_split_are_its_own():
    words = {
        split: {planned.text for planned in plan_split(KEYWORD_RECIPE, split) if planned.intent == UNKNOWN_WORD}
        for split in SPLITS
    }
    for split, own in words.items():
        assert len(own) >= 20
        assert not own & set(KEYWORDS)
        assert not any(own & words[other] for other in SPLITS if other != split)


def test_commands_are_worded_alike_in_every_split_and_said_by_its_voices():
    plans = {split: plan_split(COMMANDS, split) for split in SPLITS}
    wordings = {(planned.text, planned.intent) for planned in plans["train"]}
    assert Counter(intent for _, intent in wordings) == {
        intent: PHRASES_EACH for intent in INTENTS if intent != NO_INTENT
    }
    for split, plan in plans.items():
        assert {(planned.text, planned.intent) for planned in plan} == wordings
        assert {planned.speaker for planned in plan} == {voice.name for voice in SPEAKERS[split]}


# Voices


def test_known_speakers_speak_in_every_split_and_unseen_ones_in_their_own():
    turns = {split: Counter(planned.speaker for planned in plan_split(VOICE_RECIPE, split)) for split in SPLITS}
    known = set(turns["train"])
    assert len(known) == 176
    assert set(turns["train"].values()) == {7}
    for split, (num_known, num_unseen, count) in {
        "search": (1, 5, 32),
        "dev": (1, 5, 32),
        "test": (3, 4, 96),
    }.items():
        assert {turns[split][speaker] for speaker in known} == {num_known}
        unseen = {speaker: n for speaker, n in turns[split].items() if speaker not in known}
        assert len(unseen) == count
        assert set(unseen.values()) == {num_unseen}
        assert not any(unseen.keys() & turns[other].keys() for other in SPLITS if other != split)


def test_sentences_of_voices_are_short_and_the_splits_own():
    for split in SPLITS:
        plan = plan_split(VOICE_RECIPE, split)
        assert len({planned.text for planned in plan}) == len(plan)
        assert np.mean([len(planned.text.split()) for planned in plan]) < 7
        assert all(split_of_sentence(planned.text) == split for planned in plan)


def test_a_variant_is_several_speakers_who_differ_in_the_vocal_tract_alone():
    plan = plan_split(VOICE_RECIPE, "train")
    for voice in SPEAKERS["train"]:
        own = [planned for planned in plan if planned.voice == voice.file]
        assert {(planned.speaker, planned.tract) for planned in own} == {
            (f"{voice.name}@{tract}", tract) for tract in TRACTS
        }
        assert all(abs(planned.pitch - voice.pitch) <= 16 for planned in own)
        assert len({planned.style for planned in own}) > 1


def test_without_espeak_the_message_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(synthesis, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'pip install "nestling\[demo\]"'):
        synthesise_corpus(TINY, tmp_path / "corpus")


# Speaking


def test_one_seed_gives_one_corpus_whatever_the_workers(corpus, tmp_path):
    synthesise_corpus(TINY, tmp_path / "again", workers=1)
    assert Corpus(tmp_path / "again").hash == corpus.hash


def test_another_seed_gives_another_corpus(corpus, tmp_path):
    other = CorpusRecipe("tiny", seed=4, num_train=2, num_search=1, num_dev=1, num_test=1)
    progress = []
    synthesise_corpus(other, tmp_path / "other", on_progress=lambda done, total: progress.append((done, total)))
    assert Corpus(tmp_path / "other").hash != corpus.hash
    assert progress == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_splits_have_the_sizes_asked_for(corpus):
    assert [len(corpus.utterances(split)) for split in SPLITS] == [40, 6, 6, 6]


def test_phones_tile_the_audio(corpus):
    for utterance in every_utterance(corpus):
        edges = [0.0, *(end for _, _, end in utterance.phones)]
        assert edges[:-1] == [start for _, start, _ in utterance.phones]
        assert all(end > start for _, start, end in utterance.phones)
        assert edges[-1] == pytest.approx(utterance.seconds, abs=1e-3)
        assert {symbol for symbol, _, _ in utterance.phones} <= set(corpus.phones)


def test_words_are_the_transcript_in_time_order_at_the_edges_of_phones(corpus):
    for utterance in every_utterance(corpus):
        assert [word for word, _, _ in utterance.words] == utterance.text.split()
        times = [time for _, start, end in utterance.words for time in (start, end)]
        assert times == sorted(times)
        assert set(times) <= {time for _, start, end in utterance.phones for time in (start, end)}


def test_audio_is_at_one_level_and_never_clipped(corpus):
    for utterance in every_utterance(corpus):
        wave = corpus.read(utterance)
        assert len(wave) == utterance.num_samples
        assert 0.03 < np.sqrt(np.mean(wave**2)) < 0.07
        assert np.abs(wave).max() < 1


def test_phone_times_fit_the_sound(corpus):
    """Hisses are high, nasals are low, silence is silent: wrong times would blur that."""
    heard = {"s": [], "m": [], "sil": []}
    for utterance in corpus.utterances("train"):
        wave = corpus.read(utterance)
        for symbol, start, end in utterance.phones:
            sound = wave[round(start * 16_000) : round(end * 16_000)]
            if symbol in heard and len(sound) > 400:
                power = np.abs(np.fft.rfft(sound)) ** 2
                high = power[len(power) // 4 :].sum() / max(power.sum(), 1e-9)  # above 2 kHz
                heard[symbol].append((np.sqrt(np.mean(sound**2)), high))
    level, high = {}, {}
    for symbol, values in heard.items():
        level[symbol], high[symbol] = np.median(values, axis=0)
    assert high["s"] > 0.9
    assert high["m"] < 0.1
    assert level["sil"] < 0.2 * min(level["s"], level["m"])


def test_silence_is_a_faint_noise_of_nobody(tmp_path):
    pytest.importorskip("espeakng_loader")
    recipe = CorpusRecipe("words", num_train=36, num_search=1, num_dev=1, num_test=1, material="keywords")
    synthesise_corpus(recipe, tmp_path / "words", workers=2)
    corpus = Corpus(tmp_path / "words")
    levels = []
    for utterance in corpus.utterances("train"):
        wave = corpus.read(utterance)
        assert [word for word, _, _ in utterance.words] == utterance.text.split()
        if utterance.intent != NO_WORD:
            assert np.sqrt(np.mean(wave**2)) > 0.03
            assert utterance.speaker is not None
            continue
        assert (utterance.speaker, utterance.text, utterance.style) == (None, "", None)
        assert utterance.phones == ((SILENCE, 0.0, pytest.approx(utterance.seconds, abs=1e-3)),)
        assert 0.6 <= utterance.seconds <= 1.0
        levels.append(20 * np.log10(np.sqrt(np.mean(wave**2))))
    assert len(levels) == 3
    assert min(levels) > SILENCE_LEVEL_DB[0] - 1
    assert max(levels) < SILENCE_LEVEL_DB[1] + 1
    assert max(levels) - min(levels) > 1


def test_longer_vocal_tract_lowers_all_formants_by_its_factor_and_takes_as_long(monkeypatch, tmp_path):
    pytest.importorskip("espeakng_loader")
    one = plan_split(VOICE_RECIPE, "train")[0]
    pair = [dataclasses.replace(one, id=str(tract), tract=tract, rate=round(170 * tract)) for tract in TRACTS[1:3]]
    monkeypatch.setattr(synthesis, "plan_split", lambda _, split: pair if split == "train" else [])
    synthesise_corpus(VOICE_RECIPE, tmp_path / "pair", workers=1)
    corpus = Corpus(tmp_path / "pair")
    short, long = corpus.utterances("train")
    steps_per_factor = 200  # of a logarithmic axis: a factor on frequency is a shift
    frequencies = np.exp(np.arange(-1.2 * steps_per_factor, 1.8 * steps_per_factor) / steps_per_factor) * 1000
    spectra = [mean_log_spectrum(corpus.read(utterance), frequencies) for utterance in (short, long)]
    shifts = range(-60, 61)
    match = [np.corrcoef(spectra[0][60:-60], spectra[1][60 - n : len(frequencies) - 60 - n])[0, 1] for n in shifts]
    assert np.exp(shifts[int(np.argmax(match))] / steps_per_factor) == pytest.approx(TRACTS[2] / TRACTS[1], abs=0.015)
    assert long.seconds == pytest.approx(short.seconds, rel=0.05)


def mean_log_spectrum(wave, frequencies):
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::160] * np.hanning(512)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(0)
    return np.interp(frequencies, np.linspace(0, 8000, 257), np.log(power + 1e-9))


def test_corpus_is_made_once_and_then_found(monkeypatch, tmp_path):
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    recipe = CorpusRecipe("mini", num_train=1, num_search=1, num_dev=1, num_test=1)
    made = synthesis.synthesised_corpus(recipe)
    monkeypatch.setattr(synthesis, "synthesise_corpus", None)
    assert synthesis.synthesised_corpus(recipe).hash == made.hash


def test_failed_shard_leaves_nothing_behind(monkeypatch, tmp_path):
    pytest.importorskip("espeakng_loader")
    plan = [dataclasses.replace(planned, voice="nobody") for planned in plan_split(TINY, "dev")]
    monkeypatch.setattr(synthesis, "plan_split", lambda *_: plan)
    with pytest.raises(FailedError, match=r"shard train-000 failed: .*no voice 'nobody'"):
        synthesise_corpus(TINY, tmp_path / "corpus", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_overwritten(tmp_path):
    pytest.importorskip("espeakng_loader")
    with pytest.raises(ValueError, match="exists; delete it to synthesise the corpus again"):
        synthesise_corpus(TINY, tmp_path)


def test_two_processes_that_make_one_corpus_leave_it_whole(tmp_path):
    with shards.new_corpus(tmp_path / "corpus", "x", {}, {}) as slower:
        (slower / "shard").touch()
        with shards.new_corpus(tmp_path / "corpus", "x", {}, {}) as faster:
            (faster / "shard").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["corpus.json", "shard"]
