"""LibriSpeech's layout: who reads what is found, and what is missing or broken is named."""

import numpy as np
import pytest
import soundfile

from speech_data.librispeech import TRAIN_SHARES, open_librispeech


def write_chapter(root, part, speaker, chapter, texts, seconds=0.3):
    folder = root / part / speaker / chapter
    folder.mkdir(parents=True)
    rng = np.random.default_rng(int(speaker + chapter))
    stems = [f"{speaker}-{chapter}-{i:04d}" for i in range(len(texts))]
    for stem in stems:
        soundfile.write(folder / f"{stem}.flac", 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
    lines = "".join(f"{stem} {text}\n" for stem, text in zip(stems, texts, strict=True))
    (folder / f"{speaker}-{chapter}.trans.txt").write_text(lines)
    return folder


@pytest.fixture
def root(tmp_path):
    home = tmp_path / "LibriSpeech"
    for chapter in range(8):
        write_chapter(
            home, "train-clean-100", "103", str(1240 + chapter), [f"CHAPTER ONE'S LINE {i}" for i in range(10)]
        )
    write_chapter(home, "dev-clean", "84", "121123", ["GO ON", "DO YOU HEAR"])
    write_chapter(home, "test-clean", "1089", "134686", ["HE HOPED"])
    return home


def test_readers_and_texts_are_found_in_our_splits(root):
    corpus = open_librispeech(root, allow_test=True)
    first, second = corpus.utterances("dev")
    assert (first.id, first.speaker, first.text) == ("dev-clean/84/121123/84-121123-0000.flac", "84", "go on")
    assert second.text == "do you hear"
    (held_out,) = corpus.utterances("test")
    assert (held_out.speaker, held_out.text) == ("1089", "he hoped")
    assert corpus.utterances("train")[0].text == "chapter one's line 0"
    assert corpus.name == "LibriSpeech"
    assert corpus.skipped == ()
    assert corpus.read(held_out).shape == (4800,)


def test_search_is_a_fixed_share_of_the_train_utterances(root):
    corpus = open_librispeech(root)
    ids = {split: {utterance.id for utterance in corpus.utterances(split)} for split in ("train", "search")}
    assert not ids["train"] & ids["search"]
    assert len(ids["train"]) + len(ids["search"]) == 80
    assert 1 <= len(ids["search"]) <= 4 * TRAIN_SHARES["search"] * 80 / 100
    write_chapter(root, "train-clean-360", "200", "1", ["MORE"])
    assert ids["search"] <= {utterance.id for utterance in open_librispeech(root).utterances("search")}


def test_test_is_refused_unless_opened_for_it(root):
    with pytest.raises(ValueError, match="test split is read once, by evaluate"):
        open_librispeech(root).utterances("test")
    (held_out,) = open_librispeech(root, allow_test=True).utterances("test")
    with pytest.raises(ValueError, match="is not an utterance of LibriSpeech"):
        open_librispeech(root).read(held_out)


def test_parent_of_the_folder_will_do(root):
    assert open_librispeech(root.parent).hash == open_librispeech(root).hash


@pytest.mark.parametrize("part", ["train-clean-100", "dev-clean"])
def test_missing_part_is_named(root, part):
    (root / part).rename(root / "elsewhere")
    with pytest.raises(
        ValueError, match=rf"LibriSpeech needs {part}.*: there is no such folder in .*LibriSpeech; unpack"
    ):
        open_librispeech(root)


def test_missing_test_part_matters_to_evaluation_alone(root):
    (root / "test-clean").rename(root / "elsewhere")
    assert len(open_librispeech(root).utterances("dev")) == 2
    with pytest.raises(ValueError, match="LibriSpeech needs test-clean"):
        open_librispeech(root, allow_test=True)


def test_folder_that_is_something_else_says_what_is_expected(tmp_path):
    with pytest.raises(
        ValueError, match="needs train-clean-100 or train-clean-360 or train-other-500: there is no such"
    ):
        open_librispeech(tmp_path / "nothing")


def test_what_cannot_be_used_is_named_with_its_reason(root):
    chapter = root / "dev-clean" / "84" / "121123"
    (chapter / "84-121123-0000.flac").write_bytes(b"no audio")
    soundfile.write(chapter / "84-121123-0007.flac", np.ones(8000) / 2, 16_000)
    with (chapter / "84-121123.trans.txt").open("a") as transcript:
        transcript.write("84-121123-0005 NOT THERE\n84-121123-0006\n\n")
    bare = root / "dev-clean" / "85" / "1"
    bare.mkdir(parents=True)
    soundfile.write(bare / "85-1-0000.flac", np.ones(8000) / 2, 16_000)
    corpus = open_librispeech(root)
    assert [utterance.text for utterance in corpus.utterances("dev")] == ["do you hear"]
    reasons = {skipped.path: skipped.reason for skipped in corpus.skipped}
    place = "dev-clean/84/121123"
    assert reasons.pop(f"{place}/84-121123-0000.flac").startswith("cannot be decoded")
    assert reasons == {
        f"{place}/84-121123-0005.flac": "is in 84-121123.trans.txt and does not exist",
        f"{place}/84-121123-0007.flac": "has no text in 84-121123.trans.txt",
        f"{place}/84-121123.trans.txt:4": "holds no text",
        "dev-clean/85/1/85-1.trans.txt": "cannot be read: No such file or directory",
        "dev-clean/85/1/85-1-0000.flac": "has no text in 85-1.trans.txt",
    }


def test_nothing_usable_says_why(tmp_path):
    for part in ("train-clean-100", "dev-clean"):
        folder = write_chapter(tmp_path, part, "1", "2", ["A"])
        (folder / "1-2-0000.flac").write_bytes(b"")
    with pytest.raises(ValueError, match=r"nothing in .* can be used:\n  dev-clean/1/2/1-2-0000\.flac is empty\n"):
        open_librispeech(tmp_path)


def test_long_utterances_stay_whole_with_their_text(root):
    write_chapter(root, "dev-clean", "86", "1", ["A LONG ONE"], seconds=33)
    long_one = open_librispeech(root).utterances("dev")[-1]
    assert (long_one.seconds, long_one.text) == (33, "a long one")
