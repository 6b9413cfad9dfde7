"""Small encoders whose every tensor matters, and the same network in `transformers`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import HubertConfig, HubertModel

from checkpoints.teachers import hubert_config
from supernet.encoder import Encoder, EncoderConfig

TOLERANCE = 1e-5  # of the RMS: both sides add the same fp32 numbers, in another order

SMALL = EncoderConfig(
    conv_dims=(8, 12, 16),
    conv_kernels=(10, 3, 2),
    conv_strides=(5, 4, 4),
    embed_dim=32,
    heads=(4, 4),
    ffn_dims=(48, 48),
    head_dim=8,
    pos_conv_kernel=8,
    pos_conv_groups=4,
)


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Every tensor at unit scale over its inputs, so that each matters; attention that tells frames apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            scale = 2.0 if "q_proj.weight" in name or "k_proj.weight" in name else 1.0
            parameter.normal_(0.0, scale * fan_in**-0.5, generator=generator)
            if name.endswith("bias"):
                parameter.mul_(0.3)
            if "norm.weight" in name:
                parameter.mul_(0.3).add_(1.0)


def make_encoder(seed: int = 0, **changes: Any) -> Encoder:
    """A randomised encoder: `SMALL` but for `changes`."""
    encoder = Encoder(replace(SMALL, **changes))
    randomize(encoder, seed)
    return encoder


def make_hubert(encoder: Encoder) -> HubertModel:
    """The same network by `transformers`."""
    values = hubert_config(encoder.config)
    assert values is not None
    model = HubertModel(HubertConfig(**values))
    model.load_state_dict(encoder.state_dict())
    return model.eval()


def make_batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two utterances of unequal length, with an offset, zero where padded: (2, S) and (2,)."""
    wave = 0.3 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(seed)) + 0.1
    lengths = torch.tensor([4000, 2700])
    wave[1, 2700:] = 0
    return wave, lengths


def error_of(got: list[Tensor], wanted: list[Tensor], valid: Tensor | None = None) -> float:
    """The largest error of any element of any tensor, relative to its RMS; infinite where shapes differ."""
    if [x.shape for x in got] != [x.shape for x in wanted]:
        return float("inf")
    pairs = [(a, b) if valid is None else (a[valid], b[valid]) for a, b in zip(got, wanted, strict=True)]
    return max(((a - b).abs().max() / b.square().mean().sqrt()).item() for a, b in pairs)
