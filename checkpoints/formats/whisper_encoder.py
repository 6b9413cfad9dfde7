"""Whisper's encoder, for utterances of any length and on HuBERT's frames.

Names of parameters are those of `WhisperEncoder` of `transformers`. Whisper fills every utterance up to 30 s; this
hears what there is, and has as many positions as that needs (`docs/decisions/0030`).

B batch, S samples, C mel bands, M frames of the spectrogram, T frames, d width, n heads, H head dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speech_data.features import HUBERT_GRID
from speech_data.whisper_features import HOP, WINDOW, log_mel_spectrogram


@dataclass(frozen=True)
class WhisperShape:
    """The shape of a Whisper's encoder."""

    num_mels: int
    embed_dim: int
    num_layers: int
    heads: int
    ffn_dim: int
    max_frames: int
    """Positions that it has: 1500, for 30 s."""


class WhisperEncoder(nn.Module):
    """Waveforms in, every hidden state out.

    Frame t of HuBERT is about sample 320 t + 200 and Whisper's about 320 t, so Whisper hears the wave from sample 200
    on, and what is before it is heard by the window of its first frame, which reaches so far back. Where windows lie
    within the wave, two frames of the spectrogram become one frame, and there are as many as HuBERT's.

    Args:
        shape: The shape.
    """

    def __init__(self, shape: WhisperShape) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv1d(shape.num_mels, shape.embed_dim, 3, padding=1)
        self.conv2 = nn.Conv1d(shape.embed_dim, shape.embed_dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(shape.max_frames, shape.embed_dim)
        self.layers = nn.ModuleList(WhisperLayer(shape) for _ in range(shape.num_layers))
        self.layer_norm = nn.LayerNorm(shape.embed_dim)
        with torch.no_grad():
            self.embed_positions.weight.copy_(_sinusoids(shape.max_frames, shape.embed_dim))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """The input of the first layer and the output of each, the last after the final norm: L + 1 of (B, T, d).

        In fp32 whatever autocast says: bf16 does not tell quiet bands of a spectrogram apart.

        Args:
            wave: Of one length, (B, S), 16 kHz. If that is over `max_frames`, it is heard in windows (`plan_windows`).
        """
        pieces = []
        with torch.autocast(wave.device.type, enabled=False):
            for start, end, kept in plan_windows(HUBERT_GRID.count(wave.shape[1]), self.shape.max_frames):
                heard = wave[:, start * HUBERT_GRID.hop : end * HUBERT_GRID.hop + WINDOW - HOP]
                pieces.append([x[:, kept] for x in self.encode(self.front_end(heard.float()))])
        return [torch.cat(states, 1) for states in zip(*pieces, strict=True)]

    def front_end(self, wave: Tensor) -> Tensor:
        """Spectrogram and convolutions, (B, S) -> (B, T, d)."""
        return self.convolve(log_mel_spectrogram(wave, self.shape.num_mels))

    def convolve(self, mels: Tensor) -> Tensor:
        """What a spectrogram becomes before positions are added, (B, C, M) -> (B, T, d)."""
        return F.gelu(self.conv2(F.gelu(self.conv1(mels)))).transpose(1, 2)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Every hidden state for what the convolutions made, (B, T, d), T <= `max_frames`."""
        states = [x + self.embed_positions.weight[: x.shape[1]]]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return [*states[:-1], self.layer_norm(states[-1])]


class WhisperLayer(nn.Module):
    """Attention and a feed-forward network, each after a norm."""

    def __init__(self, shape: WhisperShape) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(shape.embed_dim, shape.heads)
        self.self_attn_layer_norm = nn.LayerNorm(shape.embed_dim)
        self.fc1 = nn.Linear(shape.embed_dim, shape.ffn_dim)
        self.fc2 = nn.Linear(shape.ffn_dim, shape.embed_dim)
        self.final_layer_norm = nn.LayerNorm(shape.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Frames to frames, (B, T, d)."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))  # type: ignore[no-any-return]


class WhisperAttention(nn.Module):
    """Attention between all frames; keys have no bias."""

    def __init__(self, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(embed_dim, embed_dim) for _ in range(3))
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Frames to frames, (B, T, d)."""
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, T, d) -> (B, n, T, H)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        heard = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(heard.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # (B, n, T, H) -> (B, T, d)


def plan_windows(num_frames: int, size: int) -> list[tuple[int, int, slice]]:
    """Windows over frames that are too many for one: each is kept from the window that hears more on either side.

    Windows are evenly apart and share a third or more of their frames with the next.

    Args:
        num_frames: Of the utterance.
        size: Frames that a window has at most.

    Returns:
        For each window its first frame, its last frame + 1, and which of its own frames are kept; in order, what is
        kept is every frame once.
    """
    last = max(0, num_frames - size)
    steps = math.ceil(last / max(1, size * 2 // 3))
    starts = [round(i * last / steps) for i in range(steps + 1)] if steps else [0]
    ends = [min(start + size, num_frames) for start in starts]
    bounds = [0, *((end + start) // 2 for end, start in zip(ends, starts[1:], strict=False)), num_frames]
    return [
        (start, end, slice(bounds[i] - start, bounds[i + 1] - start))
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _sinusoids(length: int, dim: int) -> Tensor:
    """Sines and cosines of positions, from 1 to 10,000 frames apart, (length, dim)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / max(1, dim // 2 - 1))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
