"""What every page is made of: one HTML file that needs nothing else, no network and no folder beside it.

Every string is escaped. Should an escape be missed, the page's content security policy still lets no script
run but our own two, which it knows by their hashes, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from nestling.reports.run_facts import Measure
from nestling.reports.subnet_drawing import DARK, LIGHT, STYLE, SYMBOLS, safe_text
from search_spaces.files import write_file

BRAND = (
    '<p class="brand"><svg viewBox="0 0 20 24" aria-hidden="true">'
    '<path class="heads" d="M10 1c5 0 9 7.2 9 13a9 9 0 0 1-18 0C1 8.2 5 1 10 1z"/>'
    '<path class="cut" d="M5 12v5M8.3 9v11M11.7 11v7M15 12.5v4"/></svg>Nestling</p>'
)


def write_page(page: str, path: Path) -> None:
    """Writes a page as one file, at once: a reader never sees half of it."""
    write_file(path, page)


def render_page(title: str, body: str, figures: Sequence[dict[str, Any]] = (), style: str = "") -> str:
    """A page as HTML.

    Args:
        title: Any text.
        body: HTML.
        figures: Plotly's, each with the `id` of the element it is drawn in; Plotly comes along only if there are some.
        style: CSS beyond that of all pages.
    """
    template = (files("nestling.reports") / "page.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    plotly: str = get_plotlyjs() if figures else ""
    return Template(template).substitute(
        title=safe_text(title),
        scripts=f"{script_hash(plotly)} {script_hash(script)}",
        light=_variables(LIGHT),
        dark=_variables(DARK),
        drawing_style=STYLE + style,
        body=body,
        plotly=f"<script>{plotly}</script>" if plotly else "",
        figures=_safe_json(figures),
    )


def script_hash(script: str) -> str:
    """What a content security policy calls this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def section(title: str, lead: str, body: str) -> str:
    """A section; `lead` and `body` are HTML."""
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    return f"<section><h2>{safe_text(title)}</h2>{lead}{body}</section>"


def table(head: str, rows: str, label: str) -> str:
    """A table that scrolls inside its own box; `head` and `rows` are HTML."""
    return (
        f'<div class="scroll" role="region" aria-label="{safe_text(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """Symbols, their colours, and what they mean."""
    items = "".join(
        f'<li><svg viewBox="0 0 14 14" class="{colour}" aria-hidden="true">{SYMBOLS[symbol]}</svg>'
        f"{safe_text(meaning)}</li>"
        for symbol, colour, meaning in entries
    )
    return f'<ul class="legend">{items}</ul>'


def facts(rows: Iterable[tuple[str, str]], commands: Sequence[str]) -> str:
    """How it was made: names and what they are, which is HTML, and what to type to make it again."""
    listed = "".join(f"<div><dt>{name}</dt><dd>{value or '–'}</dd></div>" for name, value in rows)
    typed = f"<pre>{safe_text(chr(10).join(commands))}</pre>" if commands else ""
    return section("How it was made", "", f'<dl class="facts">{listed}</dl>{typed}')


def notes(texts: Iterable[str]) -> str:
    """What a reader must know; nothing if there is nothing."""
    items = "".join(f"<li>{safe_text(text)}</li>" for text in texts)
    return section("Read with care", "", f'<ul class="notes">{items}</ul>') if items else ""


def full_count(count: int) -> str:
    """Exactly four digits, so that a column lines up: `1.500G`."""
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:#.4g}".rstrip(".") + suffix
    return str(count)


class Scale:
    """Draws measures as dots on their intervals, all on one range."""

    def __init__(self, low: float, high: float, zero: float | None = None) -> None:
        self.low, self.high, self.zero = low, high, zero

    @classmethod
    def holding(cls, measures: Iterable[Measure], zero: bool = False) -> Scale:
        """A range that all intervals fit in with a little air; `zero` is a line that marks 0."""
        ends = [0.0] if zero else []
        for measure in measures:
            ends += [end for end in (measure.value, measure.low, measure.high) if end is not None]
        ends = [end for end in ends if math.isfinite(end)] or [0.0]
        air = 0.06 * (max(ends) - min(ends)) or 0.05
        return cls(min(ends) - air, max(ends) + air, 0.0 if zero else None)

    def at(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def draw(self, measure: Measure, kind: str = "") -> str:
        """HTML of one dot."""
        if not math.isfinite(measure.value):
            return ""
        low = measure.value if measure.low is None else measure.low
        high = measure.value if measure.high is None else measure.high
        line = "" if self.zero is None else f'<u style="left:{self.at(self.zero):.2%}"></u>'
        return (
            f'<span class="whisker {kind}">{line}'
            f'<i style="left:{self.at(low):.2%};width:{self.at(high) - self.at(low):.2%}"></i>'
            f'<b style="left:{self.at(measure.value):.2%}"></b></span>'
        )


def _variables(palette: dict[str, str]) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in palette.items())


def _safe_json(value: object) -> str:
    """JSON that cannot end the element it stands in; numbers that JSON lacks are null."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
