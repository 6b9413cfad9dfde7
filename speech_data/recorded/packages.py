"""Reads packages of Debian in Python, so that no dpkg is needed, and trusts nothing in them.

A .deb is an `ar` archive of two tar archives. Only files that are asked for are written, under names that are checked,
and as plain files: no link, owner or mode of a package ever reaches the disk, which is stricter than the filters of
`tarfile`, and the same in every Python.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import hash_file
from speech_data.recorded.table import Package

LICENCES = "licences"
"""The folder of a corpus that keeps what its packages say of their licences, a file for each."""
MAX_BYTES = 1 << 30
"""Of a package when it is unpacked; the largest that is known has a quarter of it."""
MAX_FILE_BYTES = 64 << 20
_MAX_CONTROL_BYTES = 16 << 20  # there is a checksum of every file
_MAX_MEMBERS = 16
_CHUNK_BYTES = 1 << 20
Progress = Callable[[int, int], None]
_DAMAGE = (lzma.LZMAError, zlib.error, gzip.BadGzipFile, tarfile.TarError, EOFError, ValueError, OverflowError)


def read_control(deb: Path) -> dict[str, str]:
    """What a package says of itself, such as `Package` and `Version`.

    Raises:
        NestlingError: The file is no package, or damaged.
    """
    with _explaining(deb), _open_tar(deb, "control.tar", _MAX_CONTROL_BYTES) as tar:
        for member in tar:
            if PurePosixPath(member.name) == PurePosixPath("control") and member.isreg():
                text = tar.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
                return dict(re.findall(r"^(Package|Version): *(\S+)", text, re.MULTILINE))
    raise NestlingError(f"{deb} does not say what it is: it has no file `control`; fetch it again")


def unpack(deb: Path, package: Package, folder: Path, on_progress: Progress = lambda *_: None) -> list[str]:
    """Writes what is wanted of a package into a folder.

    Args:
        deb: The file.
        package: What is wanted of it.
        folder: Where files go, below it.
        on_progress: Called with the megabytes that are read and with those that there are.

    Returns:
        The names of the files there, sorted.

    Raises:
        NestlingError: The file is no package, is damaged or too large, or holds what no package of recordings does:
            names that lead out of it, or links in the place of recordings.
        FailedError: The disk refused.
    """
    names, left = [], MAX_BYTES
    with _explaining(deb), _open_tar(deb, "data.tar", MAX_BYTES, on_progress) as tar:
        for member in tar:
            place = PurePosixPath(member.name)
            if ".." in place.parts or place.is_absolute():
                raise NestlingError(f"{deb} is not safe to unpack: {member.name!r} leads out of it")
            if member.isdir() or (name := _place(place.as_posix(), package)) is None:
                continue
            if not member.isreg():
                raise NestlingError(f"{deb} is not safe to unpack: {member.name!r} is no plain file")
            left -= member.size
            if member.size > MAX_FILE_BYTES or left < 0:
                raise NestlingError(f"{deb} is not safe to unpack: {member.name!r} is too large, {member.size:,} bytes")
            write_new(tar.extractfile(member), folder / name)  # type: ignore[arg-type]
            names.append(name)
    return sorted(names)


def copy_unpacked(root: Path, package: Package, folder: Path) -> list[str]:
    """As `unpack`, of a package that was unpacked or installed below `root`."""
    names = []
    for home in dict.fromkeys(home for home, *_ in _wanted(package)):
        for place, _, files in os.walk(root / home):
            for file in sorted(files):
                path = Path(place, file)
                if (name := _place(path.relative_to(root).as_posix(), package)) is None:
                    continue
                if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
                    raise NestlingError(f"{path} is no plain file, or too large; unpack {package.name} again")
                with path.open("rb") as source:
                    write_new(source, folder / name)
                names.append(name)
    return sorted(names)


def hash_contents(folder: Path, names: Iterable[str]) -> str:
    """Of names and contents of files; another build of the same recordings has the same. Licences do not count."""
    lines = (f"{hash_file(folder / name)}  {name}\n" for name in sorted(names) if not name.startswith(f"{LICENCES}/"))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _wanted(package: Package) -> list[tuple[str, tuple[str, ...], str]]:
    """Folders of a package, the patterns of what is wanted below them, and where that goes."""
    about = f"usr/share/doc/{package.name}"
    return [(package.home, package.wanted, ""), (about, ("copyright",), f"{LICENCES}/{package.name}/")]


def _place(name: str, package: Package) -> str | None:
    """Where a file of a package goes; None if it is not wanted."""
    for home, patterns, goal in _wanted(package):
        below = name.removeprefix(f"{home}/")
        if below != name and any(fnmatchcase(below, pattern) for pattern in patterns):
            return goal + below
    return None


def write_new(source: IO[bytes], target: Path) -> None:
    """A new file; what is there twice is refused."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)


@contextmanager
def _explaining(deb: Path) -> Iterator[None]:
    """Tells a damaged package from a disk that refuses."""
    try:
        yield
    except NestlingError:
        raise
    except FileExistsError as error:
        raise NestlingError(f"{deb} is not safe to unpack: {error.filename} is there twice") from error
    except _DAMAGE as error:
        raise NestlingError(f"{deb} is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise FailedError(f"{deb} could not be unpacked: {error.strerror or error} ({error.filename})") from error


class _Part(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, num_bytes: int, on_progress: Progress) -> None:
        self._file, self._left, self._num_bytes, self._on_progress = file, num_bytes, num_bytes, on_progress
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(min(len(buffer), self._left))
        buffer[: len(content)] = content
        self._left -= len(content)
        self._on_progress((self._num_bytes - self._left) // 10**6, self._num_bytes // 10**6)
        return len(content)


class _Limited:
    """A stream that may not be longer than it should: what is small on the disk can be endless when it is unpacked."""

    def __init__(self, stream: IO[bytes], max_bytes: int, deb: Path) -> None:
        self._stream, self._left, self._deb = stream, max_bytes, deb

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise NestlingError(f"{self._deb} is not safe to unpack: it has no end")
        return content


@contextmanager
def _open_tar(
    deb: Path, stem: str, max_bytes: int, on_progress: Progress = lambda *_: None
) -> Iterator[tarfile.TarFile]:
    """A tar archive of a package, to be read once from its beginning; its checksums are compared at the end."""
    with ExitStack() as stack:
        file = stack.enter_context(deb.open("rb"))
        name, start, num_bytes = _find_member(file, deb, stem)
        part = io.BufferedReader(_Part(file, start, num_bytes, on_progress), _CHUNK_BYTES)
        stream: Any = part
        if name == f"{stem}.xz":
            stream = stack.enter_context(lzma.LZMAFile(part))
        elif name == f"{stem}.gz":
            stream = stack.enter_context(gzip.GzipFile(fileobj=part))
        elif name == f"{stem}.zst":
            stream = stack.enter_context(_decompress_by_dpkg(deb, stem))
        elif name != stem:
            raise NestlingError(f"{deb} holds {name}, which cannot be read here; {_UNPACK}")
        limited: Any = _Limited(stream, max_bytes, deb)
        with tarfile.open(fileobj=limited, mode="r|") as tar:
            yield tar
        while limited.read(_CHUNK_BYTES):
            pass


def _find_member(file: IO[bytes], deb: Path, stem: str) -> tuple[str, int, int]:
    """Name, first byte and size of a member of an `ar` archive."""
    size = os.fstat(file.fileno()).st_size
    if file.read(8) != b"!<arch>\n":
        raise NestlingError(f"{deb} is no package of Debian, which begins with `!<arch>`")
    for _ in range(_MAX_MEMBERS):
        header = file.read(60)
        name, digits = header[:16].decode("latin-1").strip().removesuffix("/"), header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not digits.isdigit():
            break
        start = file.tell()
        if start + int(digits) > size:
            whole = start + int(digits)
            raise NestlingError(f"{deb} is cut short: {size:,} of {whole:,} bytes are there; fetch it again")
        if name == stem or name.startswith(f"{stem}."):
            return name, start, int(digits)
        file.seek(start + int(digits) + int(digits) % 2)
    raise NestlingError(f"{deb} is damaged: it has no {stem}; fetch it again")


_UNPACK = "where dpkg is, `dpkg-deb -x FILE FOLDER` unpacks it: then name the folder with --from"
_DPKG = {"data.tar": "--fsys-tarfile", "control.tar": "--ctrl-tarfile"}


@contextmanager
def _decompress_by_dpkg(deb: Path, stem: str) -> Iterator[IO[bytes]]:
    """A tar archive that Zstandard has compressed, as Ubuntu's are; Python 3.11 to 3.13 cannot read those."""
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        raise NestlingError(f"{deb} is compressed by Zstandard, which takes dpkg-deb, and that is not here; {_UNPACK}")
    command = [dpkg, _DPKG[stem], str(deb.absolute())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.stdout  # type: ignore[misc]
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise NestlingError(f"{deb} is damaged, by what dpkg-deb says; fetch it again")
