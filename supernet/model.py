"""The supernet: one set of weights that computes any subnet of its space."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Layer, Subnet
from supernet.blocks import Dropout, deinterleave, interleave
from supernet.encoder import Encoder, Trace
from supernet.encoder_config import EncoderConfig
from supernet.initialization import initialize
from supernet.slicing import Axis, Cut, axes, container_name, cut_axis, take

CACHED_SUBNETS = 16
KERNEL_DIMS = 3
"""Kernels of convolutions are kept as copies when no gradient is recorded: torch reads them faster in one piece."""
POSITIONAL = "encoder.pos_conv_embed.conv"
POSITIONAL_BIAS = f"{POSITIONAL}.bias"  # gathered, so a copy too
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


@dataclass(frozen=True)
class _Slot:
    """Where one view goes in a plain encoder, and how it is cut from the container."""

    parameters: dict[str, Tensor | None]
    name: str
    source: str
    cuts: tuple[Cut, ...]


@dataclass
class _Plan:
    """A plain encoder without weights of its own, and the slots to fill before it runs."""

    encoder: Encoder
    slots: tuple[_Slot, ...]
    filled_from: tuple[int, ...] = ()
    """What the slots hold views of, when no gradient is recorded: such views stay good while the weights do."""


class Supernet(nn.Module):
    """Weights shared by every subnet of a space.

    A subnet is computed by the plain encoder's own code, running on views of the container's weights: so what the
    supernet computes and what `extract` returns cannot drift apart.

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
        self.container = Encoder(encoder_config(space.backbone, space.container), interleaved=self.aligned)
        initialize(self.container, generator)
        self.residual_order: Tensor
        """Channel j of the container's outputs was channel `residual_order[j]` of the encoder it started from, (D,)."""
        self.register_buffer("residual_order", torch.arange(space.container.embed_dim))
        self._weights = dict(self.container.named_parameters())
        self._copied = [
            weight
            for name, weight in self._weights.items()
            if not self.aligned or weight.dim() == KERNEL_DIMS or name == POSITIONAL_BIAS
        ]
        self._plans: OrderedDict[Subnet, _Plan] = OrderedDict()

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
        plan = self._plan(subnet)
        groups = self.stream_groups
        weights = () if torch.is_grad_enabled() else self._identify_weights()
        if not weights or plan.filled_from != weights:
            for slot in plan.slots:
                part = self._part(slot.source, slot.cuts)
                slot.parameters[slot.name] = part.contiguous() if weights and part.dim() == KERNEL_DIMS else part
            plan.filled_from = weights
        trace: Trace = plan.encoder(wave, lengths, taps, masked, Dropout(dropout))
        if not weights:
            for slot in plan.slots:
                slot.parameters[slot.name] = None  # the views hold the graph
        trace.last = deinterleave(trace.last, groups)
        trace.hidden = [deinterleave(x, groups) for x in trace.hidden]
        trace.ffn = [deinterleave(x, groups) for x in trace.ffn]
        return trace

    def extract(self, subnet: Subnet) -> Encoder:
        """The subnet as a plain encoder with weights of its own.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        weights = self.weights_of(subnet)
        encoder = Encoder(encoder_config(self.space.backbone, subnet))
        encoder.load_state_dict(weights)
        return encoder

    @torch.no_grad()
    def weights_of(self, subnet: Subnet) -> dict[str, Tensor]:
        """Copies of the subnet's weights, named and ordered as the extracted encoder has them.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        self._check(subnet)
        weights = {}
        for name, source, cuts in self._cuts(subnet):
            weight = self._part(source, cuts)
            for dim, axis in enumerate(self._axes(name)):
                if axis.kind == "width":
                    weight = deinterleave(weight.movedim(dim, -1), self.stream_groups).movedim(-1, dim)
            weights[name] = weight.clone(memory_format=torch.contiguous_format)
        return weights

    @torch.no_grad()
    def load_encoder(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Copies the weights of a plain encoder (a teacher's, say) into the container, where the shapes allow.

        Along an axis where the encoder is larger its first entries are taken, group by group for the residual stream;
        where it is smaller its entries fill the first places and the rest keep the values they have. A parameter is
        left alone when it is missing in `weights` or when an axis that never varies differs.

        Returns:
            The names of the parameters that were left alone.
        """
        groups = self.stream_groups
        skipped = []
        for name, target in self._weights.items():
            weight = weights.get(name)
            kinds = self._axes(name)
            fixed = [dim for dim, axis in enumerate(kinds) if axis.kind == "fixed"]
            if weight is None or any(weight.shape[dim] != target.shape[dim] for dim in fixed):
                skipped.append(name)
                continue
            for dim, axis in enumerate(kinds):
                if axis.kind == "width":
                    weight = interleave(weight.movedim(dim, -1), groups).movedim(-1, dim)
            shared = tuple(min(a, b) for a, b in zip(weight.shape, target.shape, strict=True))
            cuts = tuple(
                Cut(size, length // groups, size // groups) if axis.kind == "grouped" else Cut(size)
                for axis, length, size in zip(kinds, weight.shape, shared, strict=True)
            )
            part = take(weight, cuts)
            if any(axis.kind == "grouped" for axis in kinds):
                blocks = target.unflatten(0, (groups, -1))  # a grouped axis is always the first
                place = blocks[:, : shared[0] // groups]
                for dim, size in enumerate(shared[1:], start=2):
                    place = place.narrow(dim, 0, size)
                place.copy_(part.unflatten(0, (groups, -1)))
            else:
                take(target, cuts).copy_(part)
        return skipped

    def _check(self, subnet: Subnet) -> None:
        if problem := self.space.explain(subnet):
            raise NestlingError(problem)

    def _identify_weights(self) -> tuple[int, ...]:
        """Changes when what slots hold goes stale: when weights move, or when those held as copies are written."""
        return tuple(number for weight in self._copied for number in (weight.data_ptr(), weight._version))

    def _axes(self, name: str) -> tuple[Axis, ...]:
        return axes(name, len(self.space.container.conv_dims))

    def _part(self, source: str, cuts: tuple[Cut, ...]) -> Tensor:
        """The part of a container's parameter that `cuts` say."""
        if self.aligned or source not in (POSITIONAL_KERNEL, POSITIONAL_GAINS):
            return take(self._weights[source], cuts)
        kernel: Tensor = take(self.container.encoder.pos_conv_embed.conv.weight, cuts)  # cut after its weight norm
        return kernel if source == POSITIONAL_KERNEL else kernel.square().sum((0, 1), keepdim=True).sqrt()

    def _cuts(self, subnet: Subnet) -> list[tuple[str, str, tuple[Cut, ...]]]:
        """For each parameter of the subnet: its name, its name in the container, and how much of each axis it takes."""
        with torch.device("meta"):
            names = [name for name, _ in Encoder(encoder_config(self.space.backbone, subnet)).named_parameters()]
        return [self._cut(name, subnet) for name in names]

    def _cut(self, name: str, subnet: Subnet) -> tuple[str, str, tuple[Cut, ...]]:
        read = POSITIONAL_KERNEL if name == POSITIONAL_GAINS and not self.aligned else name
        cuts = tuple(cut_axis(axis, self.space, subnet) for axis in self._axes(read))
        return name, container_name(name, subnet.kept), cuts

    def _plan(self, subnet: Subnet) -> _Plan:
        if subnet in self._plans:
            self._plans.move_to_end(subnet)
            return self._plans[subnet]
        self._check(subnet)
        with torch.device("meta"):
            encoder = Encoder(encoder_config(self.space.backbone, subnet), interleaved=self.aligned)
        slots = []
        for path, module in encoder.named_modules():
            for name in module._parameters:
                if module._parameters[name] is not None:
                    _, source, cuts = self._cut(f"{path}.{name}" if path else name, subnet)
                    parameters: dict[str, Tensor | None] = module._parameters
                    slots.append(_Slot(parameters, name, source, cuts))
        plan = _Plan(encoder, tuple(slots))
        self._plans[subnet] = plan
        if len(self._plans) > CACHED_SUBNETS:
            self._plans.popitem(last=False)
        return plan
