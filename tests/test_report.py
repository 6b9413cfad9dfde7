"""The report: self-contained, escaped, complete, and possible at any time."""

import json
import math
import random
import re
from dataclasses import fields, is_dataclass, replace
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from xml.etree import ElementTree

import pytest

from nestling.reports.markup import element, safe_text
from nestling.reports.page import script_hash
from nestling.reports.run_facts import (
    LARGEST,
    SEARCHED,
    UNIFORM,
    BudgetUse,
    CandidateRow,
    Chosen,
    Counted,
    CurvePoint,
    Facts,
    FinalistRow,
    Measure,
    Part,
    Report,
    Series,
    StageSummary,
    TeacherRow,
    Usage,
    describe,
)
from nestling.reports.run_page import render_report, write_report
from nestling.reports.run_plots import GROUPS, best_by_size, front_figures, loss_figures, thin_series
from nestling.reports.search_table import describe_rivals
from nestling.reports.still_picture import save_picture
from nestling.reports.subnet_drawing import DARK, LIGHT, SYMBOLS, draw_subnet
from search_spaces.amounts import short_count
from search_spaces.costs import breakdown, count_macs, count_params
from search_spaces.quoting import printable
from search_spaces.subnet import Backbone, Layer, Subnet

BACKBONE = Backbone(head_dim=32)
CONTAINER = Subnet((48, 96, 96, 128, 128, 192, 192), 192, (Layer(6, 768),) * 6, tuple(range(6)))
CHOSEN = Subnet(
    (32, 64, 64, 96, 112, 160, 192),
    160,
    (Layer(4, 512), Layer(4, 640), Layer(5, 512), Layer(6, 768), Layer(3, 384)),
    (0, 1, 3, 4, 5),
)
LIMIT = 1_800_000
HOSTILE = (
    '<script>alert("x")</script><b><img src=https://evil.example/a onerror=x>&amp;{{ 7*7 }}{% endif %}{# #}'
    "&'\"\x1b[31m\u202e\udce9"
)
FACTS = Facts(
    teacher="nestling-demo-teacher (HuBERT, 12 layers)",
    data="synthesised demo corpus",
    data_hash="5f1c0e97ab",
    hours=1.5,
    seeds=(0, 1, 2),
    commands=("nestling demo --seed 0", "nestling search subnet --run runs/demo --budget 1.8M --trials 300"),
    versions=(("nestling", "0.1.0"), ("torch", "2.13.0"), ("python", "3.12.3")),
    date="2026-03-14",
    draws=("stage-2: 2 a step by size 75% and subnet 25%",),
)


def costs(subnet):
    return count_params(BACKBONE, subnet), count_macs(BACKBONE, subnet, 1.0)


def random_subnet(rng):
    kept = tuple(sorted(rng.sample(range(6), rng.choice((3, 4, 5, 6)))))
    layers = tuple(Layer(rng.randint(2, 6), rng.choice((256, 384, 512, 640, 768))) for _ in kept)
    share = rng.uniform(0.5, 1)
    convs = tuple(max(16, round(c * min(1, share * rng.uniform(0.8, 1.2)) / 16) * 16) for c in CONTAINER.conv_dims)
    return Subnet(convs, rng.choice((96, 128, 160, 192)), layers, kept)


def make_candidates(count):
    rng = random.Random(0)
    subnets = [(CHOSEN, SEARCHED), *((random_subnet(rng), SEARCHED) for _ in range(count))]
    for depth, heads, ffn, width in ((3, 3, 384, 96), (4, 4, 512, 128), (5, 4, 512, 160), (6, 5, 640, 192)):
        convs = tuple(c * width // 192 // 16 * 16 or 16 for c in CONTAINER.conv_dims)
        uniform = Subnet(convs, width, (Layer(heads, ffn),) * depth, tuple(range(depth)))
        subnets.append((uniform, UNIFORM))
    largest = Subnet((32, 64, 64, 96, 96, 144, 176), 160, (Layer(4, 560),) * 5, (0, 1, 2, 3, 5))
    subnets.append((largest, LARGEST))
    rows = []
    for subnet, origin in subnets:
        params, macs = costs(subnet)
        noise = -0.001 if subnet is CHOSEN else abs(rng.gauss(0, 0.012))
        loss = 0.30 + 0.13 * (0.8e6 / params) + 0.04 * (1e8 / macs) + noise
        rows.append(CandidateRow(subnet, params, macs, loss, origin, feasible=params <= LIMIT))
    return tuple(
        replace(c, is_front=not any(o.params <= c.params and o.macs <= c.macs and o.loss < c.loss for o in rows))
        for c in rows
    )


def make_finalists(candidates):
    best = sorted((c for c in candidates if c.feasible), key=lambda c: c.loss)
    picked = [candidates[0], *(c for c in best if c.subnet != CHOSEN)][:5]
    picked += [next(c for c in best if c.origin == UNIFORM), next(c for c in best if c.origin == LARGEST)]
    rows = []
    for candidate in picked:
        excess = candidate.loss - picked[0].loss
        interval = (excess - 0.003, excess + 0.003) if excess else (0.0, 0.0)
        rows.append(
            FinalistRow(
                candidate.subnet,
                candidate.params,
                candidate.macs,
                Measure.around(candidate.loss, 0.006),
                candidate.origin,
                tied=interval[0] <= 0,
                excess=interval,
                latency_ms=Measure(candidate.macs / 4e7, candidate.macs / 4e7 - 0.2, candidate.macs / 4e7 + 0.3),
            )
        )
    return tuple(rows)


def make_series(name, floor, steps=tuple(range(0, 3000, 5))):
    rng = random.Random(name)
    return Series(name, steps, tuple(floor + 0.9 * math.exp(-s / 420) + rng.gauss(0, 0.008) for s in steps))


def full_report(num_candidates=220):
    candidates = make_candidates(num_candidates)
    params, macs = costs(CHOSEN)
    return Report(
        title="A 1.8M encoder from the demo teacher",
        facts=FACTS,
        container=CONTAINER,
        chosen=Chosen(
            CHOSEN,
            params,
            macs,
            Measure.around(candidates[0].loss, 0.006),
            Measure.around(0.213, 0.008),
            Measure.around(macs / 4e7, 0.3),
        ),
        budget=(BudgetUse("1.8M", "params", LIMIT, params),),
        teacher=TeacherRow(
            "demo teacher", 9_482_112, 1_210_000_000, Measure.around(0.189, 0.007), Measure.around(31.2, 0.8)
        ),
        candidates=candidates,
        finalists=make_finalists(candidates),
        latency_note="2 s of audio, batch 1, PyTorch 2.13 fp32, 1 thread, median of 30",
        curve=(
            CurvePoint("Smallest subnet", Measure.around(0.262, 0.009), params=620_000),
            CurvePoint("Middle subnet", Measure.around(0.221, 0.008), params=1_700_000),
            CurvePoint("Largest subnet, the container", Measure.around(0.204, 0.007), params=3_420_000),
            CurvePoint("Teacher", Measure.around(0.189, 0.007), "teacher", params=9_482_112),
            CurvePoint("Stacked MFCC", Measure.around(0.387, 0.010), "reference"),
            CurvePoint("Smallest shape, trained alone", Measure.around(0.271, 0.009), "reference", 620_000, 0.09),
        ),
        stages=(
            StageSummary("Stage 1: the container", 3000, (make_series("largest", 0.30),), 1.318, 0.301, 0.62, 0.208),
            StageSummary(
                "Stage 2: subnets",
                3000,
                (
                    make_series("smallest", 0.52),
                    make_series("middle (random)", 0.43),
                    make_series("largest", 0.31),
                ),
                0.301,
                0.309,
                0.208,
                0.204,
            ),
        ),
        counted=Counted(
            "Parameters are all the weights that inference needs, the convolutional front-end, the "
            "positional convolution and the mask embedding included: as transformers counts a HubertModel. "
            "MACs are multiply-accumulates for 1 s of audio at batch 1; FLOPs = 2 × MACs.",
            tuple(Part(name, *cost) for name, cost in breakdown(BACKBONE, CHOSEN).items()),
        ),
        usage=(
            Usage(
                "transformers",
                "from transformers import AutoModel\n\n"
                'model = AutoModel.from_pretrained("runs/demo/best", trust_remote_code=True)\n'
                "features = model(wave).last_hidden_state  # (1, frames, 160)",
            ),
            Usage("plain torch", 'import torch\n\nencoder = load("runs/demo/best")'),
        ),
        notes=(
            "Phone errors are sanity figures on synthetic speech, never SUPERB.",
            "Candidates are scored with the supernet's weights, before any specialisation.",
        ),
        spread_note="From smallest to largest the phone error changes by 5.8 points only: on this data, "
        "size matters little.",
    )


BARE = Report(title="Nothing yet", facts=FACTS)


class Page(HTMLParser):
    """Reads a page and complains when tags do not close in order."""

    VOID = ("meta", "br", "img", "input", "link", "hr")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.scripts = [], [], [], "", []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch, request):
    """Plotly's own 4.8 MB only where a test asks for them."""
    if "real_plotly" not in request.fixturenames:
        monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")


@pytest.fixture
def real_plotly():
    """Marks a test that wants the real one."""


def test_page_is_well_formed_and_fetches_nothing():
    page = Page(render_report(full_report(20)))
    assert page.tags.count("h1") == 1
    for _, name, value in page.attributes:
        assert name not in ("src", "href", "srcset", "action", "data", "poster") or value.startswith("#")
        assert not name.startswith("on")
        assert "url(" not in (value or "")
    assert "@import" not in render_report(BARE)
    for template in (files("nestling.reports") / "templates").iterdir():
        assert "url(" not in template.read_text(encoding="utf-8")


@pytest.mark.usefixtures("real_plotly")
def test_policy_allows_only_the_scripts_that_are_there(tmp_path):
    write_report(full_report(3), tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe" not in policy
    plotly, page_script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(plotly) > 1_000_000
    allowed = policy.partition("script-src ")[2].partition(";")[0]
    assert allowed == f"'{script_hash(plotly)}' '{script_hash(page_script)}'"
    assert script_hash("alert(1)") == "sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI="


def spoil(value, texts):
    """A report with another hostile string in place of each that is free; `texts` gets what is then to be shown."""
    if isinstance(value, str):
        texts.append(printable(f"{HOSTILE} {len(texts)}."))
        return f"{HOSTILE} {len(texts) - 1}."
    if isinstance(value, tuple):
        return tuple(spoil(inner, texts) for inner in value)
    if is_dataclass(value):
        inner = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "kind"}
        return replace(value, **{name: spoil(inner, texts) for name, inner in inner.items()})
    return value


def test_strings_are_hostile(tmp_path):
    texts = []
    report = replace(full_report(3), budget=(BudgetUse("1.8M", "params", LIMIT, 5), BudgetUse("1M", "size", 9, 5)))
    spoilt = spoil(report, texts)
    clean, dirty = Page(render_report(report)), Page(render_report(spoilt))
    assert sorted(set(dirty.tags)) == sorted(set(clean.tags))
    assert dirty.tags.count("script") == clean.tags.count("script") == 3
    assert "\x1b" not in dirty.text
    assert "\u202e" not in dirty.text
    figures = next(s for s in dirty.scripts if s.startswith("[{"))
    assert "<" not in figures
    said = json.dumps(json.loads(figures))
    assert "<script" not in said  # Plotly reads markup in its texts
    drawn = " ".join(
        unescape(text) for figure in json.loads(figures) for trace in figure["data"] for text in trace.get("text", ())
    )
    assert len(texts) > 40
    assert [text for text in texts if text not in dirty.text and text not in drawn] == []
    write_report(spoilt, tmp_path / "report.html")  # a lone surrogate, as in a name of a file, is no obstacle
    save_picture(spoilt, tmp_path / "picture.svg")
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    assert texts[0] in {node.text for node in root.iter()}


def test_every_section_is_there():
    page = Page(render_report(full_report(20)))
    for heading in (
        "A 1.8M encoder from the demo teacher",
        "The chosen subnet, inside the supernet",
        "The front",
        "Finalists",
        "What the sizes are worth",
        "Training",
        "What was counted",
        "Load it",
        "How it was made",
        "Read with care",
    ):
        assert heading in page.text
    assert "Draws" + FACTS.draws[0] + "\nScore" + full_report(20).loss_name in page.text.replace("\n\n", "\n")
    figures = json.loads(next(s for s in page.scripts if s.startswith("[{")))
    assert [figure["id"] for figure in figures] == ["front-params", "front-macs", "loss-0", "loss-1"]
    assert {figure["id"] for figure in figures} <= set(page.values("id"))


def test_a_report_of_nothing_says_what_it_knows():
    html = render_report(BARE)
    page = Page(html)
    assert page.tags.count("h2") == 1
    assert "How it was made" in page.text
    assert "nestling-demo-teacher" in page.text
    assert len(html) < 30_000  # and carries no Plotly


@pytest.mark.parametrize(
    ("field", "empty", "heading"),
    [
        ("container", None, "The chosen subnet"),
        ("candidates", (), "The front"),
        ("finalists", (), "Finalists"),
        ("curve", (), "What the sizes are worth"),
        ("stages", (), "Training"),
        ("counted", None, "What was counted"),
        ("usage", (), "Load it"),
        ("notes", (), "Read with care"),
    ],
)
def test_a_missing_part_leaves_its_section_out(field, empty, heading):
    report = full_report(3)
    assert f"<h2>{heading}" in render_report(report)
    without = render_report(replace(report, **{field: empty}))
    Page(without)
    assert f"<h2>{heading}" not in without


def test_latency_is_shown_only_if_measured():
    report = full_report(3)
    assert "Latency" in Page(render_report(report)).text
    untimed = replace(
        report,
        chosen=replace(report.chosen, latency_ms=None),
        finalists=tuple(replace(row, latency_ms=None) for row in report.finalists),
    )
    text = Page(render_report(untimed)).text
    assert "Latency" not in text
    assert report.latency_note not in text


def test_only_stage_1_done_draws_the_container():
    report = full_report(3)
    page = Page(render_report(Report("Stage 1", FACTS, container=CONTAINER, stages=report.stages[:1])))
    assert "The supernet" in page.text
    assert "left out" not in page.text
    assert "1.318 → 0.301" in page.text
    assert "62.0% → 20.8%" in page.text
    assert page.values("id") == ["loss-0", "figures"]


def test_headline_gives_the_answer():
    report = full_report(20)
    text = Page(render_report(report)).text
    for shown in (
        CHOSEN.id,
        short_count(count_params(BACKBONE, CHOSEN)),
        short_count(count_macs(BACKBONE, CHOSEN, 1.0)),
        "98.1%",
        "1.766M of 1.8M",
        "21.3% ± 0.8",
        "teacher 18.9% ± 0.7",
        "5.4× smaller than the teacher",
    ):
        assert shown in text
    by_loss = replace(report, chosen=replace(report.chosen, phone_error=None))
    assert "unexplained share of the teacher's variance on search" in Page(render_report(by_loss)).text


def test_headline_tells_ties_and_the_uniform_shape():
    report = full_report(3)
    first = report.finalists[0]
    uniform = replace(report.finalists[1], origin=UNIFORM, tied=False, loss=Measure(first.loss.value + 0.1))

    def lede(*rows):
        return Page(render_report(replace(report, finalists=rows))).text

    assert "differs from every other finalist by more than the noise" in lede(first, uniform)
    assert "beats the best uniform shape, 0.39" in lede(first, uniform)
    worse = replace(uniform, loss=Measure(first.loss.value - 0.1))
    assert "The best uniform shape beats it" in lede(first, worse)
    tied = replace(uniform, tied=True)
    assert "The other finalist is statistically tied" in lede(first, tied)
    assert "Of the 2 other finalists, 1 is statistically tied" in lede(first, tied, report.finalists[-1])
    assert "Of the 2 other finalists, 2 are statistically tied" in lede(first, tied, tied)
    assert "The best uniform shape is among the tied" in lede(first, tied)
    assert "statistically" not in lede(first)
    alike = lede(replace(first, origin=UNIFORM), uniform)
    assert "It is a uniform shape itself." in alike
    assert "best uniform shape" not in alike


def test_finalists_come_in_order_with_their_numbers():
    report = full_report(20)
    html = render_report(report)
    table = html[html.index("<h2>Finalists") : html.index("<h2>What the sizes")]
    ids = re.findall(r"<code>(\w{10})</code>", table)
    assert ids == [row.subnet.id for row in report.finalists]
    assert table.count('class="winner"') == 1
    assert table.count(">tied<") == sum(row.tied for row in report.finalists) - 1
    assert "demo teacher" in table
    assert "1.210G" in table
    for row in report.finalists:
        assert f"{row.loss.value:.3f} <small>± 0.006</small>" in table


def test_breakdown_adds_up():
    text = " ".join(re.sub("<[^>]*>", " ", render_report(full_report(3))).split())
    params, macs = costs(CHOSEN)
    assert f"All {params:,} {macs:,}" in text
    assert "Convolutional front-end 168,160" in text


def test_numbers_that_are_not_finite_break_nothing():
    report = full_report(3)
    nan = math.nan
    broken = replace(
        report,
        candidates=tuple(replace(c, loss=nan) for c in report.candidates),
        finalists=tuple(replace(f, loss=Measure(nan, nan, nan), excess=None) for f in report.finalists),
        curve=(CurvePoint("all wrong", Measure(nan)),),
        stages=(StageSummary("diverged", 2, (Series("largest", (0, 1), (math.inf, nan)),)),),
        budget=(BudgetUse("0", "params", 0, 5),),
    )
    page = Page(render_report(broken))
    figures = json.loads(next(s for s in page.scripts if s.startswith("[{")))
    assert figures[-1]["data"][0]["y"] == [None, None]


def test_front_figures_show_every_candidate_once_and_the_budget():
    report = full_report(30)
    for figure, axis in zip(front_figures(report), ("params", "macs"), strict=True):
        line, *groups = figure["data"]
        assert sum(len(trace["x"]) for trace in groups) == len(report.candidates)
        assert groups[-1]["x"] == [getattr(report.chosen, axis)]
        assert line["y"] == sorted(line["y"], reverse=True)
    params, macs = front_figures(report)
    assert [shape["x0"] for shape in params["layout"]["shapes"]] == [LIMIT]
    assert macs["layout"]["shapes"] == []
    elsewhere = replace(report, budget=(BudgetUse("macs<=1G@5s", "macs", 10**9, 5, seconds=5.0),))
    assert front_figures(elsewhere)[1]["layout"]["shapes"] == []  # the plot is about 1 s
    assert describe(CHOSEN).splitlines()[0] in params["data"][-1]["text"][0]


def test_colours_are_roles_of_both_palettes():
    assert set(LIGHT) == set(DARK)
    used = {group.colour for group in GROUPS}
    report = full_report(20)
    text = json.dumps([*front_figures(report), *loss_figures(report)])
    used |= {role.removeprefix("--") for role in re.findall(r'olor": "([^"]+)"', text)}
    used |= set(re.findall(r"var\(--([\w-]+)\)", render_report(report))) - {"tone"}
    assert used <= set(LIGHT)
    assert {group.symbol for group in GROUPS} <= set(SYMBOLS)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("role", "least"),
    [("ink", 7), ("muted", 4.5), ("mark", 4.5), ("heads", 3), ("conv", 3), ("ffn", 3), ("dot", 3)],
)
def test_contrast(palette, role, least):
    for ground in ("paper", "card"):
        dark, light = sorted((luminance(palette[role]), luminance(palette[ground])))
        assert (light + 0.05) / (dark + 0.05) >= least


@pytest.mark.parametrize("upright", [False, True])
def test_drawing_shows_what_is_kept_and_what_is_not(upright):
    drawing = draw_subnet(CHOSEN, CONTAINER, upright)
    root = ElementTree.fromstring(f"<svg>{drawing.body}</svg>")
    rects = [rect.get("class") for rect in root.iter("rect") if rect.get("width") != "9"]  # 9: of the key
    assert rects.count("heads") == sum(layer.heads for layer in CHOSEN.layers)
    assert rects.count("heads") + rects.count("rest heads") == 5 * 6
    assert rects.count("ffn") == 5
    assert rects.count("conv") == 7
    assert rects.count("dropped") == 2
    titles = {title.text for title in root.iter("title")}
    assert {"layer 3: left out", "layer 4: 5 of 6 heads, FFN 512 of 768"} <= titles
    assert "residual stream: 160 of 192 wide" in titles
    assert "160 wide" in {text.text for text in root.iter("text")}
    for rect in root.iter("rect"):
        x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + width <= drawing.width
        assert y + height <= drawing.height


@pytest.mark.parametrize("upright", [False, True])
def test_bars_are_to_scale(upright):
    root = ElementTree.fromstring(f"<svg>{draw_subnet(CHOSEN, CONTAINER, upright).body}</svg>")
    side = "width" if upright else "height"
    ffn = [float(r.get(side)) for r in root.iter("rect") if r.get("class") == "ffn"][:-1]
    assert [x / max(ffn) for x in ffn] == pytest.approx([x.ffn_dim / 768 for x in CHOSEN.layers], abs=2e-3)
    convs = [float(r.get(side)) for r in root.iter("rect") if r.get("class") == "conv"][:-1]
    assert [x / max(convs) for x in convs] == pytest.approx([x / 192 for x in CHOSEN.conv_dims], abs=2e-3)


def test_deep_containers_fit_on_the_page():
    container = Subnet((512,) * 7, 1024, (Layer(16, 4096),) * 24, tuple(range(24)))
    assert draw_subnet(container, container).width < 1200
    assert draw_subnet(container, container, upright=True).width == 360


def test_picture_is_xml_with_its_own_colours(tmp_path):
    save_picture(full_report(20), tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text
    assert LIGHT["paper"] in text
    assert DARK["paper"] in text
    assert "1.766M" in text
    assert not re.search(r"(href|src)=|url\(", text)


def test_picture_without_candidates_is_the_subnet_alone(tmp_path):
    report = full_report(3)
    for candidates in ((), tuple(replace(c, loss=math.nan) for c in report.candidates)):
        save_picture(replace(report, candidates=candidates), tmp_path / "picture.svg")
        assert "against parameters" not in (tmp_path / "picture.svg").read_text(encoding="utf-8")
    save_picture(replace(report, candidates=report.candidates[:1]), tmp_path / "picture.svg")
    ElementTree.parse(tmp_path / "picture.svg")


def test_picture_needs_a_result(tmp_path):
    with pytest.raises(ValueError, match="needs a chosen subnet and its container; run `nestling search"):
        save_picture(BARE, tmp_path / "picture.svg")


def test_best_by_size():
    points = [(3.0, 1.0), (1.0, 2.0), (2.0, 2.5), (2.0, 1.5), (4.0, 1.0), (0.5, math.nan)]
    assert best_by_size(points) == [(1.0, 2.0), (2.0, 1.5), (3.0, 1.0)]
    assert best_by_size([]) == []


def test_thin_series_keeps_means_and_the_last_step():
    series = Series("largest", tuple(range(10)), tuple(map(float, range(10))))
    assert thin_series(series, 10) is series
    assert thin_series(series, 3) == Series("largest", (3, 7, 9), (1.5, 5.5, 8.5))


def test_measures():
    assert Measure(2.0, 1.5, 2.25).margin == 0.5
    assert Measure.around(2.0, 0.5) == Measure(2.0, 1.5, 2.5)
    assert Measure(2.0).margin is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (24_930_000, "24.93M"), (25_000_000, "25M"), (1_520_000_000, "1.52G"), (48_000, "48k")],
)
def test_short_count(count, text):
    assert short_count(count) == text


def test_safe_text():
    assert safe_text("<a href='x'>&\x00\u2066é") == "&lt;a href=&#39;x&#39;&gt;&amp;\\x00\\u2066é"


def test_an_element_escapes_what_it_holds():
    inner = element("title", "a & b")
    made = element("text", "<b>", inner, 3, class_='x" y', font_size=1.5, x=2.0, viewBox="0 0", dx=None)
    assert made == (
        '<text class="x&#34; y" font-size="1.5" x="2" viewBox="0 0">&lt;b&gt;<title>a &amp; b</title>3</text>'
    )


@pytest.mark.parametrize(
    ("others", "tied", "said"),
    [
        (0, 0, "Nothing else was scored."),
        (19, 0, "None of the other 19 that were scored is tied with it."),
        (19, 3, "Of the other 19 that were scored, 3 cannot be told from it."),
    ],
)
def test_rivals_of_a_winner_in_words(others, tied, said):
    assert describe_rivals(others, tied) == said
