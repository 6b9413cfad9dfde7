"""Files and folders written whole: whatever happens, the old one is there or the new one.

What is new is written beside its destination under a hidden name, forced to disk, and renamed. Its writer holds a lock
on it, which the system frees when the writer dies: so the next writer in that folder tells what a kill left behind,
which it clears away, from what another process is at work on.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from search_spaces.errors import FailedError, NestlingError
from search_spaces.locks import take_lock

NUM_TRIES, SECONDS_BETWEEN = 100, 0.05
"""How often a folder that another writer holds is asked for again."""
PREFIX = ".writing-"
"""Of the names of what is not finished; eight hexadecimal digits follow."""
REPLACED, REPLACED_CONTENTS = "replaced", "replaced-contents"
"""Inside an unfinished folder: what stood at the destination, as long as the new one is not in its place."""
_NOT_TO_BE_RENAMED = (errno.EBUSY, errno.EXDEV)
"""What a system answers where the destination is a mount point, such as a volume of Docker."""
_NOT_TO_BE_SYNCED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)
"""What some file systems, those of networks among them, answer where a folder is to be forced to disk."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_file(path: str | Path, content: str | bytes | Callable[[Any], object]) -> str:
    """Writes a file so that at every moment the old one or the new one is there, whole.

    A link is followed. What is no file, such as a pipe, is written to as it is, and so is a file that nothing can take
    the place of: a mount point, or one in a folder that may not be written.

    Args:
        path: The destination, in a folder that exists.
        content: Text, as UTF-8; bytes; or what writes them when it is handed an open binary file.

    Returns:
        The SHA-256 of what was written.

    Raises:
        FailedError: The disk refused; the old file is untouched.
    """
    path = Path(path)
    with explaining(path):
        if path.exists() and not (path.is_file() and _has_room(Path(os.path.realpath(path)).parent)):
            with path.open("wb") as file:
                digest = _write(file, content)
            if path.is_file():
                _sync(path)
            return digest
    with replacing(path) as temporary, temporary.open("wb") as file:
        return _write(file, content)


def is_unfinished(path: Path) -> bool:
    """Whether its name is one that a writer here gives to what is not finished."""
    return re.fullmatch(re.escape(PREFIX) + "[0-9a-f]{8}", path.name) is not None


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path` for whoever writes by name; left without an error, it takes the place of `path`.

    Raises:
        FailedError: The disk refused; the old file is untouched.
    """
    target = Path(os.path.realpath(path))
    with explaining(path), _claim(target.parent, _make_file) as temporary:
        yield temporary
        _sync(temporary)
        try:
            os.replace(temporary, target)  # noqa: PTH105 - the system call is the point
        except OSError as error:
            if error.errno not in _NOT_TO_BE_RENAMED:
                raise
            shutil.copyfile(temporary, target)
            _sync(target)
        _sync(target.parent)


@contextmanager
def replacing_folder(folder: Path, seal: str) -> Iterator[Path]:
    """The path of a folder to make, with the same name; left without an error, it takes the place of `folder`.

    The two change places in one step where the system can do that. A link is followed. A mount point, or a folder in
    one that may not be written, gets the new contents file by file; should a kill fall into that, the `seal` does not
    fit what is there, and the rest is under a hidden name in it until the next time.

    Args:
        folder: Replaced with all that is in it; made, with its parents, if there is none.
        seal: The name of the file that lists the others and tells whether they are whole.

    Raises:
        FailedError: The disk refused; the old folder is untouched.
    """
    target = Path(os.path.realpath(folder))
    with ExitStack() as stack:
        with explaining(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = _has_room(target.parent) or not target.is_dir()
            scratch = stack.enter_context(_claim(target.parent if beside else target, Path.mkdir))
        made = scratch / target.name
        yield made
        with explaining(folder):
            _sync_all(made)
            stack.enter_context(_taking_turns(target.parent))
            if beside:
                _put(made, target, scratch / REPLACED / target.name, seal)
            else:
                _swap_contents(made, target, scratch / REPLACED_CONTENTS, seal)


def check_writable(path: Path, option: str, *, folder: bool) -> None:
    """Tells of a destination that cannot be written before any work is done; leaves nothing behind.

    Args:
        path: There or not.
        option: That named it.
        folder: Whether a folder is going to be written, not a file.

    Raises:
        NestlingError: It is of the other kind, or the system refuses to make anything there.
    """
    target = Path(os.path.realpath(path))
    try:
        if any(place.is_symlink() for place in (target, *target.parents)):  # all are followed that lead anywhere
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.exists() and target.is_dir() != folder:
            kinds = ("a file", "a folder") if folder else ("a folder", "a file")
            raise NestlingError(f"{option} {path} is {kinds[0]}, and {kinds[1]} is to be written; name another place")
        if target.exists() and not target.is_dir() and not (target.is_file() and _has_room(target.parent)):
            with target.open("ab") if target.is_file() else nullcontext():  # else it is a pipe or a device
                return
        place = target if folder else target.parent
        while not place.exists():
            place = place.parent
        with _claim(place, _make_file):
            pass
    except OSError as error:
        raise NestlingError(f"{option} {path} cannot be written: {error.strerror}; name another place") from error


class _DigestingFile:
    """Passes on what is written, hashes it on the way, and remembers what stopped that: the disk, or a signal."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.stopped_by: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self.sha256.update(data)
            return self.file.write(data)
        except BaseException as error:
            if isinstance(error, OSError) or not isinstance(error, Exception):
                self.stopped_by = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(file: BinaryIO, content: str | bytes | Callable[[Any], object]) -> str:
    digesting = _DigestingFile(file)
    try:
        if callable(content):
            content(digesting)
        else:
            digesting.write(content.encode() if isinstance(content, str) else content)
    except Exception:  # PyTorch makes a RuntimeError of whatever stops a write
        if digesting.stopped_by is not None:
            raise digesting.stopped_by from None
        raise
    return digesting.sha256.hexdigest()


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Says of a refusal of the system what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        gone = not Path(os.path.realpath(path)).parent.is_dir()
        remedy = "its folder is not there any more" if gone else "free space or check permissions"
        raise FailedError(f"could not write {path}: {error.strerror or error}; {remedy}") from error


@contextmanager
def _claim(folder: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Something new in `folder` under a hidden name, locked while it is worked on; what is left of it is removed."""
    path, lock = _make_and_lock(folder, make)
    try:
        yield path
    finally:
        _remove(path)
        os.close(lock)


def _make_and_lock(folder: Path, make: Callable[[Path], object]) -> tuple[Path, int]:
    clear_leftovers(folder)
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(4)}"
        make(path)
        with suppress(FileNotFoundError):  # somebody cleared it away before it was locked
            lock = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # some file systems know no locks; nothing is cleared away there
                take_lock(lock, wait=True)
            if path.exists():
                return path, lock
            os.close(lock)


@contextmanager
def _taking_turns(folder: Path) -> Iterator[None]:
    """One writer at a time puts something into a folder: the next would find the place empty between two steps.

    That takes a moment. Who holds the folder for longer locked it for a reason of their own (`flock . command`), which
    may be this very command: it is waited for no longer.
    """
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that may not be read, or a file system that knows no locks
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            for _ in range(NUM_TRIES):
                with suppress(BlockingIOError):
                    take_lock(lock, wait=False)
                    break
                time.sleep(SECONDS_BETWEEN)
        yield


def _has_room(folder: Path) -> bool:
    """Whether something may be made in a folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def _make_file(path: Path) -> None:
    path.touch(exist_ok=False)


def clear_leftovers(folder: Path) -> None:
    """Removes what killed writers left in a folder; an old folder that they had moved aside comes back."""
    for path in filter(is_unfinished, folder.glob(f"{PREFIX}*")):
        with suppress(OSError):  # it is being worked on, or was faster
            lock = os.open(path, os.O_RDONLY)
            try:
                take_lock(lock, wait=False)
                for old in (path / REPLACED).glob("*"):
                    if not (folder / old.name).exists():
                        old.rename(folder / old.name)
                shutil.rmtree(path / REPLACED, ignore_errors=True)
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    """Removes a file or folder that is not finished, unless it holds the only copy of what it was to replace."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif not ((path / REPLACED).exists() or (path / REPLACED_CONTENTS).exists()):
        shutil.rmtree(path, ignore_errors=True)


def _put(made: Path, target: Path, aside: Path, seal: str) -> None:
    """Puts a finished folder in the place of `target`, or what is in it if that is a mount point."""
    try:
        _swap(made, target, aside)
        _sync(target.parent)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_RENAMED or not target.is_dir():
            raise
        with _claim(target, Path.mkdir) as inside:
            copy = Path(shutil.copytree(made, inside / target.name))
            _sync_all(copy)
            _swap_contents(copy, target, inside / REPLACED_CONTENTS, seal)


def _swap(made: Path, target: Path, aside: Path) -> None:
    """In one step, or by moving the old one aside and, on any exception, back."""
    if not target.exists():
        made.rename(target)
    elif not _exchange(made, target):
        aside.parent.mkdir()
        try:
            target.rename(aside)
            made.rename(target)
        except BaseException:
            if aside.exists():
                aside.rename(target)
            aside.parent.rmdir()
            raise
        shutil.rmtree(aside.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _swap_contents(made: Path, target: Path, aside: Path, seal: str) -> None:
    """Moves what is in `target` aside and what is in `made` there; on any exception all of it back."""
    old = sorted((path for path in target.iterdir() if not is_unfinished(path)), key=lambda path: path.name == seal)
    new = sorted(made.iterdir(), key=lambda path: path.name != seal)
    moves = [*((path, aside / path.name) for path in old), *((path, target / path.name) for path in new)]
    aside.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for source, destination in moves:
            source.rename(destination)
            done.append((source, destination))
        _sync(target)
    except BaseException:
        for source, destination in reversed(done):
            destination.rename(source)
        aside.rmdir()
        raise
    for path in target.glob(f"{PREFIX}*/{REPLACED_CONTENTS}"):  # ours, and those of killed writers
        shutil.rmtree(path, ignore_errors=True)
    clear_leftovers(target)


def _sync(path: Path) -> None:
    """Forces a file to disk, or the names in a folder where the file system can do that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_SYNCED or not path.is_dir():
            raise
    finally:
        os.close(handle)


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)
