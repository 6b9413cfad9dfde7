"""Speech Commands' layout: twelve classes, speakers apart, and what is missing or broken named."""

import re
from collections import Counter

import numpy as np
import pytest
import soundfile

from speech_data.grammar import KEYWORD_CLASSES, KEYWORDS, NO_WORD, UNKNOWN_WORD
from speech_data.speech_commands import open_speech_commands

OTHERS = ("bed", "bird", "cat")
SPEAKERS = {
    "train": [f"aa{i:02d}" for i in range(4)],
    "validation": [f"bb{i:02d}" for i in range(6)],
    "testing": [f"cc{i:02d}" for i in range(3)],
}


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for word in (*KEYWORDS, *OTHERS):
        (tmp_path / word).mkdir()
        for speaker in [name for names in SPEAKERS.values() for name in names]:
            soundfile.write(tmp_path / word / f"{speaker}_nohash_0.wav", 0.1 * rng.standard_normal(3200), 16_000)
    for name in ("validation", "testing"):
        listed = [f"{word}/{speaker}_nohash_0.wav" for word in (*KEYWORDS, *OTHERS) for speaker in SPEAKERS[name]]
        (tmp_path / f"{name}_list.txt").write_text("\n".join(listed) + "\n")
    (tmp_path / "_background_noise_").mkdir()
    for name, seconds in (("tap", 21.5), ("pink", 20.0)):
        ramp = np.linspace(-0.5, 0.5, round(16_000 * seconds))
        soundfile.write(tmp_path / "_background_noise_" / f"{name}.wav", ramp, 16_000)
    (tmp_path / "_background_noise_" / "README.md").write_text("noises")
    return tmp_path


def everything(corpus):
    return {split: corpus.utterances(split) for split in ("train", "search", "dev", "test")}


def test_words_have_their_class_text_and_speaker(root):
    corpus = open_speech_commands(root, allow_test=True)
    by_id = {utterance.id: utterance for utterances in everything(corpus).values() for utterance in utterances}
    yes = by_id["yes/aa01_nohash_0.wav"]
    assert (yes.text, yes.intent, yes.speaker) == ("yes", "yes", "aa01")
    unknown = [utterance for utterance in by_id.values() if utterance.intent == UNKNOWN_WORD]
    assert {utterance.text for utterance in unknown} <= set(OTHERS)
    assert {utterance.intent for utterance in by_id.values()} == set(KEYWORD_CLASSES)
    assert corpus.skipped == ()


def test_splits_follow_the_lists_and_share_no_speaker(root):
    corpus = open_speech_commands(root, allow_test=True)
    speakers = {split: {u.speaker for u in own if u.speaker} for split, own in everything(corpus).items()}
    assert speakers["train"] == set(SPEAKERS["train"])
    assert speakers["test"] == set(SPEAKERS["testing"])
    assert speakers["search"] | speakers["dev"] == set(SPEAKERS["validation"])
    assert speakers["search"]
    assert speakers["dev"]
    assert not speakers["search"] & speakers["dev"]


def test_classes_are_balanced_in_every_split(root):
    corpus = open_speech_commands(root, allow_test=True)
    for split, utterances in everything(corpus).items():
        counts = Counter(utterance.intent for utterance in utterances)
        assert len({counts[word] for word in KEYWORDS}) == 1
        assert counts[UNKNOWN_WORD] == counts["yes"], split
        assert 1 <= counts[NO_WORD] <= counts["yes"]
    again = open_speech_commands(root, allow_test=True)
    assert everything(again) == everything(corpus)
    assert again.hash == corpus.hash


def test_silences_are_seconds_of_noise_that_no_two_splits_share(root):
    corpus = open_speech_commands(root, allow_test=True)
    seen = []
    for utterances in everything(corpus).values():
        for utterance in utterances:
            if utterance.intent != NO_WORD:
                continue
            assert (utterance.text, utterance.speaker, utterance.num_samples) == ("", None, 16_000)
            name, start, length = re.fullmatch(r"(.*)@(\d+)\+(\d)", utterance.id).groups()
            assert length == "1"
            noise, _ = soundfile.read(root / name)
            first = int(start) * 16_000
            np.testing.assert_allclose(corpus.read(utterance), noise[first : first + 16_000], atol=1e-4)
            seen.append(utterance.id)
    assert len(seen) == len(set(seen)) >= 8


def test_test_is_refused_unless_opened_for_it(root):
    with pytest.raises(ValueError, match="test split is read once, by evaluate"):
        open_speech_commands(root).utterances("test")
    held_out = open_speech_commands(root, allow_test=True).utterances("test")[0]
    with pytest.raises(ValueError, match="is not an utterance of Speech Commands"):
        open_speech_commands(root).read(held_out)


@pytest.mark.parametrize("part", ["validation_list.txt", "testing_list.txt", "_background_noise_", "left"])
def test_missing_part_is_named(root, part):
    (root / part).rename(root / "elsewhere")
    with pytest.raises(
        ValueError, match=rf"Speech Commands needs the (file|folder) {part}, which .* has not; give the"
    ):
        open_speech_commands(root)


def test_what_cannot_be_used_is_named_with_its_reason(root):
    (root / "yes" / "aa00_nohash_0.wav").write_bytes(b"no audio")
    (root / "go" / "bb00_nohash_0.wav").unlink()
    (root / "_background_noise_" / "bad.wav").write_bytes(b"")
    soundfile.write(root / "_background_noise_" / "brief.wav", np.linspace(-1, 1, 8000), 16_000)
    corpus = open_speech_commands(root)
    reasons = {skipped.path: skipped.reason for skipped in corpus.skipped}
    assert reasons.pop("yes/aa00_nohash_0.wav").startswith("cannot be decoded")
    assert reasons == {
        "go/bb00_nohash_0.wav": "is in validation_list.txt and does not exist",
        "_background_noise_/bad.wav": "is empty",
        "_background_noise_/brief.wav": "is shorter than a piece of 1 s",
    }
    assert "yes/aa00_nohash_0.wav" not in {utterance.id for utterance in corpus.utterances("train")}


def test_recordings_without_a_speaker_in_their_name_are_of_nobody(root):
    (root / "no" / "aa00_nohash_0.wav").rename(root / "no" / "mine.wav")
    by_id = {utterance.id: utterance for utterance in open_speech_commands(root).utterances("train")}
    assert by_id["no/mine.wav"].speaker is None


def test_nothing_usable_says_why(root):
    for file in root.glob("*/*.wav"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"nothing in .* can be used:\n  _background_noise_/pink\.wav is empty"):
        open_speech_commands(root)
