"""Intent classification: what a sentence asks for, straight from speech. SUPERB's IC."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.errors import NestlingError
from speech_data.corpus import Utterance
from speech_tasks.classification import LabelledClips, score_classification
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.task import Material, Score

PLAN = Plan(epochs=20, learning_rates=(1e-3, 3e-3, 1e-2))


class Intent:
    """Accuracy over twelve intents of known wordings by unseen voices, in the manner of Fluent Speech Commands.

    Departs from SUPERB in its data and in one label an utterance, where Fluent Speech Commands has three.

    Args:
        material: Commands labelled with an intent.
        num_train: Clips the head is fitted on.
        num_search: Clips that choose the learning rate.

    Raises:
        NestlingError: An utterance is labelled with no intent.

    Source: SUPERB (arXiv 2105.01051), 3, IC.
    """

    name = "intent"
    metrics = ("IC accuracy",)

    def __init__(self, material: Material, num_train: int = 1440, num_search: int = 300) -> None:
        self.labelled = LabelledClips(
            intent, material.clips("train", num_train), material.clips("search", num_search), material.scored_sets()
        )

    @property
    def clips(self) -> Sequence[Clip]:
        """All that it reads."""
        return self.labelled.clips

    def score(self, store: FeatureStore) -> list[Score]:
        """The accuracy in each condition."""
        return score_classification(store, self.labelled, self.metrics[0], PLAN)


def intent(utterance: Utterance) -> str:
    """The intent of an utterance.

    Raises:
        NestlingError: It has none.
    """
    if utterance.intent is None:
        raise NestlingError(
            f"{utterance.id} is labelled with no intent; this task wants a corpus of commands with intents"
        )
    return utterance.intent
