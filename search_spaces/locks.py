"""The lock on an open file or folder, which the system frees when that is closed, or its process dies."""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

SECONDS_BETWEEN = 0.05
"""How often Windows is asked again."""
_FAR = 1 << 30
"""Where Windows locks a byte: nobody can read what is locked there."""


def take_lock(file: int | IO[Any], *, wait: bool) -> None:
    """Takes the one lock there is on what is open.

    Args:
        file: A file, or the descriptor of a file or folder.
        wait: For whoever holds it. Else it is refused at once.

    Raises:
        BlockingIOError: It is held, and not waited for.
        OSError: The file system knows no locks.
    """
    descriptor = file if isinstance(file, int) else file.fileno()
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            while True:
                os.lseek(descriptor, _FAR, os.SEEK_SET)
                try:
                    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                    break
                except PermissionError as error:
                    if not wait:
                        raise BlockingIOError(error.errno, error.strerror) from None
                time.sleep(SECONDS_BETWEEN)
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)
    else:
        import fcntl  # noqa: PLC0415

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
