"""Opens, describes and removes recorded corpora that are in the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from search_spaces.errors import NestlingError
from search_spaces.files import explaining, hash_file
from search_spaces.strict_json import read_json
from speech_data.corpus import Utterance, cache_folder
from speech_data.folder import FolderCorpus, Progress, open_listed
from speech_data.listing import list_source
from speech_data.recorded.table import CORPORA, NamedCorpus, find_corpus
from speech_data.sound_files import Sound
from speech_data.splits import split_of_recording

SEAL = "corpus.json"
"""What the folder of a corpus holds once all of it is there."""
RECORDINGS, SOUNDS = "manifest.jsonl", "sounds.json"
"""The list of its recordings, and what their files hold, so that opening it decodes nothing."""
FORMAT = 1


@dataclass(frozen=True)
class Origin:
    """The package that some recordings came in."""

    package: str
    version: str | None
    """None where it had been unpacked."""
    sha256: str | None
    known: bool
    """Whether its recordings are those of the version that `table` has."""


@dataclass(frozen=True)
class Facts:
    """What `corpus.json` says of a corpus in the cache."""

    name: str
    origins: tuple[Origin, ...]
    files: Mapping[str, str]
    """SHA-256 of the lists of its recordings and of what those hold."""
    num_recordings: int
    seconds: float
    languages: Mapping[str, float]
    """Hours in each."""
    num_speakers: int
    num_phones: int
    num_bytes: int
    skipped: tuple[tuple[str, str], ...]
    """Files that were left out, and why."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise NestlingError(f"format is {self.format}; this Nestling reads {FORMAT}")


@dataclass(frozen=True)
class KnownSound(Sound):
    """What a file holds, as long as it has its size."""

    num_bytes: int


def folder_of(name: str) -> Path:
    """Where the cache keeps a corpus."""
    return cache_folder() / "recorded" / name


def refuse_folder(path: str) -> None:
    """Raises NestlingError for a path into a recorded corpus: as a mere folder it would have other splits."""
    home = Path(os.path.realpath(folder_of("")))
    try:
        place = Path(os.path.realpath(path))
    except ValueError:  # a character that no path has
        return
    if place.is_relative_to(home):
        name = next(iter(place.relative_to(home).parts), "NAME")
        raise NestlingError(
            f"{path} is where recorded corpora are kept: take --audio {name}, which has splits of its own"
        )


def read_facts(name: str) -> Facts | None:
    """What is known of a corpus in the cache; None if it is not there.

    Raises:
        NestlingError: It is damaged.
    """
    seal = folder_of(find_corpus(name).name) / SEAL
    return read_json(seal, Facts, _again(name)) if seal.exists() else None


def check_fetched(name: str) -> Facts:
    """What is known of a corpus in the cache.

    Raises:
        NestlingError: It is not there, or damaged.
    """
    corpus = find_corpus(name)
    if (facts := read_facts(name)) is None:
        raise NestlingError(
            f"{name} is not in the cache; `nestling data get {name}` fetches it: {corpus.num_bytes / 1e6:.0f} MB, "
            f"{describe_licences(corpus)}"
        )
    return facts


def check_teaches(name: str) -> None:
    """Raises NestlingError for a corpus that is for evaluation alone."""
    corpus = find_corpus(name)
    if not any(map(corpus.may_teach, corpus.languages)):
        others = ", ".join(other.name for other in CORPORA.values() if any(map(other.may_teach, other.languages)))
        raise NestlingError(
            f"nothing is trained on {name}, so that what is scored on it is heard for the first time; "
            f"evaluate on it, and train on {others} or audio of your own"
        )


def open_recorded(
    name: str, *, allow_test: bool = False, for_heads: bool = False, on_progress: Progress | None = None
) -> FolderCorpus:
    """A recorded corpus from the cache, in the one division into splits that all of them have.

    Its `train` holds what encoders may learn from, and nothing else.

    Args:
        name: Of `table.CORPORA`.
        allow_test: Whether the test split may be read. Only evaluation passes True.
        for_heads: Whether `train` holds all, for heads that are fitted on frozen encoders. Only evaluation passes True.
        on_progress: Called as files are looked at, which are those that have changed.

    Raises:
        NestlingError: There is no such corpus, it is not in the cache, or it is damaged.
    """
    corpus, facts = find_corpus(name), check_fetched(name)
    folder = folder_of(name)
    for file in (RECORDINGS, SOUNDS):
        if not (folder / file).is_file() or hash_file(folder / file) != facts.files.get(file):
            raise NestlingError(f"{folder / file} is not what was fetched; {_again(name)}")

    def split_of(utterance: Utterance, content: str) -> str | None:
        split = split_of_recording(utterance.text, content)
        return split if split != "train" or for_heads or corpus.may_teach(utterance.language) else None

    listed, skipped = list_source(folder / RECORDINGS, "")
    sounds = read_json(folder / SOUNDS, dict[str, KnownSound], _again(name))
    known = {a.file: sounds[a.name] for a in listed if a.name in sounds and _size(a.file) == sounds[a.name].num_bytes}
    return open_listed(
        name,
        folder,
        {"": listed},
        skipped,
        split_of=split_of,
        known=known,
        allow_test=allow_test,
        on_progress=on_progress,
    )


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:  # why it cannot be read is told by whoever looks at it
        return None


def remove_recorded(name: str) -> int:
    """Removes a corpus from the cache.

    Returns:
        The bytes that it took.

    Raises:
        NestlingError: There is no such corpus, or it is not in the cache.
        FailedError: The disk refused.
    """
    folder = folder_of(find_corpus(name).name)
    if not folder.is_dir():
        raise NestlingError(f"{name} is not in the cache; `nestling data list` tells what is")
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with explaining(folder):
        (folder / SEAL).unlink(missing_ok=True)  # first: what is left after a kill is no corpus
        shutil.rmtree(folder)
    return num_bytes


def describe_licences(corpus: NamedCorpus) -> str:
    """Licences, each with the languages it is for where there are several."""
    named = corpus.licences.items()
    return "; ".join(f"{licence} ({languages})" if languages else licence for licence, languages in named)


def _again(name: str) -> str:
    return f"`nestling data remove {name}`, and get it again"
