"""A user's own audio: what is bad is named with a reason, what is good is read right."""

import json
import os
import struct

import numpy as np
import pytest
import soundfile

from speech_data import folder as folder_module
from speech_data.corpus import Utterance
from speech_data.folder import _divide_by_content, _Piece, open_folder
from speech_data.plans import split_of_sentence
from speech_data.splits import place_of, place_of_name, split_at


def tone(seconds=0.5, rate=16_000, hertz=440.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, wave=None, rate=16_000, **rest):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if wave is None else wave, rate, **rest)
    return path


def edited(path, position, replacement):
    """The file with some of its bytes replaced."""
    content = bytearray(path.read_bytes())
    content[position : position + len(replacement)] = replacement
    path.write_bytes(content)


def cut(path, num_bytes):
    path.write_bytes(path.read_bytes()[:num_bytes])


def with_sample(value):
    wave = tone()
    wave[4000] = value
    return wave


BAD_FILES = {
    "empty.wav": (lambda path: path.touch(), "is empty"),
    "text.wav": (lambda path: path.write_text("hello"), "cannot be decoded: Format not recognised"),
    "header_only.wav": (lambda path: write(path, tone(0)), "holds no samples"),
    "cut_in_header.wav": (
        lambda path: (write(path), cut(path, 30)),
        "is cut short, or its header is damaged: 30 of 16,044 bytes",
    ),
    "cut.wav": (lambda path: (write(path), cut(path, 9000)), "is cut short: 9,000 of 16,044 bytes"),
    "cut.flac": (lambda path: (write(path), cut(path, 3000)), "cannot be decoded"),
    "damaged.flac": (lambda path: (write(path), edited(path, 4000, bytes(200))), "cannot be decoded"),
    "lying.flac": (lambda path: (write(path), edited(path, 22, b"\xff\xff\xff\xff")), "promises 4294967295 samples"),
    "nan.wav": (
        lambda path: write(path, with_sample(np.nan), subtype="FLOAT"),
        "holds NaN or infinite samples, the first at 0.25 s",
    ),
    "inf.wav": (
        lambda path: write(path, with_sample(-np.inf), subtype="FLOAT"),
        "holds NaN or infinite samples, the first at 0.25 s",
    ),
    "short.wav": (lambda path: write(path, tone(0.09)), "is too short: 0.090 s, the least is 0.1 s"),
    "constant.wav": (lambda path: write(path, np.full(8000, 0.5)), "is constant: every sample is 0.5"),
    "rate_0.wav": (lambda path: (write(path), edited(path, 24, struct.pack("<I", 0))), "cannot be decoded"),
    "rate_absurd.wav": (
        lambda path: (write(path), edited(path, 24, struct.pack("<I", 10**9))),
        "has a sample rate of 1000000000 Hz; 4000 to 384000 can be used",
    ),
    "channels.wav": (
        lambda path: (write(path), edited(path, 22, struct.pack("<H", 600))),
        "has 600 channels; at most 16 can be mixed down",
    ),
    "folder.wav": (lambda path: path.mkdir(), "is a folder"),
    "pipe.wav": (os.mkfifo, "is no file"),
    "dangling.wav": (lambda path: path.symlink_to("elsewhere"), "is a link to nowhere: elsewhere"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_skipped_with_its_reason(tmp_path, name):
    make, reason = BAD_FILES[name]
    make(tmp_path / name)
    write(tmp_path / "good.wav")
    corpus = open_folder(tmp_path)
    assert [utterance.id for utterance in corpus.utterances("train")] == ["good.wav"]
    (skipped,) = corpus.skipped
    assert skipped.path == name
    assert skipped.reason.startswith(reason)
    assert str(tmp_path) not in skipped.reason


def test_every_mutant_of_a_header_is_read_or_skipped(tmp_path):
    """No header may end in another error than a reason."""
    rng = np.random.default_rng(0)
    for i in range(150):
        path = write(tmp_path / f"{i}.{'flac' if i % 2 else 'wav'}", tone(0.2))
        for position in rng.integers(0, 60, size=3):
            edited(path, int(position), bytes([rng.integers(256)]))
    write(tmp_path / "good.wav")
    corpus = open_folder(tmp_path)
    kept = [utterance for split in ("train", "search", "dev") for utterance in corpus.utterances(split)]
    assert len({utterance.id.split("#")[0] for utterance in kept}) + len(corpus.skipped) == 151
    for utterance in kept:
        assert np.isfinite(corpus.read(utterance)).all()


def test_nothing_usable_says_why(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.wav").touch()
    with pytest.raises(ValueError, match=r"can be used:\n  0\.wav is empty\n(.*\n){3}  and 3 more"):
        open_folder(tmp_path)


def test_folder_without_audio_says_what_it_holds(tmp_path):
    (tmp_path / "a.m4a").touch()
    (tmp_path / "b.m4a").touch()
    with pytest.raises(
        ValueError, match=r"holds no wav, flac, mp3, ogg or opus file \(it holds 2 × \.m4a\); convert it to flac"
    ):
        open_folder(tmp_path)
    with pytest.raises(ValueError, match="neither a folder of audio nor a manifest"):
        open_folder(tmp_path / "nothing")


def test_audio_of_other_kinds_is_named(tmp_path):
    write(tmp_path / "good.wav")
    for name in ("a.m4a", "b/c.WMA", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    assert [(skipped.path, skipped.reason) for skipped in open_folder(tmp_path).skipped] == [
        ("a.m4a", "is .m4a; convert it to flac or wav"),
        ("b/c.WMA", "is .wma; convert it to flac or wav"),
    ]


def test_any_rate_and_number_of_channels_becomes_16_khz_mono(tmp_path):
    left = tone(1.0, 44_100)
    write(tmp_path / "stereo.flac", np.stack([left, np.zeros_like(left)], axis=1), 44_100)
    corpus = open_folder(tmp_path)
    (utterance,) = corpus.utterances("train")
    wave = corpus.read(utterance)
    assert utterance.num_samples == len(wave) == 16_000
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave[200:-200], tone(1.0)[200:-200] / 2, atol=1e-3)


def test_loud_float_files_are_brought_within_range(tmp_path):
    write(tmp_path / "loud.wav", 20_000 * tone(), subtype="FLOAT")
    corpus = open_folder(tmp_path)
    assert np.abs(corpus.read(corpus.utterances("train")[0])).max() == pytest.approx(1)


def test_single_file_is_a_corpus_of_one(tmp_path):
    assert open_folder(write(tmp_path / "a.wav")).utterances("train")[0].id == "a.wav"


def test_files_at_any_depth_and_in_capitals_are_found(tmp_path):
    write(tmp_path / "a" / "b" / "c.WAV")
    assert open_folder(tmp_path).utterances("train")[0].id == "a/b/c.WAV"


def test_long_recordings_are_cut_into_pieces_of_one_split(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 1.0)
    ramps = {name: (i + np.arange(40_000) / 40_000).astype(np.float32) / 4 for i, name in enumerate("abcd")}
    for name, ramp in ramps.items():
        write(tmp_path / f"{name}.wav", ramp, subtype="FLOAT")
    corpus = open_folder(tmp_path)
    for split in ("train", "search", "dev"):
        names = [utterance.id for utterance in corpus.utterances(split)]
        assert sorted(names) == sorted(f"{name[0]}.wav#{i}" for name in {n[0] for n in names} for i in range(3))
        pieces = [corpus.read(utterance) for utterance in corpus.utterances(split)][:3]
        np.testing.assert_array_equal(np.concatenate(pieces), ramps[names[0][0]])
    assert corpus.hours_kept == pytest.approx(4 * 2.5 / 3600)


def test_splits_are_stable_disjoint_and_never_empty_from_three_files_on(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.wav", tone(hertz=440 + i))
    corpus = open_folder(tmp_path)
    assert [len(corpus.utterances(split)) for split in ("train", "search", "dev")] == [1, 1, 1]
    for i in range(3, 60):
        write(tmp_path / f"{i}.wav", tone(hertz=440 + i))
    first, second = open_folder(tmp_path), open_folder(tmp_path)
    ids = {s: [u.id for u in first.utterances(s)] for s in ("train", "search", "dev")}
    assert ids == {s: [u.id for u in second.utterances(s)] for s in ("train", "search", "dev")}
    assert sorted(name for split in ids.values() for name in split) == sorted(f"{i}.wav" for i in range(60))
    assert len(ids["train"]) > 45
    with pytest.raises(ValueError, match="no split 'test' in this corpus"):
        first.utterances("test")


def test_the_first_eight_digits_of_a_hash_place_it():
    assert place_of("00000163" + "f" * 56) == 55  # 0x163 is 355
    assert place_of("ffffffff" + "0" * 56) == 4_294_967_295 % 100


def test_names_and_sentences_are_where_they_always_were():
    places = {"84-121123-0001": 13, "0a7c2a8d": 50, "yes/0a7c2a8d_nohash_0.wav": 98, "": 10}
    assert {name: place_of_name(name) for name in places} == places
    splits = {"turn on the lights": "search", "stop": "test", "yes": "train", "play some music": "dev"}
    assert {text: split_of_sentence(text) for text in splits} == splits


@pytest.mark.parametrize(("place", "split"), [(0, "a"), (4, "a"), (5, "b"), (9, "b"), (10, "c"), (99, "c")])
def test_shares_are_in_order(place, split):
    assert split_at(place, {"a": 5, "b": 5, "c": 90}) == split


@pytest.mark.parametrize(
    ("numbers", "splits"),
    [
        ([704, 309, 210, 99], {"search": [704], "dev": [309], "train": [210, 99]}),  # their place: the last two digits
        ([1, 7], {"search": [], "dev": [], "train": [1, 7]}),  # too few to be divided
        ([90, 350, 250, 150, 620, 80], {"search": [620], "dev": [150], "train": [90, 350, 250, 80]}),
        ([1, 2, 3, 8], {"search": [2, 3], "dev": [8], "train": [1]}),
    ],
)
def test_files_are_divided_by_what_they_hold(tmp_path, numbers, splits):
    """A split that would be empty gets the file of the lowest place, or of the lowest hash among these."""
    pieces = [
        _Piece(Utterance(f"{number}#{i}", None, 1), f"{number:08x}", tmp_path, i, i + 1)
        for number in numbers
        for i in range(2)
    ]
    divided = {split: [piece.utterance.id for piece in pieces] for split, pieces in _divide_by_content(pieces).items()}
    assert divided == {split: [f"{n}#{i}" for n in found for i in range(2)] for split, found in splits.items()}


def test_given_splits_are_taken_and_test_is_refused(tmp_path):
    for split, hertz in (("train", 440), ("test", 441)):
        write(tmp_path / split / "same_name.wav", tone(hertz=hertz))
    splits = {split: tmp_path / split for split in ("train", "test")}
    corpus = open_folder(splits=splits)
    assert corpus.utterances("train")[0].id == "train/same_name.wav"
    with pytest.raises(ValueError, match="test split is read once, by evaluate"):
        corpus.utterances("test")
    (held_out,) = open_folder(splits=splits, allow_test=True).utterances("test")
    with pytest.raises(ValueError, match=r"'test/same_name\.wav' is not an utterance of train\+test"):
        corpus.read(held_out)
    with pytest.raises(ValueError, match="no split is called 'valid'; the splits are train, search, dev, test"):
        open_folder(splits={"valid": tmp_path / "train"})
    with pytest.raises(ValueError, match="either a path or splits"):
        open_folder(tmp_path, splits=splits)


def test_progress_counts_the_files(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.wav")
    seen = []
    open_folder(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_file_changed_after_opening_is_named(tmp_path):
    write(tmp_path / "a.wav")
    corpus = open_folder(tmp_path)
    write(tmp_path / "a.wav", tone(0.2))
    with pytest.raises(ValueError, match=r"a\.wav has changed since it was opened"):
        corpus.read(corpus.utterances("train")[0])


# Manifests


def manifest(tmp_path, *lines):
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_manifest_lists_files_and_parts_with_their_labels(tmp_path):
    ramp = (np.arange(32_000) / 32_000).astype(np.float32)
    write(tmp_path / "audio" / "a.wav", ramp, subtype="FLOAT")
    listed = manifest(
        tmp_path,
        {"audio_filepath": "audio/a.wav", "duration": 2.0, "text": "all of it", "speaker": "ann"},
        {"audio_filepath": "audio/a.wav", "offset": 0.5, "duration": 0.25, "text": "a part"},
        "",
        {"audio_filepath": str(tmp_path / "audio" / "a.wav"), "offset": 1.5},
    )
    corpus = open_folder(listed)
    whole, part, rest = corpus.utterances("train")
    assert (whole.text, whole.speaker, whole.num_samples) == ("all of it", "ann", 32_000)
    assert (part.text, part.speaker) == ("a part", None)
    assert [u.id for u in (whole, part, rest)] == ["audio/a.wav", "audio/a.wav@0.5+0.25", "audio/a.wav@1.5"]
    np.testing.assert_array_equal(corpus.read(part), ramp[8000:12_000])
    np.testing.assert_array_equal(corpus.read(rest), ramp[24_000:])
    assert corpus.skipped == ()


def test_a_speaker_without_a_name_is_nobody_known(tmp_path):
    for i, speaker in enumerate(("ann ", "", " ", None, 7)):
        write(tmp_path / f"{i}.wav", tone(hertz=300 + i))
        with (tmp_path / "list.jsonl").open("a") as listed:
            listed.write(json.dumps({"audio_filepath": f"{i}.wav", "speaker": speaker}) + "\n")
    corpus = open_folder(splits={"train": tmp_path / "list.jsonl"})
    assert [u.speaker for u in corpus.utterances("train")] == ["ann", None, None, None, "7"]


PHONES = [["sil", 0, 0.1], ["a", 0.1, 0.3], ["sil", 0.3, 0.5]]


def test_a_manifest_may_say_language_intent_and_timed_phones(tmp_path):
    write(tmp_path / "a.wav", tone(1.0))
    line = {"audio_filepath": "a.wav", "offset": 0.5, "language": "ru", "intent": "stop", "phones": PHONES}
    corpus = open_folder(manifest(tmp_path, line, {"audio_filepath": "a.wav", "duration": 0.5}))
    said, plain = corpus.utterances("train")
    assert (said.language, said.intent) == ("ru", "stop")
    assert said.phones == (("sil", 0.0, 0.1), ("a", 0.1, 0.3), ("sil", 0.3, 0.5))
    assert corpus.phones == ("a", "sil")
    assert (plain.language, plain.intent, plain.phones) == (None, None, ())


def test_labels_are_in_the_hash_and_those_that_are_not_there_are_no_keys(tmp_path):
    write(tmp_path / "a.wav")
    hashes = [
        open_folder(manifest(tmp_path, {"audio_filepath": "a.wav", **labels})).hash
        for labels in ({}, {"language": None}, {"language": "ru"}, {"intent": "stop"}, {"phones": PHONES})
    ]
    assert hashes[0] == hashes[1] == open_folder(tmp_path / "a.wav").hash
    assert len(set(hashes)) == 4
    assert "language" not in Utterance("a", None, 8000).to_dict()


def test_a_recording_that_is_cut_keeps_its_language_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 0.3)
    write(tmp_path / "a.wav")
    line = {"audio_filepath": "a.wav", "language": "ru", "text": "да", "phones": PHONES}
    cut = open_folder(manifest(tmp_path, line)).utterances("train")
    assert [(u.language, u.text, u.phones) for u in cut] == [("ru", None, ())] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not a line of a manifest"),
        ({"audio_filepath": "a.wav", "phones": "a b"}, "phones must be a list of [symbol, start, end] in seconds"),
        ({"audio_filepath": "a.wav", "phones": [["a", 0]]}, "phones must be a list of [symbol, start, end] in seconds"),
        ('{"audio_filepath": "a.wav", "phones": [["a", 0, NaN]]}', "phones must be a list of [symbol, start, end]"),
        (
            {"audio_filepath": "a.wav", "phones": [["a", 0, 0.2], ["b", 0.3, 0.5]]},
            "phones must follow one another from 0 s on, silence being `sil`; got 'b' from 0.3 to 0.5 s where 0.2 s",
        ),
        ({"audio_filepath": "a.wav", "phones": [["a", 0, 0]]}, "phones must follow one another from 0 s on"),
        ({"audio_filepath": "a.wav", "phones": [["a", 0, 0.4]]}, "has phones up to 0.40 of 0.50 s"),
        ("[1, 2]", "not a line of a manifest: audio_filepath is missing"),
        ("[" * 100_000, "not a line of a manifest"),
        ({"path": "a.wav"}, "not a line of a manifest: audio_filepath is missing"),
        ({"audio_filepath": "a.wav", "offset": -1}, "offset must be a number of seconds, got -1"),
        ('{"audio_filepath": "a.wav", "offset": NaN}', "offset must be a number of seconds, got nan"),
        ('{"audio_filepath": "a.wav", "offset": Infinity}', "offset must be a number of seconds, got inf"),
        ({"audio_filepath": "a.wav", "duration": 10**400}, "duration must be a number of seconds, got 1000000000"),
        ({"audio_filepath": "a.wav", "duration": "1"}, "duration must be a number of seconds, got '1'"),
        ({"audio_filepath": "a.wav", "offset": 7}, "starts at 7 s of a file of 0.50 s"),
        ({"audio_filepath": "a.wav", "offset": 0.5}, "starts at 0.5 s of a file of 0.50 s"),
        ({"audio_filepath": "a.wav", "offset": 0.1, "duration": 9}, "ends at 9.10 s of a file of 0.50 s"),
        ({"audio_filepath": "a.wav", "offset": 0.45}, "is too short: 0.050 s"),
        ({"audio_filepath": "missing.wav"}, "does not exist"),
        ({"audio_filepath": "nul\0.wav"}, ""),
        ({"audio_filepath": "list.jsonl"}, "cannot be decoded"),
        ({"audio_filepath": "a.wav"}, "is listed twice, first as a.wav"),
    ],
)
def test_bad_line_is_skipped_with_its_reason(tmp_path, line, reason):
    write(tmp_path / "a.wav")
    corpus = open_folder(manifest(tmp_path, {"audio_filepath": "a.wav"}, line))
    assert [utterance.id for utterance in corpus.utterances("train")] == ["a.wav"]
    (skipped,) = corpus.skipped
    assert reason in skipped.reason
    assert "not a line" not in reason or skipped.path == "list.jsonl:2"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "marked-be"],
)
def test_manifest_in_any_unicode(tmp_path, encoding):
    for i, name in enumerate(("naïve.wav", "zwei.wav")):
        write(tmp_path / name, tone(hertz=300 + i))
    lines = [{"audio_filepath": "naïve.wav", "text": "où ça"}, {"audio_filepath": "zwei.wav", "text": "ĀĀĀ 你好"}]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    coded = text.encode(encoding) if encoding != "marked-be" else b"\xfe\xff" + text.encode("utf-16-be")
    (tmp_path / "list.jsonl").write_bytes(coded)
    try:
        found = [
            (utterance.id, utterance.text) for utterance in open_folder(tmp_path / "list.jsonl").utterances("train")
        ]
    except ValueError as error:
        found = [str(error)]
    assert found == [("naïve.wav", "où ça"), ("zwei.wav", "ĀĀĀ 你好")]


# Links


def names_of(corpus):
    return sorted(
        u.id for split in ("train", "search", "dev") if split in corpus._splits for u in corpus._splits[split]
    )


def test_folders_behind_links_are_read_each_once(tmp_path):
    for i, place in enumerate(("data/spk1", "data/spk1/deeper", "data/spk2", "mine/own")):
        write(tmp_path / place / f"{i}.wav", tone(hertz=300 + i))
    mine = tmp_path / "mine"
    (mine / "a").symlink_to(mine / "own")  # before its own name
    (mine / "first").symlink_to("../data/spk1")
    (mine / "second").symlink_to(tmp_path / "data" / "spk2")
    (mine / "third").symlink_to(tmp_path / "data" / "spk2")
    (tmp_path / "data" / "spk1" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "spk2" / "up").symlink_to(mine)
    corpus = open_folder(mine)
    assert names_of(corpus) == ["first/0.wav", "first/deeper/1.wav", "own/3.wav", "second/2.wav"]
    assert {skipped.path: skipped.reason for skipped in corpus.skipped} == {
        "a": "is the same folder as own",
        "third": "is the same folder as second",
        "first/loop/spk1": "is the same folder as first",
        "first/loop/spk2": "is the same folder as second",
        "second/up": "is the same folder as .",
    }
    (tmp_path / "link").symlink_to(mine)
    assert names_of(open_folder(tmp_path / "link")) == names_of(corpus)


def test_links_to_files_are_read_and_those_to_nowhere_are_named(tmp_path):
    mine = tmp_path / "mine"
    write(tmp_path / "blobs" / "5f3c", tone(hertz=300), format="WAV")
    write(mine / "own.wav")
    (mine / "linked.wav").symlink_to("../blobs/5f3c")
    (mine / "again.wav").symlink_to("own.wav")
    (mine / "gone").symlink_to("/mnt/gone")
    (mine / "self.wav").symlink_to("self.wav")
    corpus = open_folder(mine)
    assert names_of(corpus) == ["again.wav", "linked.wav"]
    assert {skipped.path: skipped.reason for skipped in corpus.skipped} == {
        "own.wav": "holds the same audio as again.wav",
        "gone": "is a link to nowhere: /mnt/gone",
        "self.wav": "is a link to nowhere: self.wav",
    }


def test_folder_of_links_to_nowhere_says_so(tmp_path):
    (tmp_path / "spk1").symlink_to("/mnt/gone/spk1")
    with pytest.raises(
        ValueError, match=f"nothing in {tmp_path} can be used:\n  spk1 is a link to nowhere: /mnt/gone/spk1"
    ):
        open_folder(tmp_path)


def test_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "good.wav")
    write(tmp_path / "private" / "a.wav", tone(hertz=300))
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    corpus = open_folder(tmp_path)
    assert [(skipped.path, skipped.reason) for skipped in corpus.skipped] == [
        ("private", "cannot be read: Permission denied")
    ]
