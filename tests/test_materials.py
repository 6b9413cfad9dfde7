"""What tasks read may be read in `test` only when test is scored; what is wrong with a folder is said shortly."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from speech_data import flite
from speech_data.grammar import KEYWORDS
from speech_tasks import materials
from speech_tasks.materials import MAX_NAMED, open_materials
from speech_tasks.speakers import Speakers
from speech_tasks.task import IN_DOMAIN, ON_DEV, OUT_OF_DOMAIN
from tests.evaluation_cases import use_tiny_audio, write_cache

SYNTHESISE = flite.synthesise_test


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def tiny(monkeypatch, cache):
    use_tiny_audio(monkeypatch, cache)


def write_sound(path, seconds=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list("/".join(path.parts[-2:]).encode()))
    soundfile.write(path, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)


def write_librispeech(folder):
    """Forty utterances to train on, two of them for `search`; two of dev, two of test."""
    for part, speaker, count in (("train-clean-100", "103", 40), ("dev-clean", "84", 2), ("test-clean", "61", 2)):
        chapter = folder / part / speaker / "1"
        stems = [f"{speaker}-1-{60 + i:04d}" for i in range(count)]
        for stem in stems:
            write_sound(chapter / f"{stem}.flac")
        (chapter / f"{speaker}-1.trans.txt").write_text("".join(f"{stem} GO ON\n" for stem in stems))
    return folder


def write_speech_commands(folder):
    speakers = {"train": ["aa00", "aa01"], "validation": [f"bb{i:02d}" for i in range(6)], "testing": ["cc00"]}
    words = (*KEYWORDS, "bed")
    for word in words:
        for speaker in (name for names in speakers.values() for name in names):
            write_sound(folder / word / f"{speaker}_nohash_0.wav")
    for name in ("validation", "testing"):
        listed = [f"{word}/{speaker}_nohash_0.wav" for word in words for speaker in speakers[name]]
        (folder / f"{name}_list.txt").write_text("\n".join(listed))
    write_sound(folder / "_background_noise_" / "pink.wav", 20)
    return folder


# What is opened


def test_test_may_be_read_only_where_it_is_scored():
    scored = open_materials(["sentences", "keywords"])
    assert list(scored) == ["sentences", "keywords"]
    for material in scored.values():
        assert material.scored == "test"
        assert material.rendition == "noisy"
        assert material.tests.allow_test
        assert not material.corpus.allow_test
        assert list(material.scored_sets()) == [IN_DOMAIN, OUT_OF_DOMAIN]
    dev = open_materials(["sentences"], scored="dev")["sentences"]
    assert dev.other is None
    assert not dev.corpus.allow_test
    assert [clip.utterance.id[:3] for clip in dev.scored_sets()[IN_DOMAIN]] == ["dev"] * 20
    with pytest.raises(ValueError, match="the test split is read once"):
        dev.clips("test")
    assert not open_materials(["voices"], scored="dev")["voices"].corpus.allow_test  # which has its own test
    assert open_materials(["voices"])["voices"].corpus.allow_test


def test_test_is_said_by_a_crowd_of_its_own():
    """What encoders and heads learn from stays as it is; other splits do not wait for a crowd."""
    scored = open_materials(["sentences", "keywords", "commands", "voices"], scored="both")
    heard = {
        name: {condition: {clip.corpus.name for clip in clips} for condition, clips in material.scored_sets().items()}
        for name, material in scored.items()
    }
    for name in ("sentences", "keywords", "commands"):
        assert heard[name][IN_DOMAIN] == {f"nestling-tiny-{name}-test"}
        assert heard[name][ON_DEV] == {f"nestling-tiny-{name}"}
        assert {clip.corpus.name for clip in scored[name].clips("train")} == {f"nestling-tiny-{name}"}
    assert heard["voices"][IN_DOMAIN] == {"nestling-tiny-voices"}
    assert open_materials(["sentences"], scored="dev")["sentences"].tests is None


def test_both_splits_are_scored_by_the_same_heads():
    both, alone = (open_materials(["sentences"], scored=scored)["sentences"] for scored in ("both", "test"))
    sets, tests = (
        {condition: [clip.key for clip in clips] for condition, clips in material.scored_sets().items()}
        for material in (both, alone)
    )
    assert list(sets) == [IN_DOMAIN, OUT_OF_DOMAIN, ON_DEV]
    assert {name[:3] for _, name, *_ in sets.pop(ON_DEV)} == {"dev"}
    assert sets == tests
    voices = open_materials(["voices"], scored="both")["voices"]
    assert [c.split()[-1] for c in Speakers(voices).labelled.scored] == ["domain", "dev"]


@pytest.mark.parametrize("scored", ["train", "search", "tset"])
def test_no_other_split_is_scored(scored):
    with pytest.raises(
        ValueError, match=f"^scores are of test, dev, both; got '{scored}': heads are fitted on the other"
    ):
        open_materials(["sentences"], scored=scored)


def test_the_second_corpus_is_of_the_same_material():
    found = open_materials(["keywords", "voices"])
    assert [material.other.name for material in found.values()] == [
        "nestling-tiny-flite-keywords",
        "nestling-tiny-flite-voices",
    ]
    assert open_materials(["keywords"], out_of_domain=False)["keywords"].other is None


def test_without_flite_nothing_is_out_of_domain(monkeypatch, tmp_path):
    cache = write_cache(tmp_path)
    for folder in (cache / "corpora").glob("*flite*"):
        shutil.rmtree(folder)
    monkeypatch.setenv("NESTLING_CACHE", str(cache))
    monkeypatch.setattr(flite, "synthesise_test", SYNTHESISE)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = []
    found = open_materials(["sentences", "keywords"], say=said.append)
    assert [material.other for material in found.values()] == [None, None]
    assert said == [f"nothing is scored out of domain: {flite.INSTALL_HINT}"]
    assert "apt-get install flite" in said[0]
    open_materials(["sentences"], scored="dev", say=said.append)
    open_materials(["sentences"], out_of_domain=False, say=said.append)
    assert len(said) == 1  # nobody asked for it


def test_it_is_said_what_is_synthesised_and_how_far(monkeypatch):
    def synthesise(*_, on_progress=lambda *_: None, **__):
        on_progress(1, 2)

    monkeypatch.setattr(materials, "synthesised_corpus", synthesise)
    monkeypatch.setattr(materials, "flite_corpus", synthesise)
    said = []
    open_materials(["sentences", "voices"], on_progress=lambda *now: said.append(now))
    assert said == [
        (f"synthesise {what}", 1, 2)
        for what in ("sentences", "voices", "sentences of test", "other sentences", "other voices")
    ]


# Recordings of people


def test_recordings_take_the_place_of_speech_that_is_made(tmp_path):
    said = []
    found = open_materials(
        ["sentences", "keywords", "voices"],
        librispeech=write_librispeech(tmp_path / "LibriSpeech"),
        speech_commands=write_speech_commands(tmp_path / "commands"),
        say=said.append,
    )
    assert {name: material.corpus.name for name, material in found.items()} == {
        "sentences": "LibriSpeech",
        "keywords": "Speech Commands",
        "voices": "nestling-tiny-voices",
    }
    assert [material.rendition for material in found.values()] == ["clean", "clean", "noisier"]
    assert [material.other is None for material in found.values()] == [True, True, False]
    assert len(found["sentences"].clips("test")) == 2
    assert {clip.utterance.speaker for clip in found["keywords"].clips("test") if clip.utterance.speaker} == {"cc00"}
    assert said == []


def test_recordings_of_test_are_not_heard_when_dev_is_scored(tmp_path):
    folder = write_librispeech(tmp_path / "LibriSpeech")
    found = open_materials(["sentences"], scored="dev", librispeech=folder)["sentences"]
    assert len(found.scored_sets()[IN_DOMAIN]) == 2
    with pytest.raises(ValueError, match="the test split is read once"):
        found.corpus.utterances("test")


def test_a_folder_that_no_task_wants_is_not_read(tmp_path):
    said = []
    found = open_materials(["keywords"], librispeech=tmp_path / "nowhere", say=said.append)
    assert found["keywords"].corpus.name == "nestling-tiny-keywords"
    assert said == [f"{tmp_path / 'nowhere'} is not read: none of the tasks wants sentences"]


def complaint(max_lines=1, **options):
    """What is said of a folder before anything is synthesised."""
    progress = []
    with pytest.raises(ValueError, match=r"LibriSpeech|Speech Commands|commands") as caught:
        open_materials(["voices", "sentences", "keywords"], on_progress=lambda *a: progress.append(a), **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= max_lines
    assert max(map(len, message.splitlines())) < 300
    assert not [name for name, *_ in progress if name.startswith("synthesise")]
    return message


def test_a_folder_that_is_missing_is_named(tmp_path):
    place = tmp_path / "none"
    assert complaint(librispeech=place) == (
        "LibriSpeech needs train-clean-100 or train-clean-360 or train-other-500: there is no such folder in "
        f"{place}; unpack its archive there"
    )
    assert f"which {place} has not" in complaint(speech_commands=place)


@pytest.mark.parametrize("part", ["dev-clean", "test-clean", "train-clean-100"])
def test_a_part_that_is_missing_is_named(tmp_path, part):
    folder = write_librispeech(tmp_path / "LibriSpeech")
    shutil.rmtree(folder / part)
    assert part in complaint(librispeech=folder)


@pytest.mark.parametrize("part", ["yes", "testing_list.txt", "_background_noise_"])
def test_a_part_of_speech_commands_that_is_missing_is_named(tmp_path, part):
    folder = write_speech_commands(tmp_path / "commands")
    (folder / part).rename(tmp_path / "elsewhere")
    assert f" {part}, which {folder} has not" in complaint(speech_commands=folder)


def test_a_folder_of_broken_files_is_refused(tmp_path):
    folder = write_librispeech(tmp_path / "LibriSpeech")
    for path in folder.rglob("*.flac"):
        path.write_bytes(b"fLaC")
    first, *named, more = complaint(max_lines=MAX_NAMED + 2, librispeech=folder).splitlines()
    assert first == f"nothing in {folder} can be used:"
    assert all(".flac cannot be decoded" in line for line in named)
    assert more == f"  and {44 - len(named)} more"


def test_files_that_are_broken_are_named_and_counted(tmp_path):
    folder, said = write_librispeech(tmp_path / "LibriSpeech"), []
    broken = sorted(folder.glob("train-clean-100/*/*/*.flac"))[: MAX_NAMED + 2]
    for path in broken:
        path.write_bytes(b"fLaC")
    found = open_materials(["sentences"], librispeech=folder, say=said.append)["sentences"]
    assert len(found.clips("train")) + len(found.clips("search")) == 40 - MAX_NAMED - 2
    assert len(said) == MAX_NAMED + 1
    for line, path in zip(said[:-1], broken, strict=False):
        assert line.startswith(f"skipped {path.relative_to(folder).as_posix()}: ")
    assert said[-1] == "… and 2 more"
