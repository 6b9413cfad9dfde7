"""LibriSpeech as it unpacks: flac files by speaker and chapter, with a transcript for each chapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_spaces.errors import NestlingError
from speech_data.corpus import SPLITS
from speech_data.folder import FolderCorpus, Progress, open_listed
from speech_data.listing import ListedAudio, SkippedFile
from speech_data.splits import place_of_name, split_at

TRAIN, DEV, TEST = ("train-clean-100", "train-clean-360", "train-other-500"), "dev-clean", "test-clean"
"""Parts: at least one of the first is wanted."""
TRAIN_SHARES = {"search": 5, "train": 95}
"""Of the utterances of the train parts, in percent, by a hash of their names."""


def open_librispeech(
    root: Path | str, *, allow_test: bool = False, on_progress: Progress | None = None
) -> FolderCorpus:
    """LibriSpeech in our splits, with lower-case text and the reader's number as the speaker.

    `train` and `search` are apart, of the same readers, from the train parts; `dev` is dev-clean, `test` is
    test-clean, which need not be there unless it may be read.

    Args:
        root: The folder LibriSpeech, or the one that holds it.
        allow_test: Whether the test split may be read. Only evaluation passes True.
        on_progress: Called as files are looked at.

    Raises:
        NestlingError: A part is missing, or nothing can be used.
    """
    home = Path(root) / "LibriSpeech" if (Path(root) / "LibriSpeech").is_dir() else Path(root)
    train = [part for part in TRAIN if (home / part).is_dir()]
    if not train:
        raise NestlingError(_missing(home, " or ".join(TRAIN)))
    for part in (DEV, TEST) if allow_test else (DEV,):
        if not (home / part).is_dir():
            raise NestlingError(_missing(home, part))
    skipped: list[SkippedFile] = []
    listed: dict[str, list[ListedAudio]] = {split: [] for split in SPLITS}
    for part in [*train, DEV, TEST]:
        for audio in _list_part(home, part, skipped):
            listed[_split(part, audio)].append(audio)
    return open_listed("LibriSpeech", home, listed, skipped, allow_test=allow_test, on_progress=on_progress)


def _split(part: str, audio: ListedAudio) -> str:
    if part in TRAIN:
        return split_at(place_of_name(audio.file.stem), TRAIN_SHARES)
    return {DEV: "dev", TEST: "test"}[part]


def _missing(home: Path, part: str) -> str:
    return f"LibriSpeech needs {part}: there is no such folder in {home}; unpack its archive there"


def _list_part(home: Path, part: str, skipped: list[SkippedFile]) -> Iterator[ListedAudio]:
    """The recordings of a part that have a text; files without a text, and texts without a file, are reported."""
    for chapter in sorted(path for path in (home / part).glob("*/*") if path.is_dir()):
        place = chapter.relative_to(home).as_posix()
        name = f"{chapter.parent.name}-{chapter.name}.trans.txt"
        texts = _read_texts(chapter / name, f"{place}/{name}", skipped)
        files = {path.stem: path for path in sorted(chapter.glob("*.flac"))}
        for stem in sorted(texts.keys() - files.keys()):
            skipped.append(SkippedFile(f"{place}/{stem}.flac", f"is in {name} and does not exist"))
        for stem, file in files.items():
            if stem not in texts:
                skipped.append(SkippedFile(f"{place}/{file.name}", f"has no text in {name}"))
                continue
            path = f"{place}/{file.name}"
            yield ListedAudio(path, file, text=texts[stem], speaker=chapter.parent.name)


def _read_texts(file: Path, place: str, skipped: list[SkippedFile]) -> dict[str, str]:
    """The texts of a chapter, by the stems of their files."""
    try:
        lines = file.read_text("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        skipped.append(SkippedFile(place, f"cannot be read: {error.strerror or error}"))
        return {}
    texts = {}
    for number, line in enumerate(lines, start=1):
        stem, _, text = line.strip().partition(" ")
        if text.strip():
            texts[stem] = " ".join(text.lower().split())
        elif stem:
            skipped.append(SkippedFile(f"{place}:{number}", "holds no text"))
    return texts
