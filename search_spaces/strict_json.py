"""JSON that a program wrote, and anything may have happened to since: the one door it is read through.

Numbers that are not finite are refused, and so are keys that stand twice: neither is JSON, and each hides a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
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
        text = read_text(path, max_bytes)
    except NestlingError as error:
        raise NestlingError(f"{error}; {hint}" if hint else str(error)) from error
    return parse_json(text, model, str(path), hint)


def parse_json(text: str | bytes, model: type[Model], source: str, hint: str = "") -> Model:
    """As `read_json`, of JSON that is no file of its own; errors blame `source`."""
    try:
        return parse_config(model, load_json(text, source), source, most=MOST)
    except NestlingError as error:
        raise NestlingError(f"{error}; {hint}" if hint else str(error)) from error


def load_json(text: str | bytes, source: str, finite: bool = True) -> Any:
    """The value that strict JSON holds, whatever it is.

    Args:
        text: It.
        source: What to blame.
        finite: False lets NaN and Infinity pass, which Python writes.

    Raises:
        NestlingError: It is not JSON; names `source`.
    """
    odd: list[str] = []

    def number(text: str) -> float:
        value = float(text)
        if not isfinite(value):
            odd.append(text)
        return value

    try:
        values = json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise NestlingError(f"{source}: not JSON ({error})") from error
    if odd and finite:
        where = next(_find_odd(values))
        raise NestlingError(f"{source}: {f'`{where}` is ' if where else ''}{odd[0]}, which is no finite number")
    return values


def finite_json(value: Any) -> Any:
    """Plain values in which numbers that JSON lacks are None."""
    if isinstance(value, dict):
        return {key: finite_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"duplicate key `{key}`")
        values[key] = value
    return values


def _find_odd(value: Any, keys: tuple[str, ...] = ()) -> Iterator[str]:
    """Where numbers are that are not finite."""
    if isinstance(value, float) and not isfinite(value):
        yield ".".join(keys)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, deeper in inner:
        yield from _find_odd(deeper, (*keys, str(key)))
