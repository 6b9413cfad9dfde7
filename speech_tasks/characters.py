"""Speech recognition: which words were said, letter by letter. SUPERB's ASR."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from search_spaces.errors import NestlingError
from speech_tasks.ctc import RecurrentHead, Spoken, Symbols, Writer, fit_writer, log_probs
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.metrics import beam_search, edit_tallies
from speech_tasks.task import Material, Score, Tallies, score_ratio

PLAN = Plan(epochs=9, learning_rates=(3e-3, 1e-2))
LETTERS = frozenset(string.ascii_lowercase + "' ")
BEAM_WIDTH = 8
BEAM_CLIPS = 150
"""Clips that the first head also decodes by beam search, which is slow."""


class Characters:
    """Word error rate of characters decoded greedily, without a language model.

    What a beam search makes of a part of the clips is told beside it, in the settings. Departs from SUPERB in its
    data, in the size of its head and in 9 epochs.

    Args:
        material: Utterances with a text of small letters, apostrophes and blanks.
        num_train: Clips the head is fitted on.
        num_search: Clips that choose the learning rate.

    Raises:
        NestlingError: An utterance has no text, or one with other characters.

    Source: SUPERB (arXiv 2105.01051), 3, ASR.
    """

    name = "characters"
    metrics = ("WER",)

    def __init__(self, material: Material, num_train: int = 1000, num_search: int = 150) -> None:
        self.train = label_characters(material.clips("train", num_train))
        self.search = label_characters(material.clips("search", num_search))
        self.scored = {condition: label_characters(clips) for condition, clips in material.scored_sets().items()}

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [spoken.clip for part in (self.train, self.search, *self.scored.values()) for spoken in part]

    def score(self, store: FeatureStore) -> list[Score]:
        """The word error rate in each condition."""
        writer = fit_writer(store, self.train, self.search, RecurrentHead, PLAN, masks=True)
        scores = []
        for condition, part in self.scored.items():
            clips = [spoken.clip for spoken in part]
            heard = writer.write(store, clips)
            tallies = np.stack([count_word_edits(part, one) for one in heard])
            settings = {
                "learning rate": writer.fitted.learning_rate,
                **compare_decoders(writer, store, part, tallies[0]),
            }
            scores.append(score_ratio(self.metrics[0], condition, tallies, clips, settings=settings))
        return scores


def label_characters(clips: Sequence[Clip]) -> list[Spoken]:
    """Clips with the characters of their texts.

    Raises:
        NestlingError: An utterance has no text, or one with other characters than small letters, apostrophe and blank.
    """
    return [Spoken(clip, tuple(plain_text(clip))) for clip in clips]


def plain_text(clip: Clip) -> str:
    """The text of a clip, with single blanks.

    Raises:
        NestlingError: It has none, or other characters than small letters, apostrophe and blank.
    """
    text = " ".join((clip.utterance.text or "").split())
    if not text:
        raise NestlingError(f"{clip.utterance.id} has no text; recognising characters wants one")
    if odd := sorted(set(text) - LETTERS):
        raise NestlingError(
            f"{clip.utterance.id} has {' '.join(odd)} in its text; write it in small letters, apostrophes and blanks, "
            f"numbers spelt out"
        )
    return text


def count_word_edits(part: Sequence[Spoken], heard: Sequence[Symbols]) -> Tallies:
    """Edits and words of each clip, (N, 2)."""
    return edit_tallies(
        [_words(spoken.symbols) for spoken in part],
        [_words(symbols) for symbols in heard],
    )


def compare_decoders(writer: Writer, store: FeatureStore, part: Sequence[Spoken], greedy: Tallies) -> dict[str, float]:
    """The word error rates of the first head by either decoder on the first `BEAM_CLIPS` clips, in percent."""
    part = part[:BEAM_CLIPS]
    (heard,) = log_probs(writer.fitted.heads[:1], store, [spoken.clip for spoken in part], writer.statistics)
    by_beam = count_word_edits(part, [writer.read(beam_search(x, BEAM_WIDTH)) for x in heard])
    rates = {f"WER, beam of {BEAM_WIDTH}": by_beam, "WER, greedy on the same": greedy[: len(part)]}
    return {name: float(100 * tallies[:, 0].sum() / tallies[:, 1].sum()) for name, tallies in rates.items()}


def _words(symbols: Symbols) -> list[str]:
    return "".join(symbols).split()
