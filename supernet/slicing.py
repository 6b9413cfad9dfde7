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
from dataclasses import dataclass
from functools import cache

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


@dataclass(frozen=True)
class Axis:
    """One axis of one parameter: what it counts and, for `conv`, `heads` and `ffn`, in which convolution or layer."""

    kind: str
    index: int = 0


@dataclass(frozen=True)
class Cut:
    """How much of an axis a subnet takes: the first `part` of each block, until there are `size`."""

    size: int | None = None
    """None: all of it."""
    block: int = 1
    part: int = 1


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
    if kind == "conv_in":
        return Axis("conv", index - 1) if index else Axis("fixed")  # the first convolution reads the waveform
    if kind == "conv_last":
        return Axis("conv", num_convs - 1)
    return Axis(kind, index)


def cut_axis(axis: Axis, space: SearchSpace, subnet: Subnet) -> Cut:
    """What the subnet takes of an axis of the container; layers by their position in the subnet."""
    groups, width, widest = space.backbone.pos_conv_groups, subnet.embed_dim, space.container.embed_dim
    blocks = (
        {"ffn": (widest, width)} if space.slicing == "lighthubert" else {"grouped": (widest // groups, width // groups)}
    )
    match axis.kind:
        case "conv":
            size = subnet.conv_dims[axis.index]
        case "width" | "grouped":
            size = width
        case "in_group":
            size = width // groups
        case "heads":
            size = subnet.layers[axis.index].heads * space.backbone.head_dim
        case "gates":
            size = subnet.layers[axis.index].heads
        case "ffn":
            size = subnet.layers[axis.index].ffn_dim
        case _:
            return Cut()
    return Cut(size, *blocks.get(axis.kind, (1, 1)))


def container_name(name: str, kept: tuple[int, ...]) -> str:
    """The container's name of a subnet's parameter: its i-th layer is the container's layer `kept[i]`."""
    prefix = "encoder.layers."
    if not name.startswith(prefix):
        return name
    position, rest = name[len(prefix) :].split(".", 1)
    return f"{prefix}{kept[int(position)]}.{rest}"


def take(weight: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
    """The cut of every axis of a container's parameter: a view, save where blocks are gathered."""
    for dim, cut in enumerate(cuts):
        if cut.size is None or (cut.size == weight.shape[dim] and cut.part == cut.block):
            continue
        if cut.part == cut.block:
            weight = weight.narrow(dim, 0, cut.size)
            continue
        num_blocks, rest = divmod(cut.size, cut.part)
        blocks = weight.narrow(dim, 0, num_blocks * cut.block).unflatten(dim, (num_blocks, cut.block))
        whole = blocks.narrow(dim + 1, 0, cut.part).flatten(dim, dim + 1)
        last = weight.narrow(dim, num_blocks * cut.block, rest) if rest else None
        weight = whole if last is None else torch.cat([whole, last], dim)
    return weight
