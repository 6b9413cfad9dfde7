"""What can be read of the teacher off a subnet's last hidden state, on fixed utterances: what a search minimises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distillation.matchings import mean_of_last_two_thirds
from distillation.sources.source import Source
from distillation.views import Seen, View
from nas.ridge import LEAST_DEVIATION, fit_ridge
from nas.score import Score
from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint, hash_code
from search_spaces.subnet import SAMPLE_RATE_HZ, FrameGrid, Subnet
from speech_data.batching import Batch
from supernet.model import Supernet
from supernet.weights import hash_weights


@dataclass(frozen=True)
class _Heard:
    """A batch as subnets hear it."""

    wave: Tensor
    lengths: Tensor | None
    num_frames: list[int]
    """Valid frames of each utterance."""

    def one_by_one(self) -> list[_Heard]:
        """Each utterance by itself, without padding."""
        ends = [self.wave.shape[1]] * len(self.wave) if self.lengths is None else self.lengths.tolist()
        rows = zip(self.wave, ends, self.num_frames, strict=True)
        return [_Heard(row[None, :end], None, [count]) for row, end, count in rows]


class ReadOutObjective:
    """Scores a subnet by the share of its teacher's variance that no linear map reads off its last hidden state.

    All subnets are asked the same, whatever layers they keep: the mean of the last two thirds of the teacher's layers,
    each channel standardised. The map is a ridge regression, fitted for each subnet in closed form on every second
    utterance and scored on the others, then the other way round; so no head has to be trained, and no utterance is
    scored by a map that was fitted on it. (A lone utterance is cut in two.) Only valid frames count, and nothing is
    masked. `benchmarks/score.md` compares it with its rivals.

    Args:
        supernet: Trained; must not change any more.
        sources: By name, the run's teacher as `teacher`; each of their taps has the same part in the score. Of codes,
            each is a channel.
        batches: Whole utterances of the search split.
        view: Which renditions students hear and targets are computed from; its masking is ignored.

    Raises:
        NestlingError: A source makes other frames than the supernet or always the same, or there is only one frame.
    """

    def __init__(self, supernet: Supernet, sources: Mapping[str, Source], batches: Iterable[Batch], view: View) -> None:
        self.supernet = supernet
        self._names = list(sources)
        self._batches: list[_Heard] = []
        heard: dict[str, list[list[Tensor]]] = {}
        audio = []
        for batch in batches:
            seen = view.draw(batch, self._grid, supernet.residual_order.device)
            num_frames = self._grid.count(batch.lengths).tolist()
            whole = _Heard(seen.student, seen.lengths, num_frames)
            # A group norm averages over padding, masked or not.
            self._batches += whole.one_by_one() if supernet.space.backbone.conv_norm == "group" else [whole]
            for name, layers in self._hear(sources, batch, seen):
                heard.setdefault(name, []).extend([x[i, :count] for x in layers] for i, count in enumerate(num_frames))
            audio.append(_describe_audio(batch))
        self._num_frames = [count for batch in self._batches for count in batch.num_frames]
        self._halves = _split(self._num_frames, supernet.residual_order.device)
        targets = [_join(name, heard.pop(name)) for name in list(heard)]  # each (N, K)
        self._widths = [y.shape[1] for y in targets]
        joined = torch.cat(targets, 1)
        self._targets = [joined[half] for half in self._halves]
        sourced = [source.fingerprint for source in sources.values()]
        self._depends_on = [sourced, audio, view.student, view.target]

    @property
    def name(self) -> str:
        """What candidates are ranked by; lower is better."""
        whose = "the teacher's variance" if self._names == ["teacher"] else f"the variance of {' + '.join(self._names)}"
        return f"unexplained share of {whose} on search"

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> Score:
        """The unexplained share in every utterance, in the order of the batches; 0 is best.

        It may exceed 1, where the map is worse than the mean. All are NaN, which is a failed score, where a state is
        not finite.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        states = torch.cat([x for batch in self._batches for x in self._last_states(batch, subnet)])  # (N, d)
        if not states.isfinite().all():
            return Score(np.full(len(self._num_frames), np.nan, np.float32))
        shares = states.new_empty(len(states))
        for fitted, scored in ((0, 1), (1, 0)):
            read = fit_ridge(states[self._halves[fitted]], self._targets[fitted])
            wrong = (read(states[self._halves[scored]]) - self._targets[scored]).square_()
            shares[self._halves[scored]] = torch.stack([x.mean(1) for x in wrong.split(self._widths, 1)]).mean(0)
        each = [x.double().mean() for x in shares.split(self._num_frames)]
        return Score(torch.stack(each).cpu().numpy().astype(np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """Names all that a score depends on: space, weights, sources, audio, view, and the code.

        It is of what goes in, not of the targets, which are not the same to the bit on any other number of threads.
        """
        weights = hash_weights(self.supernet.state_dict())
        return fingerprint(hash_code(__name__), self.supernet.space.hash, weights, self._depends_on)

    @property
    def _grid(self) -> FrameGrid:
        return self.supernet.space.backbone.grid

    def _last_states(self, batch: _Heard, subnet: Subnet) -> list[Tensor]:
        """Of each utterance, without padding, (T, d)."""
        last = self.supernet(batch.wave, batch.lengths, subnet, ()).last.float()
        return [x[:count] for x, count in zip(last, batch.num_frames, strict=True)]

    @torch.no_grad()
    def _hear(self, sources: Mapping[str, Source], batch: Batch, seen: Seen) -> list[tuple[str, Sequence[Tensor]]]:
        """What sources give for a batch: the layers of every tap, (B, T, K)."""
        found: list[tuple[str, Sequence[Tensor]]] = []
        wanted, seconds = self._grid.count(seen.target.shape[1]), seen.target.shape[1] / SAMPLE_RATE_HZ
        for name, source in sources.items():
            for tap, layers in source(batch, seen).taps.items():
                if (frames := layers[0].shape[1]) != wanted:
                    raise NestlingError(
                        f"`{name}` makes {frames} frames of {seconds:.2f} s, and subnets of this supernet {wanted}; "
                        "they are compared frame by frame: name a teacher of that frame rate (--teacher)"
                    )
                classes = source.dims[tap]
                floats = [x if x.is_floating_point() else F.one_hot(x, classes).float() for x in layers]
                found.append((f"{name}.{tap}", floats))
        return found


def _split(num_frames: list[int], device: torch.device) -> list[Tensor]:
    """The frames of every second utterance, and of the others; of a lone one, of its first half and of its second."""
    owners = torch.repeat_interleave(torch.tensor(num_frames))
    second = owners % 2 == 1 if len(num_frames) > 1 else torch.arange(len(owners)) >= len(owners) // 2
    halves = [torch.nonzero(chosen).flatten().to(device) for chosen in (~second, second)]
    if not all(map(len, halves)):
        raise NestlingError(f"subnets are compared on two frames or more; the audio has {len(owners)}")
    return halves


def _join(name: str, utterances: Sequence[Sequence[Tensor]]) -> Tensor:
    """Layers of utterances, each (T, K), as one target: their upper two thirds count alike, (N, K)."""
    layers = [_standardise(torch.cat(list(layer))) for layer in zip(*utterances, strict=True)]
    target = _standardise(mean_of_last_two_thirds(layers))
    varying = target.any(0)
    if not varying.any():
        raise NestlingError(f"`{name}` is the same in every frame, which ranks no subnets; look at the audio")
    return target[:, varying]


def _standardise(x: Tensor) -> Tensor:
    """Zero mean and unit variance of every channel, (N, K); one that never varies is 0."""
    wide = x.double()
    mean, root = wide.mean(0), wide.square().mean().sqrt()
    deviation = (wide - mean).square().mean(0).sqrt()
    return ((wide - mean) * torch.where(deviation > LEAST_DEVIATION * root, 1 / deviation, 0.0)).float()


def _describe_audio(batch: Batch) -> list[object]:
    """What of a batch decides how it sounds: its speech, what keys the noise, and how loud that is, in whole dB.

    Not the samples of the noise: they are computed, and another processor rounds them otherwise.
    """
    speech = hash_weights({"clean": torch.from_numpy(batch.clean)})
    added = np.square(batch.wave.astype(np.float64) - batch.clean).sum(1)  # (B,)
    ratio = added / np.maximum(np.square(batch.clean, dtype=np.float64).sum(1), 1e-20)
    levels = [round(10 * math.log10(x)) if x > 0 else None for x in ratio.tolist()]
    return [speech, batch.lengths.tolist(), batch.offsets.tolist(), [u.id for u in batch.utterances], levels]
