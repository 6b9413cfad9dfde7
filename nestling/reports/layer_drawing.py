"""Draws what each hidden state of some encoders knows, and which of them are alike, as SVG that follows the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from nestling.reports.markup import element
from speech_tasks.layer_view import ProbeErrors

COLOURS = ("heads", "mark", "conv", "ffn", "ink", "dot")
"""Of encoders, in turn; after the last, lines are dashed."""
MAX_NUMBERED = 14
"""A heat map with more rows or columns has no numbers in its cells."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460.0, 250.0, 46.0, 12.0, 12.0, 40.0


def colour_of(index: int) -> str:
    """The colour of the `index`-th encoder."""
    return COLOURS[index % len(COLOURS)]


def draw_errors(errors: Mapping[str, tuple[int, ProbeErrors]]) -> Markup:
    """Errors over hidden states, a line for each encoder.

    Args:
        errors: By encoder: its place among all, which gives its colour, and its errors of one kind of label.
    """
    every = [e for _, e in errors.values()]
    ends = [
        value + side * half
        for e in every
        for value, half in zip(e.errors, e.half_intervals, strict=True)
        for side in (-1, 1)
    ]
    low, high = _round_range(min(ends), max(ends))
    last = max(1, max(len(e.errors) for e in every) - 1)

    def across(layer: float) -> float:
        return _LEFT + 8 + (_WIDTH - _LEFT - _RIGHT - 16) * layer / last

    def up(value: float) -> float:
        within = min(max(value, low), high)  # an interval may reach below 0 %
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - within) / (high - low)

    parts = []
    for value in np.linspace(low, high, 5):
        parts.append(element("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=up(value), y2=up(value)))
        parts.append(element("text", f"{value:g}%", x=_LEFT - 8, y=up(value), dy=".35em", text_anchor="end"))
    for i in range(0, last + 1, 1 + last // 13):
        parts.append(element("text", i, x=across(i), y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(element("text", "hidden state", x=middle, y=_HEIGHT - 4, text_anchor="middle"))
    for name, (index, e) in errors.items():
        bars, dots, corners = [], [], []
        for i, (value, half) in enumerate(zip(e.errors, e.half_intervals, strict=True)):
            x, y = across(i), up(value)
            said = element("title", f"{name}, hidden state {i}: {value:.1f}% ± {half:.1f}")
            bars.append(element("path", class_="bar", d=f"M{x:.1f} {up(value - half):.1f}V{up(value + half):.1f}"))
            dots.append(element("circle", said, cx=x, cy=y, r=3.5))
            corners.append(f"{x:.1f},{y:.1f}")
        kind = "trace again" if index >= len(COLOURS) else "trace"
        line = element("polyline", class_=kind, points=" ".join(corners))
        parts.append(element("g", *bars, line, *dots, class_="dots", style=f"color:var(--{colour_of(index)})"))
    return _svg("chart", _WIDTH, _HEIGHT, f"Error of a linear probe over hidden states, {every[0].label}", parts)


def draw_likeness(likeness: NDArray[np.float64], rows: str, columns: str) -> Markup:
    """CKA as a heat map: a row for each hidden state of one encoder, a column for each of another."""
    height, width = likeness.shape
    numbered = max(height, width) <= MAX_NUMBERED
    size, left, top = 34.0, 62.0, 8.0
    parts = []
    for (i, j), value in np.ndenumerate(likeness):
        x, y = left + size * j, top + size * (height - 1 - i)  # the input of the first layer at the bottom
        shade = f"color-mix(in srgb,var(--heads) {100 * min(max(value, 0), 1):.0f}%,var(--card))"
        said = element("title", f"{rows} {i}, {columns} {j}: {value:.2f}")
        parts.append(element("rect", said, x=x, y=y, width=size - 1, height=size - 1, rx=3, style=f"fill:{shade}"))
        if numbered:
            tone = f"fill:var(--{'card' if value > 0.55 else 'ink'})"
            place = {"x": x + size / 2, "y": y + size / 2}
            parts.append(element("text", _short(value), class_="cell", dy=".35em", style=tone, **place))
    bottom = top + size * height
    for i in range(0, height, 1 + height // 15):
        y = top + size * (height - 0.5 - i)
        parts.append(element("text", i, x=left - 8, y=y, dy=".35em", text_anchor="end"))
    for j in range(0, width, 1 + width // 15):
        parts.append(element("text", j, x=left + size * (j + 0.5), y=bottom + 16, text_anchor="middle"))
    across, along = left + size * width / 2, top + size * height / 2
    parts.append(element("text", columns, x=across, y=bottom + 38, text_anchor="middle"))
    turned = f"translate(16 {along:.0f}) rotate(-90)"
    parts.append(element("text", rows, transform=turned, text_anchor="middle"))
    return _svg("chart map", left + size * width + 8, bottom + 46, f"CKA of {rows} with {columns}", parts)


def _round_range(low: float, high: float) -> tuple[float, float]:
    """Ends that hold both and make four steps of a round size."""
    for step in (1.0, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0):
        start = step * np.floor(max(low, 0.0) / step)
        if start + 4 * step >= high:
            return float(start), float(start + 4 * step)
    return 0.0, 120.0


def _short(value: float) -> str:
    """Two digits without the zero before the point."""
    return "1" if value >= 0.995 else f"{max(value, 0.0):.2f}".removeprefix("0")


def _svg(kind: str, width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    box = f"0 0 {width:.0f} {height:.0f}"
    return element("svg", *parts, class_=kind, viewBox=box, role="img", aria_label=label)
