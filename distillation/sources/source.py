"""What a source is, what it gives, and what the spec of one opens it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from distillation.views import Seen
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch
from speech_data.corpus import SpeechCorpus
from supernet.model import Supernet


@dataclass(frozen=True)
class Targets:
    """What a source makes of one batch."""

    taps: Mapping[str, list[Tensor]]
    """By name, the layers of each tap: (B, T, K); codes (B, T); attention (B, n, T, T); labels (B, U)."""
    frame_rate_hz: float
    valid: Tensor | None
    """True where a frame comes from audio and not from padding, (B, T); None when every frame does."""


class Source(Protocol):
    """Anything that turns a batch into targets."""

    reads: frozenset[str]

    @property
    def dims(self) -> Mapping[str, int]:
        """Its taps, each with the channels of a target, or the number of its classes."""

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep to make the same source again; plain values and tensors."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides its targets but the audio: settings, teacher, code, and what it measured."""

    def calibrate(self, batch: Batch, seen: Seen) -> None:
        """Measures what it needs on one of the stage's first batches; never called where `state` is kept."""

    def __call__(self, batch: Batch, seen: Seen) -> Targets:
        """Targets for what the view shows them of `batch`."""


class Store(Protocol):
    """What is kept once beside a run, by `stage/source`, and not in every checkpoint; a dict will do."""

    def get(self, name: str, /) -> Mapping[str, Tensor] | None:
        """What was kept under a name."""

    def __setitem__(self, name: str, tensors: dict[str, Tensor], /) -> None:
        """Keeps it."""


@dataclass(frozen=True)
class Givens:
    """What a source may be made from."""

    name: str
    """`stage/source`: what the source keeps outside of checkpoints goes by it."""
    taps: tuple[str, ...]
    """What terms read of it."""
    supernet: Supernet
    """As it stands when the stage starts."""
    corpus: SpeechCorpus
    teacher: nn.Module | None
    """The frozen network, an `Encoder` or a `FrozenNetwork`."""
    seed: int
    store: Store
    states: Store
    """For what a teacher makes of whole utterances, by what it is made of."""
    saved: Mapping[str, Any] | None
    """The source's `state` in a checkpoint."""

    @property
    def grid(self) -> FrameGrid:
        """Where the student's frames lie."""
        return self.supernet.space.backbone.grid


class Spec(BaseModel):
    """How to make one source."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def taps(self) -> tuple[str, ...]:
        """What it can be asked for."""
        raise NotImplementedError

    @property
    def lasting(self) -> bool:
        """Whether the same spec means the same targets in another stage, so that heads carry over."""
        return True

    def open(self, givens: Givens) -> Source:
        """Makes the source.

        Raises:
            NestlingError: What it needs is not there.
        """
        raise NotImplementedError
