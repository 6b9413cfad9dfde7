"""YAML files that a person writes: read strictly, checked at once, explained in a few lines; and written so.

Scalars follow YAML 1.2: `no` is a word, `1e-4` a number, `010` ten, `12:30` a word. Refused, since each hides
a mistake or a trap: duplicate keys, aliases, tags, more than one document, files over 1 MB.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml

from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest

MAX_BYTES = 1_000_000

Model = TypeVar("Model")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, and neither duplicate keys nor aliases nor tags."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - filled below

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases are not allowed; write the value out", problem_mark=event.start_mark
            )
        if event.tag is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag!r} is not allowed; write the value alone", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word or a number", problem_mark=key_node.start_mark)
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key `{key}`", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """A whole number; leading zeros mean nothing."""
        return int(node.value)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        NestlingError: The file cannot be read, is over 1 MB, or is not one strict YAML mapping; names the file.
    """
    values = parse_yaml(read_text(Path(path), MAX_BYTES), source=str(path))
    if not isinstance(values, dict):
        got = "nothing" if values is None else f"a {type(values).__name__}"
        raise NestlingError(f"{path}: must hold a mapping of keys to values, got {got}")
    return values


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a file.

    Raises:
        NestlingError: There is no such file, it cannot be read, is over `max_bytes`, or is not UTF-8; names it.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise NestlingError(f"{path}: not UTF-8 text") from error


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file; raises as `read_text` does."""
    try:
        found = path.stat()
        if found.st_size > max_bytes:
            raise NestlingError(f"{path}: {found.st_size:,} bytes; a file may have at most {max_bytes:,}")
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a pipe would wait for ever
            raise NestlingError(f"{path}: not a file")
        return path.read_bytes()
    except OSError as error:
        raise NestlingError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def parse_yaml(text: str, source: str = "YAML") -> Any:
    """The value that strict YAML text holds; a single scalar will do.

    Raises:
        NestlingError: The text is not strict YAML; names `source` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise NestlingError(f"{source}{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise NestlingError(f"{source}: {error}") from error
    except RecursionError as error:
        raise NestlingError(f"{source}: nested too deeply") from error


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Plain JSON values as YAML that `load_yaml` reads back unchanged."""
    plain = json.loads(json.dumps(values, allow_nan=False))  # no aliases: nothing is shared any more
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but every text that YAML 1.2 could take for a number is quoted (`1e-4`, `08`)."""


_NUMBER_LIKE = re.compile(r"[-+.]*[0-9][-+.eE0-9]*$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER_LIKE, list("-+.0123456789"))


def parse_config(model: type[Model], values: Any, source: str = "config", most: int | None = None) -> Model:
    """`values` as a `model`, types taken literally: `"12"` is no number, `1` no boolean.

    Args:
        model: A dataclass, pydantic model, or other type that pydantic knows. Unknown keys are refused where its
            config forbids extras.
        values: Plain JSON values, as `load_yaml` returns them.
        source: What to blame, usually the file.
        most: Problems that are told, if they are more. A person who wrote the file wants all of them.

    Raises:
        NestlingError: Lists every problem; an unknown key comes with the nearest known one.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - slow to import, and most callers load no file

    try:
        parsed: Model = _adapter(cast("Any", model)).validate_json(json.dumps(values), strict=True)
        return parsed
    except ValidationError as error:
        found = [each for each in error.errors() if each["type"] != "too_short" or not _is_echo(each, error.errors())]
        problems = [line for each in found for line in _explain(model, values, each)]
        if most and len(problems) > most:
            problems[most:] = [f"and {len(problems) - most} more"]
        lines = [f"{source}:", *problems] if len(problems) > 1 else [f"{source}: {problems[0]}"]
        raise NestlingError(*lines) from error
    except RecursionError as error:
        raise NestlingError(f"{source}: nested too deeply") from error


@cache
def _adapter(model: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415

    return TypeAdapter(model)  # compiled once for each model


def _explain(model: Any, values: Any, error: Any) -> Iterator[str]:
    """One of pydantic's errors in our words, a line for each problem it holds."""
    *_, key = error["loc"] or ("",)
    where = ".".join(_place(values, error["loc"]))
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        yield f"unknown key `{where}`; {suggest(key, _known_keys(model, error['loc'][:-1]), brief=True)}"
    elif error["type"] == "missing":
        yield f"missing key `{where}`"
    elif error["type"] == "union_tag_not_found":
        yield f"missing key `{where}.{error['ctx']['discriminator'].strip(chr(39))}`"
    elif error["type"] == "union_tag_invalid":
        tag, wanted = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "").split(", ")
        yield f"`{where}.{error['ctx']['discriminator'].strip(chr(39))}` is {tag!r}; {suggest(tag, wanted)}"
    elif error["type"] == "value_error":
        yield from (f"`{where}`: {line}" if where else line for line in error["ctx"]["error"].args)
    else:
        got, rule = repr(error["input"]), error["msg"].removeprefix("Input ")
        what = f"`{where}` " if where else ""
        yield f"{what}{rule}, got {got if len(got) <= 60 else got[:57] + '...'}"


def _place(values: Any, path: tuple[int | str, ...]) -> Iterator[str]:
    """The keys that lead to a problem, without the kinds that pydantic puts between where a value is one of several."""
    for part, after in zip(path, (*path[1:], None), strict=False):
        inside = {str(key): value for key, value in values.items()} if isinstance(values, dict) else {}
        if inside and str(part) not in inside and after is not None:
            continue
        yield str(part)
        listed = isinstance(values, list) and isinstance(part, int) and part < len(values)
        values = values[part] if listed else inside.get(str(part))


def _is_echo(short: Any, errors: Sequence[Any]) -> bool:
    """Whether a list is called too short because of what is wrong inside it."""
    place = short["loc"]
    return any(len(each["loc"]) > len(place) and each["loc"][: len(place)] == place for each in errors)


def _known_keys(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at `path` inside `model`, through lists, mappings and unions."""
    models = _models(model)
    for part in path:
        inner = [m for outer in models for m in _models(_field_types(outer).get(str(part)))]
        models = inner or models
    return sorted({name for m in models for name in _field_types(m)})


def _models(annotation: Any) -> list[Any]:
    if is_dataclass(annotation) or hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _field_types(model: Any) -> dict[str, Any]:
    names = [f.name for f in fields(model)] if is_dataclass(model) else list(model.model_fields)
    hints = get_type_hints(model, include_extras=True)
    return {name: hints[name] for name in names}
