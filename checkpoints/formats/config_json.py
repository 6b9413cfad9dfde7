"""config.json and preprocessor_config.json, of Hugging Face and of exports of ours: the shape that they describe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from checkpoints.formats.hugging_face import (
    CLASSES,
    CONFIG_KEYS,
    DEFAULTS,
    GATE_KEYS,
    REQUIRED_OPTIONS,
    OtherNetworkError,
    TeacherError,
    check_like,
)
from checkpoints.formats.limits import MAX_JSON_BYTES, explain_params, find_excess, shorten
from search_spaces.costs import count_params
from supernet.encoder_config import SAMPLE_RATE_HZ, EncoderConfig
from supernet.model import shape_of

NESTLING_TYPE = "nestling"
"""`model_type` of an exported encoder whose shape no model of `transformers` has."""


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object; empty when the file is not there."""
    if not path.exists():
        if required:
            raise TeacherError(f"{path.parent} has no {path.name}; a model in Hugging Face format is wanted")
        return {}
    if not path.is_file():
        raise TeacherError(f"{path} is not a file")
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise TeacherError(f"{path} is too large: {size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TeacherError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TeacherError(f"{path} is not a JSON object")
    return values


def read_preprocessor(folder: Path) -> tuple[dict[str, Any], str]:
    """What a folder says of its preprocessor, and in which file; nothing where there is none.

    Raises:
        TeacherError: It is damaged, or wants audio at another rate.
    """
    name = "preprocessor_config.json"
    values = read_json(folder / name)
    if inner := read_json(folder / "processor_config.json").get("feature_extractor"):  # as transformers does
        values, name = inner, "processor_config.json"
    if not isinstance(values, dict):
        raise TeacherError(f"{folder}: feature_extractor={shorten(values)} of processor_config.json is no object")
    if (rate := values.get("sampling_rate", SAMPLE_RATE_HZ)) != SAMPLE_RATE_HZ:
        raise TeacherError(
            f"{folder}: the model wants audio at {shorten(rate)} Hz; only {SAMPLE_RATE_HZ} Hz is supported "
            f"(sampling_rate of {name})"
        )
    return values, name


def normalizes_waveform(folder: Path) -> bool:
    """Whether the folder's preprocessor normalises the waveform; without one nothing does."""
    values, name = read_preprocessor(folder)
    if not isinstance(normalizes := values.get("do_normalize", True), bool):
        raise TeacherError(f"{folder}: do_normalize={shorten(normalizes)} of {name} is not true or false")
    return bool(values) and normalizes


def read_config(values: Mapping[str, Any], normalize_waveform: bool, source: str) -> EncoderConfig:
    """The shape that a config.json describes.

    Args:
        values: Its content.
        normalize_waveform: Whether the preprocessor does, which only an export of ours says.
        source: What to blame in an error.

    Raises:
        TeacherError: It describes a network that `Encoder` does not compute.
    """
    if excess := find_excess(values):
        raise TeacherError(f"{source}: {excess}")
    model_type = values.get("model_type")
    if model_type == NESTLING_TYPE:
        if missing := {f.name for f in fields(EncoderConfig)} - values.keys():
            raise TeacherError(f"{source}: config.json lacks {', '.join(sorted(missing))}")
        for key, example in EncoderConfig((1,), 1, (1,), (1,)).to_dict().items():
            check_like(values, key, example, source)
        if values["conv_norm"] not in ("group", "layer"):
            raise TeacherError(f'{source}: conv_norm={shorten(values["conv_norm"])} is not "group" or "layer"')
        return check_params(EncoderConfig.from_dict(values), source, "config.json")
    if not isinstance(model_type, str) or model_type not in CLASSES:
        shown = repr(model_type)[:80]
        raise OtherNetworkError(f"{source}: model_type is {shown}; an encoder is one of {', '.join(CLASSES)}")
    for option, required in REQUIRED_OPTIONS.items():
        if (got := values.get(option, required)) != required:
            raise OtherNetworkError(f"{source}: {option}={shorten(got)} is not supported, only {json.dumps(required)}")
    values = {**DEFAULTS, **values}
    for key, default in DEFAULTS.items():
        check_like(values, key, default, source)
    width, heads = values["hidden_size"], values["num_attention_heads"]
    depth, groups = values["num_hidden_layers"], values["num_conv_pos_embedding_groups"]
    if values["feat_extract_norm"] not in ("group", "layer"):
        shown = repr(values["feat_extract_norm"])[:80]
        raise TeacherError(f"{source}: feat_extract_norm={shown} is not 'group' or 'layer'")
    if len({len(values[key]) for key in ("conv_dim", "conv_kernel", "conv_stride")}) > 1:
        raise TeacherError(f"{source}: conv_dim, conv_kernel and conv_stride must be equally long")
    if width % heads or width % groups:
        raise TeacherError(
            f"{source}: hidden_size={width} must be a multiple of num_attention_heads={heads} "
            f"and of num_conv_pos_embedding_groups={groups}"
        )
    gates = {"gate_width": width, **{name: values[key] for name, key in GATE_KEYS.items()}}
    shape = {name: values[key] for name, key in CONFIG_KEYS.items()} | (gates if model_type == "wavlm" else {})
    config = EncoderConfig.from_dict(
        {
            **shape,
            "heads": [heads] * depth,
            "ffn_dims": [values["intermediate_size"]] * depth,
            "head_dim": width // heads,
            "normalize_waveform": normalize_waveform,
        }
    )
    return check_params(config, source, "config.json")


def check_params(config: EncoderConfig, source: str, shape: str) -> EncoderConfig:
    """The shape that `shape` describes, unless it is absurdly large."""
    try:
        excess = explain_params(count_params(*shape_of(config)))
    except ValueError as error:
        raise TeacherError(f"{source}: no encoder has the shape of {shape}: {error}") from error
    if excess:
        raise TeacherError(f"{source}: {excess}")
    return config
