"""Times encoders side by side, and takes their peak memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.runtimes.onnx_session import runtime_version
from checkpoints.runtimes.opening import Subject, find_subjects, parse_runtimes
from checkpoints.runtimes.peak_memory import measure_memory
from checkpoints.versions import made_with
from nas.latency import MIN_REPEATS, describe_load
from nas.measurement import (
    PAUSE_S,
    QUICK_S,
    TOTAL_S,
    Timing,
    count_cores,
    measure_encoders,
    name_processor,
    parse_seconds,
    parse_threads,
)
from nestling.workflows.listening import SILENT, Listener
from search_spaces.errors import NestlingError
from search_spaces.files import write_file

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """What was measured, on what, and what may have disturbed it."""

    timings: Sequence[Timing]
    memory: Sequence[Row]
    """An encoder in a runtime -> its peak memory, in bytes."""
    warnings: Sequence[str]
    versions: Row

    @property
    def made_on(self) -> str:
        """Processor and versions in a sentence."""
        shown = ", ".join(
            f"{name} {version}" for name, version in self.versions.items() if version and name != "commit"
        )
        return f"{name_processor()}, {count_cores()} cores; {shown}."

    def to_dict(self, command: str) -> Row:
        """All of it as plain values, with the command that asked for it."""
        return {
            "command": command,
            "made_on": self.made_on,
            "made_with": self.versions,
            "warnings": self.warnings,
            "timings": [timing.to_dict() for timing in self.timings],
            "memory": self.memory,
        }

    def save(self, path: Path, command: str) -> None:
        """Writes it as JSON, into a folder that is made if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(self.to_dict(command), indent=2) + "\n")


def measure_sources(
    sources: Sequence[str],
    runtimes: str | None = None,
    threads: str = "1,all",
    seconds: str = "1,2,5,10,20",
    repeats: int | None = None,
    quick: bool = False,
    memory: bool = True,
    listener: Listener = SILENT,
) -> Measurement:
    """Times encoders side by side, from their names.

    Args:
        sources: As `find_subjects` takes them, each once; the first is what others are compared with.
        runtimes: As `parse_runtimes` takes them; None: torch, and the ONNX files of a folder.
        threads: As `parse_threads` takes them.
        seconds: Of audio, as `parse_seconds` takes them.
        repeats: Rounds; None: as many as time allows.
        quick: Whether a quarter of a minute must do.
        memory: Whether to take memory too.
        listener: Told how far it is.

    Raises:
        NestlingError: One of them is not there or cannot be.
    """
    if quick and repeats is not None:
        raise NestlingError("--quick and --repeats both say how many rounds; give one of them")
    if repeats is not None and repeats < MIN_REPEATS:
        raise NestlingError(f"--repeats must be at least {MIN_REPEATS}, got {repeats}")
    counts, durations = parse_threads(threads, count_cores()), parse_seconds(seconds)
    wanted = None if runtimes is None else parse_runtimes(runtimes)
    subjects = find_subjects(list(dict.fromkeys(sources)), wanted, listener.warn)
    return measure(subjects, durations, counts, repeats, QUICK_S if quick else TOTAL_S, memory, listener)


def measure(
    subjects: Sequence[Subject],
    seconds: Sequence[float],
    threads: Sequence[int],
    repeats: int | None = None,
    limit_s: float = TOTAL_S,
    memory: bool = True,
    listener: Listener = SILENT,
) -> Measurement:
    """Times encoders in alternating rounds, then measures the peak memory of each in fresh processes.

    Args:
        subjects: The first is what others are compared with.
        seconds: Of audio; memory is taken at the longest.
        threads: Numbers of them; memory is taken with the most.
        repeats: Rounds; None: as many as `limit_s` allows.
        limit_s: For all rounds together, about.
        memory: Whether to take memory too.
        listener: Told how far it is, and of other work on the machine.
    """
    listener.warn(before := describe_load())
    contestants = [contestant for subject in subjects for contestant in subject.open()]
    timings = measure_encoders(contestants, seconds, threads, repeats, limit_s, listener.show, pause_s=PAUSE_S)
    listener.warn(after := describe_load(own=max(threads)))
    memories = _measure_memory(subjects, max(seconds), max(threads), listener) if memory else []
    warnings = [text for text in (before, after) if text]
    return Measurement(timings, memories, warnings, {**made_with(), "onnxruntime": runtime_version()})


def _measure_memory(subjects: Sequence[Subject], seconds: float, threads: int, listener: Listener) -> list[Row]:
    pairs = [(subject, runtime) for subject in subjects for runtime in subject.runtimes]
    rows = []
    for done, (subject, runtime) in enumerate(pairs):
        listener.show("memory", done, len(pairs))
        found = measure_memory(subject.folder, runtime, seconds, threads)
        rows.append(
            {"encoder": subject.name, "runtime": runtime, "seconds": seconds, "threads": threads, **found.to_dict()}
        )
    return rows
