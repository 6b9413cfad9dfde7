"""Encoders timed side by side, in several runtimes, for several durations and numbers of threads.

All that runs for one duration with as many threads runs in the same alternating rounds, as `latency.py` has them, so
every ratio is paired. Speed is in seconds of audio over seconds of computing, `×` real time: more is faster.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.latency import Latency, Ratio, compare_latency, measure_latency
from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ

REPEATS = 20
TOTAL_S = 120.0
"""What all rounds together may take, unless three of each take longer; twice that where nothing is steady."""
QUICK_S = 15.0
PAUSE_S = 0.05
"""Before each run, for the threads of the runtime before it to fall asleep. Without it, 25 M parameters in ONNX Runtime
took 45 ms on two threads right after torch, with it 39 ms."""
SHORTEST_S, LONGEST_S = 0.025, 3600.0
"""HuBERT's front-end makes one frame of the shortest."""

Run = Callable[[Tensor], object]
"""A waveform, (1, S), float32, 16 kHz -> whatever the encoder makes of it."""


@dataclass(frozen=True)
class Contestant:
    """An encoder in a runtime."""

    encoder: str
    runtime: str
    open: Callable[[int], Run]
    """Takes the number of threads that the runtime may use; those of torch are set for it."""
    front_end: Run | None = None
    """The part before the Transformer, where torch can run it alone."""


@dataclass(frozen=True)
class Timing:
    """How long an encoder takes in a runtime."""

    encoder: str
    runtime: str
    threads: int
    seconds: float
    """Of audio, batch 1."""
    latency: Latency
    reference: str | None
    """The first encoder in the same runtime; None for itself."""
    ratio: Ratio | None
    """Time over that of the reference."""
    front_end: Ratio | None
    """Time of the front-end over that of the whole encoder; the rest is the Transformer's."""

    @property
    def times_real_time(self) -> float:
        """Seconds of audio that are encoded in a second: more is faster."""
        return self.seconds * 1000 / self.latency.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "encoder": self.encoder,
            "runtime": self.runtime,
            "threads": self.threads,
            "seconds": self.seconds,
            "median_ms": self.latency.median_ms,
            "low_ms": self.latency.low_ms,
            "high_ms": self.latency.high_ms,
            "mad_ms": self.latency.mad_ms,
            "rounds": len(self.latency.rounds_ms),
            "times_real_time": self.times_real_time,
            "reference": self.reference,
            "ratio": self.ratio and asdict(self.ratio),
            "front_end_share": self.front_end and asdict(self.front_end),
        }


def measure_encoders(
    contestants: Sequence[Contestant],
    seconds: Sequence[float],
    threads: Sequence[int],
    repeats: int | None = None,
    total_s: float = TOTAL_S,
    on_progress: Callable[[str, int, int | None], None] = lambda *_: None,
    clock: Callable[[], float] = time.perf_counter,
    pause_s: float = 0.0,
) -> list[Timing]:
    """Times encoders in all their runtimes.

    Args:
        contestants: The first encoder in a runtime is the reference there; the first of all is the control.
        seconds: Durations of audio, shortest first: time that the short ones leave over goes to the long ones.
        threads: Numbers of threads.
        repeats: Rounds of each duration; None for up to `REPEATS`, fewer where they would take longer than `total_s`.
        total_s: For all rounds together.
        on_progress: Called with what is timed, how many durations are done, and how many there are.
        clock: Seconds, never going back.
        pause_s: As in `measure_latency`; `PAUSE_S` where several runtimes have threads of their own.

    Returns:
        By threads, then duration, then contestant, each in the order given.

    Raises:
        NestlingError: An encoder cannot encode the shortest duration, or there are too few repeats.
    """
    total = len(threads) * len(seconds)
    end = clock() + total_s
    timings: list[Timing] = []
    for count in threads:
        runs = [contestant.open(count) for contestant in contestants]
        for contestant, run in zip(contestants, runs, strict=True):
            _try(contestant, run, seconds[0])
        for duration in seconds:
            done = len(timings) // len(contestants)
            on_progress(f"{count_threads(count)}, {duration:g} s of audio", done, total)
            limit_s = math.inf if repeats is not None else max(end - clock(), 0.0) / (total - done)
            models = {f"whole {i}": run for i, run in enumerate(runs)}
            models |= {f"front-end {i}": c.front_end for i, c in enumerate(contestants) if c.front_end}
            times = measure_latency(
                models,
                make_wave(duration),
                REPEATS if repeats is None else repeats,
                count,
                clock=clock,
                limit_s=limit_s,
                pause_s=pause_s,
            )
            timings += [_timing(contestants, i, times, count, duration) for i in range(len(contestants))]
    return timings


def make_wave(seconds: float) -> Tensor:
    """Noise, (1, S)."""
    return 0.1 * torch.randn(1, round(seconds * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(0))


def count_threads(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread{'' if count == 1 else 's'}"


def parse_seconds(text: str) -> tuple[float, ...]:
    """Durations from words such as `1,2.5,10`, ascending.

    Raises:
        NestlingError: One is no number from `SHORTEST_S` to `LONGEST_S`.
    """
    found = set()
    for word in map(str.strip, text.split(",")):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not SHORTEST_S <= value <= LONGEST_S:
            raise NestlingError(
                f"--seconds {text}: `{word}` is no number from {SHORTEST_S:g}, which one frame needs, to {LONGEST_S:g}"
            )
        found.add(value)
    return tuple(sorted(found))


def parse_threads(text: str, cores: int) -> tuple[int, ...]:
    """Numbers of threads from words such as `1,all`, each once.

    Raises:
        NestlingError: One is no number from 1 to `cores`.
    """
    found = []
    for word in map(str.strip, text.split(",")):
        count = cores if word == "all" else int(word) if word.isdecimal() else 0
        if not 1 <= count <= cores:
            raise NestlingError(
                f"--threads {text}: `{word}` is neither all nor a number from 1 to {cores}, the cores there are"
            )
        found.append(count)
    return tuple(dict.fromkeys(found))


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def name_processor() -> str:
    """What the system calls it."""
    named = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), named)
    return named


@torch.inference_mode()
def _try(contestant: Contestant, run: Run, seconds: float) -> None:
    """Runs it once, so that what cannot run is told before anything is timed."""
    try:
        run(make_wave(seconds))
    except Exception as error:  # runtimes fail in a dozen ways
        reason = " ".join(str(error).split())[:200]
        raise NestlingError(
            f"{contestant.encoder} in {contestant.runtime} does not encode {seconds:g} s of audio "
            f"({type(error).__name__}): {reason}"
        ) from error


def _timing(
    contestants: Sequence[Contestant], place: int, times: Mapping[str, Latency], threads: int, seconds: float
) -> Timing:
    """What the rounds say of one contestant."""
    contestant, whole = contestants[place], times[f"whole {place}"]
    first = next(i for i, other in enumerate(contestants) if other.runtime == contestant.runtime)
    return Timing(
        contestant.encoder,
        contestant.runtime,
        threads,
        seconds,
        whole,
        reference=contestants[first].encoder if first != place else None,
        ratio=compare_latency(whole, times[f"whole {first}"]) if first != place else None,
        front_end=compare_latency(times[f"front-end {place}"], whole) if contestant.front_end else None,
    )
