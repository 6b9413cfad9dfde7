"""Scores are kept as they come: none is computed twice, none is lost, and a page shows them."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from checkpoints.representations import Representation
from nestling.reports.evaluation_page import EvaluationFacts, render_evaluation
from nestling.reports.layer_drawing import COLOURS, colour_of, draw_errors, draw_likeness
from nestling.workflows.evaluation import (
    EVALUATIONS,
    Ledger,
    evaluate_encoders,
    load_evaluations,
    name_apart,
    view_layers,
    write_evaluation_page,
)
from speech_tasks import phones, provenance
from speech_tasks.comparison import Comparison
from speech_tasks.heads import Fitted
from speech_tasks.layer_view import LayerProbe, LayerView, ProbeErrors
from speech_tasks.suite import TaskResult
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material
from tests.evaluation_cases import LoudnessTask, make_entry, make_score
from tests.speech_cases import FakeCorpus, spectral_states, utterance

CORPUS = FakeCorpus({"test": [utterance(f"u{i}", 4000 + 640 * i) for i in range(4)]}, name="some", hash="1")


class Killed(BaseException):
    """As when a process is stopped."""


def make_encoder(name="mine", print_of=None, source=None, scale=1.0):
    """An encoder that counts the clips it hears."""
    heard = []

    def encode(wave, lengths):
        heard.append(len(wave))
        return [scale * x for x in spectral_states(wave, lengths)]

    encoder = Representation(name, source or f"path/{name}", encode, 1000, 2000, print_of or f"print of {name}")
    return encoder, heard


def make_tasks(corpus=CORPUS):
    return [LoudnessTask("keywords", corpus, "KS accuracy"), LoudnessTask("phones", corpus, "PER")]


def scored(tasks, folder, encoder, split="test", **options):
    """What the ledger of a folder has after evaluating one encoder, by metric, and the number of tasks that ran."""
    before = sum(task.calls for task in tasks)
    (entry,) = evaluate_encoders([encoder], tasks, split, Ledger(folder), **options)
    values = {score.metric: score.value for score in entry.evaluation.scores}
    return values, sum(task.calls for task in tasks) - before


# What is known is not computed again


def test_a_second_run_computes_nothing(tmp_path):
    (encoder, heard), tasks, said = make_encoder(), make_tasks(), []
    first, ran = scored(tasks, tmp_path, encoder)
    assert (first, ran) == ({"PER": 100, "KS accuracy": 100}, 2)
    assert list(first) == ["PER", "KS accuracy"]  # as the suite has them
    assert sum(heard) == 4
    again, ran = scored(tasks, tmp_path, encoder, say=said.append)
    assert (again, ran) == (first, 0)
    assert sum(heard) == 4
    assert said == [f"mine: keywords, phones known from {tmp_path / EVALUATIONS}"]


def test_another_encoder_is_computed(tmp_path):
    tasks = make_tasks()
    first, _ = scored(tasks, tmp_path, make_encoder()[0])
    other, ran = scored(tasks, tmp_path, make_encoder(print_of="other weights", scale=-1)[0])
    assert ran == 2
    assert (first["PER"], other["PER"]) == (100, 0)
    moved, ran = scored(tasks, tmp_path, make_encoder("moved", "print of mine", "elsewhere")[0])
    assert (moved, ran) == (first, 0)  # the same weights under another name


def test_another_split_is_computed_and_kept_apart(tmp_path):
    tasks = make_tasks()
    scored(tasks, tmp_path, make_encoder()[0])
    assert scored(tasks, tmp_path, make_encoder()[0], split="dev")[1] == 2
    assert [row["split"] for row in Ledger(tmp_path).rows()] == ["test", "dev"]


def test_changed_code_is_computed(tmp_path, monkeypatch):
    tasks = make_tasks()
    scored(tasks, tmp_path, make_encoder()[0])
    monkeypatch.setattr(provenance, "hash_code", lambda _: "another")
    assert scored(tasks, tmp_path, make_encoder()[0])[1] == 2
    assert scored(tasks, tmp_path, make_encoder()[0])[1] == 0
    (row,) = Ledger(tmp_path).rows()
    assert len(row["tasks"]) == 4  # what the old code found stays


def test_changed_audio_is_computed_and_the_newest_is_loaded(tmp_path):
    scored(make_tasks(), tmp_path, make_encoder()[0])
    other = FakeCorpus(CORPUS.splits, name="some", hash="2")
    changed = make_tasks(other)
    for task in changed:
        task.threshold = 1e6
    assert scored(changed, tmp_path, make_encoder()[0]) == ({"PER": 0, "KS accuracy": 0}, 2)
    (entry,) = load_evaluations(tmp_path)
    assert {score.metric: score.value for score in entry.evaluation.scores} == {"PER": 0, "KS accuracy": 0}
    assert scored(make_tasks(), tmp_path, make_encoder()[0]) == ({"PER": 100, "KS accuracy": 100}, 0)


def test_only_what_is_missing_is_computed(tmp_path):
    keywords, phones = make_tasks()
    scored([keywords], tmp_path, make_encoder()[0])
    values, ran = scored([keywords, phones], tmp_path, make_encoder()[0])
    assert ran == 1
    assert (keywords.calls, phones.calls) == (1, 1)
    assert set(values) == {"PER", "KS accuracy"}
    assert set(scored([phones], tmp_path, make_encoder()[0])[0]) == {"PER"}  # what was asked for, and no more


# Nothing is lost


def test_a_kill_loses_one_task_at_most(tmp_path):
    keywords, phones = make_tasks()

    def die(_):
        raise Killed

    phones.score, alive = die, phones.score
    with pytest.raises(Killed):
        scored([keywords, phones], tmp_path, make_encoder()[0])
    (entry,) = load_evaluations(tmp_path)
    assert [result.task for result in entry.evaluation.results] == ["keywords"]
    phones.score = alive
    values, ran = scored([keywords, phones], tmp_path, make_encoder()[0])
    assert (ran, keywords.calls) == (1, 1)
    assert values == {"PER": 100, "KS accuracy": 100}


def test_a_kill_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    scored(make_tasks(), tmp_path, make_encoder()[0])
    before = (tmp_path / EVALUATIONS).read_text()

    def die(_):
        raise Killed

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(Killed):
        scored(make_tasks(), tmp_path, make_encoder("other")[0])
    assert (tmp_path / EVALUATIONS).read_text() == before
    monkeypatch.undo()
    assert scored(make_tasks(), tmp_path, make_encoder("other")[0])[1] == 2


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    def write(number):
        ledger, (encoder, _) = Ledger(tmp_path), make_encoder(f"e{number % 2}")
        for i in range(15):
            result = TaskResult(f"{number}/{i}", "", (), (), 0.0).to_dict()
            ledger.update(encoder, "test", lambda row, result=result: row["tasks"].append(result))

    with ThreadPoolExecutor(4) as pool:  # a lock of a file is between those who opened it, threads too
        list(pool.map(write, range(4)))
    rows = {row["name"]: [result["task"] for result in row["tasks"]] for row in Ledger(tmp_path).rows()}
    for name, numbers in {"e0": (0, 2), "e1": (1, 3)}.items():
        assert sorted(rows[name]) == sorted(f"{number}/{i}" for number in numbers for i in range(15))
        for number in numbers:  # and each writer's come in order
            own = [task for task in rows[name] if task.startswith(f"{number}/")]
            assert own == [f"{number}/{i}" for i in range(15)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 2, "encoders": [', "Expecting value"),
        ("", "Expecting value"),
        ('{"format": 1, "encoders": []}', "it has format 1, this Nestling writes 2"),
        ('{"encoders": []}', "missing key `format`"),
        ("[]", "should be an object"),
        ('{"format": 2, "encoders": null}', "`encoders` should be a valid array, got None"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_kept(tmp_path, text, reason):
    path = tmp_path / EVALUATIONS
    path.write_text(text)
    with pytest.raises(ValueError, match=f"cannot be read: .*{reason}") as caught:
        Ledger(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read")
    assert message.endswith("delete it or name another --out")
    assert "\n" not in message
    assert path.read_text() == text


def test_a_folder_without_scores_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"holds no evaluation on test; run `nestling evaluate … --out .*` first"):
        load_evaluations(tmp_path / "none")
    scored(make_tasks(), tmp_path, make_encoder()[0], split="dev")
    with pytest.raises(ValueError, match="holds no evaluation on test"):
        load_evaluations(tmp_path)
    assert [entry.name for entry in load_evaluations(tmp_path, "dev")] == ["mine"]


def test_loaded_scores_are_those_that_were_found(tmp_path):
    (entry,) = evaluate_encoders([make_encoder()[0]], make_tasks(), "test", Ledger(tmp_path))
    (loaded,) = load_evaluations(tmp_path)
    assert (loaded.name, loaded.source, loaded.fingerprint) == ("mine", "path/mine", "print of mine")
    assert (loaded.params, loaded.macs_1s) == (1000, 2000)
    assert loaded.evaluation.to_dict() == entry.evaluation.to_dict()


def test_loaded_encoders_of_one_name_are_told_apart(tmp_path):
    tasks = make_tasks()
    for source in ("one/best", "other/best", "third"):
        scored(tasks, tmp_path, make_encoder(source.rpartition("/")[2], f"print of {source}", source)[0])
    assert [entry.name for entry in load_evaluations(tmp_path)] == ["one/best", "other/best", "third"]
    assert Comparison(load_evaluations(tmp_path), "other/best").reference.fingerprint == "print of other/best"
    other = FakeCorpus(CORPUS.splits, name="some", hash="2")
    scored(make_tasks(other), tmp_path, make_encoder("third", "print of third", "third")[0])
    with pytest.raises(ValueError, match=r": one/best \(phones, keywords\); other/best \(") as caught:
        load_evaluations(tmp_path)
    assert "third (" not in str(caught.value)


def test_what_was_scored_anew_is_the_newest(tmp_path):
    for source, content in (("one", "old"), ("other", "same"), ("one", "new")):
        scored(make_tasks(), tmp_path, make_encoder(source, content, source)[0])
    assert [(entry.name, entry.fingerprint) for entry in load_evaluations(tmp_path)] == [
        ("other", "same"),
        ("one", "new"),
    ]


# Only like compares with like


def rows_without(folder, *keys):
    """The ledger as an earlier Nestling wrote it."""
    values = json.loads((folder / EVALUATIONS).read_text())
    for row in values["encoders"]:
        for key in keys:
            row.pop(key, None)
    (folder / EVALUATIONS).write_text(json.dumps(values))


def test_scores_of_other_audio_do_not_compare(tmp_path):
    old, new = make_encoder("old", "1")[0], make_encoder("new one", "2")[0]
    scored(make_tasks(), tmp_path, old)
    changed = make_tasks(FakeCorpus(CORPUS.splits, name="some", hash="2"))
    scored(changed[:1], tmp_path, new)
    with pytest.raises(ValueError, match="do not compare") as caught:
        load_evaluations(tmp_path)
    assert str(caught.value) == (
        f"scores in {tmp_path} do not compare with the newest there, which are of other code, libraries or audio: "
        f"old (keywords); score them again: nestling evaluate path/old --split test --out {tmp_path}"
    )
    scored(changed, tmp_path, old)
    assert [entry.name for entry in load_evaluations(tmp_path)] == ["new one", "old"]
    scored(make_tasks()[:1], tmp_path, new)  # back to the first audio, which is the newest now
    with pytest.raises(ValueError, match=r"old \(keywords\)"):
        load_evaluations(tmp_path)


def test_what_was_asked_for_last_is_what_is_loaded(tmp_path):
    first, other = make_tasks(), make_tasks(FakeCorpus(CORPUS.splits, name="some", hash="2"))
    for task in other:
        task.threshold = 1e6
    for tasks, value in ((first, 100), (other, 0), (first, 100)):
        scored(tasks, tmp_path, make_encoder()[0])
        (entry,) = load_evaluations(tmp_path)
        assert {score.value for score in entry.evaluation.scores} == {value}
    assert [task.calls for task in (*first, *other)] == [1, 1, 1, 1]


def test_of_one_source_the_encoder_that_is_there_counts(tmp_path):
    for content in ("before", "after", "before"):
        scored(make_tasks(), tmp_path, make_encoder("mine", content)[0])
        scored(make_tasks(), tmp_path, make_encoder("other", "other")[0])
        assert [entry.fingerprint for entry in load_evaluations(tmp_path)] == [content, "other"]


def test_encoders_of_other_code_do_not_compare(tmp_path):
    made = [replace(make_encoder(name)[0], code=code) for name, code in (("a", "onnx 1"), ("b", "encoder 1"))]
    for encoder in made:
        scored(make_tasks(), tmp_path, encoder)
    assert len(load_evaluations(tmp_path)) == 2  # each is computed by something of its own
    scored(make_tasks(), tmp_path, replace(make_encoder("c")[0], code="encoder 2"))
    with pytest.raises(ValueError, match=r": b \(all, of other code or libraries of the encoder\); score them again"):
        load_evaluations(tmp_path)


def test_scores_from_before_code_was_kept_do_not_compare(tmp_path):
    scored(make_tasks(), tmp_path, make_encoder()[0])
    rows_without(tmp_path, "code", "revision")
    with pytest.raises(ValueError, match=r"mine \(all, from before it was kept what computes an encoder\)"):
        load_evaluations(tmp_path)
    assert scored(make_tasks(), tmp_path, make_encoder()[0])[1] == 0  # the same after all
    assert len(load_evaluations(tmp_path)) == 1


def test_a_comparison_refuses_scores_of_other_audio(tmp_path):
    entries = []
    for name, content in (("a", "1"), ("b", "2")):
        tasks = make_tasks(FakeCorpus(CORPUS.splits, name="some", hash=content))
        entries += evaluate_encoders([make_encoder(name)[0]], tasks, "test", Ledger(tmp_path / name))
    with pytest.raises(ValueError, match=r"only scores of the same code, libraries and audio compare, and phones, "):
        Comparison(entries)


def test_versions_and_code_are_beside_each_score(tmp_path):
    scored(make_tasks(), tmp_path, replace(make_encoder()[0], code="encoder 1", revision="abc"))
    (row,) = Ledger(tmp_path).rows()
    assert (row["code"], row["revision"]) == ("encoder 1", "abc")
    assert {result["made_with"]["torch"] for result in row["tasks"]} == {torch.__version__}


def test_a_folder_is_made_with_the_first_score(tmp_path):
    assert Ledger(tmp_path / "a/b").rows() == []
    assert not (tmp_path / "a").exists()
    scored(make_tasks(), tmp_path / "a/b", make_encoder()[0])
    assert (tmp_path / "a/b" / EVALUATIONS).is_file()


def test_encoders_of_one_name_are_told_apart(tmp_path):
    encoders = [make_encoder("mine", source=s, print_of=s)[0] for s in ("a/mine", "b/mine")] + [make_encoder("x")[0]]
    assert name_apart(encoders) == ["a/mine", "b/mine", "x"]
    entries = evaluate_encoders(encoders, make_tasks(), "test", Ledger(tmp_path))
    assert [entry.name for entry in entries] == ["a/mine", "b/mine", "x"]


# Layers


def test_layers_are_probed_once_and_again_for_another_reference(tmp_path):
    train = [utterance(f"t{i}", 4000, speaker=f"s{i % 3}") for i in range(18)]
    corpus = FakeCorpus({"train": train, "test": CORPUS.splits["test"]}, hash="3")
    probe = LayerProbe(Material(corpus, "clean"), scale=0.05)
    (one, heard_by_one), (other, heard_by_other) = make_encoder("one"), make_encoder("other", scale=3.0)
    ledger = Ledger(tmp_path)

    def look(reference):
        heard_by_one.clear()
        heard_by_other.clear()
        views = view_layers([one, other], reference, probe, "test", ledger)
        return views, bool(heard_by_one), bool(heard_by_other)

    views, *ran = look(0)
    assert ran == [True, True]
    assert views[0].likeness is None
    np.testing.assert_allclose(views[1].likeness.diagonal(), 1, atol=1e-3)  # three times as loud is alike
    assert [errors.label for errors in views[0].probes] == ["speaker"]
    again, *ran = look(0)
    assert ran == [False, False]
    assert again[1].probes == views[1].probes
    swapped, *ran = look(1)
    assert ran == [True, True]
    assert swapped[1].likeness is None
    assert swapped[0].likeness.shape == (2, 2)
    assert "layers" in ledger.find(one, "test")
    scored(make_tasks(), tmp_path, one)
    assert "layers" in ledger.find(one, "test")  # scores leave them where they are


# The page


class Page(HTMLParser):
    """Its words, its tags, and whether every tag is closed."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.links, self._open = [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, _):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


HOSTILE = '<script>alert("x")</script>'


def write_page(folder, names=("log-mel", HOSTILE, "top"), views=None, split="test"):
    values = ([60.0, 50.0], [40.0, 80.0], [20.0, 90.0])
    entries = [
        make_entry(
            name,
            [
                make_score("PER", per),
                make_score("KS accuracy", accuracy),
                make_score("PER", per + 10, condition=OUT_OF_DOMAIN),
            ],
        )
        for name, (per, accuracy) in zip(names, values, strict=True)
    ]
    comparison = Comparison(entries, names[2])
    return comparison, write_evaluation_page(comparison, views or {}, split, "nestling evaluate …", folder)


def test_the_page_stands_alone_and_shows_every_score(tmp_path):
    comparison, path = write_page(tmp_path)
    page = Page(path.read_text("utf-8"))
    assert not [link for link in page.links if not link.startswith(("data:", "#"))]
    assert HOSTILE not in path.read_text("utf-8")
    assert HOSTILE in page.text  # shown as it is, not run
    for shown in ("60.0", "40.0", "20.0", "50.0", "80.0", "90.0", "70.0", "30.0", "+20.0", "-10.0"):
        assert shown in page.text, shown
    means = [comparison.cell(entry, "mean of tasks", IN_DOMAIN).score.value for entry in comparison.entries]
    assert means == [45, 70, 85]
    assert "▼" in page.text
    assert "Score: 0 is log-mel, 1000 is top" in page.text
    assert "625" in page.text  # (20 of 40 + 30 of 40) / 2
    assert "Synthesised speech: never SUPERB." in page.text
    assert "nestling-english 0123" in page.text
    assert "Layer by layer" not in page.text
    assert "Scores of dev serve" not in page.text


def test_a_page_of_dev_says_so(tmp_path):
    _, path = write_page(tmp_path, split="dev")
    assert "Scores of dev serve to compare recipes" in Page(path.read_text("utf-8")).text


def test_the_page_of_one_encoder_compares_nothing(tmp_path):
    comparison = Comparison([make_entry("alone", {"PER": 30, "MTWV": 0.25})])
    path = write_evaluation_page(comparison, {}, "test", "nestling evaluate alone", tmp_path)
    text = Page(path.read_text("utf-8")).text
    assert "1 encoder, 2 metrics" in text
    assert "0.250" in text
    assert "▼" not in text
    assert "less alone" not in text


def test_layers_are_on_the_page(tmp_path):
    phones = ProbeErrors("phone", (50.0, 20.0), (3.0, 2.0), 90.0)
    views = {
        "top": LayerView((phones,)),
        HOSTILE: LayerView((phones,), np.array([[0.9, 0.1], [0.2, 0.8]])),
    }
    _, path = write_page(tmp_path, views=views)
    page = Page(path.read_text("utf-8"))
    assert "Layer by layer" in page.text
    assert "always the most frequent: 90%" in page.text
    assert "hidden state 1: 20.0% ± 2.0" in page.text
    assert f"{HOSTILE} 1, top 0: 0.20" in page.text


def test_every_string_is_shown_as_it_is():
    spoilt = [f"</script><b>{{{{ 7*7 }}}}{{% endif %}}&amp;\"'\x1b {i}" for i in range(13)]
    name, source, print_of, reference, audio, label, split, other, command, package, version, date, note = spoilt
    entries = [
        replace(make_entry(name, {"PER": 30}, source, audio), fingerprint=print_of),
        make_entry(reference, {"PER": 20}, source="its source", audio=audio),
    ]
    probes = (ProbeErrors(label, (50.0, 20.0), (3.0, 2.0), 90.0),)
    views = {name: LayerView(probes, np.eye(2)), reference: LayerView(probes)}
    made = EvaluationFacts(split, (audio, other), command, ((package, version),), date, (note,))
    page = Page(render_evaluation(Comparison(entries, reference), views, made))
    assert "script" not in page.tags
    assert [said for said in spoilt if said.replace("\x1b", "\\x1b") not in page.text] == []


def circles(svg):
    return [(float(c.get("cx")), float(c.get("cy"))) for c in ElementTree.fromstring(svg).iter("circle")]


def test_errors_are_drawn_higher_where_they_are_larger():
    low = ProbeErrors("phone", (30.0, 10.0, 20.0), (1.0, 1.0, 1.0), 90.0)
    high = ProbeErrors("phone", (60.0, 50.0, 40.0, 70.0), (1.0, 1.0, 1.0, 1.0), 90.0)
    points = circles(draw_errors({"low": (0, low), "high": (1, high)}))
    assert len(points) == 7
    errors = (*low.errors, *high.errors)
    assert sorted(range(7), key=lambda i: -points[i][1]) == sorted(range(7), key=lambda i: errors[i])
    assert [x for x, _ in points[:3]] == [x for x, _ in points[3:6]]  # the same hidden state, the same place
    assert points[3][0] < points[4][0] < points[5][0] < points[6][0]


@pytest.mark.parametrize("errors", [(0.0,), (100.0,), (0.0, 100.0), (12.0, 12.1), (99.0, 3.0)])
def test_errors_are_within_the_picture(errors):
    found = ProbeErrors("phone", errors, (4.0,) * len(errors), 90.0)
    picture = ElementTree.fromstring(draw_errors({"e": (0, found)}))
    _, _, width, height = map(float, picture.get("viewBox").split())
    for circle in picture.iter("circle"):
        assert 0 < float(circle.get("cx")) < width
        assert 0 < float(circle.get("cy")) < height - 30  # above the numbers of hidden states
    for bar in (p for p in picture.iter("path") if p.get("class") == "bar"):
        ends = [float(y) for y in re.findall(r"[ V](-?[\d.]+)", bar.get("d"))]
        assert max(ends) < height - 20


def test_encoders_beyond_the_colours_are_dashed():
    found = ProbeErrors("phone", (30.0, 10.0), (1.0, 1.0), 90.0)
    count = len(COLOURS)
    picture = draw_errors({str(i): (i, found) for i in range(count + 1)})
    assert picture.count("trace again") == 1
    assert colour_of(count) == colour_of(0) != colour_of(1)


def test_likeness_has_the_first_hidden_state_at_the_bottom_left():
    picture = ElementTree.fromstring(draw_likeness(np.array([[1.0, 0.25], [0.5, 0.0], [0.0, 0.75]]), "mine", "its"))
    cells = {cell.find("title").text: cell for cell in picture.iter("rect")}
    assert set(cells) == {
        *("mine 0, its 0: 1.00", "mine 0, its 1: 0.25", "mine 1, its 0: 0.50"),
        *("mine 1, its 1: 0.00", "mine 2, its 0: 0.00", "mine 2, its 1: 0.75"),
    }
    first, right, up = (cells[name] for name in list(cells)[:3])
    assert float(first.get("x")) < float(right.get("x"))
    assert float(first.get("y")) == float(right.get("y"))
    assert float(first.get("y")) > float(up.get("y"))
    assert "var(--heads) 25%" in right.get("style")
    assert {text.text for text in picture.iter("text") if text.get("class") == "cell"} == {
        "1",
        ".25",
        ".50",
        ".00",
        ".75",
    }


def test_a_large_likeness_has_no_numbers():
    picture = ElementTree.fromstring(draw_likeness(np.full((25, 25), 0.5), "mine", "its"))
    assert not [text for text in picture.iter("text") if text.get("class") == "cell"]
    assert len(list(picture.iter("rect"))) == 625


def test_the_file_is_json_a_row_a_line(tmp_path):
    scored(make_tasks(), tmp_path, make_encoder("a")[0])
    scored(make_tasks(), tmp_path, make_encoder("b")[0])
    text = (tmp_path / EVALUATIONS).read_text()
    assert {"python", "torch"} <= set(json.loads(text)["made_with"])
    assert len(text.splitlines()) == 4


# What the intervals are of


class Deaf:
    """A writer that hears one phone too few."""

    fitted = Fitted((), 0.1, ())

    def write(self, store, clips):
        del store
        return [[tuple(symbol for symbol, _, _ in clip.utterance.phones[1:]) for clip in clips]]


def evaluate_phones(folder, speakers, monkeypatch, num_encoders=1):
    """The page and the rows of encoders whose heads hear all but one of three phones of every utterance."""
    spans = tuple((symbol, 0.1 * i, 0.1 * (i + 1)) for i, symbol in enumerate("aei"))
    said = [utterance(f"u{i}", 4800, speaker=name, phones=spans) for i, name in enumerate(speakers)]
    corpus = FakeCorpus(dict.fromkeys(("train", "search", "test"), said), name="some", hash=speakers)
    monkeypatch.setattr(phones, "fit_writer", lambda *_, **__: Deaf())
    encoders = [make_encoder(f"encoder {i}")[0] for i in range(num_encoders)]
    ledger = Ledger(folder)
    comparison = Comparison(evaluate_encoders(encoders, [phones.Phones(Material(corpus, "clean"))], "test", ledger))
    return write_evaluation_page(comparison, {}, "test", "nestling", folder).read_text(), ledger.rows()


def test_one_reader_alone_is_named_on_the_page(tmp_path, monkeypatch):
    """A corpus of one voice says nothing of others, and utterances are then all that an interval can be over."""
    said = (
        "PER in domain is of this reader alone, a: its interval is over utterances, and says nothing of other voices."
    )
    assert said in evaluate_phones(tmp_path / "one", "aaaa", monkeypatch)[0]
    assert "alone" not in evaluate_phones(tmp_path / "two", "abab", monkeypatch)[0]


def test_a_comparison_of_many_says_what_chance_marks(tmp_path, monkeypatch):
    page, _ = evaluate_phones(tmp_path / "many", "abab", monkeypatch, num_encoders=12)
    assert "Of 11 differences, about 1 (5 %) are marked by chance alone where nothing differs." in page
    assert "chance alone" not in evaluate_phones(tmp_path / "few", "abab", monkeypatch, num_encoders=3)[0]


def test_errors_by_utterance_and_speaker_are_kept(tmp_path, monkeypatch):
    _, (row,) = evaluate_phones(tmp_path, "abac", monkeypatch)
    ((score,),) = [result["scores"] for result in row["tasks"]]
    kept = score.get("errors")
    assert kept, "a score without errors by utterance"
    names = [kept.get("prefix", "") + name for name in kept["utterances"]]
    speakers = {name: kept["speakers"][i] for name, i in zip(names, kept["speaker_of"], strict=True)}
    assert speakers == {"some: u0": "a", "some: u1": "b", "some: u2": "a", "some: u3": "c"}
    assert (kept["added"], kept["of"]) == ([[1, 1, 1, 1]], [3, 3, 3, 3])
    assert score["value"] == pytest.approx(100 * sum(kept["added"][0]) / sum(kept["of"]))


def test_wordings_that_are_not_new_are_said_to_be_known(tmp_path):
    """The commands of `test` are those of train; of recordings nobody knows."""

    def page_of(folder, synthesised, metrics):
        entry = make_entry("a", dict.fromkeys(metrics, 50))
        results = tuple(replace(result, synthesised=synthesised) for result in entry.evaluation.results)
        entry = replace(entry, evaluation=replace(entry.evaluation, results=results))
        folder.mkdir()
        return write_evaluation_page(Comparison([entry]), {}, "test", "nestling", folder).read_text()

    said = "slot F1, slot CER: all wordings of the synthesised commands occur in train; only voices are new."
    assert said in page_of(tmp_path / "slots", True, ("slot F1", "slot CER", "PER"))
    assert "wordings" not in page_of(tmp_path / "recorded", False, ("slot F1", "slot CER"))
    assert "wordings" not in page_of(tmp_path / "phones", True, ("PER",))
