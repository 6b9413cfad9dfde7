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

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from checkpoints.proof import silence
from checkpoints.teachers import (
    NESTLING_TYPE,
    TeacherError,
    check_sizes,
    find_folder,
    load_encoder,
    normalizes_waveform,
    read_config,
    read_json,
    shape_of,
)
from search_spaces.costs import count_frames, count_macs
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone
from speech_data.features import difference, hold_last_frame, log_mel, mfcc
from speech_tasks.store import Encode
from supernet.encoder import Encoder, EncoderConfig, initialize, normalize_waveform

UNTRAINED = "untrained:"
"""Before a name: the same shape with fresh random weights."""
SEED = 0
"""Of those weights."""
ACCEPTED = (
    "what can be evaluated: an export, a HuBERT, wav2vec 2.0, WavLM or the like in Hugging Face format (a folder, or "
    "a name on the hub), demo, log-mel, mfcc, and untrained:NAME for fresh weights in the shape of NAME"
)

_BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of config.json that change no output."""
_UNUSED = "masked_spec_embed"
"""The mask embedding: transformers makes one where a file has none, and only training reads it."""
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
        source: `mfcc`, `log-mel`, `demo`, a folder or a name on the Hugging Face hub, or `untrained:` before one of
            the last three. A folder that has a baseline's name is reached as `./mfcc`.

    Raises:
        TeacherError: It cannot be found or opened, or does not make a frame every 20 ms; says what is accepted.
    """
    name = source.removeprefix(UNTRAINED)
    trained = name == source
    if name in BASELINES:
        if not trained:
            raise TeacherError(f"{source}: nothing is trained in {name}; name an encoder after {UNTRAINED}")
        return Representation(name, source, BASELINES[name], 0, None, fingerprint(name))
    folder = find_folder(name)
    values = read_json(folder / "config.json", required=True)
    config = _own_config(folder, values)
    title = folder.resolve().name if Path(name).expanduser() == folder else name
    shown = title if trained else UNTRAINED + title
    with torch.random.fork_rng(devices=[]):  # fresh weights are the same each time, and the caller's draws as before
        torch.default_generator.manual_seed(SEED)
        if config:
            return _open_encoder(folder, config, shown, source, trained)
        return _open_transformers(folder, values, shown, source, trained)


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
        ValueError: An utterance is too short for a frame, or the network does not make one every 20 ms.
    """
    num_samples = wave.shape[1]
    rows: list[list[Tensor]] = []
    for i, length in enumerate([num_samples] * len(wave) if lengths is None else lengths.tolist()):
        if (expected := count_frames(Backbone(), length)) < 1:
            raise ValueError(f"an utterance of {length} samples gives no frame; encoders want 400 samples or more")
        states = [x[0] for x in states_of(wave[i : i + 1, :length])]
        if found := {len(x) for x in states} - {expected}:
            raise ValueError(
                f"the encoder makes {min(found)} frames of {length / SAMPLE_RATE_HZ:g} s; tasks want one every 20 ms, "
                f"{expected}"
            )
        rows.append(states)
    num_frames = count_frames(Backbone(), num_samples)
    padded = [[F.pad(x, (0, 0, 0, num_frames - len(x))) for x in states] for states in rows]
    return [torch.stack(state) for state in zip(*padded, strict=True)]


def _own_config(folder: Path, values: Mapping[str, Any]) -> EncoderConfig | None:
    """The shape, if `Encoder` computes this network; None if it is one for `transformers`."""
    normalizes = normalizes_waveform(folder)
    if values.get("model_type") == NESTLING_TYPE:
        return read_config(values, normalizes, str(folder))
    check_sizes(values, str(folder))
    if values.get("model_type") != "hubert":
        return None
    try:
        return read_config(values, normalizes, str(folder))
    except TeacherError:
        return None


def _open_encoder(folder: Path, config: EncoderConfig, name: str, source: str, trained: bool) -> Representation:
    backbone, subnet = shape_of(config)
    if (config.conv_kernels, config.conv_strides) != (Backbone().conv_kernels, Backbone().conv_strides):
        raise TeacherError(
            f"{folder}: kernels {list(config.conv_kernels)} and strides {list(config.conv_strides)} do not make the "
            f"frames of HuBERT's front-end; tasks want those, one every 20 ms"
        )
    if trained:
        encoder = load_encoder(folder)
    else:
        encoder = Encoder(config).eval()
        initialize(encoder, torch.Generator().manual_seed(SEED))

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
        macs_1s=count_macs(backbone, subnet, 1.0),
        fingerprint=fingerprint("encoder", json.dumps(config.to_dict()), weights=weights),
    )


def _open_transformers(
    folder: Path, values: Mapping[str, Any], name: str, source: str, trained: bool
) -> Representation:
    model = _load_transformers(folder, values, trained).eval().requires_grad_(False)
    normalizes = normalizes_waveform(folder)

    def states_of(wave: Tensor) -> Sequence[Tensor]:
        wave = normalize_waveform(wave) if normalizes else wave
        return model(input_values=wave, output_hidden_states=True, return_dict=True).hidden_states  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
        return encode_alone(states_of, wave, lengths)

    shape = {key: value for key, value in values.items() if key not in _BOOKKEEPING}
    return Representation(
        name,
        source,
        encode,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs_1s=_try(encode, f"{folder}: {type(model).__name__}"),
        fingerprint=fingerprint(
            "transformers", json.dumps(shape, sort_keys=True), str(normalizes), weights=model.state_dict()
        ),
    )


def _load_transformers(folder: Path, values: Mapping[str, Any], trained: bool) -> Any:
    """The model under any head, in fp32; never with code from the folder."""
    import transformers  # noqa: PLC0415 - slow to import

    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise TeacherError(
            f"{folder}: model_type is {model_type!r}, which transformers {transformers.__version__} does not have; "
            f"{ACCEPTED}"
        )
    options = {"trust_remote_code": False, "dtype": torch.float32}
    faults: dict[str, Any] = {}
    with silence(transformers):
        try:
            if trained:
                model, faults = transformers.AutoModel.from_pretrained(
                    folder,
                    local_files_only=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # it names them, and we refuse them below
                    **options,
                )
            else:
                config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
                model = transformers.AutoModel.from_config(config, **options)  # type: ignore[no-untyped-call]
        except Exception as error:  # a damaged folder fails in a dozen ways
            reason = " ".join(str(error).split())[:300]
            raise TeacherError(f"{folder}: transformers cannot open it ({type(error).__name__}): {reason}") from error
    _check_weights(folder, model, faults)
    return model


def _check_weights(folder: Path, model: Any, faults: Mapping[str, Any]) -> None:
    """Refuses weights that `transformers` would make up, or leave out though the network has a place for their kind."""
    prefix = f"{model.base_model_prefix}."
    missing, unexpected = (
        sorted(str(name).removeprefix(prefix) for name in faults.get(kind, ()))
        for kind in ("missing_keys", "unexpected_keys")
    )
    parts = tuple(f"{name}.{inner}." for name, part in model.named_children() for inner, _ in part.named_children())
    problems = [f"missing {name}" for name in missing if name != _UNUSED]
    problems += [f"unexpected {name}" for name in unexpected if name.startswith(parts)]  # the others are of a head
    for name, found, wanted in sorted(faults.get("mismatched_keys", ())):
        problems.append(f"{name.removeprefix(prefix)} has shape {list(found)}, not {list(wanted)}")
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise TeacherError("\n  ".join([f"{folder}: the weights do not fit config.json:", *problems[:5], *more]))


def _try(encode: Encode, what: str) -> int | None:
    """Encodes 1 s of noise: its multiply-accumulates, None if nothing was counted.

    Raises:
        TeacherError: It gives something else than finite frames at 50 Hz, alike in every layer.
    """
    wave = 0.1 * torch.randn(1, SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(SEED))
    counter = FlopCounterMode(display=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:  # the counter does not see fused attention
            states = encode(wave, None)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise TeacherError(
            f"{what} does not turn a waveform into frames ({type(error).__name__}: {reason}); {ACCEPTED}"
        ) from error
    if len({x.shape for x in states}) != 1:
        raise TeacherError(f"{what} gives hidden states of {len({x.shape for x in states})} shapes; tasks want one")
    if not all(x.isfinite().all() for x in states):
        raise TeacherError(f"{what} gives numbers that are not finite; its weights are damaged")
    return counter.get_total_flops() // 2 or None


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
