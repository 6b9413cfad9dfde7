"""A small Whisper whose every tensor matters: by `transformers`, and in the file that CTranslate2 would make of it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor

from tests.encoders import randomize

SIZES: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 16,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_mel_bins": 80,
}
TYPES = {"f4": 0, "i1": 1, "i2": 2, "i4": 3, "f2": 4, "bf16": 5}


def make_whisper(head: str = "WhisperModel", seed: int = 0, **changes: Any) -> Any:
    """A randomised model; keys have no bias, positions are no sinusoids."""
    model = getattr(transformers, head)(WhisperConfig(**{**SIZES, **changes}))
    randomize(model, seed)
    return model.eval()


def encoder_of(model: Any) -> nn.Module:
    """The encoder of a model under any head."""
    found: nn.Module = next(m for m in model.modules() if type(m).__name__ == "WhisperEncoder")
    return found


def write_whisper(folder: Path, head: str = "WhisperModel", **changes: Any) -> Any:
    """A randomised model in a folder, as `transformers` saves it."""
    model = make_whisper(head, **changes)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
    return model


@torch.no_grad()
def states_by_transformers(model: Any, mels: Tensor) -> list[Tensor]:
    """Every hidden state for a spectrogram (B, C, M), by an encoder with as many positions as that needs."""
    encoder: Any = encoder_of(model)
    whole, frames = encoder.embed_positions, mels.shape[2] // 2
    encoder.embed_positions = nn.Embedding.from_pretrained(whole.weight[:frames])
    encoder.config.max_source_positions = frames
    try:
        out = encoder(mels, output_hidden_states=True)
        assert torch.equal(out.hidden_states[-1], out.last_hidden_state)  # after the final norm
        return list(out.hidden_states)
    finally:
        encoder.embed_positions = whole
        encoder.config.max_source_positions = whole.num_embeddings


def ct2_tensors(encoder: Any) -> dict[str, Tensor]:
    """An encoder's tensors as CTranslate2 names and stacks them; written by hand, beside what reads them."""
    ours = encoder.state_dict()
    found = {
        "encoder/conv1/weight": ours["conv1.weight"],
        "encoder/conv1/bias": ours["conv1.bias"],
        "encoder/conv2/weight": ours["conv2.weight"],
        "encoder/conv2/bias": ours["conv2.bias"],
        "encoder/position_encodings/encodings": ours["embed_positions.weight"],
        "encoder/layer_norm/gamma": ours["layer_norm.weight"],
        "encoder/layer_norm/beta": ours["layer_norm.bias"],
    }
    for i in range(len(encoder.layers)):
        layer = {n.removeprefix(f"layers.{i}."): x for n, x in ours.items() if n.startswith(f"layers.{i}.")}
        q, k, v = (layer[f"self_attn.{part}_proj.weight"] for part in "qkv")
        q_bias, v_bias = layer["self_attn.q_proj.bias"], layer["self_attn.v_proj.bias"]
        scope = f"encoder/layer_{i}"
        found |= {
            f"{scope}/self_attention/layer_norm/gamma": layer["self_attn_layer_norm.weight"],
            f"{scope}/self_attention/layer_norm/beta": layer["self_attn_layer_norm.bias"],
            f"{scope}/self_attention/linear_0/weight": torch.cat([q, k, v]),
            f"{scope}/self_attention/linear_0/bias": torch.cat([q_bias, torch.zeros_like(q_bias), v_bias]),
            f"{scope}/self_attention/linear_1/weight": layer["self_attn.out_proj.weight"],
            f"{scope}/self_attention/linear_1/bias": layer["self_attn.out_proj.bias"],
            f"{scope}/ffn/layer_norm/gamma": layer["final_layer_norm.weight"],
            f"{scope}/ffn/layer_norm/beta": layer["final_layer_norm.bias"],
            f"{scope}/ffn/linear_0/weight": layer["fc1.weight"],
            f"{scope}/ffn/linear_0/bias": layer["fc1.bias"],
            f"{scope}/ffn/linear_1/weight": layer["fc2.weight"],
            f"{scope}/ffn/linear_1/bias": layer["fc2.bias"],
        }
    return found


def text(letters: str) -> bytes:
    return struct.pack("<H", len(letters) + 1) + letters.encode() + b"\0"


def tensor(name: str, values: Any, kind: str) -> bytes:
    """One tensor of a file."""
    x = torch.as_tensor(values)
    if kind == "bf16":
        data = x.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    else:
        data = x.numpy().astype(f"<{kind}").tobytes()
    sizes = struct.pack(f"<{x.dim()}I", *x.shape)
    return text(name) + struct.pack("<B", x.dim()) + sizes + struct.pack("<BI", TYPES[kind], len(data)) + data


def quantise(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Whole numbers and their scale: of each row for int8, of all for int16."""
    if kind == "i2":
        scale = torch.tensor(2**10 / x.abs().max().item())
        return (x * scale).round(), scale
    scale = 127 / x.abs().amax(1)
    return (x * scale[:, None]).round(), scale


def ct2_bytes(encoder: Any, kind: str = "f2", heads: int | None = 2, spec: str = "WhisperSpec") -> bytes:
    """A file: in whole numbers linear maps, in floats of 4 bytes the rest; a piece of a decoder, and an alias."""
    found = ct2_tensors(encoder)
    pieces = [tensor("decoder/embeddings/weight", torch.ones(5, 3), "f2")]
    if heads is not None:
        pieces.append(tensor("encoder/num_heads", heads, "i2"))
    alias, named = (f"encoder/layer_{i}/ffn/linear_1/weight" for i in (2, 1))
    aliases = [("decoder/projection/weight", "decoder/embeddings/weight")]
    if torch.equal(found[alias], found[named]):
        aliases.append((alias, named))
        del found[alias]
    for name, x in found.items():
        if kind not in ("i1", "i2") or "linear" not in name or x.dim() < 2:
            pieces.append(tensor(name, x, "f4" if kind in ("i1", "i2") else kind))
            continue
        whole, scale = quantise(x, kind)
        pieces += [tensor(name, whole, kind), tensor(f"{name}_scale", scale, "f4")]
    head = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(pieces))
    tail = struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)
    return head + b"".join(pieces) + tail


def write_ct2(folder: Path, encoder: Any, **options: Any) -> Path:
    """A folder as faster-whisper has it."""
    folder.mkdir()
    (folder / "config.json").write_text('{"lang_ids": [1, 2], "suppress_ids": []}')
    (folder / "vocabulary.txt").write_text("a\nb\n")
    (folder / "model.bin").write_bytes(ct2_bytes(encoder, **options))
    return folder


def make_wave(num_samples: int, seed: int = 0) -> Tensor:
    """Noise that swells, (S,)."""
    noise = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))
    return noise * torch.from_numpy(np.abs(np.sin(np.arange(num_samples) / 3000)).astype(np.float32))
