"""The versions that numbers depend on."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


def made_with() -> dict[str, str | None]:
    """The versions that a run's numbers depend on, and the commit of this code if it is tracked by git."""
    return {
        "nestling": importlib.metadata.version("nestling"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": git_commit(),
    }


def show_versions(versions: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What `made_with` said, for a reader: without what is not known, and with 12 digits of the commit."""
    return tuple((k, re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28}\b", r"\1", str(v))) for k, v in versions.items() if v)


def git_commit() -> str | None:
    """The commit of this code, with `-dirty` if files differ from it; None outside a git checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed inside somebody else's checkout?
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
