"""A user's own audio: a folder of wav and flac files, or a manifest that lists files or parts of them.

Opening decodes every file once. What cannot be used is left out and reported
by name, with a reason. Audio is mixed down and resampled to 16 kHz when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import soxr

from search_spaces.errors import NestlingError
from speech_data.corpus import SAMPLE_RATE_HZ, SPLITS, Utterance, Waveform, check_split, refuse_test
from speech_data.sound_files import ROUNDING_SECONDS, Sound, check_length, examine, read_mono

SUFFIXES = (".wav", ".flac")
MAX_SECONDS = 30.0
"""Longer recordings are cut into equal pieces of at most this length."""
SPLIT_SHARES = {"search": 5, "dev": 5, "train": 90}
"""Share of the files, in percent, by a hash of their names."""

Progress = Callable[[int, int], None]
"""Called with the number of files looked at and the number of all."""


@dataclass(frozen=True)
class SkippedFile:
    """Audio that is left out."""

    path: str
    """As the folder or the manifest names it; for a line of a manifest that cannot be read, `FILE:LINE`."""
    reason: str


@dataclass(frozen=True)
class ListedAudio:
    """A recording that is asked for: a file or a part of one, and its labels."""

    id: str
    name: str
    """Of the file, as the folder or the manifest has it."""
    file: Path
    offset_seconds: float = 0.0
    seconds: float | None = None
    """Length of the part; None is to the end."""
    text: str | None = None
    speaker: str | None = None
    intent: str | None = None


@dataclass(frozen=True)
class _Piece:
    """An utterance and where it is: samples [start, stop) of a file, at the file's own rate."""

    utterance: Utterance
    name: str
    """Of the file; decides the split."""
    file: Path
    start: int
    stop: int


class FolderCorpus:
    """A user's audio. Made by `open_folder` and `open_listed`."""

    def __init__(
        self,
        name: str,
        content_hash: str,
        splits: Mapping[str, Sequence[Utterance]],
        places: Mapping[str, _Piece],
        skipped: Sequence[SkippedFile],
        *,
        allow_test: bool,
    ) -> None:
        self.name = name
        self.hash = content_hash
        self.skipped = tuple(skipped)
        self.allow_test = allow_test
        self._splits = splits
        self._places = places

    @property
    def hours_kept(self) -> float:
        """All that can be read, over all splits."""
        return sum(utterance.seconds for split in self._splits.values() for utterance in split) / 3600

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split, always in the same order.

        Raises:
            NestlingError: There is no such split, or it is the test split and the corpus was not opened for it.
        """
        check_split(split, self._splits)
        refuse_test(split, self.allow_test)
        return self._splits[split]

    def read(self, utterance: Utterance) -> Waveform:
        """The waveform, (num_samples,): mono, 16 kHz, within [-1, 1].

        Raises:
            NestlingError: The utterance is not of this corpus, or its file has changed since it was opened.
        """
        if utterance.id not in self._places:
            raise ValueError(f"{utterance.id!r} is not an utterance of {self.name}")
        place = self._places[utterance.id]
        try:
            mono, rate = read_mono(place.file, place.start, place.stop)
        except (OSError, soundfile.SoundFileError) as error:
            raise NestlingError(f"{place.file} could be read when it was opened, and no longer: {error}") from error
        if len(mono) != place.stop - place.start or not np.isfinite(mono).all():
            raise NestlingError(f"{place.file} has changed since it was opened; open the folder again")
        wave = soxr.resample(mono, rate, SAMPLE_RATE_HZ) if rate != SAMPLE_RATE_HZ else mono
        wave = np.pad(wave, (0, max(0, utterance.num_samples - len(wave))))[: utterance.num_samples]
        return np.asarray(wave / max(1.0, float(np.abs(wave).max())), np.float32)


def open_folder(
    path: Path | str | None = None,
    *,
    splits: Mapping[str, Path | str] | None = None,
    allow_test: bool = False,
    on_progress: Progress | None = None,
) -> FolderCorpus:
    """The audio of a folder (wav and flac, at any depth) or of a manifest.

    A manifest is a file of JSON lines, as NeMo's: `audio_filepath` (relative to the manifest), and optionally
    `offset` and `duration` in seconds, `text`, `speaker`.

    Args:
        path: A folder or a manifest. A hash of its name puts a file into train, search or dev (90, 5, 5 %).
        splits: Instead of `path`: a folder or a manifest for each split.
        allow_test: Whether the test split, if `splits` has one, may be read. Only evaluation passes True.
        on_progress: Called as files are looked at.

    Raises:
        NestlingError: There is no such folder or manifest, or nothing in it can be used.
    """
    if (path is None) == (splits is None):
        raise ValueError("give open_folder either a path or splits")
    given = splits if splits is not None else {"": str(path)}  # "": the splits are ours to make
    sources = {split: Path(source) for split, source in given.items()}
    unknown = sorted(set(sources) - {"", *SPLITS})
    if unknown:
        raise NestlingError(f"no split is called {unknown[0]!r}; the splits are {', '.join(SPLITS)}")
    listed: dict[str, list[ListedAudio]] = {}
    skipped: list[SkippedFile] = []
    for split, source in sources.items():
        listed[split], unreadable = _list_source(source, f"{split}/" if split else "")
        skipped += unreadable
    name = "+".join(source.name for source in sources.values())
    places = ", ".join(map(str, sources.values()))
    return _open(name, places, listed, skipped, False, allow_test=allow_test, on_progress=on_progress)


def open_listed(
    name: str,
    root: Path,
    listed: Mapping[str, Sequence[ListedAudio]],
    skipped: Iterable[SkippedFile] = (),
    *,
    allow_test: bool = False,
    on_progress: Progress | None = None,
) -> FolderCorpus:
    """A corpus of recordings that a reader of some layout has listed. They stay whole, as their labels do.

    Args:
        name: What reports call it.
        root: Where it is, for messages.
        listed: The recordings of each split.
        skipped: What the reader itself has left out.
        allow_test: Whether the test split may be read. Only evaluation passes True.
        on_progress: Called as files are looked at.

    Raises:
        NestlingError: Nothing can be used.
    """
    skips = list(skipped)
    return _open(name, str(root), listed, skips, True, allow_test=allow_test, on_progress=on_progress)


def _open(
    name: str,
    places: str,
    listed: Mapping[str, Sequence[ListedAudio]],
    skipped: list[SkippedFile],
    whole: bool,
    *,
    allow_test: bool,
    on_progress: Progress | None,
) -> FolderCorpus:
    """Looks at all files and keeps what can be used; the splits of what is listed under "" are made here."""
    sounds = _examine_all({item.file for items in listed.values() for item in items}, on_progress)
    kept: dict[str, list[_Piece]] = {split: [] for split in listed}
    for split, items in listed.items():
        for item in _once(items, skipped):
            pieces = _cut(item, sounds[item.file], whole)
            if isinstance(pieces, str):
                skipped.append(SkippedFile(item.id, pieces))
            else:
                kept[split] += pieces
    if not any(kept.values()):
        raise NestlingError(_nothing_left(places, skipped))
    if "" in kept:
        kept = _divide_by_name(kept[""])
    return FolderCorpus(
        name,
        _content_hash(kept),
        {split: [piece.utterance for piece in kept[split]] for split in SPLITS if kept.get(split)},
        {piece.utterance.id: piece for s, pieces in kept.items() if s != "test" or allow_test for piece in pieces},
        skipped,
        allow_test=allow_test,
    )


# What is listed


def _list_source(source: Path, prefix: str) -> tuple[list[ListedAudio], list[SkippedFile]]:
    """What a folder or a manifest lists; the prefix keeps the ids of different splits apart."""
    if source.is_dir():
        return [replace(item, id=prefix + item.id) for item in _list_folder(source)], []
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        return [ListedAudio(prefix + source.name, source.name, source)], []
    if source.is_file():
        listed, skipped = _list_manifest(source)
        return [replace(item, id=prefix + item.id) for item in listed], skipped
    raise NestlingError(f"{source} is neither a folder of audio nor a manifest; it does not exist")


def _list_folder(folder: Path) -> list[ListedAudio]:
    """The wav and flac files, by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        others = Counter(path.suffix.lower() or "no suffix" for path in folder.rglob("*") if path.is_file())
        seen = ", ".join(f"{count} × {suffix}" for suffix, count in others.most_common(5)) or "no file at all"
        raise NestlingError(f"{folder} holds no wav or flac file (it holds {seen}); convert the audio to either")
    return [ListedAudio(name, name, folder / name) for name in names]


def _list_manifest(manifest: Path) -> tuple[list[ListedAudio], list[SkippedFile]]:
    listed, skipped = [], []
    for number, line in enumerate(manifest.read_text("utf-8-sig", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            listed.append(_parse_line(line, manifest.parent))
        except (ValueError, RecursionError) as error:
            skipped.append(SkippedFile(f"{manifest.name}:{number}", f"not a line of a manifest: {error}"))
    return listed, skipped


def _parse_line(line: str, folder: Path) -> ListedAudio:
    values = json.loads(line)
    if not isinstance(values, dict) or not isinstance(values.get("audio_filepath"), str):
        raise NestlingError("audio_filepath is missing")
    offset, duration = _seconds(values, "offset"), _seconds(values, "duration")
    path = values["audio_filepath"]
    text, speaker = values.get("text"), values.get("speaker")
    return ListedAudio(
        path if offset is None else f"{path}@{offset:g}",
        path,
        folder / path,
        offset_seconds=offset or 0.0,
        seconds=duration,
        text=None if text is None else str(text),
        speaker=None if speaker is None else str(speaker),
    )


def _seconds(values: Mapping[str, object], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise NestlingError(f"{key} must be a number of seconds, got {value!r}")
    return float(value)


def _once(items: Iterable[ListedAudio], skipped: list[SkippedFile]) -> Iterator[ListedAudio]:
    """The items, each id once; further ones are reported."""
    seen = set()
    for item in items:
        if item.id in seen:
            skipped.append(SkippedFile(item.id, "listed twice"))
        else:
            seen.add(item.id)
            yield item


# What a file holds


def _examine_all(files: set[Path], on_progress: Progress | None) -> dict[Path, Sound | str]:
    """For each file what it holds, or why it cannot be used."""
    ordered = sorted(files)
    sounds: dict[Path, Sound | str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # libsndfile works outside Python's lock
        for file, sound in zip(ordered, pool.map(examine, ordered), strict=True):
            sounds[file] = sound
            if on_progress is not None:
                on_progress(len(sounds), len(ordered))
    return sounds


def _fingerprint(file: Path) -> str:
    """Of the size and the first and last 4 KiB: tells recordings apart, quick for thousands of hours."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        head = opened.read(4096)
        opened.seek(max(0, size - 4096))
        return hashlib.sha256(b"%d " % size + head + opened.read()).hexdigest()


# What is kept


def _cut(item: ListedAudio, sound: Sound | str, whole: bool) -> list[_Piece] | str:
    """The pieces of a recording, each of `MAX_SECONDS` at most unless it stays whole, or why there are none."""
    if isinstance(sound, str):
        return sound
    length = sound.num_frames / sound.rate_hz
    if item.offset_seconds >= length:
        return f"starts at {item.offset_seconds:g} s of a file of {length:.2f} s"
    end = length if item.seconds is None else item.offset_seconds + item.seconds
    if end > length + ROUNDING_SECONDS:
        return f"ends at {end:.2f} s of a file of {length:.2f} s"
    seconds = min(end, length) - item.offset_seconds
    if complaint := check_length(seconds):
        return complaint
    num_pieces = 1 if whole else math.ceil(seconds / MAX_SECONDS)
    first, last = (round(s * sound.rate_hz) for s in (item.offset_seconds, item.offset_seconds + seconds))
    edges = [first + (last - first) * i // num_pieces for i in range(num_pieces + 1)]
    return [
        _Piece(
            Utterance(
                id=item.id if num_pieces == 1 else f"{item.id}#{i}",
                speaker=item.speaker,
                num_samples=round((stop - start) * SAMPLE_RATE_HZ / sound.rate_hz),
                text=item.text if num_pieces == 1 else None,
                intent=item.intent if num_pieces == 1 else None,
            ),
            item.name,
            item.file,
            start,
            stop,
        )
        for i, (start, stop) in enumerate(pairwise(edges))
    ]


def _divide_by_name(pieces: list[_Piece]) -> dict[str, list[_Piece]]:
    """Splits in which all pieces of a file are together; from three files on, none is empty."""
    order = {piece.name: int(hashlib.sha256(piece.name.encode()).hexdigest()[:8], 16) for piece in pieces}
    names = sorted(order, key=lambda name: (order[name], name))
    split_of = {name: _split_of_place(order[name] % 100) for name in names}
    if len(names) >= len(SPLIT_SHARES):
        for split in SPLIT_SHARES:
            if split not in split_of.values():
                counts = Counter(split_of.values())
                split_of[next(name for name in names if counts[split_of[name]] > 1)] = split
    divided: dict[str, list[_Piece]] = {split: [] for split in SPLIT_SHARES}
    for piece in pieces:
        divided[split_of[piece.name] if len(names) >= len(SPLIT_SHARES) else "train"].append(piece)
    return divided


def place_of_name(name: str) -> int:
    """Where a hash puts a name, 0 to 99: a share of all names in percent, the same on every machine."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100


def _split_of_place(place: int) -> str:
    for split, share in SPLIT_SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")


def _content_hash(kept: Mapping[str, Sequence[_Piece]]) -> str:
    """Of names, labels, splits and fingerprints; not of where the files are or when they were written."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for piece in kept.get(split, ()):
            line = [split, piece.utterance.to_dict(), piece.start, piece.stop, _fingerprint(piece.file)]
            digest.update(json.dumps(line).encode())
    return digest.hexdigest()[:16]


def _nothing_left(places: str, skipped: Sequence[SkippedFile]) -> str:
    reasons = "".join(f"\n  {file.path} {file.reason}" for file in skipped[:5])
    more = f"\n  and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"nothing in {places} can be used:{reasons}{more}"
