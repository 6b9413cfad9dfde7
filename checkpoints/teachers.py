"""Encoders in and out of Hugging Face folders: plain JSON and safetensors, without `transformers`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from checkpoints.limits import MAX_JSON_BYTES, explain_params, find_excess, shorten
from checkpoints.manifest import ManifestError, check_manifest, write_manifest
from checkpoints.stand_ins import WeightFileError
from checkpoints.weight_files import read_folder_weights
from search_spaces.costs import count_params
from search_spaces.subnet import Backbone, Layer, Subnet
from supernet.encoder import SAMPLE_RATE_HZ, Encoder, EncoderConfig

DEMO_TEACHER = Path(__file__).parent / "demo_teacher"
NESTLING_TYPE = "nestling"
"""`model_type` of an exported encoder whose shape no HubertModel has."""

REQUIRED_OPTIONS: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "layer_norm_eps": 1e-5,
    "adapter_attn_dim": None,
    "add_adapter": False,
    "quantization_config": None,
}
"""Options of a HubertModel that change what it computes, with the one value that `Encoder` computes."""

HEADS = ("lm_head.", "projector.", "classifier.", "final_proj.", "label_embs", "layer_weights")
"""Parameters that sit on top of an encoder, by the start of their names."""

NEW_NAMES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
"""Weight norm's names before PyTorch 2, and now."""

_OLD_NAME = re.compile(r"\bweight_[gv]$")

_NAMES = {
    "conv_dims": "conv_dim",
    "embed_dim": "hidden_size",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_bias": "conv_bias",
    "conv_norm": "feat_extract_norm",
    "norm_first": "do_stable_layer_norm",
    "pos_conv_kernel": "num_conv_pos_embeddings",
    "pos_conv_groups": "num_conv_pos_embedding_groups",
}
"""Field of `EncoderConfig` -> key of a HubertModel's config.json."""

_DEFAULTS: Mapping[str, Any] = {
    "conv_dim": [512] * 7,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "mask_time_prob": 0.05,
    "mask_feature_prob": 0.0,
}
"""What `transformers` takes for a key that config.json leaves out."""


class TeacherError(ValueError):
    """A folder or a hub name does not give an encoder."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder that gives targets."""

    encoder: Encoder
    name: str
    """`demo`, the folder's own name, or the name on the hub: that alone has a slash."""
    folder: Path
    license: str | None = None
    """As its model card names it."""


def load_teacher(source: str | Path) -> Teacher:
    """A teacher, frozen, in fp32.

    Args:
        source: `demo`, a folder in Hugging Face format, or a name on the Hugging Face hub.

    Raises:
        TeacherError: It cannot be found, or is not a network that `Encoder` computes; says what differs.
    """
    folder = find_folder(str(source))
    encoder = load_encoder(folder).requires_grad_(False)
    name = folder.resolve().name if Path(source).expanduser() == folder else str(source)
    return Teacher(encoder, name, folder, _read_license(folder))


def load_encoder(folder: Path) -> Encoder:
    """The encoder in a Hugging Face folder: a HubertModel, bare or under a head, or an export of ours.

    Raises:
        TeacherError: The configuration or the weights are not such a model's, naming tensors at fault; or the
            folder has a manifest, and is not what that lists.
    """
    try:
        check_manifest(folder)
    except ManifestError as error:
        raise TeacherError(str(error)) from error
    values = read_json(folder / "config.json", required=True)
    config = read_config(values, normalizes_waveform(folder), str(folder))
    try:
        weights = _bare_names(read_folder_weights(folder), (values["model_type"], NESTLING_TYPE))
    except WeightFileError as error:
        raise TeacherError(str(error)) from error
    if not (values.get("mask_time_prob", 0.05) or values.get("mask_feature_prob", 0.0)):
        weights.setdefault("masked_spec_embed", torch.zeros(config.embed_dim))  # such a HubertModel has none
    try:
        with torch.device("meta"):
            encoder = Encoder(config)
    except (ValueError, RuntimeError) as error:
        raise TeacherError(f"{folder}: no encoder has the shape of config.json: {error}") from error
    expected = encoder.state_dict()
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in expected]
    for name in expected.keys() & weights.keys():
        found, wanted = weights[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"{name} has shape {list(found.shape)}, not {list(wanted.shape)}")
        elif not found.is_floating_point() or found.layout != torch.strided:
            problems.append(f"{name} is {found.dtype}, not dense floating point")
        elif not found.isfinite().all():
            problems.append(f"{name} has numbers that are not finite")
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        shown = [*sorted(problems)[:5], *more]
        raise TeacherError("\n  ".join([f"{folder}: the weights do not fit config.json:", *shown]))
    encoder.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    return encoder.eval()


def read_config(values: Mapping[str, Any], normalize_waveform: bool, source: str) -> EncoderConfig:
    """The shape that a config.json describes.

    Args:
        values: Its content.
        normalize_waveform: Whether the preprocessor does, which a HubertModel's config does not say.
        source: What to blame in an error.

    Raises:
        TeacherError: It describes a network that `Encoder` does not compute.
    """
    check_sizes(values, source)
    model_type = values.get("model_type")
    if model_type == NESTLING_TYPE:
        if missing := {f.name for f in fields(EncoderConfig)} - values.keys():
            raise TeacherError(f"{source}: config.json lacks {', '.join(sorted(missing))}")
        for key, example in EncoderConfig((1,), 1, (1,), (1,)).to_dict().items():
            _check_like(values, key, example, source)
        if values["conv_norm"] not in ("group", "layer"):
            raise TeacherError(f'{source}: conv_norm={shorten(values["conv_norm"])} is not "group" or "layer"')
        return _check_params(EncoderConfig.from_dict(values), source)
    if model_type != "hubert":
        shown = repr(model_type)[:80]
        raise TeacherError(f"{source}: model_type is {shown}; only 'hubert' can be loaded")
    for option, required in REQUIRED_OPTIONS.items():
        if (got := values.get(option, required)) != required:
            raise TeacherError(f"{source}: {option}={shorten(got)} is not supported, only {json.dumps(required)}")
    values = {**_DEFAULTS, **values}
    for key, default in _DEFAULTS.items():
        _check_like(values, key, default, source)
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
    shape = {name: values[key] for name, key in _NAMES.items()}
    config = EncoderConfig.from_dict(
        {
            **shape,
            "heads": [heads] * depth,
            "ffn_dims": [values["intermediate_size"]] * depth,
            "head_dim": width // heads,
            "normalize_waveform": normalize_waveform,
        }
    )
    return _check_params(config, source)


def check_sizes(values: Mapping[str, Any], source: str) -> None:
    """Refuses a config.json of any model that asks for absurd sizes.

    Raises:
        TeacherError: It does; names the key and the limit.
    """
    if excess := find_excess(values):
        raise TeacherError(f"{source}: {excess}")


def shape_of(config: EncoderConfig) -> tuple[Backbone, Subnet]:
    """An encoder's shape, for counting.

    Raises:
        ValueError: It does not have as many heads as ffn_dims.
    """
    layers = tuple(Layer(heads, ffn_dim) for heads, ffn_dim in zip(config.heads, config.ffn_dims, strict=True))
    backbone = Backbone(**{f.name: getattr(config, f.name) for f in fields(Backbone)})
    return backbone, Subnet(config.conv_dims, config.embed_dim, layers, tuple(range(len(layers))))


def _check_params(config: EncoderConfig, source: str) -> EncoderConfig:
    try:
        excess = explain_params(count_params(*shape_of(config)))
    except ValueError as error:
        raise TeacherError(f"{source}: no encoder has the shape of config.json: {error}") from error
    if excess:
        raise TeacherError(f"{source}: {excess}")
    return config


def hubert_config(config: EncoderConfig) -> dict[str, Any] | None:
    """A HubertModel's config.json for this shape, or None when no HubertModel has it."""
    if len(set(config.heads)) != 1 or len(set(config.ffn_dims)) != 1:
        return None
    if config.embed_dim != config.heads[0] * config.head_dim:
        return None
    values = config.to_dict()
    return {
        "model_type": "hubert",
        "architectures": ["HubertModel"],
        **{key: values[name] for name, key in _NAMES.items()},
        "num_hidden_layers": len(config.heads),
        "num_attention_heads": config.heads[0],
        "intermediate_size": config.ffn_dims[0],
    }


def preprocessor_config(config: EncoderConfig, do_normalize: bool) -> dict[str, Any]:
    """A preprocessor_config.json: how `transformers` prepares audio for this encoder.

    Args:
        config: The encoder's. Under a group norm padding changes valid frames, mask or not: none is made.
        do_normalize: The preprocessor, not the model, brings each waveform to zero mean and unit variance.
    """
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE_HZ,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": do_normalize,
        "return_attention_mask": config.conv_norm == "layer",
    }


def save_hubert(encoder: Encoder, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes an encoder as a HubertModel: config.json, model.safetensors, preprocessor_config.json, SHA256SUMS.

    Args:
        encoder: Of uniform layers.
        folder: Made if need be.
        dtype: Of the stored weights; they are read back as fp32.

    Raises:
        ValueError: No HubertModel has this shape.
    """
    config = hubert_config(encoder.config)
    if config is None:
        got = encoder.config
        raise ValueError(
            f"no HubertModel has this shape: layers must be alike, with embed_dim = heads * head_dim; got "
            f"embed_dim {got.embed_dim}, head_dim {got.head_dim}, heads {got.heads}, ffn_dims {got.ffn_dims}"
        )
    weights = {name: weight.to(dtype) for name, weight in encoder.state_dict().items()}
    preprocessor = preprocessor_config(encoder.config, encoder.config.normalize_waveform)
    write_model(folder, {**config, "dtype": str(dtype).removeprefix("torch.")}, weights, preprocessor)
    write_manifest(folder)


def write_model(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], preprocessor: Mapping[str, Any]
) -> None:
    """Writes config.json, model.safetensors and preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    data = safetensors.torch.save(contiguous, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)  # its save_file would hide the file from other users
    for name, values in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def find_folder(source: str) -> Path:
    """The folder that a source names, downloaded if it is on the hub."""
    if source == "demo":
        if not (DEMO_TEACHER / "config.json").is_file():
            raise TeacherError("this installation has no demo teacher; name a folder or a model on the hub")
        return DEMO_TEACHER
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise TeacherError(f"{source} is a file; name the folder that holds it and its config.json")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", source):
        raise TeacherError(f"there is no folder {source}")
    return _download(source)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and seldom needed

    small = ["config.json", "preprocessor_config.json", "processor_config.json", "README.md"]
    try:
        safe = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
        folder = Path(snapshot_download(name, allow_patterns=[*small, *safe]))
        if not any((folder / file).exists() for file in safe[:2]):
            pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]
            folder = Path(snapshot_download(name, allow_patterns=[*small, *pickled]))
    except Exception as error:  # a network fails in a dozen ways
        raise TeacherError(
            f"there is no folder {name}, and the Hugging Face hub gave no model of that name "
            f"({type(error).__name__}); check the name and the connection"
        ) from error
    return folder


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object; empty when the file is not there."""
    if not path.is_file():
        if required:
            raise TeacherError(f"{path.parent} has no {path.name}; a model in Hugging Face format is wanted")
        return {}
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise TeacherError(f"{path} is too large: {size:,} bytes; at most {MAX_JSON_BYTES:,} are read")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TeacherError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TeacherError(f"{path} is not a JSON object")
    return values


def normalizes_waveform(folder: Path) -> bool:
    """Whether the folder's preprocessor normalises the waveform; without one nothing does."""
    values = read_json(folder / "preprocessor_config.json")
    values = read_json(folder / "processor_config.json").get("feature_extractor") or values  # as transformers does
    if not isinstance(values, dict):
        raise TeacherError(f"{folder}: feature_extractor={shorten(values)} of processor_config.json is no object")
    if (rate := values.get("sampling_rate", SAMPLE_RATE_HZ)) != SAMPLE_RATE_HZ:
        raise TeacherError(
            f"{folder}: the model wants audio at {shorten(rate)} Hz; only {SAMPLE_RATE_HZ} Hz is supported"
        )
    return bool(values) and bool(values.get("do_normalize", True))


def _bare_names(weights: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Names as `Encoder` has them: no prefix of a model under a head, no heads, no old names."""
    prefix = next((f"{p}." for p in prefixes if any(name.startswith(f"{p}.") for name in weights)), "")
    return {
        _OLD_NAME.sub(lambda match: NEW_NAMES[match[0]], name.removeprefix(prefix)): weight
        for name, weight in weights.items()
        if not name.startswith(HEADS)
    }


def _check_like(values: Mapping[str, Any], key: str, example: Any, source: str) -> None:
    if not _is_like(values[key], example):
        raise TeacherError(f"{source}: {key}={shorten(values[key])} is not like {json.dumps(example)}")


def _is_like(value: Any, example: Any) -> bool:
    """Whether a value of config.json has the type of an example, and counts are positive."""
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(_is_like(v, example[0]) for v in value)
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, int):
        return isinstance(value, int) and value > 0
    return isinstance(value, int | float if isinstance(example, float) else str)


def _read_license(folder: Path) -> str | None:
    """The licence that the YAML head of a model card states."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    line = re.search(r"^license: *([\w.-]+) *$", head[1], re.MULTILINE) if head else None
    return line[1] if line else None
