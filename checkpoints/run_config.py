"""config.yaml of a run: what it must hold, and which formats of run folders this Nestling reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from distillation.stages import Recipe
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace

FORMAT = 2
"""Of the run folders that are written. 1, which has no number of its own, differs in this number alone, and is read
as it is."""
MADE_WITH = "made_with"


class RunError(NestlingError):
    """A run folder is not what it should be."""


@dataclass(frozen=True)
class Change:
    """What was changed when a run was resumed."""

    step: int
    command: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class RunConfig:
    """What `nestling train` or `nestling import` resolved; other keys may stand beside these."""

    seed: int
    command: str
    teacher: str | None
    audio: str
    device: str
    precision: Literal["fp32", "bf16"]
    space: SearchSpace
    recipe: Recipe
    data: str
    """Hash of the audio."""
    hours: float
    """Of audio that is trained on."""
    made_with: Mapping[str, str | None]
    teacher_hash: str | None = None
    history: tuple[Change, ...] = ()
    format: int = 1
    trained_on: str | None = None
    """What an imported supernet had heard."""

    def __post_init__(self) -> None:
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise NestlingError(f"device {self.device!r} is none that PyTorch knows") from error


def check_format(values: Mapping[str, Any], newest: int, key: str = "format") -> None:
    """Raises NestlingError unless this Nestling reads files of that format; one without a number is of the first."""
    found = values.get(key, 1)
    if type(found) is not int or found < 1:
        raise NestlingError(f"`{key}` should be a number from 1 to {newest}, got {found!r:.60}")
    if found > newest:
        raise NestlingError(
            f"`{key}` is {found}, of a newer Nestling; this one reads up to {newest}: update it, or start anew"
        )
