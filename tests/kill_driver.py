"""Saves into a run folder and dies at one point; `test_run_folder.py` looks at what is left.

Every kill happens in a fork of this process, so that PyTorch is imported once. Prints one JSON line for each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from search_spaces.files import _DigestingFile
from supernet.model import Supernet
from tests.spaces import small

SAVES = 3


def in_fork(work: Callable[[], None]) -> bool:
    """Runs `work` in a fork; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"the fork failed: {status}")
    return os.WIFSIGNALED(status)


def die_at(call: int, log: Path) -> None:
    """Makes this process kill itself inside the `call`-th larger write, or just before that fsync or rename.

    The name of the call goes to `log`.
    """
    count = 0

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any) -> Any:
            nonlocal count
            if name == "write" and len(args[1]) < 60:
                return real(*args)  # PyTorch writes in many crumbs
            count += 1
            if count == call:
                log.write_text(name)
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                    args[0].flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(owner, name, wrapped)

    wrap(_DigestingFile, "write")
    wrap(os, "fsync")
    wrap(os, "replace")


def state_at(step: int) -> dict[str, Any]:
    weights = {"weight": torch.full((257,), float(step))}
    return {"step": step, "supernet": weights, "recipe": {"name": "x"}, "heads": {}, "optimizer": {}, "sources": {}}


@cache
def supernet_at(step: int) -> Supernet:
    return Supernet(small("tiny"), torch.Generator().manual_seed(step))


def save_states(run: RunFolder, log: Path) -> None:
    for step in range(1, SAVES + 1):
        run.save_state(state_at(step))
        log.with_suffix(".done").write_text(str(step))


def save_supernets(run: RunFolder, log: Path) -> None:
    for step in range(1, SAVES + 1):
        run.save_supernet(supernet_at(step), SupernetRecord(teacher=f"teacher {step}"))
        log.with_suffix(".done").write_text(str(step))


def print_error(text: str) -> None:
    sys.stderr.write(text + "\n")


def loaded_state(run: RunFolder) -> int:
    """The step of the state that loads, 0 for none, -1 for a wrong one."""
    state = run.load_state(print_error)
    if state is None:
        return 0
    step = int(state["step"])
    return step if torch.equal(state["supernet"]["weight"], state_at(step)["supernet"]["weight"]) else -1


def loaded_supernet(run: RunFolder) -> int:
    """As `loaded_state`, of the supernet and its record."""
    if not run.supernet_path.exists():
        return 0
    supernet, step = run.load_supernet(), int(str(run.supernet_record.teacher).split()[-1])
    wanted = supernet_at(step).state_dict()
    return step if all(torch.equal(wanted[k], v) for k, v in supernet.state_dict().items()) else -1


def main(root: Path) -> None:
    for step in range(1, SAVES + 1):
        supernet_at(step)  # made once, for all forks
    for kind, save, load in (
        ("state", save_states, loaded_state),
        ("supernet", save_supernets, loaded_supernet),
    ):
        killed, call = True, 0
        while killed:
            call += 1
            run = RunFolder(root / f"{kind}-{call}")
            run.path.mkdir()
            log = root / f"{kind}-{call}.log"

            def work(run: RunFolder = run, log: Path = log, call: int = call) -> None:
                die_at(call, log)
                save(run, log)  # noqa: B023 - used before the loop goes on

            killed = in_fork(work)
            done = log.with_suffix(".done")
            try:
                loaded: int | str = load(run)
            except RunError as error:
                loaded = str(error)
            row = {
                "kind": kind,
                "killed": killed,
                "at": log.read_text() if killed else None,
                "done": int(done.read_text()) if done.exists() else 0,
                "loaded": loaded,
            }
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
