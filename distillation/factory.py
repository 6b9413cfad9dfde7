"""Builds the sources that a stage names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from distillation.codes import Describe, code_corpus, load_codes
from distillation.sources import FrozenNetwork, SignalSource, Source, TeacherSource
from distillation.stages import Recipe, SourceSpec, Stage
from search_spaces.errors import NestlingError
from search_spaces.randomness import seed_of
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.batching import HOP, Batch, evaluation_batches
from speech_data.corpus import SpeechCorpus
from speech_data.features import log_mel, mfcc
from supernet.encoder import TAPS, Encoder
from supernet.encoder_config import EncoderConfig
from supernet.model import Supernet

SIGNAL_DIM = 40 + 13
CODE_BATCH = 16
FIT_UTTERANCES = 1500
"""Utterances that clusters are found on."""


class SourceFactory:
    """Makes a stage's sources from a corpus and a teacher.

    Args:
        corpus: Where codes are computed.
        teacher: The frozen encoder or other network; None when a recipe has no such source.
        seed: Of the clustering.
    """

    def __init__(self, corpus: SpeechCorpus, teacher: Encoder | FrozenNetwork | None, seed: int) -> None:
        self.corpus = corpus
        self.teacher = teacher
        self.seed = seed

    def __call__(self, stage: Stage, supernet: Supernet, saved: Mapping[str, Any]) -> dict[str, Source]:
        """The sources of `stage` by name.

        Args:
            stage: The stage.
            supernet: As it stands when the stage starts; codes may be made from its layers.
            saved: States of sources, by name, when the stage is resumed.

        Raises:
            NestlingError: The stage wants a teacher and there is none.
        """
        return {name: self._make(spec, stage, supernet, saved.get(name)) for name, spec in stage.sources.items()}

    def _make(self, spec: SourceSpec, stage: Stage, supernet: Supernet, saved: Any | None) -> Source:
        config = supernet.container.config
        match spec.kind:
            case "teacher":
                if self.teacher is None:
                    raise NestlingError(f"stage {stage.name} learns from a teacher, and none was given; add --teacher")
                teacher = self.teacher.to(supernet.residual_order.device)
                return TeacherSource(teacher, spec.tap, spec.normalization, saved)
            case "signal":
                return SignalSource(describe_signal, SIGNAL_DIM, config.count_frames, saved)
            case "codes":
                if saved is not None:
                    return load_codes(saved, spec.num_codes, config.count_frames, HOP)
                return code_corpus(
                    describe_mfcc if spec.layer is None else _describe_layer(supernet, spec.layer),
                    evaluation_batches(
                        self.corpus, "train", batch_size=CODE_BATCH, augment=False, max_utterances=FIT_UTTERANCES
                    ),
                    _coded_batches(self.corpus),
                    config.count_frames,
                    spec.num_codes,
                    HOP,
                    seed_of(self.seed, stage.name) % 2**31,
                )


def check_sources(recipe: Recipe, teacher: Encoder | FrozenNetwork | None, student: EncoderConfig) -> None:
    """Refuses, before anything is spent, a recipe that wants what a teacher or the student does not give.

    Raises:
        NestlingError: A teacher where there is none, a tap that it lacks, frames at another rate than the student's, or
            codes of a layer that the student has not.
    """
    for stage in recipe.stages:
        for name, spec in stage.sources.items():
            if spec.layer is not None and not 0 <= spec.layer <= len(student.heads):
                raise NestlingError(
                    f"{stage.name}.sources.{name}.layer must be from 0, the input of the first layer, to "
                    f"{len(student.heads)}, the output of the last; got {spec.layer}"
                )
    wanted_taps = recipe.teacher_taps
    if not wanted_taps:
        return
    if teacher is None:
        raise NestlingError(
            f"{next(iter(wanted_taps)).removesuffix('.tap')} is a teacher, and none was given; name one with --teacher "
            "(--init of `train teacher`), or take a recipe without"
        )
    taps = teacher.taps if isinstance(teacher, FrozenNetwork) else TAPS
    if lacking := [f"{place}={tap}" for place, tap in wanted_taps.items() if tap not in taps]:
        raise NestlingError(
            f"this teacher gives {', '.join(taps)} alone, and the recipe wants {', '.join(lacking)}; take --config "
            f"two-stage or demo, or --set each of these to {taps[0]}"
        )
    second = torch.tensor(SAMPLE_RATE_HZ)
    found, wanted = (int(config.count_frames(second)) for config in (teacher.config, student))
    if found != wanted:
        raise NestlingError(
            f"the teacher makes {found} frames of 1 s, and encoders of this space {wanted}; take a space whose "
            "conv_kernels and conv_strides are the teacher's"
        )


def _coded_batches(corpus: SpeechCorpus) -> Iterator[Batch]:
    """What is trained on, and the search split (two recordings leave none): subnets can be compared by codes."""
    yield from evaluation_batches(corpus, "train", batch_size=CODE_BATCH, augment=False)
    try:
        corpus.utterances("search")
    except NestlingError:
        return
    yield from evaluation_batches(corpus, "search", batch_size=CODE_BATCH, augment=False)


def describe_signal(wave: Tensor, num_frames: int) -> Tensor:
    """Log-mel energies and MFCC of every frame, (B, S) -> (B, T, 53)."""
    return torch.cat([log_mel(wave, num_frames), mfcc(wave, num_frames, deltas=False)], dim=-1)


def describe_mfcc(wave: Tensor, lengths: Tensor) -> Tensor:
    """MFCC less the mean of each utterance, which takes its channel and much of its speaker away, (B, T, 13)."""
    num_frames = (wave.shape[1] - 400) // 320 + 1
    x = mfcc(wave, num_frames, deltas=False)
    valid = (torch.arange(num_frames) < ((lengths - 400) // 320 + 1).unsqueeze(1)).unsqueeze(-1)
    return x - (x * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)


def _describe_layer(supernet: Supernet, layer: int) -> Describe:
    def describe(wave: Tensor, lengths: Tensor) -> Tensor:
        device = supernet.residual_order.device
        trace = supernet(wave.to(device), lengths.to(device), supernet.space.container, ("hidden",))
        return trace.hidden[layer].cpu()  # type: ignore[no-any-return]

    return describe
