"""What a subnet costs, in closed form and exactly.

Parameters are those of the extracted encoder as `transformers` counts a `HubertModel`: positional gains and
mask embedding included, prediction heads not. MACs are multiply-accumulates of convolutions, linears and
attention products for a stated duration of audio; norms, activations and softmax are not counted.
FLOPs = 2 × MACs.

Every cost depends on a subnet only through its `Totals`, so the same formulas serve one subnet (Python
integers) and millions (int64 arrays).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone, Subnet

MAX_SECONDS = 3600.0
"""Longest audio whose MACs are counted: an hour keeps every sensible space inside int64."""

BYTES_PER_PARAM = 4  # fp32
GATES = 8
"""Outputs of the linear map of WavLM's gates."""

IntArray = NDArray[np.int64]
Int = TypeVar("Int", int, IntArray)


@dataclass(frozen=True)
class Totals(Generic[Int]):
    """All that a cost depends on: integers for one subnet, or arrays that broadcast together for many."""

    conv_dims: Sequence[Int]
    """Channels of each convolution of the front-end."""
    embed_dim: Int
    depth: Int
    heads: Int
    """Sum over the layers."""
    ffn_dim: Int
    """Sum over the layers."""


def totals_of(subnet: Subnet) -> Totals[int]:
    """The totals of one subnet."""
    return Totals(
        conv_dims=subnet.conv_dims,
        embed_dim=subnet.embed_dim,
        depth=len(subnet.layers),
        heads=sum(layer.heads for layer in subnet.layers),
        ffn_dim=sum(layer.ffn_dim for layer in subnet.layers),
    )


def totals_of_arrays(conv_dims: IntArray, embed_dim: IntArray, heads: IntArray, ffn_dim: IntArray) -> Totals[IntArray]:
    """The totals of N subnets.

    Args:
        conv_dims: (N, number of convolutions), int64.
        embed_dim: (N,), int64.
        heads: (N, layers of the container), int64; 0 where a subnet has no such layer.
        ffn_dim: As `heads`.
    """
    return Totals(
        tuple(conv_dims.T), embed_dim, np.count_nonzero(heads, axis=1), heads.sum(axis=1), ffn_dim.sum(axis=1)
    )


@dataclass(frozen=True)
class Cost:
    """One thing that a subnet spends."""

    kind: Literal["params", "macs", "size"]
    """`size`: bytes of the exported fp32 weights."""
    seconds: float = 0.0
    """Audio for which MACs are counted."""

    def __str__(self) -> str:
        return f"{self.kind}@{plain(self.seconds)}s" if self.kind == "macs" else self.kind

    def describe(self, count: int) -> str:
        """A count with its unit, for people: `25,000,000 parameters`."""
        units = {"params": "parameters", "macs": f"MACs for {plain(self.seconds)} s", "size": "bytes"}
        return f"{count:,} {units[self.kind]}"

    def count(self, backbone: Backbone, subnet: Subnet) -> int:
        """What one subnet spends."""
        return self.count_totals(backbone, totals_of(subnet))

    def count_totals(self, backbone: Backbone, totals: Totals[Int]) -> Int:
        """What the subnets with these totals spend."""
        if self.kind == "macs":
            return _sum(_macs(backbone, totals, self.seconds))
        params = _sum(_params(backbone, totals))
        return params * BYTES_PER_PARAM if self.kind == "size" else params


PARAMS = Cost("params")


def plain(number: float) -> str:
    """A float with all its digits and no empty fraction: `1`, `0.5`."""
    return repr(float(number)).removesuffix(".0")


def count_params(backbone: Backbone, subnet: Subnet) -> int:
    """Parameters of the extracted encoder."""
    return PARAMS.count(backbone, subnet)


def count_macs(backbone: Backbone, subnet: Subnet, seconds: float) -> int:
    """Multiply-accumulates for `seconds` of audio, batch 1.

    Raises:
        NestlingError: The audio is shorter than one frame or longer than an hour.
    """
    return Cost("macs", seconds).count(backbone, subnet)


def count_bytes(backbone: Backbone, subnet: Subnet) -> int:
    """Bytes of the fp32 weights."""
    return Cost("size").count(backbone, subnet)


def count_frames(backbone: Backbone, num_samples: int) -> int:
    """Frames the front-end makes of `num_samples`, >= 0."""
    return _lengths(backbone, num_samples)[-1]


def breakdown(backbone: Backbone, subnet: Subnet, seconds: float = 1.0) -> dict[str, tuple[int, int]]:
    """(parameters, MACs) of each part of a subnet; they add up to `count_params` and `count_macs`."""
    totals = totals_of(subnet)
    params, macs = _params(backbone, totals), _macs(backbone, totals, seconds)
    return {part: (params[part], macs.get(part, 0)) for part in params}


def _params(backbone: Backbone, s: Totals[Int]) -> dict[str, Int]:
    """Parameters by part.

    Source: the layers of `transformers` 5 `HubertModel`; HuBERT-base has 94,371,712, reproduced to the unit.
    """
    d, f, attention_dim = s.embed_dim, s.ffn_dim, backbone.head_dim * s.heads
    first, last = s.conv_dims[0], s.conv_dims[-1]
    kernels, taps = backbone.conv_kernels, backbone.pos_conv_kernel
    convs = kernels[0] * first
    for k, c_in, c_out in zip(kernels[1:], s.conv_dims, s.conv_dims[1:], strict=False):
        convs = convs + k * c_in * c_out
    normed = _add(s.conv_dims) if backbone.conv_norm == "layer" else first
    if backbone.conv_bias:
        convs = convs + _add(s.conv_dims)
    gates: Int = 0 * d
    if backbone.gate_width:  # WavLM: one table for all layers, in each a linear map for all heads and a gain a head
        table = backbone.num_buckets * (backbone.gate_width // backbone.head_dim)
        gates = table + (GATES * backbone.head_dim + GATES) * s.depth + s.heads
    return {
        "front_end": convs + 2 * normed,
        "projection": (last + 1) * d,
        "pos_conv": d * (d // backbone.pos_conv_groups) * taps + taps + d,  # kernel, one gain per tap, bias
        "attention": 4 * d * attention_dim + 3 * attention_dim + d * s.depth + gates,
        "ffn": 2 * d * f + f + d * s.depth,
        # feature norm, mask embedding, encoder norm, two norms a layer
        "other": 2 * last + d + 2 * d + 4 * d * s.depth,
    }


def _macs(backbone: Backbone, s: Totals[Int], seconds: float) -> dict[str, Int]:
    """MACs by part. An even positional kernel runs at one position more than there are frames."""
    lengths = _lengths(backbone, round(seconds * SAMPLE_RATE_HZ)) if 0 < seconds <= MAX_SECONDS else [0]
    frames = lengths[-1]
    if frames < 1:
        raise NestlingError(f"{seconds:g} s of audio: need at least one frame and at most {MAX_SECONDS:g} s")
    d, attention_dim = s.embed_dim, backbone.head_dim * s.heads
    taps, gates = backbone.pos_conv_kernel, GATES if backbone.gate_width else 0
    products = [k * n for k, n in zip(backbone.conv_kernels, lengths, strict=True)]
    convs = products[0] * s.conv_dims[0]
    for num, c_in, c_out in zip(products[1:], s.conv_dims, s.conv_dims[1:], strict=False):
        convs = convs + num * c_in * c_out
    return {
        "front_end": convs,
        "projection": frames * s.conv_dims[-1] * d,
        "pos_conv": (frames + (taps + 1) % 2) * taps * d * (d // backbone.pos_conv_groups),
        "attention": frames * (4 * d + gates) * attention_dim + 2 * frames**2 * attention_dim,
        "ffn": frames * 2 * d * s.ffn_dim,
    }


def _lengths(backbone: Backbone, num_samples: int) -> list[int]:
    """Output positions of each convolution."""
    lengths = []
    for kernel, stride in zip(backbone.conv_kernels, backbone.conv_strides, strict=True):
        num_samples = max(0, (num_samples - kernel) // stride + 1)
        lengths.append(num_samples)
    return lengths


def _sum(parts: dict[str, Int]) -> Int:
    return _add(list(parts.values()))


def _add(terms: Sequence[Int]) -> Int:
    """Their sum; `sum` would start from a plain 0."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
