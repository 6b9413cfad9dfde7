"""A plain, fixed-size speech encoder: the network of HuBERT, wav2vec 2.0 and WavLM for any list of layer shapes.

Every teacher, every exported subnet and every reference is this class. The file and those beside it that it imports
need torch alone, because they travel inside exported folders. Parameter names are those of `transformers`'
`HubertModel`; what WavLM adds is named as in its `WavLMModel`, save `rel_attn_embed`, which all layers share and which
therefore belongs to none.

Letters: B batch, S samples, T frames, C front-end channels, d width of the residual stream, n heads, H head
dimension, f inner dimension of a feed-forward network, D width in which gates read (see `gate_width`), N = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from supernet.blocks import LAYER_TAPS, NO_DROPOUT, Dropout, PositionalConv, TransformerLayer, bucket_distances, drop
from supernet.encoder_config import EncoderConfig
from supernet.front_end import FeatureProjection, FrontEnd, check_lengths, normalize_waveform

TAPS = ("hidden", *LAYER_TAPS, "front_end")


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
        x = drop(x, dropout.hidden)
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
        x = drop(self.feature_projection(features), dropout.features)  # (B, T, C) -> (B, T, d)
        if masked is not None:
            x = torch.where(masked.unsqueeze(-1), self.masked_spec_embed.to(x.dtype), x)
        self.encoder(x, taps, trace, dropout)
        return trace
