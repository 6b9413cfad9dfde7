"""The terminal: results to stdout, what is going on to stderr, progress as a bar or as a line now and then."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from math import inf
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from search_spaces.quoting import printable, shell_command

out = Console(highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 120)
log = Console(stderr=True, highlight=False, emoji=False)
PLAIN_SECONDS = 10.0
"""Without a terminal, a line of progress at most this often."""


def tell(*lines: str) -> None:
    """Prints a result."""
    _print(out, lines)


def show_json(values: object) -> None:
    """Prints a result for programs."""
    from search_spaces.strict_json import finite_json  # noqa: PLC0415 - it reads YAML too, and help waits for nothing

    sys.stdout.write(json.dumps(finite_json(values), indent=2, allow_nan=False) + "\n")


def note(*lines: str) -> None:
    """Says what is going on."""
    _print(log, lines)


def warn(*lines: str | None) -> None:
    """Says what the user should know, if there is anything."""
    _print(log, [line for line in lines if line], "yellow")


def complain(line: str) -> None:
    """Says what went wrong."""
    log.print(Text.assemble(("error:", "bold red"), " ", line), soft_wrap=True)


def _print(console: Console, lines: Sequence[str], style: str = "") -> None:
    """Lines as they are: none is broken, no bracket is read as markup, and what cannot be seen is shown."""
    for line in lines:
        console.print(Text(printable(line), style), soft_wrap=True)


def markup(value: str) -> str:
    """Somebody else's words in a table, in rich's markup."""
    return escape(printable(value))


def next_command(command: str, **options: object) -> str:
    """What to type next."""
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shell_command(["nestling", *command.split(), *words])


def command_line() -> str:
    """What was typed, as a shell would read it again."""
    return shell_command(["nestling", *sys.argv[1:]])


class Screen:
    """A progress bar on a terminal, a line now and then elsewhere; on stderr."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=log,
            transient=True,
        )
        self._task: Any = None
        self._name, self._done, self._spoke = "", 0, time.monotonic()
        self._total: int | None = None

    def __enter__(self) -> Screen:
        if log.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if log.is_terminal:
            self._bar.stop()

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """Begins a piece of work of `total` steps; without a terminal, says so at once."""
        self._begin(name, total, done)
        self._spoke = -inf
        self._speak()

    def _begin(self, name: str, total: int | None, done: int = 0) -> None:
        self._name, self._total, self._done = name, total, done
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(printable(name), total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        """One step is done."""
        self._done += 1
        self._bar.update(self._task, advance=1, note=note)
        self._speak(note)

    def show(self, name: str, done: int, total: int | None) -> None:
        """How far a piece of work is that counts by itself; another name begins another piece."""
        if self._task is None or self._name != name:
            self._begin(name, total)
        self._done, self._total = done, total
        self._bar.update(self._task, completed=done, total=total)
        self._speak()

    def note(self, *lines: str) -> None:
        """Says what is going on."""
        note(*lines)

    def warn(self, *lines: str | None) -> None:
        """Says what the user should know."""
        warn(*lines)

    def _speak(self, remark: str = "") -> None:
        """Without a terminal: a line, unless the last was just now."""
        if log.is_terminal or time.monotonic() - self._spoke < PLAIN_SECONDS:
            return
        self._spoke = time.monotonic()
        done = f" {self._done}/{self._total or '?'}" if self._done or self._total else ""
        note(f"{self._name}{done}  {remark}".rstrip())
