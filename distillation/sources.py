"""Sources turn a batch into targets.

A source says what it may read, so that leakage can be tested: `audio` alone, or `text` and `labels` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint, hash_code
from speech_data.batching import Batch
from supernet.encoder import Encoder, Trace
from supernet.encoder_config import EncoderConfig
from supernet.weights import hash_weights

Normalization = Literal["channel", "instance", "none"]


class Source(Protocol):
    """Anything that turns a batch into targets."""

    reads: frozenset[str]

    @property
    def dim(self) -> int:
        """Channels of a target, or the size of its code book."""

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep to make the same source again; plain values and tensors."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides its targets but the audio: settings, teacher, code, and what it measured."""

    def calibrate(self, wave: Tensor, lengths: Tensor | None) -> None:
        """Measures what it needs on one of the stage's first batches, (B, S); never called where `state` is kept."""

    def __call__(self, wave: Tensor, lengths: Tensor | None, batch: Batch) -> list[Tensor]:
        """Targets for `wave` (B, S), the rendition the view gives to targets: (B, T, dim), or codes (B, T)."""


class ChannelStatistics:
    """Mean and deviation of every channel of every layer, measured once over some audio.

    Args:
        state: What `state` kept of an earlier measurement.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._count: int = state["count"] if state else 0
        self._sums: list[Tensor] = state["sums"] if state else []
        self._squares: list[Tensor] = state["squares"] if state else []

    @property
    def fingerprint(self) -> str:
        """A hash of what was measured, to the bit."""
        sums, squares = (
            hash_weights({str(i): x for i, x in enumerate(values)}) for values in (self._sums, self._squares)
        )
        return fingerprint(self._count, sums, squares)

    @property
    def state(self) -> dict[str, Any]:
        """What was measured, to the bit; nothing if nothing was."""
        return {"count": self._count, "sums": self._sums, "squares": self._squares} if self._count else {}

    def add(self, layers: Sequence[Tensor], valid: Tensor | None) -> None:
        """Counts the valid frames of one batch; layers (B, T, d)."""
        frames = [(x.flatten(0, 1) if valid is None else x[valid]).double() for x in layers]
        if not self._sums:
            self._sums = [torch.zeros_like(x[0]) for x in frames]
            self._squares = [torch.zeros_like(x[0]) for x in frames]
        self._count += len(frames[0])
        self._sums = [s + x.sum(0) for s, x in zip(self._sums, frames, strict=True)]
        self._squares = [s + x.square().sum(0) for s, x in zip(self._squares, frames, strict=True)]

    def standardize(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Layers with zero mean and unit variance in every channel.

        Raises:
            NestlingError: Nothing was measured.
        """
        if not self._count:
            raise ValueError("the channels of these targets were not measured; call calibrate first")
        out = []
        for x, total, square in zip(layers, self._sums, self._squares, strict=True):
            mean = total / self._count
            std = (square / self._count - mean.square()).clamp_min(1e-10).sqrt()
            out.append((x - mean.to(x)) / std.to(x))
        return out


class FrozenNetwork(nn.Module):
    """A teacher that `Encoder` does not compute: it gives its hidden states alone, and lends no weights.

    Args:
        network: Holds the weights.
        states_of: Waveforms of one length (B, S), 16 kHz -> the input of the first layer and the output of each, each
            (B, T, d).
        dim: d.
        front_end: A shape whose front-end makes the same frames.
        description: All that decides what it computes besides the weights, as plain JSON values.
    """

    taps = ("hidden",)

    def __init__(
        self,
        network: nn.Module,
        states_of: Callable[[Tensor], Sequence[Tensor]],
        dim: int,
        front_end: EncoderConfig,
        description: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.network = network
        self.description = dict(description)
        self.states_of = states_of
        self.dim = dim
        self.config = front_end

    def forward(self, wave: Tensor, lengths: Tensor | None, taps: Collection[str]) -> Trace:
        """Encodes waveforms of one length, (B, S).

        Raises:
            NestlingError: Lengths are given, or other taps than `taps`; or it makes other frames than it should.
        """
        if lengths is not None or set(taps) - set(self.taps):
            raise NestlingError(f"this network gives {', '.join(self.taps)} of whole waveforms, not {', '.join(taps)}")
        states = list(self.states_of(wave))
        found, wanted = states[0].shape[1], int(self.config.count_frames(torch.tensor(wave.shape[1])))
        if found != wanted:
            raise NestlingError(f"the teacher makes {found} frames of {wave.shape[1]} samples, and {wanted} are wanted")
        return Trace(states[-1], None, self.config.frame_rate_hz, hidden=states)


def hash_network(network: Encoder | FrozenNetwork) -> str:
    """A hash of what a network is: its shape and its weights, to the bit; not of the code that computes it."""
    if isinstance(network, FrozenNetwork):
        return fingerprint("network", network.description, hash_weights(network.network.state_dict()))
    return fingerprint("encoder", network.config.to_dict(), hash_weights(network.state_dict()))


class TeacherSource:
    """A frozen encoder's layers.

    Args:
        teacher: The encoder, or another network; put into evaluation mode and frozen.
        tap: `hidden` (outputs of layers) or `ffn` (feed-forward outputs before the residual sum, LightHuBERT's).
        normalization: How each channel of each layer is standardised: with statistics measured once by `calibrate`
            (`channel`), over the time of each utterance as data2vec does (`instance`), or not at all.
        state: What was kept of an earlier one's `state`; then nothing need be measured.
    """

    reads = frozenset({"audio"})

    def __init__(
        self,
        teacher: Encoder | FrozenNetwork,
        tap: Literal["hidden", "ffn"],
        normalization: Normalization,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.tap: Literal["hidden", "ffn"] = tap
        self.normalization = normalization
        self._statistics = ChannelStatistics(state)
        self.dim = teacher.dim if isinstance(teacher, FrozenNetwork) else teacher.config.embed_dim
        self._alone = isinstance(teacher, FrozenNetwork) or teacher.config.conv_norm == "group"

    @property
    def state(self) -> dict[str, Any]:
        """The statistics of `channel` normalisation: measured again, on other threads, they would be others."""
        return self._statistics.state

    @property
    def fingerprint(self) -> str:
        """Of the teacher, the code that computes it, the tap, and how channels are standardised."""
        foreign = [self.teacher.states_of.__module__] if isinstance(self.teacher, FrozenNetwork) else []
        code = hash_code(__name__, *foreign)
        settings = [self.tap, self.normalization, self._statistics.fingerprint]
        return fingerprint("teacher", code, settings, hash_network(self.teacher))

    @torch.no_grad()
    def calibrate(self, wave: Tensor, lengths: Tensor | None) -> None:
        """Adds one batch to the statistics of `channel` normalisation; the others need none."""
        if self.normalization == "channel":
            self._statistics.add(*self._layers(wave, lengths))

    @torch.no_grad()
    def __call__(self, wave: Tensor, lengths: Tensor | None, batch: Batch) -> list[Tensor]:
        """Standardised layers 1 .. L, each (B, T, d)."""
        del batch  # a teacher hears; it reads no labels
        layers, valid = self._layers(wave, lengths)
        match self.normalization:
            case "channel":
                return self._statistics.standardize(layers)
            case "instance":
                return [_instance_norm(x, valid) for x in layers]
            case _:
                return layers

    def _layers(self, wave: Tensor, lengths: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        if lengths is not None and self._alone:
            return self._one_by_one(wave, lengths)
        trace = self.teacher(wave, lengths, (self.tap,))
        return self._pick(trace), trace.valid

    def _one_by_one(self, wave: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """A group norm hears padding, masked or not, and so may networks of others: each utterance is heard alone."""
        frames = int(self.teacher.config.count_frames(torch.tensor(wave.shape[1])))
        rows = [
            self._pick(self.teacher(wave[i : i + 1, :length], None, (self.tap,)))
            for i, length in enumerate(lengths.tolist())
        ]
        padded = [[F.pad(x[0], (0, 0, 0, frames - x.shape[1])) for x in layers] for layers in rows]
        valid = torch.arange(frames, device=wave.device) < self.teacher.config.count_frames(lengths).unsqueeze(1)
        return [torch.stack(layer) for layer in zip(*padded, strict=True)], valid

    def _pick(self, trace: Trace) -> list[Tensor]:
        return [x.float() for x in (trace.hidden[1:] if self.tap == "hidden" else trace.ffn)]


def _instance_norm(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero mean and unit variance of every channel over the valid frames of each utterance, (B, T, d)."""
    weight = torch.ones_like(x[..., :1]) if valid is None else valid.unsqueeze(-1).to(x.dtype)
    count = weight.sum(1, keepdim=True)
    centred = x - (x * weight).sum(1, keepdim=True) / count
    return centred * ((centred.square() * weight).sum(1, keepdim=True) / count + 1e-5).rsqrt()


class SignalSource:
    """Descriptors of the waveform itself, frame by frame, standardised.

    Args:
        describe: Waveforms (B, S) and a number of frames -> descriptors (B, T, F).
        dim: F.
        count_frames: Samples -> frames of the student's front-end.
        state: What was kept of an earlier one's `state`; then nothing need be measured.
    """

    reads = frozenset({"audio"})

    def __init__(
        self,
        describe: Callable[[Tensor, int], Tensor],
        dim: int,
        count_frames: Callable[[Tensor], Tensor],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.describe = describe
        self.dim = dim
        self.count_frames = count_frames
        self._statistics = ChannelStatistics(state)

    @property
    def state(self) -> dict[str, Any]:
        """The statistics."""
        return self._statistics.state

    @property
    def fingerprint(self) -> str:
        """Of the descriptors, their code, and how they are standardised."""
        code = hash_code(__name__, self.describe.__module__)
        return fingerprint("signal", code, self.describe.__qualname__, self.dim, self._statistics.fingerprint)

    def calibrate(self, wave: Tensor, lengths: Tensor | None) -> None:
        """Adds one batch to the statistics."""
        layers = self._layers(wave)
        valid = None
        if lengths is not None:
            frames = torch.arange(layers[0].shape[1], device=wave.device)
            valid = frames < self.count_frames(lengths).unsqueeze(1)
        self._statistics.add(layers, valid)

    def __call__(self, wave: Tensor, lengths: Tensor | None, batch: Batch) -> list[Tensor]:
        """Standardised descriptors, (B, T, F)."""
        del lengths, batch
        return self._statistics.standardize(self._layers(wave))

    def _layers(self, wave: Tensor) -> list[Tensor]:
        return [self.describe(wave, int(self.count_frames(torch.tensor(wave.shape[1]))))]


class CodeSource:
    """A discrete code for each frame, found once for the whole corpus: HuBERT's hidden units.

    Args:
        codes: Utterance id -> code of every frame, (T,).
        num_codes: Size of the code book.
        count_frames: Samples -> frames of the student's front-end.
        hop: Samples from one frame to the next; crops start at its multiples.
    """

    reads = frozenset({"audio"})

    def __init__(
        self,
        codes: Mapping[str, NDArray[np.int16]],
        num_codes: int,
        count_frames: Callable[[Tensor], Tensor],
        hop: int,
    ) -> None:
        self.codes = codes
        self.dim = num_codes
        self.count_frames = count_frames
        self.hop = hop

    @property
    def state(self) -> dict[str, Any]:
        """The codes, so that a resumed run learns the same ones."""
        return {"codes": {name: torch.from_numpy(codes) for name, codes in self.codes.items()}}

    @property
    def fingerprint(self) -> str:
        """Of the codes themselves: what made them is not asked again."""
        return fingerprint("codes", hash_code(__name__), self.dim, self.hop, hash_weights(self.state["codes"]))

    def calibrate(self, wave: Tensor, lengths: Tensor | None) -> None:
        """Nothing to measure."""

    def __call__(self, wave: Tensor, lengths: Tensor | None, batch: Batch) -> list[Tensor]:
        """Codes of each utterance's crop, (B, T), zero where padded.

        Raises:
            NestlingError: An utterance has no codes: only those of the train and search splits have.
        """
        del lengths
        if unknown := [u.id for u in batch.utterances if u.id not in self.codes]:
            raise ValueError(f"utterance {unknown[0]} has no codes; only those of the train and search splits have")
        pieces = [
            torch.from_numpy(self.codes[u.id][offset // self.hop :].astype(np.int64))
            for u, offset in zip(batch.utterances, batch.offsets, strict=True)
        ]
        num_frames = int(self.count_frames(torch.tensor(wave.shape[1])))
        out = torch.zeros(len(pieces), num_frames, dtype=torch.int64)
        for i, piece in enumerate(pieces):
            out[i, : len(piece[:num_frames])] = piece[:num_frames]
        return [out.to(wave.device)]


def mean_of_last_two_thirds(layers: Sequence[Tensor]) -> Tensor:
    """Mean of the last two thirds of the layers (the last 8 of 12): LightHuBERT's target."""
    chosen = layers[len(layers) - round(2 * len(layers) / 3) :]
    return torch.stack(list(chosen)).mean(0)
