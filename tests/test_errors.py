"""Whose fault an error is, and what the person at the keyboard is told."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cli
from nestling import ending
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
    assert said.err == "error: no space `tini`; did you mean `tiny`? there are " + said.err.partition("there are ")[2]


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


@pytest.fixture
def explained(capsys, monkeypatch):
    """The exit code of an error, and the lines that it ends with."""
    monkeypatch.setattr(sys, "argv", ["nestling", "train", "supernet"])

    def explain(error):
        code = ending.explain(error)
        said = capsys.readouterr()
        assert said.out == ""
        return code, *said.err.splitlines()

    return explain


@pytest.mark.parametrize(
    ("num", "shown"),
    [
        (0, []),
        (1, ["  0"]),
        (5, ["  0", "  1", "  2", "  3", "  4"]),
        (6, ["  0", "  1", "  2", "  3", "  and 2 more"]),
        (20, ["  0", "  1", "  2", "  3", "  and 16 more"]),
    ],
)
def test_an_error_has_six_lines_at_most(explained, num, shown):
    assert explained(NestlingError("first", *map(str, range(num)))) == (2, "error: first", *shown)


@pytest.mark.parametrize(
    ("line", "shown"),
    [("x" * 600, "x" * 600), ("a" * 300 + "b" * 301, "a" * 300 + " … " + "b" * 300), ("one\x1b", "one\\x1b")],
)
def test_a_line_is_shown_and_not_too_long(explained, line, shown):
    assert explained(NestlingError(line, line)) == (
        2,
        f"error: {shown}",
        ending._shorten(f"  {line}".replace("\x1b", "\\x1b")),
    )


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["train"], "lower batch_size or crop_seconds (--set stage-1.batch_size=4), or take a smaller --space"),
        (["space", "train"], "ask for less"),
        ([], "ask for less"),
    ],
)
def test_what_to_do_about_memory_depends_on_the_command(explained, monkeypatch, command, remedy):
    monkeypatch.setattr(sys, "argv", ["nestling", *command])
    assert explained(MemoryError()) == (1, f"error: not enough memory; {remedy}, or close other programs")


def test_who_only_quotes_an_allocator_is_shown_as_it_is(explained):
    class QuotingError(NestlingError, MemoryError):
        pass

    assert explained(QuotingError("no words")) == (2, "error: no words")


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR])
def test_a_name_that_nothing_can_have_is_a_mistake(explained, number):
    assert explained(OSError(number, "Strange", "a/b")) == (2, "error: a/b: Strange; give another name")


def test_a_file_that_is_not_there_is_a_failure(explained):
    said = (1, "error: [Errno 2] No such file or directory: 'a/b'")
    assert explained(OSError(errno.ENOENT, "No such file or directory", "a/b")) == said


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (typer.BadParameter("Value error, 3 is odd."), ["error: Invalid value: 3 is odd"]),
        (ending.UsageError("Value error, no such thing."), ["error: no such thing"]),
        (ending.UsageError(""), []),
    ],
)
def test_words_that_are_not_understood(explained, error, lines):
    assert explained(error) == (2, *lines)


@pytest.mark.parametrize(
    ("error", "said"), [(KeyError("x"), "KeyError: 'x'"), (ValueError("one\ntwo"), "ValueError: one")]
)
def test_a_fault_is_one_line_and_the_whole_is_kept(explained, tmp_path, monkeypatch, error, said):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, first, second = explained(error)
    assert (code, first) == (1, f"error: this is a fault of Nestling, not yours: {said}")
    (log,) = tmp_path.glob("nestling-*.log")
    assert second == f"where it happened is in {log}; please report it with that file (--debug shows it at once)"
    assert log.read_text("utf-8") == f"nestling train supernet\n\n{type(error).__name__}: {error}\n"


def test_what_no_encoding_holds_is_kept_too(explained, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    explained(ValueError("\udcff"))
    (log,) = tmp_path.iterdir()
    assert log.read_text("utf-8").endswith("ValueError: \\udcff\n")


@pytest.fixture
def heard():
    """Ctrl-C is heard, as it is not by what a script started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_what_is_stoppable_and_nothing_after_it(number):
    before = signal.getsignal(number)
    with pytest.raises(ending.Stopped) as caught, ending.stoppable():
        signal.raise_signal(number)
    assert (caught.value.number, caught.value.hint) == (number, "")
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("heard")
def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending.stoppable():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is ending._raise_stopped
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("hint", ["inner", lambda: "inner"])
def test_the_innermost_hint_is_given(hint):
    with pytest.raises(ending.Stopped) as caught, ending.hinting("outer"), ending.hinting(hint):
        raise ending.Stopped(signal.SIGINT)
    assert caught.value.hint == "inner"


def test_streams_that_are_closed_are_opened_to_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stdin", None)
    kept = sys.stderr
    ending.open_closed_streams()
    with sys.stdin, sys.stdout:
        assert sys.stdin.read() == ""
        assert sys.stdout.write("ä") == 1
        assert (sys.stdin.name, sys.stdout.name, sys.stdout.encoding) == ("/dev/null", "/dev/null", "utf-8")
    assert sys.stderr is kept
