"""The checkpoints of a run: what training goes on from, each with its SHA-256 beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from checkpoints.run_config import RunError
from distillation.trainer import STATE
from search_spaces.files import write_file

KEPT_STATES = 2


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint and, once it is safe, deletes all but the last two.

    Args:
        folder: Of checkpoints; made if need be.
        state: Tensors and plain values; `step` says how many steps are done.

    Raises:
        FailedError: The disk refused; earlier checkpoints are untouched.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{state['step']:08d}.pt"
    digest = write_file(path, lambda file: torch.save(dict(state), file))
    write_file(path.with_suffix(".sha256"), _manifest_line(path, digest))
    # A checkpoint beyond this step is one that `read_newest_state` passed over.
    finished = [p for p in list_states(folder) if p <= path and p.with_suffix(".sha256").exists()]
    kept = finished[-KEPT_STATES:]
    for old in folder.glob("step-*"):
        if old.with_suffix(".pt") not in kept:
            old.unlink()


def read_newest_state(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None when none was ever written.

    Args:
        folder: Of checkpoints.
        say: Told of every checkpoint that had to be passed over.

    Raises:
        RunError: There are checkpoints, but none is whole.
    """
    damaged: dict[str, str] = {}
    for path in reversed(list_states(folder)):
        manifest = path.with_suffix(".sha256")
        if not manifest.exists():
            continue  # killed before the checkpoint was finished
        state, problem = _read_state(path, manifest.read_bytes())
        if state is not None:
            for name, reason in damaged.items():
                say(f"checkpoint {name} is damaged ({reason}); going back to {path.name}")
            return state
        damaged[path.name] = problem
    if damaged:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
        raise RunError(
            f"no checkpoint in {folder} is whole ({reasons}); start again, or delete {folder} to train from step 0"
        )
    return None


def list_states(folder: Path) -> list[Path]:
    """Checkpoints, oldest first, finished or not."""
    return sorted(folder.glob("step-*.pt"))


def _read_state(path: Path, manifest: bytes) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint, or None and what is wrong with it."""
    with path.open("rb") as file:
        if manifest != _manifest_line(path, hashlib.file_digest(file, "sha256").hexdigest()):
            return None, "it fails its SHA-256"
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch.save did not write fails in a dozen ways
            return None, f"it is no checkpoint, {type(error).__name__}"
    if not isinstance(state, dict):
        return None, f"it holds a {type(state).__name__}"
    for key, kind in STATE.items():
        if key not in state:
            return None, f"it has no `{key}`"
        if not isinstance(state[key], kind) or isinstance(state[key], bool):
            return None, f"`{key}` is a {type(state[key]).__name__}, not a {kind.__name__}"
    return state, ""


def _manifest_line(path: Path, digest: str) -> bytes:
    """What `sha256sum --check` reads."""
    return f"{digest}  {path.name}\n".encode()
