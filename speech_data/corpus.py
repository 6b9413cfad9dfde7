"""Utterances and where they come from: the interface of a corpus, and the corpus stored in shards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

from search_spaces.errors import NestlingError
from search_spaces.files import hash_file
from search_spaces.strict_json import MAX_BYTES, parse_json, read_json
from search_spaces.strict_yaml import read_text
from search_spaces.subnet import SAMPLE_RATE_HZ

SPLITS = ("train", "search", "dev", "test")
MANIFEST = "corpus.json"
FORMAT = 1
"""Raise it when the same plan would be stored or labelled differently."""

AGAIN = "delete the folder and synthesise the corpus again"
"""What to do about a damaged corpus."""

Waveform = NDArray[np.float32]
Span = tuple[str, float, float]
"""(symbol, start, end) in seconds."""


@dataclass(frozen=True)
class Utterance:
    """One recording and what is known about it."""

    id: str
    """Unique in its corpus; keys the randomness of masks, crops and noise."""
    speaker: str | None
    num_samples: int
    """At 16 kHz."""
    text: str | None = None
    phones: tuple[Span, ...] = ()
    """They tile the utterance; silence is `sil`."""
    words: tuple[Span, ...] = ()
    intent: str | None = None
    slots: tuple[tuple[str, str], ...] = ()
    """(slot, value) in spoken order."""
    style: str | None = None
    """Prosody."""
    language: str | None = None
    """As whoever recorded it says, such as `ru` or `pt_BR`."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.num_samples / SAMPLE_RATE_HZ

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a language that nobody named is no key, as in labels from before there were any."""
        values = asdict(self)
        return values if self.language is not None else {key: values[key] for key in values if key != "language"}


class SpeechCorpus(Protocol):
    """Speech in splits. Whoever trains or evaluates asks no more than this of its data."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def hash(self) -> str:
        """Short and stable; the same for the same audio and labels."""

    @property
    def synthesised(self) -> bool:
        """Whether a program speaks, or people were recorded."""

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split, always in the same order."""

    def read(self, utterance: Utterance) -> Waveform:
        """The clean waveform, (num_samples,), within [-1, 1]."""


@dataclass(frozen=True)
class _Manifest:
    """What `corpus.json` says."""

    name: str
    hash: str
    phones: tuple[str, ...]
    shards: Mapping[str, tuple[str, ...]]
    """Of each split."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each; corpora that were made earlier have none."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise NestlingError(f"format is {self.format}; this Nestling reads {FORMAT}")


class Corpus:
    """A corpus in a folder of shards, as `synthesise_corpus` writes it.

    A shard is an array of 16-bit samples (`train-000.npy`, memory-mapped) beside its labels
    (`train-000.jsonl`, an utterance a line). `corpus.json` lists the shards of each split.

    Args:
        folder: Where `corpus.json` is.
        allow_test: Whether the test split may be read. Only evaluation passes True.

    Raises:
        NestlingError: The folder holds no corpus, or a shard is missing.
    """

    synthesised = True

    def __init__(self, folder: Path, *, allow_test: bool = False) -> None:
        self.folder = Path(folder)
        self.allow_test = allow_test
        self._manifest = read_json(self.folder / MANIFEST, _Manifest, AGAIN)
        for shard in (shard for shards in self._manifest.shards.values() for shard in shards):
            for path in (self.folder / f"{shard}.npy", self.folder / f"{shard}.jsonl"):
                if not path.is_file():
                    raise NestlingError(f"{path} is missing; {AGAIN}")
        self._places: dict[str, tuple[str, int]] = {}  # utterance id -> (shard, first sample)
        self._splits: dict[str, tuple[Utterance, ...]] = {}
        self._audio: dict[str, NDArray[np.int16]] = {}

    @property
    def name(self) -> str:
        """What reports call it."""
        return self._manifest.name

    @property
    def hash(self) -> str:
        """Of all audio and labels."""
        return self._manifest.hash

    @cached_property
    def phones(self) -> tuple[str, ...]:
        """The phone inventory, sorted; the index of a phone is its class."""
        return self._manifest.phones

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split, always in the same order.

        Raises:
            NestlingError: There is no such split, or it is the test split and the corpus was not opened for it.
        """
        check_split(split, self._manifest.shards)
        refuse_test(split, self.allow_test)
        if split not in self._splits:
            self._splits[split] = tuple(self._load(split))
        return self._splits[split]

    def read(self, utterance: Utterance) -> Waveform:
        """The clean waveform, (num_samples,), within [-1, 1].

        Raises:
            NestlingError: The utterance was not obtained from this corpus.
        """
        if utterance.id not in self._places:
            raise ValueError(f"{utterance.id!r} is not among the utterances read from {self.name}")
        shard, first = self._places[utterance.id]
        if shard not in self._audio:
            self._audio[shard] = _open_samples(self._check(f"{shard}.npy"))
        samples = self._audio[shard][first : first + utterance.num_samples]
        if len(samples) != utterance.num_samples:
            raise NestlingError(f"{self.folder / shard}.npy is shorter than its labels say; {AGAIN}")
        return np.float32(1 / 32768) * samples

    def _check(self, name: str) -> Path:
        """The path of a file, whose content is that which the hash of the corpus is of."""
        path = self.folder / name
        if name in self._manifest.files and hash_file(path) != self._manifest.files[name]:
            raise NestlingError(f"{path} is not what was synthesised; {AGAIN}")
        return path

    def _load(self, split: str) -> list[Utterance]:
        utterances = []
        for shard in self._manifest.shards[split]:
            first = 0
            path = self._check(f"{shard}.jsonl")
            for number, line in enumerate(read_text(path, MAX_BYTES).splitlines(), start=1):
                utterance = parse_json(line, Utterance, f"{path}, line {number}", AGAIN)
                self._places[utterance.id] = (shard, first)
                first += utterance.num_samples
                utterances.append(utterance)
        return utterances


def _open_samples(path: Path) -> NDArray[np.int16]:
    try:
        samples: NDArray[np.int16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise NestlingError(f"{path} is damaged ({error}); {AGAIN}") from error
    if not isinstance(samples, np.ndarray) or samples.dtype != np.int16 or samples.ndim != 1:
        raise NestlingError(f"{path} is not an array of 16-bit samples; {AGAIN}")
    return samples


def check_split(split: str, known: Mapping[str, Any]) -> None:
    """Raises NestlingError unless the corpus has the split."""
    if split not in known:
        raise NestlingError(f"no split {split!r} in this corpus; it has {', '.join(known)}")


def refuse_test(split: str, allow_test: bool) -> None:
    """Raises NestlingError for the test split of a corpus that was not opened for it."""
    if split == "test" and not allow_test:
        raise ValueError(
            "the test split is read once, by evaluate; train on `train`, rank on `search`, compare on `dev`"
        )


def cache_folder() -> Path:
    """Where corpora that can be made again are kept: `$NESTLING_CACHE`, or where this system keeps such things.

    That is `~/.cache/nestling` on Linux, `$XDG_CACHE_HOME/nestling` if that is set.
    """
    return Path(os.environ.get("NESTLING_CACHE") or user_cache_dir("nestling", appauthor=False)).expanduser()
