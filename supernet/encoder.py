"""A plain, fixed-size speech encoder: the network of HuBERT, wav2vec 2.0 and WavLM for any list of layer shapes.

Every teacher, every exported subnet and every reference is this class. The file imports torch alone, because it
travels inside exported folders. Parameter names are those of `transformers`' `HubertModel`; what WavLM adds is named as
in its `WavLMModel`, save `rel_attn_embed`, which all layers share and which therefore belongs to none.

Letters: B batch, S samples, T frames, C front-end channels, d width of the residual stream, n heads, H head
dimension, f inner dimension of a feed-forward network, D width in which gates read (see `gate_width`), N = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

SAMPLE_RATE_HZ = 16_000
LAYER_TAPS = ("ffn", "attention", "probabilities", "values")
TAPS = ("hidden", *LAYER_TAPS, "front_end")

Lengths = TypeVar("Lengths", int, Tensor)


@dataclass(frozen=True)
class EncoderConfig:
    """The numbers that define an encoder. One entry of `heads` and `ffn_dims` for each Transformer layer."""

    conv_dims: tuple[int, ...]
    embed_dim: int
    heads: tuple[int, ...]
    ffn_dims: tuple[int, ...]
    head_dim: int = 64
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "layer"
    norm_first: bool = False
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    normalize_waveform: bool = True
    gate_width: int = 0
    """D: attention has WavLM's gated relative position bias, whose gates read a residual stream of this width: that of
    i reads channels i * H to (i + 1) * H. A narrower stream has some channels of each group of the positional
    convolution, and gates read zeros for the others. 0: no such bias."""
    num_buckets: int = 320
    """Distances that the bias tells apart, both directions together."""
    max_distance: int = 800
    """Frames from which on all distances are one."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """From plain JSON values; keys that are not fields are ignored."""
        known = {f.name for f in fields(cls)}
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def count_frames(self, lengths: Lengths) -> Lengths:
        """Frames that come out of `lengths` samples; a number, or int64 of any shape."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    @property
    def min_samples(self) -> int:
        """Samples that make one frame; 400 with HuBERT's front-end."""
        samples = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def frame_rate_hz(self) -> float:
        """Frames for each second of audio; 50 with HuBERT's strides."""
        samples = 1
        for stride in self.conv_strides:
            samples *= stride
        return SAMPLE_RATE_HZ / samples


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


@dataclass
class Trace:
    """What a forward returns. A list is empty and a tensor None unless its tap was asked for."""

    last: Tensor
    """Output of the network, (B, T, d): that of the last layer, after one more norm where norms come first."""
    valid: Tensor | None
    """True where a frame comes from audio and not from padding, (B, T); None when every frame does."""
    frame_rate_hz: float
    hidden: list[Tensor] = field(default_factory=list)
    """Input of the first layer, then the output of each: L + 1 tensors, (B, T, d), as in `transformers`."""
    ffn: list[Tensor] = field(default_factory=list)
    """Output of each feed-forward network before the residual sum: L tensors, (B, T, d)."""
    attention: list[Tensor] = field(default_factory=list)
    """Attention scores before the softmax, without mask and position bias: L tensors, (B, n, T, T)."""
    probabilities: list[Tensor | None] = field(default_factory=list)
    """What the softmax makes of scores, mask and position bias: L tensors, (B, n, T, T)."""
    values: list[Tensor] = field(default_factory=list)
    """Value vectors: L tensors, (B, n, T, H)."""
    front_end: Tensor | None = None
    """Output of the last convolution, (B, T, C)."""

    def add(self, taps: Collection[str], tapped: Iterable[Tensor | None]) -> None:
        """Puts what one layer gave to each of `taps`, in the order of `LAYER_TAPS`, at the end of that tap's list."""
        for tap, tensor in zip([tap for tap in LAYER_TAPS if tap in taps], tapped, strict=True):
            getattr(self, tap).append(tensor)


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
        self.heads, self.head_dim = heads, config.head_dim
        self.gate_width, self.groups, self.interleaved = config.gate_width, config.pos_conv_groups, interleaved

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
            gated = self._gate(x) * relative[: self.heads]  # (B, n, T, 1) * (n, T, T)
            bias = gated if bias is None else gated + bias
        batch, frames, _ = x.shape
        shape = (batch, frames, self.heads, self.head_dim)
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
            out = _drop(probabilities, dropout) @ v
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
        blocks = x[..., : self.heads * self.head_dim].unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)
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
        return self.output_dense(_drop(F.gelu(self.intermediate_dense(x)), dropout))  # type: ignore[no-any-return]


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
        x = x + _drop(self.attention(heard, bias, relative, taps, tapped, dropout.attention), dropout.hidden)
        if not self.norm_first:
            x = self.layer_norm(x)
        out = self.feed_forward(self.final_layer_norm(x) if self.norm_first else x, dropout.activation)
        if "ffn" in taps:
            tapped["ffn"] = out
        x = x + _drop(out, dropout.hidden)
        x = x if self.norm_first else self.final_layer_norm(x)
        return x, *(tapped[tap] for tap in LAYER_TAPS if tap in taps)


class Transformer(nn.Module):
    """Positional convolution, norm and layers.

    In training, with `gradient_checkpointing`, layers keep their input alone and are computed again by backward.
    `transformers` sets it and the function that does so, which torch's own is without it.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any] = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(self, config: EncoderConfig, interleaved: bool) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConv(
            config.embed_dim, config.pos_conv_kernel, config.pos_conv_groups, interleaved
        )
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.layers = nn.ModuleList(
            TransformerLayer(config, heads, ffn_dim, interleaved)
            for heads, ffn_dim in zip(config.heads, config.ffn_dims, strict=True)
        )
        if config.gate_width:
            self.rel_attn_embed = nn.Embedding(config.num_buckets, config.gate_width // config.head_dim)
        self.norm_first = config.norm_first
        self.has_gates, self.max_distance = config.gate_width > 0, config.max_distance

    def forward(self, x: Tensor, taps: Collection[str], trace: Trace, dropout: Dropout) -> None:
        bias = None
        if trace.valid is not None:
            x = x * trace.valid.unsqueeze(-1)
            bias = torch.zeros(trace.valid.shape, dtype=x.dtype, device=x.device)
            bias = bias.masked_fill(~trace.valid, torch.finfo(x.dtype).min)[:, None, None]
        x = x + self.pos_conv_embed(x)
        if not self.norm_first:
            x = self.layer_norm(x)
        x = _drop(x, dropout.hidden)
        relative = self._relative_bias(x) if self.has_gates else None
        for layer in self.layers:
            if "hidden" in taps:
                trace.hidden.append(x)
            if dropout.layer and torch.rand(()) < dropout.layer:
                trace.add(taps, [None] * len(set(taps) & set(LAYER_TAPS)))
                continue
            inputs = (x, bias, relative, taps, dropout)
            if self.gradient_checkpointing and self.training:
                x, *tapped = self._gradient_checkpointing_func(layer, *inputs)
            else:
                x, *tapped = layer(*inputs)
            trace.add(taps, tapped)
        if "hidden" in taps:
            trace.hidden.append(x)
        trace.last = self.layer_norm(x) if self.norm_first else x

    def _relative_bias(self, x: Tensor) -> Tensor:
        """The bias of each pair of frames in each head, by their distance, (N, T, T)."""
        positions = torch.arange(x.shape[1], device=x.device)
        buckets = bucket_distances(
            positions - positions[:, None], self.rel_attn_embed.num_embeddings, self.max_distance
        )
        return self.rel_attn_embed(buckets).permute(2, 0, 1).to(x.dtype)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Waveforms in, a `Trace` out.

    Args:
        config: The shape.
        interleaved: Channels of the residual stream are stored with the positional convolution's groups
            interleaved; see `PositionalConv`. Only a supernet asks for it.
    """

    def __init__(self, config: EncoderConfig, interleaved: bool = False) -> None:
        super().__init__()
        self.config = config
        self.masked_spec_embed = nn.Parameter(torch.empty(config.embed_dim))
        self.feature_extractor = FrontEnd(config)
        self.feature_projection = FeatureProjection(config.conv_dims[-1], config.embed_dim)
        self.encoder = Transformer(config, interleaved)

    def forward(
        self,
        wave: Tensor,
        lengths: Tensor | None = None,
        taps: Collection[str] = ("hidden",),
        masked: Tensor | None = None,
        dropout: Dropout = NO_DROPOUT,
    ) -> Trace:
        """Encodes a batch of waveforms.

        Args:
            wave: (B, S), float, 16 kHz, zero where padded.
            lengths: Valid samples of each item, (B,), int64; None when every sample is valid.
            taps: Which lists of the trace to fill, of `TAPS`.
            masked: Frames whose front-end output is replaced by the mask embedding, (B, T), bool.
            dropout: What is left out at random.

        Returns:
            The trace; its lists hold only what `taps` names.

        Raises:
            ValueError: An unknown tap, an item too short for a frame or without a length, or a length beyond S.
        """
        if unknown := set(taps) - set(TAPS):
            raise ValueError(f"unknown taps {sorted(unknown)}; the taps are {', '.join(TAPS)}")
        if not torch.compiler.is_compiling():  # a compiled graph cannot ask
            check_lengths(wave.shape, lengths, self.config.min_samples)
        if self.config.normalize_waveform:
            wave = normalize_waveform(wave, lengths)
        features = self.feature_extractor(wave)  # (B, S) -> (B, T, C)
        valid = None
        if lengths is not None:
            positions = torch.arange(features.shape[1], device=wave.device)
            valid = positions < self.config.count_frames(lengths).unsqueeze(1)  # (B, T)
        trace = Trace(features, valid, self.config.frame_rate_hz)
        if "front_end" in taps:
            trace.front_end = features
        x = _drop(self.feature_projection(features), dropout.features)  # (B, T, C) -> (B, T, d)
        if masked is not None:
            x = torch.where(masked.unsqueeze(-1), self.masked_spec_embed.to(x.dtype), x)
        self.encoder(x, taps, trace, dropout)
        return trace


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


def _drop(x: Tensor, probability: float) -> Tensor:
    return F.dropout(x, probability) if probability else x


def initialize(encoder: Encoder, generator: torch.Generator) -> None:
    """Fresh weights as HuBERT starts: normal(0, 0.02) for linear maps, He-normal convolutions, norms at identity."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Attention) and module.gate_width:
            nn.init.ones_(module.gru_rel_pos_const)
        elif isinstance(module, nn.Conv1d):
            if name.endswith("pos_conv_embed.conv"):
                std = 2.0 * (module.kernel_size[0] * module.in_channels) ** -0.5
                module.weight = torch.empty_like(module.weight).normal_(0.0, std, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.uniform_(encoder.masked_spec_embed, generator=generator)


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
