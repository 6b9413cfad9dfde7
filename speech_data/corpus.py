"""Utterances and where they come from: the interface of a corpus, and the corpus stored in shards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import NestlingError

SAMPLE_RATE_HZ = 16_000
SPLITS = ("train", "search", "dev", "test")
MANIFEST = "corpus.json"

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

    @property
    def seconds(self) -> float:
        """Length."""
        return self.num_samples / SAMPLE_RATE_HZ

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Utterance:
        """The utterance that `to_dict` wrote."""
        return cls(
            id=values["id"],
            speaker=values["speaker"],
            num_samples=values["num_samples"],
            text=values["text"],
            phones=tuple((symbol, start, end) for symbol, start, end in values["phones"]),
            words=tuple((word, start, end) for word, start, end in values["words"]),
            intent=values["intent"],
            slots=tuple((slot, value) for slot, value in values["slots"]),
            style=values["style"],
        )


class SpeechCorpus(Protocol):
    """Speech in splits. Whoever trains or evaluates asks no more than this of its data."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def hash(self) -> str:
        """Short and stable; the same for the same audio and labels."""

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split, always in the same order."""

    def read(self, utterance: Utterance) -> Waveform:
        """The clean waveform, (num_samples,), within [-1, 1]."""


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

    def __init__(self, folder: Path, *, allow_test: bool = False) -> None:
        self.folder = Path(folder)
        self.allow_test = allow_test
        try:
            self._manifest = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise NestlingError(f"{self.folder} holds no corpus: {error}; delete it and synthesise it again") from error
        for shard in (shard for shards in self._manifest["shards"].values() for shard in shards):
            for path in (self.folder / f"{shard}.npy", self.folder / f"{shard}.jsonl"):
                if not path.is_file():
                    raise NestlingError(f"{path} is missing; delete the folder and synthesise the corpus again")
        self._places: dict[str, tuple[str, int]] = {}  # utterance id -> (shard, first sample)
        self._splits: dict[str, tuple[Utterance, ...]] = {}
        self._audio: dict[str, NDArray[np.int16]] = {}

    @property
    def name(self) -> str:
        """What reports call it."""
        return str(self._manifest["name"])

    @property
    def hash(self) -> str:
        """Of all audio and labels."""
        return str(self._manifest["hash"])

    @cached_property
    def phones(self) -> tuple[str, ...]:
        """The phone inventory, sorted; the index of a phone is its class."""
        return tuple(self._manifest["phones"])

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split, always in the same order.

        Raises:
            NestlingError: There is no such split, or it is the test split and the corpus was not opened for it.
        """
        check_split(split, self._manifest["shards"])
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
            self._audio[shard] = np.load(self.folder / f"{shard}.npy", mmap_mode="r", allow_pickle=False)
        return np.float32(1 / 32768) * self._audio[shard][first : first + utterance.num_samples]

    def _load(self, split: str) -> list[Utterance]:
        utterances = []
        for shard in self._manifest["shards"][split]:
            first = 0
            for line in (self.folder / f"{shard}.jsonl").read_text("utf-8").splitlines():
                utterance = Utterance.from_dict(json.loads(line))
                self._places[utterance.id] = (shard, first)
                first += utterance.num_samples
                utterances.append(utterance)
        return utterances


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
    """Where corpora that can be made again are kept: `$NESTLING_CACHE`, or `~/.cache/nestling`."""
    return Path(os.environ.get("NESTLING_CACHE") or Path.home() / ".cache" / "nestling").expanduser()
