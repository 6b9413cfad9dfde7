"""The command line, from help to report, on a run of seconds."""

import errno
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import typer
import yaml

import cli
from checkpoints.run_folder import RunFolder
from checkpoints.saving import save_encoder
from checkpoints.teachers import load_encoder, load_teacher
from nas.objective import ReadOutObjective
from nestling.reports.model_card import model_card
from nestling.workflows import search as workflows_search
from nestling.workflows.jobs import describe_job
from nestling.workflows.run_report import collect_record, collect_report
from nestling.workflows.search_result import find_subnet
from search_spaces.costs import count_macs, count_params
from search_spaces.errors import NestlingError
from tests.shell import Shell
from tests.test_model_card import CONFIG, FACTS
from tests.test_whole_files import full_disk
from tests.training_cases import SPACE, make_teacher, make_wave, write_audio, write_case

BROKEN = "broken [live].wav"
TEACHER_RECIPE = """
stages:
  - name: warm-up
    steps: 2
    batch_size: 3
    crop_seconds: 0.4
    sources: {signal: {kind: signal}}
    objective: [{source: signal, matching: front_end, distance: mse}]
  - name: iteration-1
    steps: 2
    batch_size: 3
    crop_seconds: 0.4
    view: {mask_share: 0.5, mask_length: 3}
    sources: {codes: {kind: codes, num_codes: 4}}
    objective: [{source: codes, matching: codes, distance: cross_entropy, frames: unmasked}]
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options of `nestling train supernet`; one of the recordings is broken."""
    folder = tmp_path_factory.mktemp("case")
    options = write_case(folder)
    (folder / "audio" / BROKEN).write_bytes(b"RIFF")
    return options


@pytest.fixture(scope="module")
def trained(tmp_path_factory, options):
    """A shell where runs/a was trained, and what training said."""
    shell = Shell(tmp_path_factory.mktemp("home"))
    return shell, shell.done("train supernet --run runs/a", *options)


@pytest.fixture
def nestling(trained, tmp_path):
    """A shell of one's own, with a copy of that run."""
    shutil.copytree(trained[0].folder / "runs", tmp_path / "runs")
    return Shell(tmp_path)


@pytest.fixture
def empty(tmp_path):
    return Shell(tmp_path)


# Help


def commands():
    """(path, command) for every command that does something."""

    def walk(path, command):
        inner = getattr(command, "commands", None)
        return [pair for name in inner for pair in walk([*path, name], inner[name])] if inner else [(path, command)]

    return walk([], typer.main.get_command(cli.app))


def test_commands_are_these():
    assert {" ".join(path) for path, _ in commands()} == {
        "train teacher",
        "train supernet",
        "search subnet",
        "export subnet",
        "import supernet",
        "report",
        "evaluate",
        "measure",
        "space",
        "cost",
        "data list",
        "data get",
        "data remove",
        "demo",
        "doctor",
    }


def test_help_has_the_commands_in_the_order_of_the_work(empty):
    said = empty.done("--help").out
    names = re.findall(r"^│ (\w+) ", said.partition("Commands")[2], re.MULTILINE)
    work = ["train", "import", "search", "export", "report", "evaluate", "measure", "space", "cost"]
    assert names == ["demo", "data", *work, "doctor"]


def test_the_version_is_said(empty):
    said = empty.done("--version")
    assert (said.out, said.err) == (f"nestling {importlib.metadata.version('nestling')}\n", "")


def test_a_shell_completes_commands_and_options(empty, monkeypatch):
    def complete(words):
        typed = {"_NESTLING_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in typed.items():
                patch.setenv(name, value)
            return empty("").out.split()

    assert complete("nestling tra") == ["train"]
    assert complete("nestling train supernet --pre") == ["--precision"]
    assert complete("nestling space ti") == complete("nestling cost ti") == ["tiny"]
    assert complete("nestling train supernet --space base") == ["base", "base-wavlm"]
    assert complete("nestling train supernet --config two") == ["two-stage"]
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    assert "complete" in empty.done("--show-completion").out


@pytest.mark.parametrize(("path", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_has_an_example_that_it_understands(path, command):
    _, _, example = command.help.partition("Example: ")
    program, *arguments = shlex.split(example)
    assert [program, *arguments[: len(path)]] == ["nestling", *path]
    command.make_context(path[-1], arguments[len(path) :])  # raises on what it does not know
    undocumented = [option.name for option in command.params if not option.help]
    assert undocumented == []


def test_help_is_quick():
    code = (
        "import sys, cli; sys.argv = ['nestling', 'train', 'supernet', '--help']\ntry: cli.main()\nexcept SystemExit:"
    )
    code += "\n  sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'jinja2')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Example: nestling train supernet" in done.stdout


def test_every_command_gives_its_result_as_json():
    assert [" ".join(path) for path, command in commands() if not any(p.name == "form" for p in command.params)] == []


# Spaces and costs


@pytest.mark.parametrize(
    ("name", "subnets"), [("lighthubert-small", 951_892_141_473), ("lighthubert-base", 6_530_347_008)]
)
def test_spaces_are_counted_exactly(empty, name, subnets):
    said = empty.done(f"space {name} --budget 60% --format json")
    assert said.json["subnets"] == subnets
    assert 0 < said.json["fitting"] < subnets
    assert said.json["binds"]
    assert said.err == ""
    assert f"{name}: {subnets:,} subnets" in empty.done(f"space {name}").out


def test_space_under_a_budget(empty):
    said = empty.done("space lighthubert-small --budget 25M --format json")
    assert said.json["subnets"] == 951_892_141_473
    assert said.json["largest"]["params"] <= 25_000_000
    assert f"{said.json['smallest']['macs_1s']:,} MACs @1s" in empty.done("space lighthubert-small --budget 25M").out
    assert "the budget does not bind" in empty.done("space tiny --budget 100M").out
    assert "the budget does not bind" not in empty.done("space tiny --budget 1M").out


def test_cost_agrees_with_every_other_counter(empty):
    said = empty.done("cost --space tiny --cross-check --format json")
    assert len(said.json["checks"]) >= 4
    assert all(check["exact"] for check in said.json["checks"])
    assert sum(group["params"] for group in said.json["groups"].values()) == 3_033_760
    text = empty.done("cost --space tiny --cross-check").out
    assert text.count("exact") == len(said.json["checks"])
    assert "closed form" not in text


def test_cost_of_a_subnet_in_a_file(empty):
    smallest = empty.done("space tiny --format json").json["smallest"]
    (empty.folder / "subnet.json").write_text(json.dumps(smallest))
    said = empty.done("cost --space tiny --subnet subnet.json --format json")
    assert said.json["id"] == smallest["id"]
    assert sum(group["params"] for group in said.json["groups"].values()) == smallest["params"]


@pytest.mark.parametrize("budget", ["--budget 1M,macs<=40M@1s", "--budget 1M --budget macs<=40M@1s"])
def test_a_list_is_given_by_commas_or_by_repetition(empty, budget):
    assert empty.done(f"space tiny {budget} --format json").json["budget"] == "params<=1M, macs<=40M@1s"


def test_space_and_cost_take_a_space_alike(empty):
    said = empty.done("cost tiny --subnet smallest --format json")
    assert said.json == empty.done("cost --space tiny --subnet smallest --format json").json
    assert said.json["id"] == empty.done("space tiny --format json").json["smallest"]["id"]


def test_subnets_have_the_same_names_in_every_command(nestling):
    best = nestling.done("search subnet --budget 8k --trials 2 --format json").json["finalists"][0]["id"]
    for name in ("largest", "smallest", "best", best, best[:6]):
        counted = nestling.done(f"cost --run runs/a --subnet {name} --format json").json
        written = nestling.done(f"export subnet --out encoder --subnet {name} --format json").json
        assert counted["id"] == written["id"]
        assert sum(group["params"] for group in counted["groups"].values()) == written["params"]
    assert written["id"] == best


# What a user may get wrong


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("space tinny", "no space `tinny`; did you mean `tiny`?"),
        ("space tiny --budget 25Q", "budget `25Q`: `25Q` is not a count"),
        ("space tiny --budget 1k", "no subnet of `tiny` has params<=1k; the smallest has 77,856 parameters"),
        ("cost --space tiny --subnet largst", "--subnet largst: give largest, smallest or a subnet.json"),
        ("train supernet --config demp", "no recipe `demp`; did you mean `demo`?"),
        ("train supernet --space tinny", "no space `tinny`"),
        ("train supernet --set stage-1.stepps=3", "unknown key `stage-1.stepps`; did you mean `steps`?"),
        ("train supernet --set stage-1.steps=x", "`stage-1.steps` should be a valid integer, got 'x'"),
        ("train supernet --precision fp8", "--precision is fp32, bf16 or auto; got fp8"),
        ("train supernet --audio nowhere", "nowhere is neither a folder of audio nor a manifest"),
        ("train supernet --run runs/no --resume", "there is no run at runs/no; train one first, or check the name"),
        ("search subnet --run runs/no", "there is no run at runs/no"),
        ("search subnet", "there is no run under runs; train one first"),
        ("search subnet --objective phone", "no objective `phone`; did you mean `phones`?"),
        ("search subnet --budget 1M --budgets 1M,2M", "--budgets for alternatives; give one of them"),
        ("report --run runs/no", "there is no run at runs/no"),
        ("export subnet --run runs/no --out x", "there is no run at runs/no"),
    ],
)
def test_mistakes_end_in_one_short_message(empty, command, message):
    said = empty(command)
    assert said.code == 2
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(empty.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search subnet --bugdet 1M", "No such option: --bugdet"),
        ("space tiny --format jsno", "Invalid value for '--format': 'jsno' is not one of 'text', 'json'"),
        ("search subnet --trials many", "Invalid value for '--trials': Input should be a valid integer"),
        ("serch", "No such command 'serch'"),
        ("export subnet", "Missing option '--out'"),
    ],
)
def test_unknown_options_are_named(empty, command, message):
    said = empty(command)
    assert said.code == 2
    assert said.out == ""
    first, *more = said.err.splitlines()
    assert first.startswith(f"error: {message}")
    assert [line for line in more if not line.endswith(" --help shows what there is")] == []


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("search --budget 25M", "what there is: nestling search subnet"),
        ("train base", "what there is: nestling train teacher, nestling train supernet"),
        ("report runs/a", "a run is named by --run"),
        ("space tiny tiny", "nestling space --help shows what there is"),
        ("serch", "nestling --help shows what there is"),
    ],
)
def test_words_that_are_not_understood_come_with_those_that_are(empty, command, hint):
    assert empty(command).err.splitlines()[1] == f"  {hint}"


@pytest.mark.parametrize("command", ["", "train"])
def test_without_a_word_there_is_help(empty, command):
    said = empty(command)
    assert (said.code, said.err) == (2, "")
    assert "--help" in said.out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search subnet --trials 0", "Invalid value for '--trials'"),
        ("search subnet --utterances 0", "Invalid value for '--utterances'"),
        ("search subnet --utterances -1", "Invalid value for '--utterances'"),
        *(
            (f"cost --space tiny --seconds {s}", f"{s} s of audio: need at least one frame")
            for s in ("inf", "nan", "-1")
        ),
        ("train supernet --set " + "stage-1." * 5000 + "x=1", "nested too deeply"),
        ("train supernet --set stage-1.view=" + "[" * 5000, "--set stage-1.view=[["),
        ("train supernet --device meta", "cannot compute on 'meta'"),
        ("train supernet --device nonsense", "cannot compute on 'nonsense'"),
        ("train supernet --set stage-1.learning_rate=.inf", "two-stage: `stage-1.learning_rate` should be a finite"),
        ("train supernet --set stage-1.batch_size=1000000000000", "`stage-1.batch_size` should be less than"),
    ],
    ids=lambda text: text[:50],
)
def test_absurd_values_are_refused_in_a_line(empty, command, message):
    said = empty(command)
    assert (said.code, said.out) == (2, "")
    assert message in said.err.splitlines()[0]
    assert len(said.err) < 700


@pytest.mark.parametrize("device", ["meta", "nonsense"])
@pytest.mark.parametrize("objective", ["readout", "phones"])
def test_a_search_cannot_compute_there_either(nestling, device, objective):
    said = nestling(f"search subnet --device {device} --objective {objective}")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith(f"error: cannot compute on '{device}'")


def test_a_file_does_not_shadow_the_best(nestling):
    chosen = nestling.done("search subnet --budget 8k --trials 2 --format json").json["finalists"][0]["id"]
    (nestling.folder / "best").write_text("mine")
    assert nestling.done("export subnet --out encoder --format json").json["id"] == chosen
    assert "best holds no subnet" in nestling("export subnet --out other --subnet ./best").err


def test_a_search_says_which_subnet_is_the_best_no_longer(nestling):
    first = nestling.done("search subnet --budget 8k --trials 2 --utterances 2 --format json")
    assert "from now on" not in first.err
    before = first.json["finalists"][0]["id"]
    other = nestling.done("search subnet --budget 100% --trials 3 --utterances 1 --format json")
    chosen = other.json["finalists"][0]["id"]
    assert chosen != before
    assert f"`best` is {chosen} from now on; it was {before}: --subnet {before} still names that" in other.err
    assert nestling.done(f"export subnet --out before --subnet {before} --format json").json["id"] == before


def test_what_is_the_best_now_is_said_where_a_later_budget_fails(nestling, monkeypatch):
    real, done = workflows_search.search, []

    def fail_after_one(*arguments):
        if done:
            raise NestlingError("it went wrong")
        return done.append(0) or real(*arguments)

    found = nestling.done("search subnet --budget 8k --trials 2 --utterances 2 --format json").json
    first = found["finalists"][0]["id"]
    monkeypatch.setattr(workflows_search, "search", fail_after_one)
    said = nestling("search subnet --budgets 100%,8k --trials 3 --utterances 1")
    assert said.code == 2
    assert f"it was {first}: --subnet {first} still names that" in said.err


def test_an_extra_that_is_missing_is_told_before_the_work(nestling, monkeypatch):
    monkeypatch.setattr("checkpoints.export.find_spec", lambda name: None if name == "onnxscript" else name)
    monkeypatch.setattr(RunFolder, "load_supernet", None)
    said = nestling("export subnet --out encoder --to int8")
    assert said.err.splitlines()[-1] == "error: writing ONNX needs onnxscript: pip install 'nestling[onnx]'"
    assert said.code == 2


def test_whose_teacher_is_taken_is_said(empty, options, monkeypatch):
    monkeypatch.setattr("nestling.workflows.train.build_trainer", lambda *_: raise_(NestlingError("enough")))
    audio = options[options.index("--audio") + 1]
    said = empty(f"train supernet --space tiny --audio {audio}")
    assert said.err.splitlines()[-2:] == [
        "the teacher is the demo's, a small HuBERT that learnt from synthesised speech",
        "error: enough",
    ]
    assert "the demo's" not in empty(f"train supernet --space tiny --audio {audio} --teacher other").err


def test_a_demo_that_was_stopped_goes_on(empty, options, interrupt, monkeypatch):
    given = dict(zip(options[::2], options[1::2], strict=True))
    job = describe_job(
        "demo", given["--space"], given["--teacher"], given["--audio"], given["--config"], (), "cpu", "fp32", None
    )
    monkeypatch.setattr("nestling.workflows.demo.describe_demo", lambda _quick: job)
    monkeypatch.setattr("nestling.workflows.demo.measure_sizes", lambda *_: None)
    interrupt(torch.nn.utils, "clip_grad_norm_", 7, signal.SIGINT)
    said = empty("demo --run runs/d --budget 8k --budget size<=50kB")
    hint = "stopped; go on with nestling demo --run runs/d --budget '8k,size<=50kB' --resume"
    assert (said.code, said.err.splitlines()[-1]) == (130, hint)
    said = empty.done(f"{hint.partition('nestling ')[2]} --format json")
    assert said.json["search"]["budget"] == "params<=8k, size<=50kB"
    assert "resuming runs/d after step 6" in said.err
    assert (said.json["run"], said.json["encoder"]) == ("runs/d", "runs/d/encoder")
    assert said.json["search"]["finalists"][0]["params"] <= 8000
    assert [stage["steps"] for stage in said.json["stages"]] == [5, 5]
    assert load_encoder(empty.folder / "runs/d/encoder")


def test_a_space_says_that_latency_is_not_counted(nestling):
    said = nestling.done("space tiny --budget latency<=3ms@2s")
    assert "latency<=3ms@2s is measured, which takes a supernet: a search holds it" in said.out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--teacher", "no/such/folder"], "there is no folder no/such/folder"),
        (["--device", "cuda:99"], "cannot compute on 'cuda:99'"),
        (["--device", "cdua"], "cannot compute on 'cdua': give cpu, cuda or cuda:1, cuda:2 …"),
    ],
)
def test_a_job_that_cannot_start_leaves_no_run(empty, options, wrong, message):
    said = empty("train supernet --run runs/a", *options, *wrong)
    assert said.code == 2
    assert message in said.err
    assert not (empty.folder / "runs").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train supernet --run file/a", "--run file/a cannot be written: Not a directory; name another place"),
        ("train supernet --run file", "--run file is a file, and a folder is to be written; name another place"),
        ("train supernet --run /proc/none", "--run /proc/none cannot be written: "),
        ("train supernet --run thesis", "thesis is not empty (chapter.tex …) and not a run; name another folder"),
        ("train teacher --out /proc/none/x", "--out /proc/none/x cannot be written: "),
        ("train teacher --out file", "--out file is a file, and a folder is to be written; name another place"),
        ("train teacher --out thesis", "thesis holds chapter.tex, which is no part of a teacher; name another folder"),
        ("train teacher --out t --run t/r", "t is or contains the run t/r, and a teacher replaces its folder; name"),
        ("import supernet no.pt --run thesis", "thesis is not empty (chapter.tex …) and not a run"),
        ("evaluate mfcc --task keywords --out /proc/none", "--out /proc/none cannot be written: "),
        ("measure demo --out thesis", "--out thesis is a folder, and a file is to be written; name another place"),
        ("measure demo --out /proc/none", "--out /proc/none cannot be written: "),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(empty, options, command, message):
    (empty.folder / "file").touch()
    (empty.folder / "thesis").mkdir()
    (empty.folder / "thesis/chapter.tex").touch()
    if command.startswith("train"):
        given = dict(zip(options[::2], options[1::2], strict=True))
        named = ("--space", "--audio", "--precision") if "teacher" in command else tuple(given)
        command += "".join(f" {name} {given[name]}" for name in named)
    said = empty(command)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith(f"error: {message}")  # and nothing was said of any work
    assert len(said.err.splitlines()) == 1
    assert sorted(path.name for path in empty.folder.rglob("*")) == ["chapter.tex", "file", "thesis"]


def test_a_system_that_refuses_is_told_from_a_mistake(empty, options):
    with full_disk(1000):
        said = empty("train supernet --run runs/a", *options)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("error: could not write runs/a/config.yaml: File too large; free space")


# Training


def test_dry_run_trains_nothing(empty, options):
    said = empty.done("train supernet --dry-run", *options)
    assert "nothing was trained" in said.out
    assert all(stage in said.out for stage in ("stage-1", "stage-2"))
    assert list(empty.folder.iterdir()) == []
    found = empty.done("train supernet --dry-run --format json", *options).json
    assert [(stage["name"], stage["steps"]) for stage in found["stages"]] == [("stage-1", 5), ("stage-2", 5)]
    assert all(stage["hours"] == pytest.approx(stage["step_seconds"] * 5 / 3600) for stage in found["stages"])
    assert found["memory_bytes"] > 1e6


def test_training_says_what_it_did_on_stderr_and_what_to_do_next_on_stdout(trained):
    _, said = trained
    assert said.out == "The supernet is in runs/a. Next: nestling search subnet --run runs/a --budget 50%\n"
    assert "stage-2   5 " in said.err
    assert "train 0/10" in said.err.splitlines()  # before the first step, which may take minutes


def test_broken_audio_is_named_and_skipped(trained):
    shell, said = trained
    assert f"skipped {BROKEN}: " in said.err
    assert "1 file skipped" in said.err
    assert len(RunFolder(shell.folder / "runs/a").metrics()) == 10


def test_config_is_resolved(trained, options):
    config = RunFolder(trained[0].folder / "runs/a").config
    assert config["space"] == SPACE.to_dict()
    assert [stage["steps"] for stage in config["recipe"]["stages"]] == [5, 5]
    assert config["teacher"] in options
    assert config["precision"] == "fp32"


def test_a_run_is_never_trained_over(nestling, options):
    before = (nestling.folder / "runs/a/metrics.jsonl").read_bytes()
    said = nestling("train supernet --run runs/a", *options)
    assert said.code == 2
    how = "go on with it (nestling train supernet --run runs/a --resume), or name another folder"
    assert f"runs/a already holds a run; {how}" in said.err
    assert (nestling.folder / "runs/a/metrics.jsonl").read_bytes() == before


def test_training_gives_its_stages_as_json(nestling):
    found = nestling.done("train supernet --run runs/a --resume --format json").json
    assert found["run"] == "runs/a"
    assert [(stage["name"], stage["steps"]) for stage in found["stages"]] == [("stage-1", 5), ("stage-2", 5)]
    assert all(stage["loss_after"] > 0 for stage in found["stages"])


def test_resuming_a_finished_run_changes_nothing(nestling):
    run = nestling.folder / "runs/a"
    before = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "supernet.safetensors", "supernet.json")}
    said = nestling.done("train supernet --run runs/a --resume")
    assert "resuming runs/a after step 10" in said.err
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--space tiny", "--space tiny (the run has handful)"),
        ("--teacher demo", "--teacher demo (the run has "),
        ("--config two-stage", "--config two-stage (the run differs in "),
        ("--set stage-2.steps=9", "--set stage-2.steps=9 (the run has 5)"),
        ("--set stage-2.learning_rate=1e-4", "--set stage-2.learning_rate=0.0001 (stage-2 is done)"),
        ("--seed 7", "--seed 7 (the run has 0)"),
        ("--audio demo-small", "the audio in demo-small changed since the run began"),
        ("--precision fp8", "--precision is fp32, bf16 or auto; got fp8"),
        ("--device cdua", "cannot compute on 'cdua'"),
        (
            "--space tiny --seed 7",
            "rules out --space tiny (the run has handful), --seed 7 (the run has 0); leave them out",
        ),
    ],
)
def test_a_resumed_run_drops_no_option_without_a_word(nestling, typed, message):
    run = nestling.folder / "runs/a"
    before = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "supernet.safetensors", "config.yaml")}
    said = nestling(f"train supernet --run runs/a --resume {typed}")
    assert said.code == 2
    assert message in said.err.splitlines()[-1]
    assert {name: (run / name).read_bytes() for name in before} == before


def test_nothing_is_estimated_of_a_resumed_run(nestling, options):
    said = nestling("train supernet --run runs/a --resume --dry-run", *options)
    assert (said.code, said.err) == (2, "error: --dry-run tells what a new run would take; leave out --resume\n")


def test_a_resumed_run_takes_the_same_options_again(nestling, options):
    said = nestling.done("train supernet --run runs/a --resume --seed 0", *options)
    assert "resuming runs/a after step 10" in said.err
    assert "history" not in RunFolder(nestling.folder / "runs/a").config


def test_a_run_of_another_command_is_not_resumed(nestling):
    said = nestling("train teacher --run runs/a --resume")
    assert said.code == 2
    assert "runs/a is no run of `train teacher`: it began with nestling train supernet --run runs/a" in said.err


@pytest.fixture
def poison(monkeypatch):
    """A function of a step; its gradient is not finite, though its loss is."""

    def at(step):
        steps, real = iter(range(99)), torch.nn.utils.clip_grad_norm_

        def clip(weights, norm):
            for weight in weights if next(steps) == step else ():
                weight.grad = torch.full_like(weight, torch.nan)
            return real(weights, norm)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)

    return at


def test_a_run_that_diverged_goes_on_with_a_lower_learning_rate(empty, options, poison):
    poison(7)
    said = empty("train supernet --run runs/a", *options)
    assert said.code == 1
    assert "the gradient of step 7 (stage-2) is not a finite number; resume with a lower learning rate" in said.err
    assert "(--resume --set stage-2.learning_rate=0.0001)" in said.err
    run = RunFolder(empty.folder / "runs/a")
    command = "train supernet --run runs/a --resume --set stage-2.learning_rate=0.0001 --device cpu"
    assert "from here on, stage-2.learning_rate is 0.0001, not 0.001" in empty.done(command).err
    assert run.config["recipe"]["stages"][1]["learning_rate"] == 0.0001
    assert run.config["history"] == [
        {"step": 6, "command": f"nestling {command}", "changes": {"stage-2.learning_rate": [0.001, 0.0001]}}
    ]
    rates = [row["learning_rate"] for row in run.metrics() if "losses" in row]
    assert rates[6:] == pytest.approx([1e-4 * share for share in (1, 0.75, 0.5, 0.25)])
    assert rates[5] == pytest.approx(1e-3)
    empty.done("report --run runs/a")
    assert command in run.report_path.read_text()


def test_a_run_whose_last_step_is_not_finite_fails(empty, options, poison):
    poison(9)
    said = empty("train supernet --run runs/a", *options)
    assert said.code == 1
    assert "error: the gradient of step 9 (stage-2) is not a finite number; resume with a lower " in said.err
    assert not (empty.folder / "runs/a/supernet.safetensors").exists()


@pytest.fixture
def interrupt(monkeypatch):
    """A function of a place in the code, a call of it and a signal, which this process is sent then."""
    was = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}

    def at(owner, name, call, number):
        calls, real = iter(range(99)), getattr(owner, name)

        def interrupted(*arguments, **named):
            if next(calls) == call:
                os.kill(os.getpid(), number)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, interrupted)

    yield at
    for number, handler in was.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_quietly_and_says_how_to_go_on(empty, options, interrupt, number, code):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupt(torch.nn.utils, "clip_grad_norm_", 7, number)
    said = empty("train supernet --run 'runs/a b'", *options)
    assert (said.code, said.out) == (code, "")
    last = said.err.splitlines()[-1]
    assert last == "stopped; go on with nestling train supernet --run 'runs/a b' --resume"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert "after step 6" in empty.done("train supernet --run 'runs/a b' --resume").err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_search_quietly_and_says_how_to_go_on(nestling, interrupt, number, code):
    interrupt(ReadOutObjective, "__call__", 3, number)
    said = nestling("search subnet --trials 6")
    assert (said.code, said.out) == (code, "")
    assert said.err.splitlines()[-1] == "stopped; what was scored is kept, and the same command goes on"
    assert nestling.done("search subnet --trials 6 --format json").json["evaluated"] == 3


def test_a_signal_that_the_shell_ignores_stays_ignored(nestling, interrupt):
    interrupt(ReadOutObjective, "__call__", 1, signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert nestling.done("search subnet --trials 2 --format json").json["evaluated"] == 2


SHORTAGES = {
    "torch": lambda: torch.empty(2**60),
    "numpy": lambda: np.empty(2**56),
    "cuda": lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nProcess 7 has …")),
    "python": lambda: raise_(MemoryError()),
    "mmap": lambda: raise_(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "onnx": lambda: raise_(RuntimeError("std::bad_alloc")),
}


def raise_(error):
    raise error


@pytest.fixture
def short(monkeypatch):
    """A function of a step and of who runs out of memory in it."""

    def at(step, who):
        steps, real = iter(range(99)), torch.nn.utils.clip_grad_norm_

        def clip(*arguments):
            if next(steps) == step:
                SHORTAGES[who]()
            return real(*arguments)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)

    return at


@pytest.mark.parametrize("who", SHORTAGES)
def test_too_little_memory_names_what_to_lower_and_blocks_no_next_try(empty, options, short, who):
    short(0, who)
    said = empty("train supernet --run runs/a", *options)
    assert said.code == 1
    (line,) = (line for line in said.err.splitlines() if line.startswith("error: "))
    assert line.startswith("error: not enough memory")
    assert line.endswith(
        " for stage-1 with batch_size 3 and crop_seconds 0.4; lower one of them (--set stage-1.batch_size=1), "
        "or close other programs"
    )
    assert list((empty.folder / "runs").iterdir()) == []


def test_who_only_speaks_of_memory_is_not_short_of_it(empty, options, monkeypatch):
    text = "out of memory.wav could be read when it was opened, and no longer"
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: raise_(NestlingError(text)))
    said = empty("train supernet --run runs/a", *options)
    assert (said.code, said.err.splitlines()[-1]) == (2, f"error: {text}")
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: raise_(KeyError(text)))
    said = empty("train supernet --run runs/b", *options)
    assert said.err.splitlines()[-2] == f"error: this is a fault of Nestling, not yours: KeyError: '{text}'"
    Path(said.err.splitlines()[-1].removeprefix("where it happened is in ").partition(";")[0]).unlink()


def test_too_little_memory_keeps_what_was_trained(empty, options, short):
    short(7, "torch")
    said = empty("train supernet --run runs/a", *options)
    assert said.code == 1
    assert said.err.splitlines()[-2].startswith("error: not enough memory (")
    assert said.err.splitlines()[-1] == "  runs/a keeps what was trained so far; add --resume to go on"
    said = empty.done("train supernet --run runs/a --resume --set stage-2.batch_size=1")
    assert "after step 6" in said.err


def test_too_little_memory_for_a_search_names_utterances(nestling, monkeypatch):
    monkeypatch.setattr(ReadOutObjective, "__call__", lambda *_: torch.empty(2**60))
    said = nestling("search subnet --trials 2")
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("error: not enough memory (")
    assert "; score on fewer --utterances, or close" in said.err.splitlines()[-1]


def test_resuming_with_other_audio_is_refused(nestling, options):
    audio = Path(options[options.index("--audio") + 1])
    (audio / "take-99.wav").write_bytes((audio / "take-03.wav").read_bytes()[:-200] + bytes(200))
    try:
        said = nestling("train supernet --run runs/a --resume")
    finally:
        (audio / "take-99.wav").unlink()
    assert said.code == 2
    assert f"the audio in {audio} changed since the run began; start a new run" in said.err


@pytest.mark.parametrize("command", ["train supernet --run runs/a --resume", "search subnet --run runs/a --trials 2"])
def test_another_teacher_at_the_same_place_is_refused(nestling, options, command):
    teacher = Path(options[options.index("--teacher") + 1])
    kept = teacher.rename(teacher.with_name("kept"))
    try:
        save_encoder(make_teacher(seed=1), teacher)
        said = nestling(command)
        shutil.rmtree(teacher)
        save_encoder(make_teacher(), teacher, torch.float64)  # the same numbers in other bytes
        nestling.done(command)
        shutil.rmtree(teacher)
    finally:
        kept.rename(teacher)
    assert said.code == 2
    assert f"{teacher} is not the teacher that runs/a was begun with: its shape and weights hash to" in said.err
    assert "put that one back, or start a new run" in said.err


def test_a_run_that_did_not_keep_its_teacher_says_so(nestling):
    config = nestling.folder / "runs/a/config.yaml"
    said = nestling.done("train supernet --run runs/a --resume")
    assert "whether" not in said.err
    kept = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in kept if not line.startswith("teacher_hash:")))
    said = nestling.done("train supernet --run runs/a --resume")
    assert "runs/a did not keep what its teacher was; whether" in " ".join(said.err.split())


def test_a_run_keeps_the_commit_of_its_teacher(empty, options, monkeypatch, tmp_path):
    commits = [letter * 40 for letter in "ab"]
    for seed, commit in enumerate(commits):
        save_encoder(make_teacher(seed), tmp_path / "snapshots" / commit)

    def snapshot_download(name, revision=commits[0], **_):
        assert name == "some/teacher"
        return str(tmp_path / "snapshots" / {"v1": commits[0], "v2": commits[1]}.get(revision, revision))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    place = options.index("--teacher") + 1
    few = ["--set", "stage-1.steps=1", "--set", "stage-2.steps=1"]
    empty.done("train supernet --run runs/a", *options[:place], "some/teacher", *options[place + 1 :], *few)
    run = RunFolder(empty.folder / "runs/a")
    assert run.config["teacher"] == f"some/teacher@{commits[0]}"
    monkeypatch.setattr(snapshot_download, "__defaults__", (commits[1],))  # the branch moves
    empty.done("train supernet --run runs/a --resume")
    empty.done("train supernet --run runs/a --resume --teacher some/teacher@v1")
    said = empty("train supernet --run runs/a --resume --teacher some/teacher@v2")
    assert f"rules out --teacher some/teacher@v2 (the run has some/teacher@{commits[0]})" in said.err
    record = collect_record(run, SPACE.container, "nestling export subnet")
    assert (record.teacher, record.revision) == ("some/teacher", commits[0])
    assert f"| teacher | `some/teacher@{commits[0]}`, licence unknown |" in model_card(record)(FACTS, CONFIG)


def test_a_run_made_with_relative_paths_goes_on_from_anywhere(empty, options):
    case = Path(options[options.index("--audio") + 1]).parent
    run, few = empty.folder / "a", "--set stage-1.steps=2 --set stage-2.steps=2 --precision fp32"
    relative = "--space handful.yaml --config recipe.yaml --teacher teacher --audio ./audio"
    Shell(case).done(f"train supernet {relative} {few} --run {run}")
    config = RunFolder(run).config
    assert (config["audio"], config["teacher"]) == (str(case.resolve() / "audio"), str(case.resolve() / "teacher"))
    empty.done("train supernet --resume --run a")
    empty.done("search subnet --run a --budget 8k --trials 2 --utterances 2")
    empty.done("report --run a")


def test_names_that_are_shipped_are_no_paths(empty):
    for name in ("demo", "demo-small"):
        (empty.folder / name).mkdir()
    with chdir(empty.folder):
        job = describe_job("", "tiny", "demo", "demo-small", "two-stage", (), "cpu", "fp32", None)
        assert (job["teacher"], job["audio"]) == ("demo", "demo-small")
        job = describe_job("", "tiny", "facebook/hubert-base-ls960", "gone", "two-stage", (), "cpu", "fp32", None)
        assert (job["teacher"], job["audio"]) == ("facebook/hubert-base-ls960", "gone")


def test_audio_that_moved_is_found_again(nestling, options):
    run = nestling.folder / "runs/a"
    audio = Path(options[options.index("--audio") + 1])
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"audio: {audio}", f"audio: {audio}-gone"))
    for command in ("search subnet --budget 8k --trials 2", "train supernet --run runs/a --resume"):
        said = nestling(command)
        assert said.code == 2
        assert f"{audio}-gone" in said.err
        assert "; `audio` in runs/a/config.yaml names it: give --audio if it has moved" in said.err
    nestling.done("search subnet --budget 8k --trials 2 --utterances 2 --audio", str(audio))
    nestling.done("train supernet --run runs/a --resume --audio", os.path.relpath(audio, nestling.folder))
    assert RunFolder(run).config["audio"] == str(audio)
    other = write_audio(nestling.folder / "other", count=4)
    said = nestling("search subnet --budget 8k --trials 2 --audio other")
    assert said.code == 2
    assert f"--audio other is not the audio of runs/a, {audio}, moved: it differs" in said.err
    assert other.is_dir()


def test_a_teacher_that_moved_is_named_by_its_key(nestling, options):
    run = nestling.folder / "runs/a"
    teacher = options[options.index("--teacher") + 1]
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"teacher: {teacher}\n", f"teacher: {teacher}-gone\n"))
    said = nestling("search subnet --budget 8k --trials 2")
    assert said.code == 2
    assert f"there is no folder {teacher}-gone; `teacher` in runs/a/config.yaml names it" in said.err


def test_a_resumed_run_takes_its_teacher_wherever_that_is(nestling, options):
    run = RunFolder(nestling.folder / "runs/a")
    teacher, moved = options[options.index("--teacher") + 1], nestling.folder / "moved"
    shutil.copytree(teacher, moved)
    save_encoder(make_teacher(), nestling.folder / "wider", torch.float64)  # the same numbers in other bytes
    save_encoder(make_teacher(seed=1), nestling.folder / "other")
    said = nestling("train supernet --run runs/a --resume --teacher other")
    assert (said.code, run.config["teacher"]) == (2, teacher)
    assert f"rules out --teacher other (the run has {teacher})" in said.err
    for name, before in (("moved", teacher), ("wider", str(moved))):
        said = nestling.done(f"train supernet --run runs/a --resume --teacher {name}")
        assert f"from here on, teacher is {nestling.folder / name}, not {before}" in said.err
        assert run.config["teacher"] == str(nestling.folder / name)
    nestling.done("search subnet --budget 8k --trials 2")


def test_a_run_whose_writer_was_killed_elsewhere_is_taken_over(nestling):
    (nestling.folder / "runs/a/lock").write_text("process 12 on a-container")
    said = nestling("search subnet --budget 8k --trials 2 --utterances 2")
    assert said.code == 0, said.err
    assert "runs/a was last written by process 12 on a-container, which was killed at it" in said.err


def test_cleaning_up_keeps_what_was_trained():
    makefile = Path(cli.__file__).parent / "Makefile"
    said = subprocess.run(["make", "-n", "-f", makefile, "clean"], capture_output=True, text=True, check=True).stdout
    assert "rm -rf .venv build dist" in said
    assert "runs" not in said.split()


def test_a_run_of_the_first_format_is_read_as_it_is(nestling):
    config = nestling.folder / "runs/a/config.yaml"
    text = config.read_text()
    assert text.startswith("format: 2\n")
    config.write_text(text.removeprefix("format: 2\n"))
    nestling.done("search subnet --budget 8k --trials 2")
    nestling.done("report")
    nestling.done("train supernet --run runs/a --resume")


def test_seed_and_changes_reach_the_run(empty, options):
    few = ["--set", "stage-1.steps=1", "--set", "stage-2.steps=1"]
    empty.done("train supernet --run runs/a --seed 1", *options, *few)
    empty.done("train supernet --run runs/b --seed 2", *options, *few)
    a, b = (RunFolder(empty.folder / "runs" / name) for name in "ab")
    assert (a.config["seed"], b.config["seed"], len(a.metrics())) == (1, 2, 2)
    assert a.metrics()[0]["losses"] != b.metrics()[0]["losses"]


@pytest.fixture
def train_teacher(empty, options):
    """A command."""
    (empty.folder / "teacher.yaml").write_text(TEACHER_RECIPE)
    space, audio = (options[options.index(name) + 1] for name in ("--space", "--audio"))
    return f"train teacher --space {space} --audio {audio} --config teacher.yaml --precision fp32"


def test_train_teacher_writes_what_train_supernet_takes(empty, train_teacher):
    said = empty.done(train_teacher)
    assert said.out.startswith("The teacher is in runs/teacher/teacher. Next: nestling train supernet --teacher")
    teacher = load_teacher(empty.folder / "runs/teacher/teacher")
    assert teacher.encoder.config.embed_dim == SPACE.container.embed_dim
    container = RunFolder(empty.folder / "runs/teacher").load_supernet().extract(SPACE.container)
    assert all(torch.equal(x, teacher.encoder.state_dict()[name]) for name, x in container.state_dict().items())


def test_a_teacher_takes_the_place_of_an_earlier_one_whole(empty, train_teacher, monkeypatch):
    def files():
        return {path: path.stat().st_ino for path in empty.folder.glob("*/*") if path.parent.name == "mine"}

    def refuse(_folder):
        raise OSError(errno.EIO, "Input/output error")

    empty.done(f"{train_teacher} --out mine")
    before, again = files(), "train teacher --run runs/teacher --out mine --resume"
    assert len(before) == 4
    with monkeypatch.context() as patch:
        patch.setattr("checkpoints.saving.write_manifest", refuse)
        assert empty(again).code == 1
    assert files() == before
    empty.done(again)
    assert files().keys() == before.keys()
    (empty.folder / "mine/README.md").write_text("of my own")
    empty.done(again)
    assert (empty.folder / "mine/README.md").read_text() == "of my own"
    (empty.folder / "mine/notes.txt").touch()
    assert empty(again).err == "error: mine holds notes.txt, which is no part of a teacher; name another folder\n"


def test_a_teachers_training_goes_on_with_the_folder_that_was_named(empty, train_teacher, interrupt):
    interrupt(torch.nn.utils, "clip_grad_norm_", 3, signal.SIGINT)
    said = empty(f"{train_teacher} --out 'my teacher'")
    hint = "stopped; go on with nestling train teacher --run runs/teacher --out 'my teacher' --resume"
    assert (said.code, said.err.splitlines()[-1]) == (130, hint)
    found = empty.done(hint.partition("nestling ")[2] + " --format json").json
    assert (found["teacher"], found["run"], len(found["stages"])) == ("my teacher", "runs/teacher", 2)
    assert load_teacher(empty.folder / "my teacher").encoder


# Searching


def test_search_takes_the_newest_run(nestling):
    shutil.copytree(nestling.folder / "runs/a", nestling.folder / "runs/b")
    os.utime(nestling.folder / "runs/b/metrics.jsonl")
    said = nestling.done("search subnet --budget 8k --trials 4")
    assert "run: runs/b" in said.err
    assert (nestling.folder / "runs/b/search/result.json").exists()
    assert not (nestling.folder / "runs/a/search/result.json").exists()
    assert said.out.endswith("Next: nestling export subnet --run runs/b --out my-encoder\n")


@pytest.mark.parametrize("sampler", ["evolution", "random", "optuna:tpe", "tpe"])
def test_search_finds_what_holds_the_budget(nestling, sampler):
    command = f"search subnet --budget 8k --budget macs<=2M@1s --trials 20 --sampler {sampler}"
    result = nestling.done(f"{command} --format json").json
    assert result["evaluated"] == result["scored"] == 20
    assert result["binds"]
    for row in result["finalists"]:
        assert row["params"] <= 8_000
        assert row["macs_1s"] <= 2_000_000
    losses = [row["loss"] for row in result["finalists"]]
    assert losses == sorted(losses)
    assert result == json.loads((nestling.folder / "runs/a/search/result.json").read_text())
    assert f"Chosen: {result['finalists'][0]['id']}" in nestling.done(command).out


def test_a_second_search_reuses_every_evaluation(nestling):
    command = "search subnet --budget 8k --trials 12 --format json"
    first, second = nestling.done(command).json, nestling.done(command).json
    assert (first["evaluated"], second["evaluated"]) == (12, 0)
    assert first["finalists"] == second["finalists"]
    other = nestling.done("search subnet --budget 9k --trials 4 --format json").json
    assert other["scored"] > other["evaluated"]  # what was found under one budget serves the next


def test_a_record_with_a_hole_is_used_and_said(nestling):
    nestling.done("search subnet --budget 8k --trials 6")
    record = nestling.folder / "runs/a/search/candidates.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join([*lines[:2], *lines[4:]]))
    said = nestling.done("search subnet --budget 8k --trials 6 --format json")
    hole = "2 rows are missing before line 3 of runs/a/search/candidates.jsonl"
    assert hole in said.err
    assert said.json["evaluated"] == 2  # they are scored again
    nestling.done("report")
    assert hole in (nestling.folder / "runs/a/report.html").read_text()
    record.write_bytes(b"".join([*lines, lines[3]]))
    said = nestling.done("search subnet --budget 8k --trials 6")
    assert "line 8 of runs/a/search/candidates.jsonl is row 4, which has its place before it" in said.err


def test_alternatives_get_an_answer_each(nestling):
    results = nestling.done("search subnet --budgets 6k,60% --trials 6 --format json").json
    assert len(results) == 2
    share = int(0.6 * count_params(SPACE.backbone, SPACE.container))
    for result, limit in zip(results, (6_000, share), strict=True):
        assert result["finalists"][0]["params"] <= limit
        assert result["utilization"][0]["share"] == pytest.approx(result["finalists"][0]["params"] / limit, rel=1e-3)
    assert nestling.done("search subnet --budgets 6k --budgets 60% --trials 6").out.count("Chosen: ") == 2


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda path: path.write_text("no database" * 99)])
def test_a_study_that_cannot_be_written_costs_no_result(nestling, spoil):
    run = nestling.folder / "runs/a"
    spoil(run / "search/study.db")
    said = nestling("search subnet --budgets 6k,60% --trials 2 --format json")
    assert said.code == 0
    assert len(said.json) == 2
    assert said.err.count("study.db was not written: ") == 2
    assert json.loads((run / "search/result.json").read_text()) == said.json[1]
    assert "Traceback" not in said.err


def test_whatever_a_run_is_called_all_of_it_is_inside(nestling):
    run = (nestling.folder / "runs/a").rename(nestling.folder / "runs/50% {of} a?mode=memory#")
    said = nestling("search subnet --budget 8k --trials 2 --run", str(run))
    assert said.code == 0, said.err
    assert sorted(path.name for path in (run / "search").iterdir()) == ["candidates.jsonl", "result.json", "study.db"]
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert "study.db" not in said.err


def test_a_run_that_is_deleted_while_it_is_searched(nestling, monkeypatch):
    real, run = ReadOutObjective.__call__, nestling.folder / "runs/a"

    def score(*arguments):
        shutil.rmtree(run, ignore_errors=True)
        return real(*arguments)

    monkeypatch.setattr(ReadOutObjective, "__call__", score)
    said = nestling("search subnet --budget 8k --trials 3")
    assert said.code == 1, said.out
    assert said.out == ""
    assert re.search(r"error: \S*runs/a\S* was deleted while it was written", said.err)
    assert not run.exists()


def test_a_budget_that_does_not_bind_says_so(nestling):
    said = nestling.done("search subnet --budget 25M --trials 2 --format json")
    assert "params<=25M does not bind: every subnet of `handful` holds it" in said.err
    assert not said.json["binds"]
    assert "does not bind" not in nestling.done("search subnet --budget 8k --trials 2").err


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("--budget 1k", "no subnet of `handful` has params<=1k; the smallest has 2,472 parameters"),
        ("--budgets 8k,1k", "no subnet of `handful` has params<=1k; the smallest has 2,472 parameters"),
        ("--budget params=15k..16k --budget size<=50kB", "together; with size<=50kB, the largest has"),
    ],
)
def test_an_impossible_budget_says_what_would_be_possible(nestling, budget, message):
    said = nestling(f"search subnet {budget}")
    assert said.code == 2
    assert said.out == ""
    assert message in said.err
    assert not (nestling.folder / "runs/a/search/candidates.jsonl").exists()  # nothing was spent


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--sampler evo", "--sampler evo: choices are auto, evolution, random, optuna:nsga2"),
        ("--sampler optuna:tp", "no sampler optuna:tp; there are optuna:nsga2"),
        ("--trials 0", "Invalid value for '--trials'"),
    ],
)
def test_impossible_searches_are_explained(nestling, wrong, message):
    said = nestling(f"search subnet --budget 8k {wrong}")
    assert said.code == 2
    assert message in said.err


def test_one_recording_is_enough_to_train_but_not_to_compare(empty, options):
    audio = write_audio(empty.folder / "one", count=1)
    few = ["--set", "stage-1.steps=1", "--set", "stage-2.steps=1", "--audio", str(audio)]
    empty.done("train supernet --run runs/a", *options, *few)
    said = empty("search subnet --budget 8k")
    assert said.code == 2
    assert "one has no audio to compare subnets on; three files or more have some" in said.err


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_no_result_is_lost_to_an_encoding(nestling, encoding):
    shutil.move(nestling.folder / "runs/a", nestling.folder / "runs/→")
    said = Shell(nestling.folder, encoding)("search subnet --run runs/→ --budget 8k --trials 2")
    assert said.code == 0
    assert "Chosen: " in said.out
    assert said.out.endswith("Next: nestling export subnet --run 'runs/?' --out my-encoder\n")


@pytest.mark.parametrize(
    "name", ["a&b", "$HOME", "two words", 'say "so"', "it's", "a;b", "*", "line\nbreak", "\x1b[31m", "é\\"]
)
def test_a_recorded_command_is_what_was_typed(nestling, name):
    run = f"runs/{name}"
    shutil.move(nestling.folder / "runs/a", nestling.folder / run)
    nestling.done("search subnet --trials 1 --run", run)
    command = json.loads((nestling.folder / run / "search/result.json").read_text())["command"]
    assert command.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=False, env={"HOME": "/x"}
    )
    assert done.stdout.decode().split("\0")[:-1] == ["nestling", "search", "subnet", "--trials", "1", "--run", run]


HOSTILE = ["[/b]", "[red]x", "\x1b[31m", "line\nerror: break", "\u202eright to left", ":bug:", "\r", "back\\"]
"""What names of files may hold: markup, an escape code, a line of its own, a turn of direction, an emoji's name."""


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_others_are_shown_as_they_are_and_do_nothing(nestling, name):
    run = f"runs/{name}"
    shown = run.encode("unicode_escape").decode() if not run.isprintable() else run
    assert (
        nestling("report --run", run).err == f"error: there is no run at {shown}; train one first, or check the name\n"
    )
    shutil.move(nestling.folder / "runs/a", nestling.folder / run)
    assert nestling.done("report --run", run).out == f"The report is in {shown}/report.html\n"
    said = nestling.done("search subnet --trials 1 --run", run)
    next_command = said.out.splitlines()[-1].removeprefix("Next: ")
    assert next_command.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {next_command}"], capture_output=True, check=False)
    assert done.stdout.decode().split("\0")[4] == run


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_holds_is_shown_as_it_is_and_does_nothing(empty, name):
    values = SPACE.to_dict() | {"name": name}
    (empty.folder / "evil.json").write_text(json.dumps(values))
    shown = name if name.isprintable() else name.encode("unicode_escape").decode()
    assert f"{shown}: 6,144 subnets" in empty.done("space evil.json").out
    assert f"{shown}/" in empty.done("cost --space evil.json").out
    (empty.folder / "evil.json").write_text(json.dumps(values | {name: 1}))
    assert f"unknown key `{shown}`; " in empty("space evil.json").err


def test_a_message_of_several_lines_keeps_them(empty):
    wrong = [part for i in range(9) for part in ("--set", f"stage-{i % 2 + 1}.wrong{i}=3")]
    first, *more = empty("train supernet --config two-stage", *wrong[:4]).err.splitlines()
    assert first == "error: two-stage:"
    assert [line.partition(";")[0] for line in more] == [
        "  unknown key `stage-1.wrong0`",
        "  unknown key `stage-2.wrong1`",
    ]
    lines = empty("train supernet --config two-stage", *wrong).err.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "  and 5 more"


# Exporting and reporting


def test_the_exported_encoder_is_the_supernets_subnet(nestling):
    chosen = nestling.done("search subnet --budget 8k --trials 6 --format json").json["finalists"][0]
    report = nestling.done("export subnet --out encoder --format json").json
    assert report["id"] == chosen["id"]
    assert report["params"] == chosen["params"]
    run = RunFolder(nestling.folder / "runs/a")
    exported, supernet = load_encoder(nestling.folder / "encoder"), run.load_supernet()
    wave = torch.from_numpy(make_wave(8000, 1)).view(2, 4000)
    got, expected = exported(wave), supernet(wave, None, find_subnet(run.search_path, "best", SPACE))
    for x, y in zip(got.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in exported.parameters()) == chosen["params"]
    text = nestling.done("export subnet --out again").out
    assert f"{chosen['params']:,} parameters" in text
    assert 'AutoModel.from_pretrained("again"' in text


def test_a_card_says_of_no_folder_where_it_is(nestling, options):
    audio = Path(options[options.index("--audio") + 1])
    nestling.done(f"search subnet --run {nestling.folder}/runs/a --budget 8k --trials 2")
    nestling.done("export subnet --out encoder")
    card = (nestling.folder / "encoder/README.md").read_text()
    assert f"--audio {audio.name} " in card
    assert "nestling search subnet --run a --budget 8k --trials 2" in card
    assert str(audio.parent) not in card
    assert str(nestling.folder) not in card


def test_other_candidates_can_be_exported_too(nestling):
    found = nestling.done("search subnet --budget 8k --trials 6 --format json").json["finalists"]
    by_id = nestling.done(f"export subnet --out a --subnet {found[1]['id'][:6]} --format json").json
    assert by_id["id"] == found[1]["id"]
    (nestling.folder / "subnet.json").write_text(json.dumps(found[2]))
    assert nestling.done("export subnet --out b --subnet subnet.json --format json").json["id"] == found[2]["id"]


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        ("best", "runs/a was not searched yet; run `nestling search subnet --budget …` first"),
        ("zzz", "no subnet in runs/a/search/candidates.jsonl with an id that starts with 'zzz'"),
        ("broken.json", "broken.json holds no subnet of handful: "),
    ],
)
def test_a_subnet_that_is_not_there(nestling, subnet, message):
    (nestling.folder / "broken.json").write_text("[]")
    said = nestling(f"export subnet --out encoder --subnet {subnet}")
    assert said.code == 2
    assert message in said.err
    assert not (nestling.folder / "encoder").exists()


def read_report(nestling):
    assert nestling.done("report --format json").json == {"run": "runs/a", "report": "runs/a/report.html"}
    said = nestling.done("report")
    assert said.out == "The report is in runs/a/report.html\n"
    return (nestling.folder / "runs/a/report.html").read_text()


@pytest.mark.parametrize(
    ("audio", "labelled"),
    [("demo-recordings", False), ("demo/", False), ("./demo-small", False), ("demo", True), ("demo-varied", True)],
)
def test_a_report_says_synthesised_of_what_is_and_not_of_a_name_like_it(nestling, audio, labelled):
    config = nestling.folder / "runs/a/config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "audio": audio}))
    assert ("Synthesised speech: these are sanity figures" in read_report(nestling)) == labelled


def test_a_picture_that_cannot_be_written_costs_no_report(nestling):
    nestling.done("search subnet --budget 8k --trials 2")
    (nestling.folder / "runs/a/report.svg").mkdir()
    said = nestling("report")
    assert said.code == 0
    assert said.out == "The report is in runs/a/report.html\n"
    assert "could not write runs/a/report.svg: Is a directory" in said.err


def test_a_report_is_written_at_any_time(nestling):
    run = RunFolder(nestling.folder / "runs/a")
    rows = run.metrics_path.read_text()
    run.metrics_path.unlink()  # right after the start
    assert "<figcaption>stage-1" not in read_report(nestling)
    run.metrics_path.write_text("\n".join(rows.splitlines()[:3]) + '\n{"step": 3')  # in the middle
    assert "<figcaption>stage-1" in (report := read_report(nestling))
    assert "<figcaption>stage-2" not in report
    run.metrics_path.write_text(rows)
    assert "<figcaption>stage-2" in read_report(nestling)
    chosen = nestling.done("search subnet --budget 8k --trials 6 --format json").json["finalists"][0]
    assert f"{chosen['params']:,}" in read_report(nestling)
    with (run.search_path / "candidates.jsonl").open("a") as file:
        file.write('{"fingerprint": "torn')  # killed in the next search
    assert f"{chosen['params']:,}" in read_report(nestling)


def test_the_front_is_that_of_every_axis(nestling):
    nestling.done("search subnet --trials 40")
    rows = collect_report(RunFolder(nestling.folder / "runs/a")).candidates
    points = {row.subnet: (row.params, count_macs(SPACE.backbone, row.subnet, 1.0), row.loss) for row in rows}

    def beaten(point):
        return any(all(map(float.__le__, map(float, o), map(float, point))) for o in points.values() if o != point)

    assert {row.subnet for row in rows if row.is_front} == {s for s, point in points.items() if not beaten(point)}
    assert len(rows) == 40


@pytest.mark.parametrize(("workflow", "name"), [("export", "plotly"), ("search", "optuna"), ("train", "optuna")])
def test_what_a_command_may_not_need_is_not_imported_with_it(workflow, name):
    code = f"import sys, nestling.workflows.{workflow}; sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
