"""Encoders in ONNX Runtime, without torch: what they take where only that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ONNX_FILES: Mapping[str, str] = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
"""The runtimes, and the file of an export that each runs."""
INPUTS = ("input_values", "lengths")
OUTPUT = "last_hidden_state"


def runtime_version() -> str | None:
    """The version of ONNX Runtime; None where it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # noqa: PLC0415 - an extra

    return str(onnxruntime.__version__)


def open_session(path: Path, threads: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Opens an exported encoder on the CPU.

    Args:
        path: Of a .onnx file.
        threads: That one operation may use.

    Returns:
        Takes waveforms (B, S) of full length, 16 kHz, to the last hidden state, (B, T, d).

    Raises:
        ValueError: The file cannot be opened, or has other inputs and outputs than an export of ours.
    """
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread takes no core
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a damaged file fails in a dozen ways
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: ONNX Runtime cannot open it ({type(error).__name__}): {reason}") from error
    inputs, outputs = ([x.name for x in xs] for xs in (session.get_inputs(), session.get_outputs()))
    if sorted(inputs) != sorted(INPUTS) or OUTPUT not in outputs:
        raise ValueError(
            f"{path} takes {', '.join(inputs)} and gives {', '.join(outputs)}; an encoder takes "
            f"{' and '.join(INPUTS)} and gives {OUTPUT}"
        )

    def run(wave: NDArray[np.float32]) -> NDArray[np.float32]:
        lengths = np.full(len(wave), wave.shape[1], np.int64)
        (last,) = session.run([OUTPUT], {"input_values": wave, "lengths": lengths})
        return np.asarray(last)

    return run
