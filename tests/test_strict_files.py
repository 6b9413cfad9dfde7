"""The doors that files come through: strict JSON and YAML, what they refuse, and what the messages say."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from nestling.reports.terminal import show_json
from search_spaces.errors import NestlingError
from search_spaces.strict_json import load_json, parse_json, read_json
from search_spaces.strict_yaml import load_yaml, parse_config, parse_yaml, read_bytes, read_text


@dataclass(frozen=True)
class Inner:
    low: float


@dataclass(frozen=True)
class Row:
    a: int
    b: int = 0
    c: int = 0
    d: int = 0
    e: int = 0
    f: int = 0
    inner: tuple[Inner, ...] = ()


# JSON


def test_a_file_is_read_as_its_model(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.write_text('{"a": 1, "inner": [{"low": 2.5}], "other": null}', "utf-8")
    assert read_json(path, Row) == Row(a=1, inner=(Inner(2.5),))


@pytest.mark.parametrize("text", ['{"a": 1}', b'{"a": 1}', '{"a": 1}'.encode("utf-16")])
def test_json_that_is_no_file_is_read_alike(text: str | bytes) -> None:
    assert parse_json(text, Row, "a line") == Row(a=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"a": 1, "a": 1}', "not JSON (duplicate key `a`)"),
        ('{"a": 1, "inner": [{"low": NaN}]}', "`inner.0.low` is NaN, which is no finite number"),
        ('{"a": "1"}', "`a` should be a valid integer, got '1'"),
        ("{}", "missing key `a`"),
    ],
)
@pytest.mark.parametrize("hint", ["", "search again"])
def test_a_file_that_is_not_as_it_should_be_is_named_with_what_to_do(
    tmp_path: Path, text: str, problem: str, hint: str
) -> None:
    path = tmp_path / "row.json"
    path.write_text(text, "utf-8")
    end = hint and f"; {hint}"
    with pytest.raises(NestlingError) as caught:
        read_json(path, Row, hint)
    assert str(caught.value) == f"{path}: {problem}{end}"
    with pytest.raises(NestlingError) as caught:
        parse_json(text, Row, "line 3", hint)
    assert str(caught.value) == f"line 3: {problem}{end}"


def test_a_file_that_cannot_be_read_comes_with_what_to_do_too(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    with pytest.raises(NestlingError) as caught:
        read_json(path, Row, "search again")
    assert str(caught.value) == f"{path}: no such file or directory; search again"
    path.write_text('{"a": 1}', "utf-8")
    with pytest.raises(NestlingError) as caught:
        read_json(path, Row, max_bytes=7)
    assert str(caught.value) == f"{path}: 8 bytes; a file may have at most 7"
    assert read_json(path, Row, max_bytes=8) == Row(a=1)


def test_no_json_is_larger_than_256_mib(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    path.touch()
    os.truncate(path, 256 * 1024**2 + 1)  # a hole: it takes no room
    with pytest.raises(NestlingError) as caught:
        read_json(path, Row)
    assert str(caught.value) == f"{path}: 268,435,457 bytes; a file may have at most 268,435,456"


def test_four_problems_of_a_damaged_file_are_told() -> None:
    with pytest.raises(NestlingError) as caught:
        parse_json('{"a": "", "b": "", "c": "", "d": "", "e": "", "f": ""}', Row, "x.json", "do it again")
    *lines, end = str(caught.value).splitlines()
    assert lines == ["x.json:", *(f"  `{key}` should be a valid integer, got ''" for key in "abcd")]
    assert end == "  and 2 more; do it again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "x: NaN, which is no finite number"),
        ("-Infinity", "x: -Infinity, which is no finite number"),
        ('{"a": 1e999}', "x: `a` is 1e999, which is no finite number"),
        ('[0, {"b": 1.5, "c": [2.5, Infinity]}]', "x: `1.c.1` is Infinity, which is no finite number"),
        ('{"a": {"b": NaN}, "c": -1e999}', "x: `a.b` is NaN, which is no finite number"),
    ],
)
def test_numbers_that_are_not_finite_are_found(text: str, message: str) -> None:
    with pytest.raises(NestlingError) as caught:
        load_json(text, "x")
    assert str(caught.value) == message


def test_numbers_that_are_not_finite_pass_where_python_wrote_them() -> None:
    values = load_json("[NaN, Infinity, -1e999, 1e-4, 7]", "x", finite=False)
    assert isnan(values[0])
    assert values[1:] == [inf, -inf, 1e-4, 7]
    assert type(values[4]) is int


def test_text_may_look_like_a_number_that_is_not_finite() -> None:
    assert load_json('{"NaN": "Infinity", "b": true, "c": null}', "x") == {"NaN": "Infinity", "b": True, "c": None}


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, b'"\xff"', '{"a": {"b": 1, "b": 2}}'])
def test_whatever_is_no_json_is_blamed_on_its_source(text: str | bytes) -> None:
    with pytest.raises(NestlingError, match=r"^x: not JSON \("):
        load_json(text, "x")


# Files


@pytest.mark.parametrize("read", [read_bytes, read_text])
def test_a_file_may_have_as_many_bytes_as_are_allowed(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read(path, 5) in ("12345", b"12345")
    with pytest.raises(NestlingError) as caught:
        read(path, 4)
    assert str(caught.value) == f"{path}: 5 bytes; a file may have at most 4"


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "pipe")
    with pytest.raises(NestlingError) as caught:
        read_text(path, 5)
    assert str(caught.value) == f"{path}: not a file"


def test_what_the_system_says_of_a_file_is_told_in_small_letters(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(NestlingError) as caught:
        read_bytes(tmp_path, 1 << 30)
    assert str(caught.value) == f"{tmp_path}: is a directory"

    def fail(_: Path) -> bytes:
        raise OSError("Broken")

    (tmp_path / "x").touch()
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(NestlingError) as caught:
        read_bytes(tmp_path / "x", 5)
    assert str(caught.value) == f"{tmp_path / 'x'}: broken"


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(NestlingError) as caught:
        read_text(tmp_path / "x", 5)
    assert str(caught.value) == f"{tmp_path / 'x'}: not UTF-8 text"


# YAML and configs


def test_yaml_of_a_million_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: " + "x" * 999_997)
    assert load_yaml(path) == {"a": "x" * 999_997}
    path.write_text("a: " + "x" * 999_998)
    with pytest.raises(NestlingError) as caught:
        load_yaml(path)
    assert str(caught.value) == f"{path}: 1,000,001 bytes; a file may have at most 1,000,000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a mapping of keys to values, got nothing"),
        ("- 1", "must hold a mapping of keys to values, got a list"),
        ("one", "must hold a mapping of keys to values, got a str"),
    ],
)
def test_yaml_files_are_mappings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(NestlingError) as caught:
        load_yaml(str(tmp_path / "x.yaml"))
    assert str(caught.value) == f"{tmp_path / 'x.yaml'}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [", "x, line 2: expected the node content, but found '<stream end>'"),
        ("a: 1\na: 2", "x, line 2: duplicate key `a`"),
        (
            "\0",
            'x: unacceptable character #x0000: special characters are not allowed\n  in "<unicode string>", position 0',
        ),
        ("[" * 5000, "x: nested too deeply"),
    ],
)
def test_yaml_that_is_none_is_blamed_on_its_source_and_line(text: str, message: str) -> None:
    with pytest.raises(NestlingError) as caught:
        parse_yaml(text, "x")
    assert str(caught.value) == message


def problems(model: Any, values: Any, most: int | None = None) -> str:
    with pytest.raises(NestlingError) as caught:
        parse_config(model, values, "x", most)
    return str(caught.value)


@pytest.mark.parametrize(
    ("most", "told"),
    [(None, "abcde"), (5, "abcde"), (6, "abcde"), (4, "abcd"), (1, "a")],
)
def test_no_more_problems_are_told_than_asked_for(most: int | None, told: str) -> None:
    said = problems(Row, dict.fromkeys("abcde", ""), most)
    more = [f"  and {5 - len(told)} more"] if len(told) < 5 else []
    assert said.splitlines() == ["x:", *(f"  `{key}` should be a valid integer, got ''" for key in told), *more]


def test_one_problem_stands_beside_the_file() -> None:
    assert problems(Row, {}) == "x: missing key `a`"


class Choices(BaseModel):
    sizes: tuple[int, ...] = Field(min_length=2)
    others: tuple[int, ...] = Field(default=(1,), min_length=1)


def test_a_list_is_too_short_unless_something_inside_it_is_wrong() -> None:
    assert (
        problems(Choices, {"sizes": [1]})
        == "x: `sizes` Tuple should have at least 2 items after validation, not 1, got [1]"
    )
    assert problems(Choices, {"sizes": [1, "2"]}) == "x: `sizes.1` should be a valid integer, got '2'"
    said = problems(Choices, {"sizes": [1, "2"], "others": []})
    assert "`others`" in said
    assert "`sizes` " not in said


@dataclass(frozen=True)
class Strict:
    a: int

    def __post_init__(self) -> None:
        raise NestlingError("one thing", "and another")


@dataclass(frozen=True)
class Holder:
    strict: Strict


def test_what_a_model_says_of_itself_is_told_line_by_line() -> None:
    assert problems(Strict, {"a": 1}) == "x:\n  one thing\n  and another"
    assert problems(Holder, {"strict": {"a": 1}}) == "x:\n  `strict`: one thing\n  `strict`: and another"


@pytest.mark.parametrize(("length", "shown"), [(58, "x" * 58 + "'"), (59, "x" * 56 + "...")])
def test_a_long_value_is_cut(length: int, shown: str) -> None:
    assert problems(int, "x" * length) == f"x: should be a valid integer, got '{shown}"


def test_values_that_are_nested_too_deeply_are_refused() -> None:
    values: list[Any] = []
    for _ in range(100_000):
        values = [values]
    assert problems(list, values) == "x: nested too deeply"


def test_a_result_in_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": [1.5, float("nan")], "b": {"c": (float("inf"), 2, "nan")}})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": {"c": [None, 2, "nan"]},
    }
