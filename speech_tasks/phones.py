"""Phone recognition: which phones were said, in order. SUPERB's PR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from search_spaces.errors import NestlingError
from speech_data.espeak import SILENCE, phonemize
from speech_tasks.ctc import LinearHead, Spoken, Symbols, fit_writer
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.metrics import edit_tallies
from speech_tasks.task import Material, Score, score_ratio

PLAN = Plan(epochs=10, learning_rates=(3e-3, 1e-2, 3e-2))


class Phones:
    """Phone error rate, silence aside: edits over the phones that were said.

    Departs from SUPERB in its data and in 10 epochs. Phones are those of the corpus, or espeak's reading of its text.

    Args:
        material: Utterances with phones, or at least with a text.
        num_train: Clips the head is fitted on.
        num_search: Clips that choose the learning rate.

    Raises:
        NestlingError: An utterance has neither phones nor text, or espeak is needed and not installed.

    Source: SUPERB (arXiv 2105.01051), 3, PR.
    """

    name = "phones"
    metrics = ("PER",)

    def __init__(self, material: Material, num_train: int = 1000, num_search: int = 150) -> None:
        self.train = label_phones(material.clips("train", num_train))
        self.search = label_phones(material.clips("search", num_search))
        self.scored = {condition: label_phones(clips) for condition, clips in material.scored_sets().items()}

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [spoken.clip for part in (self.train, self.search, *self.scored.values()) for spoken in part]

    def score(self, store: FeatureStore) -> list[Score]:
        """The phone error rate in each condition."""
        writer = fit_writer(store, self.train, self.search, LinearHead, PLAN)
        scores = []
        for condition, part in self.scored.items():
            clips = [spoken.clip for spoken in part]
            heard = writer.write(store, clips)
            tallies = np.stack([edit_tallies([spoken.symbols for spoken in part], one) for one in heard])
            settings = {"learning rate": writer.fitted.learning_rate}
            scores.append(score_ratio(self.metrics[0], condition, tallies, clips, settings=settings))
        return scores


def label_phones(clips: Sequence[Clip]) -> list[Spoken]:
    """Clips with their phones, silence left out: the corpus's own or, where it has none, those of the text.

    Raises:
        NestlingError: An utterance has neither phones nor text, or espeak is needed and not installed.
    """
    texts: list[str] = []
    for utterance in (clip.utterance for clip in clips if not clip.utterance.phones):
        if not (utterance.text or "").strip():
            raise NestlingError(
                f"{utterance.id} has neither phones nor a text to read them from; phone recognition wants one of them"
            )
        texts.append(str(utterance.text))
    read = iter(phonemize(texts)) if texts else iter(())
    return [Spoken(clip, _said(clip) if clip.utterance.phones else next(read)) for clip in clips]


def _said(clip: Clip) -> Symbols:
    return tuple(symbol for symbol, _, _ in clip.utterance.phones if symbol != SILENCE)
