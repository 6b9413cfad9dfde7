"""Encoders in ONNX Runtime, without torch: what they take where only that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.manifest import ManifestError, check_file
from search_spaces.errors import NestlingError

ONNX_FILES: Mapping[str, str] = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
"""The runtimes, and the file of an export that each runs."""
INPUTS = ("input_values", "lengths")
OUTPUT = "last_hidden_state"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""Of the extra, all of which it takes to write a file and prove it."""
INSTALL = "pip install 'nestling[onnx]'"


class OnnxError(NestlingError):
    """An ONNX file cannot be written or run."""


def runtime_version() -> str | None:
    """The version of ONNX Runtime; None where it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # noqa: PLC0415 - an extra

    return str(onnxruntime.__version__)


def start_session(path: Path, threads: int) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        path: Of a .onnx file.
        threads: That one operation may use, >= 1. They look for more work for a moment before they sleep.

    Raises:
        OnnxError: ONNX Runtime is not installed, or cannot open the file.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise OnnxError(f"running ONNX needs onnxruntime: {INSTALL}") from error
    if not path.is_file():
        raise OnnxError(f"there is no file {path}")
    try:
        check_file(path)
    except ManifestError as error:
        raise OnnxError(str(error)) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a damaged file fails in a dozen ways
        reason = " ".join(str(error).split())[:300]
        raise OnnxError(f"{path} cannot be opened by ONNX Runtime ({type(error).__name__}): {reason}") from error


def open_session(path: Path, threads: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Opens an exported encoder on the CPU.

    Args:
        path: Of a .onnx file.
        threads: That one operation may use.

    Returns:
        Takes waveforms (B, S) of full length, 16 kHz, to the last hidden state, (B, T, d).

    Raises:
        OnnxError: As `start_session`; or the file has other inputs and outputs than an export of ours.
    """
    session = start_session(path, threads)
    inputs, outputs = ([x.name for x in xs] for xs in (session.get_inputs(), session.get_outputs()))
    if sorted(inputs) != sorted(INPUTS) or OUTPUT not in outputs:
        raise OnnxError(
            f"{path} takes {', '.join(inputs)} and gives {', '.join(outputs)}; an encoder takes "
            f"{' and '.join(INPUTS)} and gives {OUTPUT}"
        )

    def run(wave: NDArray[np.float32]) -> NDArray[np.float32]:
        lengths = np.full(len(wave), wave.shape[1], np.int64)
        (last,) = session.run([OUTPUT], {"input_values": wave, "lengths": lengths})
        return np.asarray(last)

    return run
