"""What it costs to run a subnet inside the supernet rather than extracted, as a markdown table.

`python benchmarks/supernet_overhead.py [SPACE ...]`: 2 s of audio, batch 1, one thread, interleaved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random

import torch

from nas.latency import compare_latency, describe_load, measure_latency
from search_spaces.budget import Budget
from search_spaces.costs import count_params
from search_spaces.space import SearchSpace
from search_spaces.subnet import SAMPLE_RATE_HZ, Subnet
from supernet.model import Supernet

SECONDS = 2.0
REPEATS = 31


def choose(space: SearchSpace) -> dict[str, Subnet]:
    """Subnets of all sizes; of half the parameters, several shapes."""
    rng, half = Random(0), Budget.parse("params=49%..51%", space)
    return {
        "smallest": space.smallest(),
        **{f"random, half size ({i})": space.sample(rng, half) for i in (1, 2, 3)},
        "largest": space.container,
    }


def in_supernet(supernet: Supernet, subnet: Subnet) -> Callable[[torch.Tensor], object]:
    return lambda wave: supernet(wave, None, subnet, ())


def alone(supernet: Supernet, subnet: Subnet) -> Callable[[torch.Tensor], object]:
    encoder = supernet.extract(subnet).eval()
    return lambda wave: encoder(wave, None, ())


def main() -> None:
    wave = torch.randn(1, round(SECONDS * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))
    print(f"{SECONDS:g} s of audio, torch {torch.__version__}, one thread, {REPEATS} rounds.")
    print(f"{describe_load() or 'The load average is below the number of cores'}.\n")
    print("| space | subnet | parameters | encoder, ms (MAD) | supernet, ms (MAD) | ratio (95 % interval) |")
    print("|---|---|---:|---:|---:|---:|")
    for name in sys.argv[1:] or ("tiny", "base"):
        space = SearchSpace.load(name)
        supernet = Supernet(space, torch.Generator().manual_seed(0))
        for label, subnet in choose(space).items():
            # The first model also runs between rounds; were it one of the pair, it would find its weights in the cache.
            models = {
                "control": alone(supernet, subnet),
                "encoder": alone(supernet, subnet),
                "supernet": in_supernet(supernet, subnet),
            }
            times = measure_latency(models, wave, REPEATS)
            ratio = compare_latency(times["supernet"], times["encoder"])
            figures = (f"{t.median_ms:.1f} ({t.mad_ms:.1f})" for t in (times["encoder"], times["supernet"]))
            print(
                f"| {name} | {label} | {count_params(space.backbone, subnet):,} |",
                *(f"{figure} |" for figure in figures),
                f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
