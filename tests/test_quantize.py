"""An int8 file is the rounding it says it is: smaller, close, and not equal."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import checkpoints.runtimes.quantize
from checkpoints.proof import measure_error
from checkpoints.runtimes.onnx_export import OnnxError, OnnxRunner, open_onnx
from checkpoints.runtimes.quantize import QUANTIZED, write_int8
from supernet.encoder import Encoder
from supernet.front_end import ConvLayer
from tests.onnx_cases import export_once

LEVELS = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path, Path]:
    """The file in fp32 and in int8. Maps to fewer than 16 channels stay: the second layer's values."""
    encoder, exported = export_once(tmp_path_factory)
    folder = tmp_path_factory.mktemp("int8")
    shutil.copy(exported, folder)
    write_int8(folder / "model.onnx", folder / "int8.onnx")
    return encoder, folder / "model.onnx", folder / "int8.onnx"


def make_batch() -> tuple[Tensor, Tensor]:
    wave = 0.3 * torch.randn(3, 6000, generator=torch.Generator().manual_seed(0)) + 0.1
    lengths = torch.tensor([6000, 2500, 4000])
    return wave * (torch.arange(6000) < lengths.unsqueeze(1)), lengths


def round_activations(x: Tensor) -> Tensor:
    """As DynamicQuantizeLinear is specified: 256 levels over the range of a tensor, zero among them."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero = (-low / scale).round().clamp(0, 255)
    return ((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def round_weight(weight: Tensor) -> None:
    scale = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) / LEVELS
    weight.copy_((weight / scale).round() * scale)


@torch.no_grad()
def make_rounded(encoder: Encoder) -> Encoder:
    """The encoder with every number rounded that the int8 file says it rounds, computed in fp32."""
    encoder = copy.deepcopy(encoder)
    for module in encoder.modules():
        if isinstance(module, nn.Linear) and module.out_features >= 16:
            round_weight(module.weight)
        elif isinstance(module, ConvLayer) and module.conv.in_channels > 1:
            round_weight(module.conv.weight)
        else:
            continue
        module.register_forward_pre_hook(lambda _, inputs: (round_activations(inputs[0]),))
    return encoder


@torch.no_grad()
def errors_of(run: OnnxRunner, encoder: Encoder) -> list[float]:
    """The relative error of each output, over the valid frames."""
    wave, lengths = make_batch()
    trace = encoder(wave, lengths)
    assert trace.valid is not None
    got = [torch.from_numpy(x)[trace.valid] for x in run(wave.numpy(), lengths.numpy())]
    wanted = [x[trace.valid] for x in (*trace.hidden, trace.last)]
    return [((a - b).norm() / b.norm()).item() for a, b in zip(got, wanted, strict=True)]


def test_it_computes_what_rounding_makes(files: tuple[Encoder, Path, Path]) -> None:
    encoder, _, path = files
    run = open_onnx(path)
    rounded, exact = errors_of(run, make_rounded(encoder)), errors_of(run, encoder)
    # Integer sums are exact, but an activation halfway between two levels may go either way.
    assert max(rounded) < 2e-3
    assert all(0.005 < error < 0.1 for error in exact)


def test_it_is_smaller_and_says_what_it_is(files: tuple[Encoder, Path, Path]) -> None:
    _, source, path = files
    before, after = onnx.load(source), onnx.load(path)
    onnx.checker.check_model(after, full_check=True)
    assert {node.domain for node in after.graph.node} == {""}
    metadata = {entry.key: entry.value for entry in before.metadata_props}
    changed = {"precision": "int8", "quantized": QUANTIZED}
    assert {entry.key: entry.value for entry in after.metadata_props} == metadata | changed
    facts = write_int8(source, path)
    assert facts.metadata == metadata | changed
    assert facts.size_bytes == path.stat().st_size
    assert facts.outputs == tuple(value.name for value in before.graph.output)
    integers = [w for w in after.graph.initializer if w.data_type == onnx.TensorProto.INT8]
    assert len(integers) == 1 + 12 - 3 + 2  # projection; q, k, v, out and two of the FFN a layer; two convolutions
    assert all(np.abs(numpy_helper.to_array(w)).max(0).min() == LEVELS for w in integers)

    def count(model: onnx.ModelProto, *types: int) -> int:
        return sum(numpy_helper.to_array(w).nbytes for w in model.graph.initializer if w.data_type in types)

    rounded = sum(numpy_helper.to_array(w).size for w in integers)
    left = count(after, onnx.TensorProto.FLOAT) - 4 * sum(w.dims[1] for w in integers)  # but for scales
    assert count(before, onnx.TensorProto.FLOAT) == left + 4 * rounded
    assert sum(node.op_type == "Conv" for node in after.graph.node) == 2
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".onnx"] == []


def test_no_pair_of_products_overflows() -> None:
    assert 2 * 255 * checkpoints.runtimes.quantize.MAX_WEIGHT < 2**15


def test_the_error_can_be_measured(files: tuple[Encoder, Path, Path]) -> None:
    encoder, source, path = files
    wave, _ = make_batch()
    assert measure_error(source, encoder) < 1e-5
    assert 0.005 < measure_error(path, encoder) < 0.1
    assert 0.005 < measure_error(path, encoder, [wave[0], wave[2, :4000]]) < 0.1


def test_channels_of_zeros_stay_zeros(files: tuple[Encoder, Path, Path], tmp_path: Path) -> None:
    _, source, _ = files
    model = onnx.load(source)
    for weight in model.graph.initializer:
        if len(weight.dims) == 2:
            numbers = numpy_helper.to_array(weight).copy()
            numbers[:, 0] = 0
            weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    onnx.save(model, tmp_path / "zeros.onnx")
    write_int8(tmp_path / "zeros.onnx", tmp_path / "int8.onnx")
    wave, lengths = make_batch()
    for x in open_onnx(tmp_path / "int8.onnx")(wave.numpy(), lengths.numpy()):
        assert np.isfinite(x).all()


def test_what_cannot_be_quantized(
    files: tuple[Encoder, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, source, path = files
    with pytest.raises(OnnxError, match=r"int8\.onnx is not an fp32 encoder that Nestling wrote"):
        write_int8(path, tmp_path / "again.onnx")
    (tmp_path / "noise.onnx").write_bytes(bytes(range(200)))
    with pytest.raises(OnnxError, match=r"noise\.onnx cannot be read as ONNX"):
        write_int8(tmp_path / "noise.onnx", tmp_path / "again.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(OnnxError, match=r"needs onnx and onnxscript: pip install 'nestling\[onnx\]'"):
        write_int8(source, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()
