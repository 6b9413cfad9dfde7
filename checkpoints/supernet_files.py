"""The supernet of a run: its weights, and beside them its space and where it comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from checkpoints.run_config import RunError, check_format
from search_spaces.errors import NestlingError
from search_spaces.files import hash_file, write_file
from search_spaces.space import SearchSpace
from search_spaces.strict_json import MAX_BYTES, MOST, load_json
from search_spaces.strict_yaml import parse_config, read_text
from supernet.model import Supernet

SCHEMA_VERSION = 1
WEIGHTS, DESCRIPTION = "supernet.safetensors", "supernet.json"


@dataclass(frozen=True)
class SupernetRecord:
    """Where a supernet comes from."""

    teacher: str | None = None
    """Name of the teacher: its folder's, or that on the hub."""
    license: str | None = None
    """The teacher's licence, as its model card names it."""
    data: str | None = None
    """Hash of the audio it was trained on."""
    revision: str | None = None
    """The teacher's commit, if it is of the hub."""
    teacher_hash: str | None = None
    """Of the teacher's shape and weights."""


@dataclass(frozen=True)
class _Entry:
    """What supernet.json says of the weights beside it."""

    schema_version: int
    sha256: str
    space: SearchSpace
    space_hash: str
    teacher: str | None
    license: str | None
    data: str | None
    revision: str | None = None
    teacher_hash: str | None = None

    def __post_init__(self) -> None:
        if self.space.hash != self.space_hash:
            raise NestlingError("space is not the one that space_hash names")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(_Entry)} | {"space": self.space.to_dict()}


@dataclass(frozen=True)
class _Description(_Entry):
    """All of supernet.json."""

    replaces: _Entry | None = None
    """Described are both, until the weights that this one is of are renamed into place."""


def write_supernet(folder: Path, supernet: Supernet, record: SupernetRecord) -> None:
    """Writes a supernet's weights and space, replacing those of an earlier step.

    Raises:
        FailedError: The disk refused; the earlier supernet is untouched.
    """
    data = safetensors.torch.save(supernet.state_dict(), metadata={"format": "pt"})
    entry = {
        "schema_version": SCHEMA_VERSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "space": supernet.space.to_dict(),
        "space_hash": supernet.space.hash,
        **asdict(record),
    }
    # Until the weights are renamed, the description is of both the old ones and the new ones.
    try:
        old = _read_entry(folder)
    except NestlingError:  # there is none, or none worth keeping
        old = None
    _write_description(folder, {**entry, "replaces": old and old.to_dict()})
    write_file(folder / WEIGHTS, data)
    _write_description(folder, entry)


def read_supernet(folder: Path) -> Supernet:
    """The supernet that `write_supernet` wrote.

    Raises:
        RunError: There is none, it is damaged, or another version wrote it.
    """
    entry = _read_entry(folder)
    supernet = Supernet(entry.space, torch.Generator())
    try:
        supernet.load_state_dict(safetensors.torch.load((folder / WEIGHTS).read_bytes()))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise RunError(f"{folder / WEIGHTS} does not hold the weights of `space` in {folder / DESCRIPTION}") from error
    return supernet


def read_record(folder: Path) -> SupernetRecord:
    """Where a supernet comes from; raises as `read_supernet` does."""
    entry = _read_entry(folder)
    return SupernetRecord(entry.teacher, entry.license, entry.data, entry.revision, entry.teacher_hash)


def _read_entry(folder: Path) -> _Entry:
    """The part of supernet.json that describes the weights that are there."""
    weights, path = folder / WEIGHTS, folder / DESCRIPTION
    if not weights.exists():
        raise RunError(f"{folder} has no supernet yet; finish its training, or name another run")
    digest = hash_file(weights)
    values = load_json(read_text(path, MAX_BYTES), str(path))
    try:
        check_format(values if isinstance(values, dict) else {}, SCHEMA_VERSION, "schema_version")
    except NestlingError as error:
        raise RunError(f"{path}: {error}") from error
    newest = parse_config(_Description, values, str(path), most=MOST)
    for entry in (newest, newest.replaces):
        if entry and entry.sha256 == digest:
            return entry
    raise RunError(f"{weights} is damaged: it fails the SHA-256 of supernet.json")


def _write_description(folder: Path, entry: Mapping[str, Any]) -> None:
    write_file(folder / DESCRIPTION, json.dumps(entry, indent=2) + "\n")
