"""The closed forms against three public counters, to the unit.

Each counter looks at the extracted encoder: plain modules, weight norm folded in, attention by explicit
products. None of them counts everything and nothing else; what each leaves out or adds is known exactly, so
the corrected figures must equal the closed forms. Those stay the truth: they are what budgets hold against.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.costs import count_frames, count_macs, count_params
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone, Subnet
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig
from supernet.front_end import ConvLayer
from supernet.model import encoder_config

with warnings.catch_warnings():  # importing them warns of what torch deprecates
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis, parameter_count
    from thop import profile

FVCORE_NORM_OPS = 5  # for each element of a layer or group norm with weights
THOP_NORM_OPS = 4  # for each element of a layer norm with weights; it sees no group norm


@dataclass(frozen=True)
class Check:
    """What one tool says of one encoder."""

    quantity: Literal["macs", "params"]
    tool: str
    raw: int
    """As the tool reports it, in its own unit."""
    corrected: int
    """With what the tool leaves out put in and what it adds taken out; MACs or parameters."""
    expected: int
    """The closed form."""
    correction: str
    """What was done to `raw`, in words; empty for nothing."""

    @property
    def exact(self) -> bool:
        """Whether the corrected figure equals the closed form to the unit."""
        return self.corrected == self.expected


def cross_check(backbone: Backbone, subnet: Subnet, seconds: float) -> list[Check]:
    """Counts one subnet with every tool.

    Args:
        backbone: Of its space.
        subnet: Any.
        seconds: Audio to count MACs for. The tools run forwards over it, so keep it short.

    Returns:
        A row for each tool, MACs first.

    Raises:
        NestlingError: The audio is shorter than one frame.

    Source: the rules of `torch.utils.flop_counter`, fvcore 0.1.5 and thop 0.1.1, read and measured.
    """
    macs, params = count_macs(backbone, subnet, seconds), count_params(backbone, subnet)
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    encoder = Encoder(encoder_config(backbone, subnet))
    countable, wave = CountableEncoder(encoder.config), torch.zeros(1, num_samples)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all three talk about what they cannot see; the table says it better
        flops = count_with_torch(countable, wave)
        fvcore_macs, fvcore_params = count_with_fvcore(countable, wave), int(parameter_count(encoder)[""])
        thop_macs, thop_params = count_with_thop(countable, wave)

    products = _count_products(backbone, subnet, num_samples)
    layer_normed, group_normed = _count_normed(backbone, subnet, num_samples)
    normed = layer_normed + group_normed
    embedding, gains = subnet.embed_dim, backbone.pos_conv_kernel
    group_norms = 2 * subnet.conv_dims[0] if backbone.conv_norm == "group" else 0
    gated = 0
    if backbone.gate_width:  # a table and the gains are read without a call of a module that thop knows
        table = backbone.num_buckets * (backbone.gate_width // backbone.head_dim)
        gated = table + sum(layer.heads for layer in subnet.layers)
    return [
        Check("macs", "FlopCounterMode", flops, flops // 2, macs, "halved: two FLOPs to a MAC"),
        Check(
            "macs",
            "fvcore",
            fvcore_macs,
            fvcore_macs - FVCORE_NORM_OPS * normed,
            macs,
            f"less {FVCORE_NORM_OPS} for each of {normed:,} normed elements",
        ),
        Check(
            "macs",
            "thop",
            thop_macs,
            thop_macs - THOP_NORM_OPS * layer_normed + products,
            macs,
            f"less {THOP_NORM_OPS} for each of {layer_normed:,} layer-normed elements, "
            f"plus {products:,} of attention products it does not see",
        ),
        Check("params", "numel", numel := sum(p.numel() for p in encoder.parameters()), numel, params, ""),
        Check("params", "fvcore", fvcore_params, fvcore_params, params, ""),
        Check(
            "params",
            "thop",
            thop_params,
            thop_params + embedding + gains + group_norms + gated,
            params,
            f"plus {embedding:,} of the mask embedding, {gains:,} gains, {group_norms:,} of group norm and "
            f"{gated:,} of the position bias",
        ),
    ]


class CountableConvLayer(nn.Module):
    """The same layer with its convolution called as a module, which is all that thop sees."""

    def __init__(self, layer: ConvLayer) -> None:
        super().__init__()
        self.conv, self.norm = layer.conv, layer.norm
        self.layer_norm = layer.layer_norm if layer.norm != "none" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T_in, C_in) -> (B, T, C)."""
        x = self.conv(x.transpose(1, 2))
        if self.norm == "group":
            x = self.layer_norm(x)
        x = x.transpose(1, 2)
        return F.gelu(self.layer_norm(x) if self.norm == "layer" else x)


class CountableEncoder(nn.Module):
    """An encoder as counters can read it: modules called, no parametrizations, attention by products, a tensor out."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config).eval()
        front_end = self.encoder.feature_extractor
        front_end.conv_layers = nn.ModuleList(CountableConvLayer(layer) for layer in front_end.conv_layers)  # type: ignore[arg-type]
        with torch.enable_grad():  # else what is left is no parameter
            nn.utils.parametrize.remove_parametrizations(self.encoder.encoder.pos_conv_embed.conv, "weight")

    def forward(self, wave: Tensor) -> Tensor:
        """(B, S) -> (B, T, d)."""
        return self.encoder(wave, None, ("attention",)).last  # type: ignore[no-any-return]


def count_with_torch(encoder: CountableEncoder, wave: Tensor) -> int:
    """FLOPs of one forward, by PyTorch's own counter."""
    with FlopCounterMode(display=False) as counter:
        encoder(wave)
    return int(counter.get_total_flops())


def count_with_fvcore(encoder: CountableEncoder, wave: Tensor) -> int:
    """What fvcore calls FLOPs: MACs, and some operations of norms."""
    analysis = FlopCountAnalysis(encoder, wave)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return int(analysis.total())


def count_with_thop(encoder: CountableEncoder, wave: Tensor) -> tuple[int, int]:
    """(MACs, parameters) as thop sees them. It leaves buffers behind in the modules it has seen."""
    macs, params = profile(encoder, inputs=(wave,), verbose=False)
    return int(macs), int(params)


def _count_products(backbone: Backbone, subnet: Subnet, num_samples: int) -> int:
    """MACs of the products inside attention: scores, and scores times values."""
    width = backbone.head_dim * sum(layer.heads for layer in subnet.layers)
    return 2 * count_frames(backbone, num_samples) ** 2 * width


def _count_normed(backbone: Backbone, subnet: Subnet, num_samples: int) -> tuple[int, int]:
    """Elements that pass through (layer norms, group norms)."""
    lengths = []
    for kernel, stride in zip(backbone.conv_kernels, backbone.conv_strides, strict=True):
        num_samples = (num_samples - kernel) // stride + 1
        lengths.append(num_samples)
    norms_of_width = 1 + 2 * len(subnet.layers)
    inside = lengths[-1] * (subnet.conv_dims[-1] + norms_of_width * subnet.embed_dim)
    if backbone.conv_norm == "group":
        return inside, subnet.conv_dims[0] * lengths[0]
    return inside + sum(width * length for width, length in zip(subnet.conv_dims, lengths, strict=True)), 0
