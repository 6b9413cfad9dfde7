"""Trains through the command line, dies at one point, resumes; `test_resume.py` looks at what came of it.

Every process is a fork of this one, so that PyTorch is imported once. Prints one JSON line for each run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn.cluster  # noqa: F401 - this and others here, so that no fork imports them again
import torch
import torch._dynamo

import cli
import distillation.factory
import distillation.trainer  # noqa: F401
import nestling.workflows.run_report  # noqa: F401
from checkpoints.run_folder import RunFolder
from tests.kill_driver import in_fork
from tests.training_cases import write_case

EVENTS = {"row": RunFolder, "replace": os, "fsync": os}
"""What a run does that a kill may interrupt: a row of the record, a rename, a force to disk."""
KILLS = [
    *(("replace", n) for n in (2, 3, 5, 6, 7, 9, 11, 13, 14, 15)),
    *(("fsync", n) for n in (5, 20)),
    *(("row", n) for n in (1, 4, 8)),
]
"""The first call of `replace` and `fsync` writes config.yaml; then two files a state, three for the supernet."""
CHAIN = ("replace", 5)
"""In every process of one run: a resumed one cuts the record, writes a state, and dies in the next."""


def watch(act: Callable[[str, int, tuple[Any, ...]], None]) -> None:
    """Calls `act(event, count, arguments)` before each event of this process."""
    counts = dict.fromkeys(EVENTS, 0)

    def wrap(event: str, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any) -> Any:
            counts[event] += 1
            act(event, counts[event], args)
            return real(*args)

        setattr(owner, name, wrapped)

    for event, owner in EVENTS.items():
        wrap(event, owner, "append_metrics" if event == "row" else event)


def die_at(event: str, call: int) -> None:
    """Makes this process kill itself right before the `call`-th event of a kind, half of a row written."""

    def act(name: str, count: int, args: tuple[Any, ...]) -> None:
        if (name, count) == (event, call):
            if name == "row":
                with args[0].metrics_path.open("a") as file:
                    file.write(json.dumps(args[1])[:30])
            os.kill(os.getpid(), signal.SIGKILL)

    watch(act)


def train(run: Path, options: list[str], prepare: Callable[[], None] = lambda: None) -> bool:
    """Runs `nestling train supernet` in a fork, resuming if there is a run already; whether it was killed."""

    def work() -> None:
        torch.set_num_threads(1)
        said = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        prepare()
        sys.argv = ["nestling", "train", "supernet", "--run", str(run)]
        sys.argv += ["--resume"] if run.exists() else options
        cli.app(standalone_mode=False)

    return in_fork(work)


def describe(run: Path, **values: Any) -> None:
    folder = RunFolder(run)
    row = {**values, "rows": folder.metrics(), "supernet": folder.supernet_record_path.read_text()}
    sys.stdout.write(json.dumps(row) + "\n")


def main(root: Path) -> None:
    options = write_case(root)
    train(root / "whole", options)
    describe(root / "whole", kind="whole")
    for event, call in KILLS:
        run = root / f"{event}-{call}"
        killed = train(run, options, lambda event=event, call=call: die_at(event, call))
        done = len(RunFolder(run).metrics())
        train(run, options)
        describe(run, kind="killed" if killed else "missed", event=event, call=call, done=done)
    run, kills = root / "chain", 0
    while train(run, options, lambda: die_at(*CHAIN)):
        kills += 1
    describe(run, kind="chain", kills=kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
