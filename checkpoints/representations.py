"""Anything that turns speech into frames, opened by its name: what an evaluation scores.

B batch, S samples, T frames, d channels of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.formats.config_json import normalizes_waveform, read_config, read_json
from checkpoints.formats.hugging_face import OtherNetworkError, TeacherError
from checkpoints.formats.transformers_models import open_network
from checkpoints.formats.whisper import is_whisper, open_whisper
from checkpoints.locations import find_model
from checkpoints.manifest import check_manifest
from checkpoints.runtimes.onnx_export import open_onnx
from checkpoints.teachers import load_encoder
from distillation.sources.teacher import FrozenNetwork, hash_network
from search_spaces.costs import count_macs
from search_spaces.files import hash_file
from search_spaces.identity import fingerprint, hash_code
from search_spaces.subnet import Backbone
from speech_tasks.baselines import BASELINES
from speech_tasks.encoding import encode_alone, encode_with
from speech_tasks.feature_store import Encode
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig
from supernet.initialization import initialize
from supernet.model import shape_of

UNTRAINED = "untrained:"
"""Before a name: the same shape with fresh random weights."""
SEED = 0
"""Of those weights."""
ACCEPTED = (
    "what can be evaluated: an export or its .onnx, a HuBERT, wav2vec 2.0, WavLM, Whisper or the like in Hugging Face "
    "format (a folder, or a name on the hub), a Whisper of CTranslate2, a file of fairseq, unilm or s3prl, demo, "
    "log-mel, mfcc, and untrained:NAME for fresh weights in the shape of NAME"
)


@dataclass(frozen=True)
class Representation:
    """Anything that turns speech into frames: what an evaluation scores."""

    name: str
    """What tables call it: the folder's own name, the name on the hub, or that of a baseline."""
    source: str
    """What it was opened by; two sources can have the same name."""
    encode: Encode
    """Waveforms (B, S), float32, 16 kHz, and lengths (B,) -> every hidden state, (B, T, d): for an encoder the input
    of its first layer and the output of each, as `transformers` gives them. T is of HuBERT's strides, 50 Hz."""
    params: int | None
    """Parameters without heads, the mask embedding included; 0 where nothing is learned."""
    macs_1s: int | None
    """Multiply-accumulates for 1 s of audio; None where they are not known."""
    fingerprint: str
    """Short hash of all that decides the frames: weights, and the code and libraries that compute with them."""
    code: str = ""
    """The part of it that is no encoder's own: what kind of thing computes, and the hash of its code and libraries."""
    revision: str | None = None
    """The commit, of one on the hub."""


def open_representation(source: str) -> Representation:
    """Opens what `nestling evaluate` is given.

    Args:
        source: `mfcc`, `log-mel`, `demo`, a folder, a name on the Hugging Face hub or a file as `load_teacher` takes,
            or `untrained:` before one of the last four; or an ONNX file of an export. A folder that has a baseline's
            name is reached as `./mfcc`.

    Raises:
        TeacherError: It cannot be found or opened, or does not make a frame every 20 ms; says what is accepted.
    """
    name = source.removeprefix(UNTRAINED)
    trained = name == source
    if name in BASELINES:
        if not trained:
            raise TeacherError(f"{source}: nothing is trained in {name}; name an encoder after {UNTRAINED}")
        code = f"baseline {hash_code('speech_tasks.baselines')}"
        return Representation(name, source, BASELINES[name], 0, None, fingerprint(code, name), code)
    if Path(name).suffix == ".onnx":
        if not trained:
            raise TeacherError(f"{source}: an ONNX file has no fresh weights; name its folder after {UNTRAINED}")
        return _open_onnx(Path(name), source)
    found = find_model(name)
    path, title = found.path, name if found.revision else found.name
    shown = title if trained else UNTRAINED + title
    with torch.random.fork_rng(devices=[]):  # fresh weights are the same each time, and the caller's draws as before
        torch.default_generator.manual_seed(SEED)
        return replace(_open_model(path, shown, source, trained), revision=found.revision)


def _open_model(path: Path, name: str, source: str, trained: bool) -> Representation:
    """What a folder or a file holds, in PyTorch."""
    if is_whisper(path):
        network, macs = open_whisper(path, trained)
        return _describe_other(network, macs, name, source, "whisper", "checkpoints.formats.whisper_encoder")
    if path.is_file():
        encoder = load_encoder(path)
        return _describe(path, encoder if trained else _make_fresh(encoder.config), name, source)
    values = read_json(path / "config.json", required=True)
    try:
        config = read_config(values, normalizes_waveform(path), str(path))
    except OtherNetworkError:
        if trained:
            check_manifest(path)
        network, macs = open_network(path, values, normalizes_waveform(path), ACCEPTED, trained)
        return _describe_other(network, macs, name, source, "transformers", "checkpoints.formats.transformers_models")
    return _describe(path, load_encoder(path) if trained else _make_fresh(config), name, source)


def _make_fresh(config: EncoderConfig) -> Encoder:
    encoder = Encoder(config).eval()
    initialize(encoder, torch.Generator().manual_seed(SEED))
    return encoder


def _describe(path: Path, encoder: Encoder, name: str, source: str) -> Representation:
    config = encoder.config
    if (config.conv_kernels, config.conv_strides) != (Backbone().conv_kernels, Backbone().conv_strides):
        raise TeacherError(
            f"{path}: kernels {list(config.conv_kernels)} and strides {list(config.conv_strides)} do not make the "
            f"frames of HuBERT's front-end; tasks want those, one every 20 ms"
        )

    code = f"encoder {hash_code('speech_tasks.encoding')}"
    return Representation(
        name,
        source,
        encode_with(encoder),
        params=sum(weight.numel() for weight in encoder.state_dict().values()),
        macs_1s=count_macs(*shape_of(config), 1.0),
        fingerprint=fingerprint(code, hash_network(encoder)),
        code=code,
    )


def _open_onnx(path: Path, source: str) -> Representation:
    """An export in ONNX Runtime, on as many threads as torch uses."""
    run = open_onnx(path, torch.get_num_threads())

    def states_of(wave: Tensor) -> Sequence[Tensor]:
        outputs = run(wave.numpy(), np.array([wave.shape[1]]))
        return [torch.from_numpy(x) for x in outputs[:-1]]  # the last is the output of the network

    def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
        return encode_alone(states_of, wave, lengths)  # in int8, activations are scaled by the batch

    folder = path.resolve().parent.name
    code = f"onnx {hash_code('speech_tasks.encoding', 'checkpoints.runtimes.onnx_session')}"
    key = fingerprint(code, hash_file(path))
    return Representation(f"{folder}/{path.name}", source, encode, run.params, None, key, code)


def _describe_other(
    network: FrozenNetwork, macs: int | None, name: str, source: str, kind: str, module: str
) -> Representation:
    """A network that `Encoder` does not compute but a module does."""

    @torch.no_grad()
    def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
        return encode_alone(network.states_of, wave, lengths)

    code = f"{kind} {hash_code('speech_tasks.encoding', module)}"
    return Representation(
        name,
        source,
        encode,
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs_1s=macs,
        fingerprint=fingerprint(code, hash_network(network)),
        code=code,
    )
