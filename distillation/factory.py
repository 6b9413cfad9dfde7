"""Opens the sources that a stage names, and refuses in time what cannot be opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillation.sources.codes import FIT_UTTERANCES, CodesSpec
from distillation.sources.labels import LabelsSpec, read_inventory
from distillation.sources.source import Givens, Source, Store
from distillation.sources.teacher import FrozenNetwork
from distillation.stages import Recipe, Stage
from search_spaces.errors import NestlingError
from speech_data.batching import draw_utterances
from speech_data.corpus import SpeechCorpus
from supernet.encoder import TAPS, Encoder
from supernet.encoder_config import EncoderConfig
from supernet.model import Supernet, shape_of


class SourceFactory:
    """Makes a stage's sources from a corpus and a teacher.

    Args:
        corpus: Where codes are computed.
        teacher: The frozen encoder or other network; None when a recipe has no such source.
        seed: Of the clustering.
        store: What sources keep once beside the run, by `stage/source`; in memory unless one is given.
        states: The same, for what the teacher makes of whole utterances.
    """

    def __init__(
        self,
        corpus: SpeechCorpus,
        teacher: Encoder | FrozenNetwork | None,
        seed: int,
        store: Store | None = None,
        states: Store | None = None,
    ) -> None:
        self.corpus = corpus
        self.teacher = teacher
        self.seed = seed
        self.store: Store = {} if store is None else store
        self.states: Store = {} if states is None else states

    def __call__(self, stage: Stage, supernet: Supernet, saved: Mapping[str, Any]) -> dict[str, Source]:
        """The sources of `stage` by name.

        Args:
            stage: The stage.
            supernet: As it stands when the stage starts; codes may be made from its layers.
            saved: States of sources, by name, when the stage is resumed.

        Raises:
            NestlingError: The stage wants what is not there.
        """
        return {
            name: spec.open(
                Givens(
                    name=f"{stage.name}/{name}",
                    taps=stage.taps_of(name),
                    supernet=supernet,
                    corpus=self.corpus,
                    teacher=self.teacher,
                    seed=self.seed,
                    store=self.store,
                    states=self.states,
                    saved=saved.get(name),
                )
            )
            for name, spec in stage.sources.items()
        }


def check_sources(
    recipe: Recipe,
    teacher: Encoder | FrozenNetwork | None,
    student: EncoderConfig,
    corpus: SpeechCorpus | None = None,
) -> None:
    """Refuses, before anything is spent, a recipe that wants what a teacher, the student or the audio does not give.

    Args:
        recipe: What would be trained.
        teacher: What there is to learn from.
        student: The shape of the container.
        corpus: The audio; None where it is not opened.

    Raises:
        NestlingError: A teacher where there is none, a tap that it lacks, frames that are not where the student's are,
            noise where it hears none, codes of a layer that the student has not, more codes than frames, or labels
            of audio without.
    """
    for stage in recipe.stages:
        for name, spec in stage.sources.items():
            place = f"{stage.name}.sources.{name}"
            if isinstance(spec, CodesSpec):
                _check_codes(spec, place, student, corpus)
            elif isinstance(spec, LabelsSpec) and corpus is not None:
                read_inventory(corpus, place)
                if silent := [utterance.id for utterance in corpus.utterances("train") if not utterance.phones]:
                    raise NestlingError(f"{place} reads labels, and {silent[0]} has none; leave it out")
    wanted_taps = recipe.teacher_taps
    if not wanted_taps:
        return
    if teacher is None:
        place = next(
            f"{s.name}.sources.{n}" for s in recipe.stages for n in s.sources if s.sources[n].kind == "teacher"
        )
        raise NestlingError(
            f"{place} is a teacher, and none was given; name one with --teacher (--init of `train teacher`), or take a "
            "recipe without"
        )
    taps = teacher.taps if isinstance(teacher, FrozenNetwork) else TAPS
    if lacking := [f"{place}={tap}" for place, tap in wanted_taps.items() if tap not in taps]:
        raise NestlingError(
            f"this teacher gives {', '.join(taps)} alone, and the recipe wants {', '.join(lacking)}; take --config "
            f"two-stage or demo, or --set each of these to {taps[0]}"
        )
    if isinstance(teacher, FrozenNetwork) and teacher.whole and corpus is not None and corpus.synthesised:
        heard = [s for s in recipe.stages if any(spec.kind == "teacher" for spec in s.sources.values())]
        if changes := " ".join(f"--set {s.name}.view.target=clean" for s in heard if s.view.target != "clean"):
            raise NestlingError(
                f"this teacher hears whole utterances, each once and without noise, and the recipe adds some; {changes}"
            )
    theirs, ours = (shape_of(config)[0].grid for config in (teacher.config, student))
    if theirs != ours:
        raise NestlingError(
            f"the teacher's frames are {theirs.window} samples, {theirs.hop} apart, and those of this space "
            f"{ours.window}, {ours.hop} apart; take a space whose conv_kernels and conv_strides are the teacher's"
        )


def _check_codes(spec: CodesSpec, place: str, student: EncoderConfig, corpus: SpeechCorpus | None) -> None:
    depth = len(student.heads)
    if spec.layer is not None and not 0 <= spec.layer <= depth:
        raise NestlingError(
            f"{place}.layer must be from 0, the input of the first layer, to {depth}, the output of the last; got "
            f"{spec.layer}"
        )
    if corpus is not None:
        grid = shape_of(student)[0].grid
        utterances = draw_utterances(corpus, "train", FIT_UTTERANCES)
        frames = sum(grid.count(utterance.num_samples) for utterance in utterances)
        if frames < spec.num_codes:
            raise NestlingError(
                f"{place}.num_codes is {spec.num_codes}, and the audio that is trained on has {frames} frames; give "
                "more audio, or take fewer codes"
            )
