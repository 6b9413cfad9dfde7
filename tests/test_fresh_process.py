"""What runs in a process of its own gives its answer back, or says why it has none."""

import os
import signal
import sys

import pytest

from search_spaces.errors import FailedError
from search_spaces.fresh_process import run_fresh

ARGUMENTS = ["two words", "ü"]


def echo():
    sys.stdout.write("|".join([*sys.argv[1:], sys.stdin.read()]))


def fail():
    raise ValueError("first\nlast")


def leave():
    sys.exit(3)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_arguments_and_input_arrive_and_the_output_comes_back(tmp_path, monkeypatch):
    (tmp_path / "search_spaces.py").write_text("raise SystemExit('somebody else')", "utf-8")
    monkeypatch.chdir(tmp_path)  # what lies there is not imported
    assert run_fresh(f"{__name__}:echo", ARGUMENTS, "given\n") == "two words|ü|given\n"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("fail", "last"),
        ("leave", "exit code 3"),
        ("die", "killed by signal 9, which the system does when memory is short"),
        ("nothing", "ImportError: cannot import name 'nothing'"),
    ],
)
def test_why_a_process_failed_is_its_last_line_or_what_killed_it(entry, reason):
    with pytest.raises(FailedError) as caught:
        run_fresh(f"{__name__}:{entry}")
    assert str(caught.value).startswith(reason)
