"""What a subnet is: a frozen value, nothing but numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

from search_spaces.errors import NestlingError

Lengths = TypeVar("Lengths", bound=Any)
"""A whole number, or an array or a tensor of such."""
SAMPLE_RATE_HZ = 16_000
"""Of all audio, everywhere. The encoder, which travels alone, says it once more."""


@dataclass(frozen=True)
class FrameGrid:
    """Where the frames of a front-end lie: frame t hears the samples [hop * t, hop * t + window)."""

    hop: int = 320
    """Samples from one frame to the next; 20 ms with HuBERT's strides."""
    window: int = 400
    """Samples that one frame hears; 25 ms with HuBERT's kernels."""

    @property
    def rate_hz(self) -> float:
        """Frames for each second."""
        return SAMPLE_RATE_HZ / self.hop

    def count(self, num_samples: Lengths) -> Lengths:
        """Frames of so many samples, a number or integers of any shape; 0 where there is no whole window."""
        frames = (num_samples - self.window) // self.hop + 1
        return frames * (frames > 0)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Backbone:
    """What no subnet of a space varies."""

    head_dim: int = 64
    """Channels of one attention head."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel of each convolution of the front-end, in samples of its input."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each convolution; their product is the samples of one frame (320, so 20 ms)."""
    conv_bias: bool = False
    conv_norm: Literal["layer", "group"] = "layer"
    """`layer`: over channels, after each convolution. `group`: over time, after the first (HuBERT-base)."""
    norm_first: bool = False
    """Transformer layers normalise their input (pre-norm, HuBERT-large) rather than their output."""
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    normalize_waveform: bool = True
    """The waveform is brought to zero mean and unit variance before the first convolution."""
    gate_width: int = 0
    """Attention has WavLM's gated relative position bias, whose gates read a residual stream of this width: the widest
    of the space. 0: no such bias."""
    num_buckets: int = 320
    """Distances in frames that the bias tells apart, both directions together."""
    max_distance: int = 800
    """Frames from which on all distances are one to the bias."""

    @property
    def grid(self) -> FrameGrid:
        """Where its frames lie."""
        hop, window = 1, 1
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            window += (kernel - 1) * hop
            hop *= stride
        return FrameGrid(hop, window)


@dataclass(frozen=True)
class Layer:
    """One Transformer layer. Its attention width is `heads * head_dim`, never stored twice."""

    heads: int
    ffn_dim: int


@dataclass(frozen=True)
class Subnet:
    """One architecture in a space."""

    conv_dims: tuple[int, ...]
    """Channels of each convolution of the front-end."""
    embed_dim: int
    """Width of the residual stream."""
    layers: tuple[Layer, ...]
    kept: tuple[int, ...]
    """`kept[i]` is the container layer that the i-th layer is; strictly increasing."""

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.kept) or list(self.kept) != sorted(set(self.kept)):
            raise NestlingError(
                f"kept must name one container layer for each of the {len(self.layers)} layers, "
                f"in increasing order; got {list(self.kept)}"
            )

    @cached_property
    def id(self) -> str:
        """A short stable name: the same architecture has the same id on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "conv_dims": list(self.conv_dims),
            "embed_dim": self.embed_dim,
            "layers": [asdict(layer) for layer in self.layers],
            "kept": list(self.kept),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Subnet:
        """The subnet that `to_dict` wrote.

        Raises:
            NestlingError: A field is missing, unknown or not a number.
        """
        try:
            return cls(
                conv_dims=tuple(int(c) for c in values["conv_dims"]),
                embed_dim=int(values["embed_dim"]),
                layers=tuple(Layer(int(v["heads"]), int(v["ffn_dim"])) for v in values["layers"]),
                kept=tuple(int(k) for k in values["kept"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise NestlingError(f"not a subnet: {error}; the fields are conv_dims, embed_dim, layers, kept") from error
