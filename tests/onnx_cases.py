"""A network that is small enough to write down, as an ONNX file with an export's inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from checkpoints.manifest import extend_manifest

KERNEL = np.random.default_rng(5).standard_normal((6, 1, 400)).astype(np.float32)
"""Of one convolution, (d, 1, K)."""
STRIDE = 320


def write_onnx(path: Path, inputs: tuple[str, str] = ("input_values", "lengths"), num_spare: int = 0) -> None:
    """Writes it; with `num_spare` numbers more, which are added up for nothing but their weight."""
    wave, lengths = inputs
    nodes = [
        helper.make_node("Unsqueeze", [wave, "one"], ["row"]),
        helper.make_node("Conv", ["row", "kernel"], ["frames"], strides=[STRIDE]),
        helper.make_node("Transpose", ["frames"], ["shifted"], perm=[0, 2, 1]),
        helper.make_node("ReduceSum", ["spare"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["shifted", "nothing"], ["last_hidden_state"]),
        helper.make_node("Identity", [lengths], ["frame_lengths"]),
    ]
    weights = {"one": np.array([1]), "kernel": KERNEL, "spare": np.zeros(num_spare + 1, np.float32)}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info(wave, TensorProto.FLOAT, ["B", "S"]),
            helper.make_tensor_value_info(lengths, TensorProto.INT64, ["B"]),
        ],
        [
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "T", 6]),
            helper.make_tensor_value_info("frame_lengths", TensorProto.INT64, ["B"]),
        ],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    extend_manifest(path.parent, [path.name])


def run_by_hand(wave: np.ndarray) -> np.ndarray:
    """What it computes, (B, S) -> (B, T, 6)."""
    windows = np.lib.stride_tricks.sliding_window_view(wave, 400, axis=1)[:, ::STRIDE]
    return windows @ KERNEL[:, 0].T
