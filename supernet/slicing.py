"""Which part of the container's weights a subnet uses.

One table says what each axis of each parameter counts. Everything that moves weights follows from it: the views a
subnet runs on, extraction, loading a trained encoder, and sorting by importance.

Our own spaces are sliced *aligned*. The positional convolution has G groups; a subnet of width d keeps the first d / G
channels of each group, so it sees the same neighbours as the container. The supernet stores the stream interleaved
(channel i * G + g is the i-th of group g), so that every width is a prefix and every linear slice a view. Only the
positional kernel, which torch wants in blocks, is gathered.

Released LightHuBERT weights (arXiv 2203.15610) want another rule, a value of the space. Their subnets keep the first d
channels. Inner units lie in blocks of the container's width D: a subnet takes the first d of each block, and of the
last what is left. The positional kernel is cut after its weight norm, so the part is normalised anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet

AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"masked_spec_embed", ("width",)),
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.weight", ("conv", "conv_in", "fixed")),
    (r"feature_extractor\.conv_layers\.(\d+)\.(?:conv\.bias|layer_norm\.\w+)", ("conv",)),
    (r"feature_projection\.layer_norm\.\w+", ("conv_last",)),
    (r"feature_projection\.projection\.weight", ("width", "conv_last")),
    (r"feature_projection\.projection\.bias", ("width",)),
    (r"encoder\.pos_conv_embed\.conv\.bias", ("grouped",)),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", ("fixed", "fixed", "fixed")),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", ("grouped", "in_group", "fixed")),
    (r"encoder\.layer_norm\.\w+", ("width",)),
    (r"encoder\.rel_attn_embed\.weight", ("fixed", "fixed")),
    (r"encoder\.layers\.(\d+)\.attention\.[qkv]_proj\.weight", ("heads", "width")),
    (r"encoder\.layers\.(\d+)\.attention\.[qkv]_proj\.bias", ("heads",)),
    (r"encoder\.layers\.(\d+)\.attention\.out_proj\.weight", ("width", "heads")),
    (r"encoder\.layers\.(\d+)\.attention\.out_proj\.bias", ("width",)),
    (r"encoder\.layers\.(\d+)\.attention\.gru_rel_pos_const", ("fixed", "gates", "fixed", "fixed")),
    (r"encoder\.layers\.(\d+)\.attention\.gru_rel_pos_linear\.weight", ("fixed", "fixed")),
    (r"encoder\.layers\.(\d+)\.attention\.gru_rel_pos_linear\.bias", ("fixed",)),
    (r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.weight", ("ffn", "width")),
    (r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.bias", ("ffn",)),
    (r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.weight", ("width", "ffn")),
    (r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.bias", ("width",)),
    (r"encoder\.layers\.(\d+)\.(?:final_)?layer_norm\.\w+", ("width",)),
)
"""Parameter name -> what each of its axes counts.

`width`: residual channels, interleaved in the supernet. `grouped`: residual channels in blocks, one block a group.
`in_group`: the channels of one group. `conv`, `conv_in`, `conv_last`: channels of this convolution, of the one before,
of the last. `heads`: heads * head_dim. `gates`: heads. `ffn`: inner units. `fixed`: never sliced.
"""


class Axis(NamedTuple):
    """One axis of one parameter: what it counts and, where they differ, in which convolution or layer."""

    kind: str
    number: int = 0


class Block(NamedTuple):
    """Of an axis in blocks of `block`, the first `part` of each, until there are `size`."""

    size: int
    block: int
    part: int


class Cuts(NamedTuple):
    """How much of each axis a subnet takes: of those that are not named, all."""

    sizes: Mapping[Axis, int]
    """The first so many."""
    blocks: Mapping[Axis, Block]
    """Of every block, its first."""


@cache
def axes(name: str, num_convs: int) -> tuple[Axis, ...]:
    """The axes of a parameter of an encoder with `num_convs` convolutions.

    Raises:
        KeyError: No row of the table matches.
    """
    for pattern, kinds in AXES:
        if match := re.fullmatch(pattern, name):
            index = int(match.group(1)) if match.lastindex else 0
            return tuple(_axis(kind, index, num_convs) for kind in kinds)
    raise KeyError(f"no slicing rule for parameter {name}")


def _axis(kind: str, index: int, num_convs: int) -> Axis:
    match kind:
        case "conv_in":
            return Axis("conv", index - 1) if index else Axis("fixed")  # the first convolution reads the waveform
        case "conv_last":
            return Axis("conv", num_convs - 1)
        case "conv" | "heads" | "gates" | "ffn":
            return Axis(kind, index)
    return Axis(kind)


def cut_axes(space: SearchSpace, subnet: Subnet) -> Cuts:
    """What the subnet takes of each axis of the container."""
    groups, width, widest = space.backbone.pos_conv_groups, subnet.embed_dim, space.container.embed_dim
    sizes, blocks = {Axis("width"): width, Axis("grouped"): width, Axis("in_group"): width // groups}, {}
    for i, channels in enumerate(subnet.conv_dims):
        sizes[Axis("conv", i)] = channels
    for layer, i in zip(subnet.layers, subnet.kept, strict=True):
        sizes[Axis("heads", i)] = layer.heads * space.backbone.head_dim
        sizes[Axis("gates", i)] = layer.heads
        sizes[Axis("ffn", i)] = layer.ffn_dim
    if width < widest and space.slicing == "aligned":
        blocks[Axis("grouped")] = Block(sizes.pop(Axis("grouped")), widest // groups, width // groups)
    elif width < widest:
        for i in subnet.kept:
            blocks[Axis("ffn", i)] = Block(sizes.pop(Axis("ffn", i)), widest, width)
    return Cuts(sizes, blocks)


def subnet_name(name: str, kept: tuple[int, ...]) -> str | None:
    """A subnet's name of a container's parameter: the container's layer `kept[i]` is its i-th. None if it has none."""
    prefix = "encoder.layers."
    if not name.startswith(prefix):
        return name
    layer, rest = name[len(prefix) :].split(".", 1)
    return f"{prefix}{kept.index(int(layer))}.{rest}" if int(layer) in kept else None


def take(weight: Tensor, kinds: Sequence[Axis], cuts: Cuts) -> Tensor:
    """The cut of every axis of a container's parameter: a view, save where blocks are gathered."""
    shape = tuple([cuts.sizes.get(axis, length) for axis, length in zip(kinds, weight.shape, strict=True)])
    if shape != weight.shape:
        weight = weight.as_strided(shape, weight.stride())  # one view for all axes, so one copy of a gradient
    if cuts.blocks.keys().isdisjoint(kinds):
        return weight
    for dim, axis in enumerate(kinds):
        if axis in cuts.blocks:
            weight = _gather(weight, dim, cuts.blocks[axis])
    return weight


def _gather(weight: Tensor, dim: int, cut: Block) -> Tensor:
    num_blocks, rest = divmod(cut.size, cut.part)
    blocks = weight.narrow(dim, 0, num_blocks * cut.block).unflatten(dim, (num_blocks, cut.block))
    whole = blocks.narrow(dim + 1, 0, cut.part).flatten(dim, dim + 1)
    return torch.cat([whole, weight.narrow(dim, num_blocks * cut.block, rest)], dim) if rest else whole


def layer_at_depth(layer: int, depth: int, num_layers: int) -> int:
    """The layer of a network of `num_layers` at the same relative depth as a container's, of `depth`; both from 0."""
    return max(int((layer + 1) * num_layers / depth + 0.5) - 1, 0)
