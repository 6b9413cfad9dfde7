"""Work that wants a Python of its own: a library that keeps state, or memory that is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from search_spaces.errors import FailedError

ROOT = Path(__file__).resolve().parent.parent


def run_fresh(entry: str, arguments: Sequence[str] = (), given: str = "") -> str:
    """What a function of ours prints, called in another process.

    It imports what this process would.

    Args:
        entry: `module:function`; the function takes no arguments.
        arguments: What it finds in `sys.argv[1:]`.
        given: What it reads from standard input.

    Raises:
        FailedError: The process failed: with its last line, or with what killed it.
    """
    module, _, function = entry.partition(":")
    command = [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()", *arguments]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        command,
        input=given,
        text=True,
        encoding="utf-8",
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode < 0:
        raise FailedError(f"killed by signal {-done.returncode}, which the system does when memory is short")
    if done.returncode:
        raise FailedError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout
