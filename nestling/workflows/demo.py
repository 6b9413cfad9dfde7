"""The parts of the demo: its training job, and the phone error of its sizes."""

from __future__ import annotations

from collections.abc import Callable

from checkpoints.run_folder import RunFolder
from checkpoints.teachers import load_teacher
from nestling.workflows.jobs import Job, describe_job
from nestling.workflows.search_result import find_subnet
from speech_tasks.curve import measure_curve, save_curve
from speech_tasks.materials import open_test
from speech_tasks.phone_probe import PhoneProbe

_QUICK = ("stage-1.steps=12", "stage-2.steps=16", "stage-1.batch_size=8", "stage-2.batch_size=8")


def describe_demo(quick: bool) -> Job:
    """What the demo trains; quick: on less audio, in fewer steps."""
    audio = "demo-small" if quick else "demo"
    return describe_job("demo", "tiny", "demo", audio, "demo", _QUICK if quick else (), "cpu", "auto", None)


def measure_sizes(run: RunFolder, quick: bool, on_progress: Callable[[str], None]) -> None:
    """Probes subnets of several sizes, the chosen one and the teacher on `test`, and keeps the curve in the run.

    Args:
        run: Trained and searched.
        quick: On less audio, with fewer sizes.
        on_progress: Called with every size in words.
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
        on_progress=on_progress,
    )
    save_curve(run.path, curve)
