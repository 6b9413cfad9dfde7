"""Shipped spaces with the same axes and depths and a container small enough to test hundreds of subnets."""

from dataclasses import replace

from search_spaces.space import SearchSpace

NAMES = ("tiny", "base", "lighthubert-base", "lighthubert-small")


def small(name: str, **backbone: object) -> SearchSpace:
    """The space `name` with widths, heads and inner units scaled down; `backbone` overrides fields of the backbone."""
    space = SearchSpace.load(name)
    return replace(
        space,
        backbone=replace(space.backbone, head_dim=4, pos_conv_kernel=8, **backbone),
        conv_dims=tuple(tuple(4 * (i + 1) for i in range(len(widths))) for widths in space.conv_dims),
        embed_dim=tuple(16 * (i + 1) for i in range(len(space.embed_dim))),
        heads=tuple(i + 1 for i in range(len(space.heads))),
        ffn_dim=tuple(12 * (i + 1) for i in range(len(space.ffn_dim))),
    )
