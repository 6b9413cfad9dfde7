"""The distillation loss of a subnet on fixed utterances: what a search minimises."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from distillation.sources import Source
from distillation.terms import Objective
from distillation.views import View
from nas.record import Score
from search_spaces.subnet import Subnet
from speech_data.batching import Batch
from supernet.encoder import Trace
from supernet.model import Supernet


@dataclass(frozen=True)
class _Prepared:
    """A batch with its targets."""

    wave: Tensor
    lengths: Tensor | None
    num_frames: list[int]
    """Valid frames of each utterance."""
    targets: dict[str, list[Tensor]]
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
        self._batches = [self._prepare(batch, sources, view) for batch in batches]

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
                    name: [_widen(x[i : i + 1, :num_frames]) for x in layers] for name, layers in batch.targets.items()
                }
                losses.append(self.objective(_one(trace, i, num_frames), targets, subnet, None))
        return Score(torch.stack(losses).cpu().numpy().astype(np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """Names all that a score depends on: space, weights, terms, heads, audio and targets."""
        digest = hashlib.sha256(self.supernet.space.hash.encode())
        for term in self.objective.terms:
            digest.update(term.model_dump_json().encode())
        states = {
            **self.supernet.state_dict(prefix="supernet."),
            **self.objective.state_dict(prefix="heads."),
        }
        for name, tensor in states.items():
            digest.update(name.encode())
            update_digest(digest, tensor)
        for batch in self._batches:
            for tensor in (batch.wave, torch.tensor(batch.num_frames), *chain(*batch.targets.values())):
                update_digest(digest, tensor)
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _prepare(self, batch: Batch, sources: Mapping[str, Source], view: View) -> _Prepared:
        wave, target_wave = (
            torch.from_numpy(batch.wave if rendition == "noisy" else batch.clean).to(self._device)
            for rendition in (view.student, view.target)
        )
        lengths = torch.from_numpy(batch.lengths)
        num_frames = self.supernet.container.config.count_frames(lengths).tolist()
        padded = lengths.to(self._device) if bool((lengths < wave.shape[1]).any()) else None
        targets = {name: [_halve(x) for x in source(target_wave, padded, batch)] for name, source in sources.items()}
        return _Prepared(wave, padded, num_frames, targets)


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


def update_digest(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Adds the shape and every bit of a tensor to a hash."""
    digest.update(str(tuple(tensor.shape)).encode())
    digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
