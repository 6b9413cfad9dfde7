"""Which heads, inner units and channels matter, so that a prefix can be the best part."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from supernet.blocks import deinterleave
from supernet.model import Supernet
from supernet.slicing import Axis, axes

WIDTH = Axis("width")
Importance = dict[Axis, Tensor]


@torch.no_grad()
def taylor_importance(supernet: Supernet) -> Importance:
    """Scores every unit by how much the loss would change, to first order, were its weights zero.

    Run the container's loss backward first (over a few batches: gradients add up), then call this.

    Returns:
        For each axis that varies, a score for each unit: heads (N,), inner units (F,), front-end channels (C,), and
        under `WIDTH` residual channels by group and place in the group, (G, D / G).

    Raises:
        ValueError: A parameter has no gradient.

    Source: the first-order criterion of Molchanov et al. (arXiv 1906.10771), summed over the weights of a unit.
    """
    backbone = supernet.space.backbone
    groups = supernet.stream_groups
    scores: Importance = {}

    def add(axis: Axis, score: Tensor) -> None:
        scores[axis] = scores[axis] + score if axis in scores else score

    for name, weight in supernet.container.named_parameters():
        if name == "masked_spec_embed":
            continue  # it has a gradient only when frames were masked
        if weight.grad is None:
            raise ValueError(f"no gradient for {name}; run the container's loss backward before scoring")
        change = (weight * weight.grad).abs()
        for dim, axis in enumerate(axes(name, len(supernet.space.container.conv_dims))):
            score = change.movedim(dim, 0).flatten(1).sum(1) if change.dim() > 1 else change
            match axis.kind:
                case "width":
                    add(WIDTH, deinterleave(score, groups).unflatten(0, (groups, -1)))
                case "grouped":
                    add(WIDTH, score.unflatten(0, (groups, -1)))
                case "heads":
                    add(axis, score.unflatten(0, (-1, backbone.head_dim)).sum(1))
                case "conv" | "ffn":
                    add(axis, score)
    return scores


@torch.no_grad()
def reorder(supernet: Supernet, importance: Mapping[Axis, Tensor]) -> Tensor:
    """Sorts units by importance, greatest first, without changing what the container computes.

    Residual channels move only within their group of the positional convolution. Under WavLM's gates, which read
    blocks of the stream for heads that share a table of distances, neither channels nor heads move. Where subnets are
    cut by LightHuBERT's rule, channels and inner units stay, because its slices of them are not nested prefixes.

    Returns:
        The order of the residual channels, (D,): channel j of the container's outputs was channel `order[j]` before.
        To undo it, index the outputs with `order.argsort()`. The supernet keeps the product of all such orders.
    """
    backbone = supernet.space.backbone
    groups = supernet.stream_groups
    stay = {"width", "heads"} if backbone.gate_width else set()
    stay |= set() if supernet.aligned else {"width", "ffn"}
    orders = {
        axis: score.argsort(dim=-1, descending=True, stable=True)
        for axis, score in importance.items()
        if axis.kind not in stay
    }
    width = supernet.space.container.embed_dim
    device = supernet.residual_order.device
    blocks = orders.get(WIDTH, torch.arange(width // groups, device=device).expand(groups, -1))  # (G, D / G)
    starts = torch.arange(groups, device=device).unsqueeze(1)
    plain = (blocks + starts * (width // groups)).flatten()  # order of channels in blocks
    interleaved = (blocks * groups + starts).T.flatten()  # the same order, of interleaved channels

    for name, weight in supernet.container.named_parameters():
        kinds = axes(name, len(supernet.space.container.conv_dims))
        for dim, axis in enumerate(kinds):
            match axis.kind:
                case "width" if WIDTH in orders:
                    weight.copy_(weight.index_select(dim, interleaved))
                case "grouped" if WIDTH in orders:
                    weight.copy_(weight.index_select(dim, plain))
                case "in_group" if WIDTH in orders:  # each output channel reads the channels of its own group
                    own = blocks.repeat_interleave(width // groups, dim=0)  # (D, D / G)
                    weight.copy_(weight.gather(dim, own.unsqueeze(-1).expand_as(weight)))
                case "heads" if axis in orders:
                    units = torch.arange(backbone.head_dim, device=device)
                    weight.copy_(
                        weight.index_select(dim, (orders[axis].unsqueeze(1) * backbone.head_dim + units).flatten())
                    )
                case "conv" | "ffn" if axis in orders:
                    weight.copy_(weight.index_select(dim, orders[axis]))
    supernet.residual_order.copy_(supernet.residual_order[plain])
    return plain
