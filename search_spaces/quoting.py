"""Strings of others, written so that they stay what they are: one function for each place where they are shown.

A name of a file may hold anything: a line break, an escape code that recolours a terminal, a bracket, a quote.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def printable(value: object) -> str:
    r"""A value on one line: what cannot be seen (control codes, line breaks, turns of direction) as `\n`, `\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def shell_command(words: Sequence[object]) -> str:
    """A command on one line that a shell reads as these words."""
    return " ".join(map(_shell_word, map(str, words)))


def python_literal(text: str) -> str:
    """A string as Python's source: in double quotes unless it holds some."""
    return repr(text) if '"' in text else '"' + repr("'" + text)[2:]


def markdown_text(value: object) -> str:
    """A value as plain text of Markdown: no emphasis, no link, no HTML."""
    return re.sub(r"[\\`*_~\[\]<>&]", r"\\\g<0>", printable(value))


def markdown_code(value: object) -> str:
    """A value as code in a line of Markdown, whatever backticks it holds."""
    text = printable(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] in ("`", " ", "") or text[-1:] in ("`", " ") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(c if c.isprintable() and c not in "\\'" else _octal(c) for c in word)
    return f"$'{escaped}'"  # of bash, zsh and POSIX 2024


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
