"""An encoder's ONNX file with its products in integers, for CPUs: smaller, faster, and not quite equal.

Linear maps and the front-end's convolutions multiply 8-bit activations by 7-bit weights. Each output channel of a
weight has its own scale. Activations are scaled as they come, a tensor at a time: no audio is needed to calibrate,
but what an utterance gives depends a little on its batch. All operators are standard.

Why so, with ONNX Runtime 1.32 on one thread of a CPU with AVX-512 VNNI; times are those of an encoder of 12 layers of
384 with 7 x 256 channels for 2 s, errors those of the demo teacher's last output on speech, relative to its RMS:

- fp32 takes 82 ms. Linear maps alone in integers: 52 ms, error 1.8 %. All of the above: 35 ms, 2.0 %.
- A convolution is a linear map of windows over time. As ConvInteger it is slower than in fp32 (104 ms in all, 2.6 %);
  as QLinearConv it would need audio to calibrate, for the same time and a larger error (35 ms, 2.4 %).
- 8-bit weights are as fast and have 1.7 %. But with AVX2 alone, sums of two such products overflow their 16 bits: done
  so, the worst layer is 4 % off. With 7 bits nothing overflows, and every CPU gets the same sums.
- Linear maps with weights in blocks of 128 (MatMulNBits) have 1.1 % where plain 8-bit ones have 1.5 %, but take 66 ms.

The first convolution reads one channel and the positional one is grouped, so there is little to gain: they stay fp32,
as do norms, the products inside attention, and maps to fewer than `MIN_CHANNELS` channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.manifest import extend_manifest
from checkpoints.runtimes.onnx_export import OnnxFacts, read_facts
from checkpoints.runtimes.onnx_session import INSTALL, OnnxError
from search_spaces.files import replacing

if TYPE_CHECKING:
    from onnxscript import ir

MAX_WEIGHT = 64
"""Weights are integers up to this. Twice 255 * 64 is below 2**15, so no pair of products overflows."""
MIN_CHANNELS = 16
FLOAT = 1
"""Of ONNX's data types."""
QUANTIZED = "linear maps and all convolutions of the front-end but the first: 7-bit weights, 8-bit activations"


def write_int8(source: str | Path, path: str | Path) -> OnnxFacts:
    """Writes the int8 form of an ONNX file.

    Args:
        source: What `write_onnx` wrote.
        path: Replaced if it exists; written whole or not at all. Open it with `open_onnx`.

    Raises:
        OnnxError: The source is not an fp32 encoder of ours, or a package is not installed.
    """
    try:
        from onnxscript import ir  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise OnnxError(f"writing ONNX needs onnx and onnxscript: {INSTALL}") from error
    try:
        model = ir.load(source)
    except Exception as error:  # a damaged file fails in a dozen ways
        raise OnnxError(f"{source} cannot be read as ONNX: {type(error).__name__}: {error}") from error
    if model.metadata_props.get("precision") != "fp32":
        raise OnnxError(f"{source} is not an fp32 encoder that Nestling wrote")
    products = _Products(ir.tape.Tape(model.graph))
    for node in list(model.graph):
        if node.op_type == "MatMul":
            products.replace_linear(node)
        elif node.op_type == "Conv":
            products.replace_convolution(node)
    model.graph.sort()
    ir.passes.common.RemoveUnusedNodesPass()(model)
    model.metadata_props.update({"precision": "int8", "quantized": QUANTIZED})
    path = Path(path)
    with replacing(path) as temporary:
        ir.save(model, temporary)
    extend_manifest(path.parent, [path.name])
    return read_facts(path)


class _Products:
    """Puts products of integers in the place of nodes. What it writes goes to the end of the graph."""

    def __init__(self, tape: ir.tape.Tape) -> None:
        self.tape = tape
        self.quantized: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        """A tensor -> its integers, their scale and their zero point. Queries, keys and values share one."""

    def replace_linear(self, node: ir.Node) -> None:
        """A product with a constant matrix, if there is time to gain."""
        matrix = _constant(node.inputs[1])
        if matrix is not None and matrix.ndim == 2 and matrix.shape[1] >= MIN_CHANNELS:
            node.outputs[0].replace_all_uses_with(self._multiply(*self._quantize(_input(node)), matrix))

    def replace_convolution(self, node: ir.Node) -> None:
        """A convolution over time with the transposes around it, from and to channels last, (B, 1, T, C)."""
        kernel = _constant(node.inputs[1])  # (C, C_in, 1, K)
        if kernel is None or kernel.ndim != 4 or kernel.shape[1] == 1:
            return
        from_last, to_last = _input(node).producer(), node.outputs[0].consumers()[0]
        assert from_last is not None
        integers, scale, zero = self._quantize(_input(from_last))
        taps, stride = kernel.shape[3], node.attributes["strides"].as_ints()[1]
        windows = [self._slice(integers, tap, tap + 1 - taps, stride) for tap in range(taps)]
        integers = self.tape.op("Concat", windows, {"axis": -1})  # (B, 1, T, K * C_in)
        x = self._multiply(integers, scale, zero, kernel[:, :, 0].transpose(2, 1, 0).reshape(-1, len(kernel)))
        if len(node.inputs) > 2:
            x = self.tape.op("Add", [x, node.inputs[2]])
        to_last.outputs[0].replace_all_uses_with(x)

    def _quantize(self, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        if x not in self.quantized:
            integers, scale, zero = self.tape.op_multi_out("DynamicQuantizeLinear", [x], num_outputs=3)
            self.quantized[x] = integers, scale, zero
        return self.quantized[x]

    def _multiply(self, integers: ir.Value, scale: ir.Value, zero: ir.Value, matrix: NDArray[np.float32]) -> ir.Value:
        """(..., K) by a matrix of real numbers, (K, N)."""
        largest = np.abs(matrix).max(0)
        scales = np.where(largest > 0, largest, 1) / np.float32(MAX_WEIGHT)
        weight = self._add_constant(np.rint(matrix / scales).astype(np.int8))
        sums = self.tape.op("Cast", [self.tape.op("MatMulInteger", [integers, weight, zero])], {"to": FLOAT})
        return self.tape.op("Mul", [sums, self.tape.op("Mul", [scale, self._add_constant(scales)])])

    def _slice(self, x: ir.Value, start: int, stop: int, step: int) -> ir.Value:
        """On the axis of time; a stop of 0 is the end."""
        bounds = (start, stop or np.iinfo(np.int64).max, 2, step)
        return self.tape.op("Slice", [x, *(self._add_constant(np.array([bound])) for bound in bounds)])

    def _add_constant(self, array: NDArray[Any]) -> ir.Value:
        from onnxscript import ir  # noqa: PLC0415 - as above

        return self.tape.initializer(ir.tensor(array), f"int8.{len(self.tape.initializers)}")


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """What a value holds, if that is known."""
    return None if value is None or value.const_value is None else value.const_value.numpy()
