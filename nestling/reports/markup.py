"""Strings of others as text of HTML and SVG."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

from search_spaces.quoting import printable


def show_unseen(value: Any) -> Any:
    r"""A string with what cannot be seen in it as `\x1b`, its lines kept; markup and all else as they are."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(printable, value.split("\n")))
    return value


def safe_text(value: object) -> Markup:
    """Anything as text of HTML or XML."""
    return escape(show_unseen(value if isinstance(value, Markup) else str(value)))
