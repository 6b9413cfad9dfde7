"""Whisper's encoders, from folders of Hugging Face and from CTranslate2's, which faster-whisper uses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.formats.config_json import read_json, read_preprocessor
from checkpoints.formats.ctranslate2 import find_ctranslate2, read_ctranslate2
from checkpoints.formats.hugging_face import TeacherError, check_like, list_misfits, refuse_weights, unwrap_names
from checkpoints.formats.limits import explain_params, find_excess, shorten
from checkpoints.formats.stand_ins import WeightFileError
from checkpoints.formats.transformers_models import HUBERT, hear_a_second
from checkpoints.formats.weight_files import read_folder_weights
from checkpoints.formats.whisper_encoder import WhisperEncoder, WhisperShape
from checkpoints.manifest import ManifestError, check_file, check_manifest
from distillation.sources.teacher import FrozenNetwork
from speech_data.whisper_features import HOP, WINDOW

MODEL_TYPE = "whisper"
"""In a config.json of Hugging Face."""
CONFIG_KEYS: Mapping[str, tuple[str, int]] = {
    "num_mels": ("num_mel_bins", 80),
    "embed_dim": ("d_model", 384),
    "num_layers": ("encoder_layers", 4),
    "heads": ("encoder_attention_heads", 6),
    "ffn_dim": ("encoder_ffn_dim", 1536),
    "max_frames": ("max_source_positions", 1500),
}
"""Field of `WhisperShape` -> key of config.json, and what `transformers` takes where it is left out."""
REQUIRED_OPTIONS: Mapping[str, Any] = {"activation_function": "gelu", "quantization_config": None}
"""Options that change what such a model computes, with the one value that `WhisperEncoder` computes."""
PREPROCESSING: Mapping[str, Any] = {"n_fft": WINDOW, "hop_length": HOP, "dither": 0.0}
"""The same, of preprocessor_config.json."""
SPEC, PART = "WhisperSpec", "encoder/"
"""What CTranslate2 calls the network, and how the names of its encoder's tensors begin."""
CT2_NAMES: Mapping[str, str] = {
    r"position_encodings/encodings$": "embed_positions.weight",
    r"layer_(\d+)/self_attention/layer_norm/": r"layers.\1.self_attn_layer_norm.",
    r"layer_(\d+)/self_attention/linear_1/": r"layers.\1.self_attn.out_proj.",
    r"layer_(\d+)/ffn/layer_norm/": r"layers.\1.final_layer_norm.",
    r"layer_(\d+)/ffn/linear_0/": r"layers.\1.fc1.",
    r"layer_(\d+)/ffn/linear_1/": r"layers.\1.fc2.",
    r"(conv1|conv2|layer_norm)/": r"\1.",
    r"gamma$": "weight",
    r"beta$": "bias",
}
"""Parts of a name in CTranslate2 -> in `transformers`."""
STACKED = re.compile(r"layer_(\d+)/self_attention/linear_0/(weight|bias)")
"""Queries, keys and values, which are one tensor in CTranslate2."""
HEAD_DIM = 64
"""Of every Whisper; CTranslate2 did not write the number of heads from the start."""

_ANCHOR = "conv1.weight"


def is_whisper(path: Path) -> bool:
    """Whether a folder is a Whisper of Hugging Face, or it or a file is of CTranslate2, which may be another model."""
    if find_ctranslate2(path):
        return True
    return path.is_dir() and read_json(path / "config.json").get("model_type") == MODEL_TYPE


def open_whisper(path: Path, trained: bool = True) -> tuple[FrozenNetwork, int | None]:
    """The encoder of a Whisper, in fp32, frozen.

    Args:
        path: As `is_whisper` takes it.
        trained: With its weights rather than with fresh ones.

    Returns:
        The network, and its multiply-accumulates for 1 s of audio.

    Raises:
        TeacherError: It is another network, damaged, absurdly large, or its weights do not fit; names those at fault.
    """
    try:
        if trained:
            (check_manifest if path.is_dir() else check_file)(path)
        if file := find_ctranslate2(path):
            source, (shape, weights) = str(file), _read_ctranslate2(file)
            encoder = _build(shape, source)
        else:
            source, weights = str(path), {}
            shape = _read_config(read_json(path / "config.json"), source)
            encoder = _build(shape, source)
            if trained:
                weights = _find_encoder(read_folder_weights(path), source)
    except (ManifestError, WeightFileError) as error:
        raise TeacherError(str(error)) from error
    _check_preprocessor(path if path.is_dir() else path.parent, shape.num_mels)
    if not trained:
        encoder = WhisperEncoder(shape)
    elif problems := list_misfits(encoder.state_dict(), weights):
        raise refuse_weights(source, problems, "a Whisper")
    else:
        encoder.load_state_dict({name: weights[name].float() for name in encoder.state_dict()}, assign=True)
    encoder.eval().requires_grad_(False)
    states, macs = hear_a_second(encoder.forward)
    if not all(x.isfinite().all() for x in states):
        raise TeacherError(f"{source} gives numbers that are not finite; its weights are damaged")
    description = {"network": MODEL_TYPE, "heads": shape.heads}
    return FrozenNetwork(encoder, encoder.forward, shape.embed_dim, HUBERT, description, whole=True), macs


def _read_config(values: Mapping[str, Any], source: str) -> WhisperShape:
    """The shape that a config.json describes."""
    if excess := find_excess(values):
        raise TeacherError(f"{source}: {excess}")
    for option, required in REQUIRED_OPTIONS.items():
        if (got := values.get(option, required)) != required:
            raise TeacherError(f"{source}: {option}={shorten(got)} is not supported, only {json.dumps(required)}")
    values = {**dict(CONFIG_KEYS.values()), **values}
    for key, default in CONFIG_KEYS.values():
        check_like(values, key, default, source)
    return WhisperShape(**{name: values[key] for name, (key, _) in CONFIG_KEYS.items()})


def _find_encoder(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The encoder's tensors, whatever stands before their names; without the decoder's and a head's."""
    weights = unwrap_names(weights, source)
    prefixes = [name.removesuffix(_ANCHOR) for name in weights if f".{name}".endswith(f".{_ANCHOR}")]
    if not prefixes:
        names = f"{', '.join(sorted(weights)[:3])} …" if weights else "none"
        raise TeacherError(f"{source} has no tensor of a Whisper's encoder, such as {_ANCHOR}; its tensors are {names}")
    if len(prefixes) > 1:
        shown = " and ".join(map(repr, sorted(prefixes)[:2]))
        raise TeacherError(f"{source} holds several encoders, whose names begin with {shown}; keep one of them")
    return {name.removeprefix(prefixes[0]): x for name, x in weights.items() if name.startswith(prefixes[0])}


def _read_ctranslate2(file: Path) -> tuple[WhisperShape, dict[str, Tensor]]:
    """The shape and the tensors of a file."""
    weights: dict[str, Tensor] = {}
    heads: int | None = None
    for name, tensor in read_ctranslate2(file, SPEC, PART).items():
        bare = name.removeprefix(PART)
        if stacked := STACKED.fullmatch(bare):
            layer, kind = stacked.groups()
            for part, x in zip("qkv", tensor.tensor_split(3), strict=True):
                if (part, kind) != ("k", "bias"):  # zeros, and the same for every key: attention would not change
                    weights[f"layers.{layer}.self_attn.{part}_proj.{kind}"] = x
        elif tensor.dim():
            for theirs, ours in CT2_NAMES.items():
                bare = re.sub(theirs, ours, bare)
            weights[bare] = tensor
        elif bare == "num_heads":
            heads = int(tensor)
    sizes = []
    for name, axis in ((_ANCHOR, 1), (_ANCHOR, 0), ("layers.0.fc1.weight", 0), ("embed_positions.weight", 0)):
        if name not in weights or weights[name].dim() <= axis:
            raise refuse_weights(str(file), [f"missing {name}"], "a Whisper")
        sizes.append(weights[name].shape[axis])
    num_mels, embed_dim, ffn_dim, max_frames = sizes
    num_layers = len({name.split(".")[1] for name in weights if name.startswith("layers.")})
    return WhisperShape(num_mels, embed_dim, num_layers, heads or embed_dim // HEAD_DIM, ffn_dim, max_frames), weights


def _check_preprocessor(folder: Path, num_mels: int) -> None:
    """Refuses another spectrogram than Whisper's."""
    values, name = read_preprocessor(folder)
    for option, required in {**PREPROCESSING, "feature_size": num_mels}.items():
        if (got := values.get(option, required)) != required:
            raise TeacherError(f"{folder}: {option}={shorten(got)} of {name} is not supported, only {required}")


def _build(shape: WhisperShape, source: str) -> WhisperEncoder:
    """An encoder of a shape that takes no memory yet, unless it would take absurdly much."""
    if min(astuple(shape)) < 1 or shape.embed_dim % shape.heads:
        raise TeacherError(f"{source}: no encoder has its shape, {shape}; heads share the width")
    try:
        with torch.device("meta"):
            encoder = WhisperEncoder(shape)
    except (ValueError, RuntimeError) as error:
        raise TeacherError(f"{source}: no encoder has its shape, {shape}: {error}") from error
    if excess := explain_params(sum(x.numel() for x in encoder.parameters())):
        raise TeacherError(f"{source}: {excess}")
    return encoder
