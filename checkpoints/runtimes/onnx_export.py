"""An encoder as one ONNX file, and its reader through ONNX Runtime.

The graph takes raw audio and gives every hidden state, so that a weighted sum can be read from it. Batch and time are
dynamic, nothing in it branches on a length, and all its operators are standard.

Inputs: `input_values`, (batch, samples), float32, 16 kHz, and `lengths`, (batch,), int64, the valid samples of each
item: always given, and equal to `samples` where nothing is padded. A length too short for a frame (`min_samples` of the
metadata) or beyond `samples`, and more or fewer lengths than items, are errors, whose texts name the rule.
Outputs: `last_hidden_state`, (batch, frames, width), `frame_lengths`, (batch,), int64, and `hidden_states.0` to
`hidden_states.L`, (batch, frames, width), as in `supernet.encoder.Trace`. Frames beyond `frame_lengths` mean nothing.

A front-end with a group norm averages over time: there padding changes valid frames, so batch equal lengths only.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from checkpoints.manifest import extend_manifest
from checkpoints.runtimes.onnx_session import INSTALL, OnnxError, start_session
from search_spaces.files import replacing
from supernet.encoder import Encoder
from supernet.encoder_config import SAMPLE_RATE_HZ, EncoderConfig
from supernet.front_end import ConvLayer, FrontEnd, check_lengths

OPSET = 20
"""Of the operators: the first with an exact GELU. 23 has attention, for which ONNX Runtime 1.32 broadcasts no mask."""
MAX_BYTES = 2**31 - 2**24
"""Of weights: an ONNX file is one message of less than 2 GiB, and what else is in it needs far less than 16 MiB."""
RULE = "each_of_lengths_must_be_at_least_{}_and_at_most_the_samples_given"
"""Name of the node that fails if not: it is all that a runtime tells of the reason."""
COUNT_RULE = "lengths_must_be_one_for_each_row_of_input_values"
"""As `RULE`."""
OUT_OF_REACH = 2**31
"""A row that no batch has."""
PADDING = {
    "layer": "changes no valid frame",
    "group": "changes valid frames: batch equal lengths only",
}
"""Norm of the front-end -> what padding does, as the metadata say it."""


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file holds."""

    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]
    size_bytes: int


@dataclass(frozen=True)
class OnnxRunner:
    """An encoder's ONNX file, open in ONNX Runtime; see `open_onnx`."""

    path: Path
    session: Any
    states: tuple[str, ...]
    """Names of the outputs that are hidden states."""
    params: int
    min_samples: int
    """That make a frame."""

    def __call__(self, waves: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        """Encodes a batch.

        Args:
            waves: (B, S).
            lengths: Valid samples of each, (B,).

        Returns:
            Every hidden state and then the output of the network, L + 2 arrays, (B, T, d).

        Raises:
            OnnxError: The arrays are not as said, or too short for a frame.
        """
        try:
            check_lengths(waves.shape, torch.from_numpy(lengths), self.min_samples)
        except ValueError as error:
            raise OnnxError(f"{self.path}: {error}") from error
        try:
            names = [*self.states, "last_hidden_state"]
            return list(self.session.run(names, {"input_values": waves, "lengths": lengths}))
        except Exception as error:
            raise OnnxError(f"{self.path} cannot be run by ONNX Runtime: {error}") from error


@torch.no_grad()
def write_onnx(encoder: Encoder, path: str | Path) -> OnnxFacts:
    """Writes an encoder as one ONNX file, weights inside.

    Args:
        encoder: Left as it is.
        path: Replaced if it exists; written whole or not at all.

    Raises:
        OnnxError: The encoder is too large for one file, or a package is not installed.
    """
    try:
        from onnxscript import ir  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise OnnxError(f"writing ONNX needs onnx and onnxscript: {INSTALL}") from error
    config = encoder.config
    if (num_bytes := 4 * sum(p.numel() for p in encoder.parameters())) > MAX_BYTES:
        raise OnnxError(
            f"an ONNX file holds less than 2 GiB, but this encoder has {num_bytes:,} bytes of weights; "
            "write it for transformers alone"
        )
    least, hop = config.min_samples, round(SAMPLE_RATE_HZ / config.frame_rate_hz)
    samples = least + 40 * hop  # any number would do: it is dynamic
    # Traced for two frames or more, and just as right for one, since nothing in the graph asserts it.
    batch, time = torch.export.Dim("batch"), torch.export.Dim("samples", min=least + hop)
    states = [f"hidden_states.{i}" for i in range(len(config.heads) + 1)]
    with _quiet():
        program = torch.onnx.export(
            _Graph(encoder).eval(),
            (torch.zeros(2, samples), torch.tensor([samples, least])),
            input_names=["input_values", "lengths"],
            output_names=["last_hidden_state", "frame_lengths", *states],
            opset_version=OPSET,
            dynamic_shapes=({0: batch, 1: time}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for output in program.model.graph.outputs:
        if output.name != "frame_lengths":
            output.shape = ir.Shape(["batch", "frames", config.embed_dim])  # else a formula of the samples
    next(node for node in program.model.graph if node.op_type == "Concat").name = COUNT_RULE
    for node in program.model.graph:
        if node.op_type == "Gather" and node.inputs[0] is program.model.graph.inputs[0]:
            node.name = RULE.format(least)  # all that ONNX Runtime says of a row that it cannot gather
        node.metadata_props.clear()  # each has the stack trace that made it, paths of this machine included
    program.model.metadata_props.update(describe(config) | {"parameters": str(num_bytes // 4)})
    path = Path(path)
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
    extend_manifest(path.parent, [path.name])
    return read_facts(path)


def describe(config: EncoderConfig) -> dict[str, str]:
    """The metadata of an encoder's file."""
    return {
        "nestling.format": "1",
        "precision": "fp32",
        "opset": str(OPSET),
        "sample_rate_hz": str(SAMPLE_RATE_HZ),
        "frame_rate_hz": f"{config.frame_rate_hz:g}",
        "min_samples": str(config.min_samples),
        "normalizes_waveform": str(config.normalize_waveform).lower(),
        "padding": PADDING[config.conv_norm],
        "width": str(config.embed_dim),
        "layers": str(len(config.heads)),
    }


def read_facts(path: str | Path) -> OnnxFacts:
    """What a file of ours holds; `onnx` must be installed."""
    import onnx  # noqa: PLC0415 - an extra

    model = onnx.load(path, load_external_data=False)
    return OnnxFacts(
        opset=next(entry.version for entry in model.opset_import if not entry.domain),
        inputs=tuple(value.name for value in model.graph.input),
        outputs=tuple(value.name for value in model.graph.output),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        size_bytes=Path(path).stat().st_size,
    )


def open_onnx(path: str | Path, threads: int = 1) -> OnnxRunner:
    """Opens an encoder's ONNX file on the CPU, fp32 or int8. Only ONNX Runtime need be installed.

    Args:
        path: What `write_onnx` or `quantize.write_int8` wrote.
        threads: That ONNX Runtime computes with, >= 1.

    Raises:
        OnnxError: There is no such file, it is no encoder of ours, or `onnxruntime` is not installed.
    """
    session = start_session(Path(path), threads)
    metadata = session.get_modelmeta().custom_metadata_map
    if "nestling.format" not in metadata:
        raise OnnxError(f"{path} is not an encoder that Nestling wrote")
    for key, what in (("parameters", "parameters it has"), ("min_samples", "samples it needs")):
        if not metadata.get(key, "").isdecimal():
            raise OnnxError(f"{path} does not say how many {what}; export it again")
    states = (output.name for output in session.get_outputs() if output.name.startswith("hidden_states."))
    params, least = int(metadata["parameters"]), int(metadata["min_samples"])
    return OnnxRunner(Path(path), session, tuple(states), params, least)


class _Graph(nn.Module):
    """What is exported: a copy of an encoder in the form that ONNX Runtime computes fastest."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).cpu().float().requires_grad_(False)
        self.encoder.feature_extractor = _FrontEnd(self.encoder.feature_extractor)  # type: ignore[assignment]
        positional = self.encoder.encoder.pos_conv_embed
        positional.conv = _fold_weight_norm(positional.conv)
        for layer in self.encoder.encoder.layers:
            layer.layer_norm = _LoneNorm(layer.layer_norm)  # type: ignore[arg-type]
            layer.final_layer_norm = _LoneNorm(layer.final_layer_norm)  # type: ignore[arg-type]

    def forward(self, input_values: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        # ONNX has no operator that asserts, and most broadcast. But columns of unequal heights cannot be joined, and of
        # the rows that are gathered, one whose length cannot be is out of reach.
        lengths = torch.cat([lengths[:, None], input_values[:, :1].long()], 1)[:, 0]
        fits = (lengths >= self.encoder.config.min_samples) & (lengths <= input_values.shape[1])
        rows = torch.where(fits, torch.arange(lengths.shape[0]), OUT_OF_REACH)
        input_values = input_values.index_select(0, rows)
        # With this tap attention is two products and a softmax; the fused kernel exports to three times as many nodes.
        trace = self.encoder(input_values, lengths, ("hidden", "attention"))
        return trace.last, self.encoder.config.count_frames(lengths), *trace.hidden


class _FrontEnd(nn.Module):
    """The same front-end as ONNX Runtime computes it best, in 9 to 15 % less time than in `ConvLayer`'s form.

    Channels come last between layers, and move by one transpose of all four axes right before and right after each
    convolution: these ONNX Runtime merges into its own blocked layout.
    """

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_ConvLayer(layer) for layer in front_end.conv_layers))  # type: ignore[arg-type]

    def forward(self, wave: Tensor) -> Tensor:
        return self.layers(wave[:, None, :, None]).squeeze(1)  # type: ignore[no-any-return]  # (B, S) -> (B, T, C)


class _ConvLayer(nn.Module):
    """One layer of it, (B, 1, T_in, C_in) -> (B, 1, T, C)."""

    def __init__(self, layer: ConvLayer) -> None:
        super().__init__()
        self.kernel = nn.Parameter(layer.conv.weight.unsqueeze(2), requires_grad=False)  # (C, C_in, 1, K)
        self.bias, self.stride, self.norm = layer.conv.bias, layer.stride, layer.norm
        self.layer_norm = layer.layer_norm if layer.norm != "none" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x.permute(0, 3, 1, 2), self.kernel, self.bias, stride=(1, self.stride))  # (B, C, 1, T)
        if self.norm == "group":
            x = self.layer_norm(x.squeeze(2)).unsqueeze(2)
        x = x.permute(0, 2, 3, 1)
        return F.gelu(self.layer_norm(x) if self.norm == "layer" else x)


class _LoneNorm(nn.Module):
    """A layer norm at rank 4, where ONNX Runtime 1.32 does not fuse it with the sum before it.

    Its fused operator takes several times as long as the two apart: 4 to 5 % of the time of a narrow encoder.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unsqueeze(1)).squeeze(1)  # type: ignore[no-any-return]


def _fold_weight_norm(conv: nn.Conv1d) -> nn.Conv1d:
    """The same convolution with its weight computed. Removing the norm from a copy would break the original."""
    padding = conv.kernel_size[0] // 2
    plain = nn.Conv1d(conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=padding, groups=conv.groups)
    plain.weight, plain.bias = nn.Parameter(conv.weight.detach(), requires_grad=False), conv.bias
    return plain


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the exporter says about itself off the screen."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")  # that there is no torchvision
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
            yield
    finally:
        logger.setLevel(level)
