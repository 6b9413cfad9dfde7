"""Speech Commands (version 1 or 2) as it unpacks: a folder for each word, and lists of what validates and tests.

The twelve classes are those of `grammar.KEYWORD_CLASSES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from search_spaces.errors import NestlingError
from speech_data.corpus import SPLITS
from speech_data.folder import FolderCorpus, Progress, open_listed
from speech_data.grammar import KEYWORDS, NO_WORD, UNKNOWN_WORD
from speech_data.listing import ListedAudio, SkippedFile
from speech_data.sound_files import examine
from speech_data.splits import place_of_name, split_at

NOISE_FOLDER = "_background_noise_"
LISTS = {"search": "validation_list.txt", "dev": "validation_list.txt", "test": "testing_list.txt"}
VALIDATION_SHARES = {"search": 50, "dev": 50}
"""Of the validation list, in percent, by a hash of the speaker."""
PIECE_SECONDS = 1.0
"""Of noise, as silence: as long as a word's recording."""
PIECE_TURNS = (*("train",) * 7, "search", "dev", "test")
"""The pieces of a noise go to these splits in turn."""


def open_speech_commands(
    root: Path | str, *, allow_test: bool = False, on_progress: Progress | None = None
) -> FolderCorpus:
    """Speech Commands in our splits: the intent is the class, the text the word, the speaker the hash in the name.

    `test` is the testing list; the validation list is shared by `search` and `dev`, each speaker in one of them.
    Of the words that are no keywords, as many recordings are taken in each split as a keyword has on average, by
    a hash of their names, and no more pieces of silence.

    Args:
        root: The folder with a folder for each word.
        allow_test: Whether the test split may be read. Only evaluation passes True.
        on_progress: Called as files are looked at.

    Raises:
        NestlingError: A list, the noises or a keyword's folder is missing, or nothing can be used.

    Source: arXiv 1804.03209, which keeps a tenth of unknown words and a tenth of silence; SUPERB (arXiv 2105.01051).
    SUPERB takes version 1 and tests on a separate archive; here the testing list of either version is the test.
    """
    root = Path(root)
    lists = {name: _read_list(root, name) for name in sorted(set(LISTS.values()))}
    for folder in (NOISE_FOLDER, *KEYWORDS):
        if not (root / folder).is_dir():
            raise NestlingError(_missing(root, f"folder {folder}"))
    listed: dict[str, list[ListedAudio]] = {split: [] for split in SPLITS}
    words = {audio.name: audio for audio in _list_words(root)}
    for audio in words.values():
        listed[_split(audio, lists)].append(audio)
    skipped = [
        SkippedFile(name, f"is in {file} and does not exist")
        for file, names in lists.items()
        for name in sorted(names - words.keys())
    ]
    silences = _list_silences(root, skipped)
    balanced = {
        split: _balance(audios, [piece for piece, turn in silences if turn == split])
        for split, audios in listed.items()
    }
    return open_listed("Speech Commands", root, balanced, skipped, allow_test=allow_test, on_progress=on_progress)


def _missing(root: Path, part: str) -> str:
    return f"Speech Commands needs the {part}, which {root} has not; give the folder its archive was unpacked into"


def _read_list(root: Path, name: str) -> set[str]:
    try:
        return set((root / name).read_text("utf-8", errors="replace").split())
    except OSError as error:
        raise NestlingError(_missing(root, f"file {name}")) from error


def _list_words(root: Path) -> Iterator[ListedAudio]:
    """Every recording of a word, by name."""
    for file in sorted(root.glob("*/*.wav")):
        word = file.parent.name
        if word.startswith("_"):
            continue
        name = f"{word}/{file.name}"
        hashed, mark, _ = file.stem.partition("_nohash_")
        yield ListedAudio(
            name,
            file,
            text=word,
            speaker=hashed if mark else None,
            intent=word if word in KEYWORDS else UNKNOWN_WORD,
        )


def _split(audio: ListedAudio, lists: dict[str, set[str]]) -> str:
    if audio.name in lists[LISTS["test"]]:
        return "test"
    if audio.name in lists[LISTS["dev"]]:
        return split_at(place_of_name(audio.speaker or audio.name), VALIDATION_SHARES)
    return "train"


def _list_silences(root: Path, skipped: list[SkippedFile]) -> list[tuple[ListedAudio, str]]:
    """The noises in pieces, each with its split."""
    pieces = []
    for file in sorted((root / NOISE_FOLDER).glob("*.wav")):
        name = f"{NOISE_FOLDER}/{file.name}"
        sound = examine(file)
        if isinstance(sound, str):
            skipped.append(SkippedFile(name, sound))
            continue
        num_pieces = int(sound.num_frames / sound.rate_hz / PIECE_SECONDS)
        if num_pieces == 0:
            skipped.append(SkippedFile(name, f"is shorter than a piece of {PIECE_SECONDS:g} s"))
        for i in range(num_pieces):
            piece = ListedAudio(name, file, i * PIECE_SECONDS, PIECE_SECONDS, text="", intent=NO_WORD)
            pieces.append((piece, PIECE_TURNS[i % len(PIECE_TURNS)]))
    return pieces


def _balance(words: Sequence[ListedAudio], silences: Sequence[ListedAudio]) -> list[ListedAudio]:
    """All keywords, and of other words and of silence no more than a keyword has on average."""
    counts = Counter(audio.intent for audio in words)
    most = round(sum(counts[word] for word in KEYWORDS) / len(KEYWORDS))
    unknown = sorted((a for a in words if a.intent == UNKNOWN_WORD), key=lambda a: (place_of_name(a.name), a.name))
    quiet = sorted(silences, key=lambda a: (place_of_name(f"{a.name}@{a.offset_seconds:g}"), a.part))
    chosen = {audio.part for audio in [*unknown[:most], *quiet[:most]]}
    return [a for a in [*words, *silences] if a.intent in KEYWORDS or a.part in chosen]
