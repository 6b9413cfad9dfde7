"""Writes the demo teacher for every runtime, so that int8 can be scored and timed beside fp32.

    python benchmarks/int8.py runs/int8/demo
    nestling evaluate runs/int8/demo runs/int8/demo/model.onnx runs/int8/demo/model.int8.onnx --out runs/int8/scores
    nestling measure runs/int8/demo --seconds 2,10

int8.md has the scores of the tasks phones and keywords, in domain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from checkpoints.export import write_encoder
from checkpoints.proof import measure_error
from checkpoints.runtimes.onnx_export import write_onnx
from checkpoints.runtimes.quantize import write_int8
from checkpoints.teachers import load_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    encoder = load_teacher("demo").encoder
    write_encoder(encoder, folder)
    write_onnx(encoder, folder / "model.onnx")
    write_int8(folder / "model.onnx", folder / "model.int8.onnx")
    for name in ("model.onnx", "model.int8.onnx"):
        error = measure_error(folder / name, encoder)
        print(f"{name}: {(folder / name).stat().st_size:,} bytes, hidden states off by up to {error:.1e} on noise")


if __name__ == "__main__":
    main()
