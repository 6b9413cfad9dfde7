"""A folder that is not what its manifest lists is noticed before it is used."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from checkpoints.export import CODE, TEACHER_FILES, export_subnet, write_encoder
from checkpoints.formats.hugging_face import TeacherError
from checkpoints.locations import DEMO_TEACHER
from checkpoints.manifest import (
    MANIFEST,
    ManifestError,
    check_file,
    check_manifest,
    extend_manifest,
    is_card,
    list_manifest,
    write_manifest,
)
from checkpoints.saving import save_encoder
from checkpoints.teachers import load_encoder
from nestling.reports.model_card import ExportRecord, model_card
from search_spaces.budget import Budget
from supernet.model import Supernet
from tests.encoders import make_encoder, randomize
from tests.spaces import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x").mkdir()
    for name in ("b.json", "a.bin", "README.md"):
        (tmp_path / "x" / name).write_text(name)
    write_manifest(tmp_path / "x")
    return tmp_path / "x"


def refusal(folder: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        check_manifest(folder)
    assert str(caught.value).endswith("Get the folder again; or, if the change is meant, delete SHA256SUMS")
    return str(caught.value)


def test_the_format_is_that_of_sha256sum(folder: Path) -> None:
    ours = (folder / MANIFEST).read_bytes()
    check = subprocess.run(["sha256sum", "-c", MANIFEST], cwd=folder, capture_output=True, text=True, check=True)
    assert check.stdout == "a.bin: OK\nb.json: OK\n"
    theirs = subprocess.run(["sha256sum", "a.bin", "b.json"], cwd=folder, capture_output=True, check=True)
    assert theirs.stdout == ours


def test_what_is_added_is_listed_and_the_rest_stays_as_it_was(folder: Path) -> None:
    (folder / "aa.onnx").write_text("new")
    (folder / "b.json").write_text("damaged")
    extend_manifest(folder, ["aa.onnx"])
    assert "b.json differs. Get" in refusal(folder)
    (folder / "b.json").write_text("b.json")
    check_manifest(folder)
    (folder / MANIFEST).unlink()
    extend_manifest(folder, ["aa.onnx"])
    assert not (folder / MANIFEST).exists()


def test_what_is_no_part_of_the_model_may_change(folder: Path) -> None:
    (folder / "README.md").write_text("my own words")
    (folder / ".gitattributes").touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").touch()
    check_manifest(folder)
    before = (folder / MANIFEST).read_bytes()
    write_manifest(folder)
    assert (folder / MANIFEST).read_bytes() == before
    (folder / MANIFEST).unlink()
    (folder / "a.bin").write_text("other")
    check_manifest(folder)


def test_every_difference_is_named(folder: Path) -> None:
    (folder / "a.bin").write_text("A.bin")
    assert f"{folder} is not what its SHA256SUMS lists: a.bin differs. Get" in refusal(folder)
    (folder / "c.txt").touch()
    (folder / "b.json").unlink()
    assert "lists: a.bin differs, b.json is missing, c.txt is not listed. Get" in refusal(folder)
    (folder / "d.txt").touch()
    (folder / "e.txt").touch()
    assert "lists: a.bin differs, b.json is missing, c.txt is not listed, and 2 more. Get" in refusal(folder)


def test_the_manifest_itself(folder: Path) -> None:
    good = (folder / MANIFEST).read_text()
    first, second = good.splitlines()
    for text, message in {
        good.rstrip("\n"): "SHA256SUMS itself is damaged",
        good.replace("\n", "\r\n"): "SHA256SUMS itself is damaged",
        f"{second}\n{first}\n": "SHA256SUMS itself is damaged",
        f"{good}\n": "SHA256SUMS itself is damaged",
        f"{good}{first}\n": "SHA256SUMS itself is damaged",
        good.upper().replace("A.BIN", "a.bin").replace("B.JSON", "b.json"): "a.bin differs, b.json differs",
        good.replace("  a.bin", " *a.bin"): "a.bin is not listed",
        f"{first}\n": "b.json is not listed",
        "": "a.bin is not listed, b.json is not listed",
        "\x1b[2J  \x1b[2J\n" + good: "x1b[2J is missing",
    }.items():
        (folder / MANIFEST).write_text(text, newline="")
        assert message in refusal(folder)
        assert refusal(folder).isprintable()


def test_a_manifest_has_at_most_a_mebibyte(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 1024 * 1024)
    assert "SHA256SUMS lists: " in refusal(folder)
    os.truncate(folder / MANIFEST, 1024 * 1024 + 1)
    with pytest.raises(ManifestError) as caught:
        check_manifest(folder)
    assert str(caught.value) == (
        f"{folder / MANIFEST} is no manifest: 1,048,577 bytes, and at most 1,048,576 are read. Get the folder "
        "again, or delete that file"
    )


def test_a_manifest_is_a_file(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(ManifestError) as caught:
        check_manifest(folder)
    assert str(caught.value) == (
        f"{folder / MANIFEST} is no manifest, not even a file; get the folder again, or delete that"
    )


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("README.md", True),
        ("README.md.previous", True),
        ("README.md.previous-2", True),
        ("README.md.previous-10", True),
        ("README.md.previous-", False),
        ("README.md.previous-2.bak", False),
        ("README-md", False),
        ("README.mdxprevious", False),
        ("a.bin", False),
    ],
)
def test_cards_are_known_by_their_names(folder: Path, name: str, is_one: bool) -> None:
    assert is_card(name) is is_one
    (folder / name).write_text("changed")
    if is_one:
        check_manifest(folder)
    else:
        refusal(folder)


def test_only_names_of_the_folders_own_files_are_listed(folder: Path) -> None:
    with (folder / MANIFEST).open("a") as file:
        file.write("00  ../c\n00  /etc/passwd\n00  d/e\ntorn")
    assert list_manifest(folder) == ["a.bin", "b.json"]
    (folder / MANIFEST).unlink()
    assert list_manifest(folder) == []


def test_folders_of_ours_have_one(tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path / "plain")
    write_encoder(make_encoder(heads=(4, 2)), tmp_path / "other")
    for name, files in {"plain": 3, "other": 3 + len(CODE)}.items():
        folder = tmp_path / name
        assert len((folder / MANIFEST).read_text().splitlines()) == files
        load_encoder(folder)
        with (folder / "config.json").open("a") as file:
            file.write(" ")
        with pytest.raises(TeacherError, match=r"SHA256SUMS lists: config.json differs"):
            load_encoder(folder)
        (folder / MANIFEST).unlink()
        load_encoder(folder)
    save_encoder(make_encoder(1), tmp_path / "plain")  # over what is there
    load_encoder(tmp_path / "plain")


def test_the_demo_teacher_is_whole() -> None:
    assert (DEMO_TEACHER / MANIFEST).is_file()
    check_manifest(DEMO_TEACHER)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    supernet = Supernet(small("tiny"), torch.Generator())
    randomize(supernet.container)
    subnet = supernet.space.sample(random.Random(5))
    folder = tmp_path_factory.mktemp("export") / "x"
    assert not export_subnet(supernet, subnet, folder, budget=Budget(), card=model_card(ExportRecord())).plain
    yield folder
    load_encoder(folder)  # the tests left it whole


def listed_files(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.iterdir()) if path.name != "README.md"]
    assert len(paths) == len(CODE) + len(TEACHER_FILES) + 1
    return paths


def test_every_flipped_bit_is_noticed(export: Path) -> None:
    rng, paths = random.Random(0), listed_files(export)
    for i in range(1000):
        path = paths[i % len(paths)]
        good = path.read_bytes()
        bit = rng.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(TeacherError, match="is not what its SHA256SUMS lists"):
            load_encoder(export)
        path.write_bytes(good)


def test_every_truncation_is_noticed(export: Path) -> None:
    rng, paths = random.Random(1), listed_files(export)
    for i in range(1000):
        path = paths[i % len(paths)]
        good = path.read_bytes()
        path.write_bytes(good[: rng.randrange(len(good))])
        with pytest.raises(TeacherError, match="is not what its SHA256SUMS lists"):
            load_encoder(export)
        path.write_bytes(good)


def test_without_a_manifest_most_flipped_bits_are_not_noticed(export: Path, tmp_path: Path) -> None:
    """Otherwise the two tests above would show nothing."""
    folder = shutil.copytree(export, tmp_path / "x", ignore=shutil.ignore_patterns(MANIFEST))
    rng, path = random.Random(0), folder / "model.safetensors"
    good = path.read_bytes()
    for _ in range(20):
        bad = bytearray(good)
        bad[rng.randrange(len(good) // 2, len(good))] ^= 1
        path.write_bytes(bad)
        load_encoder(folder)


def test_one_file_alone_is_checked_too(tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path)
    weights = tmp_path / "model.safetensors"
    load_encoder(weights)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(TeacherError, match=r"model\.safetensors is not what SHA256SUMS beside it lists"):
        load_encoder(weights)
    (tmp_path / MANIFEST).write_bytes(b"torn")
    check_file(weights)  # the folder's check says what is wrong with the manifest
    extend_manifest(tmp_path, [])
    assert "model.safetensors is not listed" in refusal_of_any_kind(tmp_path)


def refusal_of_any_kind(folder: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        check_manifest(folder)
    return str(caught.value)
