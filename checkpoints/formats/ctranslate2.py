"""Tensors out of CTranslate2's files, such as those that faster-whisper uses. They hold data alone, no pickle.

A file: u32 version, name of the network, u32 its revision, u32 number of tensors; of each tensor its name, u8 rank,
u32 sizes, u8 type, u32 bytes, the bytes; u32 number of further names, and of each the name and the tensor's. A text is
u16 letters, the terminating zero among them, and the letters. All little-endian.

Source: `python/ctranslate2/specs/model_spec.py` of OpenNMT/CTranslate2 (MIT).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from checkpoints.formats.stand_ins import WeightFileError
from checkpoints.formats.weight_files import MAX_FILE_BYTES, MAX_NAME

WEIGHTS = "model.bin"
VERSIONS = (4, 5, 6)
"""Of the layout; before 4 it was another, and 6 is the newest."""
MAX_RANK = 8
TYPES = ("<f4", "<i1", "<i2", "<i4", "<f2", "bfloat16")
"""By their number in a file."""

_START = re.compile(rb".\0\0\0.\0(\w{1,60}Spec)\0", re.DOTALL)


def find_ctranslate2(path: Path) -> Path | None:
    """The file of CTranslate2 that a path is, or that the folder there holds; known by how it begins."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        return file if _START.match(opened.read(80)) else None


def read_ctranslate2(path: Path, network: str, part: str) -> dict[str, Tensor]:
    """The tensors of a part of a file, by name; what is quantised comes in fp32.

    Args:
        path: As `find_ctranslate2` finds it.
        network: What CTranslate2 calls the network that is wanted, such as `WhisperSpec`.
        part: How the names of the tensors begin that are wanted, such as `encoder/`; the others are passed over.

    Raises:
        WeightFileError: The file is truncated, damaged, of another network or version, or refused.
    """
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise WeightFileError(f"{path} is refused: {size:,} bytes, and at most {MAX_FILE_BYTES:,}")
    with path.open("rb") as file:
        reader = _Reader(path, file, size)
        version = reader.number("I")
        if version not in VERSIONS:
            raise WeightFileError(
                f"{path} has version {version} of CTranslate2's layout; {VERSIONS[0]} to {VERSIONS[-1]} are read"
            )
        if (found := reader.text()) != network:
            raise WeightFileError(f"{path} is a {found} of CTranslate2; {network} is wanted")
        reader.number("I")  # the network's revision: names and shapes are checked by who asks
        tensors = {}
        for _ in range(reader.number("I")):
            name = reader.text()
            tensor = reader.tensor(name, wanted=name.startswith(part))
            if name in tensors:
                raise WeightFileError(f"{path} is damaged: it has {name} twice")
            if tensor is not None:
                tensors[name] = tensor
        for _ in range(reader.number("I")):
            alias, name = reader.text(), reader.text()
            for end in ("", "_scale"):
                if alias.startswith(part) and name + end in tensors:
                    tensors[alias + end] = tensors[name + end]
        if rest := size - file.tell():
            raise WeightFileError(f"{path} is damaged: {rest:,} bytes are behind its end")
    return {
        name: _dequantise(name, tensor, tensors, path)
        for name, tensor in tensors.items()
        if not (name.endswith("_scale") and name.removesuffix("_scale") in tensors)
    }


def _dequantise(name: str, tensor: Tensor, tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """A tensor, divided by its scale if it has one: a number for each row, or one for all."""
    scale = tensors.get(f"{name}_scale")
    if scale is None:
        return tensor
    if scale.shape not in ((), (1,), tensor.shape[:1]) or not (scale.isfinite() & (scale > 0)).all():
        raise WeightFileError(
            f"{path} is damaged: the scale of {name}, of shape {list(tensor.shape)}, should be a positive number, or "
            f"one for each row, and is of shape {list(scale.shape)}"
        )
    return tensor.float() / scale.float().reshape(-1, *[1] * (tensor.dim() - 1))


class _Reader:
    """What a file holds, piece by piece; nothing that it says is believed before it is there.

    Args:
        path: The file's, for errors.
        file: At its start.
        size: Its bytes.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.size - self.file.tell():
            raise WeightFileError(f"{self.path} is truncated: {self.size:,} bytes are left of it")
        return self.file.read(count)

    def number(self, kind: str) -> int:
        """The next number; B, H or I for one, two or four bytes."""
        return int(struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0])

    def text(self) -> str:
        """The next name."""
        letters = self.take(self.number("H"))
        text = letters[:-1].decode("ascii", "replace")
        if letters[-1:] != b"\0" or not text.isprintable() or not 0 < len(text) <= MAX_NAME:
            raise WeightFileError(f"{self.path} is damaged: {letters[:60]!a} is no name")
        return text

    def tensor(self, name: str, wanted: bool) -> Tensor | None:
        """The next tensor; None, and only passed over, if it is not wanted."""
        rank = self.number("B")
        if rank > MAX_RANK:
            raise WeightFileError(f"{self.path} is damaged: {name} has {rank} axes; at most {MAX_RANK} are read")
        shape = [self.number("I") for _ in range(rank)]
        kind, count = self.number("B"), self.number("I")
        if kind >= len(TYPES):
            raise WeightFileError(f"{self.path} is damaged: {name} is of type {kind}; 0 to {len(TYPES) - 1} are known")
        is_bf16 = TYPES[kind] == "bfloat16"
        dtype = np.dtype("<i2" if is_bf16 else TYPES[kind])
        if (needed := prod(shape) * dtype.itemsize) != count:
            raise WeightFileError(
                f"{self.path} is damaged: {name} of shape {str(shape)[:80]} has {count:,} bytes; it should have "
                f"{needed:,}"
            )
        if count > self.size - self.file.tell():
            self.take(count)  # says so
        if not wanted:
            self.file.seek(count, 1)
            return None
        values = np.frombuffer(self.take(count), dtype).copy()
        tensor = torch.from_numpy(values).reshape(shape)
        return tensor.view(torch.bfloat16) if is_bf16 else tensor
