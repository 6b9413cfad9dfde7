"""A still picture of the result, for a README: the front, and the chosen subnet inside its container."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from nestling.reports.markup import element
from nestling.reports.run_facts import CandidateRow, Chosen, Report
from nestling.reports.run_plots import GROUPS, best_by_size, group_name
from nestling.reports.subnet_drawing import DARK, LIGHT, STYLE, SYMBOLS, draw_subnet
from search_spaces.amounts import short_count
from search_spaces.errors import NestlingError
from search_spaces.files import write_file
from search_spaces.subnet import Subnet

WIDTH = 1120
_MARGIN = 40
_INSIDE = WIDTH - 2 * _MARGIN
_FRONT_HEIGHT = 300
_FONT = "-apple-system,BlinkMacSystemFont,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_OWN_STYLE = ".paper{fill:var(--paper)}.grid{stroke:var(--line)}.best{fill:none;stroke:var(--heads);stroke-width:1.5}"


def save_picture(report: Report, path: Path) -> None:
    """Writes the picture as SVG on its own background; it is light or dark as the reader prefers.

    Raises:
        NestlingError: Nothing was chosen yet, so there is no result to draw.
    """
    if report.chosen is None or report.container is None:
        raise NestlingError("a picture needs a chosen subnet and its container; run `nestling search subnet` first")
    write_file(path, _render(report, report.chosen, report.container))


def _render(report: Report, chosen: Chosen, container: Subnet) -> str:
    drawing = draw_subnet(chosen.subnet, container)
    scale = _INSIDE / drawing.width
    known = [c for c in report.candidates if math.isfinite(c.loss)]
    top = 150
    bottom = top + drawing.height * scale + 24
    front, height = Markup(), bottom
    if known:
        front = element("g", _front(report, known), transform=f"translate({_MARGIN} {bottom:.0f})")
        height += _FRONT_HEIGHT + 40
    return (
        element(
            "svg",
            element("title", report.title),
            element("style", Markup(_style())),
            element("rect", class_="paper", width="100%", height="100%", rx=16),
            _headline(report, chosen),
            element("g", drawing.body, transform=f"translate({_MARGIN} {top}) scale({scale:.3f})"),
            front,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {height:.0f}",
            width=WIDTH,
            height=round(height),
            role="img",
            font_family=_FONT,
            font_size=13,
        )
        + "\n"
    )


def _style() -> str:
    """The styles with the colours written out, for readers that know no variables."""

    def with_colours(palette: dict[str, str]) -> str:
        style = STYLE + _OWN_STYLE
        for role, colour in palette.items():
            style = style.replace(f"var(--{role})", colour)
        return style

    return f"{with_colours(LIGHT)}@media (prefers-color-scheme:dark){{{with_colours(DARK)}}}"


def _text(x: float, y: float, text: object, kind: str = "ink", **attributes: object) -> Markup:
    return element("text", text, class_=kind, x=x, y=y, **attributes)


def _headline(report: Report, chosen: Chosen) -> Markup:
    numbers = [
        (short_count(chosen.params), "parameters"),
        (short_count(chosen.macs), f"MACs for {report.macs_seconds:g} s of audio"),
    ]
    if report.budget and (share := report.budget[0].share) is not None:
        numbers.append((f"{share:.1%}", f"of the budget {report.budget[0].asked}"))
    if chosen.phone_error:
        teacher = report.teacher.phone_error if report.teacher else None
        against = f", teacher {teacher.value:.1%}" if teacher else ""
        numbers.append((f"{chosen.phone_error.value:.1%}", f"phone error{against}"))
    if chosen.latency_ms:
        numbers.append((f"{chosen.latency_ms.value:.1f} ms", "latency, measured"))
    pitch = _INSIDE / len(numbers)
    return _text(_MARGIN, 52, report.title, font_size=20, font_weight=650) + Markup("").join(
        _text(_MARGIN + i * pitch, 106, value, font_size=27, font_weight=650)
        + _text(_MARGIN + i * pitch, 127, name, "muted")
        for i, (value, name) in enumerate(numbers)
    )


def _front(report: Report, known: Sequence[CandidateRow]) -> Markup:
    """Loss against parameters."""
    left, right = min(c.params for c in known), max(c.params for c in known)
    low, high = min(c.loss for c in known), max(c.loss for c in known)

    def x(params: float) -> float:
        return 60 + (_INSIDE - 70) * (params - left) / ((right - left) or 1)

    def y(loss: float) -> float:
        return _FRONT_HEIGHT - 12 - (_FRONT_HEIGHT - 48) * (loss - low) / ((high - low) or 1)

    parts = [_text(0, 4, f"{report.loss_name[:1].upper()}{report.loss_name[1:]}, against parameters", font_weight=600)]
    for loss in _ticks(low, high):
        parts.append(element("path", class_="grid", d=f"M52 {y(loss):.1f}H{_INSIDE}"))
        parts.append(_text(44, y(loss), f"{loss:.4g}", "muted small", dy=".35em", text_anchor="end"))
    for size in _ticks(left, right):
        parts.append(_text(x(size), _FRONT_HEIGHT + 14, short_count(size), "muted small", text_anchor="middle"))
    (start, best), *steps = best_by_size((c.params, c.loss) for c in known)
    corners = "".join(f"H{x(size):.1f}V{y(loss):.1f}" for size, loss in steps)
    parts.append(element("path", class_="best", d=f"M{x(start):.1f} {y(best):.1f}{corners}"))
    for bound in report.budget:
        if bound.kind == "params" and left <= bound.limit <= right:
            parts.append(element("path", class_="dashes", d=f"M{x(bound.limit):.1f} 22V{_FRONT_HEIGHT - 4}"))
            parts.append(_text(x(bound.limit) - 6, 32, "budget", "mark small", text_anchor="end"))
    shown = []
    for group in reversed(GROUPS):  # the most telling are drawn last, on top
        members = [c for c in known if group_name(c, report) == group.name]
        scale = 1.4 if group.name == "chosen" else 0.75 if group.opacity < 1 else 0.95
        look = (group.symbol, group.colour, scale, group.opacity)
        parts += [_symbol(x(c.params), y(c.loss), *look) for c in members]
        if members:
            shown.append(group)
    place = float(_INSIDE)
    for group in shown:
        name = group.meaning.partition(":")[0].removeprefix("the ")
        place -= 34 + 6.2 * len(name)
        parts.append(_symbol(place, 0, group.symbol, group.colour, 0.95))
        parts.append(_text(place + 12, 0, name, "muted small", dy=".35em"))
    return Markup("").join(parts)


def _symbol(x: float, y: float, symbol: str, colour: str, scale: float, opacity: float = 1.0) -> Markup:
    place = f"translate({x - 7 * scale:.1f} {y - 7 * scale:.1f}) scale({scale})"
    return element("g", SYMBOLS[symbol], class_=colour, opacity=opacity, transform=place)


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers inside a range."""
    span = (high - low) or 1.0
    decade = 10.0 ** math.floor(math.log10(span))
    step = decade * next(m for m in (5, 2, 1, 0.5, 0.2) if span >= 3 * m * decade or m == 0.2)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)] or [low]
