"""A run's report as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nestling.reports.page import (
    BRAND,
    Scale,
    facts,
    full_count,
    legend,
    notes,
    render_page,
    section,
    table,
    write_page,
)
from nestling.reports.run_facts import (
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
from nestling.reports.run_plots import GROUPS, front_figures, group_name, loss_figures, series_colours
from nestling.reports.subnet_drawing import Drawing, draw_subnet, safe_text


def write_report(report: Report, path: Path) -> None:
    """Writes the report as one file, at once: a reader never sees half of it."""
    write_page(render_report(report), path)


def render_report(report: Report) -> str:
    """The report as HTML."""
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
    body = "\n".join(html for part in sections if (html := part(report)))
    return render_page(report.title, body, [*front_figures(report), *loss_figures(report)])


# Numbers as people read them, in HTML


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


def _headline(report: Report) -> str:
    lede = f'<p class="lede">{_verdict(report, report.chosen)}</p>' if report.chosen else ""
    tiles = f'<dl class="tiles">{_tiles(report, report.chosen)}</dl>' if report.chosen else ""
    spread = f'<p class="callout">{safe_text(report.spread_note)}</p>' if report.spread_note else ""
    return f"<header>{BRAND}<h1>{safe_text(report.title)}</h1>{lede}{tiles}{spread}</header>"


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
    own = next((row for row in report.finalists if row.subnet.id == chosen.subnet.id), None)
    uniform = next((row for row in others if row.origin == UNIFORM), None)
    if own and own.origin == UNIFORM:
        said.append("It is a uniform shape itself.")
    elif uniform and chosen.loss:
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
    return section(title, lead, f'<div class="card">{pictures}</div>{numbers}')


def _svg(drawing: Drawing, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {drawing.width:.0f} {drawing.height:.0f}" role="img" '
        f'aria-label="The subnet drawn layer by layer; its numbers follow.">{drawing.body}</svg>'
    )


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
    return section("The front", lead, f'{legend(entries)}<div class="pair">{plots}</div>')


def _finalists(report: Report) -> str:
    if not report.finalists:
        return ""
    rows, first = report.finalists, report.finalists[0].loss.value
    timed = any(row.latency_ms for row in rows)
    paired = any(row.excess for row in rows)
    shown = [_excess(row, first) for row in rows] if paired else [row.loss for row in rows]
    scale = Scale.holding(shown, zero=paired)
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
    return section("Finalists", lead, table(head, body, "Finalists"))


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
        f"<td>{full_count(row.params)}</td><td>{full_count(row.macs)}</td>{latency}</tr>"
    )


def _teacher_row(teacher: TeacherRow, timed: bool) -> str:
    latency = f"<td>{_number(teacher.latency_ms, 1)}</td>" if timed else ""
    return (
        f"<tr class=teacher><td></td><th scope=row>{safe_text(teacher.name)}<small>teacher</small></th>"
        f"<td>–</td><td></td><td>{full_count(teacher.params)}</td><td>{full_count(teacher.macs)}</td>"
        f"{latency}</tr>"
    )


def _curve(report: Report) -> str:
    if not report.curve:
        return ""
    scale = Scale.holding(point.phone_error for point in report.curve)
    scale.zero = next((p.phone_error.value for p in report.curve if p.kind == "teacher"), None)
    rows = "".join(_curve_row(point, scale) for point in report.curve)
    ends = f"<span>{scale.low:.0%}</span><span>{scale.high:.0%}</span>"
    rows += f'<div class="point ends"><div></div><div>{ends}</div></div>'
    lead = (
        "Phone error of a linear probe on frozen features, on <code>test</code>, with 95% intervals. "
        f"Left is better{'' if scale.zero is None else '; the upright line is the teacher'}."
    )
    return section("What the sizes are worth", lead, f'<div class="card">{rows}</div>')


def _curve_row(point: CurvePoint, scale: Scale) -> str:
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
    return section("Training", "Loss against steps.", f'<div class="pair">{stages}</div>') if stages else ""


def _stage(index: int, stage: StageSummary, colours: dict[str, str]) -> str:
    loss = _change("Container's loss", stage.loss_before, stage.loss_after, "{:.3f}")
    error = _change("Container's phone error", stage.phone_error_before, stage.phone_error_after, "{:.1%}")
    plot = ""
    if stage.series:
        plot = legend(("line", colours[series.name], series.name) for series in stage.series)
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
    return section("What was counted", safe_text(report.counted.text), body)


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
        f"{table(head, rows, 'What each part costs')}"
    )


def _usage(report: Report) -> str:
    blocks = "".join(
        f"<div><h3>{safe_text(block.title)}</h3><pre>{safe_text(block.code.strip())}</pre></div>"
        for block in report.usage
    )
    return section("Load it", "", f'<div class="pair">{blocks}</div>') if blocks else ""


def _facts(report: Report) -> str:
    made = report.facts
    rows = (
        ("Teacher", safe_text(made.teacher)),
        ("Data", f"{safe_text(made.data)} <code>{safe_text(made.data_hash)}</code>"),
        ("Audio", f"{made.hours:.3g} h"),
        ("Seeds", safe_text(", ".join(map(str, made.seeds)))),
        ("Versions", safe_text(", ".join(f"{name} {version}" for name, version in made.versions))),
        ("Date", safe_text(made.date)),
    )
    return facts(rows, made.commands)


def _notes(report: Report) -> str:
    return notes(report.notes)
