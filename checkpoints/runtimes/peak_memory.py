"""The memory that encoding takes, in a process that does nothing else.

A fresh process imports the runtime and the model's code, and its highest resident memory so far is noted. It then
opens the encoder and encodes noise twice; the highest by then has the weights, what opening them took, and what
encoding took.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from checkpoints.runtimes.onnx_session import ONNX_FILES, open_session
from search_spaces.errors import FailedError, NestlingError
from search_spaces.memory import peak_bytes
from search_spaces.subnet import SAMPLE_RATE_HZ

RUNS = 2


@dataclass(frozen=True)
class PeakMemory:
    """Highest resident memory of a process."""

    import_bytes: int
    """Before an encoder was opened: the interpreter and the runtime."""
    peak_bytes: int
    """In all."""

    @property
    def encoder_bytes(self) -> int:
        """What the encoder adds: its weights, what opening them took, and what encoding took."""
        return self.peak_bytes - self.import_bytes

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return {**asdict(self), "encoder_bytes": self.encoder_bytes}


def measure_memory(folder: Path, runtime: str, seconds: float, threads: int) -> PeakMemory:
    """Opens an encoder in a fresh process and encodes audio there.

    Args:
        folder: Holds the encoder.
        runtime: One of `subjects.RUNTIMES`.
        seconds: Of audio, batch 1.
        threads: That the runtime may use.

    Raises:
        NestlingError: The process failed; says why.
    """
    from search_spaces.fresh_process import run_fresh  # noqa: PLC0415 - the fresh process goes without
    from search_spaces.strict_json import parse_json  # noqa: PLC0415

    try:
        said = run_fresh(f"{__name__}:main", [str(folder.absolute()), runtime, str(seconds), str(threads)])
    except FailedError as error:
        raise NestlingError(
            f"{folder} in {runtime}, alone in a process with {seconds:g} s of audio: {error}"
        ) from error
    try:
        return parse_json("".join(said.splitlines()[-1:]), PeakMemory, "what it said")
    except NestlingError as error:
        raise FailedError(f"{folder} in {runtime}, alone in a process: {error}") from error


def main() -> None:
    """What the fresh process does."""
    folder, runtime, seconds, threads = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    start = _import_onnx(folder, runtime) if runtime in ONNX_FILES else _import_torch(folder, runtime)
    imported = peak_bytes()
    encode = start(seconds, threads)
    for _ in range(RUNS):
        encode()
    print(json.dumps(asdict(PeakMemory(imported, peak_bytes()))))  # noqa: T201 - what the parent reads


def _import_onnx(folder: Path, runtime: str) -> Callable[[float, int], Callable[[], object]]:
    """Imports ONNX Runtime and returns what opens the encoder there. Torch stays out of this process."""
    import onnxruntime  # noqa: F401, PLC0415

    def start(seconds: float, threads: int) -> Callable[[], object]:
        run = open_session(folder / ONNX_FILES[runtime], threads)
        wave = np.random.default_rng(0).standard_normal((1, round(seconds * SAMPLE_RATE_HZ)), np.float32)
        return lambda: run(wave)

    return start


def _import_torch(folder: Path, runtime: str) -> Callable[[float, int], Callable[[], object]]:
    """Imports torch and all that opening the encoder imports; returns what opens it."""
    import torch  # noqa: PLC0415 - the processes of ONNX Runtime go without

    from checkpoints.formats.config_json import NESTLING_TYPE, read_config, read_json  # noqa: PLC0415
    from checkpoints.formats.hugging_face import OtherNetworkError  # noqa: PLC0415
    from checkpoints.formats.whisper import is_whisper  # noqa: PLC0415
    from checkpoints.runtimes.opening import open_torch, open_transformers  # noqa: PLC0415
    from nas.measurement import make_wave  # noqa: PLC0415
    from supernet.encoder import Encoder  # noqa: PLC0415
    from supernet.encoder_config import EncoderConfig  # noqa: PLC0415

    with torch.device("meta"):
        Encoder(EncoderConfig((16,), 16, (1,), (1,), 16, (1,), (1,)))  # takes no memory, but imports sympy and more
    whisper = is_whisper(folder)
    values = read_json(folder / "config.json", required=folder.is_dir() and not whisper)
    needs_transformers = runtime == "transformers"
    try:
        if values and not whisper:
            read_config(values, False, str(folder))
    except OtherNetworkError:
        needs_transformers = True
    if needs_transformers:
        import transformers  # noqa: PLC0415

        if (model_type := values.get("model_type")) == NESTLING_TYPE:
            import checkpoints.runtimes.modeling_nestling  # noqa: F401, PLC0415
        elif isinstance(model_type, str) and model_type in transformers.CONFIG_MAPPING:
            transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[model_type]]  # imports the model's module

    def start(seconds: float, threads: int) -> Callable[[], object]:
        torch.set_num_threads(threads)
        run = open_torch(folder)[0] if runtime == "torch" else open_transformers(folder)
        wave = make_wave(seconds)
        return torch.inference_mode()(lambda: run(wave))

    return start
