"""A training step, a new subnet, an inference and the memory held: this checkout beside another, as a markdown table.

`python benchmarks/steps.py CHECKOUT [SPACE ...]`: one thread's CPU time, which other programs' turns are not part of.
The two take turns, each time in processes of their own, the first one first in every other round.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

import torch
from torch import Tensor

from search_spaces.budget import Budget
from search_spaces.space import SearchSpace
from search_spaces.subnet import SAMPLE_RATE_HZ, Subnet
from supernet.model import Supernet

ROUNDS = {"tiny": 4, "base": 2}
"""Pairs of processes."""
STEPS = {"tiny": 24, "base": 2}
"""Sandwich steps of each process."""
BATCH, SECONDS = 2, 2.0
NEW_SUBNETS = 16


def main() -> None:
    other, *names = sys.argv[1:]
    here = str(Path(__file__).resolve().parents[1])
    print(f"torch {torch.__version__}, one thread; median of the processes' medians (lowest to highest).\n")
    print("| space | what | before | now | now / before |")
    print("|---|---|---:|---:|---:|")
    for name in names or STEPS:
        figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for number in range(ROUNDS[name]):
            for checkout in (other, here) if number % 2 else (here, other):
                env = {**os.environ, "PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"}
                command = [sys.executable, __file__, "--measure", name]
                out = subprocess.run(command, cwd=checkout, env=env, check=True, stdout=subprocess.PIPE).stdout
                for what, figure in json.loads(out).items():
                    figures[what][checkout].append(figure)
        for what, by_checkout in figures.items():
            before, now = by_checkout[other], by_checkout[here]
            ratio = f"{median(now) / median(before):.3f}" if median(before) else ""
            print(f"| {name} | {what} | {_spread(before)} | {_spread(now)} | {ratio} |", flush=True)


def measure(name: str) -> dict[str, float]:
    """Figures of the checkout that this process imports."""
    torch.set_num_threads(1)
    space = SearchSpace.load(name)
    supernet = Supernet(space, torch.Generator().manual_seed(0))
    wave = torch.randn(BATCH, round(SECONDS * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=1e-6)
    rng = Random(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for subnet in (space.container, space.smallest(), space.sample(rng), space.sample(rng)):
            trace = supernet(wave, None, subnet)
            torch.stack([x.square().mean() for x in trace.hidden]).sum().backward()
        optimizer.step()

    step()
    steps = [_time(step) for _ in range(STEPS[name])]
    optimizer.zero_grad(set_to_none=True)
    short = wave[:1, :400]  # a frame: what is left is the time of getting ready
    new = []
    with torch.no_grad():
        before = _held()
        for subnet in [space.sample(rng) for _ in range(NEW_SUBNETS)]:
            first, *again = (_time(lambda s=subnet: supernet(short, None, s, ())) for _ in range(4))  # type: ignore[misc]
            new.append(first - min(again))
        held = _held() - before
        known = {
            label: median(_time(lambda s=subnet: supernet(wave[:1], None, s, ())) for _ in range(2 * STEPS[name]))  # type: ignore[misc]
            for label, subnet in _sizes(space).items()
        }
    return {
        "sandwich step, ms": 1e3 * median(steps),
        "a subnet's first forward over its later ones, ms": 1e3 * median(new),
        **{f"inference of the {label}, ms": 1e3 * seconds for label, seconds in known.items()},
        f"held after {NEW_SUBNETS} subnets, MB": held / 1e6,
    }


def _sizes(space: SearchSpace) -> dict[str, Subnet]:
    half = space.sample(Random(0), Budget.parse("params=49%..51%", space))
    return {"smallest": space.smallest(), "half": half, "largest": space.container}


def _time(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def _held() -> int:
    """Bytes of the tensors that anything holds."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def _spread(figures: list[float]) -> str:
    return f"{median(figures):.1f} ({min(figures):.1f} to {max(figures):.1f})"


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
