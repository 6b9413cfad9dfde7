"""Strings of others as text of HTML and SVG, and the elements of drawings."""

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


def element(name: str, *inner: object, **attributes: object) -> Markup:
    """An element of SVG.

    Args:
        name: Of the element.
        inner: Elements, as they are, and text.
        attributes: `class_` is `class`, `font_size` is `font-size`; a float has two digits after the point at most, and
            what is None is left out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), safe_text(_short(value)))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(map(safe_text, inner)))


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
