"""How much faster the closed forms are than tools that run a forward, as a markdown table.

`python benchmarks/costs_tools.py [SPACE]`: MACs for 1 s of audio, on one thread. The tools are given the
extracted encoder ready made, so the time to build it is not held against them.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from random import Random
from statistics import median

import torch
from costs import measure_closed_forms

from nas.cross_check import CountableEncoder, count_with_fvcore, count_with_thop, count_with_torch
from search_spaces.space import SearchSpace
from search_spaces.subnet import SAMPLE_RATE_HZ
from supernet.model import encoder_config

NUM_SUBNETS = 5
TOOLS: dict[str, Callable[[CountableEncoder, torch.Tensor], object]] = {
    "FlopCounterMode": count_with_torch,
    "fvcore": count_with_fvcore,
    "thop": count_with_thop,
}


@torch.no_grad()
def measure_tools(space: SearchSpace) -> dict[str, list[float]]:
    """Seconds that each tool takes for each of some random subnets, the tools in turn."""
    rng, wave = Random(0), torch.zeros(1, SAMPLE_RATE_HZ)
    seconds: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    for i in range(NUM_SUBNETS + 1):
        config = encoder_config(space.backbone, space.sample(rng))
        for tool, count in TOOLS.items():
            countable = CountableEncoder(config)
            start = time.perf_counter()
            count(countable, wave)
            if i:  # the first subnet warms up
                seconds[tool].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    space = SearchSpace.load(sys.argv[1] if len(sys.argv) > 1 else "base")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rates = {how: rate for cost, how, rate in measure_closed_forms(space) if cost == "macs@1s"}
    print(f"`{space.name}`, MACs for 1 s, {NUM_SUBNETS} random subnets, torch {torch.__version__}, one thread\n")
    print("| tool | ms for a subnet: median (least to most) |", *(f"closed form, {how} |" for how in rates))
    print("|---|---:|" + "---:|" * len(rates))
    for tool, times in measure_tools(space).items():
        spread = f"{1000 * median(times):.0f} ({1000 * min(times):.0f} to {1000 * max(times):.0f})"
        print(
            f"| {tool} | {spread} |",
            *(f"{median(times) * rate:,.0f} times faster |" for rate in rates.values()),
        )


if __name__ == "__main__":
    main()
