"""Tasks whose answer is the label of an utterance: keyword spotting and intent classification. SUPERB's KS and IC."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.errors import NestlingError
from speech_data.corpus import Utterance
from speech_tasks.classification import LabelledClips, score_classification
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.task import Material, Score

PLAN = Plan(epochs=20, learning_rates=(1e-3, 3e-3, 1e-2))


class LabelTask:
    """Accuracy over the labels of `train`, of other voices.

    Args:
        name: What the command line calls it.
        metric: A key of `aggregates.METRICS`.
        wanted: What an utterance without a label lacks, and what the task wants.
        material: Utterances whose `intent` is the label.
        num_train: Clips the head is fitted on.
        num_search: Clips that choose the learning rate.

    Raises:
        NestlingError: An utterance has no label.
    """

    def __init__(
        self, name: str, metric: str, wanted: str, material: Material, num_train: int, num_search: int
    ) -> None:
        def label(utterance: Utterance) -> str:
            if utterance.intent is None:
                raise NestlingError(f"{utterance.id} is labelled with no {wanted}")
            return utterance.intent

        self.name, self.metrics = name, (metric,)
        self.labelled = LabelledClips(
            label, material.clips("train", num_train), material.clips("search", num_search), material.scored_sets()
        )

    @property
    def clips(self) -> Sequence[Clip]:
        """All that it reads."""
        return self.labelled.clips

    def score(self, store: FeatureStore) -> list[Score]:
        """The accuracy in each condition."""
        return score_classification(store, self.labelled, self.metrics[0], PLAN)


def keywords(material: Material, num_train: int = 1500, num_search: int = 300) -> LabelTask:
    """Which of ten words was said, another one, or none, in the manner of Speech Commands.

    Departs from SUPERB in its data, in a sweep of its own (SUPERB's is over upstreams) and in 20 epochs.

    Source: SUPERB (arXiv 2105.01051), 3, KS.
    """
    wanted = "keyword; keyword spotting wants a corpus of keywords"
    return LabelTask("keywords", "KS accuracy", wanted, material, num_train, num_search)


def intent(material: Material, num_train: int = 1440, num_search: int = 300) -> LabelTask:
    """What a sentence asks for, straight from speech: twelve intents, in the manner of Fluent Speech Commands.

    Wordings are known, voices are not. Departs from SUPERB in its data and in one label an utterance, where Fluent
    Speech Commands has three.

    Source: SUPERB (arXiv 2105.01051), 3, IC.
    """
    wanted = "intent; this task wants a corpus of commands with intents"
    return LabelTask("intent", "IC accuracy", wanted, material, num_train, num_search)
