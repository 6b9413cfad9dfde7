"""Shipped spaces with the same axes and depths and a container small enough to test hundreds of subnets."""

from dataclasses import replace

from search_spaces.space import SearchSpace

NAMES = ("tiny", "base", "lighthubert-base", "lighthubert-small")
GATED = "base, gated"
RELEASED = "lighthubert-base, as released", "lighthubert-small, as released"
VARIANTS = (*NAMES, GATED, *RELEASED)
"""Shipped spaces, one with WavLM's gates, and those whose subnets are cut as LightHuBERT's released weights want."""
THREE_CONVS: dict[str, tuple[int, ...]] = {"conv_kernels": (10, 23, 8), "conv_strides": (5, 8, 8)}
"""Of a backbone: the same frames as HuBERT's seven convolutions make, 400 samples every 320."""


def small(name: str, **backbone: object) -> SearchSpace:
    """A variant with widths, heads and inner units scaled down; `backbone` overrides fields of the backbone.

    Where that has fewer convolutions, they are the first.
    """
    shipped = name.partition(",")[0]
    space = replace(SearchSpace.load(shipped), slicing="lighthubert" if name in RELEASED else "aligned")
    if name == GATED:
        backbone = {"gate_width": 16 * len(space.embed_dim), "num_buckets": 8, "max_distance": 9, **backbone}
    smaller = replace(space.backbone, head_dim=4, pos_conv_kernel=8, **backbone)
    conv_dims = space.conv_dims[: len(smaller.conv_kernels)]
    return replace(
        space,
        backbone=smaller,
        conv_dims=tuple(tuple(4 * (i + 1) for i in range(len(widths))) for widths in conv_dims),
        embed_dim=tuple(16 * (i + 1) for i in range(len(space.embed_dim))),
        heads=tuple(i + 1 for i in range(len(space.heads))),
        ffn_dim=tuple(12 * (i + 1) for i in range(len(space.ffn_dim))),
    )
