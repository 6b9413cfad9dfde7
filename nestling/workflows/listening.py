"""Whom a workflow tells how far it is and what to know of it. A screen is one, a log may be, and so is nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from search_spaces.errors import FailedError


class Listener(Protocol):
    """Told of progress and of what somebody should know."""

    def note(self, *lines: str) -> None:
        """What is going on."""

    def warn(self, *lines: str | None) -> None:
        """What should be known; None says nothing."""

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """A piece of work of `total` steps begins, of which some are done."""

    def advance(self, note: str = "") -> None:
        """A step of it is done."""

    def show(self, name: str, done: int, total: int | None) -> None:
        """How far a piece of work is that counts by itself; another name is another piece."""


class Silent:
    """Listens to nothing."""

    def note(self, *lines: str) -> None:
        """Says nothing."""

    def warn(self, *lines: str | None) -> None:
        """Says nothing."""

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """Shows nothing."""

    def advance(self, note: str = "") -> None:
        """Shows nothing."""

    def show(self, name: str, done: int, total: int | None) -> None:
        """Shows nothing."""


SILENT = Silent()


def reporter(listener: Listener, name: str) -> Callable[[int, int], None]:
    """A callback (done, total) for a piece of work that counts by itself."""
    return lambda done, total: listener.show(name, done, total)


@contextmanager
def by_product(listener: Listener) -> Iterator[None]:
    """Warns of what could not be written where the result is complete without it."""
    try:
        yield
    except FailedError as error:
        listener.warn(str(error))
