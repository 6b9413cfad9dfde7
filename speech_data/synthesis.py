"""Writes the synthesised corpora: planned by a seed, spoken by espeak-ng shard by shard, stored for `Corpus`.

One seed gives one corpus. The plan is drawn from the seed alone; each shard is a fixed list of utterances,
spoken by a fresh process (espeak is not repeatable within one). So the number of workers does not matter.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

from search_spaces.errors import FailedError, NestlingError
from search_spaces.fresh_process import run_fresh
from speech_data.corpus import MANIFEST, SPLITS, Corpus
from speech_data.espeak import INSTALL_HINT, Espeak
from speech_data.plans import CorpusRecipe, PlannedUtterance, plan_split
from speech_data.recordings import Recording, record, record_silence
from speech_data.shards import Progress, folder_of_plan, new_corpus, shards_of_plan, write_shard

FULL = CorpusRecipe()
"""The default: about three hours."""
SMALL = CorpusRecipe("nestling-english-small", num_train=200, num_search=40, num_dev=40, num_test=40)
"""For a quick look: about twelve minutes of audio, made in seconds."""
VARIED = CorpusRecipe("nestling-english-varied", num_train=10_000, num_test=0, tract_spread=0.15)
"""What the demo teacher learnt from: about seven hours in which no two utterances share a voice."""
KEYWORDS = CorpusRecipe(
    "nestling-keywords", num_train=1500, num_search=300, num_dev=300, num_test=700, material="keywords"
)
"""Single words, in the manner of Speech Commands: the intent is one of `grammar.KEYWORD_CLASSES`."""
BY_NAME = {"demo": FULL, "demo-small": SMALL, "demo-varied": VARIED}
"""What `--audio` calls them: exactly so, it is no folder."""
COMMANDS = CorpusRecipe(
    "nestling-commands", num_train=1440, num_search=288, num_dev=288, num_test=720, material="commands"
)
"""Commands with an intent, in the manner of Fluent Speech Commands: voices differ between splits, wordings do not."""
VOICES = CorpusRecipe(
    "nestling-voices", num_train=176 * 7, num_search=336, num_dev=336, num_test=912, material="voices"
)
"""For speaker tasks: 176 speakers known from `train` speak in every split, and each other split has some of its own."""

TESTS = {
    recipe.material: replace(recipe, name=f"{recipe.name}-test", num_train=0, num_search=0, num_dev=0, crowd=True)
    for recipe in (FULL, KEYWORDS, COMMANDS)
}
"""What `test` is scored on, by material: the same kind of sentences by four times as many speakers. They are corpora of
their own, so that those that encoders learn from stay what they are."""


def synthesised_corpus(
    recipe: CorpusRecipe = FULL,
    *,
    allow_test: bool = False,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> Corpus:
    """The corpus of a recipe: from the cache, or synthesised into it first.

    Raises:
        NestlingError: It has to be synthesised, and espeakng-loader is not installed.
    """
    folder = corpus_folder(recipe)
    if not (folder / MANIFEST).is_file():
        synthesise_corpus(recipe, folder, workers=workers, on_progress=on_progress)
    return Corpus(folder, allow_test=allow_test)


def corpus_folder(recipe: CorpusRecipe) -> Path:
    """Where the cache keeps the corpus of a recipe; another text, voice or format means another folder."""
    return folder_of_plan(recipe.name, {split: plan_split(recipe, split) for split in SPLITS})


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
        NestlingError: The folder exists, or espeakng-loader is not installed.
        FailedError: A shard failed.
    """
    if find_spec("espeakng_loader") is None:
        raise NestlingError(INSTALL_HINT)
    shards = shards_of_plan({split: plan_split(recipe, split) for split in SPLITS})
    names = {split: list(plans) for split, plans in shards.items()}
    with new_corpus(Path(folder), recipe.name, names, asdict(recipe)) as scratch:
        _speak_shards([shard for plans in shards.values() for shard in plans.items()], scratch, workers, on_progress)


def _speak_shards(
    shards: Sequence[tuple[str, Sequence[PlannedUtterance]]],
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


def _speak_in_fresh_process(shard: Path, plan: Sequence[PlannedUtterance]) -> int:
    job = json.dumps({"shard": str(shard), "plan": [asdict(planned) for planned in plan]})
    try:
        run_fresh("speech_data.synthesis:speak_shard", given=job)
    except FailedError as error:
        raise FailedError(f"shard {shard.name} failed: {error}") from error
    return len(plan)


def speak_shard() -> None:
    """What a shard's process does: reads its job from standard input, writes the audio and the labels."""
    job = json.load(sys.stdin)
    espeak = Espeak()
    plan = [PlannedUtterance.from_dict(values) for values in job["plan"]]
    write_shard(Path(job["shard"]), [_speak(espeak, planned) for planned in plan])


def _speak(espeak: Espeak, planned: PlannedUtterance) -> Recording:
    if not planned.text:
        return record_silence(planned)
    speech = espeak.say(
        planned.text,
        planned.voice,
        rate=planned.rate,
        pitch=planned.pitch,
        pitch_range=planned.pitch_range,
        seed=planned.noise_seed,
    )
    return record(planned, speech, espeak.sample_rate_hz)
