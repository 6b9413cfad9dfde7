"""The evaluation of several encoders as one HTML page: the table, every metric with its intervals, the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nestling.reports.layer_drawing import STYLE as LAYER_STYLE
from nestling.reports.layer_drawing import colour_of, draw_errors, draw_likeness
from nestling.reports.page import BRAND, Scale, facts, legend, notes, render_page, section, table, write_page
from nestling.reports.run_facts import Measure, short_count
from nestling.reports.subnet_drawing import safe_text
from speech_tasks.comparison import BOTTOM_LINE, MEAN, Cell, Comparison, Entry, describe_metric, format_value
from speech_tasks.layer_view import LayerView
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN

VERDICTS = {"better": "▲", "worse": "▼", "": ""}
"""What marks a difference that is real."""
STYLE = (
    """
.better{color:var(--heads)}.worse{color:var(--mark)}td .better,td .worse{margin-left:5px;font-size:.8em}
tr.other>*{color:var(--muted);padding-top:2px}tr.inner>*{border-bottom:0;padding-bottom:2px}
.metric{margin-top:18px}.metric h3{display:flex;justify-content:space-between;gap:12px}
.row{display:grid;grid-template-columns:minmax(120px,220px) 1fr 104px 1fr 118px;gap:16px;align-items:center;
  padding:5px 0;overflow:hidden}
.row>:nth-child(3),.row>:nth-child(5){text-align:right}
.row.head{color:var(--muted);font-size:.82rem;padding-bottom:2px}.row.other{color:var(--muted)}
.row+.row:not(.other){border-top:1px solid var(--line)}
.whisker.real{--tone:var(--heads)}.whisker.unreal{--tone:var(--dot)}.whisker.worse{--tone:var(--mark)}
.row.hollow .whisker b{background:var(--card);border:2px solid var(--tone)}
.key i{display:inline-block;width:18px;height:4px;border-radius:2px;margin-right:7px;vertical-align:3px}
@media (max-width:640px){
  .row{grid-template-columns:1fr auto;gap:3px 12px;padding:10px 0}
  .row.head{display:none}
  .row>:nth-child(2){grid-column:1/-1;grid-row:2}
}
"""
    + LAYER_STYLE
)


@dataclass(frozen=True)
class EvaluationFacts:
    """How an evaluation was made."""

    split: str
    audio: tuple[str, ...]
    """Name and hash of every corpus."""
    command: str
    versions: tuple[tuple[str, str], ...]
    date: str
    notes: tuple[str, ...]
    """What a reader must know to not misread the numbers."""


def write_evaluation(comparison: Comparison, views: Mapping[str, LayerView], made: EvaluationFacts, path: Path) -> None:
    """Writes the page as one file, at once."""
    write_page(render_evaluation(comparison, views, made), path)


def render_evaluation(comparison: Comparison, views: Mapping[str, LayerView], made: EvaluationFacts) -> str:
    """The page as HTML.

    Args:
        comparison: The scores.
        views: What the layers of encoders know, by the encoder's name; may be empty.
        made: How.
    """
    parts = (
        _headline(comparison, made),
        _table(comparison),
        _metrics(comparison),
        _layers(comparison, views),
        _facts(comparison, made),
        notes(made.notes),
    )
    return render_page("Nestling: evaluation", "\n".join(filter(None, parts)), style=STYLE)


def _headline(comparison: Comparison, made: EvaluationFacts) -> str:
    count, reference = len(comparison.entries), safe_text(comparison.reference.name)
    sizes = f"{_count(count, 'encoder')}, {_count(len(comparison.metrics), 'metric')}"
    what = f"{sizes}, scored on <code>{safe_text(made.split)}</code>."
    if count > 1:
        what += (
            f" ▲ and ▼ mark what is better and worse than {reference} by more than the 95% interval of the paired "
            "difference."
        )
    tiles = "".join(_tile(comparison, entry) for entry in comparison.entries)
    note = f'<p class="callout">{safe_text(made.notes[0])}</p>' if made.notes else ""
    return (
        f'<header>{BRAND}<h1>What the frozen encoders are worth</h1><p class="lede">{what}</p>'
        f'<dl class="tiles">{tiles}</dl>{note}</header>'
    )


def _tile(comparison: Comparison, entry: Entry) -> str:
    """The mean of an encoder, and how it stands to the reference."""
    mean = comparison.cell(entry, MEAN, IN_DOMAIN)
    value = _value(mean) if mean else "–"
    cells = [cell for metric in comparison.metrics if (cell := comparison.cell(entry, metric, IN_DOMAIN))]
    found = [sum(cell.verdict == verdict for cell in cells) for verdict in ("better", "worse")]
    standing = f"better in {found[0]}, worse in {found[1]} of {_count(len(cells), 'metric')}"
    standing = "the reference" if entry is comparison.reference else standing
    return f'<div><dt>{safe_text(entry.name)}</dt><dd>{value}</dd><dd class="note">{MEAN} · {standing}</dd></div>'


def _table(comparison: Comparison) -> str:
    columns = [*comparison.metrics, MEAN]
    scored = any(comparison.score(entry, IN_DOMAIN) is not None for entry in comparison.entries)
    head = "<th class=words>Encoder</th><th>Parameters</th><th>MACs@1s</th>"
    head += "".join(f"<th>{_title(metric)}</th>" for metric in columns) + ("<th>Score</th>" if scored else "")
    rows = "".join(
        _row(comparison, entry, condition, columns, scored)
        for entry in comparison.entries
        for condition in comparison.conditions
    )
    means = "; ".join(
        f"{condition} over {', '.join(comparison.counted(condition))}" for condition in comparison.conditions
    )
    lead = f"Mean of all seeds, ± half of the 95% interval. {MEAN.capitalize()}: {safe_text(means)}."
    if scored:
        lead += f" Score: 0 is {BOTTOM_LINE}, 1000 is {safe_text(comparison.reference.name)}."
    return section("Side by side", lead, table(head, rows, "Scores"))


def _row(comparison: Comparison, entry: Entry, condition: str, columns: Sequence[str], scored: bool) -> str:
    first = condition == comparison.conditions[0]
    last = condition == comparison.conditions[-1]
    kind = " ".join([*(["other"] if not first else []), *(["inner"] if not last else [])])
    name = f"<b>{safe_text(entry.name)}</b>" if first else f"<small>{safe_text(condition)}</small>"
    if first and entry is comparison.reference and len(comparison.entries) > 1:
        name += ' <b class="badge">reference</b>'
    costs = "".join(f"<td>{_cost(count) if first else ''}</td>" for count in (entry.params, entry.macs_1s))
    cells = "".join(f"<td>{_value(comparison.cell(entry, metric, condition))}</td>" for metric in columns)
    score = comparison.score(entry, condition)
    cells += f"<td>{'–' if score is None else f'{score:.0f}'}</td>" if scored else ""
    return f'<tr class="{kind}"><th scope=row>{name}</th>{costs}{cells}</tr>'


def _metrics(comparison: Comparison) -> str:
    lead = "Dots on their 95% intervals"
    if len(comparison.entries) > 1:
        lead += f"; on the right less {safe_text(comparison.reference.name)}, paired"
    if OUT_OF_DOMAIN in comparison.conditions:
        lead += ". Hollow: out of domain, voices of another synthesiser in noise and rooms that no training has heard"
    cards = "".join(_metric(comparison, metric) for metric in (*comparison.metrics, MEAN))
    return section("Metric by metric", f"{lead}.", cards)


def _metric(comparison: Comparison, metric: str) -> str:
    """A card: values on the left, differences on the right."""
    found = [
        (entry, condition, cell)
        for entry in comparison.entries
        for condition in comparison.conditions
        if (cell := comparison.cell(entry, metric, condition))
    ]
    if not found:
        return ""
    values = Scale.holding(_measure(cell) for _, _, cell in found)
    differences = Scale.holding((_difference(cell) for _, _, cell in found), zero=True)
    paired = len(comparison.entries) > 1
    less = f"less {safe_text(comparison.reference.name)}" if paired else ""
    head = f'<div class="row head"><div></div><div></div><div></div><div>{less}</div><div></div></div>'
    rows = ""
    for entry, condition, cell in found:
        compared = paired and cell.difference is not None
        kind = {"better": "real", "worse": "worse", "": "unreal"}[cell.verdict]
        place = {IN_DOMAIN: "own", OUT_OF_DOMAIN: "other hollow"}.get(condition, "other")
        mine = "teacher" if entry is comparison.reference else "subnet"
        shown = f"<small>{safe_text(condition)}</small>"
        rows += (
            f'<div class="row {place}">'
            f"<div>{safe_text(entry.name) if condition == IN_DOMAIN else shown}</div>"
            f'<div class="scale">{values.draw(_measure(cell), mine)}</div><div>{_number(cell)}</div>'
            f'<div class="scale">{differences.draw(_difference(cell), kind) if compared else ""}</div>'
            f"<div>{_describe_difference(cell) if compared else ''}</div></div>"
        )
    better = "higher is better" if describe_metric(metric).higher_is_better else "lower is better"
    return f'<div class="card metric"><h3>{_title(metric)} <small>{better}</small></h3>{head}{rows}</div>'


def _layers(comparison: Comparison, views: Mapping[str, LayerView]) -> str:
    """Probes over hidden states, and heat maps."""
    places = {entry.name: i for i, entry in enumerate(comparison.entries)}
    labels = list(dict.fromkeys(errors.label for view in views.values() for errors in view.probes))
    charts = ""
    for label in labels:
        found = {
            name: (places[name], errors)
            for name, view in views.items()
            for errors in view.probes
            if errors.label == label
        }
        chance = next(iter(found.values()))[1].chance
        charts += (
            f"<figure><figcaption>{label.capitalize()} <small>always the most frequent: {chance:.0f}%</small>"
            f"</figcaption>{draw_errors(found)}</figure>"
        )
    reference = comparison.reference.name
    maps = "".join(
        f"<figure><figcaption>{safe_text(name)} and {safe_text(reference)} <small>CKA</small></figcaption>"
        f"{draw_likeness(view.likeness, name, reference)}</figure>"
        for name, view in views.items()
        if name != reference and view.likeness is not None
    )
    if not charts and not maps:
        return ""
    key = legend(("line", colour_of(places[name]), name) for name in views)
    lead = (
        "Error of a linear probe of each hidden state: 0 is the input of the first layer. A look, not a ranking. "
        "CKA tells which hidden states of two encoders are alike on the same frames: 1 is the same but for "
        "rotation and scale."
    )
    return section("Layer by layer", lead, f'{key}<div class="pair">{charts}{maps}</div>')


def _facts(comparison: Comparison, made: EvaluationFacts) -> str:
    seconds = sum(
        entry.evaluation.encode_seconds + sum(entry.evaluation.task_seconds.values()) for entry in comparison.entries
    )
    rows = (
        ("Split", safe_text(made.split)),
        ("Audio", "<br>".join(f"<code>{safe_text(name)}</code>" for name in made.audio)),
        (
            "Encoders",
            "<br>".join(f"{safe_text(e.source)} <code>{safe_text(e.fingerprint)}</code>" for e in comparison.entries),
        ),
        ("Time", f"{seconds / 60:.1f} min, encoding included"),
        ("Versions", safe_text(", ".join(f"{name} {version}" for name, version in made.versions))),
        ("Date", safe_text(made.date)),
    )
    return facts(rows, [made.command])


# Numbers


def _title(metric: str) -> str:
    unit = describe_metric(metric).unit
    return safe_text(MEAN.capitalize() if metric == MEAN else f"{metric}, {unit}" if unit else metric)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _cost(count: int | None) -> str:
    return short_count(count) if count is not None else "–"


def _number(cell: Cell) -> str:
    name = cell.score.metric
    return f"{format_value(name, cell.score.value)} <small>± {format_value(name, cell.score.half_interval)}</small>"


def _value(cell: Cell | None) -> str:
    """`12.3 ± 0.4 ▲`."""
    if cell is None:
        return "–"
    if not cell.verdict:
        return _number(cell)
    return f'{_number(cell)}<span class="{cell.verdict}">{VERDICTS[cell.verdict]}</span>'


def _describe_difference(cell: Cell) -> str:
    assert cell.difference is not None
    assert cell.half_interval is not None
    name = cell.score.metric
    mark = f'<span class="{cell.verdict}">{VERDICTS[cell.verdict]}</span> ' if cell.verdict else ""
    return (
        f"{mark}{format_value(name, cell.difference, sign=True)} "
        f"<small>± {format_value(name, cell.half_interval)}</small>"
    )


def _measure(cell: Cell) -> Measure:
    return Measure.around(cell.score.value, cell.score.half_interval)


def _difference(cell: Cell) -> Measure:
    return Measure.around(cell.difference or 0.0, cell.half_interval or 0.0)
