"""Keyword spotting: which of ten words was said, another one, or none. SUPERB's KS."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.errors import NestlingError
from speech_data.corpus import Utterance
from speech_tasks.classification import LabelledClips, score_classification
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.task import Material, Score

PLAN = Plan(epochs=20, learning_rates=(1e-3, 3e-3, 1e-2))


class Keywords:
    """Accuracy over twelve classes, in the manner of Speech Commands.

    Departs from SUPERB in its data, in a sweep of its own (SUPERB's is over upstreams) and in 20 epochs.

    Args:
        material: Utterances whose `intent` is the class.
        num_train: Clips the head is fitted on.
        num_search: Clips that choose the learning rate.

    Raises:
        NestlingError: An utterance is labelled with no keyword.

    Source: SUPERB (arXiv 2105.01051), 3, KS.
    """

    name = "keywords"
    metrics = ("KS accuracy",)

    def __init__(self, material: Material, num_train: int = 1500, num_search: int = 300) -> None:
        self.labelled = LabelledClips(
            keyword, material.clips("train", num_train), material.clips("search", num_search), material.scored_sets()
        )

    @property
    def clips(self) -> Sequence[Clip]:
        """All that it reads."""
        return self.labelled.clips

    def score(self, store: FeatureStore) -> list[Score]:
        """The accuracy in each condition."""
        return score_classification(store, self.labelled, self.metrics[0], PLAN)


def keyword(utterance: Utterance) -> str:
    """The class of an utterance.

    Raises:
        NestlingError: It has none.
    """
    if utterance.intent is None:
        raise NestlingError(f"{utterance.id} is labelled with no keyword; keyword spotting wants a corpus of keywords")
    return utterance.intent
