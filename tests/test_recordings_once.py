"""A recording is its samples: whatever it is called and however it is listed, it counts once and is in one split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_data.folder import FolderCorpus, open_folder

SPLITS = ("train", "search", "dev")


def noise(seed: int, seconds: float = 0.5, rate: int = 16_000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate)).clip(-5, 5)


def write(path: Path, wave: np.ndarray, rate: int = 16_000, **rest: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **rest)
    return path


def write_others(folder: Path) -> None:
    for i in range(40):
        write(folder / f"other-{i}.wav", noise(i))


def listed(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ids(corpus: FolderCorpus) -> dict[str, list[str]]:
    return {split: [u.id for u in corpus.utterances(split)] for split in SPLITS}


def reasons(corpus: FolderCorpus) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in corpus.skipped}


def test_one_file_spelled_in_many_ways_is_one_recording(tmp_path):
    write_others(tmp_path / "audio")
    write(tmp_path / "a.wav", noise(100))
    (tmp_path / "linked").symlink_to(tmp_path / "audio")
    (tmp_path / "b.wav").symlink_to("a.wav")
    spellings = ["a.wav", "./a.wav", "audio/../a.wav", ".//a.wav", str(tmp_path / "a.wav"), "b.wav"]
    others = [path.format(i) for i in range(40) for path in ("audio/other-{}.wav", "linked/other-{}.wav")]
    corpus = open_folder(listed(tmp_path / "list.jsonl", *({"audio_filepath": path} for path in spellings + others)))
    assert sorted(name for names in ids(corpus).values() for name in names) == sorted(
        ["a.wav", *(f"audio/other-{i}.wav" for i in range(40))]
    )
    assert len(corpus.skipped) == 5 + 40
    assert {skipped.reason for skipped in corpus.skipped if skipped.path == "a.wav"} == {
        "is listed twice, first as a.wav"
    }


def test_copies_are_one_recording_whatever_they_are_called_and_stored_as(tmp_path):
    for i in range(30):
        first = write(tmp_path / f"{i}.wav", noise(i))
        for j in range(3):
            (tmp_path / f"copies-{j}").mkdir(exist_ok=True)
            shutil.copy(first, tmp_path / f"copies-{j}" / f"{i}.wav")
        samples, rate = soundfile.read(first, dtype="int16")
        write(tmp_path / "lossless" / f"{i}.flac", samples, rate)
        write(tmp_path / "wider" / f"{i}.wav", samples.astype(np.int32) << 16, rate, subtype="PCM_24")
    corpus = open_folder(tmp_path)
    assert sorted(name for names in ids(corpus).values() for name in names) == sorted(f"{i}.wav" for i in range(30))
    assert len(corpus.skipped) == 5 * 30
    assert reasons(corpus)["copies-2/7.wav"] == "holds the same audio as 7.wav"
    assert reasons(corpus)["lossless/7.flac"] == "holds the same audio as 7.wav"


def test_another_name_changes_neither_split_nor_hash(tmp_path):
    write_others(tmp_path / "one")
    for i in range(40):
        write(tmp_path / "two" / "deeper" / f"{i:02}-renamed.wav", noise(sorted(range(40), key=str)[i]))
    one, two = open_folder(tmp_path / "one"), open_folder(tmp_path / "two")
    for split in SPLITS:
        heard = [[corpus.read(u).tobytes() for u in corpus.utterances(split)] for corpus in (one, two)]
        assert heard[0] == heard[1], split
    assert one.hash == two.hash


def test_parts_that_differ_in_length_or_by_microseconds_are_different(tmp_path):
    wave = noise(0, 120, 4000)
    write(tmp_path / "a.wav", wave, 4000, subtype="FLOAT")
    parts = [(100.0001, 1.0), (100.0004, 1.0), (100.0004, 2.0), (100.0004, None), (None, 3.0), (None, 4.0)]
    lines = [{"audio_filepath": "a.wav", "offset": offset, "duration": length} for offset, length in parts]
    again = [{"audio_filepath": "./a.wav", "offset": 100.00040001, "duration": 2}]
    corpus = open_folder(listed(tmp_path / "list.jsonl", *lines, *again))
    kept = corpus.utterances("train")
    assert [round(u.num_samples / 4) for u in kept] == [4000, 4000, 8000, 80_000 - 2, 12_000, 16_000]
    assert len({u.id for u in kept}) == len(parts)
    assert kept[1].id == "a.wav@100.0004+1"
    assert reasons(corpus) == {"a.wav@100.00040001+2": "is listed twice, first as a.wav@100.0004+2"}
    assert not np.array_equal(corpus.read(kept[0]), corpus.read(kept[1]))


def test_what_is_in_two_given_splits_stays_where_it_is_judged(tmp_path):
    for split, seeds in {"train": (0, 1, 2, 3), "search": (1, 4), "dev": (2, 4), "test": (3, 5)}.items():
        for seed in seeds:
            write(tmp_path / split / f"{seed}-in-{split}.wav", noise(seed))
    corpus = open_folder(splits={split: tmp_path / split for split in ("train", "search", "dev", "test")})
    assert ids(corpus) == {
        "train": ["train/0-in-train.wav"],
        "search": ["search/1-in-search.wav"],
        "dev": ["dev/2-in-dev.wav", "dev/4-in-dev.wav"],
    }
    assert reasons(corpus) == {
        "search/4-in-search.wav": "holds the same audio as dev/4-in-dev.wav",
        "train/1-in-train.wav": "holds the same audio as search/1-in-search.wav",
        "train/2-in-train.wav": "holds the same audio as dev/2-in-dev.wav",
        "train/3-in-train.wav": "holds the same audio as test/3-in-test.wav",
    }


def test_given_splits_share_no_part_of_a_recording(tmp_path):
    """Not even where lengths are rounded: 1.0 s of 1.008 s; splits may meet, and a word may be cut in between."""
    write(tmp_path / "a.wav", noise(0, 1.008))
    write(tmp_path / "copy.wav", noise(0, 1.008))
    write(tmp_path / "b.wav", noise(1, 2.0))
    parts = {
        "test": [("a.wav", 0, 1.0), ("b.wav", 0, 0.5)],
        "dev": [("copy.wav", 0.3, 0.4), ("b.wav", 0.46, 0.5), ("b.wav", 0.7, 0.5)],
        "train": [("a.wav", 0, None), ("b.wav", 0.9, 0.2), ("b.wav", 1.2, 0.5), ("b.wav", 1.4, 0.5)],
    }
    lines = {
        split: [{"audio_filepath": name, "offset": offset, "duration": length} for name, offset, length in listed_here]
        for split, listed_here in parts.items()
    }
    splits = {split: listed(tmp_path / f"{split}.jsonl", *given) for split, given in lines.items()}
    corpus = open_folder(splits=splits, allow_test=True)
    assert {split: [u.id for u in corpus.utterances(split)] for split in splits} == {
        "test": ["test/a.wav@0+1", "test/b.wav@0+0.5"],
        "dev": ["dev/b.wav@0.46+0.5", "dev/b.wav@0.7+0.5"],
        "train": ["train/b.wav@1.2+0.5", "train/b.wav@1.4+0.5"],
    }
    assert reasons(corpus) == {
        "dev/copy.wav@0.3+0.4": "shares audio with test/a.wav@0+1",
        "train/a.wav": "shares audio with test/a.wav@0+1",
        "train/b.wav@0.9+0.2": "shares audio with dev/b.wav@0.46+0.5",
    }


# The hash of a corpus


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("wav", "GSM610")])
def test_hash_follows_every_sample(tmp_path, suffix, subtype):
    wave = noise(0, 2)
    first = open_folder(write(tmp_path / "one" / f"a.{suffix}", wave, subtype=subtype)).hash
    assert open_folder(write(tmp_path / "two" / f"b.{suffix}", wave, subtype=subtype)).hash == first
    for at in (0, 16_000, 31_000):
        changed = wave.copy()
        changed[at] += 0.3
        assert open_folder(write(tmp_path / f"{at}" / f"a.{suffix}", changed, subtype=subtype)).hash != first, at


def test_hash_follows_labels_and_order_and_not_how_paths_are_spelled(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.wav", noise(i))
    (tmp_path / "link").symlink_to(tmp_path)

    def hash_of(*lines: dict[str, object]) -> str:
        return open_folder(splits={"train": listed(tmp_path / "list.jsonl", *lines)}).hash

    plain = [{"audio_filepath": f"{i}.wav", "text": "go"} for i in range(3)]
    first = hash_of(*plain)
    for spelling in ("./{}.wav", "link/{}.wav", str(tmp_path / "{}.wav")):
        assert hash_of(*({"audio_filepath": spelling.format(i), "text": "go"} for i in range(3))) == first
    others = [
        hash_of(*plain[:2]),
        hash_of(*plain[::-1]),
        hash_of(*plain[:2], {**plain[2], "text": "stop"}),
        hash_of(*plain[:2], {**plain[2], "speaker": "ann"}),
        hash_of(*plain[:2], {**plain[2], "duration": 0.4}),
    ]
    assert len({first, *others}) == 6
