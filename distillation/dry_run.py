"""What a recipe would take, from one step of each of its stages on noise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distillation.factory import SourceFactory, check_sources
from distillation.sources.codes import CodesSpec
from distillation.sources.teacher import FrozenNetwork
from distillation.stages import Recipe, Stage
from distillation.trainer import Precision, Trainer, generator
from search_spaces.memory import peak_bytes
from search_spaces.space import SearchSpace
from search_spaces.subnet import SAMPLE_RATE_HZ, FrameGrid
from speech_data.batching import Batch
from speech_data.corpus import Utterance, Waveform
from supernet.encoder import Encoder
from supernet.model import Supernet, encoder_config

STEPS = 3
"""Steps that are run; the last two are timed."""
NUM_PHONES = 40


@dataclass(frozen=True)
class Estimate:
    """Of one training run on this machine."""

    step_seconds: tuple[float, ...]
    """For each stage."""
    memory_bytes: int
    """The most this process has held on the device, which is what the largest stage needs."""


def estimate_training(
    space: SearchSpace, recipe: Recipe, teacher: Encoder | FrozenNetwork | None, precision: Precision, device: str
) -> Estimate:
    """Runs a few steps of each stage on noise and times them. Time to read audio is not in it.

    Raises:
        NestlingError: The teacher does not give what the recipe wants.
    """
    check_sources(recipe, teacher, encoder_config(space.backbone, space.container))
    sources = SourceFactory(_Noise(), teacher, recipe.seed, states=_Forgetful())
    grid = space.backbone.grid
    times: list[float] = []
    for stage in recipe.stages:
        short = stage.model_copy(update={"steps": STEPS, "reorder": False})
        clock: list[float] = []
        trainer = Trainer(
            Supernet(space, generator("dry run")),
            recipe.model_copy(update={"stages": (short,), "save_every": STEPS + 1}),
            _noise,
            lambda stage, supernet, saved: sources(stage, supernet, {**_zero_codes(stage, grid), **saved}),
            on_step=lambda _, clock=clock: clock.append(time.perf_counter()),  # type: ignore[misc]
            on_stage=lambda *_: None,
            on_checkpoint=lambda _: None,
            precision=precision,
            device=device,
        )
        trainer.run()
        times.append((clock[-1] - clock[0]) / (len(clock) - 1))
    return Estimate(tuple(times), measure_peak_memory(device))


def measure_peak_memory(device: str) -> int:
    """The most bytes that this process has held on a device; on a CPU, all that it is."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return peak_bytes()


class _Noise:
    """A corpus in which everybody says one phone after another, while there is nothing but noise."""

    name, hash, synthesised = "noise", "", False
    phones = tuple(map(str, range(NUM_PHONES)))

    def utterances(self, split: str) -> list[Utterance]:
        raise NotImplementedError

    def read(self, utterance: Utterance) -> Waveform:
        return np.random.default_rng(0).standard_normal(utterance.num_samples, np.float32)


class _Forgetful:
    """Keeps no states, so that every step hears the teacher, as those of the first epoch do."""

    def get(self, name: str, /) -> None:
        """Nothing."""

    def __setitem__(self, name: str, tensors: dict[str, torch.Tensor], /) -> None:
        """Forgets it."""


def _noise(stage: Stage, first: int, stop: int) -> Iterator[Batch]:
    num_samples = round(stage.crop_seconds * SAMPLE_RATE_HZ)
    times = np.arange(0, stage.crop_seconds, 0.1).tolist()
    phones = tuple((str(i % NUM_PHONES), start, start + 0.1) for i, start in enumerate(times))
    for step in range(first, stop):
        wave = np.random.default_rng(step).standard_normal((stage.batch_size, num_samples), np.float32)
        lengths = np.full(len(wave), num_samples)
        utterances = tuple(Utterance(f"noise-{i}", None, num_samples, phones=phones) for i in range(len(wave)))
        yield Batch(wave, wave, lengths, utterances, np.zeros(len(wave), np.int64))


def _zero_codes(stage: Stage, grid: FrameGrid) -> dict[str, Any]:
    """States of the sources of codes, so that no corpus need be read."""
    frames = grid.count(round(stage.crop_seconds * SAMPLE_RATE_HZ))
    codes = {f"noise-{i}": torch.zeros(frames, dtype=torch.int16) for i in range(stage.batch_size)}
    return {name: {"codes": codes} for name, spec in stage.sources.items() if isinstance(spec, CodesSpec)}
