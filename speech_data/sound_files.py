"""One sound file: whether it can be used, what it holds, and any part of it as mono.

libsndfile decodes. Where a header says nothing of the length, or a codec cannot seek, files are decoded from their
beginning; so opening a file, which decodes it once in any case, is the only proof of how long it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from search_spaces.files import hash_file
from speech_data.corpus import Waveform

MIN_SECONDS = 0.1
"""Shorter recordings are skipped: 5 frames or fewer say nothing."""
SAMPLE_RATES_HZ = (4_000, 384_000)
MAX_CHANNELS = 16
ROUNDING_SECONDS = 0.05
"""By which a header or a manifest may exceed the file."""

_UNKNOWN_BYTES = 0x7FFF0000  # from here on: what programs write into a wav header when they cannot seek back to it
_UNKNOWN_FRAMES = 2**40  # no file has so many; libsndfile says 2**63 - 1 of a flac file whose header does not know
_ENDLESS_BYTES = 2**62
_IMPLAUSIBLE = 100
"""A header that promises so many times what is there may be noise."""
_MAX_CHUNKS = 1000
_MAX_HEADER = 4096
_BLOCK_SECONDS = 10
_MP3_LENGTH = re.compile(rb"\xff[\xe0-\xff].{11,36}?(Xing|Info)(?P<flags>.{4})(?P<numbers>.{8})", re.DOTALL)
"""In an mp3 file's first frame: frames and bytes in all, as far as the flags say that they are given."""
_MAX_REST = 2**20  # bytes: enough to know it for mp3
_UNREADABLE = (OSError, ValueError, TypeError, soundfile.SoundFileError)


@dataclass(frozen=True)
class Sound:
    """What a usable file holds."""

    num_frames: int
    rate_hz: int
    content: str
    """Hash of all samples; of mp3 and Ogg, which decoders round differently, of all bytes."""


def examine(file: Path) -> Sound | str:
    """What a file holds, or why it cannot be used; decodes all of it, under a second for an hour of flac."""
    try:
        if not file.is_file():
            return "is a folder" if file.is_dir() else "is no file" if file.exists() else "does not exist"
        if file.stat().st_size == 0:
            return "is empty"
        if complaint := _check_wav_length(file) or _check_mp3_length(file):
            return complaint
        with _open(file) as sound:
            return _check_header(sound) or _decode(sound, file)
    except _UNREADABLE as error:
        text = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        return f"cannot be decoded: {text}"


def read_mono(file: Path, start: int, stop: int) -> tuple[Waveform, int]:
    """The samples [start, stop) of a file, mixed down, and its sample rate in Hz.

    Raises:
        OSError, soundfile.SoundFileError: The file cannot be decoded.
    """
    with _open(file) as sound:
        if start and _seeks(sound):
            sound.seek(start)
        else:
            for _ in _blocks(sound, start):
                pass
        samples = sound.read(stop - start, dtype="float32", always_2d=True)
        return _mix_down(samples), sound.samplerate


def _mix_down(samples: NDArray[np.float32]) -> Waveform:
    """The mean of the channels, (n, channels) -> (n,); or the loudest, where they cancel each other in the mean.

    The mean of channels that have nothing in common keeps 1 / channels of their mean power. Less than half of that is
    left only of what is inverted in some, as by a wrongly wired line.
    """
    mixed: Waveform = samples.mean(axis=1, dtype=np.float32)
    num_channels = samples.shape[1]
    if num_channels == 1:
        return mixed
    powers = samples.var(axis=0, dtype=np.float64)
    if mixed.var(dtype=np.float64) < powers.mean() / (2 * num_channels):
        return samples[:, powers.argmax()]
    return mixed


def check_length(seconds: float) -> str | None:
    """Why a recording of this length cannot be used."""
    if seconds <= 0:
        return "holds no samples"
    if seconds < MIN_SECONDS:
        return f"is too short: {seconds:.3f} s, the least is {MIN_SECONDS} s"
    return None


class _Stream(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A file that is read from its beginning on: soundfile seeks after each read, and some codecs cannot."""

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class _Wav:
    """What the chunks of a wav file say."""

    head: bytes
    """The chunks that say how its samples are coded."""
    start: int
    """Of the samples, in bytes."""
    num_bytes: int
    """Of the samples, by their header."""
    padded: bool
    """Whether every chunk of an odd length is followed by a byte of padding, as libsndfile expects."""


class _MendedWav(io.RawIOBase):
    """A wav file read as if it were a new header and its samples, to their end."""

    def __init__(self, file: io.FileIO, wav: _Wav, num_bytes: int) -> None:
        whole, samples = (min(n, 2**32 - 1).to_bytes(4, "little") for n in (len(wav.head) + 12 + num_bytes, num_bytes))
        self._file, self._start = file, wav.start
        self._head = b"RIFF" + whole + b"WAVE" + wav.head + b"data" + samples
        self._end, self._position = len(self._head) + num_bytes, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._head[self._position :][: len(buffer)]
        if not content:
            self._file.seek(self._start + self._position - len(self._head))
            content = self._file.read(min(len(buffer), self._end - self._position))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


class _EndlessMp3(io.RawIOBase):
    """An mp3 file that claims to be too large for its length to be guessed, so that its frames are counted.

    Where no header gives the length, libsndfile guesses it from the size of the file and of the first frames, and reads
    no more than that: too much or too little where frames differ in size.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._position = file, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: _ENDLESS_BYTES}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = _ENDLESS_BYTES - self._position
        if left < _ENDLESS_BYTES // 2:  # where a tag would be
            content = bytes(max(0, min(len(buffer), left)))
        else:
            self._file.seek(self._position)
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


@contextmanager
def _open(file: Path) -> Iterator[_Stream]:
    with ExitStack() as stack:
        wav = _read_chunks(file)
        following = file.stat().st_size - wav.start if wav else 0
        from_pipe = wav and wav.num_bytes == 0 and not _are_chunks(file, wav.start)
        if wav and following and (from_pipe or not wav.padded):
            opened = stack.enter_context(io.FileIO(file))
            num_bytes = following if from_pipe else min(wav.num_bytes, following)
            yield stack.enter_context(_Stream(_MendedWav(opened, wav, num_bytes)))
        else:
            sound = stack.enter_context(_Stream(file))
            if sound.format == "MP3":
                with suppress(soundfile.LibsndfileError):  # what is mp3 by its name alone
                    counted = stack.enter_context(_Stream(_EndlessMp3(stack.enter_context(file.open("rb")))))
                    sound = counted if counted.frames != sound.frames else sound
            yield sound


def _read_chunks(file: Path) -> _Wav | None:
    """The chunks of a wav file up to its samples; None if it is no such file, or has none."""
    with file.open("rb") as opened:
        if opened.read(12)[:4] != b"RIFF":
            return None
        head, padded = b"", True
        for _ in range(_MAX_CHUNKS):
            name, length = opened.read(4), int.from_bytes(opened.read(4), "little")
            if name == b"data":
                return _Wav(head, opened.tell(), length, padded)
            if name in (b"fmt ", b"fact") and length < _MAX_HEADER:
                head += name + length.to_bytes(4, "little") + opened.read(length) + bytes(length % 2)
            else:
                opened.seek(length, os.SEEK_CUR)
            if length % 2 and opened.read(1).isalpha():  # no padding, but the name of the next chunk
                opened.seek(-1, os.SEEK_CUR)
                padded = False
    return None


def _are_chunks(file: Path, start: int) -> bool:
    """Whether a file is chunks from some byte on to its end, such as notes behind no samples at all."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        for _ in range(_MAX_CHUNKS):
            opened.seek(start)
            name, length = opened.read(4), int.from_bytes(opened.read(4), "little")
            if not (name.isascii() and name.decode().isprintable()):
                return False
            start += 8 + length + length % 2
            if start >= size:
                return start - size <= 1
    return False


def _check_wav_length(file: Path) -> str | None:
    """A wav file that was cut short; libsndfile would take what is left for the whole.

    Some programs count the header, or a byte of padding, among the samples: so much may be missing.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
    if head[:4] != b"RIFF":
        return None
    wav = _read_chunks(file)
    start, num_bytes = (wav.start, wav.num_bytes) if wav else (8, int.from_bytes(head[4:], "little"))
    if num_bytes < _UNKNOWN_BYTES and size + min(start, _MAX_HEADER) < start + num_bytes:
        damaged = ", or its header is damaged" if start + num_bytes > _IMPLAUSIBLE * size else ""
        return f"is cut short{damaged}: {size:,} of {start + num_bytes:,} bytes are there"
    return None


def _check_mp3_length(file: Path) -> str | None:
    """An mp3 file behind whose end, by its header, there is more mp3, of which libsndfile would read nothing."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(10)
        start = 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(head[6:])) if head[:3] == b"ID3" else 0
        opened.seek(start)
        found = _MP3_LENGTH.search(opened.read(_MAX_HEADER))
        if not found or not found["flags"][-1] & 2:
            return None
        counts_frames = found["flags"][-1] & 1
        num_bytes = int.from_bytes(found["numbers"][4 * counts_frames :][:4])
        if not num_bytes:  # whoever wrote it did not know
            return None
        end = start + found.start() + num_bytes
        opened.seek(end)
        rest = opened.read(_MAX_REST)
    with (
        suppress(soundfile.LibsndfileError),
        soundfile.SoundFile(io.BytesIO(rest[128 * (rest[:3] == b"TAG") :])) as more,
    ):
        if more.format == "MP3" and more.frames >= MIN_SECONDS * more.samplerate:
            return f"is several mp3 files in one: the first ends after {end} of {size} bytes; split it"
    return None


def _check_header(sound: _Stream) -> str | None:
    low, high = SAMPLE_RATES_HZ
    if not low <= sound.samplerate <= high:
        return f"has a sample rate of {sound.samplerate} Hz; {low} to {high} can be used"
    if sound.channels > MAX_CHANNELS:
        return f"has {sound.channels} channels; at most {MAX_CHANNELS} can be mixed down"
    return check_length(sound.frames / sound.samplerate)


def _decode(sound: _Stream, file: Path) -> Sound | str:
    digest = hashlib.sha256(f"{sound.samplerate} Hz, {sound.channels} channels\n".encode())
    num_frames, start, constant = 0, np.empty(0), True
    for block in _blocks(sound, sound.frames):
        if not np.isfinite(block).all():
            first = (num_frames + int(np.argmin(np.isfinite(block).all(axis=1)))) / sound.samplerate
            return f"holds NaN or infinite samples, the first at {first:.2f} s"
        digest.update(block.astype("<f4", copy=False).data)
        num_frames += len(block)
        start = start if len(start) else block[0]
        constant = constant and bool((block == start).all())
    if num_frames + ROUNDING_SECONDS * sound.samplerate < sound.frames < _UNKNOWN_FRAMES:
        return f"promises {sound.frames} samples and holds {num_frames}"
    if complaint := check_length(num_frames / sound.samplerate):
        return complaint
    if constant:
        return f"is constant: every sample is {' or '.join(f'{value:g}' for value in np.unique(start))}"
    return Sound(num_frames, sound.samplerate, hash_file(file) if _is_lossy(sound) else digest.hexdigest())


def _blocks(sound: _Stream, num_frames: int) -> Iterator[NDArray[np.float32]]:
    """The next samples, (n, channels), in blocks; fewer where the file ends."""
    while num_frames > 0:
        block = sound.read(min(num_frames, _BLOCK_SECONDS * sound.samplerate), dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block
        num_frames -= len(block)


def _seeks(sound: _Stream) -> bool:
    """Whether seeking is possible, and exact to the sample."""
    return soundfile.SoundFile.seekable(sound) and sound.frames < _UNKNOWN_FRAMES and not _is_lossy(sound)


def _is_lossy(sound: _Stream) -> bool:
    return sound.format in ("MP3", "OGG") or sound.subtype == "MPEG_LAYER_III"
