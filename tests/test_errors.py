"""Whose fault an error is, and what the person at the keyboard is told."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from search_spaces import space
from search_spaces.errors import FailedError, NestlingError, OutOfMemoryError, describe_shortage
from tests.shell import Shell


@pytest.fixture
def nestling(tmp_path):
    return Shell(tmp_path)


@pytest.fixture
def broken(monkeypatch):
    """A fault inside `nestling space`."""

    def load(_name):
        raise ValueError("operands could not be [broadcast]")

    monkeypatch.setattr(space.SearchSpace, "load", load)


def test_what_a_user_caused_is_two_lines_and_code_2(nestling):
    said = nestling("space tini")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: no space `tini`; did you mean `tiny`? shipped: " + said.err.partition("shipped: ")[2]


@pytest.mark.usefixtures("broken")
def test_a_fault_of_ours_is_not_called_the_users(nestling):
    said = nestling("space tiny")
    first, second = said.err.splitlines()
    assert said.code == 1
    assert first == "error: this is a fault of Nestling, not yours: ValueError: operands could not be [broadcast]"
    log = Path(second.removeprefix("where it happened is in ").partition(";")[0])
    kept = log.read_text("utf-8")
    log.unlink()
    assert kept.startswith("nestling space tiny\n\nTraceback (most recent call last):")
    assert kept.endswith("ValueError: operands could not be [broadcast]\n")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("command", ["--debug space tiny", "space tiny --debug"])
def test_debug_shows_it_at_once(nestling, command):
    with pytest.raises(ValueError, match="broadcast"):
        nestling(command)


@pytest.mark.usefixtures("broken")
def test_where_no_file_can_be_written_the_message_says_how_to_see_it(nestling, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nope")
    assert nestling("space tiny").err.splitlines()[1] == "run it again with --debug to see where"


def test_a_machine_that_refuses_is_code_1(nestling, monkeypatch):
    def load(_name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(space.SearchSpace, "load", load)
    said = nestling("space tiny")
    assert (said.code, said.err) == (1, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("space tiny >&-", 0, ""),
        ("space tiny --format json >&-", 0, ""),
        ("--help <&- >&- 2>&-", 0, ""),
        ("space tini >&-", 2, "error: no space `tini`; "),
        ("space tini 2>&-", 2, ""),
    ],
)
def test_a_stream_that_is_closed_is_silent(command, code, said):
    done = subprocess.run(
        f"exec {sys.executable} -m cli {command}",
        shell=True,
        cwd=Path(cli.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr[: len(said)]) == (code, "", said), done.stderr
    assert len(done.stderr.splitlines()) == bool(said)


def test_a_message_is_lines_of_which_all_but_the_first_are_indented():
    error = NestlingError("one\n  two", "three\nfour")
    assert error.args == ("one", "two", "three\nfour")
    assert str(error) == "one\n  two\n  three\nfour"
    assert str(NestlingError(str(error))) == str(error)


def test_what_a_user_caused_and_what_failed_end_with_codes_of_their_own():
    assert [kind.exit_code for kind in (NestlingError, FailedError, OutOfMemoryError)] == [2, 1, 1]


class AnotherRuntimeError(Exception):
    """As ONNX Runtime's are, which are no RuntimeErrors."""


class OnnxRuntimeError(Exception):
    """One of its."""


OnnxRuntimeError.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 8 GiB"), "not enough memory (Unable to allocate 8 GiB)"),
        (MemoryError("x"), "not enough memory (x)"),
        (RuntimeError("CUDA out of memory.\nTried"), "not enough memory (CUDA out of memory.)"),
        (RuntimeError("std::bad_alloc"), "not enough memory (std::bad_alloc)"),
        (RuntimeError("shapes differ"), None),
        (OnnxRuntimeError("Failed to allocate memory"), "not enough memory (Failed to allocate memory)"),
        (OnnxRuntimeError("no such node"), None),
        (AnotherRuntimeError("out of memory"), None),
        (ValueError("line 3: out of memory"), None),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory ([Errno 12] Cannot allocate memory)"),
        (OSError(errno.ENOSPC, "out of memory"), None),
    ],
)
def test_memory_was_the_reason_where_an_allocator_said_so(error, said):
    assert describe_shortage(error) == said
