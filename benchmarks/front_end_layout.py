"""The front-end with channels last against the textbook layout: `python benchmarks/front_end_layout.py`.

16 × 2 s through `tiny`'s largest front-end, alternating; medians, and the spread of the ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from nas.cross_check import CountableConvLayer
from search_spaces.space import SearchSpace
from supernet.front_end import FrontEnd
from supernet.model import encoder_config

ROUNDS = 9


def time_call(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    space = SearchSpace.load("tiny")
    config = encoder_config(space.backbone, space.container)
    ours, textbook = FrontEnd(config), FrontEnd(config)
    textbook.load_state_dict(ours.state_dict())
    textbook.conv_layers = nn.ModuleList(CountableConvLayer(layer) for layer in textbook.conv_layers)
    wave = torch.randn(16, 32_000, generator=torch.Generator().manual_seed(0))

    def run(front_end: nn.Module, precision: torch.dtype, train: bool) -> None:
        with torch.set_grad_enabled(train), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = front_end(wave).float().square().mean()
        if train:
            loss.backward()

    print(
        "| precision | | channels last, ms | textbook, ms | median ratio (lowest … highest) |\n|---|---|---:|---:|---:|"
    )
    for precision in (torch.float32, torch.bfloat16):
        for train in (False, True):
            times: list[tuple[float, float]] = []
            for _ in range(ROUNDS + 2):
                pair = [time_call(lambda net=net: run(net, precision, train)) for net in (ours, textbook)]  # noqa: B023
                times.append((pair[0], pair[1]))
            a, b = zip(*times[2:], strict=True)
            ratios = sorted(y / x for x, y in zip(a, b, strict=True))
            print(
                f"| {str(precision).removeprefix('torch.')} | {'forward + backward' if train else 'forward'} "
                f"| {1e3 * statistics.median(a):.0f} | {1e3 * statistics.median(b):.0f} "
                f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f}) |"
            )


if __name__ == "__main__":
    main()
