"""A subnet of 25 M parameters against HuBERT-base, in eager PyTorch and in ONNX Runtime, fp32 and int8.

    python benchmarks/runtimes.py > benchmarks/runtimes.md

Weights are random: speed does not depend on them. Encoders and runtimes alternate in one process, round by round.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from checkpoints.export import write_encoder
from checkpoints.runtimes.onnx_export import write_onnx
from checkpoints.runtimes.opening import find_subjects
from checkpoints.runtimes.quantize import write_int8
from checkpoints.versions import made_with
from nas.latency import describe_load
from nas.measurement import PAUSE_S, Timing, measure_encoders, name_processor
from search_spaces.budget import Budget
from search_spaces.costs import breakdown, count_macs, count_params
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Subnet
from supernet.encoder import Encoder
from supernet.initialization import initialize
from supernet.model import encoder_config

BUDGET = ("25M", "macs<=2.8G@2s", "macs<=15G@10s")
SECONDS = (2.0, 10.0)
THREADS = (1, 2)
RUNTIMES = ("torch", "onnx", "onnx-int8")
BASE, SMALL = "hubert-base", "subnet-25M"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    space = SearchSpace.load("base")
    shapes = {
        BASE: (replace(space.backbone, conv_norm="group", normalize_waveform=False), space.container),
        SMALL: (space.backbone, space.largest(Budget.parse(list(BUDGET), space))),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (backbone, subnet) in shapes.items():
            write(Path(folder) / name, backbone, subnet)
        subjects = find_subjects([f"{folder}/{name}" for name in shapes], RUNTIMES)
        contestants = [contestant for subject in subjects for contestant in subject.open()]
        before = describe_load()
        timings = measure_encoders(contestants, SECONDS, THREADS, repeats, on_progress=report, pause_s=PAUSE_S)
        sizes = {
            (name, file.name): file.stat().st_size for name in shapes for file in (Path(folder) / name).glob("model.*")
        }
    print(
        f"# A subnet of 25 M parameters against HuBERT-base\n\n"
        f"{date.today()}, `python benchmarks/runtimes.py --repeats {repeats}`, {made_with()}\n"
    )
    print(
        f"{name_processor()}; {repeats} alternating rounds, {PAUSE_S:g} s of rest before each run, medians with 95 % "
        f"intervals. {before or 'Nothing else wanted to run.'}\n"
    )
    show_shapes(shapes, sizes)
    show_speed_ups(shapes, timings)
    show_int8(timings)


def write(folder: Path, backbone: Backbone, subnet: Subnet) -> None:
    """An encoder with random weights, for every runtime."""
    encoder = Encoder(encoder_config(backbone, subnet)).eval()
    initialize(encoder, torch.Generator().manual_seed(0))
    write_encoder(encoder, folder)
    write_onnx(encoder, folder / "model.onnx")
    write_int8(folder / "model.onnx", folder / "model.int8.onnx")


def show_shapes(shapes: dict[str, tuple[Backbone, Subnet]], sizes: dict[tuple[str, str], int]) -> None:
    print(
        "| | parameters | MACs @2s | MACs @10s | front-end's share @2s | model.onnx | model.int8.onnx |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, (backbone, subnet) in shapes.items():
        macs = [count_macs(backbone, subnet, seconds) for seconds in SECONDS]
        front_end = breakdown(backbone, subnet, SECONDS[0])["front_end"][1]
        files = (f"{sizes[name, file] / 1e6:.1f} MB" for file in ("model.onnx", "model.int8.onnx"))
        params = count_params(backbone, subnet)
        print(f"| {name} | {params:,} | {macs[0]:,} | {macs[1]:,} | {front_end / macs[0]:.0%} | {' | '.join(files)} |")
    subnet = shapes[SMALL][1]
    layers = ", ".join(f"{layer.heads}/{layer.ffn_dim}" for layer in subnet.layers)
    print(f"\nThe subnet is the largest of `base` under {' and '.join(BUDGET)}: front-end {subnet.conv_dims}, width")
    print(f"{subnet.embed_dim}, heads/inner width of its {len(subnet.layers)} layers {layers}.\n")


def show_speed_ups(shapes: dict[str, tuple[Backbone, Subnet]], timings: Sequence[Timing]) -> None:
    """How many times faster the subnet is, beside what the ratio of MACs promises."""
    print("## How many times faster the subnet is\n")
    print("| runtime | threads | audio, s | HuBERT-base, ms | subnet, ms | times faster | MACs promise | share of it |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    found = {(t.runtime, t.threads, t.seconds, t.encoder): t for t in timings}
    for runtime in RUNTIMES:
        for threads in THREADS:
            for seconds in SECONDS:
                base, small = (found[runtime, threads, seconds, name] for name in (BASE, SMALL))
                assert small.ratio
                faster = [1 / r for r in (small.ratio.median, small.ratio.high, small.ratio.low)]
                promise = count_macs(*shapes[BASE], seconds) / count_macs(*shapes[SMALL], seconds)
                print(
                    f"| {runtime} | {threads} | {seconds:g} "
                    f"| {base.latency.median_ms:.1f} | {small.latency.median_ms:.1f} | "
                    f"{faster[0]:.2f} ({faster[1]:.2f} … {faster[2]:.2f}) | {promise:.2f} | {faster[0] / promise:.0%} |"
                )
    print()


def show_int8(timings: Sequence[Timing]) -> None:
    """int8 and fp32 of the same encoder, from the same rounds."""
    print(
        "## int8 against fp32 in ONNX Runtime\n\n"
        "| encoder | threads | audio, s | fp32, ms | int8, ms | times faster |\n|---|---:|---:|---:|---:|---:|"
    )
    found = {(t.runtime, t.threads, t.seconds, t.encoder): t.latency.median_ms for t in timings}
    for name in (BASE, SMALL):
        for threads in THREADS:
            for seconds in SECONDS:
                whole, small = (found[runtime, threads, seconds, name] for runtime in ("onnx", "onnx-int8"))
                print(f"| {name} | {threads} | {seconds:g} | {whole:.1f} | {small:.1f} | {whole / small:.2f} |")


def report(what: str, done: int, total: int | None) -> None:
    print(f"{what} {done}/{total}", file=sys.stderr)


if __name__ == "__main__":
    main()
