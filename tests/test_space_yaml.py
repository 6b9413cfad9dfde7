"""Strict YAML and configs: what is refused, and what the messages say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import load_yaml, parse_config, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E3", -2500.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("010", 10),
        ("0o17", "0o17"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("'12'", "12"),
        ("[1, no]", [1, "no"]),
        ("{<<: 1}", {"<<": 1}),
        ("", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "space.yaml, line 3: duplicate key `a`"),
        ("x:\n  a: 1\n  a: 1", "line 3: duplicate key `a`"),
        ("a: &x [1]\nb: *x", "line 2: aliases are not allowed"),
        ("? [1, 2]\n: 3", "a key must be a word or a number"),
        ("a: !!python/object/apply:os.system ['true']", "line 1: the tag 'tag:yaml.org,2002:python"),
        ("a: 1\nb: !!bool 'no'", "line 2: the tag 'tag:yaml.org,2002:bool' is not allowed; write the value alone"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("a: [1", "line 1"),
        ("a: \x00", "special characters are not allowed"),
        ("[" * 5000, "nested too deeply"),
        ("- 1", "must hold a mapping of keys to values, got a list"),
        ("", "must hold a mapping of keys to values, got nothing"),
    ],
)
def test_bad_files_are_refused_with_their_name_and_line(tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"space\.yaml.*{re.escape(message.removeprefix('space.yaml'))}"):
        load_yaml(path)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"missing\.yaml: no such file"):
        load_yaml(tmp_path / "missing.yaml")
    with pytest.raises(ValueError, match="is a directory"):
        load_yaml(tmp_path)
    path = tmp_path / "big.yaml"
    path.write_text("a: " + "x" * 1_000_000)
    with pytest.raises(ValueError, match=r"big.yaml: 1,000,003 bytes; a file may have at most 1,000,000"):
        load_yaml(path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        load_yaml(path)


class Optimiser(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    lr: float
    warmup_steps: int = Field(default=0, ge=0)


class Stage(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    optimiser: Optimiser
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    resume: bool = False


@dataclass(frozen=True)
class Recipe:
    __pydantic_config__ = ConfigDict(extra="forbid")
    stages: list[Stage]
    by_name: dict[str, Optimiser] | None = None


def test_good_values_become_a_model():
    values = {"stages": [{"optimiser": {"lr": 1}, "sizes": [1, 2]}], "by_name": {"x": {"lr": 0.1}}}
    recipe = parse_config(Recipe, values)
    assert recipe.stages[0].sizes == (1, 2)
    assert recipe.by_name == {"x": Optimiser(lr=0.1)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": [], "stagse": 1}, "f.yaml: unknown key `stagse`; did you mean `stages`?"),
        ({"stages": [], "q": 1}, "f.yaml: unknown key `q`; there are by_name, stages"),
        ({}, "f.yaml: missing key `stages`"),
        (
            {"stages": [{"optimiser": {"lr": 1, "warmup_step": 3}}]},
            "f.yaml: unknown key `stages.0.optimiser.warmup_step`; did you mean `warmup_steps`?",
        ),
        (
            {"stages": [], "by_name": {"x": {"lr": 1, "warmup": 1}}},
            "f.yaml: unknown key `by_name.x.warmup`; did you mean `warmup_steps`?",
        ),
        (
            {"stages": [{"optimiser": {"lr": "1"}}]},
            "f.yaml: `stages.0.optimiser.lr` should be a valid number, got '1'",
        ),
        (
            {"stages": [{"optimiser": {"lr": 1}, "resume": 1}]},
            "`stages.0.resume` should be a valid boolean, got 1",
        ),
        ({"stages": [{"optimiser": {"lr": 1}, "sizes": [True]}]}, "should be a valid integer, got True"),
        (
            {"stages": [{"optimiser": {"lr": 1}, "kind": "c"}]},
            "`stages.0.kind` should be 'a' or 'b', got 'c'",
        ),
        (
            {"stages": "x" * 100},
            f"`stages` should be a valid array, got '{'x' * 56}...",
        ),
        (
            {"stagse": [{"warmup_step": 1}]},
            "f.yaml:\n  missing key `stages`\n  unknown key `stagse`; did you mean `stages`?",
        ),
    ],
)
def test_all_problems_of_a_config_are_told_at_once(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_config(Recipe, values, source="f.yaml")


GOOD = """
name: mine
backbone: {head_dim: 8, conv_kernels: [4, 2], conv_strides: [4, 2], pos_conv_kernel: 4}
conv_dims: [[8, 16], [8]]
embed_dim: [16, 32]
heads: [1, 2]
ffn_dim: [16, 32]
depth: {1: [[0], [1]], 2: [[0, 1]]}
"""


def load(tmp_path: Path, text: str) -> SearchSpace:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return SearchSpace.load(path)


def test_a_space_loads_from_a_file(tmp_path):
    space = load(tmp_path, GOOD)
    assert space.count() == 2 * 2 * (2 * 4 + 16)
    assert space.backbone.conv_kernels == (4, 2)
    assert space.backbone.conv_norm == "layer"


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        (
            "heads: [1, 2]",
            "head: [1, 2]",
            ["missing key `heads`", "unknown key `head`; did you mean `heads`?"],
        ),
        ("head_dim: 8", "head_dims: 8", ["unknown key `backbone.head_dims`; did you mean `head_dim`?"]),
        ("head_dim: 8", "head_dim: '8'", ["`backbone.head_dim` should be a valid integer, got '8'"]),
        ("heads: [1, 2]", "heads: [1, 2.5]", ["`heads.1` should be a valid integer"]),
        ("heads: [1, 2]", "heads: [2, 1]", ["heads must be increasing, without repeats, got [2, 1]"]),
        ("heads: [1, 2]", "heads: [1, 1]", ["heads must be increasing, without repeats, got [1, 1]"]),
        ("heads: [1, 2]", "heads: []", ["heads must offer at least one choice"]),
        ("heads: [1, 2]", "heads: [0, 2]", ["heads must be positive and at most 8192, got [0, 2]"]),
        ("heads: [1, 2]", "heads: [1, 9000]", ["heads must be positive and at most 8192, got [1, 9000]"]),
        (
            "embed_dim: [16, 32]",
            "embed_dim: [16, 30]",
            ["embed_dim must be multiples of pos_conv_groups (16), got [30]"],
        ),
        ("[[8, 16], [8]]", "[[8, 16]]", ["conv_dims must list the widths of 2 convolutions, got 1"]),
        ("[[8, 16], [8]]", "[[16, 8], [8]]", ["conv_dims[0] must be increasing"]),
        (
            "ffn_dim: [16, 32]",
            "ffn_ratio: [0.01, 2]",
            ["ffn_ratio must give different widths in 1..8192, at 16 got [0, 32]"],
        ),
        ("ffn_dim: [16, 32]", "ffn_ratio: [2.0, 2.01]", ["at 16 got [32, 32]"]),
        ("ffn_dim: [16, 32]", "ffn_ratio: [.nan]", ["ffn_ratio must be positive"]),
        ("ffn_dim: [16, 32]", "ffn_ratio: [.inf]", ["ffn_ratio must be positive"]),
        ("ffn_dim: [16, 32]", "", ["exactly one of ffn_dim and ffn_ratio must be given"]),
        (
            "ffn_dim: [16, 32]",
            "ffn_dim: [1]\nffn_ratio: [2]",
            ["exactly one of ffn_dim and ffn_ratio must be given"],
        ),
        ("2: [[0, 1]]", "2: [[0, 1], [0, 1]]", ["depth 2, the deepest, must keep all its layers: [[0, 1]]"]),
        ("1: [[0], [1]]", "1: [[0], [2]]", ["depth 1 must keep as many of 0..1, in order, got [2]"]),
        ("1: [[0], [1]]", "1: [[0, 1]]", ["depth 1 must keep as many of 0..1, in order, got [0, 1]"]),
        ("1: [[0], [1]]", "1: []", ["depth 1 must list different sets of layers, got []"]),
        ("2: [[0, 1]]", "2: [[1, 0]]", ["depth 2, the deepest", "in order, got [1, 0]"]),
        (
            "1: [[0], [1]]",
            "0: [[]]",
            ["depth must map numbers of layers, increasing from at least 1, got [0, 2]"],
        ),
        (
            "conv_strides: [4, 2]",
            "conv_strides: [4]",
            ["conv_kernels, .conv_strides must pair up, 1 to 256 of each, got 2 and 1"],
        ),
        (
            "head_dim: 8, conv_kernels: [4, 2], conv_strides: [4, 2], pos_conv_kernel: 4",
            "head_dim: 0, conv_kernels: [4, 2], conv_strides: [4, 0], pos_conv_groups: 0",
            [
                "backbone.head_dim must be in 1..8192, got 0",
                "backbone.pos_conv_groups must be in 1..8192, got 0",
                "conv_kernels, .conv_strides must be in 1..4096, got [4, 2], [4, 0]",
            ],
        ),
        ("head_dim: 8", "head_dim: 100000000", ["backbone.head_dim must be in 1..8192, got 100000000"]),
        ("pos_conv_kernel: 4", "pos_conv_kernel: 1000000000", ["backbone.pos_conv_kernel must be in 1..4096, got 10"]),
        ("pos_conv_kernel: 4", "pos_conv_groups: 1000000000", ["backbone.pos_conv_groups must be in 1..8192, got 10"]),
        (
            "pos_conv_kernel: 4",
            "gate_width: 1000000000",
            ["gate_width must be 0 (no position bias) or up to 8192"],
        ),
        ("pos_conv_kernel: 4", "num_buckets: 4000000000", ["backbone.num_buckets must be in 1..65536, got 4000000000"]),
        ("pos_conv_kernel: 4", "max_distance: 100000000", ["backbone.max_distance must be in 1..10000000, got 1000"]),
        ("conv_kernels: [4, 2]", "conv_kernels: [4, 10000000]", ["must be in 1..4096, got [4, 10000000], [4, 2]"]),
        ("conv_strides: [4, 2]", "conv_strides: [4, 5000]", ["must be in 1..4096, got [4, 2], [4, 5000]"]),
        (
            "head_dim: 8, conv_kernels: [4, 2], conv_strides: [4, 2]",
            f"conv_kernels: {[2] * 300}, conv_strides: {[1] * 300}",
            ["must pair up, 1 to 256 of each, got 300 and 300"],
        ),
        (  # each number is allowed, and together they are too many
            "embed_dim: [16, 32]\nheads: [1, 2]",
            "embed_dim: [16, 8192]\nheads: [1, 8000]",
            ["the largest subnet has 4,2", " parameters; at most 4,000,000,000 are allowed"],
        ),
        (
            "pos_conv_kernel: 4",
            "pos_conv_kernel: 4, gate_width: 24, num_buckets: 6",
            ["gate_width must be the widest embed_dim (", "got 24", "num_buckets must be a positive multiple of 4"],
        ),
        ("pos_conv_kernel: 4", "pos_conv_kernel: 4, gate_width: -1", ["gate_width must be 0 (no position bias)"]),
        (
            "name: mine",
            "slicing: lighthubert\nname: mine",
            ["an FFN of 32 at width 16 needs 64 in the widest, which has 32; give ffn_ratio, or slicing aligned"],
        ),
        ("name: ", "slicing: sideways\nname: ", ["slicing", "aligned"]),
        (
            "heads: [1, 2]\nffn_dim: [16, 32]",
            f"heads: {list(range(1, 900, 2))}\nffn_dim: {list(range(1, 8000, 3))}",
            ["heads and FFN widths give up to", "offer fewer choices, or multiples of a common step"],
        ),
    ],
)
def test_what_is_wrong_with_a_space_is_told(tmp_path, old, new, messages):
    assert old in GOOD
    text = GOOD.replace(old, new)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / 'mine.yaml'))}:") as error:
        load(tmp_path, text)
    for message in messages:
        assert message in str(error.value)


def test_too_many_front_ends_are_refused(tmp_path):
    text = GOOD.replace("[[8, 16], [8]]", f"[{list(range(1, 201))}, {list(range(1, 201))}]")
    with pytest.raises(ValueError, match="conv_dims gives 40,000 front-ends; at most 20,000"):
        load(tmp_path, text)


def test_an_unknown_space_is_told_with_the_shipped_ones():
    with pytest.raises(ValueError, match=r"no space `bse`; did you mean `base`\? there are base, .*tiny; or give"):
        SearchSpace.load("bse")
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file"):
        SearchSpace.load("nowhere.yaml")
