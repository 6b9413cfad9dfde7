"""The supernet: one set of weights that computes any subnet of its space."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Layer, Subnet
from supernet.blocks import Dropout, deinterleave, interleave
from supernet.encoder import Encoder, Trace
from supernet.encoder_config import EncoderConfig
from supernet.initialization import initialize
from supernet.misfits import find_misfits
from supernet.slicing import Cuts, axes, cut_axes, layer_at_depth, subnet_name, take

LAYERS = "encoder.layers."
POSITIONAL = "encoder.pos_conv_embed.conv"
POSITIONAL_KERNEL = f"{POSITIONAL}.parametrizations.weight.original1"
POSITIONAL_GAINS = f"{POSITIONAL}.parametrizations.weight.original0"


def encoder_config(backbone: Backbone, subnet: Subnet) -> EncoderConfig:
    """The shape of the plain encoder that computes `subnet`."""
    return EncoderConfig(
        conv_dims=subnet.conv_dims,
        embed_dim=subnet.embed_dim,
        heads=tuple(layer.heads for layer in subnet.layers),
        ffn_dims=tuple(layer.ffn_dim for layer in subnet.layers),
        **asdict(backbone),
    )


def shape_of(config: EncoderConfig) -> tuple[Backbone, Subnet]:
    """The inverse of `encoder_config`: what costs are counted from, for an encoder of any origin."""
    backbone = Backbone(**{f.name: getattr(config, f.name) for f in fields(Backbone)})
    layers = tuple(Layer(heads, ffn_dim) for heads, ffn_dim in zip(config.heads, config.ffn_dims, strict=True))
    return backbone, Subnet(config.conv_dims, config.embed_dim, layers, tuple(range(len(layers))))


class Supernet(nn.Module):
    """Weights shared by every subnet of a space.

    A subnet is computed by the plain encoder's own code, running on views of the container's weights: so what the
    supernet computes and what `extract` returns cannot drift apart. Nothing is kept from call to call: each makes
    modules of its own, which live as long as what backward needs of them.

    In training, with `container.encoder.gradient_checkpointing`, layers are computed again by backward.

    Args:
        space: What may vary.
        generator: Source of the fresh weights.
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator) -> None:
        super().__init__()
        self.space = space
        self.aligned = space.slicing == "aligned"
        self.stream_groups = space.backbone.pos_conv_groups if self.aligned else 1
        """Groups that the channels of the residual stream are stored interleaved by."""
        self._num_convs = len(space.conv_dims)
        self.container = Encoder(encoder_config(space.backbone, space.container), interleaved=self.aligned)
        initialize(self.container, generator)
        self.residual_order: Tensor
        """Channel j of the container's outputs was channel `residual_order[j]` of the encoder it started from, (D,)."""
        self.register_buffer("residual_order", torch.arange(space.container.embed_dim))

    def forward(
        self,
        wave: Tensor,
        lengths: Tensor | None,
        subnet: Subnet,
        taps: Collection[str] = ("hidden",),
        masked: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Trace:
        """Computes one subnet; arguments, trace and errors are those of `Encoder.forward`, `dropout` its `hidden`.

        Residual channels come out in the extracted encoder's order.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        groups = self.stream_groups
        trace: Trace = self._encoder(subnet)(wave, lengths, taps, masked, Dropout(dropout))
        trace.last = deinterleave(trace.last, groups)
        trace.hidden = [deinterleave(x, groups) for x in trace.hidden]
        trace.ffn = [deinterleave(x, groups) for x in trace.ffn]
        return trace

    def extract(self, subnet: Subnet) -> Encoder:
        """The subnet as a plain encoder with weights of its own, on the same device.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        weights = self.weights_of(subnet)
        with torch.device("meta"):  # no weights to draw and to throw away
            encoder = Encoder(encoder_config(self.space.backbone, subnet))
        encoder.load_state_dict(weights, assign=True)
        return encoder

    @torch.no_grad()
    def weights_of(self, subnet: Subnet) -> dict[str, Tensor]:
        """Copies of the subnet's weights, named and ordered as the extracted encoder has them.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        cuts = self._cut(subnet)
        weights = {}
        for source, weight in self.container.named_parameters():
            if (name := subnet_name(source, subnet.kept)) is None:
                continue
            part = self._part(source, weight, cuts)
            for dim, axis in enumerate(axes(source, self._num_convs)):
                if axis.kind == "width":
                    part = deinterleave(part.movedim(dim, -1), self.stream_groups).movedim(-1, dim)
            weights[name] = part.clone(memory_format=torch.contiguous_format)
        return weights

    @torch.no_grad()
    def load_encoder(self, weights: Mapping[str, Tensor], config: EncoderConfig | None = None) -> list[str]:
        """Copies the weights of a plain encoder (a teacher's, say) into the container, where they mean the same.

        A layer of the container takes that at the same relative depth, as layer-wise terms compare them; so the layers
        of a shallower encoder are taken more than once. Along an axis where the encoder is larger its first entries are
        taken, group by group for the residual stream; where it is smaller its entries fill the first places and the
        rest keep the values they have. A parameter is left alone when it is missing in `weights`, when an axis that
        never varies differs, when its residual stream does not divide into the container's groups, or when it is of a
        part that computes otherwise; see `find_misfits`.

        Args:
            weights: By the names of `Encoder`.
            config: The encoder's shape; without it, it is taken to compute as the container does.

        Returns:
            The names of the parameters that were left alone.
        """
        groups, depth = self.stream_groups, len(self.space.container.layers)
        misfits = find_misfits(config, self.space.backbone) if config else ()
        num_layers = 1 + max((int(name.split(".")[2]) for name in weights if name.startswith(LAYERS)), default=-1)
        skipped = []
        for name, target in self.container.named_parameters():
            source = name
            if name.startswith(LAYERS):
                _, _, layer, rest = name.split(".", 3)
                source = f"{LAYERS}{layer_at_depth(int(layer), depth, num_layers)}.{rest}"
            weight = weights.get(source)
            kinds = axes(name, self._num_convs)
            fixed = [dim for dim, axis in enumerate(kinds) if axis.kind == "fixed"]
            stream = [dim for dim, axis in enumerate(kinds) if axis.kind in ("width", "grouped")]
            if (
                weight is None
                or any(weight.shape[dim] != target.shape[dim] for dim in fixed)
                or any(weight.shape[dim] % groups for dim in stream)
                or any(re.match(misfit.names, name) for misfit in misfits)
            ):
                skipped.append(name)
                continue
            for dim, axis in enumerate(kinds):
                if axis.kind == "width":
                    weight = interleave(weight.movedim(dim, -1), groups).movedim(-1, dim)
            place = target
            if kinds[0].kind == "grouped":  # always the first: every group is a block
                weight, place = weight.unflatten(0, (groups, -1)), target.unflatten(0, (groups, -1))
            shared = tuple(slice(min(a, b)) for a, b in zip(weight.shape, place.shape, strict=True))
            place[shared].copy_(weight[shared])
        return skipped

    def _encoder(self, subnet: Subnet) -> Encoder:
        """The container without the layers that a subnet lacks, on views of its weights."""
        encoder: Encoder = self._copy(self.container, "", self._cut(subnet), subnet.kept)
        return encoder

    def _cut(self, subnet: Subnet) -> Cuts:
        if problem := self.space.explain(subnet):
            raise NestlingError(problem)
        return cut_axes(self.space, subnet)

    def _copy(self, module: Any, prefix: str, cuts: Cuts, kept: tuple[int, ...]) -> Any:
        """A module of the container and what is in it, as of now, with a subnet's part of every parameter."""
        copy = object.__new__(type(module))
        state = copy.__dict__
        state.update(module.__dict__)
        modules = module._modules.items()
        if prefix == LAYERS:
            modules = [(name, layer) for name, layer in modules if int(name) in kept]
        state["_modules"] = {name: self._copy(child, f"{prefix}{name}.", cuts, kept) for name, child in modules}
        state["_parameters"] = {
            name: None if weight is None else self._part(prefix + name, weight, cuts)
            for name, weight in module._parameters.items()
        }
        if isinstance(module, nn.LayerNorm):
            copy.normalized_shape = tuple(copy.weight.shape)
        elif isinstance(module, nn.GroupNorm):
            copy.num_groups = copy.num_channels = len(copy.weight)
        return copy

    def _part(self, name: str, weight: Tensor, cuts: Cuts) -> Tensor:
        """A subnet's part of the container's parameter of that name."""
        if self.aligned or name not in (POSITIONAL_KERNEL, POSITIONAL_GAINS):
            return take(weight, axes(name, self._num_convs), cuts)
        kernel = self.container.encoder.pos_conv_embed.conv.weight  # cut after its weight norm
        part = take(kernel, axes(POSITIONAL_KERNEL, self._num_convs), cuts)
        return part if name == POSITIONAL_KERNEL else part.square().sum((0, 1), keepdim=True).sqrt()
