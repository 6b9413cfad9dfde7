"""Teachers and other encoders in: from Hugging Face's, fairseq's and unilm's files, without any of their code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from checkpoints.formats.config_json import NESTLING_TYPE, check_params, normalizes_waveform, read_config, read_json
from checkpoints.formats.ctranslate2 import find_ctranslate2
from checkpoints.formats.fairseq_layout import WANTED, from_fairseq, is_checkpoint, to_fairseq_name
from checkpoints.formats.hugging_face import (
    CLASSES,
    OtherNetworkError,
    TeacherError,
    bare_names,
    list_misfits,
    refuse_weights,
    to_hugging_face,
)
from checkpoints.formats.stand_ins import WeightFileError, plain
from checkpoints.formats.transformers_models import open_network
from checkpoints.formats.weight_files import read_checkpoint, read_folder_weights, read_safetensors
from checkpoints.formats.whisper import is_whisper, open_whisper
from checkpoints.locations import ACCEPTED, find_model
from checkpoints.manifest import ManifestError, check_file, check_manifest
from distillation.sources.teacher import FrozenNetwork, hash_network
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig

MAX_HEAD_BYTES = 1 << 20
"""Read of a model card: its YAML head is at the start."""


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
            Hugging Face. A Whisper may be in CTranslate2's format, too.

    Raises:
        TeacherError: It cannot be found, or is not a network that `Encoder` or `transformers` computes; says why.
    """
    found = find_model(str(source))
    path = found.path
    licensed = _read_license(path) if path.is_dir() else None
    try:
        return Teacher(load_encoder(path).requires_grad_(False), found.name, path, found.revision, licensed)
    except OtherNetworkError as error:
        if not path.is_dir() and not is_whisper(path):
            raise
        reason = str(error)
    if is_whisper(path):
        network, _ = open_whisper(path)
    else:
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
        else:
            check_file(path)
        if find_ctranslate2(path):
            raise OtherNetworkError(f"{path} is of CTranslate2; an encoder is one of {', '.join(CLASSES)}")
        if not path.is_file():
            return _load_folder(path)
        values = read_safetensors(path) if path.suffix == ".safetensors" else plain(read_checkpoint(path), str(path))
    except (ManifestError, WeightFileError) as error:
        raise TeacherError(str(error)) from error
    if is_checkpoint(values):
        config, weights = from_fairseq(values, str(path))
        check_params(config, str(path), "its options")
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
    if problems := list_misfits(expected, weights):
        raise refuse_weights(source, problems, shape)
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
