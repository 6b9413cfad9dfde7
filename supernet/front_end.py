"""The front-end of an encoder: from samples to frames, and to the width of the network.

One of the files that travel inside exported folders; see `encoder`, also for the letters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.encoder_config import EncoderConfig


class ConvLayer(nn.Module):
    """Convolution, norm, GELU. `norm` is "layer" (over channels), "group" (each channel over time) or "none".

    Channels stay last from layer to layer, so the norm reads them side by side, and the convolution runs as one of
    height 1, which torch computes in that layout. On a CPU the front-end trains in a third of the time so.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, bias: bool, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, stride, bias=bias)
        self.stride, self.norm = stride, norm
        if norm == "layer":
            self.layer_norm: nn.Module = nn.LayerNorm(c_out)
        elif norm == "group":
            self.layer_norm = nn.GroupNorm(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.conv.weight.unsqueeze(2).to(memory_format=torch.channels_last)  # (C, C_in, 1, K)
        rows = x.transpose(1, 2).unsqueeze(2)  # (B, T_in, C_in) -> (B, C_in, 1, T_in), a view
        x = F.conv2d(rows, kernel, self.conv.bias, stride=(1, self.stride)).squeeze(2)  # (B, C, T)
        if self.norm == "group":
            x = self.layer_norm(x)
        x = x.transpose(1, 2)
        if self.norm == "layer":
            x = self.layer_norm(x)
        return F.gelu(x)  # (B, T, C)


class FrontEnd(nn.Module):
    """The stack of convolutions from samples to frames."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList()
        c_in = 1
        for i, (c_out, kernel, stride) in enumerate(
            zip(config.conv_dims, config.conv_kernels, config.conv_strides, strict=True)
        ):
            norm = "layer" if config.conv_norm == "layer" else "group" if i == 0 else "none"
            self.conv_layers.append(ConvLayer(c_in, c_out, kernel, stride, config.conv_bias, norm))
            c_in = c_out

    def forward(self, wave: Tensor) -> Tensor:
        x = wave.unsqueeze(2)  # (B, S) -> (B, S, 1)
        for layer in self.conv_layers:
            x = layer(x)
        return x  # (B, T, C)

    def _freeze_parameters(self) -> None:
        """The name by which users and heads of `transformers` freeze a front-end."""
        self.requires_grad_(False)


class FeatureProjection(nn.Module):
    """Front-end channels to the width of the residual stream."""

    def __init__(self, conv_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(conv_dim)
        self.projection = nn.Linear(conv_dim, embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.projection(self.layer_norm(features))  # type: ignore[no-any-return]  # (B, T, C) -> (B, T, d)


def check_lengths(shape: Sequence[int], lengths: Tensor | None, min_samples: int) -> None:
    """Raises ValueError unless each item of a batch has a length, makes a frame and lies within the batch.

    Args:
        shape: (B, S), of the batch.
        lengths: Valid samples of each item, (B,), int64; None for S.
        min_samples: That make a frame.
    """
    *rows, num_samples = shape
    if lengths is not None and list(lengths.shape) != rows:
        raise ValueError(f"lengths must be one for each item, {rows} of them, got {list(lengths.shape)}")
    found = [num_samples] if lengths is None or not len(lengths) else torch.stack(lengths.aminmax()).tolist()
    if min(found) < min_samples:
        raise ValueError(
            f"an utterance must have {min_samples} samples or more to make a frame, got {min(found)}; "
            "leave it out, or pad it with silence and count that"
        )
    if max(found) > num_samples:
        raise ValueError(f"lengths must be at most {num_samples}, the samples of the batch, got {max(found)}")


def normalize_waveform(wave: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance over the valid samples of each item, (B, S) -> (B, S); padding becomes zero.

    Sums and counts are taken in fp32 at least: fp16 has no number above 65,504, which is 4.1 s of samples.
    """
    x = wave.to(torch.promote_types(wave.dtype, torch.float32))
    valid: Tensor | float = 1.0
    count: Tensor | float = x.shape[1]
    if lengths is not None:
        valid = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
        count = lengths.unsqueeze(1).to(x.dtype)
    centred = (x - (x * valid).sum(-1, keepdim=True) / count) * valid
    return (centred * (centred.square().sum(-1, keepdim=True) / count + 1e-7).rsqrt()).to(wave.dtype)
