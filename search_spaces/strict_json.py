"""JSON that a program wrote, and anything may have happened to since: the one door it is read through.

Numbers that are not finite are refused, and so are keys that stand twice: neither is JSON, and each hides a mistake.
"""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from search_spaces.errors import NestlingError
from search_spaces.strict_yaml import parse_config, read_text

MAX_BYTES = 256 << 20
"""Far more than any of our files has."""

MOST = 4
"""Problems of one file that are told: whoever damaged it damaged much."""

Model = TypeVar("Model")


def read_json(path: Path, model: type[Model], hint: str = "", max_bytes: int = MAX_BYTES) -> Model:
    """What a JSON file holds.

    Args:
        path: The file.
        model: A dataclass, a pydantic model, or another type that pydantic knows. Types are taken literally.
        hint: What to do about a file that is not as it should be.
        max_bytes: No larger file is read.

    Raises:
        NestlingError: It cannot be read, is not JSON, or is not such a model; names the file and the keys at fault.
    """
    try:
        return parse_json(read_text(path, max_bytes), model, str(path))
    except NestlingError as error:
        raise NestlingError(f"{error}; {hint}" if hint else str(error)) from error


def parse_json(text: str | bytes, model: type[Model], source: str) -> Model:
    """As `read_json`, of JSON that is no file of its own; errors blame `source`."""
    return parse_config(model, load_json(text, source), source, most=MOST)


def load_json(text: str | bytes, source: str) -> Any:
    """The value that strict JSON holds, whatever it is.

    Raises:
        NestlingError: It is not JSON; names `source`.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise NestlingError(f"{source}: not JSON ({error})") from error


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"duplicate key `{key}`")
        values[key] = value
    return values
