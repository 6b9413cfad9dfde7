"""A report as one HTML file that needs nothing else: no network, no folder beside it.

Every string is escaped. Should an escape be missed, the page's content security policy still lets no script
run but our own two, which it knows by their hashes, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from nas.drawing import DARK, LIGHT, STYLE, SYMBOLS, Drawing, draw_subnet, safe_text
from nas.report import (
    UNIFORM,
    BudgetUse,
    Chosen,
    Counted,
    CurvePoint,
    FinalistRow,
    Measure,
    Report,
    StageSummary,
    TeacherRow,
    describe,
    short_count,
)
from nas.report_plots import GROUPS, front_figures, group_name, loss_figures, series_colours


def write_report(report: Report, path: Path) -> None:
    """Writes the report as one file, at once: a reader never sees half of it."""
    page = render_report(report)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(page, encoding="utf-8", newline="\n")
    unfinished.replace(path)


def render_report(report: Report) -> str:
    """The report as HTML."""
    figures = [*front_figures(report), *loss_figures(report)]
    template = (files("nas") / "report.html").read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    plotly: str = get_plotlyjs() if figures else ""
    sections: tuple[Callable[[Report], str], ...] = (
        _headline,
        _drawing,
        _front,
        _finalists,
        _curve,
        _training,
        _counted,
        _usage,
        _facts,
        _notes,
    )
    return Template(template).substitute(
        title=safe_text(report.title),
        scripts=f"{_script_hash(plotly)} {_script_hash(script)}",
        light=_variables(LIGHT),
        dark=_variables(DARK),
        drawing_style=STYLE,
        body="\n".join(html for section in sections if (html := section(report))),
        plotly=f"<script>{plotly}</script>" if plotly else "",
        figures=_safe_json(figures),
    )


def _script_hash(script: str) -> str:
    """What a content security policy calls this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


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


# Numbers as people read them, in HTML


def _full_count(count: int) -> str:
    """Exactly four digits, so that a column lines up: `1.500G`."""
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:#.4g}".rstrip(".") + suffix
    return str(count)


def _amount(kind: str, amount: float) -> str:
    if kind == "latency":
        return f"{amount:.3g} ms"
    return short_count(amount) + ("B" if kind == "size" else "")


def _number(measure: Measure | None, digits: int = 3) -> str:
    """`0.412 ± 0.006`."""
    if measure is None or not math.isfinite(measure.value):
        return "–"
    margin = "" if measure.margin is None else f" <small>± {measure.margin:.{digits}f}</small>"
    return f"{measure.value:.{digits}f}{margin}"


def _percent(measure: Measure) -> str:
    """`21.3% ± 0.8`, of a share."""
    if not math.isfinite(measure.value):
        return "–"
    margin = "" if measure.margin is None else f" <small>± {100 * measure.margin:.1f}</small>"
    return f"{measure.value:.1%}{margin}"


# Sections: each gives its HTML, or nothing when its part of the report is missing


def _section(title: str, lead: str, body: str) -> str:
    """A section; `lead` and `body` are HTML."""
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    return f"<section><h2>{safe_text(title)}</h2>{lead}{body}</section>"


_BRAND = (
    '<p class="brand"><svg viewBox="0 0 20 24" aria-hidden="true">'
    '<path class="heads" d="M10 1c5 0 9 7.2 9 13a9 9 0 0 1-18 0C1 8.2 5 1 10 1z"/>'
    '<path class="cut" d="M5 12v5M8.3 9v11M11.7 11v7M15 12.5v4"/></svg>Nestling</p>'
)


def _headline(report: Report) -> str:
    lede = f'<p class="lede">{_verdict(report, report.chosen)}</p>' if report.chosen else ""
    tiles = f'<dl class="tiles">{_tiles(report, report.chosen)}</dl>' if report.chosen else ""
    spread = f'<p class="callout">{safe_text(report.spread_note)}</p>' if report.spread_note else ""
    return f"<header>{_BRAND}<h1>{safe_text(report.title)}</h1>{lede}{tiles}{spread}</header>"


def _verdict(report: Report, chosen: Chosen) -> str:
    """Who won, who is tied with it, and what the uniform shape scores."""
    said = [f"The chosen subnet is <code>{chosen.subnet.id}</code>."]
    others = [row for row in report.finalists if row.subnet.id != chosen.subnet.id]
    tied = sum(row.tied for row in others)
    if tied:
        who = f"Of the {len(others)} other finalists, {tied}" if len(others) > 1 else "The other finalist"
        said.append(f"{who} {'is' if tied == 1 else 'are'} statistically tied with it.")
    elif others:
        said.append("It differs from every other finalist by more than the noise.")
    uniform = next((row for row in others if row.origin == UNIFORM), None)
    if uniform and chosen.loss:
        scores = f"{chosen.loss.value:.3f} to {uniform.loss.value:.3f}"
        if uniform.tied:
            said.append(f"The best uniform shape is among the tied, {scores}.")
        elif chosen.loss.value < uniform.loss.value:
            said.append(f"It beats the best uniform shape, {scores}.")
        else:
            said.append(f"The best uniform shape beats it, {scores}.")
    return " ".join(said)


def _tiles(report: Report, chosen: Chosen) -> str:
    teacher = report.teacher
    smaller = _ratio(teacher.params, chosen.params, "smaller") if teacher else ""
    fewer = _ratio(teacher.macs, chosen.macs, "fewer") if teacher else ""
    tiles = [
        _tile("Parameters", short_count(chosen.params), smaller),
        _tile(f"MACs for {report.macs_seconds:g} s of audio", short_count(chosen.macs), fewer),
        *(_budget_tile(use) for use in report.budget),
    ]
    if chosen.phone_error:
        note = f"teacher {_percent(teacher.phone_error)}" if teacher and teacher.phone_error else ""
        tiles.append(_tile("Phone error, linear probe", _percent(chosen.phone_error), note))
    elif chosen.loss:
        tiles.append(_tile("Loss", _number(chosen.loss), safe_text(report.loss_name)))
    if chosen.latency_ms:
        latency = f"{_number(chosen.latency_ms, 1)} <small>ms</small>"
        tiles.append(_tile("Latency, measured", latency, safe_text(report.latency_note)))
    return "".join(tiles)


def _budget_tile(use: BudgetUse) -> str:
    share = use.used / use.limit if use.limit else math.nan
    gauge = f'<div class="gauge"><i style="width:{min(share, 1.0):.1%}"></i></div>' if share >= 0 else ""
    spent = f"{_amount(use.kind, use.used)} of {_amount(use.kind, use.limit)}"
    return _tile(f"Of the budget {use.asked}", f"{share:.1%}" if share >= 0 else "–", spent, gauge)


def _tile(name: str, value: str, note: str, extra: str = "") -> str:
    """One number of the headline; all but `name` are HTML."""
    detail = f'<dd class="note">{note}</dd>' if note else ""
    return f"<div><dt>{safe_text(name)}</dt><dd>{value}{extra}</dd>{detail}</div>"


def _ratio(teacher: int, chosen: int, word: str) -> str:
    return f"{teacher / chosen:.1f}× {word} than the teacher" if chosen else ""


def _drawing(report: Report) -> str:
    if report.container is None:
        return ""
    subnet = report.chosen.subnet if report.chosen else report.container
    title, lead = "The supernet", "Its largest subnet, the container, layer by layer."
    if report.chosen:
        depth, most = len(subnet.layers), len(report.container.layers)
        title = "The chosen subnet, inside the supernet"
        lead = (
            "Solid: what the subnet uses. Pale: the rest of its container, the largest subnet. "
            f"{depth} of {most} layers are kept{'; dashed layers are left out' if depth < most else ''}."
        )
    pictures = "".join(
        _svg(draw_subnet(subnet, report.container, upright), kind)
        for upright, kind in ((False, "lying"), (True, "upright"))
    )
    numbers = f"<details><summary>As numbers</summary><pre>{safe_text(describe(subnet))}</pre></details>"
    return _section(title, lead, f'<div class="card">{pictures}</div>{numbers}')


def _svg(drawing: Drawing, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" role="img" '
        f'aria-label="The subnet drawn layer by layer; its numbers follow.">{drawing.body}</svg>'
    )


def _legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """Symbols, their colours, and what they mean."""
    items = "".join(
        f'<li><svg viewBox="0 0 14 14" class="{colour}" aria-hidden="true">{SYMBOLS[symbol]}</svg>'
        f"{safe_text(meaning)}</li>"
        for symbol, colour, meaning in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _front(report: Report) -> str:
    if not report.candidates:
        return ""
    present = {group_name(candidate, report) for candidate in report.candidates}
    entries = [(group.symbol, group.colour, group.meaning) for group in GROUPS if group.name in present]
    if any(bound.kind in ("params", "macs") for bound in report.budget):
        entries.append(("dashes", "mark", "budget"))
    lead = (
        f"{len(report.candidates):,} subnets were evaluated. Height is the {safe_text(report.loss_name)}: "
        "lower is better. The line joins the best at each size or below it."
    )
    plots = "".join(
        f'<figure><figcaption>{caption}</figcaption><div class="plot" id="front-{axis}"></div></figure>'
        for axis, caption in (
            ("params", "Against parameters"),
            ("macs", f"Against MACs for {report.macs_seconds:g} s"),
        )
    )
    return _section("The front", lead, f'{_legend(entries)}<div class="pair">{plots}</div>')


def _finalists(report: Report) -> str:
    if not report.finalists:
        return ""
    rows, first = report.finalists, report.finalists[0].loss.value
    timed = any(row.latency_ms for row in rows)
    paired = any(row.excess for row in rows)
    shown = [_excess(row, first) for row in rows] if paired else [row.loss for row in rows]
    scale = _Scale.holding(shown, zero=paired)
    chosen_id = report.chosen.subnet.id if report.chosen else ""
    body = "".join(
        _finalist_row(rank, row, scale.draw(measure), row.subnet.id == chosen_id, timed)
        for rank, (row, measure) in enumerate(zip(rows, shown, strict=True), 1)
    )
    if report.teacher:
        body += _teacher_row(report.teacher, timed)
    what = "Loss less the first's, 95%" if paired else "Its 95% interval"
    head = (
        f"<th>Rank</th><th class=words>Subnet</th><th>Loss</th><th class=words>{what}</th><th>Parameters</th>"
        f"<th>MACs@{report.macs_seconds:g}s</th>{'<th>Latency, ms</th>' if timed else ''}"
    )
    lead = f"Best first by {safe_text(report.loss_name)}. Tied: not distinguishable from the chosen one."
    if timed and report.latency_note:
        lead += f" Latency: {safe_text(report.latency_note)}."
    return _section("Finalists", lead, _table(head, body, "Finalists"))


def _excess(row: FinalistRow, first: float) -> Measure:
    low, high = row.excess or (None, None)
    return Measure(row.loss.value - first, low, high)


def _finalist_row(rank: int, row: FinalistRow, whisker: str, is_chosen: bool, timed: bool) -> str:
    badge = '<b class="badge">tied</b>' if row.tied else ""
    if is_chosen:
        badge = '<b class="badge chosen">chosen</b>'
    latency = f"<td>{_number(row.latency_ms, 1)}</td>" if timed else ""
    return (
        f"<tr class={'winner' if is_chosen else 'other'}><td>{rank}</td>"
        f"<th scope=row><code>{row.subnet.id}</code> {badge}<small>{safe_text(row.origin)}</small></th>"
        f"<td>{_number(row.loss)}</td><td class=range>{whisker}</td>"
        f"<td>{_full_count(row.params)}</td><td>{_full_count(row.macs)}</td>{latency}</tr>"
    )


def _teacher_row(teacher: TeacherRow, timed: bool) -> str:
    latency = f"<td>{_number(teacher.latency_ms, 1)}</td>" if timed else ""
    return (
        f"<tr class=teacher><td></td><th scope=row>{safe_text(teacher.name)}<small>teacher</small></th>"
        f"<td>–</td><td></td><td>{_full_count(teacher.params)}</td><td>{_full_count(teacher.macs)}</td>"
        f"{latency}</tr>"
    )


def _table(head: str, rows: str, label: str) -> str:
    """A table that scrolls inside its own box."""
    return (
        f'<div class="scroll" role="region" aria-label="{safe_text(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


class _Scale:
    """Draws measures as dots on their intervals, all on one range."""

    def __init__(self, low: float, high: float, zero: float | None = None) -> None:
        self.low, self.high, self.zero = low, high, zero

    @classmethod
    def holding(cls, measures: Iterable[Measure], zero: bool = False) -> _Scale:
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


def _curve(report: Report) -> str:
    if not report.curve:
        return ""
    scale = _Scale.holding(point.phone_error for point in report.curve)
    scale.zero = next((p.phone_error.value for p in report.curve if p.kind == "teacher"), None)
    rows = "".join(_curve_row(point, scale) for point in report.curve)
    ends = f"<span>{scale.low:.0%}</span><span>{scale.high:.0%}</span>"
    rows += f'<div class="point ends"><div></div><div>{ends}</div></div>'
    lead = (
        "Phone error of a linear probe on frozen features, on <code>test</code>, with 95% intervals. "
        f"Left is better{'' if scale.zero is None else '; the upright line is the teacher'}."
    )
    return _section("What the sizes are worth", lead, f'<div class="card">{rows}</div>')


def _curve_row(point: CurvePoint, scale: _Scale) -> str:
    details = []
    if point.params is not None:
        details.append(f"{short_count(point.params)} parameters")
    if point.compute_share is not None:
        details.append(f"{point.compute_share:.0%} of the compute")
    return (
        f'<div class="point"><div>{safe_text(point.label)}<small>{" · ".join(details)}</small></div>'
        f'<div class="scale">{scale.draw(point.phone_error, point.kind)}</div>'
        f"<div>{_percent(point.phone_error)}</div></div>"
    )


def _training(report: Report) -> str:
    colours = series_colours(report.stages)
    stages = "".join(_stage(i, stage, colours) for i, stage in enumerate(report.stages))
    return _section("Training", "Loss against steps.", f'<div class="pair">{stages}</div>') if stages else ""


def _stage(index: int, stage: StageSummary, colours: dict[str, str]) -> str:
    loss = _change("Container's loss", stage.loss_before, stage.loss_after, "{:.3f}")
    error = _change("Container's phone error", stage.phone_error_before, stage.phone_error_after, "{:.1%}")
    plot = ""
    if stage.series:
        plot = _legend(("line", colours[series.name], series.name) for series in stage.series)
        plot += f'<div class="plot" id="loss-{index}"></div>'
    caption = f"{safe_text(stage.name)} <small>{stage.steps:,} steps</small>"
    return f"<figure><figcaption>{caption}</figcaption>{loss}{error}{plot}</figure>"


def _change(name: str, before: float | None, after: float | None, form: str) -> str:
    """`name 1.32 → 0.41`, of what is known."""
    known = [form.format(value) for value in (before, after) if value is not None]
    return f'<p class="change">{name} <b>{" → ".join(known)}</b></p>' if known else ""


_PARTS = {
    "front_end": ("Convolutional front-end", "conv"),
    "projection": ("Projection", "dot"),
    "pos_conv": ("Positional convolution", "muted"),
    "attention": ("Attention", "heads"),
    "ffn": ("FFN", "ffn"),
    "other": ("Norms and mask embedding", "ghost"),
}
"""What the parts of `search_spaces.costs.breakdown` are called, and their colours."""


def _counted(report: Report) -> str:
    if report.counted is None:
        return ""
    body = _breakdown(report.counted, report.macs_seconds) if report.counted.parts else ""
    return _section("What was counted", safe_text(report.counted.text), body)


def _breakdown(counted: Counted, seconds: float) -> str:
    """Two stacked bars, and their numbers."""
    all_params = sum(part.params for part in counted.parts)
    all_macs = sum(part.macs for part in counted.parts)
    params_bar, macs_bar, rows = "", "", ""
    for part in counted.parts:
        name, colour = _PARTS.get(part.name, (part.name, "dot"))
        of_params, of_macs = part.params / (all_params or 1), part.macs / (all_macs or 1)
        params_bar += f'<i style="width:{of_params:.2%};background:var(--{colour})"></i>'
        macs_bar += f'<i style="width:{of_macs:.2%};background:var(--{colour})"></i>'
        rows += (
            f'<tr><th scope=row><i class="swatch" style="background:var(--{colour})"></i>'
            f"{safe_text(name)}</th><td>{part.params:,}</td><td>{of_params:.1%}</td><td>{part.macs:,}</td><td>{of_macs:.1%}</td></tr>"
        )
    rows += (
        f"<tr class=winner><th scope=row>All</th><td>{all_params:,}</td><td></td><td>{all_macs:,}</td><td></td></tr>"
    )
    head = f"<th class=words>Part</th><th>Parameters</th><th>Share</th><th>MACs@{seconds:g}s</th><th>Share</th>"
    return (
        f'<div class="stack" aria-hidden="true"><span>Parameters</span>{params_bar}</div>'
        f'<div class="stack" aria-hidden="true"><span>MACs</span>{macs_bar}</div>'
        f"{_table(head, rows, 'What each part costs')}"
    )


def _usage(report: Report) -> str:
    blocks = "".join(
        f"<div><h3>{safe_text(block.title)}</h3><pre>{safe_text(block.code.strip())}</pre></div>"
        for block in report.usage
    )
    return _section("Load it", "", f'<div class="pair">{blocks}</div>') if blocks else ""


def _facts(report: Report) -> str:
    facts = report.facts
    rows = (
        ("Teacher", safe_text(facts.teacher)),
        ("Data", f"{safe_text(facts.data)} <code>{safe_text(facts.data_hash)}</code>"),
        ("Audio", f"{facts.hours:.3g} h"),
        ("Seeds", safe_text(", ".join(map(str, facts.seeds)))),
        ("Versions", safe_text(", ".join(f"{name} {version}" for name, version in facts.versions))),
        ("Date", safe_text(facts.date)),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{value or '–'}</dd></div>" for name, value in rows)
    commands = f"<pre>{safe_text(chr(10).join(facts.commands))}</pre>" if facts.commands else ""
    return _section("How it was made", "", f'<dl class="facts">{listed}</dl>{commands}')


def _notes(report: Report) -> str:
    items = "".join(f"<li>{safe_text(note)}</li>" for note in report.notes)
    return _section("Read with care", "", f'<ul class="notes">{items}</ul>') if items else ""
