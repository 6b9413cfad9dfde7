"""The demo: the whole job on what ships with the package, from training to a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.run_folder import RunFolder
from checkpoints.teachers import load_teacher
from nestling.workflows.audio import open_audio
from nestling.workflows.export import export, write_report
from nestling.workflows.jobs import Job, describe_job
from nestling.workflows.listening import SILENT, Listener
from nestling.workflows.run_report import describe_training
from nestling.workflows.scoring import open_scorer
from nestling.workflows.search import parse_budget, search
from nestling.workflows.search_result import Result, find_subnet
from nestling.workflows.train import resume, train
from search_spaces.files import check_writable
from search_spaces.space import SearchSpace
from speech_tasks.curve import measure_curve, save_curve
from speech_tasks.materials import open_test
from speech_tasks.phone_probe import PhoneProbe

_QUICK = ("stage-1.steps=12", "stage-2.steps=16", "stage-1.batch_size=8", "stage-2.batch_size=8")


@dataclass(frozen=True)
class Demo:
    """What a demo came to."""

    run: RunFolder
    result: Result
    """What its search found, as `search` returns it."""
    encoder: Path
    """The folder of the export."""
    report: Path
    seconds: float
    """That all of it took."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        places = {"encoder": str(self.encoder), "report": str(self.report), "seconds": self.seconds}
        return {**describe_training(self.run), "search": self.result, **places}


def find_free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3 … that is free: a demo never overwrites a run.

    Raises:
        NestlingError: It is a file, or nothing can be written there.
    """
    check_writable(path, "--run", folder=True)
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def run_demo(
    path: Path,
    quick: bool = False,
    budget: Sequence[str] = ("1M",),
    command: str = "",
    listener: Listener = SILENT,
    go_on: bool = False,
) -> Demo:
    """Trains, searches, measures, exports and reports.

    Args:
        path: The run folder; must be free, or that of a demo to go on with.
        quick: The same on less audio, in fewer steps and trials.
        budget: What the encoder may cost; all must hold.
        command: That asked for it, for the record.
        listener: Told how far it is.
        go_on: Go on with a demo that was stopped, quick or not, as it began: what it trained and scored is kept.

    Raises:
        NestlingError: The folder is not free, or holds no demo; or no subnet holds the budget.
    """
    began = time.monotonic()
    quick = RunFolder.open(path).config["audio"] == describe_demo(True)["audio"] if go_on else quick
    job = describe_demo(quick)
    parsed = parse_budget(budget, SearchSpace.from_dict(job["space"]), listener)
    if go_on:
        _, run = resume("demo", path, {}, command, listener)
    else:
        _, run = train(path, job, command.removeprefix("nestling "), listener)
    with run.lock():
        scorer = open_scorer(run, open_audio(job["audio"], listener), 16 if quick else 40, "cpu", listener.note)
        result = search(run, scorer, parsed, 20 if quick else 64, command=command, listener=listener)
        measure_sizes(run, quick, listener)
    encoder = run.path / "encoder"
    export(run, "best", encoder, command=command, listener=listener)
    return Demo(run, result, encoder, write_report(run, listener), time.monotonic() - began)


def describe_demo(quick: bool) -> Job:
    """What the demo trains; quick: on less audio, in fewer steps."""
    audio = "demo-small" if quick else "demo"
    return describe_job("demo", "tiny", "demo", audio, "demo", _QUICK if quick else (), "cpu", "auto", None)


def measure_sizes(run: RunFolder, quick: bool, listener: Listener = SILENT) -> None:
    """Probes subnets of several sizes, the chosen one and the teacher on `test`, and keeps the curve in the run.

    Args:
        run: It must be trained and searched.
        quick: On less audio, with fewer sizes.
        listener: Told how many sizes there are, and each in words.
    """
    sizes = (60, 30, 40) if quick else (300, 100, 250)
    probe = PhoneProbe(
        open_test(small=quick), "test", num_train=sizes[0], num_tuning=sizes[1], num_scored=sizes[2], last_layers=2
    )
    supernet = run.load_supernet()
    curve = measure_curve(
        supernet,
        load_teacher("demo").encoder,
        probe,
        [find_subnet(run.search_path, "best", supernet.space)],
        num_middle=0 if quick else 2,
        on_start=lambda total: listener.start("phone error on test", total),
        on_progress=listener.advance,
    )
    save_curve(run.path, curve)
