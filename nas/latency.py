"""How long encoders take, on a machine that has other things to do.

Encoders are timed in rounds. In a round every one runs once, in random order. Between rounds a control runs,
and rounds across which its time drifted are dropped. Two encoders are compared round by round, so what slows
both cancels out, and a difference inside the noise is called a tie.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.subnet import SAMPLE_RATE_HZ, Subnet
from supernet.model import Supernet

WARM_UPS = 2
MIN_REPEATS = 3
MAX_ROUNDS = 2
"""Rounds are run until enough are steady, but no more than this many for each that is asked for."""
STEADY = 0.05
"""A round is steady when the control's times before and after it differ by less than this share."""


@dataclass(frozen=True)
class Latency:
    """Times of one encoder."""

    rounds_ms: tuple[float, ...]
    """One for each round; the same rounds for all that were measured together."""
    low_ms: float
    """`low_ms` .. `high_ms` is the 95 % interval of the median, by bootstrap over rounds."""
    high_ms: float

    @property
    def median_ms(self) -> float:
        """The figure to quote."""
        return float(np.median(self.rounds_ms))

    @property
    def mad_ms(self) -> float:
        """Median absolute deviation of the rounds."""
        return float(np.median(np.abs(np.array(self.rounds_ms) - self.median_ms)))


@dataclass(frozen=True)
class Ratio:
    """Time of one encoder over that of another: median over rounds, with its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def tied(self) -> bool:
        """Whether they cannot be told apart."""
        return self.low <= 1.0 <= self.high


@torch.inference_mode()
def measure_latency(
    models: Mapping[str, Callable[[Tensor], object]],
    wave: Tensor,
    repeats: int = 20,
    threads: int = 1,
    rng: Random | None = None,
    clock: Callable[[], float] = time.perf_counter,
    limit_s: float = math.inf,
    pause_s: float = 0.0,
) -> dict[str, Latency]:
    """Times models side by side.

    Args:
        models: By name; the first is the control. Each is called with `wave`.
        wave: (B, S), on the device of the models.
        repeats: Rounds to keep, >= 3. At most twice as many are run.
        threads: CPU threads torch may use meanwhile; one is what varies least from machine to machine.
        rng: Of the order within rounds.
        clock: Seconds, never going back.
        limit_s: Fewer rounds are kept, three at least, where `repeats` steady ones would take longer than this.
        pause_s: Before each run. Threads look for work for a while after the last, and disturb the next one.

    Returns:
        For each model, its times in the `repeats` steadiest rounds.

    Raises:
        ValueError: Fewer than three repeats, no thread, or no model.
    """
    if repeats < MIN_REPEATS or threads < 1 or not models:
        got = f"{repeats}, {threads} and {len(models)}"
        raise ValueError(f"need at least {MIN_REPEATS} repeats, 1 thread and 1 model; got {got}")
    rng = rng or Random(0)
    names = list(models)

    def run(name: str) -> float:
        if pause_s:
            time.sleep(pause_s)
        start = clock()
        models[name](wave)
        if wave.device.type != "cpu":
            torch.accelerator.synchronize(wave.device)
        return (clock() - start) * 1000

    rounds: list[dict[str, float]] = []
    drifts: list[float] = []
    with _threads(threads):
        for _ in range(WARM_UPS):
            times = [run(name) / 1000 for name in names]
            round_s = sum(times) + times[0] + pause_s * (len(names) + 1)  # the control runs once more
            if MIN_REPEATS * round_s > limit_s:
                break  # so slow that they are warm
        if repeats * round_s > limit_s:
            repeats = max(MIN_REPEATS, int(limit_s / round_s))
        control = run(names[0])
        while len(rounds) < MAX_ROUNDS * repeats and sum(d < STEADY for d in drifts) < repeats:
            rounds.append({name: run(name) for name in rng.sample(names, len(names))})
            before, control = control, run(names[0])
            drifts.append(abs(control - before) / min(control, before))
    kept = sorted(np.argsort(drifts, kind="stable")[:repeats])
    return {name: _latency(tuple(rounds[i][name] for i in kept)) for name in names}


def compare_latency(a: Latency, b: Latency) -> Ratio:
    """Time of `a` over that of `b`, from rounds in which both ran.

    Raises:
        ValueError: They were not measured together.
    """
    if len(a.rounds_ms) != len(b.rounds_ms):
        got = f"{len(a.rounds_ms)} and {len(b.rounds_ms)} rounds"
        raise ValueError(f"only encoders timed in the same rounds compare; got {got}")
    ratios = np.array(a.rounds_ms) / np.array(b.rounds_ms)
    return Ratio(float(np.median(ratios)), *_median_interval(ratios))


def describe_load(own: int = 0) -> str | None:
    """A warning when more processes want to run than there are cores; None when timings can be trusted.

    Args:
        own: Threads of this process that the load average has counted by now. Where they fill the cores, half a
            process more is let pass: no system is quite idle.
    """
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= max(cores, own + 0.5):
        return None
    ours = f", of which up to {own} is ours" if own else ""
    return f"the load average is {load:.1f} on {cores} cores{ours}: other work slows these timings"


class SubnetTimer:
    """Times subnets of a supernet as the encoders they are exported as.

    Args:
        supernet: Its device is where they run.
        repeats: As in `measure_latency`.
        threads: As in `measure_latency`.
    """

    def __init__(self, supernet: Supernet, repeats: int = 20, threads: int = 1) -> None:
        self.supernet = supernet
        self.repeats, self.threads = repeats, threads

    def __call__(self, subnets: list[Subnet], seconds: float) -> list[Latency]:
        """The latency of each for `seconds` of audio, batch 1."""
        device = self.supernet.residual_order.device
        wave = torch.randn(1, round(seconds * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))
        encoders = {subnet.id: self.supernet.extract(subnet).to(device).eval() for subnet in subnets}
        models = {name: lambda wave, encoder=encoder: encoder(wave, None, ()) for name, encoder in encoders.items()}
        times = measure_latency(models, wave.to(device), self.repeats, self.threads)
        return [times[subnet.id] for subnet in subnets]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _latency(rounds_ms: tuple[float, ...]) -> Latency:
    return Latency(rounds_ms, *_median_interval(np.array(rounds_ms)))


def _median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the median, resampling values."""
    from speech_tasks.intervals import bootstrap_interval  # noqa: PLC0415 - processes whose memory counts go without scipy

    return bootstrap_interval(lambda drawn: np.median(values[drawn], axis=1), len(values), np.random.default_rng(0))
