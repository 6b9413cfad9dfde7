"""The numbers that define an encoder.

One of the files that travel inside exported folders; see `encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from torch import Tensor

SAMPLE_RATE_HZ = 16_000

Lengths = TypeVar("Lengths", int, Tensor)


@dataclass(frozen=True)
class EncoderConfig:
    """The numbers that define an encoder. One entry of `heads` and `ffn_dims` for each Transformer layer."""

    conv_dims: tuple[int, ...]
    embed_dim: int
    heads: tuple[int, ...]
    ffn_dims: tuple[int, ...]
    head_dim: int = 64
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "layer"
    norm_first: bool = False
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    normalize_waveform: bool = True
    gate_width: int = 0
    """D: attention has WavLM's gated relative position bias, whose gates read a residual stream of this width: that of
    i reads channels i * H to (i + 1) * H. A narrower stream has some channels of each group of the positional
    convolution, and gates read zeros for the others. 0: no such bias."""
    num_buckets: int = 320
    """Distances that the bias tells apart, both directions together."""
    max_distance: int = 800
    """Frames from which on all distances are one."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """From plain JSON values; keys that are not fields are ignored."""
        known = {f.name for f in fields(cls)}
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def count_frames(self, lengths: Lengths) -> Lengths:
        """Frames that come out of `lengths` samples; a number, or int64 of any shape."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    @property
    def min_samples(self) -> int:
        """Samples that make one frame; 400 with HuBERT's front-end."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def frame_rate_hz(self) -> float:
        """Frames for each second of audio; 50 with HuBERT's strides."""
        samples = 1
        for stride in self.conv_strides:
            samples *= stride
        return SAMPLE_RATE_HZ / samples
