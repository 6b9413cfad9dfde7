"""What every page is made of: one HTML file that needs nothing else, no network and no folder beside it.

Pages are templates (`templates/`) that are handed facts. They escape every string that they show. Should an escape be
missed, the page's content security policy still lets no script run but our own two, which it knows by their hashes,
and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nestling.reports.markup import show_unseen
from nestling.reports.run_facts import Measure, describe
from nestling.reports.subnet_drawing import DARK, LIGHT, STYLE, SYMBOLS
from search_spaces.amounts import aligned_count, short_count
from search_spaces.files import write_file
from search_spaces.strict_json import finite_json


def write_page(page: str, path: Path) -> None:
    """Writes a page as one file, at once: a reader never sees half of it."""
    write_file(path, page)


def render_page(template: str, figures: Sequence[dict[str, Any]] = (), style: str = "", **facts: object) -> str:
    """A page as HTML.

    Args:
        template: One of `templates/` that extends page.html.
        figures: Plotly's, each with the `id` of the element it is drawn in; scripts come along only if there are some.
        style: CSS beyond that of all pages.
        facts: What the template shows.
    """
    from plotly.offline import get_plotlyjs  # noqa: PLC0415 - pages alone need it, and exports make none

    scripts = [get_plotlyjs(), own_text("figures.js")] if figures else []
    return _TEMPLATES.get_template(template).render(
        figures=finite_json(figures),
        scripts=[Markup(script) for script in scripts],
        style=Markup(own_text("page.css") + STYLE + style),
        **facts,
    )


def own_text(name: str) -> str:
    """A file of `templates/` as it is."""
    return (files("nestling.reports") / "templates" / name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """What a content security policy calls this script, in quotes there."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


class Scale:
    """Where measures lie, as dots on their intervals, all on one range."""

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

    def span(self, measure: Measure) -> tuple[float, float]:
        """Where the interval of a measure begins, and how wide it is, as shares of the range."""
        low = measure.value if measure.low is None else measure.low
        high = measure.value if measure.high is None else measure.high
        return self.at(low), self.at(high) - self.at(low)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _shown(value: float | None, form: str) -> str:
    """A number as `format` has it; a dash for what is not known."""
    return f"{value:{form}}" if value is not None and math.isfinite(value) else "–"


def _make_templates() -> Environment:
    made = Environment(
        loader=PackageLoader("nestling.reports"),
        autoescape=True,
        finalize=show_unseen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "describe": describe,
        "aligned_count": aligned_count,
        "script_hash": script_hash,
        "short_count": short_count,
        "shown": _shown,
    }
    made.tests["finite"] = _is_finite
    made.globals |= {"light": LIGHT, "dark": DARK, "symbols": SYMBOLS}
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


_TEMPLATES = _make_templates()
