"""Draws what each hidden state of some encoders knows, and which of them are alike, as SVG that follows the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from nestling.reports.markup import safe_text
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

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(v):.1f}" y2="{up(v):.1f}"/>'
        f'<text x="{_LEFT - 8}" y="{up(v):.1f}" dy=".35em" text-anchor="end">{v:g}%</text>'
        for v in np.linspace(low, high, 5)
    ]
    step = 1 + last // 13
    parts += [
        f'<text x="{across(i):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{i}</text>'
        for i in range(0, last + 1, step)
    ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">hidden state</text>')
    for name, (index, e) in errors.items():
        points = [(across(i), up(value), up(value - half), up(value + half)) for i, (value, half) in _pairs(e)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        bars = "".join(f'<path class="bar" d="M{x:.1f} {a:.1f}V{b:.1f}"/>' for x, _, a, b in points)
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{safe_text(name)}, hidden state {i}: '
            f"{e.errors[i]:.1f}% ± {e.half_intervals[i]:.1f}</title></circle>"
            for i, (x, y, _, _) in enumerate(points)
        )
        again = " again" if index >= len(COLOURS) else ""
        parts.append(
            f'<g class="dots" style="color:var(--{colour_of(index)})">{bars}'
            f'<polyline class="trace{again}" points="{line}"/>{dots}</g>'
        )
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
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{size - 1}" height="{size - 1}" rx="3" style="fill:{shade}">'
            f"<title>{safe_text(rows)} {i}, {safe_text(columns)} {j}: {value:.2f}</title></rect>"
        )
        if numbered:
            tone = "card" if value > 0.55 else "ink"
            parts.append(
                f'<text class="cell" x="{x + size / 2:.0f}" y="{y + size / 2:.0f}" dy=".35em" '
                f'style="fill:var(--{tone})">{_short(value)}</text>'
            )
    bottom = top + size * height
    parts += [
        f'<text x="{left - 8}" y="{top + size * (height - 0.5 - i):.0f}" dy=".35em" text-anchor="end">{i}</text>'
        for i in range(0, height, 1 + height // 15)
    ]
    parts += [
        f'<text x="{left + size * (j + 0.5):.0f}" y="{bottom + 16:.0f}" text-anchor="middle">{j}</text>'
        for j in range(0, width, 1 + width // 15)
    ]
    across, along = left + size * width / 2, top + size * height / 2
    parts.append(f'<text x="{across:.0f}" y="{bottom + 38:.0f}" text-anchor="middle">{safe_text(columns)}</text>')
    parts.append(
        f'<text transform="translate(16 {along:.0f}) rotate(-90)" text-anchor="middle">{safe_text(rows)}</text>'
    )
    return _svg("chart map", left + size * width + 8, bottom + 46, f"CKA of {rows} with {columns}", parts)


def _pairs(errors: ProbeErrors) -> Sequence[tuple[int, tuple[float, float]]]:
    return list(enumerate(zip(errors.errors, errors.half_intervals, strict=True)))


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


def _svg(kind: str, width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{safe_text(label)}">'
        f"{''.join(parts)}</svg>"
    )
