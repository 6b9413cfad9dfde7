"""What the README and docs/ tell users to type: commands parse, Python runs, and counted figures are those counted."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import benchmarks.librispeech
import cli
from checkpoints.export import write_encoder
from checkpoints.manifest import extend_manifest
from checkpoints.runtimes.s3prl_upstream import write_s3prl
from checkpoints.saving import save_encoder
from checkpoints.teachers import load_encoder
from distillation.stages import load_recipe
from nestling.options import split
from search_spaces.budget import Budget
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import dump_yaml
from speech_data.folder import open_folder
from tests.encoders import TOLERANCE
from tests.onnx_cases import export_once
from tests.test_librispeech import write_chapter
from tests.training_cases import RECIPE, SPACE, make_teacher, write_audio

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(nestling [^`]+)`")
PLACEHOLDERS = {"COMMAND", "…"}


def blocks(page: Path, language: str) -> list[str]:
    return [body for named, body in FENCE.findall(page.read_text("utf-8")) if named == language]


# Commands


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `nestling …` command of a page, in a block or in a line of text."""
    for language, body in FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                if words := shlex.split(line.removeprefix("$ "), comments=True):
                    yield words
    for span in SPAN.findall(FENCE.sub("", text)):
        if not PLACEHOLDERS & set(words := shlex.split(span.replace("\n", " "))):
            yield words


def told() -> list[Any]:
    return [
        pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words[1:])}")
        for page in PAGES
        for words in commands(page.read_text("utf-8"))
        if words[0] == "nestling"
    ]


def parse(words: list[str]) -> dict[str, Any]:
    """What the command line makes of a command, without running it."""
    command: Any = typer.main.get_command(cli.app)
    words = words[1:]
    while "commands" in vars(command):
        command, words = command.commands[words[0]], words[1:]
    return dict(command.make_context(command.name, list(words)).params)


@pytest.mark.parametrize("words", told())
def test_commands_are_understood(words: list[str]) -> None:
    values = parse(words)
    space = SearchSpace.load(values.get("space") or values.get("name") or ("tiny" if "demo" in words else "base"))
    alternatives = (
        [[text] for text in split(values["budgets"])] if values.get("budgets") else [split(values.get("budget"))]
    )
    for budget in filter(None, alternatives):
        space.largest(Budget.parse(budget, space))
    if values.get("config"):
        load_recipe(values["config"], values["changes"] or ())


def test_a_wrong_command_would_be_seen() -> None:
    text = (
        "Say `nestling space\nbase --bugdet 1M` or `nestling COMMAND --help`.\n\n```\n$ nestling cost --space base \\\n"
    )
    found = list(commands(text + "   --subnet largest  # dear\nmake demo\n```\n"))
    assert found == [
        ["nestling", "cost", "--space", "base", "--subnet", "largest"],
        ["make", "demo"],
        ["nestling", "space", "base", "--bugdet", "1M"],
    ]
    assert parse(found[0])["subnet"] == "largest"
    with pytest.raises(Exception, match="No such option: --bugdet"):
        parse(found[2])
    with pytest.raises(ValueError, match=r"unknown key `stage-1\.batchsize`"):
        test_commands_are_understood(["nestling", "train", "supernet", "--set", "stage-1.batchsize=2"])


# Python


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in every format."""
    folder = tmp_path_factory.mktemp("export") / "my-encoder"
    encoder, exported = export_once(tmp_path_factory)
    write_encoder(encoder, folder)
    write_s3prl(encoder, folder)
    shutil.copy(exported, folder)
    extend_manifest(folder, [exported.name])
    return folder


@pytest.fixture
def home(tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with all that the pages name; the tests run in it."""
    shutil.copytree(export, tmp_path / "my-encoder")
    (tmp_path / "my-space.yaml").write_text(dump_yaml(SPACE.to_dict()))
    (tmp_path / "my-recipe.yaml").write_text(RECIPE)
    save_encoder(make_teacher(), tmp_path / "my-teacher")
    write_audio(tmp_path / "my-audio")
    for part, speaker in (("train-clean-100", "103"), ("train-other-500", "20"), ("dev-clean", "84")):
        write_chapter(tmp_path / "LibriSpeech", part, speaker, "1", ["GO ON"] * 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(name: str) -> dict[str, Any]:
    """What the Python blocks of a page leave behind, run one after the other."""
    names: dict[str, Any] = {}
    for block in blocks(ROOT / name, "python"):
        exec(compile(block, name, "exec"), names)
    return names


@pytest.mark.usefixtures("home")
def test_readme() -> None:
    names = run_page("README.md")
    assert sum(weight.numel() for weight in names["encoder"].parameters()) == sum(
        weight.numel() for weight in load_encoder(Path("my-encoder")).parameters()
    )


@pytest.mark.usefixtures("home")
def test_api() -> None:
    names = run_page("docs/api.md")
    assert names["report"].subnet == names["subnet"]
    assert names["run"].config["command"] == "train supernet"
    assert names["report"].subnet.id == names["best"]["id"]
    assert names["report"].params <= 0.6 * sum(w.numel() for w in names["supernet"].container.parameters())
    assert load_encoder(Path("my-small-encoder")).config == names["small"].config
    with torch.no_grad():
        inside = names["inside"]
        assert rms_error(names["alone"].last[inside.valid], inside.last[inside.valid]) <= TOLERANCE
        # The same speech through every way of opening the same folder.
        trace, valid = names["trace"], names["trace"].valid
        opened = {"transformers": names["hidden"], "s3prl": names["features"]["hidden_states"]}
        outputs = names["outputs"]
        opened["ONNX Runtime"] = [torch.from_numpy(outputs[f"hidden_states.{i}"]) for i in range(len(trace.hidden))]
        assert outputs["frame_lengths"].tolist() == valid.sum(1).tolist()
        assert rms_error(torch.from_numpy(outputs["last_hidden_state"])[valid], trace.last[valid]) <= 1e-4
        for way, states in opened.items():
            assert len(states) == len(trace.hidden)
            for got, wanted in zip(states, trace.hidden, strict=True):
                assert rms_error(got[valid], wanted[valid]) <= (1e-4 if "ONNX" in way else TOLERANCE), way


def test_librispeech(home: Path) -> None:
    run_page("docs/librispeech.md")
    corpus = open_folder("train-960.jsonl")
    assert corpus.skipped == ()
    listed = {u.id.split("/")[1] for split in ("train", "search", "dev") for u in corpus.utterances(split)}
    assert listed == {"train-clean-100", "train-other-500"}
    assert (home / "train-960.jsonl").read_text().count("\n") == 6


def rms_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.shape == wanted.shape
    return ((got - wanted).norm() / wanted.norm()).item()


# Figures


def test_counted_figures_are_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    teacher = benchmarks.librispeech.describe_teacher()
    benchmarks.librispeech.print_training(teacher)
    benchmarks.librispeech.print_search(teacher)
    printed = capsys.readouterr().out
    page = (ROOT / "docs/librispeech.md").read_text("utf-8")
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4 + 2 + 2
    assert [line for line in table if line not in page.splitlines()] == []
    (tflop,) = re.findall(r"([\d,]+) TFLOP, forward only", printed)
    assert f"{tflop} TFLOP in fp32, forward only" in page
