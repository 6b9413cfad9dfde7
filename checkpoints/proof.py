"""Proof that a folder is the subnet it says it is: recounted, reopened and run beside the supernet."""

from __future__ import annotations

import importlib.util
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from checkpoints.formats.config_json import read_json
from checkpoints.formats.transformers_models import silence
from checkpoints.runtimes.onnx_export import open_onnx
from checkpoints.runtimes.onnx_session import ONNX_FILES, OnnxError
from checkpoints.runtimes.s3prl_upstream import entry_name
from checkpoints.teachers import load_encoder
from search_spaces.costs import count_params
from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ, Subnet
from supernet.encoder import Encoder, Trace
from supernet.model import Supernet

TOLERANCE = 1e-5
"""Largest relative error of an output: RMS of the difference over RMS of the output, in fp32.

A network that makes more than that of one rounding of its input is allowed ten times what it makes of it.
"""
MAX_TOLERANCE = 1e-3
"""But never more than this."""
SECONDS = ((0.21, 0.5, 0.37), (1.0,))
"""Durations of the random audio in each batch."""
SEED = 2203
ONNX = ONNX_FILES["onnx"]
"""The file of a folder that has to equal the supernet too, if it is there."""

Reader = Callable[[list[Tensor]], Tensor]
"""Waveforms, each (S,) -> every hidden state and then the output of the network, (L + 2, B, T, d)."""


class ProofError(NestlingError):
    """A folder is not what it should be."""


def prove_params(folder: Path, supernet: Supernet, subnet: Subnet) -> None:
    """Counts the numbers in the written weights.

    Raises:
        ProofError: They are not as many as were counted for the subnet.
    """
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a mapping
    found, counted = sum(torch.Size(s).numel() for s in shapes), count_params(supernet.space.backbone, subnet)
    if found != counted:
        raise ProofError(f"the written weights hold {found:,} numbers, but {counted:,} were counted")


@torch.no_grad()
def prove_outputs(folder: Path, supernet: Supernet, subnet: Subnet) -> dict[str, float]:
    """Reopens the folder and compares all it computes with what the supernet computes.

    Random audio of unequal lengths goes through the supernet, through our own reader of the folder, through
    `transformers` where it is installed, through s3prl's upstream where the folder has one, and through ONNX Runtime
    where there is a model.onnx. That one needs no other tolerance: it adds the same numbers in another order, and 12
    layers of HuBERT-base's size end at 2e-6.

    Returns:
        For each reader, the largest relative error.

    Raises:
        ProofError: The folder cannot be read, or an error is above what `TOLERANCE` says.
    """
    device = supernet.residual_order.device
    readers = {"nestling": _read_with_encoder(folder, device)}
    if importlib.util.find_spec("transformers"):
        readers["transformers"] = _read_with_transformers(folder, device)
    if (folder / "hubconf.py").exists():
        readers["torch.hub"] = _read_with_expert(folder, device)
    if (folder / ONNX).exists():
        readers["onnxruntime"] = _read_with_onnx(folder / ONNX, device)
    errors = dict.fromkeys(readers, 0.0)
    for waves in _batches(together=supernet.space.backbone.conv_norm == "layer"):
        wave, lengths = _pad(waves, device)
        wanted = _outputs(supernet(wave, lengths, subnet))
        num_frames = supernet.container.config.count_frames(lengths).tolist()
        rounded = _outputs(supernet(torch.nextafter(wave, torch.zeros_like(wave)), lengths, subnet))
        allowed = min(max(TOLERANCE, 10 * relative_error(rounded, wanted, num_frames)), MAX_TOLERANCE)
        for name, read in readers.items():
            error = relative_error(read(waves), wanted, num_frames)
            if not error <= allowed:
                raise ProofError(
                    f"opened with {name}, it does not compute what the supernet computes: "
                    f"relative error {error:.1e}, allowed {allowed:.0e}"
                )
            errors[name] = max(errors[name], error)
    return errors


@torch.no_grad()
def measure_error(path: Path, encoder: Encoder, waves: Sequence[Tensor] = ()) -> float:
    """How far an ONNX file is from the encoder it was made of: 1e-6 in fp32, percents in int8, which no proof asks of.

    Args:
        path: The file.
        encoder: On any device.
        waves: Audio, each (S,), read one at a time. Without any, random audio is taken, which speech is not.

    Returns:
        The largest relative error of any hidden state of any of them.

    Raises:
        ProofError: The file cannot be read.
    """
    device = encoder.masked_spec_embed.device
    read, errors = _read_with_onnx(path, device), []
    for wave in waves or [wave for batch in _batches(together=True) for wave in batch]:
        wanted = _outputs(encoder(wave[None].to(device)))
        errors.append(relative_error(read([wave]), wanted, [wanted.shape[2]]))
    if not all(map(math.isfinite, errors)):
        raise ProofError(f"{path.name} computes numbers that are not finite, or too few")
    return max(errors)


def relative_error(got: Tensor, wanted: Tensor, num_frames: list[int]) -> float:
    """The largest error of any output of any utterance, each relative to its RMS; NaN if anything is NaN.

    Args:
        got: (outputs, B, T, d).
        wanted: The same.
        num_frames: Valid frames of each utterance; what lies beyond is not compared.
    """
    if got.shape != wanted.shape:
        return float("inf")
    errors = [
        _rms(got[:, i, :valid] - wanted[:, i, :valid]) / _rms(wanted[:, i, :valid]).clamp(min=1e-12)
        for i, valid in enumerate(num_frames)
    ]
    return float(torch.stack(errors).max())


def _rms(x: Tensor) -> Tensor:
    return x.square().mean((1, 2)).sqrt()  # (outputs, T, d) -> (outputs,)


def _batches(together: bool) -> Iterator[list[Tensor]]:
    """Batches of waveforms, or one at a time: a group norm lets padding into valid frames."""
    generator = torch.Generator().manual_seed(SEED)
    for seconds in SECONDS:
        waves = [0.1 * torch.randn(round(s * SAMPLE_RATE_HZ), generator=generator) for s in seconds]
        yield from [waves] if together else [[wave] for wave in waves]


def _pad(waves: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """One batch, (B, S), and the lengths in it, (B,)."""
    lengths = torch.tensor([len(wave) for wave in waves], device=device)
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(device), lengths


def _outputs(trace: Trace) -> Tensor:
    return torch.stack([*trace.hidden, trace.last])


def _read_with_encoder(folder: Path, device: torch.device) -> Reader:
    try:
        encoder = load_encoder(folder).to(device)
    except NestlingError as error:
        raise ProofError(f"it cannot be read back: {error}") from error
    return lambda waves: _outputs(encoder(*_pad(waves, device)))


def _read_with_transformers(folder: Path, device: torch.device) -> Reader:
    """Opens the folder as its users will, preprocessor included."""
    import transformers.dynamic_module_utils  # noqa: PLC0415 - slow to import

    with silence(transformers), _temporary_modules(transformers.dynamic_module_utils):
        try:
            prepare = transformers.AutoFeatureExtractor.from_pretrained(folder)  # type: ignore[no-untyped-call]
            opener: Any = transformers.AutoModel
            if own := read_json(folder / "config.json").get("auto_map"):
                # The folder's own code, as AutoModel would take it where no other is registered for exports of ours.
                opener = transformers.dynamic_module_utils.get_class_from_dynamic_module(own["AutoModel"], folder)
            model, faults = opener.from_pretrained(folder, output_loading_info=True)
        except Exception as error:  # whatever it is, users would meet it too
            raise ProofError(f"transformers cannot open it: {error}") from error
    if found := {kind: sorted(map(str, names)) for kind, names in faults.items() if names}:
        raise ProofError(f"transformers does not find the weights it wants: {found}")
    model.to(device)

    def read(waves: list[Tensor]) -> Tensor:
        arrays = [wave.numpy() for wave in waves]
        inputs = prepare(arrays, sampling_rate=SAMPLE_RATE_HZ, padding=True, return_tensors="pt").to(device)
        with warnings.catch_warnings():
            # A WavLMModel gives PyTorch's attention a mask of numbers and a mask of booleans.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask", UserWarning)
            outputs = model(**inputs, output_hidden_states=True)
        return torch.stack([*outputs.hidden_states, outputs.last_hidden_state])

    return read


@contextmanager
def _temporary_modules(loader: ModuleType) -> Iterator[None]:
    """Lets `transformers` keep a folder's code in a place of ours: HOME, where it would, may be missing or read-only.

    What it has in its own place, and has imported from there, is left as it is.
    """

    def imported() -> dict[str, ModuleType]:
        package = loader.TRANSFORMERS_DYNAMIC_MODULE_NAME
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] == package}

    def forget() -> None:
        for name in imported():
            del sys.modules[name]

    usual, before = loader.HF_MODULES_CACHE, imported()
    forget()
    with tempfile.TemporaryDirectory(prefix="nestling-") as place:
        loader.HF_MODULES_CACHE = place  # type: ignore[attr-defined]
        sys.path.insert(0, place)  # before the usual one, which has a package of the same name
        try:
            yield
        finally:
            loader.HF_MODULES_CACHE = usual  # type: ignore[attr-defined]
            sys.path.remove(place)
            forget()
            sys.modules.update(before)


def _read_with_expert(folder: Path, device: torch.device) -> Reader:
    """Opens the folder as users of s3prl's interface will, by torch.hub."""
    try:
        expert = torch.hub.load(str(folder), entry_name(folder), source="local").to(device)
    except Exception as error:  # whatever it is, users would meet it too
        raise ProofError(f"torch.hub cannot open it: {error}") from error
    finally:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)

    def read(waves: list[Tensor]) -> Tensor:
        outputs = expert([wave.to(device) for wave in waves])
        return torch.stack([*outputs["hidden_states"], outputs["last_hidden_state"]])

    return read


def _read_with_onnx(path: Path, device: torch.device) -> Reader:
    try:
        run = open_onnx(path)
    except OnnxError as error:
        raise ProofError(str(error)) from error

    def read(waves: list[Tensor]) -> Tensor:
        wave, lengths = _pad(waves, torch.device("cpu"))
        try:
            outputs = run(wave.numpy(), lengths.numpy())
        except OnnxError as error:
            raise ProofError(str(error)) from error
        return torch.stack([torch.from_numpy(x) for x in outputs]).to(device)

    return read
