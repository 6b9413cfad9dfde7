"""Draws a subnet inside its container, layer by layer, as SVG.

The signal runs along one axis. First the front-end: one bar per convolution, mirrored about the axis.
Then the residual stream, a band, and on it every layer of the container: attention heads, one cell each, on
one side and the FFN on the other. What the subnet uses is solid, the rest of the container pale; a layer that
the subnet leaves out is a dashed ghost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from nestling.reports.markup import element
from search_spaces.subnet import Layer, Subnet

LIGHT = {
    "paper": "#faf9f6",
    "card": "#ffffff",
    "ink": "#1b2026",
    "muted": "#5c6670",
    "line": "#e3e0d8",
    "ghost": "#b9b8b0",
    "dot": "#848d96",
    "conv": "#4a6fa5",
    "heads": "#0f7b6c",
    "ffn": "#bb7c1b",
    "stream": "#d9dfe3",
    "mark": "#c2410c",
}
DARK = {
    "paper": "#121518",
    "card": "#1a1e22",
    "ink": "#eceae4",
    "muted": "#a0a9b2",
    "line": "#2b3137",
    "ghost": "#59636c",
    "dot": "#77818b",
    "conv": "#7fa6dc",
    "heads": "#3fbfa9",
    "ffn": "#dfae4f",
    "stream": "#353e46",
    "mark": "#ff8f5c",
}
"""Colours by role. On paper and card, text (ink, muted, mark) has a contrast of 4.5, all else one of 3."""

STYLE = """
.ink{fill:var(--ink)}.muted{fill:var(--muted)}.conv{fill:var(--conv)}.heads{fill:var(--heads)}
.ffn{fill:var(--ffn)}.stream{fill:var(--stream)}.mark{fill:var(--mark)}.dot{fill:var(--dot)}
.rest{fill-opacity:.13;stroke-opacity:.5;stroke-width:1}.rest.conv{stroke:var(--conv)}
.rest.heads{stroke:var(--heads)}.rest.ffn{stroke:var(--ffn)}.rest.stream{fill-opacity:.35;stroke:var(--ghost)}
.dropped{fill:none;stroke:var(--ghost);stroke-width:1;stroke-dasharray:3 3}
.hollow{fill:none;stroke:var(--dot);stroke-width:1.5}
.dashes{fill:none;stroke:var(--mark);stroke-width:1.5;stroke-dasharray:4 3}
.wave{fill:var(--muted)}.number{font-weight:600}.small{font-size:12px}.index{font-size:11px}
"""
"""Of every drawing here; `var(--…)` are the roles of the palettes."""

SYMBOLS = {
    "star": Markup('<path d="M7 0l2 4.6 5 .5-3.8 3.3 1.2 5L7 10.8 2.6 13.4l1.2-5L0 5.1l5-.5z"/>'),
    "circle": Markup('<circle cx="7" cy="7" r="4"/>'),
    "diamond": Markup('<path d="M7 1l6 6-6 6-6-6z"/>'),
    "triangle-up": Markup('<path d="M7 1l6 11H1z"/>'),
    "circle-open": Markup('<circle cx="7" cy="7" r="3.5" class="hollow"/>'),
    "dashes": Markup('<path class="dashes" d="M7 0v14"/>'),
    "line": Markup('<rect y="5" width="14" height="4" rx="2"/>'),
}
"""What marks a point of a plot, by its name in Plotly, or a line; each in a box of 14 by 14."""

_GAP = 4.0  # between the stream and what sits on it


@dataclass(frozen=True)
class Drawing:
    """SVG elements and the box they fill, from (0, 0)."""

    body: Markup
    width: float
    height: float


@dataclass(frozen=True)
class _Axis:
    """Places things along the signal and across it; negative is above (lying) or to the left (upright)."""

    upright: bool
    centre: float

    def bar(self, start: float, length: float, low: float, high: float, kind: str, title: str = "") -> Markup:
        x, y, width, height = start, self.centre + low, length, high - low
        if self.upright:
            x, y, width, height = y, x, height, width
        hint = [element("title", title)] if title else []
        radius = min(2.5, width / 2, height / 2)
        return element("rect", *hint, class_=kind, x=x, y=y, width=max(width, 0), height=max(height, 0), rx=radius)

    def text(self, along: float, across: float, text: object, kind: str, anchor: str = "") -> Markup:
        x, y = along, self.centre + across
        if self.upright:
            x, y = y, x
            anchor = anchor or ("end" if across < 0 else "start")
        return element("text", text, class_=kind, x=x, y=y, dy=".35em", text_anchor=anchor or "middle")

    def funnel(self, start: float, end: float, half_in: float, half_out: float) -> Markup:
        corners = [(start, -half_in), (end, -half_out), (end, half_out), (start, half_in)]
        points = [(a, self.centre + c) for a, c in corners]
        if self.upright:
            points = [(y, x) for x, y in points]
        return element("polygon", class_="stream", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def draw_subnet(subnet: Subnet, container: Subnet, upright: bool = False) -> Drawing:
    """The subnet inside its container.

    Args:
        subnet: What is filled. The container itself draws a container without outlines.
        container: The largest subnet of the space, whose outline shows what was cut.
        upright: The signal runs downwards, in a box 360 wide (a phone), rather than to the right in one about
            1,100 wide.
    """
    num_bars = len(container.conv_dims) + len(container.layers)
    if upright:
        axis, pitch, reach, band = _Axis(True, 180), 25.0, 104.0, 26.0
    else:
        axis, pitch, reach, band = _Axis(False, 198), min(72.0, 860 / num_bars), 128.0, 40.0
    wave_end = 40.0 if upright else 92.0
    convs_end = wave_end + 14 + pitch * len(container.conv_dims)
    layers_start = convs_end + (44 if upright else 62)
    layers_end = layers_start + pitch * len(container.layers)
    parts = [
        _wave(axis, wave_end),
        _stream(axis, (convs_end, layers_start, layers_end), band, reach, subnet, container),
        element(
            "g",
            _convolutions(axis, wave_end + 14, pitch, reach, subnet, container),
            _layers(axis, layers_start, pitch, (band / 2 + _GAP, reach), subnet, container),
            font_size=None if upright else min(13.0, 0.34 * pitch),
        ),
        _captions(axis, wave_end + 14, layers_start, band / 2 + _GAP + reach),
    ]
    length = layers_end + (44 if upright else 104)
    width, height = (360.0, length) if upright else (length, 396.0)
    return Drawing(Markup("").join(parts), width, height)


def _wave(axis: _Axis, end: float) -> Markup:
    """A few bars that look like speech going in; they stand in both directions."""
    left, middle, tall = (axis.centre - 44, end / 2, 0.55) if axis.upright else (4.0, axis.centre, 1.0)
    heights = (tall * (4 + 30 * abs(math.sin(1.9 * i) * math.sin(0.35 * i + 0.5))) for i in range(18))
    return Markup("").join(
        element("rect", class_="wave", x=left + 4.9 * i, y=middle - h, width=2, height=2 * h, rx=1)
        for i, h in enumerate(heights)
    )


def _convolutions(axis: _Axis, start: float, pitch: float, reach: float, subnet: Subnet, container: Subnet) -> Markup:
    scale = reach / max(container.conv_dims)
    parts = []
    for i, (used, most) in enumerate(zip(subnet.conv_dims, container.conv_dims, strict=False)):
        along, thick = start + i * pitch + 0.15 * pitch, 0.7 * pitch
        title = f"convolution {i + 1}: {used} of {most} channels"
        parts.append(axis.bar(along, thick, -scale * most, scale * most, "rest conv", title))
        parts.append(axis.bar(along, thick, -scale * used, scale * used, "conv", title))
        outside = scale * most + (8 if axis.upright else 11)
        number = outside if axis.upright else -outside
        parts.append(axis.text(along + thick / 2, number, used, "ink number"))
    return Markup("").join(parts)


def _stream(
    axis: _Axis,
    along: tuple[float, float, float],
    band: float,
    reach: float,
    subnet: Subnet,
    container: Subnet,
) -> Markup:
    """The residual stream, and the projection that leads into it."""
    convs_end, start, end = along
    half = band / 2 * subnet.embed_dim / container.embed_dim
    last = reach * subnet.conv_dims[-1] / max(container.conv_dims)
    title = f"residual stream: {subnet.embed_dim} of {container.embed_dim} wide"
    after = end + (18 if axis.upright else 12)
    parts = [
        axis.funnel(convs_end, start - 6, last, half),
        axis.bar(start - 7, end - start + 14, -band / 2, band / 2, "rest stream", title),
        axis.bar(start - 7, end - start + 14, -half, half, "stream", title),
        axis.text(after, 0, f"{subnet.embed_dim} wide", "ink number", "middle" if axis.upright else "start"),
    ]
    if subnet.embed_dim != container.embed_dim:
        place = (after + 15, 0.0) if axis.upright else (after, 15.0)
        of = f"of {container.embed_dim}"
        parts.append(axis.text(*place, of, "muted small", "middle" if axis.upright else "start"))
    return Markup("").join(parts)


def _layers(
    axis: _Axis, start: float, pitch: float, zone: tuple[float, float], subnet: Subnet, container: Subnet
) -> Markup:
    """Every layer of the container; `zone` is where bars begin, across, and how far they reach."""
    inner, reach = zone
    used = dict(zip(subnet.kept, subnet.layers, strict=True))
    most_heads = max(layer.heads for layer in container.layers)
    most_ffn = max(layer.ffn_dim for layer in container.layers)
    label = reach + inner + (8 if axis.upright else 12)
    parts = []
    for i, most in enumerate(container.layers):
        along, thick = start + i * pitch + 0.15 * pitch, 0.7 * pitch
        middle, cell, unit = along + thick / 2, reach / most_heads, reach / most_ffn
        parts.append(axis.text(middle, 0, i + 1, "ink index" if i in used else "muted index", "middle"))
        if i not in used:
            title = f"layer {i + 1}: left out"
            parts.append(axis.bar(along, thick, -inner - cell * most.heads, -inner, "dropped", title))
            parts.append(axis.bar(along, thick, inner, inner + unit * most.ffn_dim, "dropped", title))
            parts.append(axis.text(middle, -label, "–", "muted"))
            parts.append(axis.text(middle, label, "–", "muted"))
            continue
        layer = used[i]
        title = _describe_layer(i, layer, most)
        for head in range(most.heads):
            far = -inner - cell * (head + 1)
            kind = "heads" if head < layer.heads else "rest heads"
            parts.append(axis.bar(along, thick, far + 1, far + cell - 1, kind, title))
        parts.append(axis.bar(along, thick, inner, inner + unit * most.ffn_dim, "rest ffn", title))
        parts.append(axis.bar(along, thick, inner, inner + unit * layer.ffn_dim, "ffn", title))
        parts.append(axis.text(middle, -label, layer.heads, "ink number"))
        parts.append(axis.text(middle, label, layer.ffn_dim, "ink number"))
    return Markup("").join(parts)


def _describe_layer(index: int, layer: Layer, most: Layer) -> str:
    return f"layer {index + 1}: {layer.heads} of {most.heads} heads, FFN {layer.ffn_dim} of {most.ffn_dim}"


def _captions(axis: _Axis, convs: float, layers: float, reach: float) -> Markup:
    """What each colour means."""
    if axis.upright:
        places = ((4.0, convs - 12, "conv", "Front-end channels"), (4.0, layers - 16, "heads", "Heads"))
        return Markup("").join(_caption(*place) for place in (*places, (284.0, layers - 16, "ffn", "FFN width")))
    top, bottom = axis.centre - reach - 34, axis.centre + reach + 34
    return (
        _caption(convs + 8, top, "conv", "Front-end channels")
        + _caption(layers + 8, top, "heads", "Attention heads")
        + _caption(layers + 8, bottom, "ffn", "FFN width")
    )


def _caption(x: float, y: float, kind: str, text: str) -> Markup:
    return element("rect", class_=kind, x=x, y=y - 4.5, width=9, height=9, rx=2.5) + element(
        "text", text, class_="ink small", x=x + 14, y=y, dy=".35em"
    )
