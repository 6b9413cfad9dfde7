"""Small encoders whose every tensor matters, and the same network in `transformers`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from checkpoints.formats.hugging_face import hugging_face_config
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig

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


GATES = {"gate_width": 32, "num_buckets": 20, "max_distance": 40}
"""What makes a WavLM of `SMALL`; most of its buckets occur in 50 frames."""
FAMILIES = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "wavlm": "WavLM"}
"""`model_type` -> how the classes of `transformers` begin."""


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


def make_model(encoder: Encoder, model_type: str = "hubert", head: str = "Model", **options: Any) -> nn.Module:
    """The same network by `transformers`, bare or under a random head, such as `ForCTC`."""
    values = hugging_face_config(encoder.config, model_type)
    assert values is not None
    config = getattr(transformers, f"{FAMILIES[model_type]}Config")(**values, **options)
    model = getattr(transformers, FAMILIES[model_type] + head)(config)
    randomize(model, seed=1)
    weights = encoder.state_dict()
    if model_type == "wavlm":
        weights["encoder.layers.0.attention.rel_attn_embed.weight"] = weights.pop("encoder.rel_attn_embed.weight")
    (model if head == "Model" else getattr(model, model_type)).load_state_dict(weights)
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def run_model(model: nn.Module, wave: Tensor, lengths: Tensor | None, masked: Tensor | None) -> list[Tensor]:
    """Every hidden state and the last output, by `transformers`."""
    mask = None if lengths is None else (torch.arange(wave.shape[1]) < lengths.unsqueeze(1)).long()
    with warnings.catch_warnings():
        # WavLM gives PyTorch's attention a mask of numbers and a mask of booleans.
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask", UserWarning)
        out = model(wave, attention_mask=mask, mask_time_indices=masked, output_hidden_states=True)
    return [*out.hidden_states, out.last_hidden_state]


@torch.no_grad()
def run_encoder(encoder: Encoder, wave: Tensor, lengths: Tensor | None, masked: Tensor | None) -> list[Tensor]:
    """The same, by the encoder."""
    trace = encoder(wave, lengths, ("hidden",), masked)
    return [*trace.hidden, trace.last]


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
