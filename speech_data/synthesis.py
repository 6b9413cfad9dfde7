"""Writes the synthesised corpus: planned by a seed, spoken by espeak-ng shard by shard, stored for `Corpus`.

One seed gives one corpus. The plan is drawn from the seed alone; each shard is a fixed list of utterances,
spoken by a fresh process (espeak is not repeatable within one). So the number of workers does not matter.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from speech_data.corpus import MANIFEST, SAMPLE_RATE_HZ, SPLITS, Corpus, Span, Utterance, cache_folder
from speech_data.espeak import INSTALL_HINT, PHONE_CLASSES, SILENCE, Espeak, Speech
from speech_data.grammar import INTENTS, NO_INTENT, Sentence, draw_sentence
from speech_data.voices import STYLES, VOICES

FORMAT = 1
"""Raise it when the same plan would be stored or labelled differently."""
UTTERANCES_PER_SHARD = 200
LEVEL = 0.06
"""Root mean square of every utterance, full scale being 1."""
SPLIT_SHARES = {"train": 70, "search": 10, "dev": 10, "test": 10}
"""Share of all possible sentences, in percent, that may occur in a split."""

Progress = Callable[[int, int], None]
"""Called with the number of utterances done and the number of all."""


@dataclass(frozen=True)
class CorpusRecipe:
    """What to synthesise. The same recipe gives the same corpus."""

    name: str = "nestling-english"
    seed: int = 0
    num_train: int = 4000
    num_search: int = 300
    num_dev: int = 300
    num_test: int = 500
    tract_spread: float = 0.0
    """Each utterance's vocal tract is longer or shorter by this share at most, which makes a new voice of it."""

    def num_utterances(self, split: str) -> int:
        """How many utterances a split gets."""
        return {
            "train": self.num_train,
            "search": self.num_search,
            "dev": self.num_dev,
            "test": self.num_test,
        }[split]


FULL = CorpusRecipe()
"""The default: about three hours."""
SMALL = CorpusRecipe("nestling-english-small", num_train=200, num_search=40, num_dev=40, num_test=40)
"""For a quick look: about twelve minutes of audio, made in seconds."""
VARIED = CorpusRecipe("nestling-english-varied", num_train=10_000, num_test=0, tract_spread=0.15)
"""What the demo teacher learnt from: about seven hours in which no two utterances share a voice."""


@dataclass(frozen=True)
class PlannedUtterance:
    """What is to be said, by whom and how."""

    id: str
    speaker: str
    voice: str
    """espeak's file."""
    text: str
    intent: str
    slots: tuple[tuple[str, str], ...]
    style: str
    rate: int
    pitch: int
    pitch_range: int
    lead_ms: int
    """Silence before the first word."""
    trail_ms: int
    """Silence added after the last word."""
    noise_seed: int
    """Of the voice's breath."""
    tract: float = 1.0
    """Length of the vocal tract over the voice's own: formants and pitch are lower by this factor."""


def synthesised_corpus(
    recipe: CorpusRecipe = FULL,
    *,
    allow_test: bool = False,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Corpus:
    """The corpus of a recipe: from the cache, or synthesised into it first.

    Raises:
        ValueError: It has to be synthesised, and espeakng-loader is not installed.
    """
    folder = corpus_folder(recipe)
    if not (folder / MANIFEST).is_file():
        synthesise_corpus(recipe, folder, workers=workers, on_progress=on_progress)
    return Corpus(folder, allow_test=allow_test)


def corpus_folder(recipe: CorpusRecipe) -> Path:
    """Where the cache keeps the corpus of a recipe; another text, voice or format means another folder."""
    plan = {split: [asdict(planned) for planned in plan_split(recipe, split)] for split in SPLITS}
    key = hashlib.sha256(json.dumps([FORMAT, plan], sort_keys=True).encode()).hexdigest()
    return cache_folder() / "corpora" / f"{recipe.name}-{key[:10]}"


def synthesise_corpus(
    recipe: CorpusRecipe, folder: Path, *, workers: int | None = None, on_progress: Progress | None = None
) -> None:
    """Speaks the corpus of a recipe into a new folder, which appears only once it is complete.

    Args:
        recipe: What to synthesise.
        folder: Where; must not exist.
        workers: Processes at a time. Default: one for each core.
        on_progress: Called after each shard.

    Raises:
        ValueError: The folder exists, or espeakng-loader is not installed.
        RuntimeError: A shard failed.
    """
    if find_spec("espeakng_loader") is None:
        raise ValueError(INSTALL_HINT)
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists; delete it to synthesise the corpus again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shards = {split: _shards(split, plan_split(recipe, split)) for split in SPLITS}
        _speak_shards([shard for split in SPLITS for shard in shards[split].items()], scratch, workers, on_progress)
        manifest = {
            "format": FORMAT,
            "name": recipe.name,
            "hash": _content_hash(scratch),
            "phones": sorted(set(PHONE_CLASSES.values())),
            "recipe": asdict(recipe),
            "shards": {split: list(shards[split]) for split in SPLITS},
        }
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        scratch.chmod(0o755)
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def plan_split(recipe: CorpusRecipe, split: str) -> list[PlannedUtterance]:
    """The utterances of a split; each says another sentence, and the voices take turns."""
    rng = random.Random(f"{recipe.seed}/{split}")
    voices = list(VOICES[split])
    sentences = _distinct_sentences(split, rng)
    plan = []
    for i in range(recipe.num_utterances(split)):
        if i % len(voices) == 0:
            rng.shuffle(voices)
        voice = voices[i % len(voices)]
        style = rng.choice(sorted(STYLES))
        manner = STYLES[style]
        sentence = next(sentences)
        spread = recipe.tract_spread
        tract = round(rng.uniform(1 - spread, 1 + spread), 3) if spread else 1.0
        plan.append(
            PlannedUtterance(
                id=f"{split}-{i:05d}",
                speaker=voice.name,
                voice=voice.file,
                text=sentence.text,
                intent=sentence.intent,
                slots=sentence.slots,
                style=style,
                rate=round(voice.rate * manner.rate * tract * rng.uniform(0.94, 1.06)),
                pitch=voice.pitch + manner.pitch + rng.randint(-4, 4),
                pitch_range=max(0, manner.pitch_range + rng.randint(-5, 5)),
                lead_ms=rng.randint(40, 240),
                trail_ms=rng.randint(0, 160),
                noise_seed=rng.randint(1, 2**31 - 1),
                tract=tract,
            )
        )
    return plan


def split_of_sentence(text: str) -> str:
    """The only split, whatever the seed, that may hold a sentence."""
    place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100
    for split, share in SPLIT_SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")


def _distinct_sentences(split: str, rng: random.Random) -> Iterator[Sentence]:
    """Sentences of a split without end: about two in five have no intent, the others share them evenly."""
    commands = [intent for intent in INTENTS if intent != NO_INTENT]
    said: set[str] = set()
    while True:
        for _ in range(10_000):
            intent = NO_INTENT if rng.random() < 0.4 else rng.choice(commands)
            sentence = draw_sentence(intent, rng)
            if sentence.text not in said and split_of_sentence(sentence.text) == split:
                break
        else:
            raise ValueError(f"the grammar gives no more than {len(said)} sentences for {split!r}; ask for fewer")
        said.add(sentence.text)
        yield sentence


def _shards(split: str, plan: list[PlannedUtterance]) -> dict[str, list[PlannedUtterance]]:
    return {
        f"{split}-{first // UTTERANCES_PER_SHARD:03d}": plan[first : first + UTTERANCES_PER_SHARD]
        for first in range(0, len(plan), UTTERANCES_PER_SHARD)
    }


def _speak_shards(
    shards: list[tuple[str, list[PlannedUtterance]]],
    folder: Path,
    workers: int | None,
    on_progress: Progress | None,
) -> None:
    """Speaks each shard in a process of its own, `workers` at a time."""
    total = sum(len(plan) for _, plan in shards)
    done = 0
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        jobs = [pool.submit(_speak_in_fresh_process, folder / name, plan) for name, plan in shards]
        try:
            for job in jobs:
                done += job.result()
                if on_progress is not None:
                    on_progress(done, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _speak_in_fresh_process(shard: Path, plan: list[PlannedUtterance]) -> int:
    job = json.dumps({"shard": str(shard), "plan": [asdict(planned) for planned in plan]})
    root = Path(__file__).resolve().parent.parent
    process = subprocess.run(
        [sys.executable, "-c", "from speech_data.synthesis import speak_shard; speak_shard()"],
        input=job,
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(f"shard {shard.name} failed: {lines[-1]}")
    return len(plan)


def speak_shard() -> None:
    """What a shard's process does: reads its job from standard input, writes the audio and the labels."""
    job = json.load(sys.stdin)
    espeak = Espeak()
    waves, labels = [], []
    for values in job["plan"]:
        planned = PlannedUtterance(**{**values, "slots": tuple((slot, value) for slot, value in values["slots"])})
        speech = espeak.say(
            planned.text,
            planned.voice,
            rate=planned.rate,
            pitch=planned.pitch,
            pitch_range=planned.pitch_range,
            seed=planned.noise_seed,
        )
        rate_hz = espeak.sample_rate_hz / planned.tract  # played slower, a tract sounds longer
        wave = _finish_wave(speech, rate_hz, planned)
        waves.append(wave)
        labels.append(_label(planned, speech, rate_hz, len(wave)).to_dict())
    np.save(Path(job["shard"] + ".npy"), np.concatenate(waves))
    lines = "".join(json.dumps(label, separators=(",", ":")) + "\n" for label in labels)
    Path(job["shard"] + ".jsonl").write_text(lines, "utf-8")


def _finish_wave(speech: Speech, sample_rate_hz: float, planned: PlannedUtterance) -> NDArray[np.int16]:
    """At 16 kHz, at the common level, with silence on both sides."""
    wave = soxr.resample(speech.wave.astype(np.float32) / 32768, sample_rate_hz, SAMPLE_RATE_HZ)
    wave = wave * min(LEVEL / max(float(np.sqrt(np.mean(wave**2))), 1e-6), 0.99 / max(float(np.abs(wave).max()), 1e-6))
    silences = [np.zeros(ms * SAMPLE_RATE_HZ // 1000, np.float32) for ms in (planned.lead_ms, planned.trail_ms)]
    finished: NDArray[np.int16] = np.round(np.concatenate([silences[0], wave, silences[1]]) * 32767).astype(np.int16)
    return finished


def _label(planned: PlannedUtterance, speech: Speech, sample_rate_hz: float, num_samples: int) -> Utterance:
    lead = planned.lead_ms / 1000
    end = num_samples / SAMPLE_RATE_HZ
    phones = _tile([(name, lead + sample / sample_rate_hz) for name, sample in speech.phones], end)
    starts = [(position, lead + sample / sample_rate_hz) for position, sample in speech.words]
    return Utterance(
        id=planned.id,
        speaker=planned.speaker,
        num_samples=num_samples,
        text=planned.text,
        phones=phones,
        words=_time_words(planned.text, starts, phones),
        intent=planned.intent,
        slots=planned.slots,
        style=planned.style,
    )


def _tile(starts: list[tuple[str, float]], end: float) -> tuple[Span, ...]:
    """Phones that tile [0, end]: each lasts until the next; neighbouring silences are one."""
    spans: list[Span] = []
    for symbol, announced in [(SILENCE, 0.0), *starts]:
        start = round(min(announced, end), 4)
        if spans and spans[-1][0] == symbol == SILENCE:
            continue
        if spans:
            spans[-1] = (spans[-1][0], spans[-1][1], start)
        spans.append((symbol, start, round(end, 4)))
    return tuple(span for span in spans if span[2] > span[1])


def _time_words(text: str, starts: list[tuple[int, float]], phones: tuple[Span, ...]) -> tuple[Span, ...]:
    """Words with the times of their phones.

    A word is announced a little before its first phone, and some function words ("in the") are announced
    together: their phones are divided in proportion to the letters.

    Args:
        text: Words with single blanks between them.
        starts: (position of the first character, announced at, in seconds), in time order.
        phones: They tile the utterance.
    """
    groups: list[tuple[list[str], float]] = []  # words announced together, and when
    announced = dict(reversed(starts))  # the first announcement of a position counts
    position = 0
    for word in text.split():
        if position in announced or not groups:
            groups.append(([word], announced.get(position, 0.0)))
        else:
            groups[-1][0].append(word)
        position += len(word) + 1
    spoken = [phone for phone in phones if phone[0] != SILENCE]
    words: list[Span] = []
    for i, (members, start) in enumerate(groups):
        stop = groups[i + 1][1] if i + 1 < len(groups) else float("inf")
        own = [phone for phone in spoken if start - 1e-3 <= phone[1] < stop - 1e-3]
        words.extend(_divide(members, own))
    return tuple(words)


def _divide(words: list[str], phones: list[Span]) -> Iterator[Span]:
    """Each word with its share of the phones, by letters; a word without a phone is left out."""
    letters = sum(map(len, words))
    first, seen = 0, 0
    for word in words:
        seen += len(word)
        last = round(len(phones) * seen / letters)
        if last > first:
            yield word, phones[first][1], phones[last - 1][2]
        first = last


def _content_hash(folder: Path) -> str:
    """Of the names and bytes of all files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _publish(scratch: Path, folder: Path) -> None:
    """Renames the finished folder into place. If another process was first, its corpus, the same, stays."""
    try:
        scratch.rename(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise
