"""A second synthesiser, for tests alone: other voices and another way to make sound than what encoders learnt from.

flite (Carnegie Mellon's, a program of most Linux distributions) has three statistical voices and one of diphones, all
from recordings of people, where espeak computes formants. Its corpora have only the split `test`, so nothing can be
trained or chosen on them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import soundfile

from search_spaces.errors import FailedError, NestlingError
from speech_data.corpus import MANIFEST, Corpus
from speech_data.espeak import SILENCE, Speech
from speech_data.grammar import Sentence
from speech_data.plans import (
    PlannedUtterance,
    distinct_sentences,
    plan_utterances,
    repeated_commands,
    short_sentences,
    single_words,
)
from speech_data.recordings import Recording, record, record_silence
from speech_data.shards import Progress, folder_of_plan, new_corpus, shards_of_plan, write_shard
from speech_data.voices import name_speaker

INSTALL_HINT = "the out-of-domain set needs flite; run: apt-get install flite (or your system's package of that name)"
VOICES = ("awb", "kal16", "rms", "slt")
"""A Scottish man, two American men, of whom kal16 is made of diphones, and an American woman."""
TRACTS = (0.86, 0.93, 1.0, 1.08, 1.16)
"""In the corpus of voices, each voice is as many speakers."""
USUAL_RATE = 175
"""Words a minute that a voice is taken to speak by itself."""
SECONDS_PER_CALL = 60

PAUSE = "pau"
_ALIKE = "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
PHONES = {PAUSE: SILENCE, **{name: name for name in _ALIKE.split()}}
"""flite's phone -> class of `espeak.PHONE_CLASSES`. Of the classes only `oh` is missing: Americans have `aa` for it."""


@dataclass(frozen=True)
class FliteVoice:
    """A speaker of flite."""

    file: str
    """What flite calls the voice."""
    tract: float = 1.0
    """Length of the vocal tract over the voice's own."""
    rate: int = USUAL_RATE
    """Words a minute."""
    pitch: int = 50
    """50 is the voice's own."""

    @property
    def name(self) -> str:
        """What labels call the speaker."""
        return name_speaker(f"{self.file}-flite", self.tract)


@dataclass(frozen=True)
class FliteRecipe:
    """What flite is to say. The same recipe and version of flite give the same corpus."""

    name: str
    num_test: int
    tracts: tuple[float, ...]
    sayings: Callable[[str, random.Random], Iterator[Sentence]]


RECIPES = {
    "sentences": FliteRecipe("nestling-flite", 200, (1.0,), distinct_sentences),
    "keywords": FliteRecipe("nestling-flite-keywords", 360, (1.0,), single_words),
    "commands": FliteRecipe("nestling-flite-commands", 288, (1.0,), repeated_commands),
    "voices": FliteRecipe("nestling-flite-voices", 160, TRACTS, short_sentences),
}
"""By material, as `plans.SCRIPTS`: they say what the test split of the synthesised corpus may say."""


def flite_corpus(
    material: str = "sentences",
    *,
    allow_test: bool = False,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Corpus:
    """What flite says of a material: from the cache, or synthesised into it first. Its only split is `test`.

    Args:
        material: `sentences`, `keywords`, `commands` or `voices`.
        allow_test: Whether it may be read at all. Only evaluation passes True.
        workers: Utterances at a time. Default: one for each core.
        on_progress: Called after each utterance.

    Raises:
        NestlingError: There is no such material; or it has to be synthesised, and flite is not installed.
        FailedError: flite failed, or said a phone that is not among `PHONES`.
    """
    plan = plan_test(material)
    name = RECIPES[material].name
    folder = folder_of_plan(name, {"test": plan})
    if not (folder / MANIFEST).is_file():
        synthesise_test(name, plan, folder, workers=workers, on_progress=on_progress)
    return Corpus(folder, allow_test=allow_test)


def plan_test(material: str) -> list[PlannedUtterance]:
    """The utterances of a material. The manner is neutral, for flite's voices do not all obey a style.

    Raises:
        NestlingError: There is no such material.
    """
    if material not in RECIPES:
        raise NestlingError(f"flite speaks no {material!r}; it speaks {', '.join(RECIPES)}")
    recipe = RECIPES[material]
    rng = random.Random(f"flite/{material}")
    return plan_utterances(
        "flite",
        recipe.num_test,
        [FliteVoice(voice, tract) for voice in VOICES for tract in recipe.tracts],
        recipe.sayings("test", rng),
        rng,
        styles=("neutral",),
    )


def synthesise_test(
    name: str,
    plan: Sequence[PlannedUtterance],
    folder: Path,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Speaks a plan into a new folder, which appears only once it is complete.

    Raises:
        NestlingError: The folder exists, or flite is not installed.
        FailedError: flite failed, or said a phone that is not among `PHONES`.
    """
    program = shutil.which("flite")
    if program is None:
        raise NestlingError(INSTALL_HINT)
    shards = shards_of_plan({"test": plan})["test"]
    available = _run(program, ["-lv"]).partition(":")[2].split()
    if missing := sorted({planned.voice for planned in plan} - set(available)):
        # It would speak with another voice and say nothing about it.
        raise NestlingError(f"{program} lacks the voices {', '.join(missing)}; it has {', '.join(available)}")
    manifest = {"synthesiser": "flite"}
    done = 0
    with (
        new_corpus(folder, name, {"test": list(shards)}, manifest) as scratch,
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
    ):
        for shard, utterances in shards.items():
            recordings = []
            for recording in pool.map(lambda planned: _speak(program, planned), utterances):
                recordings.append(recording)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(plan))
            write_shard(scratch / shard, recordings)


def _speak(program: str, planned: PlannedUtterance) -> Recording:
    """One utterance. The voice `rms` keeps its own pitch, whatever is asked."""
    if not planned.text:
        return record_silence(planned)
    manner = {"duration_stretch": USUAL_RATE / planned.rate, "f0_shift": 2 ** ((planned.pitch - 50) / 50)}
    speech, sample_rate_hz = say(program, planned.text, planned.voice, manner)
    return record(planned, speech, sample_rate_hz)


def say(program: str, text: str, voice: str, features: dict[str, float]) -> tuple[Speech, int]:
    """Speech for a text, and its sample rate in Hz.

    Args:
        program: flite.
        text: Words; no digits and no full stops.
        voice: Of `VOICES`.
        features: flite's, such as `duration_stretch`.

    Raises:
        FailedError: flite failed, or said a phone that is not among `PHONES`.
    """
    settings = [word for name, value in features.items() for word in ("--setf", f"{name}={value:.4f}")]
    with tempfile.TemporaryDirectory(prefix="flite-") as scratch:
        sound = Path(scratch) / "said.wav"
        printed = _say_file(program, scratch, text, "-voice", voice, *settings, "-psdur", "-o", str(sound))
        wave, sample_rate_hz = soundfile.read(sound, dtype="int16")
        phones = _parse_phones(printed, sample_rate_hz)
        words = text.split()
        # Commas make a pause between words, so this tells which phones are whose. The voice does not matter.
        apart = _say_file(program, scratch, ", ".join(words), "-voice", "kal16", "-ps", "-o", "none").split()
    sizes = [len(list(group)) for pause, group in groupby(apart, lambda phone: phone == PAUSE) if not pause]
    return Speech(wave, phones, _place_words(words, sizes, phones)), sample_rate_hz


def _parse_phones(printed: str, sample_rate_hz: int) -> tuple[tuple[str, int], ...]:
    """Each phone's class and first sample, from flite's `name:end name:end …` in seconds."""
    phones, start = [], 0
    for name, end in re.findall(r"(\S+):(\d+\.\d+)", printed):
        if name not in PHONES:
            raise FailedError(f"flite's phone {name!r} has no class; add it to PHONES")
        phones.append((PHONES[name], start))
        start = round(float(end) * sample_rate_hz)
    if not phones:
        raise FailedError(f"flite printed no phones but {printed[:100]!r}")
    return tuple(phones)


def _place_words(
    words: Sequence[str], sizes: Sequence[int], phones: Sequence[tuple[str, int]]
) -> tuple[tuple[int, int], ...]:
    """The position in the text of each word and its first sample.

    Where a word is said with another number of phones than alone, only the first is placed: times of words are
    then shares of the whole by their letters.

    Args:
        words: Of the text.
        sizes: How many phones each has by itself.
        phones: (class, first sample) as said, silences included.
    """
    starts = [start for name, start in phones if name != SILENCE]
    if len(sizes) != len(words) or sum(sizes) != len(starts):
        return ((0, starts[0]),)
    places = []
    position = first = 0
    for word, size in zip(words, sizes, strict=True):
        places.append((position, starts[first]))
        position += len(word) + 1
        first += size
    return tuple(places)


def _say_file(program: str, scratch: str, text: str, *arguments: str) -> str:
    """What flite prints when it says a text, which travels in a file."""
    file = Path(scratch) / "text.txt"
    file.write_text(text + "\n", "utf-8")
    return _run(program, [*arguments, "-f", str(file)])


def _run(program: str, arguments: Sequence[str]) -> str:
    try:
        process = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=SECONDS_PER_CALL,
        )
    except subprocess.TimeoutExpired as error:
        raise FailedError(f"flite {' '.join(arguments)} took over {SECONDS_PER_CALL} s") from error
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise FailedError(f"flite {' '.join(arguments)} failed: {lines[-1]}")
    return process.stdout
