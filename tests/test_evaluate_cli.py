"""`nestling evaluate`: any folder gives the same table, and what a user got wrong is said in a line."""

from __future__ import annotations

import json
import re

import pytest
from transformers import HubertConfig, HubertModel

from checkpoints.export import write_encoder
from nestling.workflows.evaluation import EVALUATIONS, PAGE
from tests.encoders import randomize
from tests.evaluation_cases import use_quick_heads, use_tiny_audio, write_cache
from tests.shell import Shell
from tests.test_materials import write_librispeech
from tests.test_representations import OURS, SHAPE, make_encoder_like

TASKS = "--task keywords,phones"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A folder as `transformers` saves it, and one as we export it."""
    folder = tmp_path_factory.mktemp("encoders")
    model = HubertModel(HubertConfig(**SHAPE))
    randomize(model)
    model.eval().save_pretrained(folder / "vanilla")
    write_encoder(make_encoder_like(OURS), folder / "ours")
    assert json.loads((folder / "ours/config.json").read_text())["model_type"] == "nestling"
    return folder


@pytest.fixture
def nestling(monkeypatch, cache, tmp_path):
    use_tiny_audio(monkeypatch, cache)
    use_quick_heads(monkeypatch)
    return Shell(tmp_path)


def shape_of(value):
    """JSON without its values: keys, and what lists hold."""
    match value:
        case dict():
            return {key: shape_of(x) for key, x in value.items()}
        case list():
            return [shape_of(x) for x in value]
        case str() | None:
            return "words or nothing"
    return "a number"


def table_of(said):
    """The table's columns, and its rows without what differs from encoder to encoder."""
    lines = [line for line in said.out.splitlines() if line.strip()]
    rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    rows = [re.sub(r"\d[\d.]*[KMG]?", "9", line).split() for line in lines[rule + 1 :] if "±" in line]
    return [line.split() for line in lines[:rule]], [row[1:] for row in rows if row[0] != "±"]


# What is shown


def test_a_vanilla_folder_and_an_export_give_the_same_table(nestling, encoders):
    said = {
        name: nestling.done(f"evaluate {encoders / name} {TASKS} --out {name}", "--no-out-of-domain")
        for name in ("vanilla", "ours")
    }
    columns, rows = table_of(said["vanilla"])
    assert table_of(said["ours"]) == (columns, rows)
    assert columns[0] == ["PER", "KS", "accuracy", "mean", "of", "tasks"]
    assert columns[1] == ["encoder", "params", "MACs@1s", "%", "↓", "%", "↑", "points", "↑"]
    assert len(rows) == 1
    for name, shown in said.items():
        assert name in shown.out
        assert "Synthesised speech: never SUPERB." in shown.out
        assert (nestling.folder / name / PAGE).is_file()


def test_a_vanilla_folder_and_an_export_give_the_same_keys(nestling, encoders):
    values = [
        nestling.done(f"evaluate {encoders / name} {TASKS} --out {name} --format json").json
        for name in ("vanilla", "ours")
    ]
    assert shape_of(values[0]) == shape_of(values[1])
    assert list(values[0]) == ["split", "reference", "metrics", "mean_is_over", "encoders", "page"]
    (encoder,) = values[0]["encoders"]
    assert {(s["metric"], s["condition"]) for s in encoder["scores"]} == {
        (metric, condition)
        for metric in ("PER", "KS accuracy", "mean of tasks")
        for condition in ("in domain", "out of domain")
    }
    assert encoder["params"] > 10_000
    assert encoder["macs_1s"] > 100_000
    assert values[0]["split"] == "test"


def test_encoders_stand_side_by_side_and_the_reference_is_named(nestling, encoders):
    said = nestling.done(
        f"evaluate {encoders}/ours log-mel mfcc {TASKS} --reference log-mel --layers", "--no-out-of-domain"
    )
    for name in ("ours", "log-mel", "mfcc"):
        assert re.search(rf"^ *{name} ", said.out, re.MULTILINE)
    assert "than log-mel by more than the paired interval" in said.out
    assert "score: 0 is" not in said.out  # there is no score with log-mel at both ends
    page = (nestling.folder / "runs/evaluation" / PAGE).read_text()
    assert "Layer by layer" in page
    assert "ours and log-mel" in page
    assert f"nestling evaluate {encoders}/ours log-mel mfcc" in page


def test_what_is_known_is_not_scored_again(nestling, encoders):
    command = f"evaluate {encoders}/ours {TASKS} --format json --no-out-of-domain"
    first, again = nestling.done(command), nestling.done(command)
    assert again.json == first.json
    assert "ours: phones, keywords known from runs/evaluation/evaluation.json" in again.err
    assert "known from" not in first.err
    rows = json.loads((nestling.folder / "runs/evaluation" / EVALUATIONS).read_text())["encoders"]
    assert [len(row["tasks"]) for row in rows] == [2]


def test_a_page_that_cannot_be_written_costs_no_scores(nestling):
    (nestling.folder / "runs/evaluation" / PAGE).mkdir(parents=True)
    said = nestling("evaluate mfcc --task keywords --no-out-of-domain")
    assert said.code == 0
    assert "mfcc" in said.out
    assert f"could not write runs/evaluation/{PAGE}: Is a directory" in said.err
    assert nestling.done("evaluate mfcc --task keywords --no-out-of-domain --format json").json["page"] is None


def test_a_source_given_twice_is_scored_once(nestling):
    assert len(nestling.done(f"evaluate mfcc mfcc {TASKS} --split dev --format json").json["encoders"]) == 1


def test_dev_is_scored_in_domain_alone(nestling):
    values = nestling.done(f"evaluate mfcc {TASKS} --split dev --format json").json
    assert values["split"] == "dev"
    assert {score["condition"] for score in values["encoders"][0]["scores"]} == {"in domain"}


# What a user got wrong


def refused(nestling, command, *parts):
    """Exit code 2 and a short message; nothing is written."""
    said = nestling(f"evaluate {command}")
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err
    assert not (nestling.folder / "runs").exists()
    return said.err.strip().splitlines()


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("mfcc --task phnoes", ["no task `phnoes`; did you mean `phones`? there are phones, keywords"]),
        ("mfcc --task phones,all,xyz", ["no task `xyz`; there are"]),
        ("./nowhere", ["nowhere"]),
        ("mfcc ./nowhere", ["nowhere"]),
        ("untrained:mfcc", ["untrained:mfcc: nothing is trained in mfcc"]),
        ("mfcc log-mel --reference log-mle", ["the reference `log-mle` is not among", "did you mean `log-mel`?"]),
        ("mfcc --task phones --librispeech nowhere", ["LibriSpeech needs train-clean-100", "nowhere"]),
        ("mfcc --task keywords --speech-commands nowhere", ["Speech Commands needs", "nowhere"]),
    ],
)
def test_what_is_wrong_is_said_shortly_and_before_anything_is_spent(nestling, command, parts):
    lines = refused(nestling, command, *parts)
    assert len(lines) <= 2
    assert lines[0].startswith("error: ")


def test_a_split_that_is_not_scored_is_refused(nestling):
    refused(nestling, "mfcc --split train", "train", "test")


def test_scores_that_cannot_be_read_are_left_alone(nestling):
    folder = nestling.folder / "scores"
    folder.mkdir()
    (folder / EVALUATIONS).write_text('{"format": 1, "enc')
    (line,) = refused(nestling, "mfcc --out scores", "scores/evaluation.json cannot be read", "name another --out")
    assert line.startswith("error: ")
    assert (folder / EVALUATIONS).read_text() == '{"format": 1, "enc'


def test_labels_that_a_folder_lacks_are_named(nestling, tmp_path):
    folder = write_librispeech(tmp_path / "LibriSpeech")
    (line,) = refused(
        nestling, f"mfcc --task queries --librispeech {folder}", "has no words and no phones; queries are cut out of"
    )
    assert line.startswith("error: ")
