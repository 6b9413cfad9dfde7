"""The distillation loss of a subnet on fixed utterances: what a search minimises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distillation.objective import Objective
from distillation.sources.source import Source, Targets
from distillation.views import View
from nas.score import Score
from search_spaces.identity import fingerprint, hash_code
from search_spaces.subnet import Subnet
from speech_data.batching import Batch
from supernet.encoder import Trace
from supernet.model import Supernet
from supernet.weights import hash_weights


@dataclass(frozen=True)
class _Prepared:
    """A batch with its targets."""

    wave: Tensor
    lengths: Tensor | None
    num_frames: list[int]
    """Valid frames of each utterance."""
    targets: dict[str, Targets]
    """By source, (B, T, ...)."""


class DistillationObjective:
    """Scores a subnet by the loss it was trained with, utterance by utterance.

    The objective, its trained heads and the sources are those of the last stage of training. Nothing is
    masked, and terms that trained on masked or unmasked frames alone count all frames. Targets are computed
    once, here, and kept on the supernet's device in half precision: their rounding, at most 5e-4 of a value,
    is the same for every subnet.

    Args:
        supernet: Trained; must not change any more.
        objective: With its trained heads.
        sources: By name, calibrated.
        batches: Whole utterances of the search split.
        view: Which renditions students hear and targets are computed from; its masking is ignored.
    """

    name = "distillation loss on search"
    """What candidates are ranked by; lower is better."""

    def __init__(
        self,
        supernet: Supernet,
        objective: Objective,
        sources: Mapping[str, Source],
        batches: Iterable[Batch],
        view: View,
    ) -> None:
        self.supernet = supernet
        self.objective = copy.copy(objective)  # shares the heads
        self.objective.terms = tuple(term.model_copy(update={"frames": "all"}) for term in objective.terms)
        self._device = supernet.residual_order.device
        self._batches, audio = [], []
        for batch in batches:
            self._batches.append(self._prepare(batch, sources, view))
            audio.append(_describe_audio(batch))
        sourced = {name: source.fingerprint for name, source in sources.items()}
        self._heard = [sourced, audio, view.student, view.target]

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> Score:
        """The loss of every utterance, in the order of the batches.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        losses = []
        for batch in self._batches:
            trace = self.supernet(batch.wave, batch.lengths, subnet, self.objective.taps)
            for i, num_frames in enumerate(batch.num_frames):
                targets = {
                    name: _map(made, lambda x, i=i, n=num_frames: _widen(x[i : i + 1, :n]))  # type: ignore[misc]
                    for name, made in batch.targets.items()
                }
                parts = self.objective(_one(trace, i, num_frames), targets, subnet, None)
                losses.append(self.objective.weigh(parts))
        return Score(torch.stack(losses).cpu().numpy().astype(np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """Names all that a score depends on: space, weights, terms, heads, sources, audio, view, and the code.

        It is of what goes in, not of the targets, which are not the same to the bit on any other number of threads.
        """
        return fingerprint(
            hash_code(__name__),
            self.supernet.space.hash,
            hash_weights(self.supernet.state_dict()),
            [term.model_dump(mode="json") for term in self.objective.terms],
            hash_weights(self.objective.state_dict()),
            self._heard,
        )

    @torch.no_grad()
    def _prepare(self, batch: Batch, sources: Mapping[str, Source], view: View) -> _Prepared:
        grid = self.supernet.space.backbone.grid
        seen = view.draw(batch, grid, self._device)
        targets = {name: _map(source(batch, seen), _halve) for name, source in sources.items()}
        return _Prepared(seen.student, seen.lengths, grid.count(batch.lengths).tolist(), targets)


def _map(targets: Targets, change: Callable[[Tensor], Tensor]) -> Targets:
    taps = {tap: [change(x) for x in layers] for tap, layers in targets.taps.items()}
    return Targets(taps, targets.frame_rate_hz, None)


def _describe_audio(batch: Batch) -> list[object]:
    """What of a batch decides how it sounds: its speech, what keys the noise, and how loud that is, in whole dB.

    Not the samples of the noise: they are computed, and another processor rounds them otherwise.
    """
    speech = hash_weights({"clean": torch.from_numpy(batch.clean)})
    added = np.square(batch.wave.astype(np.float64) - batch.clean).sum(1)  # (B,)
    ratio = added / np.maximum(np.square(batch.clean, dtype=np.float64).sum(1), 1e-20)
    levels = [round(10 * math.log10(x)) if x > 0 else None for x in ratio.tolist()]
    return [speech, batch.lengths.tolist(), batch.offsets.tolist(), [u.id for u in batch.utterances], levels]


def _halve(x: Tensor) -> Tensor:
    return x.half() if x.is_floating_point() else x  # codes are integers


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _one(trace: Trace, i: int, num_frames: int) -> Trace:
    """The i-th utterance of a batch without its padding."""

    def cut(x: Tensor) -> Tensor:
        return x[i : i + 1, :num_frames]  # (B, T, ...) -> (1, t, ...)

    front_end = None if trace.front_end is None else cut(trace.front_end)
    return Trace(
        cut(trace.last),
        None,
        trace.frame_rate_hz,
        list(map(cut, trace.hidden)),
        list(map(cut, trace.ffn)),
        front_end=front_end,
    )
