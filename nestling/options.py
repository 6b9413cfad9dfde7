"""What commands take: the options of the command line, each said once, by the command that has it first."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from nestling.reports.terminal import tell
from speech_data.recorded.table import CORPORA


def _show_version(asked: bool) -> None:
    if asked:
        tell(f"nestling {importlib.metadata.version('nestling')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]


def _shipped(folder: str) -> Callable[[], list[str]]:
    """What a shell completes a name with: the YAML files in a folder that ships."""
    return lambda: sorted(path.stem for path in (Path(__file__).parents[1] / folder).glob("*.yaml"))


SPACES, RECIPES = _shipped("search_spaces"), _shipped("distillation/recipes")


def split(texts: Sequence[str] | None) -> list[str]:
    """The words of a list, which are given with commas between them, by repeating the option, or both."""
    return [word.strip() for text in texts or () for word in text.split(",")]


# Of several commands
Run = Annotated[Path | None, typer.Option("--run", help="Run folder; default: the newest under ./runs.")]
NewRun = Annotated[Path, typer.Option("--run", help="Run folder.")]
Space = Annotated[str, typer.Option("--space", autocompletion=SPACES, help="A shipped space or a .yaml file.")]
Audio = Annotated[
    str,
    typer.Option(
        "--audio",
        autocompletion=lambda: list(CORPORA),
        help="A folder of audio, a JSON-lines manifest, demo, demo-small, demo-varied, or what `nestling data` got.",
    ),
]
Budget = Annotated[
    list[str] | None,
    typer.Option("--budget", help="25M · macs<=2G@1s · latency<=30ms@2s · size<=50MB · 60%; of several all must hold."),
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1 …")]
Seed = Annotated[int | None, typer.Option("--seed", help="What everything is drawn from.")]
Format = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print the result.")]

# train
SpacesRun = Annotated[Path | None, typer.Option("--run", help="Run folder; default: runs/SPACE.")]
Teacher = Annotated[
    str,
    typer.Option(
        "--teacher",
        help="demo; a Hugging Face folder, NAME or NAME@REVISION of the hub (HuBERT, wav2vec 2.0, WavLM, Whisper, or "
        "any network of transformers that makes 50 hidden states a second); a Whisper of CTranslate2 (faster-whisper); "
        "or a .pt file of fairseq, unilm or s3prl.",
    ),
]
Config = Annotated[str, typer.Option("--config", autocompletion=RECIPES, help="A shipped recipe or a .yaml file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value of the recipe: stage-1.steps=100; repeat.")
]
Init = Annotated[
    str | None, typer.Option("--init", help="Start from an earlier teacher, so that codes come from its layers.")
]
TeacherOut = Annotated[Path | None, typer.Option("--out", help="Where the teacher goes; default: RUN/teacher.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run's last checkpoint.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print steps, time and memory; train nothing.")]
Precision = Annotated[str, typer.Option("--precision", help="fp32, bf16, or auto: bf16 where it is fast.")]

# import
Released = Annotated[Path, typer.Argument(help="lighthubert_base.pt, lighthubert_small.pt or lighthubert_stage1.pt.")]
ImportedRun = Annotated[Path, typer.Option("--run", help="Run folder to make.")]
ImportedTeacher = Annotated[str, typer.Option("--teacher", help="Whose layers a search reads off subnets.")]

# search
Budgets = Annotated[list[str] | None, typer.Option("--budgets", help="Alternatives, one answer each: 10M,25M,50M.")]
Trials = Annotated[int, typer.Option("--trials", min=1, help="Subnets to score.")]
Sampler = Annotated[
    str, typer.Option("--sampler", help="auto (evolution), evolution, random; of Optuna nsga2, tpe, optuna:random.")
]
Utterances = Annotated[int, typer.Option("--utterances", min=1, help="How many of the search split to score on.")]
MovedAudio = Annotated[str | None, typer.Option("--audio", help="The run's audio, if it has moved since.")]
Objective = Annotated[
    str, typer.Option("--objective", help="readout (of the teacher), proxy (of the tasks), or one probe: phones, …")
]
ReadTeacher = Annotated[
    str | None, typer.Option("--teacher", help="Whose layers readout predicts; default: the run's teacher.")
]

# export
ExportOut = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Subnet = Annotated[
    str, typer.Option("--subnet", help="best, largest, smallest, a candidate's id, or a file such as subnet.json.")
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--to", help="hf (always), onnx, int8 (brings onnx along), s3prl, or several: onnx,s3prl."),
]

# evaluate
Encoders = Annotated[
    list[str],
    typer.Argument(
        help="Exports, Hugging Face folders, NAME or NAME@REVISION of the hub, demo, log-mel, mfcc, untrained:NAME."
    ),
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="first (default), all, or some of phones, keywords, intent, …")
]
Split = Annotated[
    Literal["test", "dev", "both"], typer.Option("--split", help="What is scored: dev to choose by, test to report.")
]
OutOfDomain = Annotated[
    bool, typer.Option("--out-of-domain/--no-out-of-domain", help="Beside test, other voices by another synthesiser.")
]
Reference = Annotated[
    str | None, typer.Option("--reference", help="The encoder that others are compared with; default: the first.")
]
LibriSpeech = Annotated[
    Path | None, typer.Option("--librispeech", help="A LibriSpeech folder in place of the synthesised sentences.")
]
SpeechCommands = Annotated[
    Path | None, typer.Option("--speech-commands", help="A Speech Commands folder in place of the keywords.")
]
Layers = Annotated[bool, typer.Option("--layers", help="Probe every hidden state, too.")]
ScoresOut = Annotated[Path, typer.Option("--out", help="Folder of scores and page; what it knows is not scored again.")]

# measure
Timed = Annotated[
    list[str],
    typer.Argument(
        help="Exports, Hugging Face folders, NAME or NAME@REVISION of the hub, demo; the first is the reference."
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="torch, transformers, onnx, onnx-int8; default: torch and a folder's ONNX files."),
]
Threads = Annotated[list[str], typer.Option("--threads", help="How many to compute with; all: one for each core.")]
Durations = Annotated[list[str], typer.Option("--seconds", help="Durations of audio.")]
Repeats = Annotated[
    int | None, typer.Option("--repeats", help="Rounds; default: up to 20, as many as two minutes allow.")
]
FewRounds = Annotated[bool, typer.Option("--quick", help="Fewer rounds, in a quarter of a minute.")]
Memory = Annotated[bool, typer.Option("--memory/--no-memory", help="Take peak memory too, in fresh processes.")]
JsonOut = Annotated[Path | None, typer.Option("--out", help="A JSON file to write too.")]

# data
Recorded = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=lambda: list(CORPORA), help="As `nestling data list` has it.")
]
Packages = Annotated[
    Path | None,
    typer.Option("--from", help="Its .deb, a folder of them, or one they are unpacked or installed into, such as /."),
]

# space, cost
SpaceName = Annotated[str, typer.Argument(autocompletion=SPACES, help="A shipped space or a .yaml file.")]
SpaceNameOrNone = Annotated[
    str | None, typer.Argument(autocompletion=SPACES, help="A shipped space or a .yaml file; a --run brings its own.")
]
SameSpace = Annotated[str | None, typer.Option("--space", hidden=True, help="The same as NAME.")]
CountedRun = Annotated[Path | None, typer.Option("--run", help="A run, for its space, its best and its candidates.")]
CountedSubnet = Annotated[
    str, typer.Option("--subnet", help="largest, smallest, a file such as subnet.json; of a run best or an id, too.")
]
Seconds = Annotated[float, typer.Option("--seconds", help="Of audio that MACs are counted for.")]
CrossCheck = Annotated[bool, typer.Option("--cross-check", help="Count with PyTorch's counter, fvcore and thop, too.")]

# demo
Quick = Annotated[bool, typer.Option("--quick", help="The same in under 90 s, with less audio and fewer steps.")]
DemoBudget = Annotated[list[str], typer.Option("--budget", help="What the encoder may cost.")]
