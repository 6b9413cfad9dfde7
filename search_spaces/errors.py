"""What goes wrong for a reason outside this code. Whatever else is raised is a fault of ours, and looks like one."""

from __future__ import annotations

import errno
from typing import ClassVar

_BREAK = "\n  "
"""Between lines of a message: those after the first are indented."""


class NestlingError(ValueError):
    r"""Something that a user caused and can mend: input, options, a budget, a file.

    Its message says the rule, what arrived and what to do. It is a ValueError, so that validators of pydantic may
    raise it; a plain ValueError means that a function was called wrongly, which only code can do.

    Args:
        lines: Of the message, mostly one, or what `str` made of some. Any other line break is somebody else's, and is
            shown as `\n`.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(part for line in lines for part in line.split(_BREAK)))

    def __str__(self) -> str:
        return _BREAK.join(self.args)

    exit_code: ClassVar[int] = 2
    """What the command line ends with."""


class FailedError(NestlingError):
    """The input was right and the work failed all the same: a full disk, another program, a loss that is not finite."""

    exit_code = 1


class OutOfMemoryError(FailedError):
    """There is not enough memory for what was asked."""


_SHORTAGES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "unable to allocate",
    "failed to allocate",
    "defaultcpuallocator",
    "bad_alloc",
    "bad allocation",
)


def describe_shortage(error: Exception) -> str | None:
    """What an allocator said: that of Python, NumPy, PyTorch or ONNX Runtime. None where memory was not the reason.

    PyTorch and C++ say it in a RuntimeError, ONNX Runtime in classes of its own; in any other, such words are quoted.
    """
    said = str(error)
    if isinstance(error, OSError):
        short = error.errno == errno.ENOMEM
    else:
        speaks = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime.")
        short = isinstance(error, MemoryError) or (speaks and any(words in said.lower() for words in _SHORTAGES))
    if not short:
        return None
    return f"not enough memory ({said.splitlines()[0]})" if said else "not enough memory"
