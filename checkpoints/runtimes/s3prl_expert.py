"""An encoder found by Nestling, as an upstream of s3prl.

It needs torch and safetensors, no transformers and no s3prl. The network begins in encoder.py; its shape is in
encoder.json, its weights in model.safetensors. MIT licence, as all of Nestling's code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig


class UpstreamExpert(nn.Module):
    """Waveforms in, hidden states out, as s3prl's upstreams take and give them.

    There is no dropout and no layer drop: fine-tuning and evaluation compute the same.

    Args:
        ckpt: A folder like this one, or a file in it; default: this one.
        options: What else s3prl hands to every upstream (`model_config`, `refresh`); of no use here.
    """

    def __init__(self, ckpt: str | Path | None = None, **options: Any) -> None:
        super().__init__()
        del options
        path = Path(ckpt or __file__)
        folder = path if path.is_dir() else path.parent
        config = EncoderConfig.from_dict(json.loads((folder / "encoder.json").read_text("utf-8")))
        self.encoder = Encoder(config)
        self.encoder.load_state_dict(bare_names(load_file(folder / "model.safetensors")))
        self.min_samples = config.min_samples

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Samples from frame to frame, whatever the key; 320 with HuBERT's strides."""
        del key
        return math.prod(self.encoder.config.conv_strides)

    def forward(self, wavs: list[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Encodes a batch.

        Args:
            wavs: B waveforms, (S,) each and of any lengths: 16 kHz, not padded, not normalised. One too short for a
                frame is heard as if silence followed.

        Returns:
            `hidden_states`: input of the first layer and output of each, L + 1 tensors (B, T, d).
            `last_hidden_state`: output of the network, (B, T, d).
            Behind an utterance its last frame is repeated. s3prl counts a frame more than there is; so that one, too,
            is the same in every batch.
        """
        wavs = [F.pad(wav, (0, max(0, self.min_samples - len(wav)))) for wav in wavs]
        lengths = torch.tensor([len(wav) for wav in wavs], device=wavs[0].device)
        padded = bool((lengths < lengths.max()).any())
        config = self.encoder.config
        if padded and config.conv_norm == "group":  # it averages over time, so padding would change every frame
            singly = [self._encode(wav.unsqueeze(0), None) for wav in wavs]
            states = [pad_sequence([x[0] for x in layer], batch_first=True) for layer in zip(*singly, strict=True)]
        else:
            states = self._encode(pad_sequence(wavs, batch_first=True), lengths if padded else None)
        if padded:
            last_frame = config.count_frames(lengths).unsqueeze(1) - 1
            frames = torch.arange(states[0].shape[1], device=lengths.device).minimum(last_frame)  # (B, T)
            states = [x.gather(1, frames.unsqueeze(-1).expand_as(x)) for x in states]
        return {"hidden_states": tuple(states[:-1]), "last_hidden_state": states[-1]}

    def _encode(self, wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
        """Every hidden state and then the output of the network, (B, T, d)."""
        trace = self.encoder(wave, lengths, ("hidden",))
        return [*trace.hidden, trace.last]


def bare_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as `Encoder` has them; `transformers` wants a prefix, or WavLM's table of distances in the first layer."""
    shared = "layers.0.attention.rel_attn_embed"
    return {
        name.removeprefix("nestling.").replace(shared, "rel_attn_embed"): weight.float()
        for name, weight in weights.items()
    }
