"""Encoders in and out of folders and files: Hugging Face's, fairseq's and unilm's, without any of their code."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from checkpoints.formats.fairseq_layout import WANTED, from_fairseq, is_checkpoint, to_fairseq_name
from checkpoints.formats.hugging_face import (
    CLASSES,
    CONFIG_KEYS,
    DEFAULTS,
    GATE_KEYS,
    REQUIRED_OPTIONS,
    OtherNetworkError,
    TeacherError,
    bare_names,
    check_like,
    hugging_face_config,
    preprocessor_config,
    refuse_weights,
    to_hugging_face,
)
from checkpoints.formats.limits import MAX_JSON_BYTES, explain_params, find_excess, shorten
from checkpoints.formats.stand_ins import WeightFileError, plain
from checkpoints.formats.transformers_models import open_network
from checkpoints.formats.weight_files import read_checkpoint, read_folder_weights, read_safetensors
from checkpoints.manifest import MANIFEST, ManifestError, check_file, check_manifest, list_manifest, write_manifest
from distillation.sources import FrozenNetwork, hash_network
from search_spaces.costs import count_params
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import replacing_folder, write_file
from supernet.encoder import Encoder
from supernet.encoder_config import SAMPLE_RATE_HZ, EncoderConfig
from supernet.model import shape_of

DEMO = "demo"
DEMO_TEACHER = Path(__file__).parent / "demo_teacher"
NESTLING_TYPE = "nestling"
"""`model_type` of an exported encoder whose shape no model of `transformers` has."""
MAX_HEAD_BYTES = 1 << 20
"""Read of a model card: its YAML head is at the start."""
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What a disk answers that takes no files; a network has other numbers, or none."""
ACCEPTED = (
    "what can teach: demo, a folder or a name on the Hugging Face hub (HuBERT, wav2vec 2.0, WavLM, or another network "
    "of `transformers` that makes a hidden state of a waveform every 20 ms), or a file of fairseq, unilm or s3prl"
)


@dataclass(frozen=True)
class Teacher:
    """A frozen network that gives targets."""

    network: Encoder | FrozenNetwork
    name: str
    """`demo`, the folder's or file's own name, or the name on the hub: that alone has a slash."""
    path: Path
    revision: str | None = None
    """The commit, of one on the hub."""
    license: str | None = None
    """As its model card names it."""
    reason: str = ""
    """Why it is not an `Encoder`, if it is not."""

    @cached_property
    def hash(self) -> str:
        """Of its shape and its weights, to the bit: whatever it is called, and wherever it lies, the same teacher."""
        return hash_network(self.network)

    @property
    def encoder(self) -> Encoder:
        """The network, if it is one whose weights others can start from.

        Raises:
            TeacherError: It is not.
        """
        if isinstance(self.network, FrozenNetwork):
            raise TeacherError(f"{self.name} can teach, but lends no weights: {self.reason}")
        return self.network


def load_teacher(source: str | Path) -> Teacher:
    """A teacher, frozen, in fp32.

    Args:
        source: `demo`, a folder in Hugging Face format, a name on the Hugging Face hub (`NAME` or `NAME@REVISION`: a
            branch, a tag or a commit), or a file: fairseq's, unilm's or s3prl's, or the weights in a folder of
            Hugging Face.

    Raises:
        TeacherError: It cannot be found, or is not a network that `Encoder` or `transformers` computes; says why.
    """
    found = find_model(str(source))
    path = found.path
    licensed = _read_license(path) if path.is_dir() else None
    try:
        return Teacher(load_encoder(path).requires_grad_(False), found.name, path, found.revision, licensed)
    except OtherNetworkError as error:
        if not path.is_dir():
            raise
        reason = str(error)
    network, _ = open_network(path, read_json(path / "config.json"), normalizes_waveform(path), ACCEPTED)
    return Teacher(network, found.name, path, found.revision, licensed, reason)


def load_encoder(path: Path) -> Encoder:
    """The encoder in a folder of Hugging Face, bare or under a head, in an export of ours, or in a file.

    Raises:
        OtherNetworkError: It is a network that `Encoder` does not compute.
        TeacherError: The configuration or the weights are not such a model's, naming tensors at fault; or a folder has
            a manifest, and is not what that lists.
    """
    try:
        if not path.is_file():
            check_manifest(path)
            return _load_folder(path)
        check_file(path)
        values = read_safetensors(path) if path.suffix == ".safetensors" else plain(read_checkpoint(path), str(path))
    except (ManifestError, WeightFileError) as error:
        raise TeacherError(str(error)) from error
    if is_checkpoint(values):
        config, weights = from_fairseq(values, str(path))
        _check_params(config, str(path), "its options")
        return _fill(config, weights, partial(to_fairseq_name, conv_norm=config.conv_norm), str(path), "its options")
    if not isinstance(values, dict) or not all(isinstance(weight, Tensor) for weight in values.values()):
        keys = ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise TeacherError(f"{path} holds {keys[:100]}; wanted is {WANTED}")
    if not (path.parent / "config.json").is_file():
        raise TeacherError(f"{path} holds tensors alone, and no config.json is beside it to say what they are")
    return _load_folder(path.parent, values)


def _load_folder(folder: Path, weights: Mapping[str, Tensor] | None = None) -> Encoder:
    """The encoder that a config.json describes, with the folder's weights or with others."""
    values = read_json(folder / "config.json", required=True)
    config = read_config(values, normalizes_waveform(folder), str(folder))
    model_type = values["model_type"]
    weights = bare_names(read_folder_weights(folder) if weights is None else weights, str(folder))
    if model_type == "wav2vec2" or not (values.get("mask_time_prob", 0.05) or values.get("mask_feature_prob", 0.0)):
        # Such a model has none, or, a wav2vec 2.0, was saved before `transformers` masked. Only training reads it.
        weights.setdefault("masked_spec_embed", torch.zeros(config.embed_dim))
    rename = str if model_type == NESTLING_TYPE else to_hugging_face
    return _fill(config, weights, rename, str(folder), "config.json")


def _fill(
    config: EncoderConfig, weights: Mapping[str, Tensor], rename: Callable[[str], str], source: str, shape: str
) -> Encoder:
    """The encoder of a shape, which `shape` describes, with weights that `rename` gives the names of."""
    if problem := _explain_gates(config):
        raise TeacherError(f"{source}: {problem}")
    try:
        with torch.device("meta"):
            encoder = Encoder(config)
    except (ValueError, RuntimeError) as error:
        raise TeacherError(f"{source}: no encoder has the shape of {shape}: {error}") from error
    expected = {rename(name): tensor for name, tensor in encoder.state_dict().items()}
    if not expected.keys() & weights.keys():
        names = f"{', '.join(sorted(weights)[:3])} …" if weights else "none"
        raise TeacherError(f"{source} has no tensor of an encoder, such as {min(expected)}; its tensors are {names}")
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
        raise refuse_weights(source, sorted(problems), shape)
    encoder.load_state_dict({name: weights[rename(name)].float() for name in encoder.state_dict()}, assign=True)
    return encoder.eval()


def _explain_gates(config: EncoderConfig) -> str | None:
    """Why attention cannot have these gates; None if it can, or has none."""
    near = config.num_buckets // 4
    if not config.gate_width or (
        0 < near < config.max_distance
        and config.gate_width % config.head_dim == 0
        and config.gate_width % config.pos_conv_groups == 0
        and config.gate_width >= max(config.embed_dim, *(heads * config.head_dim for heads in config.heads))
    ):
        return None
    return (
        f"no attention has gates of width {config.gate_width} with {config.num_buckets} buckets up to a distance of "
        f"{config.max_distance}"
    )


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
        return _check_params(EncoderConfig.from_dict(values), source, "config.json")
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
    return _check_params(config, source, "config.json")


def _check_params(config: EncoderConfig, source: str, shape: str) -> EncoderConfig:
    """The shape that `shape` describes, unless it is absurdly large."""
    try:
        excess = explain_params(count_params(*shape_of(config)))
    except ValueError as error:
        raise TeacherError(f"{source}: no encoder has the shape of {shape}: {error}") from error
    if excess:
        raise TeacherError(f"{source}: {excess}")
    return config


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
    """As `save_encoder`, but the folder is written whole, in the place of all that was in it."""
    with replacing_folder(folder, seal=MANIFEST) as written:
        save_encoder(encoder, written)


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


@dataclass(frozen=True)
class Found:
    """Where a model is, and what it is called."""

    path: Path
    """A folder or a file."""
    name: str
    """`demo`, the folder's or file's own name, or the name on the hub, without a revision."""
    revision: str | None = None
    """On the hub: the commit that a name or a revision stood for. None for what is on this disk."""


def _expand(source: str) -> Path:
    """A path with the home folder for `~`; that of nobody, `~nobody/x`, stays as it is."""
    return Path(os.path.expanduser(source))  # noqa: PTH111 - Path's raises if there is no such user


def locate(source: str, shipped: Container[str]) -> str:
    """What finds a teacher or audio from any folder: a path is made absolute, a name stays what it is.

    Args:
        source: As somebody gave it.
        shipped: Names that mean no path, even if there is one.
    """
    path = _expand(source)
    if not source or source in shipped or not path.exists():
        return source
    return str(path.parent.resolve() / path.name)  # a link stays one: its name may tell what it leads to


def find_model(source: str) -> Found:
    """What a source names: `demo`, a folder, a file, or a name on the hub with or without `@REVISION`.

    Raises:
        TeacherError: There is nothing of that name.
    """
    if source == DEMO:
        if not (DEMO_TEACHER / "config.json").is_file():
            raise TeacherError("this installation has no demo teacher; name a folder or a model on the hub")
        return Found(DEMO_TEACHER, source)
    path = _expand(source)
    if path.is_dir() or path.suffix in SUFFIXES:
        if path.exists():
            return Found(path, path.resolve().name)
        raise TeacherError(f"there is no file {source}")
    if path.is_file():
        raise TeacherError(f"{source} is no file of weights, which end in {', '.join(SUFFIXES)}; {ACCEPTED}")
    named = re.fullmatch(r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([\w.][\w./-]*))?", source)
    if not named:
        raise TeacherError(f"there is no folder {source}")
    try:
        return _download(named[1], named[2])
    except NestlingError:
        raise
    except Exception as error:  # a network fails in a dozen ways
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            raise FailedError(
                f"the files of {source} could not be kept: {error.strerror} ({error.filename}); free space, or set "
                "HF_HOME to a folder that can be written"
            ) from error
        raise TeacherError(
            f"there is no folder {source}, and the Hugging Face hub gave no model of that name "
            f"({type(error).__name__}); check the name and the connection"
        ) from error


def _download(name: str, revision: str | None) -> Found:
    """The files of a model on the hub that are opened here; all that its manifest lists, if it is an export of ours."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and seldom needed

    def fetch(patterns: Sequence[str], revision: str | None) -> Found:
        options: dict[str, Any] = {"revision": revision} if revision else {}
        folder = Path(snapshot_download(name, allow_patterns=list(patterns), **options))
        is_commit = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
        return Found(folder, name, folder.name if is_commit else revision)

    small = ["config.json", "preprocessor_config.json", "processor_config.json", "README.md", MANIFEST]
    safe = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
    found = fetch([*small, *safe], revision)
    if not any((found.path / file).exists() for file in safe[:2]):
        pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"]
        found = fetch([*small, *pickled], found.revision)
    if absent := [file for file in list_manifest(found.path) if not (found.path / file).exists()]:
        found = fetch(absent, found.revision)
    return found


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


def normalizes_waveform(folder: Path) -> bool:
    """Whether the folder's preprocessor normalises the waveform; without one nothing does."""
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
    if not isinstance(normalizes := values.get("do_normalize", True), bool):
        raise TeacherError(f"{folder}: do_normalize={shorten(normalizes)} of {name} is not true or false")
    return bool(values) and normalizes


def _read_license(folder: Path) -> str | None:
    """The licence that the YAML head of a model card states."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open("rb") as file:
        start = file.read(MAX_HEAD_BYTES).decode(errors="replace").replace("\r\n", "\n")
    head = re.match(r"---\n(.*?)\n---", start, re.DOTALL)
    line = re.search(r"^license: *([\w.-]+) *$", head[1], re.MULTILINE) if head else None
    return line[1] if line else None
