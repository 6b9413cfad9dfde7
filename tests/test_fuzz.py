"""Whatever arrives in a file, it is read or refused with a `ValueError` of a few lines, in little time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch

from checkpoints.export import write_encoder
from checkpoints.formats.config_json import normalizes_waveform, read_config, read_json
from checkpoints.formats.hugging_face import TeacherError
from checkpoints.formats.stand_ins import plain
from checkpoints.formats.weight_files import read_checkpoint, read_folder_weights, read_safetensors
from checkpoints.manifest import check_manifest, write_manifest
from checkpoints.saving import save_encoder
from checkpoints.teachers import load_encoder
from distillation.stages import RECIPES, load_recipe
from nestling.workflows.search_result import load_subnet
from search_spaces.budget import Budget
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from tests.encoders import make_encoder

MUTATED_BYTES = 10_000
"""Replaced, inserted or removed for each parser, in some 800 inputs."""
MAX_SECONDS = 5.0
MAX_LENGTH = 3000
"""Letters of an error message: a YAML file has a line for each of its problems."""

TOKENS = (
    *(b"-", b"0", b"9", b"-1", b"1.5", b"1e999", b"99999999999", b"NaN", b"null", b"true", b'"', b'""', b"\n", b" "),
    *(b"[", b"]", b"{", b"}", b"[]", b"{}", b":", b",", b"@", b"%", b"M", b"|", b">", b"? ", b"&a ", b"*a ", b"<<"),
    *(b"!!timestamp ", b"!!int ", b"!!float ", b"!!bool ", b"!!binary ", b"!!set ", b"!!omap ", b"\x00", b"\xff"),
)
"""What means something to one of the parsers."""

Parser = tuple[bytes, Callable[[bytes], Any]]


def mutate(data: bytes, rng: Random) -> tuple[bytes, int]:
    """Other data, and how many bytes were replaced, inserted or removed."""
    changed, count = bytearray(data), 0
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, size = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 8, 32))
        taken = rng.choice((0, 1, size))
        kind = rng.choice(("random", "token", "copy", "nothing"))
        copied = rng.randrange(len(changed) + 1)
        put = {
            "random": rng.randbytes(size),
            "token": rng.choice(TOKENS),
            "copy": changed[copied : copied + size],
            "nothing": b"",
        }[kind]
        count += max(len(put), len(changed[start : start + taken]))
        changed[start : start + taken] = put
    if rng.random() < 0.1:
        del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed), count


def parse_file(path: Path, parse: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    def run(data: bytes) -> Any:
        path.write_bytes(data)
        return parse(path)

    return run


def in_folder(folder: Path, name: str, parse: Callable[[Path], Any]) -> Parser:
    """The parser of one file of a folder, the others being as they should."""
    return (folder / name).read_bytes(), parse_file(folder / name, lambda path: parse(path.parent))


def parse_config(path: Path) -> Any:
    return read_config(read_json(path), False, str(path))


def make_hubert_config(folder: Path) -> Parser:
    save_encoder(make_encoder(), folder)
    return (folder / "config.json").read_bytes(), parse_file(folder / "config.json", parse_config)


def make_nestling_config(folder: Path) -> Parser:
    write_encoder(make_encoder(heads=(4, 2)), folder)
    return (folder / "config.json").read_bytes(), parse_file(folder / "config.json", parse_config)


def make_encoder_folder(folder: Path) -> Parser:
    write_encoder(make_encoder(heads=(4, 2)), folder)
    (folder / "SHA256SUMS").unlink()
    return in_folder(folder, "config.json", load_encoder)


def make_preprocessor(folder: Path) -> Parser:
    save_encoder(make_encoder(), folder)
    return in_folder(folder, "preprocessor_config.json", normalizes_waveform)


def make_processor(folder: Path) -> Parser:
    (folder / "processor_config.json").write_text(
        json.dumps({"feature_extractor": {"do_normalize": True, "sampling_rate": 16000}, "processor_class": "P"})
    )
    return in_folder(folder, "processor_config.json", normalizes_waveform)


def make_safetensors(folder: Path) -> Parser:
    data = safetensors.torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}, {"format": "pt"})
    return data, parse_file(folder / "x.safetensors", read_safetensors)


def make_index(folder: Path) -> Parser:
    (folder / "m-1.safetensors").write_bytes(safetensors.torch.save({"a": torch.ones(2)}))
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "m-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return in_folder(folder, "model.safetensors.index.json", read_folder_weights)


def make_checkpoint(folder: Path, zipped: bool) -> Parser:
    value = {"model": {"w": torch.arange(6.0).view(2, 3)}, "cfg": [1, 2.5, "x", None, True], "p": torch.nn.Parameter()}
    torch.save(value, folder / "x.pt", _use_new_zipfile_serialization=zipped)
    return (folder / "x.pt").read_bytes(), parse_file(folder / "x.pt", lambda path: plain(read_checkpoint(path)))


def make_manifest(folder: Path) -> Parser:
    save_encoder(make_encoder(), folder)
    write_manifest(folder)
    return in_folder(folder, "SHA256SUMS", check_manifest)


def open_subnet(path: Path) -> Subnet:
    return load_subnet(path, SearchSpace.load("tiny"))


def make_subnet(folder: Path) -> Parser:
    values = {"schema_version": 1, "subnet": SearchSpace.load("tiny").smallest().to_dict()}
    return json.dumps(values).encode(), parse_file(folder / "subnet.json", open_subnet)


def make_space(folder: Path, name: str) -> Parser:
    path = folder / "space.yaml"
    return Path(f"search_spaces/{name}.yaml").read_bytes(), parse_file(path, SearchSpace.load)


def make_recipe(folder: Path, name: str) -> Parser:
    return (RECIPES / f"{name}.yaml").read_bytes(), parse_file(folder / "recipe.yaml", load_recipe)


def make_budget(_: Path) -> Parser:
    space = SearchSpace.load("tiny")
    text = b"params=24M..25M, macs<=2G@1s, flops<=4G@1s, size<=50MB, latency<=30ms@2s, 60%"
    return text, lambda data: Budget.parse(data.decode("latin-1"), space)


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "config of a HubertModel": make_hubert_config,
    "config of an export": make_nestling_config,
    "encoder folder": make_encoder_folder,
    "preprocessor": make_preprocessor,
    "processor": make_processor,
    "safetensors": make_safetensors,
    "safetensors index": make_index,
    "checkpoint": lambda folder: make_checkpoint(folder, zipped=True),
    "checkpoint of before 1.6": lambda folder: make_checkpoint(folder, zipped=False),
    "manifest": make_manifest,
    "subnet": make_subnet,
    "space": lambda folder: make_space(folder, "tiny"),
    "space with ratios": lambda folder: make_space(folder, "lighthubert-small"),
    "recipe": lambda folder: make_recipe(folder, "demo"),
    "budget": make_budget,
}


@pytest.mark.parametrize("parser", PARSERS)
def test_mutations_are_read_or_refused(tmp_path: Path, parser: str) -> None:
    valid, parse = PARSERS[parser](tmp_path)
    parse(valid)
    rng, count, refused = Random(parser), 0, 0
    while count < MUTATED_BYTES:
        data, changed = mutate(valid, rng)
        count += changed
        start = time.perf_counter()
        message = ""
        try:
            parse(data)
        except ValueError as error:
            message = str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} from {data!r}") from error
        assert len(message) <= MAX_LENGTH, data
        assert time.perf_counter() - start < MAX_SECONDS, data
    assert refused > 100


# What mutations have found, and what they would hardly find


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: !!bool x", "line 1: the tag 'tag:yaml.org,2002:bool' is not allowed; write the value alone"),
        ("name: !!timestamp x", "is not allowed"),
        ("name: !!float x", "is not allowed"),
        ("name: !!binary eA==", "is not allowed"),
        ("name: !!set {a, b}", "is not allowed"),
        ("!!binary eA==: 1", "is not allowed"),
        ("!!seq a: 1", "is not allowed"),
        ("name: ! x", "the tag '!' is not allowed"),
        ("name: !!python/object/apply:os.system [ls]", "is not allowed"),
        ("name: " + "[" * 1500, "nested too deeply"),
    ],
)
def test_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    for load in (SearchSpace.load, load_recipe):
        with pytest.raises(ValueError, match=r"x\.yaml") as caught:
            load(tmp_path / "x.yaml")
        assert message in str(caught.value)


def test_a_space_of_a_billion_layers() -> None:
    values = SearchSpace.load("tiny").to_dict() | {"depth": {"1": [[0]], "1000000000": [[0]]}}
    with pytest.raises(ValueError, match="depth must be at most 256 layers, got 1000000000"):
        SearchSpace.from_dict(values)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "3", '{"subnet": 3}', '{"subnet": []}', "[" * 100_000, "9" * 5000, '{"embed_dim": 1e999}'],
)
def test_subnets(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json holds no subnet of tiny: "):
        open_subnet(tmp_path / "x.json")
    values = SearchSpace.load("tiny").smallest().to_dict() | {"embed_dim": float("inf")}
    (tmp_path / "x.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"x\.json holds no subnet of tiny: "):
        open_subnet(tmp_path / "x.json")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(TeacherError, match=r"config\.json is not JSON"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(" " * (5 << 20))
    with pytest.raises(TeacherError, match=r"config\.json is too large: 5,242,880 bytes; at most 4,194,304 are read"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("value", ["x", [1], 3])
def test_processors(tmp_path: Path, value: Any) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": value}))
    with pytest.raises(TeacherError, match=r"feature_extractor=.* of processor_config.json is no object"):
        normalizes_waveform(tmp_path)
