"""Files and folders are written whole, whoever dies, collides or refuses."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from search_spaces import files
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import PREFIX, check_writable, replacing_folder, write_file
from search_spaces.locks import take_lock

SEAL = "LIST"


def content(folder: Path) -> dict[str, str]:
    """Name -> text of every file, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_folder(folder: Path, text: str, names: tuple[str, ...] = ("a", "b", SEAL)) -> None:
    with replacing_folder(folder, SEAL) as made:
        made.mkdir()
        for name in names:
            (made / name).write_text(text)


# Files


@pytest.mark.parametrize("given", ["grüße\n", "grüße\n".encode(), lambda file: file.write("grüße\n".encode())])
def test_a_file_is_written_and_hashed(tmp_path: Path, given: Any) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    assert write_file(path, given) == hashlib.sha256("grüße\n".encode()).hexdigest()
    assert content(tmp_path) == {"x": "grüße\n"}
    assert files.hash_file(path) == hashlib.sha256("grüße\n".encode()).hexdigest()
    counts: list[int] = []
    write_file(tmp_path / "count", lambda file: counts.append(file.write(b"abc")))
    assert counts == [3]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it as they may read any file


def test_whatever_goes_wrong_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, fail)
    assert content(tmp_path) == {"x": "old"}

    def swallow(file: Any) -> None:
        try:
            file.write("no bytes")
        except TypeError as error:
            raise RuntimeError("a fault of ours") from error

    with pytest.raises(RuntimeError, match="a fault of ours") as caught:  # and it is said to be one
        write_file(path, swallow)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(
        FailedError, match=r"could not write .*nowhere/x: No such file.*; its folder is not there any m"
    ):
        write_file(tmp_path / "nowhere" / "x", "")
    with pytest.raises(FailedError, match=r"could not write .*: Is a directory; free space or check permissions"):
        write_file(tmp_path, "")
    assert content(tmp_path) == {"x": "old"}


class Signal(BaseException):
    """What the command line makes of Ctrl-C."""


@pytest.mark.parametrize(
    ("stopped_by", "said"),
    [(Signal(), "^$"), (OSError(errno.ENOSPC, "No space left on device"), "No space left on device")],
)
def test_what_stops_pytorch_in_its_writing_is_no_fault_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: BaseException, said: str
) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    count = 0

    class Interrupted(io.BytesIO):
        def write(self, data: Any) -> int:
            nonlocal count
            count += 1
            if count == 3:
                raise stopped_by
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda *_: Interrupted())
    with pytest.raises((Signal, FailedError), match=said):
        write_file(path, lambda file: torch.save({"weight": torch.zeros(1000)}, file))
    monkeypatch.undo()
    assert content(tmp_path) == {"x": "old"}


@pytest.mark.parametrize(("number", "kinds"), [(errno.EINVAL, "folder"), (errno.EIO, "folder"), (errno.EINVAL, "file")])
def test_folders_that_no_system_call_forces_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kinds: str
) -> None:
    real = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) == (kinds == "folder"):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    said = []
    for write in (lambda: write_file(tmp_path / "x", "text"), lambda: write_folder(tmp_path / "y", "text")):
        try:
            write()
        except FailedError as error:
            said.append(str(error))
    assert len(said) == (0 if (number, kinds) == (errno.EINVAL, "folder") else 2), said


def test_two_writers_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    inside, done = threading.Event(), threading.Event()

    def slowly(file: Any) -> None:
        file.write(b"slow ")
        inside.set()
        assert done.wait(10)
        file.write(b"writer")

    thread = threading.Thread(target=write_file, args=(tmp_path / "x", slowly))
    thread.start()
    assert inside.wait(10)
    write_file(tmp_path / "x", "fast")
    write_file(tmp_path / "y", "other")
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1  # that of the slow one is left alone
    done.set()
    thread.join()
    assert content(tmp_path) == {"x": "slow writer", "y": "other"}


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(Path("real") / "x")
    for text in ("1", "2"):  # made through the link, then replaced
        write_file(tmp_path / "link", text)
        assert content(tmp_path / "real") == {"x": text}
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    write_file(tmp_path / "pipe", "through it")
    assert reader.communicate()[0] == b"through it"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EIO])
def test_a_file_that_is_a_mount_point_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    forced: list[str] = []

    def refuse(_: Path, __: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(files, "_sync", lambda path: forced.append(path.name))
    (tmp_path / "x").write_text("old and longer")
    if number == errno.EIO:
        with pytest.raises(FailedError, match="x: Input/output error; free space or check permissions"):
            write_file(tmp_path / "x", "new")
        assert content(tmp_path) == {"x": "old and longer"}
    else:
        write_file(tmp_path / "x", "new")
        assert content(tmp_path) == {"x": "new"}
        assert forced[1:] == ["x", tmp_path.name]


def test_a_file_in_a_folder_that_may_not_be_written_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    monkeypatch.setattr(files, "_make_and_lock", lambda *_: os.mkdir("/proc/x"))  # noqa: PTH102 - refuses
    (tmp_path / "x").write_text("old and longer")
    said = ""
    try:
        check_writable(tmp_path / "x", "--out", folder=False)
        write_file(tmp_path / "x", "new")
    except NestlingError as error:
        said = str(error)
    assert said == ""
    assert content(tmp_path) == {"x": "new"}
    forced: list[str] = []
    monkeypatch.setattr(files, "_sync", lambda path: forced.append(path.name))
    assert write_file(tmp_path / "x", "newer") == hashlib.sha256(b"newer").hexdigest()
    assert forced == ["x"]

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(NestlingError, match="x cannot be written: Permission denied"):
        check_writable(tmp_path / "x", "--out", folder=False)


def test_a_file_that_is_replaced_need_not_be_open_to_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)
        check_writable(tmp_path / "x", "--out", folder=False)
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.W_OK | os.X_OK)
    assert files._has_room(tmp_path)


def test_a_writer_waits_for_what_it_made_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever clears up holds it for a moment, and may have been faster."""
    waits: list[bool] = []

    def take(lock: int, *, wait: bool) -> None:
        waits.append(wait)
        take_lock(lock, wait=wait)
        if len(waits) == 1:
            next(tmp_path.glob(f"{PREFIX}*")).rmdir()

    monkeypatch.setattr(files, "take_lock", take)
    write_folder(tmp_path / "x", "text")
    assert content(tmp_path / "x") == {"LIST": "text", "a": "text", "b": "text"}
    assert waits == [True, True, False]


LEAVE = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from search_spaces.files import replacing_folder, write_file
target = Path(sys.argv[1])
if sys.argv[2] == "file":
    write_file(target, lambda file: os.kill(os.getpid(), signal.SIGKILL))
with replacing_folder(target, "LIST") as made:
    made.mkdir()
    (made / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_clears_away_what_a_kill_left(tmp_path: Path, kind: str) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, tmp_path / "x", kind], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    assert not (tmp_path / "x").exists()
    strangers = [f"{PREFIX}notes.md", f"{PREFIX}0123abcde"]
    for name in strangers:
        (tmp_path / name).touch()
    write_file(tmp_path / "y", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["y", *strangers])


# Folders


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "x"
    write_folder(folder, "first", ("a", "old", SEAL))
    write_folder(folder, "second")
    assert content(tmp_path) == {"deep/x/LIST": "second", "deep/x/a": "second", "deep/x/b": "second"}
    (tmp_path / "link").symlink_to(folder)
    write_folder(tmp_path / "link", "third")
    assert (tmp_path / "link").is_symlink()
    assert content(folder) == {"LIST": "third", "a": "third", "b": "third"}
    with pytest.raises(TypeError):
        write_folder(folder, None)  # type: ignore[arg-type]
    assert content(folder) == {"LIST": "third", "a": "third", "b": "third"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["LIST", "a", "b", "deep", "link", "x"]


def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Makes the `number`-th rename fail, and only that."""
    real, count = Path.rename, 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_without_an_exchange_the_old_folder_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException
) -> None:
    write_folder(tmp_path / "x", "old")
    no_exchange(monkeypatch)
    with monkeypatch.context() as patch:
        fail_at(patch, number, error)
        with pytest.raises((FailedError, KeyboardInterrupt), match=getattr(error, "strerror", "^$")):
            write_folder(tmp_path / "x", "new")
    assert content(tmp_path) == {"x/LIST": "old", "x/a": "old", "x/b": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    write_folder(tmp_path / "x", "new")
    assert content(tmp_path) == {"x/LIST": "new", "x/a": "new", "x/b": "new"}


def test_a_folder_that_somebody_holds_for_good_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("search_spaces.files.time.sleep", waited.append)
    write_folder(tmp_path / "x", "old")
    assert waited == []
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    write_folder(tmp_path / "x", "new")
    os.close(held)
    assert content(tmp_path / "x") == {"LIST": "new", "a": "new", "b": "new"}
    assert waited == [0.05] * 100


def test_a_lock_is_refused_until_it_is_let_go(tmp_path: Path) -> None:
    held, other = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    take_lock(held, wait=True)
    with pytest.raises(BlockingIOError):
        take_lock(other, wait=False)
    os.close(held)
    take_lock(other, wait=False)
    os.close(other)


def test_windows_locks_a_byte_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no lock on a file as such, and asks for that of a byte again and again."""
    places: list[int] = []
    refusals = [PermissionError(13, "Permission denied")] * 3

    def locking(descriptor: int, mode: int, num_bytes: int) -> None:
        places.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        assert (mode, num_bytes) == (2, 1)
        if refusals:
            raise refusals.pop()

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr("search_spaces.locks.time.sleep", lambda _: None)
    with (tmp_path / "x").open("a+b") as file:
        file.write(b"abc")
        file.flush()
        with pytest.raises(BlockingIOError, match="Permission denied"):
            take_lock(file, wait=False)
        take_lock(file, wait=True)
        assert file.tell() == os.lseek(file.fileno(), 0, os.SEEK_CUR) == 3
    assert places == [1 << 30] * 4


@pytest.mark.parametrize("old", [True, False])
def test_two_writers_of_one_folder_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    no_exchange(monkeypatch)
    place, real = tmp_path / "x", Path.rename
    said: list[str] = []
    if old:
        write_folder(place, "old")

    def write_other() -> None:
        try:
            write_folder(place, "other")
        except FailedError as error:
            said.append(str(error))

    thread = threading.Thread(target=write_other)

    def rename(self: Path, target: Path) -> Path:
        if target == place and thread.ident is None:  # the place is empty now
            thread.start()
            thread.join(0.3)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    try:
        write_folder(place, "one")
    except FailedError as error:
        said.append(str(error))
    thread.join()
    assert said == []
    assert content(place) == {"LIST": "other", "a": "other", "b": "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_old_folder_that_a_kill_left_aside_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / f"{PREFIX}0123abcd" / files.REPLACED
    aside.mkdir(parents=True)
    write_folder(aside / "x", "old")
    write_file(tmp_path / "y", "")
    assert content(tmp_path) == {"x/LIST": "old", "x/a": "old", "x/b": "old", "y": ""}
    aside.mkdir(parents=True)
    write_folder(aside / "x", "older")
    write_file(tmp_path / "y", "")
    assert content(tmp_path) == {"x/LIST": "old", "x/a": "old", "x/b": "old", "y": ""}


def mount(monkeypatch: pytest.MonkeyPatch, place: Path, number: int) -> None:
    """Lets the system treat `place` as a mount point."""

    def refuse(_: Path, other: Path) -> bool:
        assert other == place
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_exchange", refuse)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_a_mount_point_gets_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    place = tmp_path / "x"
    place.mkdir()
    mount(monkeypatch, place, number)
    identity = place.stat().st_ino
    write_folder(place, "first", ("a", "old", SEAL))
    (place / f"{PREFIX}0123abcd" / files.REPLACED_CONTENTS / "older").mkdir(parents=True)  # of a killed writer
    write_folder(place, "second")
    assert content(tmp_path) == {"x/LIST": "second", "x/a": "second", "x/b": "second"}
    assert sorted(path.name for path in place.iterdir()) == ["LIST", "a", "b"]
    assert place.stat().st_ino == identity


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_mount_point_gets_its_old_contents_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    place = tmp_path / "x"
    place.mkdir()
    mount(monkeypatch, place, errno.EBUSY)
    write_folder(place, "old")
    for number in range(1, 7):
        with monkeypatch.context() as patch:
            fail_at(patch, number, error)
            with pytest.raises((FailedError, KeyboardInterrupt)):
                write_folder(place, "new")
        assert content(tmp_path) == {"x/LIST": "old", "x/a": "old", "x/b": "old"}, number
        assert len(list(tmp_path.rglob("*"))) == 4  # no empty folder either


class Killed(BaseException):
    """As SIGKILL: nothing is cleaned up."""


def test_a_kill_in_a_mount_point_leaves_no_seal_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a test of real kills cannot show without the right to mount."""
    real, names = Path.rename, ("A", "b", "c", SEAL)
    listed = Path.iterdir  # by name: the seal is neither first nor last of them by chance
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path))))
    for number in range(1, 9):
        place, seen = tmp_path / str(number) / "x", {}
        place.mkdir(parents=True)
        mount(monkeypatch, place, errno.EBUSY)
        write_folder(place, "old", names)
        count = 0

        def rename(
            self: Path, target: Path, place: Path = place, number: int = number, seen: dict[str, str] = seen
        ) -> Path:
            nonlocal count
            count += 1
            if count == number:
                seen.update({p.name: p.read_text() for p in place.iterdir() if p.is_file()})
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            write_folder(place, "new", names)
        whole = len(seen) == 4 and len(set(seen.values())) == 1
        assert whole or not seen or SEAL in seen, (number, seen)  # a seal that lists what is not there
        assert len(set(seen.values())) <= 1


def can_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


MOUNTED = """
import sys
from pathlib import Path
from types import SimpleNamespace
from search_spaces.files import replacing_folder
for text in ("first", "second"):
    with replacing_folder(Path(sys.argv[1]), "LIST") as made:
        made.mkdir()
        (made / text).write_text(text)
"""


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
@pytest.mark.parametrize("kind", ["mount --bind {0}/host {0}/x", "mount -t tmpfs none {0}/x"])
def test_a_real_mount_point(tmp_path: Path, kind: str) -> None:
    for name in ("host", "x"):
        (tmp_path / name).mkdir()
    script = f'{kind.format(tmp_path)} && "$0" -c "$1" {tmp_path}/x && ls -A {tmp_path} {tmp_path}/x'
    command = ["unshare", "-m", "sh", "-c", script, sys.executable, MOUNTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{tmp_path}:", "host", "x", f"{tmp_path}/x:", "second"]


def test_a_folder_in_one_that_may_not_be_written_gets_the_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    (tmp_path / "x").mkdir()
    identity = (tmp_path / "x").stat().st_ino
    write_folder(tmp_path / "x", "first")
    write_folder(tmp_path / "x", "second", ("a", SEAL))
    assert content(tmp_path) == {"x/LIST": "second", "x/a": "second"}
    assert (tmp_path / "x").stat().st_ino == identity


# Before the work


@pytest.mark.parametrize(
    ("path", "folder", "message"),
    [
        ("there", False, r"^--out .*there is a folder, and a file is to be written; name another place$"),
        ("file", True, r"^--out .*file is a file, and a folder is to be written; name another place$"),
        ("file/x/y", True, r"^--out .*y cannot be written: Not a directory; name another place$"),
        ("loop", True, r"^--out .*loop cannot be written: Too many levels of symbolic links; name another place$"),
        ("loop/x", False, r"^--out .*x cannot be written: Too many levels of symbolic links; name another place$"),
        ("/proc", True, r"^--out /proc cannot be written: .*; name another place$"),
        ("/proc/none/x", True, r"^--out /proc/none/x cannot be written: .*; name another place$"),
        ("/proc/none", False, r"^--out /proc/none cannot be written: .*; name another place$"),
        ("x" * 300, False, r"^--out .*x cannot be written: File name too long; name another place$"),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path: Path, path: str, folder: bool, message: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NestlingError, match=message):
        check_writable(tmp_path / path, "--out", folder=folder)


@pytest.mark.parametrize(
    ("path", "folder"), [("new/deep", True), ("new/deep", False), ("there", True), ("file", False)]
)
def test_what_can_be_written_is_left_as_it_was(tmp_path: Path, path: str, folder: bool) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    check_writable(tmp_path / path, "--out", folder=folder)
    check_writable(Path("/dev/stdout"), "--out", folder=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]


def test_a_pipe_is_there_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made beside it, which its folder may refuse; nor is it opened, which waits for a reader."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(files, "_make_and_lock", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for place in (tmp_path / "pipe", Path("/dev/null")):
        check_writable(place, "--out", folder=False)
    with pytest.raises(NestlingError, match="new cannot be written: Permission denied"):
        check_writable(tmp_path / "new", "--out", folder=False)


def test_all_that_is_written_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[str] = []
    monkeypatch.setattr(files, "_sync", lambda path: forced.append(path.name))
    write_file(tmp_path / "x", "text")
    assert len(forced) == 2
    assert forced[-1] == tmp_path.name
    forced.clear()
    write_folder(tmp_path / "y", "text")
    assert sorted(forced) == sorted(["LIST", "a", "b", "y", tmp_path.name])
    assert forced[-1] == tmp_path.name
    mount(monkeypatch, tmp_path / "y", errno.EBUSY)
    forced.clear()
    write_folder(tmp_path / "y", "text")
    assert sorted(forced) == sorted([*("LIST", "a", "b", "y") * 2, "y"])  # what is made, its copy, and then the names


def test_two_folders_change_places_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "y"):
        write_folder(tmp_path / name, name, (SEAL,))
    here, rename_exchange = -100, 2  # of Linux's fcntl.h and fs.h
    one, other = (os.fsencode(tmp_path / name) for name in ("x", "y"))
    if ctypes.CDLL(None).renameat2(here, one, here, other, rename_exchange) != 0:
        pytest.skip("the file system cannot")
    assert content(tmp_path) == {"x/LIST": "y", "y/LIST": "x"}
    with pytest.raises(FileNotFoundError):
        files._exchange(tmp_path / "x", tmp_path / "nowhere")
    assert files._exchange(tmp_path / "x", tmp_path / "y")
    assert content(tmp_path) == {"x/LIST": "x", "y/LIST": "y"}
    fail_at(monkeypatch, 1, OSError(errno.EIO, os.strerror(errno.EIO)))  # nothing is moved besides
    write_folder(tmp_path / "x", "new", (SEAL,))
    assert content(tmp_path) == {"x/LIST": "new", "y/LIST": "y"}


@pytest.mark.parametrize("name", [files.REPLACED, files.REPLACED_CONTENTS, "x"])
def test_the_only_copy_of_what_stood_there_is_not_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / "unfinished" / name).mkdir(parents=True)
    files._remove(tmp_path / "unfinished")
    assert (tmp_path / "unfinished").exists() == (name != "x")


def test_a_folder_that_is_not_there_is_made_whatever_stands_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "new" / "deep" / "x", "text", (SEAL,))
    assert content(tmp_path) == {"new/deep/x/LIST": "text"}
    real = os.access  # it may err: then the system itself is asked
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    write_folder(tmp_path / "y", "text", (SEAL,))
    assert content(tmp_path / "y") == {"LIST": "text"}
    fail_at(monkeypatch, 1, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))
    with pytest.raises(FailedError, match=r"could not write .*z: Device or resource busy; free space or check"):
        write_folder(tmp_path / "z", "text", (SEAL,))  # no mount point: nothing is there


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_system_that_cannot_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Refusing:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def renameat2(self, *_: Any) -> int:
            return -1

    monkeypatch.setattr(files.ctypes, "CDLL", Refusing)
    monkeypatch.setattr(files.ctypes, "get_errno", lambda: number)
    write_folder(tmp_path / "x", "old")
    if number == errno.EIO:
        with pytest.raises(FailedError, match="Input/output error"):
            write_folder(tmp_path / "x", "new")
    else:
        write_folder(tmp_path / "x", "new")
    text = "old" if number == errno.EIO else "new"
    assert content(tmp_path) == {"x/LIST": text, "x/a": text, "x/b": text}
