"""Subnets a second through the closed forms, as a markdown table: `python benchmarks/costs.py [SPACE]`."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from random import Random

import numpy as np

from search_spaces.costs import PARAMS, Cost, totals_of_arrays
from search_spaces.space import SearchSpace

NUM_SUBNETS = 200_000
COSTS = (PARAMS, Cost("macs", 1.0))


def measure_rate(count: Callable[[], object], num_subnets: int, seconds: float = 1.0) -> float:
    """Subnets a second: the best of the calls that fit in `seconds`, at least three."""
    best, start, calls = float("inf"), time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        count()
        best, calls = min(best, time.perf_counter() - before), calls + 1
    return num_subnets / best


def draw_arrays(space: SearchSpace, num_subnets: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """conv_dims (N, convolutions), embed_dim (N,), heads and ffn_dim (N, layers): uniform, at full depth."""
    rng = np.random.default_rng(seed)
    num_layers = len(space.container.layers)
    conv_dims = np.stack([rng.choice(widths, num_subnets) for widths in space.conv_dims], axis=1)
    embed_dim = rng.choice(space.embed_dim, num_subnets)
    heads = rng.choice(space.heads, (num_subnets, num_layers))
    table = np.array([space.ffn_dims(width) for width in space.embed_dim])  # (widths, choices)
    position = rng.integers(table.shape[1], size=(num_subnets, num_layers))
    ffn_dim = table[np.searchsorted(space.embed_dim, embed_dim)[:, None], position]
    return conv_dims, embed_dim, heads, ffn_dim


def measure_closed_forms(space: SearchSpace) -> list[tuple[str, str, float]]:
    """(cost, how, subnets a second) of each closed form: on arrays from per-layer choices, and one by one."""
    arrays = draw_arrays(space, NUM_SUBNETS)
    rng = Random(0)
    subnets = [space.sample(rng) for _ in range(1000)]
    backbone = space.backbone
    rows = []
    for cost in COSTS:

        def count_arrays(cost: Cost = cost) -> object:
            return cost.count_totals(backbone, totals_of_arrays(*arrays))

        def count_singly(cost: Cost = cost) -> object:
            return [cost.count(backbone, subnet) for subnet in subnets]

        vectorised, single = measure_rate(count_arrays, NUM_SUBNETS), measure_rate(count_singly, len(subnets))
        rows += [(str(cost), f"arrays of {NUM_SUBNETS:,}", vectorised), (str(cost), "one by one", single)]
    return rows


def main() -> None:
    space = SearchSpace.load(sys.argv[1] if len(sys.argv) > 1 else "base")
    print(f"`{space.name}`, one process, numpy {np.__version__}, Python {platform.python_version()}\n")
    print("| cost | how | subnets/s |\n|---|---|---:|")
    for cost, how, rate in measure_closed_forms(space):
        print(f"| {cost} | {how} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
