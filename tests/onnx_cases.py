"""ONNX files that cost little: a network small enough to write down, and one export for all who want a real one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import checkpoints.runtimes.onnx_export
from checkpoints.manifest import extend_manifest
from search_spaces.locks import take_lock
from supernet.encoder import Encoder
from tests.encoders import make_encoder

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


def export_once(factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    """An encoder of 50 frames a second and its file, to be copied.

    Whichever test wants it first writes it, for all processes of pytest: an export takes seconds. The second layer's
    values are fewer than 16, which int8 leaves alone.
    """
    encoder = make_encoder(heads=(4, 1), ffn_dims=(96, 64), conv_bias=True, conv_strides=(5, 8, 8)).eval()
    root = factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "exported"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    with (folder / "lock").open("w") as lock:
        take_lock(lock, wait=True)
        if not path.exists():
            checkpoints.runtimes.onnx_export.write_onnx(encoder, path)
    return encoder, path
