"""Anything that turns speech into frames, opened by its name: what an evaluation scores.

B batch, S samples, T frames, d channels of a frame. An utterance's frames never depend on its batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.formats.hugging_face import OtherNetworkError, TeacherError
from checkpoints.formats.transformers_models import open_network
from checkpoints.manifest import hash_file
from checkpoints.runtimes.onnx_export import open_onnx
from checkpoints.teachers import find_model, load_encoder, normalizes_waveform, read_config, read_json
from search_spaces.costs import count_frames, count_macs
from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone
from speech_data.features import difference, hold_last_frame, log_mel, mfcc
from speech_tasks.store import Encode
from supernet.encoder import Encoder, EncoderConfig, initialize
from supernet.model import shape_of

UNTRAINED = "untrained:"
"""Before a name: the same shape with fresh random weights."""
SEED = 0
"""Of those weights."""
ACCEPTED = (
    "what can be evaluated: an export or its .onnx, a HuBERT, wav2vec 2.0, WavLM or the like in Hugging Face format (a "
    "folder, or a name on the hub), a file of fairseq, unilm or s3prl, demo, log-mel, mfcc, and untrained:NAME for "
    "fresh weights in the shape of NAME"
)

_BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of config.json that change no output."""
_NUM_MELS = 80


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
    """Short hash of all that decides the frames, weights included: a key for caches."""


def open_representation(source: str) -> Representation:
    """Opens what `nestling evaluate` is given.

    Args:
        source: `mfcc`, `log-mel`, `demo`, a folder, a name on the Hugging Face hub or a file as `load_encoder` takes,
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
        return Representation(name, source, BASELINES[name], 0, None, fingerprint(name))
    if Path(name).suffix == ".onnx":
        if not trained:
            raise TeacherError(f"{source}: an ONNX file has no fresh weights; name its folder after {UNTRAINED}")
        return _open_onnx(Path(name), source)
    path = find_model(name)
    title = path.resolve().name if Path(name).expanduser() == path else name
    shown = title if trained else UNTRAINED + title
    with torch.random.fork_rng(devices=[]):  # fresh weights are the same each time, and the caller's draws as before
        torch.default_generator.manual_seed(SEED)
        if path.is_file():
            encoder = load_encoder(path)
            return _describe(path, encoder if trained else _make_fresh(encoder.config), shown, source)
        values = read_json(path / "config.json", required=True)
        try:
            config = read_config(values, normalizes_waveform(path), str(path))
        except OtherNetworkError:
            return _open_transformers(path, values, shown, source, trained)
        return _describe(path, load_encoder(path) if trained else _make_fresh(config), shown, source)


def fingerprint(*parts: str, weights: Mapping[str, Tensor] | None = None) -> str:
    """A short hash of some words and, to the bit, of tensors by name."""
    digest = hashlib.sha256(json.dumps(parts).encode())
    for name, weight in sorted((weights or {}).items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def encode_alone(states_of: Callable[[Tensor], Sequence[Tensor]], wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """Encodes each utterance of a batch by itself, so that no padding reaches the network.

    A group norm averages over padding, masked or not; so do stacked positional convolutions and some attention.

    Args:
        states_of: One utterance (1, S) -> its hidden states, (1, T, d).
        wave: (B, S).
        lengths: Valid samples, (B,); None when all are.

    Returns:
        Hidden states, each (B, T, d), zero where padded.

    Raises:
        NestlingError: An utterance is too short for a frame, or the network does not make one every 20 ms.
    """
    num_samples = wave.shape[1]
    rows: list[list[Tensor]] = []
    for i, length in enumerate([num_samples] * len(wave) if lengths is None else lengths.tolist()):
        if (expected := count_frames(Backbone(), length)) < 1:
            raise NestlingError(f"an utterance of {length} samples gives no frame; encoders want 400 samples or more")
        states = [x[0] for x in states_of(wave[i : i + 1, :length])]
        if found := {len(x) for x in states} - {expected}:
            raise NestlingError(
                f"the encoder makes {min(found)} frames of {length / SAMPLE_RATE_HZ:g} s; tasks want one every 20 ms, "
                f"{expected}"
            )
        rows.append(states)
    num_frames = count_frames(Backbone(), num_samples)
    padded = [[F.pad(x, (0, 0, 0, num_frames - len(x))) for x in states] for states in rows]
    return [torch.stack(state) for state in zip(*padded, strict=True)]


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

    def states_of(wave: Tensor, lengths: Tensor | None = None) -> Sequence[Tensor]:
        return encoder(wave, lengths).hidden  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
        if config.conv_norm == "group":
            return encode_alone(states_of, wave, lengths)
        return states_of(wave, lengths)

    weights = encoder.state_dict()
    return Representation(
        name,
        source,
        encode,
        params=sum(weight.numel() for weight in weights.values()),
        macs_1s=count_macs(*shape_of(config), 1.0),
        fingerprint=fingerprint("encoder", json.dumps(config.to_dict()), weights=weights),
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
    key = fingerprint("onnx", hash_file(path))
    return Representation(f"{folder}/{path.name}", source, encode, run.params, None, key)


def _open_transformers(
    folder: Path, values: Mapping[str, Any], name: str, source: str, trained: bool
) -> Representation:
    normalizes = normalizes_waveform(folder)
    network, macs = open_network(folder, values, normalizes, ACCEPTED, trained)

    @torch.no_grad()
    def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
        return encode_alone(network.states_of, wave, lengths)

    shape = {key: value for key, value in values.items() if key not in _BOOKKEEPING}
    return Representation(
        name,
        source,
        encode,
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs_1s=macs,
        fingerprint=fingerprint(
            "transformers", json.dumps(shape, sort_keys=True), str(normalizes), weights=network.network.state_dict()
        ),
    )


def _num_frames(wave: Tensor, lengths: Tensor | None) -> tuple[int, Tensor | None]:
    """T, and the valid frames of each row, (B,)."""
    counts = None if lengths is None else [count_frames(Backbone(), n) for n in lengths.tolist()]
    return count_frames(Backbone(), wave.shape[1]), None if counts is None else torch.tensor(counts, device=wave.device)


def _mfcc(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """13 coefficients and their first and second differences, (B, T, 39), with their mean: it tells speakers apart."""
    num_frames, valid = _num_frames(wave, lengths)
    return [mfcc(wave, num_frames, num_valid=valid)]


def _log_mel(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """80 log energies and their first and second differences, (B, T, 240), standardised over each utterance.

    Source: SUPERB (arXiv 2105.01051), the FBANK baseline, with our window, mel bands and frames.
    """
    num_frames, valid = _num_frames(wave, lengths)
    static = hold_last_frame(log_mel(wave, num_frames, _NUM_MELS), valid)
    first = hold_last_frame(difference(static), valid)
    x = torch.cat([static, first, difference(first)], dim=2)
    weight = torch.ones_like(x[..., :1])
    if valid is not None:
        weight = (torch.arange(num_frames, device=wave.device) < valid[:, None])[..., None].to(x)
    count = weight.sum(1, keepdim=True)
    centred = (x - (x * weight).sum(1, keepdim=True) / count) * weight
    return [centred * (centred.square().sum(1, keepdim=True) / count + 1e-5).rsqrt()]


BASELINES: Mapping[str, Encode] = {"mfcc": _mfcc, "log-mel": _log_mel}
"""What needs no training, by name; one hidden state each."""
