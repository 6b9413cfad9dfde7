"""What each command asks of the workflow behind it, and what it says of the answer; the workflows are made up."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from checkpoints.export import ExportReport
from checkpoints.run_folder import RunFolder
from nestling.reports.terminal import Screen
from nestling.workflows.demo import Demo
from nestling.workflows.measure import Measurement
from search_spaces.space import SearchSpace
from supernet.model import Supernet
from tests.nas_cases import SPACE
from tests.shell import Shell
from tests.test_workflows import make_run

TINY = SearchSpace.load("tiny")


@pytest.fixture
def nestling(tmp_path: Path) -> Shell:
    """A shell where runs/a was begun."""
    make_run(tmp_path / "runs/a")
    return Shell(tmp_path)


class Asked:
    """In place of a workflow's function: keeps what it was asked, and answers or refuses."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.words: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *words: Any, **options: Any) -> Any:
        self.words, self.options = words, options
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def stop(*_: Any, **__: Any) -> None:
    """As somebody who stops a command."""
    os.kill(os.getpid(), signal.SIGTERM)


def put(monkeypatch: pytest.MonkeyPatch, place: str, answer: Any = None) -> Asked:
    monkeypatch.setattr(place, asked := Asked(answer))
    return asked


# search


def result_of(best: str, **changes: Any) -> dict[str, Any]:
    row = {"id": best, "params": 5, "macs_1s": 6, "loss": 0.5, "excess_loss": [0, 0], "tied": True, "origin": "search"}
    found = {"budget": "", "latency_seconds": [], "finalists": [row], "uniform": None, "largest": None}
    return {**found, "objective": "made-up loss", "utilization": [], "scored": 1, "tied": 1, **changes}


SEARCH = "nestling.workflows.search.search_run"


def test_a_search_is_asked_as_it_was_typed(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, SEARCH, [result_of("abc")])
    said = nestling.done("search subnet --run runs/a --budget 10M --budget 60% --trials 3 --seed 5 --audio moved")
    (folder, budgets) = asked.words
    assert (folder.path, budgets) == (Path("runs/a"), [["10M", "60%"]])
    assert isinstance(asked.options.pop("listener"), Screen)
    assert asked.options == {
        "trials": 3,
        "sampler": "auto",
        "seed": 5,
        "utterances": 60,
        "audio": "moved",
        "objective": "readout",
        "teacher": None,
        "device": "cpu",
        "command": "nestling search subnet --run runs/a --budget 10M --budget 60% --trials 3 --seed 5 --audio moved",
    }
    assert said.out.splitlines()[-1] == "Next: nestling export subnet --run runs/a --out my-encoder"
    assert said.out.count("Chosen: ") == 1
    assert said.err == ""


def test_a_search_without_words_is_of_the_newest_run_without_a_budget(
    nestling: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = put(monkeypatch, SEARCH, [result_of("abc")])
    assert nestling.done("search subnet").err == "run: runs/a\n"
    assert (asked.words[1], asked.options["seed"], asked.options["trials"]) == ([[]], 0, 64)


def test_alternatives_are_answered_one_by_one(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [result_of("abc"), result_of("def")]
    asked = put(monkeypatch, SEARCH, results)
    assert nestling.done("search subnet --budgets 10M,25M").out.count("Chosen: ") == 2
    assert asked.words[1] == [["10M"], ["25M"]]
    assert nestling.done("search subnet --budgets 10M,25M --format json").json == results
    assert nestling.done("search subnet --budget 10M --format json").json == results[0]


def test_a_search_that_is_refused_is_not_begun(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, SEARCH)
    said = nestling("search subnet --budget 1M --budgets 2M,3M")
    assert (said.code, said.err) == (
        2,
        "error: --budget is for what must hold together, --budgets for alternatives; give one of them\n",
    )
    assert "no objective `prox`" in nestling("search subnet --objective prox").err
    assert asked.words == ()


# export


def export_of(**changes: Any) -> ExportReport:
    values = {
        "folder": Path("/out"),
        "subnet": TINY.container,
        "plain": True,
        "params": 1234,
        "macs": 5678,
        "size_bytes": 2_540_000,
        "errors": {"transformers": 1e-6, "onnx": 2e-6},
    }
    return ExportReport(**{**values, **changes})


EXPORT = "nestling.workflows.export.export"


def test_an_export_is_asked_as_it_was_typed(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, EXPORT, export_of())
    typed = "export subnet --run runs/a --out mine --to 'onnx, s3prl' --to int8 --subnet 1a2b"
    said = nestling.done(typed)
    run, subnet, folder, targets, command, screen = asked.words
    assert (run.path, subnet, folder) == (Path("runs/a"), "1a2b", Path("mine"))
    assert targets == ["onnx", "s3prl", "int8"]
    assert (command, type(screen)) == (f"nestling {typed}", Screen)
    assert said.out.splitlines() == [
        "mine: 1,234 parameters, 2.5 MB, equal to the supernet within 2.0e-06 in transformers, onnx.",
        'Load it: AutoModel.from_pretrained("mine")',
    ]
    assert said.err == ""
    assert nestling.done("export subnet --out mine").err == "run: runs/a\n"
    assert asked.words[1:4] == ("best", Path("mine"), ["hf"])


def test_int8_and_code_of_its_own_are_told(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, EXPORT, export_of(plain=False, int8_bytes=740_000, int8_error=0.0312))
    assert nestling.done("export subnet --out mine --to int8").out.splitlines()[1:] == [
        "In int8: 0.7 MB, hidden states off by up to 3.1%.",
        'Load it: AutoModel.from_pretrained("mine", trust_remote_code=True)',
    ]


def test_an_export_for_programs(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, EXPORT, export_of(int8_bytes=740_000, int8_error=0.0312))
    assert nestling.done("export subnet --out mine --format json").json == {
        "id": TINY.container.id,
        "params": 1234,
        "macs_1s": 5678,
        "size_bytes": 2_540_000,
        "plain": True,
        "error": 2e-6,
        "proven_in": ["transformers", "onnx"],
        "int8_bytes": 740_000,
        "int8_error": 0.0312,
        "folder": "/out",
    }


def test_an_export_that_cannot_be_written_is_not_begun(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, EXPORT)
    assert "no such target" in nestling("export subnet --out mine --to onxx").err
    assert "is or contains the run" in nestling("export subnet --out runs").err
    assert asked.words == ()


# report


def test_where_a_report_is(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, "nestling.workflows.export.write_report", Path("runs/a/report.html"))
    said = nestling.done("report")
    assert (said.out, said.err) == ("The report is in runs/a/report.html\n", "run: runs/a\n")
    assert asked.words[0].path == Path("runs/a")
    said = nestling.done("report --run runs/a --format json")
    assert (said.json, said.err) == ({"run": "runs/a", "report": "runs/a/report.html"}, "")


# train


TRAIN, RESUME = "nestling.workflows.train.train", "nestling.workflows.train.resume"
JOB = "nestling.workflows.jobs.describe_job"


def test_a_supernet_is_trained_as_it_was_typed(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    job = put(monkeypatch, JOB, {"a": "job"})
    asked = put(monkeypatch, TRAIN, (None, RunFolder(nestling.folder / "runs/a")))
    typed = "train supernet --space my/tiny.yaml --audio x --set save_every=9"
    said = nestling.done(typed)
    assert job.words == (
        *("train supernet", "my/tiny.yaml", "demo", "x", "two-stage", ["save_every=9"]),
        *("cpu", "auto", None),
    )
    assert asked.words[:3] == (Path("runs/tiny"), {"a": "job"}, typed)
    assert said.out == (
        f"The supernet is in {nestling.folder}/runs/a. "
        f"Next: nestling search subnet --run {nestling.folder}/runs/a --budget 50%\n"
    )


def test_a_run_goes_on_with_what_was_typed_alone(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, RESUME, (None, RunFolder(Path("runs/a"))))
    put(monkeypatch, JOB, AssertionError("no new job is described"))
    typed = "train supernet --run runs/a --resume --device cpu --set save_every=9"
    nestling.done(typed)
    kind, path, options, command, screen = asked.words
    assert (kind, path, command, type(screen)) == ("train supernet", Path("runs/a"), f"nestling {typed}", Screen)
    assert options == {"run": Path("runs/a"), "resume": True, "device": "cpu", "changes": ["save_every=9"]}


def test_a_teacher_is_written_where_it_was_asked_for(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = Supernet(SPACE, torch.Generator())
    put(monkeypatch, TRAIN, (supernet, RunFolder(Path("runs/a"))))
    job = put(monkeypatch, JOB, {})
    written = put(monkeypatch, "checkpoints.saving.replace_teacher")
    said = nestling.done("train teacher --run runs/b --init x")
    assert job.words == ("train teacher", "demo-teacher", "x", "demo", "hubert", (), "cpu", "auto", None)
    encoder, place = written.words
    assert (encoder.config, place) == (supernet.extract(SPACE.container).config, Path("runs/b/teacher"))
    assert said.out == (
        "The teacher is in runs/b/teacher. Next: nestling train supernet --teacher runs/b/teacher --audio tones\n"
    )
    said = nestling.done("train teacher --run runs/b --out mine --format json")
    assert (said.json, written.words[1]) == ({"teacher": "mine", "run": "runs/a", "stages": []}, Path("mine"))


def test_no_teacher_is_trained_that_cannot_be_written(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, TRAIN)
    (nestling.folder / "runs/b/teacher").mkdir(parents=True)
    (nestling.folder / "runs/b/teacher/mine.txt").touch()
    for options in ("--run runs/b", "--run runs/c --out runs"):
        assert "name another" in nestling(f"train teacher {options}").err
    assert asked.words == ()


def test_training_for_programs(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(nestling.folder / "runs/a")
    run.append_metrics({"step": 0, "stage": "one", "learning_rate": 0.1, "losses": {"largest": 1.0}})
    put(monkeypatch, JOB, {})
    put(monkeypatch, TRAIN, (None, run))
    said = nestling.done("train supernet --run runs/b --format json")
    assert (said.json["run"], [stage["name"] for stage in said.json["stages"]]) == (str(run.path), ["one"])
    assert "one" in said.err  # the table, beside it


def test_a_dry_run_trains_nothing(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, JOB, {"a": "job"})
    trained = put(monkeypatch, TRAIN)
    stages = [SimpleNamespace(name="one", steps=3600)]
    found = (SimpleNamespace(stages=stages), SimpleNamespace(step_seconds=[0.5], memory_bytes=2**30))
    asked = put(monkeypatch, "nestling.workflows.train.estimate", found)
    (nestling.folder / "runs/b/teacher").mkdir(parents=True)
    (nestling.folder / "runs/b/teacher/mine.txt").touch()  # nothing is written, and so nothing in the way
    for kind in ("supernet", "teacher"):
        said = nestling.done(f"train {kind} --run runs/b --dry-run").out
        assert "memory: about 1.0 GiB; nothing was trained" in said
        assert asked.words == ({"a": "job"},)
        assert nestling.done(f"train {kind} --run runs/b --dry-run --format json").json == {
            "stages": [{"name": "one", "steps": 3600, "step_seconds": 0.5, "hours": 0.5}],
            "memory_bytes": 2**30,
        }
    assert nestling("train supernet --run runs/a --resume --dry-run").err == (
        "error: --dry-run tells what a new run would take; leave out --resume\n"
    )
    assert trained.words == ()


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("train supernet --run runs/a", "; go on with nestling train supernet --run runs/a --resume"),
        ("train teacher --run runs/a --out x", "; go on with nestling train supernet --run runs/a --out x --resume"),
        ("train supernet --run runs/none", ""),
    ],
)
def test_who_stops_a_training_is_told_how_to_go_on(
    nestling: Shell, command: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, JOB, {})
    monkeypatch.setattr(TRAIN, stop)
    said = nestling(command)
    assert (said.code, said.err) == (143, f"stopped{hint}\n")


def test_who_stops_while_a_teacher_is_written_is_told_how_to_go_on(
    nestling: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, JOB, {})
    put(monkeypatch, TRAIN, (Supernet(SPACE, torch.Generator()), RunFolder(Path("runs/a"))))
    monkeypatch.setattr("checkpoints.saving.replace_teacher", stop)
    hint = "; go on with nestling train supernet --run runs/a --out mine --resume"
    assert nestling("train teacher --run runs/a --out mine").err.endswith(f"stopped{hint}\n")


# measure


MEASURE = "nestling.workflows.measure.measure_sources"


def test_a_measurement_is_asked_as_it_was_typed(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Measurement([], [], [], {"torch": "2.9"})
    asked = put(monkeypatch, MEASURE, found)
    timings, memory = (
        put(monkeypatch, f"nestling.reports.measurement_table.show_{of}") for of in ("timings", "memory")
    )
    typed = "measure a b a --runtime onnx,torch --threads 1 --threads 2 --seconds 2 --repeats 3 --no-memory"
    said = nestling.done(typed)
    assert (said.out, said.err) == (f"{found.made_on}\n", "")
    *words, screen = asked.words
    assert (words, type(screen)) == ([["a", "b", "a"], "onnx,torch", "1,2", "2", 3, False, False], Screen)
    assert (timings.words, memory.words) == ((found.timings,), (found.memory,))
    typed = "measure a --quick --format json --out new/x.json"
    said = nestling.done(typed)
    assert said.json == found.to_dict(f"nestling {typed}") == json.loads((nestling.folder / "new/x.json").read_text())
    assert said.err == "all of it is in new/x.json\n"
    assert asked.words[:-1] == (["a"], None, "1,all", "1,2,5,10,20", None, True, True)


def test_a_measurement_that_cannot_be_kept_is_not_begun(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, MEASURE)
    assert nestling("measure a --out runs").code == 2
    assert asked.words == ()


# evaluate


def test_who_stops_an_evaluation_is_told_how_to_go_on(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nestling.workflows.evaluation.evaluate_sources", stop)
    hint = "; what was scored is kept, and the same command goes on"
    assert (said := nestling("evaluate demo")).err == f"stopped{hint}\n"
    assert said.code == 143


def test_an_evaluation_is_asked_as_it_was_typed(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = SimpleNamespace(caveat="Sanity figures.", to_dict=lambda: {"a": 1})
    shown = put(monkeypatch, "nestling.reports.evaluation_table.show_comparison")
    asked = put(monkeypatch, "nestling.workflows.evaluation.evaluate_sources", (comparison, Path("x/page.html")))
    typed = "evaluate a demo --task phones,intent --task slots --split dev --no-out-of-domain --layers --out x"
    assert nestling.done(typed).out == "Sanity figures. More in x/page.html.\n"
    assert shown.words == (comparison,)
    assert asked.words == (["a", "demo"], ["phones", "intent", "slots"], Path("x"))
    assert isinstance(asked.options.pop("listener"), Screen)
    assert asked.options == {
        "split": "dev",
        "out_of_domain": False,
        "reference": None,
        "librispeech": None,
        "speech_commands": None,
        "layers": True,
        "command": f"nestling {typed}",
    }
    assert nestling.done("evaluate a --format json").json == {"split": "test", "a": 1, "page": "x/page.html"}
    assert asked.words == (["a"], ["first"], Path("runs/evaluation"))
    assert (asked.options["layers"], asked.options["out_of_domain"]) == (False, True)
    asked.answer = (comparison, None)
    assert nestling.done("evaluate a").out == "Sanity figures.\n"
    assert nestling.done("evaluate a --format json").json["page"] is None


# demo


def test_a_demo_says_where_its_results_are(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(Path("runs/a"))
    done = Demo(run, result_of("abc"), Path("runs/a/encoder"), Path("r.html"), 12.6)
    asked = put(monkeypatch, "nestling.workflows.demo.run_demo", done)
    said = nestling.done("demo --run runs/a --budget 2M")
    *words, screen = asked.words
    assert words == [Path("runs/a-2"), False, ["2M"], "nestling demo --run runs/a --budget 2M"]
    assert (type(screen), asked.options) == (Screen, {"go_on": False})
    assert said.out.endswith("\nThe encoder is in runs/a/encoder, the report in r.html (13 s).\n")
    assert said.out.count("Chosen: ") == 1
    RunFolder(nestling.folder / "runs/a").append_metrics(
        {"step": 0, "stage": "warm-up", "learning_rate": 0.1, "losses": {"largest": 1.0}}
    )
    assert "warm-up" in nestling.done("demo --quick").err
    assert asked.words[:3] == (Path("runs/demo"), True, ["1M"])
    found = nestling.done("demo --run runs/a --resume --format json").json
    assert [stage["name"] for stage in found.pop("stages")] == ["warm-up"]
    assert found == {
        "run": "runs/a",
        "search": result_of("abc"),
        "encoder": "runs/a/encoder",
        "report": "r.html",
        "seconds": 12.6,
    }
    assert (asked.words[0], asked.options) == (Path("runs/a"), {"go_on": True})


def test_who_stops_a_demo_is_told_how_to_go_on(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(nestling.folder / "runs/demo", command="demo --quick")
    monkeypatch.setattr("nestling.workflows.demo.run_demo", stop)
    assert nestling("demo --resume --budget 2M").err == (
        "stopped; go on with nestling demo --run runs/demo --budget 2M --resume\n"
    )


# space, cost, import


def test_a_space_is_profiled_under_all_budgets(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, "nestling.workflows.cost.profile_space", (None, None, {"space": "tiny"}))
    assert nestling.done("space tiny --budget 1M,60% --budget macs<=2G@1s --format json").json == {"space": "tiny"}
    assert asked.words == ("tiny", ["1M", "60%", "macs<=2G@1s"])
    asked.answer = ("budget", "profile", {"space": "tiny", "smallest": 1, "largest": 2, "container": 3})
    shown = put(monkeypatch, "nestling.reports.cost_table.show_space")
    nestling.done("space tiny")
    assert (asked.words, shown.words) == (
        ("tiny", []),
        ("tiny", "budget", "profile", {"smallest": 1, "largest": 2}),
    )


def test_a_cost_is_of_one_space(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = SimpleNamespace(name="tiny/abc", parts="parts", checks="checks", to_dict=lambda: {"id": "abc"})
    asked = put(monkeypatch, "nestling.workflows.cost.count_subnet", counted)
    assert nestling.done("cost tiny --format json").json == {"id": "abc"}
    assert asked.words == ("tiny", "largest", 1.0, False, None)
    nestling.done("cost --space base --subnet smallest --seconds 2 --cross-check --format json")
    assert asked.words == ("base", "smallest", 2.0, True, None)
    nestling.done("cost --run runs/a --subnet best --format json")
    assert asked.words == (None, "best", 1.0, False, Path("runs/a"))
    shown = put(monkeypatch, "nestling.reports.cost_table.show_costs")
    nestling.done("cost tiny --seconds 2")
    assert shown.words == ("tiny/abc", "parts", 2.0, "checks")
    assert nestling("cost tiny --space base").err == "error: two spaces were given, tiny and base; leave out one\n"


def test_an_import_says_what_was_made(nestling: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = put(monkeypatch, "checkpoints.formats.lighthubert.import_supernet", RunFolder(Path("runs/a")))
    typed = "import supernet x.pt --run runs/b --audio y"
    assert nestling.done(typed).out == (
        f"runs/a: the supernet of test, {SPACE.count():,} subnets.\n"
        "Next: nestling search subnet --run runs/a --budget 25M (with --objective proxy, no teacher is needed)\n"
    )
    assert asked.words == (Path("x.pt"), Path("runs/b"), "y", "facebook/hubert-base-ls960")
    assert nestling.done(f"{typed} --format json").json == {
        "run": "runs/a",
        "space": "test",
        "subnets": SPACE.count(),
    }
