"""Which part of the container's weights a subnet uses.

One table says what each axis of each parameter counts. Everything that moves weights follows from it: the views a
subnet runs on, extraction, loading a trained encoder, and sorting by importance.

The residual stream is sliced *aligned*. The positional convolution has G groups; a subnet of width d keeps the first
d / G channels of each group, so it sees the same neighbours as the container. The supernet stores the stream
interleaved (channel i * G + g is the i-th of group g), so that every width is a prefix and every linear slice a view.
Only the positional kernel, which torch wants in blocks, is gathered.

Departs from LightHuBERT (arXiv 2203.15610), whose subnets keep the first d channels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from search_spaces.subnet import Backbone, Subnet

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
    (r"encoder\.layers\.(\d+)\.attention\.[qkv]_proj\.weight", ("heads", "width")),
    (r"encoder\.layers\.(\d+)\.attention\.[qkv]_proj\.bias", ("heads",)),
    (r"encoder\.layers\.(\d+)\.attention\.out_proj\.weight", ("width", "heads")),
    (r"encoder\.layers\.(\d+)\.attention\.out_proj\.bias", ("width",)),
    (r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.weight", ("ffn", "width")),
    (r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.bias", ("ffn",)),
    (r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.weight", ("width", "ffn")),
    (r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.bias", ("width",)),
    (r"encoder\.layers\.(\d+)\.(?:final_)?layer_norm\.\w+", ("width",)),
)
"""Parameter name -> what each of its axes counts.

`width`: residual channels, interleaved in the supernet. `grouped`: residual channels in blocks, one block a group.
`in_group`: the channels of one group. `conv`, `conv_in`, `conv_last`: channels of this convolution, of the one before,
of the last. `heads`: heads * head_dim. `ffn`: inner units. `fixed`: never sliced.
"""


@dataclass(frozen=True)
class Axis:
    """One axis of one parameter: what it counts and, for `conv`, `heads` and `ffn`, in which convolution or layer."""

    kind: str
    index: int = 0


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


def axis_size(axis: Axis, backbone: Backbone, subnet: Subnet) -> int | None:
    """How many entries of `axis` the subnet has (layers by their position in the subnet); None for a fixed axis."""
    match axis.kind:
        case "conv":
            return subnet.conv_dims[axis.index]
        case "width" | "grouped":
            return subnet.embed_dim
        case "in_group":
            return subnet.embed_dim // backbone.pos_conv_groups
        case "heads":
            return subnet.layers[axis.index].heads * backbone.head_dim
        case "ffn":
            return subnet.layers[axis.index].ffn_dim
        case _:
            return None


def container_name(name: str, kept: tuple[int, ...]) -> str:
    """The container's name of a subnet's parameter: its i-th layer is the container's layer `kept[i]`."""
    prefix = "encoder.layers."
    if not name.startswith(prefix):
        return name
    position, rest = name[len(prefix) :].split(".", 1)
    return f"{prefix}{kept[int(position)]}.{rest}"


def take(weight: Tensor, sizes: tuple[tuple[Axis, int | None], ...], groups: int) -> Tensor:
    """The first entries of every axis of a container's parameter: a view, save `grouped` axes, which are gathered."""
    for dim, (axis, size) in enumerate(sizes):
        if size is None or size == weight.shape[dim]:
            continue
        if axis.kind == "grouped":
            blocks = weight.unflatten(dim, (groups, -1)).narrow(dim + 1, 0, size // groups)
            weight = blocks.flatten(dim, dim + 1)
        else:
            weight = weight.narrow(dim, 0, size)
    return weight
