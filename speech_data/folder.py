"""A user's own audio: a folder of wav, flac, mp3, ogg and opus files, or a manifest that lists files or parts of them.

Opening decodes every file once. What cannot be used is left out and reported
by name, with a reason. Audio is mixed down and resampled to 16 kHz when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import soxr

from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.corpus import SPLITS, Utterance, Waveform, check_split, refuse_test
from speech_data.listing import ListedAudio, SkippedFile, list_source
from speech_data.sound_files import ROUNDING_SECONDS, Sound, check_length, examine, read_mono
from speech_data.splits import place_of, split_at

MAX_SECONDS = 30.0
"""Longer recordings are cut into equal pieces of at most this length."""
SPLIT_SHARES = {"search": 5, "dev": 5, "train": 90}
"""Share of the recordings, in percent, by a hash of their samples."""

Progress = Callable[[int, int], None]
"""Called with the number of files looked at and the number of all."""
SplitOf = Callable[[Utterance, str], str | None]
"""The split of an utterance whose file has a content, a SHA-256; None leaves it out."""


@dataclass(frozen=True)
class _Piece:
    """An utterance and where it is: samples [start, stop) of a file, at the file's own rate."""

    utterance: Utterance
    content: str
    """Of the whole file; decides the split."""
    file: Path
    start: int
    stop: int


class FolderCorpus:
    """A user's audio. Made by `open_folder` and `open_listed`."""

    synthesised = False

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

    @cached_property
    def phones(self) -> tuple[str, ...]:
        """The phones that are timed in any split, sorted; the index of a phone is its class. Mostly there are none."""
        return tuple(sorted({symbol for split in self._splits.values() for u in split for symbol, _, _ in u.phones}))

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
    """The audio of a folder (wav, flac, mp3, ogg, opus; at any depth, also behind links) or of a manifest.

    A manifest is a file of JSON lines, as NeMo's: `audio_filepath` (relative to the manifest), and optionally
    `offset` and `duration` in seconds, `text`, `speaker`, `language`, `intent`, and `phones`: a list of
    [symbol, start, end] in seconds that follow one another from the recording's beginning to its end, silence being
    `sil`. It is in UTF-8, UTF-16 or UTF-32.

    The same samples count once: copies, and parts that are listed again, are skipped by name. So is what overlaps a
    part that another split judges by: it stays in test, dev or search, in this order.

    Args:
        path: A folder or a manifest. A hash of its samples puts a file into train, search or dev (90, 5, 5 %),
            whatever it is called.
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
    for split, source in given.items():
        listed[split], unreadable = list_source(source, f"{split}/" if split else "")
        skipped += unreadable
    name = "+".join(source.name for source in sources.values())
    places = ", ".join(map(str, sources.values()))
    return _open(name, places, listed, skipped, False, allow_test=allow_test, on_progress=on_progress)


def check_source(path: Path | str) -> None:
    """Raises NestlingError as `open_folder` does of what is no folder of audio and no manifest; decodes nothing."""
    list_source(path, "")


def open_listed(
    name: str,
    root: Path,
    listed: Mapping[str, Sequence[ListedAudio]],
    skipped: Iterable[SkippedFile] = (),
    *,
    split_of: SplitOf | None = None,
    known: Mapping[Path, Sound] | None = None,
    allow_test: bool = False,
    on_progress: Progress | None = None,
) -> FolderCorpus:
    """A corpus of recordings that a reader of some layout has listed. They stay whole, as their labels do.

    Args:
        name: What reports call it.
        root: Where it is, for messages.
        listed: The recordings of each split; under "" those that `split_of` divides.
        skipped: What the reader itself has left out.
        split_of: Gives the split of an utterance whose file has a content; None leaves it out.
        known: What some files are known to hold, which need not be looked at.
        allow_test: Whether the test split may be read. Only evaluation passes True.
        on_progress: Called as files are looked at.

    Raises:
        NestlingError: Nothing can be used.
    """
    skips = list(skipped)
    return _open(name, str(root), listed, skips, True, split_of, known, allow_test=allow_test, on_progress=on_progress)


def _open(
    name: str,
    places: str,
    listed: Mapping[str, Sequence[ListedAudio]],
    skipped: list[SkippedFile],
    whole: bool,
    split_of: SplitOf | None = None,
    known_sounds: Mapping[Path, Sound] | None = None,
    *,
    allow_test: bool,
    on_progress: Progress | None,
) -> FolderCorpus:
    """Looks at all files and keeps what can be used; the splits of what is listed under "" are made here."""
    given = known_sounds or {}
    files = {item.file for items in listed.values() for item in items}
    sounds = {**examine_all(files - given.keys(), on_progress), **given}
    kept: dict[str, list[_Piece]] = {split: [] for split in listed}
    known: dict[tuple[str, int, int], ListedAudio] = {}
    judged: dict[str, list[tuple[int, int, ListedAudio]]] = {}  # what the splits before hold, by content
    for split in (*reversed(SPLITS), ""):  # what is in several splits stays where it is judged
        own: dict[str, list[tuple[int, int, ListedAudio]]] = {}
        for item in listed.get(split, ()):
            sound = sounds[item.file]
            span = sound if isinstance(sound, str) else _locate(item, sound)
            if isinstance(sound, str) or isinstance(span, str):
                skipped.append(SkippedFile(item.part, str(span)))
            elif (first := known.setdefault((sound.content, *span), item)) is not item:
                same = "is listed twice, first as" if first.file == item.file else "holds the same audio as"
                skipped.append(SkippedFile(item.part, f"{same} {first.part}"))
            elif other := _find_overlap(judged.get(sound.content, ()), span, ROUNDING_SECONDS * sound.rate_hz):
                skipped.append(SkippedFile(item.part, f"shares audio with {other.part}"))
            else:
                own.setdefault(sound.content, []).append((*span, item))
                kept[split] += _cut(item, sound, span, whole)
        for content, spans in own.items():
            judged.setdefault(content, []).extend(spans)
    if not any(kept.values()):
        raise NestlingError(*_nothing_left(places, skipped))
    if "" in kept:
        kept = _divide(kept[""], split_of) if split_of else _divide_by_content(kept[""])
    return FolderCorpus(
        name,
        _content_hash(kept),
        {split: [piece.utterance for piece in kept[split]] for split in SPLITS if kept.get(split)},
        {piece.utterance.id: piece for s, pieces in kept.items() if s != "test" or allow_test for piece in pieces},
        skipped,
        allow_test=allow_test,
    )


# What a file holds


def examine_all(files: set[Path], on_progress: Progress | None) -> dict[Path, Sound | str]:
    """For each file what it holds, or why it cannot be used; `on_progress` is called as they are looked at."""
    ordered = sorted(files)
    sounds: dict[Path, Sound | str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # libsndfile works outside Python's lock
        for file, sound in zip(ordered, pool.map(examine, ordered), strict=True):
            sounds[file] = sound
            if on_progress is not None:
                on_progress(len(sounds), len(ordered))
    return sounds


# What is kept


def _locate(item: ListedAudio, sound: Sound) -> tuple[int, int] | str:
    """Which samples of its file a recording is, [start, stop), or why it cannot be used."""
    length = sound.num_frames / sound.rate_hz
    if item.offset_seconds >= length:
        return f"starts at {item.offset_seconds:g} s of a file of {length:.2f} s"
    end = length if item.seconds is None else item.offset_seconds + item.seconds
    if end > length + ROUNDING_SECONDS:
        return f"ends at {end:.2f} s of a file of {length:.2f} s"
    seconds = min(end, length) - item.offset_seconds
    if item.phones and abs(item.phones[-1][2] - seconds) > ROUNDING_SECONDS:
        return f"has phones up to {item.phones[-1][2]:.2f} of {seconds:.2f} s"
    if complaint := check_length(seconds):
        return complaint
    return round(item.offset_seconds * sound.rate_hz), round((item.offset_seconds + seconds) * sound.rate_hz)


def _find_overlap(
    others: Iterable[tuple[int, int, ListedAudio]], span: tuple[int, int], least: float
) -> ListedAudio | None:
    """The first of some recordings, [start, stop), that has more than `least` samples in common with a span."""
    start, stop = span
    return next((item for first, last, item in others if min(stop, last) - max(start, first) > least), None)


def _cut(item: ListedAudio, sound: Sound, span: tuple[int, int], whole: bool) -> list[_Piece]:
    """The pieces of a recording, each of `MAX_SECONDS` at most unless it stays whole."""
    first, last = span
    name = item.name if span == (0, sound.num_frames) else item.part
    num_pieces = 1 if whole else math.ceil((last - first) / (MAX_SECONDS * sound.rate_hz))
    edges = [first + (last - first) * i // num_pieces for i in range(num_pieces + 1)]
    return [
        _Piece(
            Utterance(
                id=name if num_pieces == 1 else f"{name}#{i}",
                speaker=item.speaker,
                num_samples=round((stop - start) * SAMPLE_RATE_HZ / sound.rate_hz),
                text=item.text if num_pieces == 1 else None,
                phones=item.phones if num_pieces == 1 else (),
                intent=item.intent if num_pieces == 1 else None,
                language=item.language,
            ),
            sound.content,
            item.file,
            start,
            stop,
        )
        for i, (start, stop) in enumerate(pairwise(edges))
    ]


def _divide(pieces: list[_Piece], split_of: SplitOf) -> dict[str, list[_Piece]]:
    divided: dict[str, list[_Piece]] = {split: [] for split in SPLITS}
    for piece in pieces:
        if split := split_of(piece.utterance, piece.content):
            divided[split].append(piece)
    return divided


def _divide_by_content(pieces: list[_Piece]) -> dict[str, list[_Piece]]:
    """Splits in which all pieces of a file are together; from three files on, none is empty."""
    contents = sorted({piece.content for piece in pieces}, key=lambda content: (place_of(content), content))
    split_of = {content: split_at(place_of(content), SPLIT_SHARES) for content in contents}
    if len(contents) >= len(SPLIT_SHARES):
        for split in SPLIT_SHARES:
            if split not in split_of.values():
                counts = Counter(split_of.values())
                split_of[next(content for content in contents if counts[split_of[content]] > 1)] = split
    divided: dict[str, list[_Piece]] = {split: [] for split in SPLIT_SHARES}
    for piece in pieces:
        divided[split_of[piece.content] if len(contents) >= len(SPLIT_SHARES) else "train"].append(piece)
    return divided


def _content_hash(kept: Mapping[str, Sequence[_Piece]]) -> str:
    """Of samples, labels, splits and their order; not of what files are called, where they are or when written."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for piece in kept.get(split, ()):
            line = [split, {**piece.utterance.to_dict(), "id": None}, piece.start, piece.stop, piece.content]
            digest.update(json.dumps(line).encode())
    return digest.hexdigest()[:16]


def _nothing_left(places: str, skipped: Sequence[SkippedFile]) -> list[str]:
    reasons = [f"{file.path} {file.reason}" for file in skipped[:4]]
    more = [f"and {len(skipped) - 4} more"] if len(skipped) > 4 else []
    return [f"nothing in {places} can be used:", *reasons, *more]
