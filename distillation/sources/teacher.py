"""A frozen network's layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillation.sources.source import Givens, Source, Spec, Targets
from distillation.sources.statistics import ChannelStatistics
from distillation.sources.whole_utterances import WholeUtterances
from distillation.views import Seen
from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint, hash_code
from speech_data.batching import Batch
from supernet.encoder import TAPS, Encoder, Trace
from supernet.encoder_config import EncoderConfig
from supernet.weights import hash_weights

Normalization = Literal["channel", "instance", "none"]
STANDARDIZED = ("hidden", "ffn", "front_end")
"""Taps whose channels are standardised; the others are relations between frames."""


class TeacherSpec(Spec):
    """The run's teacher. Terms say which taps of it they meet; one pass gives them all."""

    kind: Literal["teacher"]
    normalization: Normalization = "channel"
    """How targets are standardised."""

    @property
    def taps(self) -> tuple[str, ...]:
        """See `Spec`."""
        return TAPS

    def open(self, givens: Givens) -> Source:
        """See `Spec`."""
        if givens.teacher is None:
            stage = givens.name.partition("/")[0]
            raise NestlingError(f"stage {stage} learns from a teacher, and none was given; add --teacher")
        teacher: Any = givens.teacher.to(givens.supernet.residual_order.device)
        whole = None
        if isinstance(teacher, FrozenNetwork) and teacher.whole:
            made_by = fingerprint(hash_code(teacher.states_of.__module__), hash_network(teacher))
            whole = WholeUtterances(teacher.hear, givens.corpus, givens.states, givens.grid, made_by)
        return TeacherSource(teacher, givens.taps, self.normalization, givens.saved, whole)


class FrozenNetwork(nn.Module):
    """A teacher that `Encoder` does not compute: it gives its hidden states alone, and lends no weights.

    Args:
        network: Holds the weights.
        states_of: Waveforms of one length (B, S), 16 kHz -> the input of the first layer and the output of each, each
            (B, T, d).
        dim: d.
        front_end: A shape whose front-end makes the same frames.
        description: All that decides what it computes besides the weights, as plain JSON values.
        whole: It hears where an utterance ends, so that what it makes of a crop is not what it makes of those frames.
    """

    taps = ("hidden",)

    def __init__(
        self,
        network: nn.Module,
        states_of: Callable[[Tensor], Sequence[Tensor]],
        dim: int,
        front_end: EncoderConfig,
        description: Mapping[str, Any] = MappingProxyType({}),
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.description = dict(description)
        self.states_of = states_of
        self.dim = dim
        self.config = front_end
        self.whole = whole

    def hear(self, wave: Tensor) -> list[Tensor]:
        """The output of each layer for waveforms of one length, (B, S) -> L of (B, T, d)."""
        return self(wave, None, self.taps).hidden[1:]  # type: ignore[no-any-return]

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
    """A frozen encoder's layers, from one pass.

    Args:
        teacher: The encoder, or another network; put into evaluation mode and frozen.
        taps: What it gives, of `supernet.encoder.TAPS`: `hidden` (outputs of layers 1 .. L), `ffn` (outputs of
            feed-forward networks before the residual sum, LightHuBERT's), `front_end` (one layer), `probabilities` …
        normalization: How each channel of each layer of `STANDARDIZED` is standardised: with statistics measured once
            by `calibrate` (`channel`), over the time of each utterance as data2vec does (`instance`), or not at all.
        state: What was kept of an earlier one's `state`; then nothing need be measured.
        utterances: Whole ones, out of whose states those of crops are cut; None: what is seen is what is heard.
    """

    reads = frozenset({"audio"})

    def __init__(
        self,
        teacher: Encoder | FrozenNetwork,
        taps: Collection[str],
        normalization: Normalization,
        state: Mapping[str, Any] | None = None,
        utterances: WholeUtterances | None = None,
    ) -> None:
        self._utterances = utterances
        self.teacher = teacher.eval().requires_grad_(False)
        self.taps = tuple(taps)
        self.normalization = normalization
        state = state or {}
        if "count" in state:  # of a checkpoint from before a source had several taps
            state = {self.taps[0]: state}
        self._statistics = {tap: ChannelStatistics(state.get(tap)) for tap in self.taps if tap in STANDARDIZED}
        self._alone = isinstance(teacher, FrozenNetwork) or teacher.config.conv_norm == "group"

    @property
    def dims(self) -> dict[str, int]:
        """Channels of each tap; frames of attention, which vary, are 0."""
        config = self.teacher.config
        width = self.teacher.dim if isinstance(self.teacher, FrozenNetwork) else config.embed_dim
        widths = {"hidden": width, "ffn": width, "front_end": config.conv_dims[-1]}
        return {tap: widths.get(tap, 0) for tap in self.taps}

    @property
    def state(self) -> dict[str, Any]:
        """The statistics of `channel` normalisation: measured again, on other threads, they would be others."""
        return {tap: measured.state for tap, measured in self._statistics.items() if measured.state}

    @property
    def fingerprint(self) -> str:
        """Of the teacher, the code that computes it, the taps, and how channels are standardised."""
        foreign = [self.teacher.states_of.__module__] if isinstance(self.teacher, FrozenNetwork) else []
        code = hash_code(__name__, *foreign)
        measured = {tap: statistics.fingerprint for tap, statistics in self._statistics.items()}
        return fingerprint("teacher", code, [*self.taps], self.normalization, measured, hash_network(self.teacher))

    @torch.no_grad()
    def calibrate(self, batch: Batch, seen: Seen) -> None:
        """Adds one batch to the statistics of `channel` normalisation; the others need none."""
        if self.normalization == "channel" and self._statistics:
            taps, valid = self._hear(batch, seen)
            for tap, statistics in self._statistics.items():
                statistics.add(taps[tap], valid)

    @torch.no_grad()
    def __call__(self, batch: Batch, seen: Seen) -> Targets:
        """The taps, standardised."""
        taps, valid = self._hear(batch, seen)
        for tap, statistics in self._statistics.items():
            match self.normalization:
                case "channel":
                    taps[tap] = statistics.standardize(taps[tap])
                case "instance":
                    taps[tap] = [_instance_norm(x, valid) for x in taps[tap]]
        return Targets(taps, self.teacher.config.frame_rate_hz, valid)

    def _hear(self, batch: Batch, seen: Seen) -> tuple[dict[str, list[Tensor]], Tensor | None]:
        if self._utterances is not None:  # a network that gives hidden states alone
            return {"hidden": self._utterances(batch, seen)}, seen.valid_frames(self._utterances.grid)
        wave, lengths = seen.target, seen.lengths
        if lengths is not None and self._alone:
            return self._one_by_one(wave, lengths)
        trace = self.teacher(wave, lengths, self.taps)
        return self._pick(trace), trace.valid

    def _one_by_one(self, wave: Tensor, lengths: Tensor) -> tuple[dict[str, list[Tensor]], Tensor]:
        """A group norm hears padding, masked or not, and so may networks of others: each utterance is heard alone."""
        frames = int(self.teacher.config.count_frames(torch.tensor(wave.shape[1])))
        counts = self.teacher.config.count_frames(lengths)
        rows = [
            self._pick(self.teacher(wave[i : i + 1, :length], None, self.taps))
            for i, length in enumerate(lengths.tolist())
        ]

        def pad(x: Tensor, tap: str) -> Tensor:
            missing = frames - x.shape[-2]
            return F.pad(x[0], (0, 0 if tap in (*STANDARDIZED, "values") else missing, 0, missing))

        taps = {
            tap: [torch.stack([pad(x, tap) for x in layer]) for layer in zip(*(row[tap] for row in rows), strict=True)]
            for tap in self.taps
        }
        return taps, torch.arange(frames, device=wave.device) < counts.unsqueeze(1)

    def _pick(self, trace: Trace) -> dict[str, list[Tensor]]:
        def layers(tap: str) -> Sequence[Tensor]:
            if tap == "hidden":
                return trace.hidden[1:]
            found = getattr(trace, tap)
            return [found] if isinstance(found, Tensor) else found

        return {tap: [x.float() for x in layers(tap)] for tap in self.taps}


def _instance_norm(x: Tensor, valid: Tensor | None) -> Tensor:
    """Zero mean and unit variance of every channel over the valid frames of each utterance, (B, T, d)."""
    weight = torch.ones_like(x[..., :1]) if valid is None else valid.unsqueeze(-1).to(x.dtype)
    count = weight.sum(1, keepdim=True)
    centred = x - (x * weight).sum(1, keepdim=True) / count
    return centred * ((centred.square() * weight).sum(1, keepdim=True) / count + 1e-5).rsqrt()
