"""Opens the audio that tasks read. Nothing else opens a test split for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from search_spaces.errors import NestlingError
from speech_data import synthesis
from speech_data.corpus import Corpus, SpeechCorpus
from speech_data.flite import flite_corpus
from speech_data.folder import FolderCorpus
from speech_data.librispeech import open_librispeech
from speech_data.plans import CorpusRecipe
from speech_data.speech_commands import open_speech_commands
from speech_data.synthesis import COMMANDS, FULL, KEYWORDS, SMALL, VOICES, synthesised_corpus
from speech_tasks import suite
from speech_tasks.feature_store import Rendition
from speech_tasks.task import Material

RECIPES: dict[str, CorpusRecipe] = {
    suite.SENTENCES: FULL,
    suite.KEYWORDS: KEYWORDS,
    suite.COMMANDS: COMMANDS,
    suite.VOICES: VOICES,
}
"""Name of a material -> what is synthesised for it."""
TESTS: dict[str, CorpusRecipe] = synthesis.TESTS
"""Name of a material -> what is synthesised for its `test`, where that is a corpus of its own."""
RENDITIONS: dict[str, Rendition] = {suite.VOICES: "noisier"}
"""How encoders hear a material, where not `noisy`: clean, the mean spectrum of a synthesised voice gives it away."""
SCORED = ("test", "dev", "both")
"""What may be scored: the split that is read once, the one to compare recipes on, or both by the same heads."""
MAX_NAMED = 5
"""Skipped files that are named one by one."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and how much there is."""


def open_materials(
    needed: Collection[str],
    *,
    scored: str = "test",
    out_of_domain: bool = True,
    librispeech: Path | None = None,
    speech_commands: Path | None = None,
    on_progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> dict[str, Material]:
    """Opens what some tasks read, and synthesises first what the cache lacks.

    Recordings of people are heard as they are, and have no second corpus. A task that wants labels they lack says so
    itself. The second corpus is left out, with a word, where its synthesiser is not installed.

    Args:
        needed: Names of materials, from `suite.find_materials`.
        scored: The split that scores are of, or `both`.
        out_of_domain: Whether to score the second corpus too; beside `test` alone.
        librispeech: Takes the place of the sentences.
        speech_commands: Takes the place of the keywords.
        on_progress: Called while files are looked at and speech is synthesised.
        say: Called with what a user should know.

    Raises:
        NestlingError: That split is not to be scored, a folder does not hold what it should, or synthesisers are
            missing.
    """
    if scored not in SCORED:
        raise NestlingError(f"scores are of {', '.join(SCORED)}; got {scored!r}: heads are fitted on the other splits")
    split, dev_too = ("test", True) if scored == "both" else (scored, False)
    folders = {suite.SENTENCES: librispeech, suite.KEYWORDS: speech_commands}
    corpora: dict[str, SpeechCorpus] = {}
    for name, folder in folders.items():  # first: what is wrong with a folder is said before anything is spent
        if folder and name in needed:
            corpora[name] = _open_recordings(name, folder, split, on_progress, say)
        elif folder:
            say(f"{folder} is not read: none of the tasks wants {name}")
    spoken = [name for name in needed if name not in corpora]
    for name in spoken:
        progress = partial(on_progress, f"synthesise {name}")
        own = split == "test" and name not in TESTS
        corpora[name] = synthesised_corpus(RECIPES[name], allow_test=own, on_progress=progress)
    tests: dict[str, SpeechCorpus] = {}
    for name in [name for name in spoken if split == "test" and name in TESTS]:
        progress = partial(on_progress, f"synthesise {name} of test")
        tests[name] = synthesised_corpus(TESTS[name], allow_test=True, on_progress=progress)
    others = _open_others(spoken if out_of_domain and split == "test" else (), on_progress, say)

    def rendition(name: str) -> Rendition:
        return "clean" if name not in spoken else RENDITIONS.get(name, "noisy")

    return {
        name: Material(corpora[name], rendition(name), others.get(name), split, dev_too, tests.get(name))
        for name in needed
    }


def open_test(small: bool = False) -> Corpus:
    """The synthesised sentences with their test split, for the last table of a demo."""
    return synthesised_corpus(SMALL if small else FULL, allow_test=True)


def _open_recordings(name: str, folder: Path, split: str, on_progress: Progress, say: Say) -> FolderCorpus:
    """Recordings of people; what of them cannot be used is named."""
    reader = open_librispeech if name == suite.SENTENCES else open_speech_commands
    corpus = reader(folder, allow_test=split == "test", on_progress=partial(on_progress, f"check {folder.name}"))
    for skipped in corpus.skipped[:MAX_NAMED]:
        say(f"skipped {skipped.path}: {skipped.reason}")
    if len(corpus.skipped) > MAX_NAMED:
        say(f"… and {len(corpus.skipped) - MAX_NAMED} more")
    return corpus


def _open_others(names: Collection[str], on_progress: Progress, say: Say) -> dict[str, SpeechCorpus]:
    """The second corpora; none if their synthesiser is missing."""
    others: dict[str, SpeechCorpus] = {}
    for name in names:
        progress = partial(on_progress, f"synthesise other {name}")
        try:
            others[name] = flite_corpus(name, allow_test=True, on_progress=progress)
        except NestlingError as error:
            say(f"nothing is scored out of domain: {error}")
            return {}
    return others
