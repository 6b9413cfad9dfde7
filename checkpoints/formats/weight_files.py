"""Tensors out of files of others: safetensors, and what `torch.save` writes. Nothing in a file is ever run.

A pickle is read by torch's own safe reader (`weights_only=True`) and by nothing else, after its names were checked;
see `stand_ins`. There is no way to have it read otherwise. Whatever is wrong with a file comes out as one
`WeightFileError` of a few lines. Whether the numbers are finite and of the right shape is the caller's question.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from checkpoints.formats.stand_ins import StandIn, WeightFileError, list_globals, make_stand_ins

MAX_FILE_BYTES = 32 << 30
"""The largest file that is opened: a speech model of a billion parameters with its optimiser's state takes 12 GB."""
MAX_PICKLE_BYTES = 16 << 20
"""Of a checkpoint's pickle: names, shapes and configuration. HuBERT-large's takes 0.1 MB."""
MAX_SHARING = 64
"""All tensors of a file together, in multiples of the file: layers can share their numbers."""
MAX_SHARDS = 256
"""Files that an index may name."""
MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file, as its own reader has it."""
MAX_INDEX_BYTES = 16 << 20
MAX_NAME = 300
"""Letters of a tensor's name."""

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
"""How files begin that torch wrote before 1.6, or was asked to write so."""
_LEGACY_PICKLES = 5
"""Magic number, version, machine, the object, the keys of its storages; then the storages themselves."""
_POINTER = b"version https://git-lfs"
_STORED = ("model.safetensors", "pytorch_model.bin")
"""What holds a folder's weights, unless there are several files and an index of them; in the order looked for."""


def read_checkpoint(path: Path) -> Any:
    """What `torch.save` wrote to a file (`.pt`, `.pth`, `.bin`), on the CPU, without running any of it.

    Returns:
        Dictionaries, lists, tensors and plain values; a `StandIn` where fairseq, omegaconf or argparse had an object
        (`stand_ins.plain` writes it out). Every tensor is dense and lies within the file.

    Raises:
        WeightFileError: The file is truncated, damaged, no checkpoint, or refused.
    """
    _check_file(path)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how old the file is
        start = file.read(len(_LEGACY))
        if start.startswith(_ZIP):
            names = list_globals(io.BytesIO(_read_zipped_pickle(path, file)), str(path))
        elif start == _LEGACY:
            names = _list_legacy_globals(path, file)
        elif _LEGACY.startswith(start):
            raise WeightFileError(f"{path} is truncated: {len(start)} bytes are left of it")
        else:
            raise WeightFileError(f"{path} is no checkpoint that torch.save writes{_guess(start)}")
        file.seek(0)
        try:
            with _safe_names(make_stand_ins(names)):
                loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
        except Exception as error:  # a damaged file fails in a dozen ways
            truncated = isinstance(error, EOFError) or "unexpected EOF" in str(error)
            what = "truncated" if truncated else f"damaged, or not what torch.save writes ({type(error).__name__})"
            raise WeightFileError(f"{path} is {what}") from error
    _check_tensors(loaded, path)
    return loaded


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        WeightFileError: The file is truncated, damaged or something else.
    """
    size = _check_file(path)
    with path.open("rb") as file:
        start = file.read(9)
    header = 8 + int.from_bytes(start[:8], "little")
    if len(start) < 9 or (start[8:] == b"{" and header > size):
        raise WeightFileError(f"{path} is truncated: {size:,} bytes, and its header alone should have {header:,}")
    if start[8:] != b"{":
        raise WeightFileError(f"{path} is no safetensors file{_guess(start)}")
    try:
        weights = safetensors.torch.load_file(path)
    except Exception as error:  # a damaged file fails in a dozen ways
        wanted = _count_wanted_bytes(path, header)
        if size < wanted:
            raise WeightFileError(f"{path} is truncated: {size:,} bytes are left of {wanted:,}") from error
        reason = " ".join(str(error).split())[:150]
        raise WeightFileError(f"{path} is damaged ({reason})") from error
    return _check_names(weights, path)


def _count_wanted_bytes(path: Path, header: int) -> int:
    """The size that the header of a safetensors file speaks of; 0 if it cannot be read, or is no header's size."""
    if header > MAX_HEADER_BYTES:
        return 0
    with path.open("rb") as file:
        text = file.read(header)[8:]
    try:
        entries = json.loads(text)
        return header + max(int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError):
        return 0


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder in Hugging Face format by name.

    Read is the first that is there of: model.safetensors, safetensors in several files (by their index),
    pytorch_model.bin, the same in several files.

    Raises:
        WeightFileError: There is none, or a file is truncated, damaged, or refused.
    """
    for name in _STORED:
        path, index = folder / name, folder / f"{name}.index.json"
        if path.is_file():
            return _read_weights(path)
        if index.is_file():
            return _read_shards(index)
    raise WeightFileError(
        f"{folder} has no weights: {' or '.join(_STORED)} is wanted, or the index of either in several files"
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    weights = read_checkpoint(path)
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise WeightFileError(f"{path} holds something else than tensors by name")
    return {name: weight.detach() for name, weight in _check_names(weights, path).items()}


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all the files that an index names."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise WeightFileError(f"{index} is refused: {index.stat().st_size:,} bytes, and at most {MAX_INDEX_BYTES:,}")
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(files.values()))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise WeightFileError(f"{index} is damaged: it has no `weight_map` from tensors to files") from error
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    for shard in shards:
        plain = isinstance(shard, str) and shard.isprintable() and Path(shard).name == shard and "\\" not in shard
        if not plain or not shard.endswith(f".{suffix}"):
            raise WeightFileError(
                f"{index} is refused: it names {ascii(shard)[:80]}, which is no {suffix} file beside it"
            )
    if len(shards) > MAX_SHARDS:
        raise WeightFileError(f"{index} is refused: it names {len(shards):,} files, and at most {MAX_SHARDS}")
    weights: dict[str, Tensor] = {}
    for shard in shards:
        held = _read_weights(index.with_name(shard))
        wanted = {name for name, file in files.items() if file == shard}
        if held.keys() != wanted:
            name = min(held.keys() ^ wanted)
            fault = "holds" if name in held else "lacks"
            raise WeightFileError(f"{index.with_name(shard)} {fault} {name}, against {index.name}")
        weights |= held
    return weights


@contextmanager
def _safe_names(stand_ins: Sequence[Any]) -> Iterator[None]:
    """Lets torch's safe reader take these and its own, and nothing that other code has registered with it."""
    registered = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(stand_ins))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(registered)


def _check_file(path: Path) -> int:
    """The bytes of a file."""
    if not path.is_file():
        raise WeightFileError(f"there is no file {path}")
    size = path.stat().st_size
    if not size:
        raise WeightFileError(f"{path} is truncated: it is empty")
    if size > MAX_FILE_BYTES:
        raise WeightFileError(f"{path} is refused: {size:,} bytes, and at most {MAX_FILE_BYTES:,}")
    return size


def _guess(start: bytes) -> str:
    """What else a file may be, by how it begins."""
    if _POINTER.startswith(start[: len(_POINTER)]):
        return ", but a pointer of Git LFS: fetch the file itself with `git lfs pull`"
    if start.startswith(_ZIP):
        return ", but a zip archive; if torch.save wrote it, name it .bin or .pt"
    if start.startswith(b"\x80"):
        return ", but a bare pickle, which could hold anything"
    return ""


def _read_zipped_pickle(path: Path, file: BinaryIO) -> bytes:
    """The pickle of a zip archive, once the archive is as plain as torch writes it.

    torch reads archives with another library, so nothing is let through that two readers could see differently.
    """
    size = path.stat().st_size
    file.seek(max(0, size - 22))
    end = file.read()
    if not (end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")):
        raise WeightFileError(f"{path} is truncated or damaged: it begins as a zip archive and does not end as one")
    try:
        with zipfile.ZipFile(file) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            _check_members(members, path, size)
            if name := archive.testzip():
                raise WeightFileError(f"{path} is damaged: {ascii(name)[:80]} does not match its checksum")
            return archive.read(f"{members[0].filename.partition('/')[0]}/data.pkl")
    except WeightFileError:
        raise
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise WeightFileError(f"{path} is damaged: it is no whole zip archive ({type(error).__name__})") from error


def _check_members(members: Sequence[zipfile.ZipInfo], path: Path, size: int) -> None:
    """Refuses an archive that torch would not have written.

    Args:
        members: In the order of the file.
        path: Of the archive.
        size: Of the archive, in bytes.
    """
    ends = [*(member.header_offset for member in members[1:]), size]
    for member, end in zip(members, ends, strict=True):
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise WeightFileError(
                f"{path} is refused: its member {ascii(member.filename)[:80]} is compressed, which torch never does "
                "and which can hide any size"
            )
        if member.header_offset + member.file_size > end:
            raise WeightFileError(f"{path} is refused: its member {ascii(member.filename)[:80]} overlaps another")
    names = {member.filename.lower() for member in members}  # torch's reader takes no notice of case
    if len(names) < len(members):
        raise WeightFileError(f"{path} is refused: two of its members have one name")
    root = members[0].filename.partition("/")[0].lower() if members else ""
    if members and members[0].header_offset:
        raise WeightFileError(f"{path} is refused: its archive does not begin where the file does")
    if f"{root}/constants.pkl" in names:
        raise WeightFileError(f"{path} is refused: it is a TorchScript program, which is code, not a file of weights")
    if f"{root}/data.pkl" not in names or not all(name.startswith(f"{root}/") for name in names):
        raise WeightFileError(f"{path} is a zip archive, but no checkpoint that torch.save writes")
    pickle = next(member for member in members if member.filename.lower() == f"{root}/data.pkl")
    if pickle.file_size > MAX_PICKLE_BYTES:
        raise WeightFileError(
            f"{path} is refused: {pickle.file_size:,} bytes of it are no tensors, and at most {MAX_PICKLE_BYTES:,}"
        )
    if not any(member.CRC for member in members):
        raise WeightFileError(f"{path} has no checksums; save it again without torch's set_crc32_options(False)")


def _list_legacy_globals(path: Path, file: BinaryIO) -> set[str]:
    """The names in the pickles at the head of a file of before torch 1.6."""
    file.seek(0)
    head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    try:
        return {name for _ in range(_LEGACY_PICKLES) for name in list_globals(head, str(path))}
    except WeightFileError as error:
        if head.tell() < MAX_PICKLE_BYTES:
            raise
        raise WeightFileError(f"{path} is refused: over {MAX_PICKLE_BYTES:,} bytes of it are no tensors") from error


def _check_tensors(loaded: Any, path: Path) -> None:
    """Refuses tensors that are not dense, or are larger than what the file holds."""
    size, total = path.stat().st_size, 0
    for tensor in _find_tensors(loaded):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise WeightFileError(f"{path} is refused: it holds a tensor that is not dense ({tensor.layout})")
        held, num_bytes = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        total += num_bytes
        if num_bytes > held or held > size or total > MAX_SHARING * size:
            raise WeightFileError(
                f"{path} is refused: a tensor of shape {str(list(tensor.shape))[:80]} repeats its numbers, or claims "
                f"more than the file's {size:,} bytes"
            )


def _find_tensors(loaded: Any) -> Iterator[Tensor]:
    """Every tensor of a checkpoint, whatever holds it."""
    waiting, seen = [loaded], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple | set | StandIn) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            else:
                waiting += (value.args, value.state) if isinstance(value, StandIn) else value


def _check_names(weights: Mapping[Any, Tensor], path: Path) -> dict[str, Tensor]:
    for name in weights:
        if not (isinstance(name, str) and name.isprintable() and len(name) <= MAX_NAME):
            raise WeightFileError(f"{path} is refused: {ascii(name)[:80]} is no name of a tensor")
    return dict(weights)
