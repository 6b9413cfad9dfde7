"""Files that other programs write: unusual codecs, lengths wrong or missing; every sample is read, or a word."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_data import folder as folder_module
from speech_data.folder import open_folder

RATE = 16_000
WAVE = (0.3 * np.sin(np.arange(32_000) / 9) + 0.05 * np.random.default_rng(0).standard_normal(32_000)).astype("f4")


def heard(path: Path) -> dict[str, np.ndarray | str]:
    """What is read of every utterance of a folder or manifest, and why what is left out is."""
    try:
        corpus = open_folder(path)
    except ValueError as error:
        return {"": str(error)}
    found: dict[str, np.ndarray | str] = {skipped.path: skipped.reason for skipped in corpus.skipped}
    for utterance in corpus.utterances("train"):
        try:
            found[utterance.id] = corpus.read(utterance)
        except ValueError as error:
            found[utterance.id] = str(error)
    return found


def decoded(file: Path) -> np.ndarray:
    """All of a file in one go, by libsndfile's own function."""
    with soundfile.SoundFile(file) as sound:
        out = np.zeros(100_000, np.float32)
        pointer = soundfile._ffi.cast("float *", out.ctypes.data)
        return out[: soundfile._snd.sf_readf_float(sound._file, pointer, len(out))]


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


def put(file: Path, values: dict[int, int]) -> None:
    """Writes 32-bit numbers over a file at some positions."""
    content = bytearray(file.read_bytes())
    for position, value in values.items():
        content[position : position + 4] = struct.pack("<I", value % 2**32)
    file.write_bytes(content)


def same(found: object, expected: np.ndarray) -> bool:
    return isinstance(found, np.ndarray) and found.shape == expected.shape and np.allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize(
    ("suffix", "form", "subtype"),
    [
        ("wav", "WAV", "GSM610"),
        ("wav", "WAV", "G721_32"),
        ("wav", "WAV", "NMS_ADPCM_24"),
        ("wav", "WAV", "MS_ADPCM"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
        ("opus", "OGG", "OPUS"),
    ],
)
def test_every_piece_of_a_codec_that_seeks_badly_or_not_at_all_is_read(tmp_path, monkeypatch, suffix, form, subtype):
    file = tmp_path / f"a.{suffix}"
    soundfile.write(file, WAVE, RATE, format=form, subtype=subtype)
    listed = tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"audio_filepath": file.name}))
    expected = decoded(file)
    assert same(heard(listed).get(file.name), expected)
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 0.5)
    pieces = heard(listed)
    assert set(pieces) == {f"{file.name}#{i}" for i in range(len(pieces))}
    assert len(pieces) >= 4
    assert [piece for piece in pieces.values() if isinstance(piece, str)] == []
    assert same(np.concatenate(list(pieces.values())), expected)


@pytest.mark.parametrize(("suffix", "subtype"), [("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS"), ("opus", "OPUS")])
def test_compressed_audio_of_a_folder_is_read(tmp_path, suffix, subtype):
    file = tmp_path / f"a.{suffix}"
    soundfile.write(file, WAVE, RATE, format="MP3" if suffix == "mp3" else "OGG", subtype=subtype)
    found = heard(tmp_path).get(file.name)
    assert same(found, decoded(file))
    assert np.corrcoef(found, WAVE)[0, 1] > 0.9


def test_how_a_decoder_rounds_makes_no_other_recording_of_an_mp3(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.mp3", WAVE, RATE)
    first = open_folder(tmp_path).hash
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *given, **rest: read(*given, **rest) * np.float32(1.000001))
    assert open_folder(tmp_path).hash == first
    (tmp_path / "a.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + bytes(1))
    assert open_folder(tmp_path).hash != first


@pytest.mark.parametrize("loud", [(0, 1, 0), (1, 1, 1), (1, 0, 0), (0, 0, 1, 1)])
@pytest.mark.parametrize("around", [(b"", b""), (b"ID3\x03\0\0\0\0\x07\x76" + bytes(1014), b"TAG" + bytes(125))])
def test_mp3_of_varying_bit_rate_whose_header_has_no_length_is_read_to_its_end(tmp_path, monkeypatch, loud, around):
    file = tmp_path / "a.mp3"
    levels = np.repeat([0.2 if is_loud else 1e-4 for is_loud in loud], RATE)
    wave = levels * np.random.default_rng(0).standard_normal(len(levels)).clip(-2, 2)
    soundfile.write(file, wave, RATE, bitrate_mode="VARIABLE", compression_level=0.5)
    expected, content = decoded(file), file.read_bytes()
    first, tag = content.index(b"\xff"), content.index(b"Xing")  # the first frame holds the length, and no sound
    file.write_bytes(around[0] + content[content.index(content[first : first + 2], tag) :] + around[1])
    found = heard(tmp_path).get("a.mp3")
    assert isinstance(found, np.ndarray), found
    extra = len(found) - len(expected)  # what the encoder put before and after is told by the header, too
    assert 0 <= extra < 0.15 * RATE
    assert any(same(found[i : i + len(expected)], expected) for i in range(extra + 1))
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 1.0)
    assert same(np.concatenate(list(heard(tmp_path).values())), found)


def test_mp3_that_was_cut_short_says_so(tmp_path):
    soundfile.write(tmp_path / "a.mp3", WAVE, RATE)
    cut(tmp_path / "a.mp3", 6000)
    assert "a.mp3 promises 32000 samples and holds " in str(heard(tmp_path))


@pytest.mark.parametrize("before", [b"", b"ID3\x03\0\0\0\0\x07\x76" + bytes(1014)], ids=["plain", "tagged"])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_files_behind_one_another_are_not_taken_for_the_first(tmp_path, mode, before):
    soundfile.write(tmp_path / "a.mp3", WAVE, RATE, bitrate_mode=mode)
    soundfile.write(tmp_path / "b.mp3", WAVE[::-1], 44_100)
    one, other = (before + (tmp_path / name).read_bytes() for name in ("a.mp3", "b.mp3"))
    (tmp_path / "b.mp3").unlink()
    old, cover = b"TAG" + bytes(125), b"APETAGEX" + b"\xff\xfb\x90\x64" * 500
    for rest in (b"", old, bytes(5000), cover, one[-150:]):
        (tmp_path / "a.mp3").write_bytes(one + rest)
        assert len(heard(tmp_path)["a.mp3"]) == len(WAVE)
    for rest in (one, other, old + one, one + other):
        (tmp_path / "a.mp3").write_bytes(one + rest)
        wanted = f"a.mp3 is several mp3 files in one: the first ends after {len(one)} of {len(one + rest)} bytes"
        assert wanted in str(heard(tmp_path))


def test_an_mp3_whose_header_does_not_know_its_length_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", WAVE, RATE)
    samples = len(heard(tmp_path)["a.mp3"])
    said = bytearray((tmp_path / "a.mp3").read_bytes())
    place = max(said.find(b"Info"), said.find(b"Xing")) + 12  # behind the name, the flags and the number of frames
    assert int.from_bytes(said[place:][:4]) > 0
    said[place : place + 4] = bytes(4)
    (tmp_path / "a.mp3").write_bytes(said)
    assert len(heard(tmp_path)["a.mp3"]) == samples


WRONG = {  # 44 bytes of header: the size of the rest is at 4, that of the samples at 40
    **{f"riff {by:+d}": {4: 64_036 + by} for by in (-44, -36, -8, -1, 1, 8, 36, 44)},
    **{f"riff {size:x}": {4: size} for size in (0, 0x7FFFF000, 0xFFFFFFFF)},
    **{f"data {by:+d}": {40: 64_000 + by} for by in (1, 8, 36, 44)},
    **{f"data {size:x}": {40: size} for size in (0, 0x7FFFF000, 0xFFFFFFDB, 0xFFFFFFFF)},
    **{f"both {size:x}": {4: size, 40: size} for size in (0, 0x7FFFF000, 0xFFFFFFFF)},
}


@pytest.mark.parametrize("name", WRONG)
def test_wav_whose_sizes_are_wrong_or_missing_is_read_to_its_end(tmp_path, monkeypatch, name):
    soundfile.write(tmp_path / "a.wav", WAVE, RATE)
    put(tmp_path / "a.wav", WRONG[name])
    assert same(heard(tmp_path).get("a.wav"), WAVE)
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 1.0)
    assert same(heard(tmp_path).get("a.wav#1"), WAVE[RATE:])


def test_chunks_before_and_junk_after_the_samples_change_nothing(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE, RATE)
    content = (tmp_path / "a.wav").read_bytes()
    note = b"LIST" + struct.pack("<I", 7) + b"INFOabc\0"
    for name, changed in {
        "junk": content + b"junk" * 5,
        "zeros": content + bytes(1000),
        "tag": content + b"TAG" + bytes(125),
        "note": content[:36] + note + content[36:],
        "late": content + b"LIST" + struct.pack("<I", 5000) + b"x" * 20,
    }.items():
        (tmp_path / "a.wav").write_bytes(changed)
        put(tmp_path / "a.wav", {4: len(changed)})  # 8 too many
        assert same(heard(tmp_path).get("a.wav"), WAVE), name


@pytest.mark.parametrize("subtype", ["PCM_16", "GSM610", "MS_ADPCM", "FLOAT"])
def test_a_note_without_its_byte_of_padding_hides_no_samples(tmp_path, monkeypatch, subtype):
    file = tmp_path / "a.wav"
    soundfile.write(file, WAVE, RATE, subtype=subtype)
    expected, content = decoded(file), file.read_bytes()
    at = content.index(b"fmt ") + 8 + content[content.index(b"fmt ") + 4]
    file.write_bytes(content[:at] + b"LIST" + struct.pack("<I", 7) + b"INFOabc" + content[at:])
    assert same(heard(tmp_path).get("a.wav"), expected)
    put(file, {file.read_bytes().index(b"data") + 4: 0})
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 0.7)
    pieces = heard(tmp_path)
    assert set(pieces) == {"a.wav#0", "a.wav#1", "a.wav#2"}
    assert same(np.concatenate(list(pieces.values())), expected)


@pytest.mark.parametrize("extra", range(4))
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("num_bytes", [None, 0])
def test_a_format_of_an_odd_length_hides_no_samples(tmp_path, extra, padded, num_bytes):
    soundfile.write(tmp_path / "a.wav", WAVE, RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[16:20] = struct.pack("<I", 16 + extra)
    if num_bytes is not None:
        content[40:44] = struct.pack("<I", num_bytes)
    content[36:36] = bytes(extra + (extra % 2 if padded else 0))
    (tmp_path / "a.wav").write_bytes(content)
    put(tmp_path / "a.wav", {4: len(content) - 8})
    assert same(heard(tmp_path).get("a.wav"), WAVE)


ODD = b"LIST" + struct.pack("<I", 7) + b"INFOabc"


@pytest.mark.parametrize("last", [b"", b"LIST" + struct.pack("<I", 6) + b"INFOab", ODD, ODD + b"\0" + ODD])
def test_notes_behind_no_samples_are_no_samples(tmp_path, last):
    soundfile.write(tmp_path / "a.wav", WAVE, RATE)
    header = (tmp_path / "a.wav").read_bytes()[:40] + bytes(4)
    (tmp_path / "a.wav").write_bytes(header + b"iXML" + struct.pack("<I", 9000) + b"<take/>!" * 1125 + last)
    assert "a.wav holds no samples" in str(heard(tmp_path))


def test_samples_without_sizes_are_no_notes_though_they_would_be_as_long(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE, RATE)
    put(tmp_path / "a.wav", {40: 0, 44: 0xFFFEFFFF, 48: 64_000 - 8})  # as a chunk that ends where the file does
    found = heard(tmp_path).get("a.wav")
    assert np.shape(found) == WAVE.shape, found
    assert same(found[4:], WAVE[4:])


def test_wav_that_lacks_more_than_its_header_is_cut_short(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE, RATE)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-100])
    put(tmp_path / "a.wav", {4: 64_036 - 100})  # so the size of the whole is right
    assert "a.wav is cut short: 63,944 of 64,044 bytes are there" in str(heard(tmp_path))
    (tmp_path / "a.wav").write_bytes(content[:44])
    put(tmp_path / "a.wav", {4: 0, 40: 0})
    assert "a.wav holds no samples" in str(heard(tmp_path))


def unknown_length(file: Path) -> None:
    """Clears the number of samples in a flac header, as an encoder that writes to a pipe does."""
    content = bytearray(file.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    file.write_bytes(content)


def test_flac_of_unknown_length_is_read_whole_and_in_pieces(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", WAVE, RATE)
    unknown_length(tmp_path / "a.flac")
    assert same(heard(tmp_path).get("a.flac"), WAVE)
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 0.5)
    for i, piece in enumerate(np.split(WAVE, 4)):
        assert same(heard(tmp_path).get(f"a.flac#{i}"), piece)


def test_flac_of_unknown_length_can_be_too_short(tmp_path):
    soundfile.write(tmp_path / "a.flac", WAVE[:1500], RATE)
    unknown_length(tmp_path / "a.flac")
    assert "a.flac is too short: 0.094 s, the least is 0.1 s" in str(heard(tmp_path))


def test_flac_whose_header_promises_more_says_so(tmp_path):
    soundfile.write(tmp_path / "a.flac", WAVE, RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[24:26] = struct.pack(">H", 32_700)  # less than 0.05 s
    (tmp_path / "a.flac").write_bytes(content)
    assert same(heard(tmp_path).get("a.flac"), WAVE)
    content[24:26] = struct.pack(">H", 64_000)
    (tmp_path / "a.flac").write_bytes(content)
    assert "a.flac promises 64000 samples and holds 32000" in str(heard(tmp_path))
    unknown_length(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:9000])
    assert "a.flac cannot be decoded" in str(heard(tmp_path))


# Several channels


def mixed(tmp_path: Path, *channels: np.ndarray) -> np.ndarray | str:
    soundfile.write(tmp_path / "a.wav", np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return heard(tmp_path).get("a.wav", str(heard(tmp_path)))


@pytest.mark.parametrize(
    "shares",
    [
        (1, -1),
        (-0.9, 1),
        (1, -0.5),
        (1, -0.3),
        (0.999, -1.0, 0),
        (1, -1, 1, -1),
        (0.5, 1, -1.5),
        (1, -1, 0.2),
        (1, *[-1 / 5] * 5),
    ],
)
def test_channels_that_cancel_each_other_are_heard_by_the_loudest(tmp_path, shares):
    loudest = max(map(abs, shares))
    noises = 0.001 * np.random.default_rng(1).standard_normal((len(shares), len(WAVE))).astype("f4")
    found = mixed(tmp_path, *(share / 1.5 * WAVE + noise for share, noise in zip(shares, noises, strict=True)))
    assert abs(np.corrcoef(found, WAVE)[0, 1]) > 0.99
    assert np.std(found) == pytest.approx(loudest / 1.5 * np.std(WAVE), rel=0.01)


def test_an_offset_does_not_hide_that_channels_cancel(tmp_path):
    assert same(mixed(tmp_path, 0.5 * WAVE + 0.4, -0.5 * WAVE + 0.4), 0.5 * WAVE + 0.4)


def test_other_channels_are_averaged(tmp_path):
    others = np.random.default_rng(2).standard_normal((16, len(WAVE))).astype("f4") / 8
    for channels in (
        (WAVE, WAVE),
        (WAVE, 0 * WAVE),
        (WAVE, others[0]),
        (WAVE, 0.3 * WAVE),
        (WAVE, -0.2 * WAVE),
        (WAVE, *others[1:]),
        others,
    ):
        assert same(mixed(tmp_path, *channels), np.mean(channels, axis=0))


def test_every_piece_is_mixed_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_SECONDS", 1.0)
    soundfile.write(tmp_path / "a.wav", np.stack([WAVE, WAVE * np.repeat([1, -1], RATE)], 1), RATE, subtype="FLOAT")
    assert same(heard(tmp_path)["a.wav#1"], WAVE[RATE:])


@pytest.mark.parametrize("first", [1, 10 * RATE])
def test_a_recording_that_changes_but_once_is_not_constant(tmp_path, first):
    step = np.repeat([0.2, 0.1], [first, 10 * RATE])
    soundfile.write(tmp_path / "a.wav", step, RATE, subtype="FLOAT")
    assert same(heard(tmp_path).get("a.wav"), step)


def test_channels_of_which_none_changes_are_silence(tmp_path):
    assert "a.wav is constant: every sample is -0.5 or 0.5" in mixed(tmp_path, 0 * WAVE + 0.5, 0 * WAVE - 0.5)
    assert "a.wav is constant: every sample is 0'" in mixed(tmp_path, 0 * WAVE, 0 * WAVE)
