"""metrics.jsonl, the record of a run's training: a row for each step, and for each probe before a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.errors import NestlingError
from search_spaces.files import explaining, write_file
from search_spaces.strict_json import MAX_BYTES, MOST, load_json
from search_spaces.strict_yaml import parse_config, read_bytes


@dataclass(frozen=True)
class _Row:
    """A step, or a probe before a stage."""

    step: int
    stage: str | None = None
    losses: dict[str, float] | None = None
    learning_rate: float | None = None
    before: str | None = None
    phone_error: float | None = None
    gradient_norm: float | None = None

    def __post_init__(self) -> None:
        if self.before is not None and self.phone_error is None:
            raise NestlingError("missing key `phone_error` beside `before`")
        if self.before is None and (self.stage is None or self.learning_rate is None):
            raise NestlingError("a step needs `stage` and `learning_rate`, a probe `before` and `phone_error`")
        if self.before is None and "largest" not in (self.losses or {}):
            raise NestlingError("missing key `losses.largest`")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one row; a kill right after it does not lose it.

    Args:
        path: Of the record; made if need be.
        row: Plain JSON values with a whole number under `step`.

    Raises:
        ValueError: The row has no step, or a number that is not finite.
        FailedError: The disk refused.
    """
    if not isinstance(step := row.get("step"), int):
        raise ValueError(f"a row of the record needs a whole number under `step`, got {step!r}")
    with explaining(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a record; a torn last line is left out.

    Raises:
        NestlingError: A line before the last is not a row.
    """
    return [row for _, row in _read_lines(path)]


def cut_rows(path: Path, step: int) -> None:
    """Cuts away the rows at or beyond `step`, and a torn last line."""
    kept = b"".join(line for line, row in _read_lines(path) if row["step"] < step)
    write_file(path, kept)


def _read_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return []
    lines = read_bytes(path, MAX_BYTES).splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            row = load_json(line, where)
        except NestlingError:
            row = None
            if number < len(lines):
                raise
        if number == len(lines) and not (line.endswith(b"\n") and isinstance(row, dict)):
            break  # torn
        parse_config(_Row, row, where, most=MOST)
        rows.append((line, row))
    return rows
