"""Slot filling: which slots a command has, and their values, letter by letter. SUPERB's SF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from search_spaces.errors import NestlingError
from speech_data.corpus import Utterance
from speech_data.grammar import NO_INTENT
from speech_tasks.characters import plain_text
from speech_tasks.ctc import RecurrentHead, Spoken, Symbols, fit_writer
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.metrics import Slot, slot_tallies, slot_value_tallies
from speech_tasks.task import Material, Score, score_ratio

PLAN = Plan(epochs=9, learning_rates=(3e-3, 1e-2))
_MARK = re.compile(r"</?[^<>]+>")
_MARKED = re.compile(r"<([^</>]+)>(.+?)</\1>")


class Slots:
    """F1 of the slot types of a command, and the character error rate of the values.

    The head writes the command with a mark before and after each value, such as `turn on the <room>kitchen</room>
    <device>lights</device>`; a mark is one symbol. Departs from SUPERB in its data, in the size of its head and in
    9 epochs.

    Synthesised commands are worded alike in every split: a head may know them by heart, and what is asked is whether it
    hears them from a new voice. `comparison.py` says so beside the numbers.

    Args:
        material: Utterances with a text and slots; those whose intent is `none` are left out.
        num_train: Commands the head is fitted on.
        num_search: Commands that choose the learning rate.

    Raises:
        NestlingError: An utterance has no slots, or a value that its text does not say.

    Source: SUPERB (arXiv 2105.01051), 3, SF; the marks are those of its reference code.
    """

    name = "slots"
    metrics = ("slot F1", "slot CER")

    def __init__(self, material: Material, num_train: int = 1000, num_search: int = 150) -> None:
        self.train = label_slots(material.clips("train", num_train, is_command))
        self.search = label_slots(material.clips("search", num_search, is_command))
        sets = {condition: label_slots(clips) for condition, clips in material.scored_sets(accept=is_command).items()}
        # Without a slot there is neither a right type to find nor a value to get wrong.
        self.scored = {c: part for c, part in sets.items() if any(spoken.clip.utterance.slots for spoken in part)}

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [spoken.clip for part in (self.train, self.search, *self.scored.values()) for spoken in part]

    def score(self, store: FeatureStore) -> list[Score]:
        """F1 and the error rate of the values in each condition."""
        writer = fit_writer(store, self.train, self.search, RecurrentHead, PLAN, masks=True)
        settings = {"learning rate": writer.fitted.learning_rate}
        scores = []
        for condition, part in self.scored.items():
            clips = [spoken.clip for spoken in part]
            said = [clip.utterance.slots for clip in clips]
            heard = [[find_slots(x) for x in one] for one in writer.write(store, clips)]
            for metric, tally in zip(self.metrics, (slot_tallies, slot_value_tallies), strict=True):
                tallies = np.stack([tally(said, one) for one in heard])
                scores.append(score_ratio(metric, condition, tallies, clips, settings=settings))
        return scores


def is_command(utterance: Utterance) -> bool:
    """Whether an utterance asks for something."""
    return utterance.intent != NO_INTENT


def label_slots(clips: Sequence[Clip]) -> list[Spoken]:
    """The commands among clips with their characters and marks.

    Raises:
        NestlingError: An utterance has no slots, or a value that its text does not say.
    """
    return [Spoken(clip, mark_slots(clip)) for clip in clips if is_command(clip.utterance)]


def mark_slots(clip: Clip) -> Symbols:
    """The characters of a command, with a mark before and after the value of each slot.

    Raises:
        NestlingError: It has no slots, or a value that its text does not say where it should: after the slot before.
    """
    utterance, text = clip.utterance, plain_text(clip)
    if not utterance.slots and utterance.intent is None:
        raise NestlingError(f"{utterance.id} is labelled with no slots; slot filling wants a corpus of commands")
    symbols: list[str] = []
    place = 0
    for slot, value in utterance.slots:
        found = re.compile(rf"(?<!\S){re.escape(value)}(?!\S)").search(text, place)
        if found is None:
            raise NestlingError(
                f"{utterance.id} has the slot {slot} with the value {value!r}, which {text[place:]!r} does not say; "
                f"slots want the words of the text, in spoken order"
            )
        symbols += [*text[place : found.start()], f"<{slot}>", *value, f"</{slot}>"]
        place = found.end()
    return (*symbols, *text[place:])


def find_slots(symbols: Symbols) -> list[Slot]:
    """The slots in what a head wrote: (slot, what is between its marks); a mark without its other is nothing."""
    slots = ((found[1], _MARK.sub("", found[2])) for found in _MARKED.finditer("".join(symbols)))
    return [(slot, " ".join(value.split())) for slot, value in slots]
