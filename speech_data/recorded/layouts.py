"""What packages say of their recordings: a function for each corpus, from its unpacked files."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path
from types import MappingProxyType

from search_spaces.errors import NestlingError
from search_spaces.strict_yaml import read_bytes
from speech_data.espeak import SILENCE

_MAX_BYTES = 1 << 20
"""No file of labels is larger."""
_NOTE = r"[\[(<][^\])>]*[\])>]"
"""What stands in brackets in a transcript."""


@dataclass(frozen=True)
class Recording:
    """A recording and its labels."""

    file: str
    """In the folder of the corpus."""
    language: str
    speaker: str
    """Where nobody says who speaks, a language of a corpus counts as one speaker."""
    text: str | None = None
    intent: str | None = None
    phones: tuple[tuple[str, float], ...] = ()
    """(symbol, where it begins in seconds); each lasts until the next."""


def list_festvox_ru(folder: Path) -> Iterator[Recording]:
    """Read sentences, `( NAME "TEXT" )` a line; `+` follows a stressed vowel. Times of phones are in NAME.lab."""
    texts = dict(re.findall(r'^\(\s*(\S+)\s+"(.*)"\s*\)\s*$', _read(folder / "etc" / "txt.done.data"), re.MULTILINE))
    for file in sorted((folder / "wav").glob("*.wav")):
        text, phones = texts.get(file.stem), _read_lab(folder / "lab" / f"{file.stem}.lab")
        yield Recording(f"wav/{file.name}", "ru", "festvox-ru", _join((text or "").replace("+", "")), phones=phones)


def _read_lab(file: Path) -> tuple[tuple[str, float], ...]:
    """The phones of a file of ESPS labels, which say where each ends."""
    phones, start = [], 0.0
    for end, name in re.findall(r"^\s*([\d.]+)\s+\d+\s+(\S+)\s*$", _read(file), re.MULTILINE):
        phones.append((SILENCE if name == "pau" else name, start))
        start = float(end)
    return tuple(phones)


def list_asterisk(folder: Path) -> Iterator[Recording]:
    """Prompts in folders such as `en_US_f_Allison`, whose names tell language and speaker; NAME: TEXT a line.

    Tones and silences are left out: transcripts have nothing but a note in brackets for those.
    """
    texts = {file.name[12:14]: _read_prompts(file) for file in sorted(folder.glob("core-sounds-??.txt.gz"))}
    wordless = {name for prompts in texts.values() for name, text in prompts.items() if text == ""}
    for file in sorted(folder.glob("*_*/**/*.g722")):
        speaker, name = file.relative_to(folder).parts[0], file.relative_to(folder)
        prompt = "/".join(name.with_suffix("").parts[1:])
        if (language := speaker[:2]) not in texts:
            raise NestlingError(f"there is no core-sounds-{language}.txt.gz, which says what is said in {language}")
        if prompt not in wordless:
            prompts = texts[language]
            yield Recording(name.as_posix(), language, speaker, prompts.get(prompt, prompts.get(prompt.casefold())))


def _read_prompts(file: Path) -> dict[str, str]:
    """Texts by name, and by its lower case; none of those that are not written down."""
    with gzip.open(file) as opened:
        lines = opened.read(_MAX_BYTES).decode("utf-8-sig", "replace").splitlines()
    texts: dict[str, str] = {}
    for name, _, text in (line.partition(":") for line in lines if not line.startswith(";")):
        if text.strip():
            said = re.sub(rf"^\s*({_NOTE}\s*)+|\s*({_NOTE}\s*)+[.!]?\s*$", "", text)  # a note on how it is said
            said = _join(re.sub(r"[\[\]()<>]", "", said)) or ""
            for key in (name.strip(), name.strip().casefold()):
                texts.setdefault(key, said)
    return texts


def list_tuxpaint(folder: Path) -> Iterator[Recording]:
    """Descriptions of pictures, `STAMP_desc_LL.ogg`; `STAMP.txt` has them in English, then as `LL.utf8=TEXT` lines."""
    named = re.compile(r"(?P<stamp>.+)_desc(?:_(?P<language>[a-z]{2,3}(?:_[A-Z]{2})?(?:@[a-z]+)?))?\.(?:ogg|wav)")

    @cache
    def read(file: Path) -> dict[str, str]:
        english, *others = _read(file).splitlines() or [""] if file.is_file() else [""]
        return {"en": english, **dict(re.findall(r"^([\w@]+)\.utf8=(.*)$", "\n".join(others), re.MULTILINE))}

    for file in sorted(folder.rglob("*_desc*")):
        if found := named.fullmatch(file.name):
            language = found["language"] or "en"
            text = _join(read(file.with_name(found["stamp"] + ".txt")).get(language, ""))
            yield Recording(file.relative_to(folder).as_posix(), language, f"tuxpaint-{language}", text)


def list_ktuberling(folder: Path) -> Iterator[Recording]:
    """Things by name: the intent is what `LL.soundtheme` calls the thing in every language. Nobody wrote words down."""
    for place in sorted(path for path in folder.iterdir() if (folder / f"{path.name}.soundtheme").is_file()):
        names = _read_sounds(folder / f"{place.name}.soundtheme")
        language = place.name.partition("@")[0]  # four folders of one Serbian speaker
        for file in sorted(path for path in place.iterdir() if path.suffix in (".ogg", ".opus", ".wav")):
            name = f"{place.name}/{file.name}"
            yield Recording(name, language, f"ktuberling-{language}", intent=names.get(name))


def list_klettres(folder: Path) -> Iterator[Recording]:
    """Letters and syllables, which `LL/sounds.xml` has beside the names of their files."""
    for place in sorted(path.parent for path in folder.glob("*/sounds.xml")):
        texts = _read_sounds(place / "sounds.xml")
        for file in sorted(place.rglob("*.ogg")):
            name = file.relative_to(folder).as_posix()
            yield Recording(name, place.name, f"klettres-{place.name}", _join(texts.get(name, "")))


def _read_sounds(file: Path) -> dict[str, str]:
    """Names of sounds by file, of `<sound name="NAME" file="FILE"/>`; the first of several."""
    text = "".join(part.partition("-->")[2] for part in f"-->{_read(file)}".split("<!--"))  # without comments
    pairs = re.findall(r'<sound\s+name="([^"]*)"\s+file="([^"]*)"', text)
    return {unescape(path): unescape(name) for name, path in reversed(pairs)}


def _read(file: Path) -> str:
    return read_bytes(file, _MAX_BYTES).decode("utf-8-sig", "replace")


def _join(text: str) -> str | None:
    """With single blanks; None if nothing is left."""
    return " ".join(text.split()) or None


LAYOUTS: Mapping[str, Callable[[Path], Iterator[Recording]]] = MappingProxyType(
    {
        "festvox-ru": list_festvox_ru,
        "asterisk": list_asterisk,
        "tuxpaint": list_tuxpaint,
        "ktuberling": list_ktuberling,
        "klettres": list_klettres,
    }
)
"""The corpora of `table.CORPORA`, by name."""
