"""What a synthesised corpus says: who speaks which words how, drawn from a seed before anything is spoken."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from search_spaces.errors import NestlingError
from speech_data.grammar import (
    INTENTS,
    KEYWORD_CLASSES,
    NO_INTENT,
    NO_WORD,
    UNKNOWN_WORD,
    Sentence,
    command_phrases,
    draw_sentence,
    draw_short_sentence,
    other_words,
)
from speech_data.splits import place_of_name, split_at
from speech_data.voices import SPEAKERS, STYLES, Speaker, Voice, crowd

SPLIT_SHARES = {"train": 70, "search": 10, "dev": 10, "test": 10}
"""Share of all possible sentences, in percent, that may occur in a split."""
TRACTS = (0.86, 0.95, 1.05, 1.16)
"""Each variant is so many speakers in the corpus of voices, by the length of the vocal tract."""
TEST_TRACTS = (0.82, 0.86, 0.91, 0.95, 1.0, 1.05, 1.1, 1.16)
"""Of the unseen speakers of `test`, who are more because they are what an error rate's interval is over."""
TURNS = {"train": (1, 0), "search": (1, 5), "dev": (1, 5), "test": (3, 4)}
"""How often a speaker known from `train`, and one of the split's own, has a turn in a round of the voices."""
NUM_TRIES = 10_000

Item = TypeVar("Item")


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
    material: str = "sentences"
    """One of `SCRIPTS`: what is said, and by whom."""
    crowd: bool = False
    """Whether the speakers are those of `voices.crowd`."""

    def num_utterances(self, split: str) -> int:
        """How many utterances a split gets."""
        return {
            "train": self.num_train,
            "search": self.num_search,
            "dev": self.num_dev,
            "test": self.num_test,
        }[split]


@dataclass(frozen=True)
class PlannedUtterance:
    """What is to be said, by whom and how."""

    id: str
    speaker: str
    voice: str
    """The synthesiser's file."""
    text: str
    """Empty if nothing is said: then a faint noise is recorded for `lead_ms` + `trail_ms`."""
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlannedUtterance:
        """The utterance whose `asdict` went through JSON."""
        return cls(**{**values, "slots": tuple((slot, value) for slot, value in values["slots"])})


@dataclass(frozen=True)
class Script:
    """Who has a turn and what is said."""

    speakers: Callable[[str], Sequence[Speaker]]
    """One round of turns in a split; who is listed twice has two turns in it."""
    sayings: Callable[[str, random.Random], Iterator[Sentence]]
    """What is said in a split, without end."""


def plan_split(recipe: CorpusRecipe, split: str) -> list[PlannedUtterance]:
    """The utterances of a split: the speakers of its script take turns to say what the script says.

    Raises:
        NestlingError: There is no such material, or not so many different sentences.
    """
    if recipe.material not in SCRIPTS:
        raise NestlingError(f"no material {recipe.material!r}; there are {', '.join(SCRIPTS)}")
    script = SCRIPTS[recipe.material]
    rng = random.Random(f"{recipe.seed}/{split}")
    return plan_utterances(
        split,
        recipe.num_utterances(split),
        crowd(split) if recipe.crowd else script.speakers(split),
        script.sayings(split, rng),
        rng,
        tract_spread=recipe.tract_spread,
    )


def plan_utterances(
    prefix: str,
    count: int,
    speakers: Sequence[Speaker],
    sayings: Iterator[Sentence],
    rng: random.Random,
    *,
    styles: Sequence[str] = tuple(sorted(STYLES)),
    tract_spread: float = 0.0,
) -> list[PlannedUtterance]:
    """Gives each of `count` sayings a speaker, whose turn it is, and a manner of speaking.

    Args:
        prefix: What ids begin with.
        count: How many utterances.
        speakers: One round of turns; each round has another order.
        sayings: At least `count` of them; they may draw from `rng`.
        rng: All randomness comes from it.
        styles: Of `STYLES`, drawn for each utterance.
        tract_spread: As in `CorpusRecipe`.
    """
    turns = _rounds(speakers, rng)
    plan = []
    for i in range(count):
        speaker = next(turns)
        style = rng.choice(styles)
        manner = STYLES[style]
        saying = next(sayings)
        tract = speaker.tract
        if tract_spread:
            tract = round(tract * rng.uniform(1 - tract_spread, 1 + tract_spread), 3)
        planned = PlannedUtterance(
            id=f"{prefix}-{i:05d}",
            speaker=speaker.name,
            voice=speaker.file,
            text=saying.text,
            intent=saying.intent,
            slots=saying.slots,
            style=style,
            rate=round(speaker.rate * manner.rate * tract * rng.uniform(0.94, 1.06)),
            pitch=speaker.pitch + manner.pitch + rng.randint(-4, 4),
            pitch_range=max(0, manner.pitch_range + rng.randint(-5, 5)),
            lead_ms=rng.randint(40, 240),
            trail_ms=rng.randint(0, 160),
            noise_seed=rng.randint(1, 2**31 - 1),
            tract=tract,
        )
        # As long as a word with the silence around it: 0.6 to 1 s.
        plan.append(planned if planned.text else replace(planned, lead_ms=560 + planned.lead_ms))
    return plan


def split_of_sentence(text: str) -> str:
    """The only split, whatever the seed, that may hold a sentence; also of a word that stands alone."""
    return split_at(place_of_name(text), SPLIT_SHARES)


def distinct_sentences(split: str, rng: random.Random) -> Iterator[Sentence]:
    """Sentences of a split without end: about two in five have no intent, the others share them evenly.

    Raises:
        NestlingError: The grammar has no further one (in 10,000 tries).
    """
    commands = [intent for intent in INTENTS if intent != NO_INTENT]
    return _distinct(split, lambda: draw_sentence(NO_INTENT if rng.random() < 0.4 else rng.choice(commands), rng))


def repeated_commands(_: str, rng: random.Random) -> Iterator[Sentence]:
    """The same few commands in every split, in turn, without end; only voices differ between splits."""
    return _rounds(command_phrases(), rng)


def short_sentences(split: str, rng: random.Random) -> Iterator[Sentence]:
    """Sentences of a split that take about 2 s, without end.

    Raises:
        NestlingError: The grammar has no further one (in 10,000 tries).
    """
    return _distinct(split, lambda: draw_short_sentence(rng))


def _distinct(split: str, draw: Callable[[], Sentence]) -> Iterator[Sentence]:
    """The draws that belong to a split and were not drawn before."""
    said: set[str] = set()
    while True:
        for _ in range(NUM_TRIES):
            sentence = draw()
            if sentence.text not in said and split_of_sentence(sentence.text) == split:
                break
        else:
            raise NestlingError(f"the grammar gives no more than {len(said)} sentences for {split!r}; ask for fewer")
        said.add(sentence.text)
        yield sentence


def single_words(split: str, rng: random.Random) -> Iterator[Sentence]:
    """Single words without end; the intent is the class. The twelve classes take turns.

    Other words are a split's own. Nothing is said for silence: its text is empty.
    """
    classes = _rounds(KEYWORD_CLASSES, rng)
    others = _rounds([word for word in other_words() if split_of_sentence(word) == split], rng)
    for name in classes:
        if name == UNKNOWN_WORD:
            yield Sentence(next(others), name, ())
        else:
            yield Sentence("" if name == NO_WORD else name, name, ())


def _voices_of_split(split: str) -> Sequence[Speaker]:
    return SPEAKERS[split]


def _known_and_unseen(split: str) -> Sequence[Speaker]:
    """The train speakers, who are known in every split, and those of the split's own, as often as `TURNS` says."""
    num_known, num_own = TURNS[split]
    own = _with_tracts(SPEAKERS[split], TEST_TRACTS if split == "test" else TRACTS)
    return [*_with_tracts(SPEAKERS["train"], TRACTS) * num_known, *own * num_own]


def _with_tracts(voices: Sequence[Voice], tracts: Sequence[float]) -> list[Voice]:
    return [replace(voice, tract=tract) for voice in voices for tract in tracts]


def _rounds(items: Sequence[Item], rng: random.Random) -> Iterator[Item]:
    """The items in rounds without end, each round in another order."""
    order = list(items)
    while True:
        rng.shuffle(order)
        yield from order


SCRIPTS: dict[str, Script] = {
    "sentences": Script(_voices_of_split, distinct_sentences),
    "keywords": Script(_voices_of_split, single_words),
    "commands": Script(_voices_of_split, repeated_commands),
    "voices": Script(_known_and_unseen, short_sentences),
}
"""By material."""
