"""What a folder or a manifest lists: recordings that are asked for, whatever their files turn out to hold."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from search_spaces.errors import NestlingError
from speech_data.corpus import Span

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
OTHER_SUFFIXES = (
    *(".3gp", ".aac", ".aif", ".aiff", ".amr", ".ape", ".au", ".caf", ".m4a", ".mka", ".mp4", ".oga", ".sph", ".w64"),
    *(".webm", ".wma", ".wv"),
)
"""Of audio that is not read from a folder; it is named. A manifest may list what libsndfile can open."""
MAX_FILE_SECONDS = 1e9
"""No recording is longer: 30 years."""
ROUNDING_OF_TIMES = 1e-3
"""Seconds between two phones that are none: times are written with so many digits."""
_SPANS = TypeAdapter(tuple[Span, ...], config=ConfigDict(allow_inf_nan=False))


@dataclass(frozen=True)
class SkippedFile:
    """Audio that is left out."""

    path: str
    """As the folder or the manifest names it; for a line of a manifest that cannot be read, `FILE:LINE`."""
    reason: str


@dataclass(frozen=True)
class ListedAudio:
    """A recording that is asked for: a file or a part of one, and its labels."""

    name: str
    """Of the file, in its folder or its manifest's."""
    file: Path
    offset_seconds: float = 0.0
    seconds: float | None = None
    """Length of the part; None is to the end."""
    text: str | None = None
    speaker: str | None = None
    intent: str | None = None
    language: str | None = None
    phones: tuple[Span, ...] = ()
    """In seconds from the beginning of the recording to its end; each begins where the one before it ends."""

    @property
    def part(self) -> str:
        """The name, and which part of the file is asked for unless it is all: NAME@OFFSET+LENGTH, in seconds."""
        if not self.offset_seconds and self.seconds is None:
            return self.name
        length = "" if self.seconds is None else f"+{_shorten(self.seconds)}"
        return f"{self.name}@{_shorten(self.offset_seconds)}{length}"


def list_source(given: Path | str, prefix: str) -> tuple[list[ListedAudio], list[SkippedFile]]:
    """What a folder or a manifest lists; the prefix keeps the names of different splits apart."""
    if given == "":  # which `Path` would take for where we are
        raise NestlingError("`` is neither a folder of audio nor a manifest; name one")
    source = Path(given)
    if source.is_dir():
        listed, skipped = _list_folder(source)
        return [replace(item, name=prefix + item.name) for item in listed], skipped
    if source.is_file() and source.suffix.lower() in SUFFIXES:
        return [ListedAudio(prefix + source.name, source)], []
    if source.is_file():
        listed, skipped = _list_manifest(source)
        return [replace(item, name=prefix + item.name) for item in listed], skipped
    raise NestlingError(f"{source} is neither a folder of audio nor a manifest; it does not exist")


def _list_folder(folder: Path) -> tuple[list[ListedAudio], list[SkippedFile]]:
    """The files whose suffix is among `SUFFIXES`, by name; other audio is left out by name."""
    names, skipped = _walk(folder)
    listed = [ListedAudio(name, folder / name) for name in sorted(names) if _suffix(name) in SUFFIXES]
    if not listed and not skipped:
        suffixes = Counter(_suffix(name) or "no suffix" for name in names)
        seen = ", ".join(f"{count} × {suffix}" for suffix, count in suffixes.most_common(5)) or "no file at all"
        raise NestlingError(f"{folder} holds no wav, flac, mp3, ogg or opus file (it holds {seen}); convert it to flac")
    others = sorted(name for name in names if _suffix(name) in OTHER_SUFFIXES)
    return listed, skipped + [SkippedFile(name, f"is {_suffix(name)}; convert it to flac or wav") for name in others]


def _walk(folder: Path) -> tuple[list[str], list[SkippedFile]]:
    """Names of what is below a folder and behind its links, each folder once: under its own name if it has one."""
    names: list[str] = []
    skipped: list[SkippedFile] = []
    known: dict[str, str] = {}  # what every folder really is, and what it is called here

    def refuse(error: OSError) -> None:
        place = Path(error.filename).relative_to(folder).as_posix()
        skipped.append(SkippedFile(place, f"cannot be read: {error.strerror}"))

    starts = deque([folder])
    while starts:
        for place, folders, files in os.walk(starts.popleft(), onerror=refuse):
            name = Path(place).relative_to(folder)
            first = known.setdefault(os.path.realpath(place), name.as_posix())
            if first != name.as_posix():
                skipped.append(SkippedFile(name.as_posix(), f"is the same folder as {first}"))
                folders.clear()
                continue
            folders.sort()
            starts += [path for inner in folders if (path := Path(place, inner)).is_symlink()]
            for file in (*files, *(inner for inner in folders if _suffix(inner) in SUFFIXES)):
                if target := _lost_target(Path(place, file)):
                    skipped.append(SkippedFile((name / file).as_posix(), f"is a link to nowhere: {target}"))
                else:
                    names.append((name / file).as_posix())
    return names, skipped


def _lost_target(path: Path) -> Path | None:
    """What a link names, if it is not there."""
    try:
        path.stat()
    except OSError:
        return path.readlink() if path.is_symlink() else None
    return None


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _list_manifest(manifest: Path) -> tuple[list[ListedAudio], list[SkippedFile]]:
    listed, skipped = [], []
    content = manifest.read_bytes()
    text = content.decode(json.detect_encoding(content), errors="replace")  # UTF-8, 16 or 32, with a mark or without
    for number, line in enumerate(text.split("\n"), start=1):
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
    name, file = _resolve(values["audio_filepath"], folder)
    text = values.get("text")
    return ListedAudio(
        name,
        file,
        offset_seconds=offset or 0.0,
        seconds=duration,
        text=None if text is None else str(text),
        speaker=_word(values, "speaker"),
        intent=_word(values, "intent"),
        language=_word(values, "language"),
        phones=_phones(values.get("phones")),
    )


def _word(values: Mapping[str, object], key: str) -> str | None:
    value = values.get(key)
    return None if value is None else str(value).strip() or None


def _phones(spans: object) -> tuple[Span, ...]:
    """Phones in time order with nothing between them, from 0 on."""
    if spans is None:
        return ()
    try:
        phones = _SPANS.validate_python(spans)
    except ValidationError as error:
        raise NestlingError("phones must be a list of [symbol, start, end] in seconds") from error
    last = 0.0
    for symbol, start, end in phones:
        if not (symbol and abs(start - last) <= ROUNDING_OF_TIMES and start < end <= MAX_FILE_SECONDS):
            raise NestlingError(
                f"phones must follow one another from 0 s on, silence being `sil`; got {symbol!r:.20} from {start:g} "
                f"to {end:g} s where {last:g} s was reached"
            )
        last = end
    return phones


def _resolve(path: str, folder: Path) -> tuple[str, Path]:
    """What a listed file is called, however its path is spelled, and the file itself."""
    file = Path(os.path.realpath(folder / path))
    home = os.path.realpath(folder)
    return (file.relative_to(home).as_posix() if file.is_relative_to(home) else path), file


def _shorten(seconds: float) -> str:
    return repr(seconds).removesuffix(".0")


def _seconds(values: Mapping[str, object], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_FILE_SECONDS:
        raise NestlingError(f"{key} must be a number of seconds, got {value!r:.40}")
    return float(value)
