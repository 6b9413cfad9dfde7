"""Encoders out: folders that `transformers` opens as a HubertModel or a WavLMModel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from checkpoints.formats.hugging_face import hugging_face_config, preprocessor_config, to_hugging_face
from checkpoints.manifest import MANIFEST, is_card, write_manifest
from search_spaces.errors import NestlingError
from search_spaces.files import replacing_folder, write_file
from supernet.encoder import Encoder


def save_encoder(encoder: Encoder, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes an encoder as a HubertModel, or with gates a WavLMModel: configuration, weights, SHA256SUMS.

    Args:
        encoder: Of uniform layers.
        folder: Made if need be.
        dtype: Of the stored weights; they are read back as fp32.

    Raises:
        NestlingError: No such model has this shape.
    """
    config = hugging_face_config(encoder.config)
    if config is None:
        got = encoder.config
        raise NestlingError(
            f"no HubertModel or WavLMModel has this shape: layers must be alike, with embed_dim = heads * head_dim and "
            f"gates of that width or none; got embed_dim {got.embed_dim}, head_dim {got.head_dim}, heads {got.heads}, "
            f"ffn_dims {got.ffn_dims}, gate_width {got.gate_width}"
        )
    weights = {to_hugging_face(name): weight.to(dtype) for name, weight in encoder.state_dict().items()}
    preprocessor = preprocessor_config(encoder.config, encoder.config.normalize_waveform)
    write_model(folder, {**config, "dtype": str(dtype).removeprefix("torch.")}, weights, preprocessor)
    write_manifest(folder)


def replace_teacher(encoder: Encoder, folder: Path) -> None:
    """As `save_encoder`, but written whole in the place of all that was in the folder; a README.md stays."""
    with replacing_folder(folder, seal=MANIFEST) as written:
        save_encoder(encoder, written)
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_card(path.name) and path.is_file():
                write_file(written / path.name, path.read_bytes())


def write_model(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], preprocessor: Mapping[str, Any]
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    data = safetensors.torch.save(contiguous, metadata={"format": "pt"})
    write_file(folder / "model.safetensors", data)
    for name, values in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        write_file(folder / name, json.dumps(values, indent=2) + "\n")
