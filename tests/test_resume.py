"""A run that was killed and resumed is, bit for bit, the run that never stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume_driver import KILLS

ROOT = Path(__file__).parent.parent
NUM_STEPS, BOUNDARY = 10, 5  # of tests/training_cases.py


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the driver prints: one undisturbed run, one for each kill, one killed again and again."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, ROOT / "tests/resume_driver.py", folder]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr + "".join(log.read_text() for log in folder.glob("*.log"))
    return [json.loads(line) for line in result.stdout.splitlines()]


def losses(run):
    """(step, role) -> every digit of the loss, in the order of the record."""
    return [(row["step"], role, loss.hex()) for row in run["rows"] for role, loss in row["losses"].items()]


def test_undisturbed_run_has_every_step_once(runs):
    whole = runs[0]
    assert [row["step"] for row in whole["rows"]] == list(range(NUM_STEPS))
    roles = [set(row["losses"]) for row in whole["rows"]]
    assert roles == [{"largest"}] * BOUNDARY + [{"largest", "smallest", "random"}] * (NUM_STEPS - BOUNDARY)
    assert len({loss for _, _, loss in losses(whole)}) == len(losses(whole))  # no two alike: equality says something


def test_every_kill_came_where_it_was_meant_to(runs):
    kills = [run for run in runs if run["kind"] == "killed"]
    assert [(run["event"], run["call"]) for run in kills] == KILLS
    between_write_and_rename = [run for run in kills if run["event"] == "replace"]
    assert len(between_write_and_rename) >= max(4, len(kills) / 2)
    done = {run["done"] for run in kills}  # in stage 1, at its end, in stage 2, after the last step
    assert done & set(range(1, BOUNDARY))
    assert BOUNDARY in done
    assert done & set(range(BOUNDARY + 1, NUM_STEPS))
    assert NUM_STEPS in done


@pytest.mark.parametrize("number", range(1, len(KILLS) + 2))
def test_resumed_run_equals_the_undisturbed_one(runs, number):
    whole, resumed = runs[0], runs[number]
    assert losses(resumed) == losses(whole)
    assert resumed["rows"] == whole["rows"]
    assert resumed["supernet"] == whole["supernet"]  # its SHA-256 among the rest


def test_one_run_was_killed_again_and_again(runs):
    assert runs[-1]["kind"] == "chain"
    assert runs[-1]["kills"] == 6
