"""The blocks of an encoder: positional convolution, attention and feed-forward network, and the layer they make up.

One of the files that travel inside exported folders; see `encoder`, also for the letters.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.encoder_config import EncoderConfig

LAYER_TAPS = ("ffn", "attention", "probabilities", "values")
"""What a layer can be asked for besides its output."""


@dataclass(frozen=True)
class Dropout:
    """Probabilities of being left out in training, each in [0, 1)."""

    hidden: float = 0.0
    """Of channels, after the positional convolution and after each attention and feed-forward network."""
    attention: float = 0.0
    """Of the frames that a frame attends to."""
    activation: float = 0.0
    """Of inner units of feed-forward networks."""
    features: float = 0.0
    """Of channels, after the feature projection."""
    layer: float = 0.0
    """Of whole layers, whose taps then hold None."""


NO_DROPOUT = Dropout()


class PositionalConv(nn.Module):
    """A grouped, weight-normed convolution over time that tells a frame where it is.

    Groups are contiguous blocks of channels. With `interleaved`, the channels of `x` arrive (and leave) with the
    groups interleaved: channel `i * groups + g` is the i-th of group g. A supernet stores its residual stream so.
    """

    def __init__(self, embed_dim: int, kernel: int, groups: int, interleaved: bool) -> None:
        super().__init__()
        conv = nn.Conv1d(embed_dim, embed_dim, kernel, padding=kernel // 2, groups=groups)
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)
        self.groups, self.interleaved = groups, interleaved

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        if self.interleaved:
            x = deinterleave(x, self.groups)
        x = self._convolve(x.transpose(1, 2))[..., :frames]  # an even kernel yields T + 1 positions; the last one goes
        x = F.gelu(x).transpose(1, 2)  # (B, d, T) -> (B, T, d)
        return interleave(x, self.groups) if self.interleaved else x

    def _convolve(self, x: Tensor) -> Tensor:
        """In fp32 on a CPU: there, PyTorch 2.13's bf16 grouped convolution is wrong for 10 or 12 channels a group."""
        if x.device.type != "cpu" or not (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")):
            return self.conv(x)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            weight, bias, dtype = self.conv.weight.float(), self.conv.bias.float(), x.dtype
            return F.conv1d(x.float(), weight, bias, padding=self.conv.padding, groups=self.groups).to(dtype)


class Attention(nn.Module):
    """Multi-head self-attention whose inner width n * H need not be the width of the residual stream."""

    def __init__(self, config: EncoderConfig, heads: int, interleaved: bool) -> None:
        super().__init__()
        inner = heads * config.head_dim
        self.q_proj = nn.Linear(config.embed_dim, inner)
        self.k_proj = nn.Linear(config.embed_dim, inner)
        self.v_proj = nn.Linear(config.embed_dim, inner)
        self.out_proj = nn.Linear(inner, config.embed_dim)
        if config.gate_width:
            self.gru_rel_pos_const = nn.Parameter(torch.empty(1, heads, 1, 1))
            self.gru_rel_pos_linear = nn.Linear(config.head_dim, 8)
        self.head_dim, self.gate_width = config.head_dim, config.gate_width
        self.groups, self.interleaved = config.pos_conv_groups, interleaved

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        relative: Tensor | None,
        taps: Collection[str],
        tapped: dict[str, Tensor],
        dropout: float,
    ) -> Tensor:
        """Adds to the scores before the softmax.

        Args:
            x: (B, T, d).
            bias: 0 for valid frames, the lowest number for padding, (B, 1, 1, T).
            relative: WavLM's position bias before the gates, (N, T, T).
            taps: As in `Encoder.forward`.
            tapped: Takes what the taps ask for.
            dropout: `Dropout.attention`.
        """
        if relative is not None:
            gates = self._gate(x)
            gated = gates * relative[: gates.shape[1]]  # (B, n, T, 1) * (n, T, T)
            bias = gated if bias is None else gated + bias
        batch, frames, _ = x.shape
        shape = (batch, frames, -1, self.head_dim)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        # (B, T, n*H) -> (B, n, T, H)
        if "values" in taps:
            tapped["values"] = v
        if {"attention", "probabilities"} & set(taps) or (q.requires_grad and q.device.type == "cpu"):
            # On a CPU, training through explicit scores takes a fifth less time than through the fused kernel.
            scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
            if "attention" in taps:
                tapped["attention"] = scores
            probabilities = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype)
            if "probabilities" in taps:
                tapped["probabilities"] = probabilities
            out = drop(probabilities, dropout) @ v
        else:
            mask = None if bias is None else bias.to(q.dtype)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).reshape(batch, frames, -1))  # type: ignore[no-any-return]

    def _gate(self, x: Tensor) -> Tensor:
        """How much of the position bias each frame takes in each head, (B, T, d) -> (B, n, T, 1).

        Source: WavLM (arXiv 2110.13900), section 3.1, with the scales of its released code.
        """
        if (missing := self.gate_width - x.shape[-1]) and self.interleaved:
            x = F.pad(x, (0, missing))
        elif missing:
            x = F.pad(x.unflatten(-1, (self.groups, -1)), (0, missing // self.groups)).flatten(-2)
        if self.interleaved:
            x = deinterleave(x, self.groups)
        heads = self.gru_rel_pos_const.shape[1]
        blocks = x[..., : heads * self.head_dim].unflatten(-1, (heads, self.head_dim)).transpose(1, 2)
        gates = self.gru_rel_pos_linear(blocks).unflatten(-1, (2, 4)).sum(-1).sigmoid()  # (B, n, T, H) -> (B, n, T, 2)
        update, reset = gates[..., :1], gates[..., 1:]
        return update * (reset * self.gru_rel_pos_const - 1) + 2  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, embed_dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(embed_dim, ffn_dim)
        self.output_dense = nn.Linear(ffn_dim, embed_dim)

    def forward(self, x: Tensor, dropout: float) -> Tensor:
        return self.output_dense(drop(F.gelu(self.intermediate_dense(x)), dropout))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Attention and feed-forward network, each with a residual sum and a norm (after it, or before: `norm_first`)."""

    def __init__(self, config: EncoderConfig, heads: int, ffn_dim: int, interleaved: bool) -> None:
        super().__init__()
        self.attention = Attention(config, heads, interleaved)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.feed_forward = FeedForward(config.embed_dim, ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.embed_dim)
        self.norm_first = config.norm_first

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        relative: Tensor | None,
        taps: Collection[str],
        dropout: Dropout,
    ) -> tuple[Tensor, ...]:
        """The output, (B, T, d), and what `taps` ask for, in the order of `LAYER_TAPS`.

        Side by side, since reentrant checkpointing takes what is inside of anything else for no output.
        """
        tapped: dict[str, Tensor] = {}
        heard = self.layer_norm(x) if self.norm_first else x
        x = x + drop(self.attention(heard, bias, relative, taps, tapped, dropout.attention), dropout.hidden)
        if not self.norm_first:
            x = self.layer_norm(x)
        out = self.feed_forward(self.final_layer_norm(x) if self.norm_first else x, dropout.activation)
        if "ffn" in taps:
            tapped["ffn"] = out
        x = x + drop(out, dropout.hidden)
        x = x if self.norm_first else self.final_layer_norm(x)
        return x, *(tapped[tap] for tap in LAYER_TAPS if tap in taps)


def drop(x: Tensor, probability: float) -> Tensor:
    """Zeros that many of the numbers at random and scales up the others."""
    return F.dropout(x, probability) if probability else x


def bucket_distances(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance in frames, int64: each direction has half; near ones one each, far ones share.

    Source: T5 (arXiv 1910.10683), as WavLM uses it.
    """
    half = num_buckets // 2
    near = half // 2
    size = distances.abs()
    far = near + (torch.log(size.clamp(min=1).float() / near) / math.log(max_distance / near) * (half - near)).long()
    return torch.where(size < near, size, far.clamp(max=half - 1)) + half * (distances > 0)


def interleave(x: Tensor, groups: int) -> Tensor:
    """Blocks of channels -> interleaved, on the last axis: channel g * (d / groups) + i goes to i * groups + g."""
    blocks: Tensor = x.unflatten(-1, (groups, -1))
    return blocks.transpose(-1, -2).flatten(-2)


def deinterleave(x: Tensor, groups: int) -> Tensor:
    """The inverse of `interleave`."""
    blocks: Tensor = x.unflatten(-1, (-1, groups))
    return blocks.transpose(-1, -2).flatten(-2)
