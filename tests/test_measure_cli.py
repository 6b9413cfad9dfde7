"""`nestling measure`: tables for people, numbers for programs, and mistakes told before anything is measured."""

from __future__ import annotations

import json

import pytest
from transformers import HubertConfig

from checkpoints.export import write_encoder
from nas import latency
from nas.latency import Ratio
from nestling.reports import measurement_table
from search_spaces.errors import FailedError
from tests.onnx_cases import write_onnx
from tests.shell import Shell
from tests.test_representations import OURS, SHAPE, make_encoder_like, write_model

QUICKLY = "--seconds 0.05,0.1 --repeats 3 --no-memory"


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A shell where `ours` is an export with an ONNX file, and `theirs` a folder that `transformers` alone computes."""
    folder = tmp_path_factory.mktemp("home")
    write_encoder(make_encoder_like(OURS), folder / "ours")
    write_onnx(folder / "ours/model.onnx")
    write_model(folder / "theirs", HubertConfig(**SHAPE, feat_proj_layer_norm=False))
    return Shell(folder)


@pytest.fixture
def nestling(shell, monkeypatch):
    """That shell, on an idle machine of four cores."""
    monkeypatch.setattr(latency.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr("nestling.workflows.measure.count_cores", lambda: 4)
    return shell


def test_the_whole_table(nestling):
    said = nestling.done(f"measure ours theirs {QUICKLY} --threads 1")
    table, _, legend = said.out.partition("\nms: ")
    assert max(map(len, table.splitlines())) <= 120
    assert table.startswith("Time on 1 thread")
    starts = [line.split()[0] for line in table.splitlines() if line.strip()]
    names = [start for start in starts if start in ("ours", "theirs", "torch", "onnx")]
    assert names == ["ours", "torch", "ours", "onnx", "theirs", "torch"]
    assert table.count(" ± ") == 3 * 2 + 2
    assert table.count("× real time") == 3
    assert table.count("ratio") == table.count("front-end") == table.count("rounds") == 1
    assert "time over that of ours in the same runtime" in legend
    assert "the rest is the Transformer's" in legend


def test_what_is_faster_beyond_its_interval_is_marked():
    assert measurement_table._ratio(Ratio(0.5, 0.49, 0.51)) == "0.50 ± 0.01 [green]▲[/]"
    assert measurement_table._ratio(Ratio(2.0, 1.9, 2.1)) == "2.00 ± 0.10 [red]▼[/]"
    assert measurement_table._ratio(Ratio(1.1, 0.9, 1.3)) == "1.10 ± 0.20  "
    assert [measurement_table._figure(x) for x in (0.123, 9.87, 12.34, 1234.5)] == ["0.12", "9.87", "12.3", "1234"]


def test_memory_is_taken_with_the_longest_audio_and_the_most_threads(nestling):
    said = nestling.done("measure ours --seconds 0.05,0.1 --repeats 3 --threads 2,1 --out numbers/all.json")
    assert said.out.count("Time on 1 thread") == said.out.count("Time on 2 threads") == 1
    assert said.out.count("Peak memory, MB") == 1
    assert "encodes 0.1 s of audio with 2 threads" in said.out
    assert said.err.endswith("all of it is in numbers/all.json\n")
    values = json.loads((nestling.folder / "numbers/all.json").read_text())
    rows = values["memory"]
    assert [(r["encoder"], r["runtime"], r["seconds"], r["threads"]) for r in rows] == [
        ("ours", "torch", 0.1, 2),
        ("ours", "onnx", 0.1, 2),
    ]
    assert all(0 < r["encoder_bytes"] == r["peak_bytes"] - r["import_bytes"] for r in rows)
    assert rows[1]["peak_bytes"] < rows[0]["import_bytes"]


def test_numbers_for_programs(nestling):
    said = nestling.done(f"measure ours theirs --runtime torch {QUICKLY} --threads 1 --format json --out same.json")
    assert said.json == json.loads((nestling.folder / "same.json").read_text())
    assert list(said.json) == ["command", "made_on", "made_with", "warnings", "timings", "memory"]
    timings = said.json["timings"]
    assert [(t["encoder"], t["seconds"]) for t in timings] == [
        (encoder, seconds) for seconds in (0.05, 0.1) for encoder in ("ours", "theirs")
    ]
    for timing in timings:
        assert 0 < timing["low_ms"] <= timing["median_ms"] <= timing["high_ms"]
        assert timing["times_real_time"] == pytest.approx(1000 * timing["seconds"] / timing["median_ms"])
        assert (timing["reference"] is None) == (timing["encoder"] == "ours")
        assert (timing["front_end_share"] is None) == (timing["encoder"] == "theirs")
    assert said.json["memory"] == []
    assert "torch 2." in said.json["made_on"]


def test_many_durations_go_on_in_another_table(nestling):
    many = "0.03,0.04,0.05,0.06,0.07,0.08"
    said = nestling.done(f"measure theirs --seconds {many} --repeats 3 --no-memory --threads 1")
    assert said.out.count("Time on 1 thread") == 2
    assert all(said.out.count(f" {seconds} s ") == 1 for seconds in many.split(","))
    assert "ratio" not in said.out
    assert "front-end" not in said.out
    assert "Memory" not in said.out


def test_a_loaded_machine_is_told(nestling, monkeypatch):
    assert "load average" not in nestling.done(f"measure ours {QUICKLY} --threads 1").err
    monkeypatch.setattr(latency.os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    monkeypatch.setattr(latency.os, "cpu_count", lambda: 4)
    said = nestling.done(f"measure ours {QUICKLY} --threads 1,3 --format json")
    wanted = [
        "the load average is 9.0 on 4 cores: other work slows these timings",
        "the load average is 9.0 on 4 cores, of which up to 3 is ours: other work slows these timings",
    ]
    assert [line for line in said.err.splitlines() if "load" in line] == wanted
    assert said.json["warnings"] == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "ours --runtime onxx",
            "no runtime `onxx`; did you mean `onnx`? there are torch, transformers, onnx, onnx-int8",
        ),
        (
            "ours theirs --runtime onnx",
            "theirs has no model.onnx, which the runtime onnx wants; `nestling export subnet --to onnx`",
        ),
        ("ours --runtime onnx-int8", "ours has no model.int8.onnx"),
        ("ours --threads 0", "--threads 0: `0` is neither all nor a number from 1 to 4, the cores there are"),
        ("ours --seconds 1,0.02", "--seconds 1,0.02: `0.02` is no number from 0.025, which one frame needs, to 3600"),
        ("ours --repeats 2 --seconds 0.1", "--repeats must be at least 3, got 2"),
        ("ours --repeats 0", "--repeats must be at least 3, got 0"),
        ("ours/model.onnx", "ours/model.onnx: name the folder, ours, and --runtime onnx or onnx-int8"),
        ("ours --repeats 9 --quick", "--quick and --repeats both say how many rounds; give one of them"),
        ("no/such/folder", "there is no folder no/such/folder"),
    ],
)
def test_mistakes_end_in_one_short_message(nestling, words, message):
    said = nestling(f"measure {words}")
    assert said.code == 2
    assert said.out == ""
    (line,) = (line for line in said.err.splitlines() if not line.startswith("1 thread"))
    assert line.startswith("error: ")
    assert message in line


def test_what_cannot_be_written_is_told_first(nestling):
    said = nestling("measure ours --out ours")
    assert said.code == 2
    assert said.err == "error: --out ours is a folder, and a file is to be written; name another place\n"


def test_what_cannot_be_written_at_last_is_shown_all_the_same(nestling, monkeypatch):
    def refuse(path, _):
        raise FailedError(f"could not write {path}: the disk is full")

    monkeypatch.setattr("nestling.workflows.measure.write_file", refuse)
    said = nestling("measure ours --seconds 0.05 --repeats 3 --threads 1 --no-memory --out all.json")
    assert said.code == 1
    assert "ours" in said.out
    assert "could not write all.json: the disk is full" in said.err
    assert "all of it is in" not in said.err


def test_a_folder_whose_encoder_wants_no_waveform(nestling, tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(**sizes, vocab_size=9)).save_pretrained(tmp_path / "bert")
    said = nestling(f"measure {tmp_path}/bert --seconds 0.1 --no-memory")
    assert said.code == 2
    assert "bert in torch does not encode 0.1 s of audio" in said.err
    assert "Traceback" not in said.err
