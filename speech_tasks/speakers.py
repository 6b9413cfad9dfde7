"""Speaker identification: which of the voices heard in training says a sentence. SUPERB's SID."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.corpus import Utterance
from speech_tasks.classification import LabelledClips, score_classification
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan
from speech_tasks.task import IN_DOMAIN, ON_DEV, Material, Score

PLAN = Plan(epochs=20, learning_rates=(1e-3, 3e-3, 1e-2))
CROP_SECONDS = 1.5


class Speakers:
    """Accuracy over the speakers of `train`, saying other sentences.

    Speakers of the scored split who do not speak in `train` are left out, so a corpus of other voices is not scored.
    Departs from SUPERB in its data and in hearing only the start of each clip.

    Args:
        material: Utterances with speakers, some of whom speak in every split.
        num_train: Clips the head is fitted on.
        num_search: Clips that choose the learning rate, at most.

    Raises:
        NestlingError: An utterance has no speaker, or nobody speaks both in `train` and in `search` or the scored
            split.

    Source: SUPERB (arXiv 2105.01051), 3, SID.
    """

    name = "speakers"
    metrics = ("SID accuracy",)

    def __init__(self, material: Material, num_train: int | None = None, num_search: int = 300) -> None:
        train = crop(material.clips("train", num_train))
        known = {speaker(clip.utterance) for clip in train}

        def known_clips(split: str, max_utterances: int | None) -> list[Clip]:
            clips = crop(material.clips(split, max_utterances, lambda utterance: speaker(utterance) in known))
            if not clips:
                raise NestlingError(
                    f"no speaker of train speaks in {split} of {material.corpus.name}; speaker identification wants a "
                    "corpus in which some speak in every split"
                )
            return clips

        scored = {IN_DOMAIN: known_clips(material.scored, None)}
        if material.dev_too:
            scored[ON_DEV] = known_clips("dev", None)
        self.labelled = LabelledClips(speaker, train, known_clips("search", num_search), scored)

    @property
    def clips(self) -> Sequence[Clip]:
        """All that it reads."""
        return self.labelled.clips

    def score(self, store: FeatureStore) -> list[Score]:
        """The accuracy."""
        return score_classification(store, self.labelled, self.metrics[0], PLAN)


def crop(clips: Sequence[Clip]) -> list[Clip]:
    """The start of each clip, as the tasks on speakers hear it."""
    return [replace(clip, max_samples=round(CROP_SECONDS * SAMPLE_RATE_HZ)) for clip in clips]


def speaker(utterance: Utterance) -> str:
    """Who speaks.

    Raises:
        NestlingError: Nobody knows.
    """
    if utterance.speaker is None:
        raise NestlingError(f"{utterance.id} has no speaker; tasks on speakers want a corpus that names them")
    return utterance.speaker
