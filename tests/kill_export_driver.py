"""Exports over an earlier export and dies at one point; `test_export_folder.py` looks at what is left.

Every kill happens in a fork of this process, so that PyTorch is imported once. Prints one JSON line for each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import checkpoints.export
from checkpoints.export import export_subnet
from checkpoints.manifest import check_manifest
from nestling.reports.model_card import ExportRecord, model_card
from search_spaces import files
from search_spaces.budget import Budget
from search_spaces.errors import NestlingError
from search_spaces.subnet import Subnet
from supernet.model import Supernet
from tests.kill_driver import in_fork
from tests.spaces import small

SUPERNET = Supernet(small("tiny"), torch.Generator().manual_seed(0))
EARLIER, NEW = SUPERNET.space.smallest(), SUPERNET.space.container


def die_at(call: int, log: Path) -> None:
    """Makes this process kill itself right before its `call`-th fsync, rename or exchange, whose name goes to `log`."""
    count = 0

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                log.write_text(name)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        setattr(owner, name, wrapped)

    for name in ("fsync", "replace", "rename"):
        wrap(os, name)
    wrap(files, "_exchange")


def export(folder: Path, subnet: Subnet) -> None:
    export_subnet(SUPERNET, subnet, folder, budget=Budget(), card=model_card(ExportRecord()))


def held(folder: Path) -> str:
    """Which export a folder holds, whole; or what is wrong with it."""
    names = {EARLIER.id: "earlier", NEW.id: "new"}
    try:
        check_manifest(folder)
        return names[json.loads((folder / "subnet.json").read_text())["id"]]
    except (NestlingError, OSError) as error:
        return str(error)


def main(root: Path) -> None:
    checkpoints.export.prove_params = lambda *_: None
    checkpoints.export.prove_outputs = lambda *_: {"nobody": 0.0}
    folder, log = root / "x", root.parent / "killed-at"
    export(folder, EARLIER)
    killed, call = True, 0
    while killed:
        call += 1
        if held(folder) != "earlier":
            export(folder, EARLIER)

        def work(call: int = call) -> None:
            die_at(call, log)
            export(folder, NEW)

        killed = in_fork(work)
        row = {"killed": log.read_text() if killed else None, "holds": held(folder)}
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
