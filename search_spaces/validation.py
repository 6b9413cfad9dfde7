"""The rules of a search space, in the words of its file: what breaks one, and what makes a space too big to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import comb, gcd, isfinite, prod
from typing import TYPE_CHECKING

from search_spaces.costs import PARAMS
from search_spaces.subnet import Backbone

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

MAX_CHAINS = 20_000
"""Most front-ends of a space: exact counting lists them."""
MAX_STATES = 1_000_000
"""Most distinct (embed_dim, depth, Σ heads, Σ FFN) of a space: exact counting tabulates them."""
MAX_WIDTH = 8192
MAX_DEPTH = 256
"""Of Transformer layers, and of convolutions; the largest speech encoders have 48 and 7."""
MAX_KERNEL = 4096
"""Of kernels and strides, in samples or frames."""
MAX_BUCKETS = 65_536
MAX_DISTANCE = 10_000_000
MAX_PARAMS = 4_000_000_000
"""The largest HuBERT has one billion."""


def find_problems(space: SearchSpace) -> Iterator[str]:
    """Every rule that a space breaks, in the words of its file."""
    yield from _find_backbone_problems(space.backbone)
    if len(space.conv_dims) != (num_convs := len(space.backbone.conv_kernels)):
        yield f"conv_dims must list the widths of {num_convs} convolutions, got {len(space.conv_dims)}"
    if bool(space.ffn_dim) == bool(space.ffn_ratio):
        yield "exactly one of ffn_dim and ffn_ratio must be given"

    lists: dict[str, tuple[float, ...]] = {f"conv_dims[{i}]": widths for i, widths in enumerate(space.conv_dims)}
    lists |= {name: getattr(space, name) for name in ("embed_dim", "heads", "ffn_dim", "ffn_ratio")}
    for name, values in lists.items():
        if not values and not name.startswith("ffn"):
            yield f"{name} must offer at least one choice"
        elif list(values) != sorted(set(values)):
            yield f"{name} must be increasing, without repeats, got {list(values)}"
        elif values and not 0 < values[0] <= values[-1] <= MAX_WIDTH:
            yield f"{name} must be positive and at most {MAX_WIDTH}, got {list(values)}"
    groups = max(1, space.backbone.pos_conv_groups)
    if odd := [width for width in space.embed_dim if width % groups]:
        yield f"embed_dim must be multiples of pos_conv_groups ({groups}), got {odd}"
    if space.ffn_ratio and all(map(isfinite, space.ffn_ratio)):
        for width in space.embed_dim:
            if min(dims := space.ffn_dims(width)) < 1 or max(dims) > MAX_WIDTH or len(set(dims)) < len(dims):
                yield f"ffn_ratio must give different widths in 1..{MAX_WIDTH}, at {width} got {list(dims)}"
    yield from _find_gate_problems(space)
    if space.slicing == "lighthubert" and space.embed_dim and (space.ffn_dim or space.ffn_ratio):
        yield from _find_block_problems(space)
    yield from _find_depth_problems(space.depth)


def _find_backbone_problems(backbone: Backbone) -> Iterator[str]:
    limits = {"head_dim": MAX_WIDTH, "pos_conv_kernel": MAX_KERNEL, "pos_conv_groups": MAX_WIDTH}
    limits |= {"num_buckets": MAX_BUCKETS, "max_distance": MAX_DISTANCE}
    for name, limit in limits.items():
        if not 1 <= (value := getattr(backbone, name)) <= limit:
            yield f"backbone.{name} must be in 1..{limit}, got {value}"
    if not 0 <= backbone.gate_width <= MAX_WIDTH:
        yield f"backbone.gate_width must be 0 (no position bias) or up to {MAX_WIDTH}, got {backbone.gate_width}"
    near = backbone.num_buckets // 4
    if backbone.num_buckets % 4 or not 0 < near < backbone.max_distance:
        yield (
            f"backbone.num_buckets must be a positive multiple of 4 and a quarter of it below max_distance, "
            f"got {backbone.num_buckets} and {backbone.max_distance}"
        )
    kernels, strides = list(backbone.conv_kernels), list(backbone.conv_strides)
    if not 1 <= len(kernels) == len(strides) <= MAX_DEPTH:
        yield (
            f"backbone.conv_kernels, .conv_strides must pair up, 1 to {MAX_DEPTH} of each, "
            f"got {len(kernels)} and {len(strides)}"
        )
    elif not 1 <= min(kernels + strides) <= max(kernels + strides) <= MAX_KERNEL:
        yield f"backbone.conv_kernels, .conv_strides must be in 1..{MAX_KERNEL}, got {kernels}, {strides}"


def _find_gate_problems(space: SearchSpace) -> Iterator[str]:
    gates, head_dim = space.backbone.gate_width, max(1, space.backbone.head_dim)
    if not gates or not space.embed_dim or not space.heads:
        return
    widest, inner = max(space.embed_dim), max(space.heads) * head_dim
    if gates != widest or gates % head_dim or inner > gates:
        yield (
            f"backbone.gate_width must be the widest embed_dim ({widest}), a multiple of head_dim ({head_dim}) "
            f"and at least head_dim * heads ({inner}), got {gates}"
        )
    if space.slicing != "aligned":
        yield f"slicing must be aligned where backbone.gate_width is set, got {space.slicing}"


def _find_block_problems(space: SearchSpace) -> Iterator[str]:
    """LightHuBERT's rule takes the first d of each block of D inner units; they must be there to take."""
    widest = max(space.embed_dim)
    held = max(space.ffn_dims(widest))
    for width in space.embed_dim:
        num_blocks, rest = divmod(max(space.ffn_dims(width)), width)
        if (needed := num_blocks * widest + rest) > held:
            yield (
                f"slicing lighthubert takes {width} of each {widest} inner units, so an FFN of "
                f"{max(space.ffn_dims(width))} at width {width} needs {needed} in the widest, which has {held}; "
                "give ffn_ratio, or slicing aligned"
            )


def _find_depth_problems(depth: Mapping[int, tuple[tuple[int, ...], ...]]) -> Iterator[str]:
    if not depth or min(depth) < 1 or list(depth) != sorted(depth):
        yield f"depth must map numbers of layers, increasing from at least 1, got {list(depth)}"
        return
    if (deepest := max(depth)) > MAX_DEPTH:
        yield f"depth must be at most {MAX_DEPTH} layers, got {deepest}"
        return
    if list(depth[deepest]) != [tuple(range(deepest))]:
        yield f"depth {deepest}, the deepest, must keep all its layers: [{list(range(deepest))}]"
    for num_layers, options in depth.items():
        if not options or len(set(options)) < len(options):
            yield f"depth {num_layers} must list different sets of layers, got {list(map(list, options))}"
        for kept in options:
            if len(kept) != num_layers or list(kept) != sorted(set(kept) & set(range(deepest))):
                yield f"depth {num_layers} must keep as many of 0..{deepest - 1}, in order, got {list(kept)}"


def find_excesses(space: SearchSpace) -> Iterator[str]:
    """What would make a valid space too big to hold, or to count exactly."""
    if (num_params := PARAMS.count(space.backbone, space.container)) > MAX_PARAMS:
        yield f"the largest subnet has {num_params:,} parameters; at most {MAX_PARAMS:,} are allowed"
    if (num_chains := prod(map(len, space.conv_dims))) > MAX_CHAINS:
        yield f"conv_dims gives {num_chains:,} front-ends; at most {MAX_CHAINS:,} can be counted exactly"
    num_states = sum(
        _max_totals(space.heads, num_layers) * _max_totals(space.ffn_dims(width), num_layers)
        for width in space.embed_dim
        for num_layers in space.depth
    )
    if num_states > MAX_STATES:
        yield (
            f"heads and FFN widths give up to {num_states:,} pairs of totals; at most {MAX_STATES:,} can be "
            "counted exactly: offer fewer choices, or multiples of a common step"
        )


def _max_totals(values: tuple[int, ...], num_layers: int) -> int:
    """At least the number of distinct totals of one value for each layer."""
    step = gcd(*(value - values[0] for value in values)) or 1
    span = num_layers * (values[-1] - values[0])
    return min(comb(num_layers + len(values) - 1, num_layers), span // step + 1)
