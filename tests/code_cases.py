"""The code as if it were installed elsewhere, with one file of it changed."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("search_spaces", "speech_data", "supernet", "distillation", "speech_tasks", "nas", "checkpoints")


@contextmanager
def installed_elsewhere(folder: Path) -> Iterator[None]:
    """Whoever looks for our source finds a copy in `folder`; what is imported is imported."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    find_spec = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        if name in PACKAGES:
            return SimpleNamespace(submodule_search_locations=[str(folder / name)])
        return find_spec(name, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", find)
        forget_code()
        yield
    forget_code()


@contextmanager
def changed(file: Path, old: str, new: str, count: int = 1) -> Iterator[None]:
    """A file with other words, as a process finds it that starts now."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count), newline="")
    forget_code()
    yield
    file.write_text(text)
    forget_code()


def forget_code() -> None:
    """A process reads its code once."""
    if module := sys.modules.get("search_spaces.identity"):
        module._read_code.cache_clear()  # type: ignore[attr-defined]
