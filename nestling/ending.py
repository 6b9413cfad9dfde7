"""How a command ends: a few lines in place of a traceback, an exit code, and a hint for who stops it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, NoReturn

import typer.core

from nestling.reports.terminal import complain, note
from search_spaces.errors import NestlingError, OutOfMemoryError, describe_shortage
from search_spaces.quoting import printable

MAX_LINES, MAX_LENGTH = 6, 600
"""Of an error, and of a line of it."""
REMEDIES = {
    "train": "lower batch_size or crop_seconds (--set stage-1.batch_size=4), or take a smaller --space",
    "search": "score on fewer --utterances",
    "evaluate": "score fewer encoders at a time",
    "measure": "measure shorter audio with --seconds",
    "demo": "take --quick",
}
"""Command -> what to do where memory does not suffice."""
NAMES_NOTHING = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
"""What a system answers to a name that nothing can have: whoever gave it can give another."""
UsageError: Any = typer.BadParameter.__base__
"""What typer raises of words that it does not understand; it gives no name to it."""


class Stopped(BaseException):
    """Ctrl-C or a signal to end; `hint` says how to go on."""

    def __init__(self, number: int, _frame: object = None) -> None:
        super().__init__(number)
        self.number, self.hint = number, ""


def _raise_stopped(number: int, frame: object) -> None:
    raise Stopped(number, frame)


@contextmanager
def stoppable() -> Iterator[None]:
    """Signals to end raise `Stopped`, unless the shell had them ignored, as it does in the background of a script."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _raise_stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def hinting(hint: str | Callable[[], str]) -> Iterator[None]:
    """Whoever stops this is told how to go on; a function is asked when it happens."""
    try:
        yield
    except Stopped as stop:
        stop.hint = stop.hint or (hint if isinstance(hint, str) else hint())
        raise


def open_closed_streams() -> None:
    """What the shell closed (`>&-`) takes anything and shows nothing: else the next file would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end


def run_app(app: typer.Typer) -> NoReturn:
    """Runs a command line, and ends the process.

    What a user caused ends in a short message and exit code 2, a machine that refused in exit code 1. Anything else
    is a fault of ours: it says so, keeps its traceback in a file, and ends in exit code 1. A signal ends in 128 and its
    number, and says how to go on.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not take a core from working ones
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # no result is lost over an arrow that latin-1 lacks
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        with stoppable():
            code = app(prog_name="nestling", standalone_mode=False)
    except Stopped as stop:
        note(f"stopped{stop.hint}")
        code = 128 + stop.number
    except Exception as error:  # the last door
        if debug and not isinstance(error, UsageError):
            raise
        code = explain(error)
    sys.exit(code)


def explain(error: Exception) -> int:
    """Prints a few lines in place of a traceback; returns the exit code."""
    if not isinstance(error, NestlingError | UsageError) and (shortage := describe_shortage(error)):
        remedy = REMEDIES.get(next(iter(sys.argv[1:]), ""), "ask for less")
        error = OutOfMemoryError(f"{shortage}; {remedy}, or close other programs")
    if isinstance(error, OSError) and error.filename and error.errno in NAMES_NOTHING:
        error = NestlingError(f"{error.filename}: {error.strerror}; give another name")
    if isinstance(error, NestlingError):
        first, *more = map(str, error.args)
        if len(more) >= MAX_LINES:
            more = [*more[: MAX_LINES - 2], f"and {len(more) - MAX_LINES + 2} more"]
        more = [f"  {line}" for line in more]
    elif isinstance(error, UsageError):
        first, more = _explain_usage(error)
    elif isinstance(error, OSError):
        first, more = str(error), []
    else:
        said = traceback.format_exception_only(error)[-1].strip().splitlines()
        first, more = f"this is a fault of Nestling, not yours: {said[0]}", [_keep_traceback(error)]
    if first:  # there is nothing to say where no word was typed: the help has been printed
        complain(_shorten(printable(first)))
        note(*map(_shorten, more))
    return error.exit_code if isinstance(error, NestlingError | UsageError) else 1


def _shorten(line: str) -> str:
    """A line without its middle, if it is very long: its ends say what is wrong, and what to do."""
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH // 2]} … {line[-MAX_LENGTH // 2 :]}"


def _explain_usage(error: Any) -> tuple[str, list[str]]:
    """What is wrong with the words that were typed, and where the right ones are."""
    text = error.format_message().removesuffix(".").replace("Value error, ", "")
    if (errors := getattr(error.__cause__, "errors", None)) is not None:  # pydantic's, whose words lack the value
        text += f", got {errors()[0]['input']!r}"
    if error.ctx is None:
        return text, []
    path, command = error.ctx.command_path, error.ctx.command
    if isinstance(command, typer.core.TyperGroup) and error.ctx.parent:
        return text, [f"  what there is: {', '.join(f'{path} {name}' for name in command.commands)}"]
    named = "unexpected extra argument" in text and any("--run" in param.opts for param in command.params)
    return text, ["  a run is named by --run"] * named + [f"  {path} --help shows what there is"]


def _keep_traceback(error: Exception) -> str:
    """Writes a traceback into a file of its own; says where it is, and what to do with it."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="nestling-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n\n")
            traceback.print_exception(error, file=file)
    except OSError:
        return "run it again with --debug to see where"
    return f"where it happened is in {file.name}; please report it with that file (--debug shows it at once)"
