"""The command line: parse, build, call, show.

Results go to stdout, progress and logs to stderr. Exit code 0: done; 1: failed; 2: the user's input or budget.
`--debug`, anywhere, shows the whole traceback of an error.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from torch import Tensor

    from checkpoints.run_folder import RunFolder, SupernetRecord
    from checkpoints.runtimes.subjects import Subject
    from distillation.stages import Recipe
    from distillation.trainer import Trainer
    from nas.latency import Ratio
    from nas.measurement import Timing
    from nas.proposals import Proposer
    from nestling.workflows.jobs import Scorer
    from search_spaces.budget import Budget
    from search_spaces.space import SearchSpace
    from speech_data.corpus import SpeechCorpus
    from speech_tasks.comparison import Cell, Comparison
    from supernet.model import Supernet

out = Console(highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 120)
log = Console(stderr=True, highlight=False, emoji=False)
MAX_LINES, MAX_LENGTH = 6, 600
"""Of an error, and of a line of it."""
REMEDIES = {
    "train": "lower batch_size or crop_seconds (--set stage-1.batch_size=4), or take a smaller --space",
    "search": "score on fewer --utterances",
    "evaluate": "score fewer encoders at a time",
    "measure": "measure shorter audio with --seconds",
    "demo": "take --quick",
}
"""Command -> what to do where memory does not suffice."""
NAMES_NOTHING = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
"""What a system answers to a name that nothing can have: whoever gave it can give another."""
UsageError: Any = typer.BadParameter.__base__
"""What typer raises of words that it does not understand; it gives no name to it."""
PLAIN_SECONDS = 10.0
"""Without a terminal, a line of progress at most this often."""

Row = dict[str, Any]

app = typer.Typer(
    name="nestling",
    help="Train one speech supernet and hatch encoders of any size from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a teacher or a supernet.", no_args_is_help=True)
search_app = typer.Typer(help="Find the best subnet under a budget.", no_args_is_help=True)
export_app = typer.Typer(help="Write a subnet as a checkpoint that stands alone.", no_args_is_help=True)
import_app = typer.Typer(help="Make somebody else's supernet a run.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(search_app, name="search")
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")

RunOption = Annotated[Path | None, typer.Option("--run", help="Run folder; default: the newest under ./runs.")]
SpaceOption = Annotated[str, typer.Option("--space", help="A shipped space or a .yaml file.")]
AudioOption = Annotated[
    str,
    typer.Option("--audio", help="A folder of audio, a JSON-lines manifest, or demo, demo-small, demo-varied."),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", help="25M · macs<=2G@1s · latency<=30ms@2s · size<=50MB · 60%; repeat: all must hold."),
]
ConfigOption = Annotated[str, typer.Option("--config", help="A shipped recipe or a .yaml file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change one value: stage-1.steps=100.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run's last checkpoint.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print steps, time and memory; train nothing.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 …")]
PrecisionOption = Annotated[str, typer.Option("--precision", help="fp32, bf16, or auto: bf16 where it is fast.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of everything that is drawn.")]
FormatOption = Annotated[Literal["text", "json"], typer.Option("--format", help="How to print the result.")]


# --- train ------------------------------------------------------------------------------------------------------------


@train_app.command("teacher")
def train_teacher(
    context: typer.Context,
    run: Annotated[Path, typer.Option("--run", help="Run folder.")] = Path("runs/teacher"),
    space: SpaceOption = "demo-teacher",
    audio: AudioOption = "demo",
    config: ConfigOption = "hubert",
    changes: SetOption = None,
    init: Annotated[
        str | None, typer.Option("--init", help="Start from an earlier teacher, so that codes come from its layers.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where the teacher goes; default: RUN/teacher.")] = None,
    resume: ResumeOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    seed: SeedOption = None,
) -> None:
    """Pre-train a small teacher by masked prediction, as HuBERT was, and write it in Hugging Face format.

    Example: nestling train teacher --audio my-audio/ --run runs/teacher
    """
    from checkpoints.export import check_folder
    from checkpoints.teachers import replace_teacher
    from nestling.workflows.jobs import describe_job

    place = to or run / "teacher"
    if not dry_run and (to or place.exists()):
        check_folder(place, run, "a teacher")
    if resume:
        supernet, folder = _resume("train teacher", run, context)
    else:
        job = describe_job("train teacher", space, init, audio, config, changes, device, precision, seed)
        if dry_run:
            return _dry_run(job)
        supernet, folder = _train(run, job, to)
    with _hinting(_how_to_go_on("train teacher", run, to)):
        replace_teacher(supernet.extract(supernet.space.container), place)
    _tell(f"The teacher is in {place}. Next: {_command('train supernet', teacher=place, audio=folder.config['audio'])}")


@train_app.command("supernet")
def train_supernet(
    context: typer.Context,
    space: SpaceOption = "base",
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            help="demo; a Hugging Face folder, NAME or NAME@REVISION of the hub (HuBERT, wav2vec 2.0, WavLM, or any "
            "network of transformers that makes 50 hidden states a second); or a .pt file of fairseq, unilm or s3prl.",
        ),
    ] = "demo",
    audio: AudioOption = "demo",
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; default: runs/SPACE.")] = None,
    config: ConfigOption = "two-stage",
    changes: SetOption = None,
    resume: ResumeOption = False,
    dry_run: DryRunOption = False,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    seed: SeedOption = None,
) -> None:
    """Distil a teacher into a supernet, in the stages of a recipe.

    Example: nestling train supernet --space base --teacher facebook/hubert-base-ls960 --audio my-audio/ --run runs/base
    """
    from nestling.workflows.jobs import describe_job

    run = run or Path("runs") / Path(space).stem
    if resume:
        _, folder = _resume("train supernet", run, context)
    else:
        job = describe_job("train supernet", space, teacher, audio, config, changes, device, precision, seed)
        if dry_run:
            return _dry_run(job)
        _, folder = _train(run, job)
    _tell(f"The supernet is in {folder.path}. Next: {_command('search subnet', run=folder.path, budget='50%')}")


def _train(path: Path, job: Row, to: Path | None = None) -> tuple[Supernet, RunFolder]:
    """Trains a new run as `job` says; `to` is the `--out` that was given."""
    from checkpoints.run_folder import RunFolder
    from nestling.workflows.jobs import build_trainer
    from search_spaces.errors import OutOfMemoryError

    RunFolder(path).check_free()
    corpus = _open_audio(job["audio"])
    screen = Screen()
    # What is wrong with the job leaves no run behind.
    trainer, record = build_trainer(RunFolder(path), job, corpus, screen.advance, _warn)
    hours = sum(u.seconds for u in corpus.utterances("train")) / 3600
    made = {"command": _command_line().removeprefix("nestling "), "data": corpus.hash, "hours": hours}
    made |= {"teacher_hash": record.teacher_hash}
    if record.revision:  # a branch may move before the run is resumed
        made |= {"teacher": f"{record.teacher}@{record.revision}"}
    run = RunFolder.create(path, {**job, **made}, job["recipe"]["seed"])
    with run.lock():
        try:
            return _run_trainer(trainer, run, record, screen, to)
        except OutOfMemoryError as error:
            if run.discard():
                raise
            raise OutOfMemoryError(
                *error.args, f"{path} keeps what was trained so far; add --resume to go on"
            ) from error


def _resume(command: str, path: Path, context: typer.Context) -> tuple[Supernet, RunFolder]:
    """Goes on with a run as its config.yaml says, but for what was typed and may change."""
    from checkpoints.run_folder import RunFolder
    from nestling.workflows.jobs import build_trainer, resume_job, resume_trainer
    from search_spaces.errors import NestlingError

    run = RunFolder.open(path)
    kept = run.config
    if "trained_on" in kept:
        raise NestlingError(f"{path} was imported; it can be searched and exported, not trained")
    if kept["command"].startswith("train ") and not kept["command"].startswith(command):
        raise NestlingError(f"{path} is no run of `{command}`: it began with nestling {kept['command']}")
    sources = {name: context.get_parameter_source(name) for name in context.params}
    asked = {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    if "dry_run" in asked:
        raise NestlingError("--dry-run tells what a new run would take; leave out --resume")
    screen = Screen()
    with run.lock(_warn):
        state = run.load_state(_warn)
        step = state["step"] if state else 0
        job, changes = resume_job(kept, asked, step)
        corpus = _open_audio(job["audio"]) if "audio" in asked else _open_audio_of(run)
        if corpus.hash != job["data"]:
            raise NestlingError(f"the audio in {job['audio']} changed since the run began; start a new run")
        trainer, record = build_trainer(run, job, corpus, screen.advance, _warn)
        if state:
            resume_trainer(trainer, run, state)
        run.cut_metrics(step)
        _note(f"resuming {path} after step {step}, as its config.yaml says")
        if changes:
            run.amend(job, {"step": step, "command": _command_line(), "changes": changes})
            _note(*(f"from here on, {key} is {after}, not {before}" for key, (before, after) in changes.items()))
        return _run_trainer(trainer, run, record, screen, asked.get("to"), step)


def _run_trainer(
    trainer: Trainer, run: RunFolder, record: SupernetRecord, screen: Screen, to: Path | None, step: int = 0
) -> tuple[Supernet, RunFolder]:
    """Trains from a step on and keeps the supernet."""
    teacher = run.config["command"].startswith("train teacher")
    with _hinting(_how_to_go_on("train teacher" if teacher else "train supernet", run.path, to)), screen:
        screen.start("train", trainer.recipe.num_steps, step)
        trainer.run()
        run.save_supernet(trainer.supernet, record)
    _show_stages(run)
    return trainer.supernet, run


def _how_to_go_on(command: str, run: Path, to: Path | None) -> str:
    options = {"run": run} if to is None else {"run": run, "out": to}
    return f"; go on with {_command(command, **options)} --resume"


def _open_audio_of(run: RunFolder, moved_to: str | None = None) -> SpeechCorpus:
    """What a run was trained on, where its config.yaml says or where it is now."""
    from search_spaces.errors import NestlingError

    config = run.config
    if moved_to is None:
        try:
            return _open_audio(config["audio"])
        except NestlingError as error:
            raise NestlingError(
                f"{error}; `audio` in {run.config_path} names it: give --audio if it has moved"
            ) from error
    corpus = _open_audio(moved_to)
    if config["data"] and corpus.hash != config["data"]:
        raise NestlingError(f"--audio {moved_to} is not the audio of {run.path}, {config['audio']}, moved: it differs")
    return corpus


def _open_audio(audio: str) -> SpeechCorpus:
    from speech_data.folder import open_folder
    from speech_data.synthesis import BY_NAME, synthesised_corpus

    if audio in BY_NAME:
        with Screen() as screen:
            return synthesised_corpus(BY_NAME[audio], on_progress=screen.reporter("synthesise speech"))
    with Screen() as screen:
        corpus = open_folder(audio, on_progress=screen.reporter("check audio"))
    for skipped in corpus.skipped[:20]:
        _warn(f"skipped {skipped.path}: {skipped.reason}")
    if len(corpus.skipped) > 20:
        _warn(f"… and {len(corpus.skipped) - 20} more")
    _note(f"{audio}: {corpus.hours_kept:.2f} hours kept, {len(corpus.skipped)} files skipped")
    return corpus


def _show_stages(run: RunFolder) -> None:
    """What each stage did to the container."""
    from nestling.workflows.run_report import summarize_stages

    table = Table(
        "stage", "steps", "container's loss", "its phone error", title="Training", title_justify="left", box=SIMPLE
    )
    for stage in summarize_stages(run.metrics()):
        phones = (stage.phone_error_before, stage.phone_error_after)
        table.add_row(
            _text(stage.name),
            str(stage.steps),
            f"{stage.loss_before:.3f} → {stage.loss_after:.3f}",
            "–" if None in phones else f"{100 * phones[0]:.1f} % → {100 * phones[1]:.1f} %",  # type: ignore[operator]
        )
    log.print(table)


def _dry_run(job: Row) -> None:
    """Runs one step of every stage on noise, and says what the whole would take."""
    from distillation.dry_run import estimate_training
    from distillation.stages import Recipe
    from search_spaces.space import SearchSpace
    from search_spaces.strict_yaml import parse_config
    from speech_data.folder import check_source
    from speech_data.synthesis import BY_NAME

    if job["audio"] not in BY_NAME:
        check_source(job["audio"])
    recipe: Recipe = parse_config(Recipe, job["recipe"])
    teacher = None
    if job["teacher"]:
        from checkpoints.teachers import load_teacher

        teacher = load_teacher(job["teacher"]).network
    space = SearchSpace.from_dict(job["space"])
    table = Table("stage", "steps", "seconds a step", "hours", title="What training would take (estimated)")
    estimate = estimate_training(space, recipe, teacher, job["precision"], job["device"])
    for stage, seconds in zip(recipe.stages, estimate.step_seconds, strict=True):
        table.add_row(_text(stage.name), str(stage.steps), f"{seconds:.2f}", f"{seconds * stage.steps / 3600:.2f}")
    out.print(table)
    out.print(f"memory: about {estimate.memory_bytes / 2**30:.1f} GiB; nothing was trained")


# --- import -----------------------------------------------------------------------------------------------------------


@import_app.command("supernet")
def import_supernet(
    file: Annotated[Path, typer.Argument(help="lighthubert_base.pt, lighthubert_small.pt or lighthubert_stage1.pt.")],
    run: Annotated[Path, typer.Option("--run", help="Run folder to make.")],
    audio: AudioOption = "demo",
    teacher: Annotated[
        str, typer.Option("--teacher", help="What the distillation loss of a search is measured against.")
    ] = "facebook/hubert-base-ls960",
) -> None:
    """Make a released LightHuBERT supernet a run, to be searched and exported. Nothing in the file is run.

    Example: nestling import supernet lighthubert_small.pt --run runs/lh-small --audio my-audio/
    """
    from checkpoints.formats.lighthubert import import_supernet as make_run
    from search_spaces.space import SearchSpace

    folder = make_run(file, run, audio, teacher)
    space = SearchSpace.from_dict(folder.config["space"])
    _tell(
        f"{folder.path}: the supernet of {space.name}, {space.count():,} subnets.",
        f"Next: {_command('search subnet', run=folder.path, budget='25M')} "
        "(with --objective proxy, no teacher is needed)",
    )


# --- search -----------------------------------------------------------------------------------------------------------


@search_app.command("subnet")
def search_subnet(
    run: RunOption = None,
    budget: BudgetOption = None,
    budgets: Annotated[str, typer.Option("--budgets", help="Alternatives, one answer each: 10M,25M,50M.")] = "",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Subnets to score.")] = 64,
    sampler: Annotated[
        str,
        typer.Option("--sampler", help="auto, evolution, random, optuna:nsga2, optuna:tpe, optuna:random."),
    ] = "auto",
    utterances: Annotated[int, typer.Option("--utterances", min=1, help="Of the search split, to score on.")] = 60,
    audio: Annotated[str | None, typer.Option("--audio", help="The run's audio, if it has moved since.")] = None,
    objective: Annotated[
        str, typer.Option("--objective", help="loss (of distillation), proxy (of the tasks), or one probe: phones, …")
    ] = "loss",
    device: DeviceOption = "cpu",
    seed: SeedOption = None,
    form: FormatOption = "text",
) -> None:
    """Find the best subnet that holds every budget.

    Example: nestling search subnet --budget 25M --budget "latency<=30ms@2s"
    """
    from checkpoints.run_folder import RunFolder
    from nestling.workflows.jobs import check_objective, open_scorer
    from search_spaces.errors import NestlingError
    from search_spaces.space import SearchSpace

    check_objective(objective)
    if budget and budgets:
        raise NestlingError("--budget is for what must hold together, --budgets for alternatives; give one of them")
    folder = RunFolder.open(run)
    _name_run(folder, run)
    space = SearchSpace.from_dict(folder.config["space"])
    texts = [[b] for b in budgets.split(",")] if budgets else [budget or []]
    parsed = [_parse_budget(text, space) for text in texts]  # all are checked before anything is spent
    _make_proposer(sampler, space)
    with _hinting("; what was scored is kept, and the same command goes on"), folder.lock(_warn), Screen() as screen:
        scorer = open_scorer(folder, _open_audio_of(folder, audio), utterances, device, _note, objective)
        results = [_search(folder, scorer, b, trials, sampler, seed or 0, screen) for b in parsed]
    if form == "json":
        print(json.dumps(results if budgets else results[0], indent=2))
        return
    for result in results:
        _show_result(result)
    _tell(f"Next: {_command('export subnet', run=folder.path, out='my-encoder')}")


def _parse_budget(texts: Sequence[str], space: SearchSpace) -> Budget:
    """The budget, proven feasible."""
    from search_spaces.budget import Budget

    budget = Budget.parse(list(texts), space)
    space.largest(budget)
    if budget.bounds and not space.binds(budget):
        _warn(f"{budget.text} does not bind: every subnet of `{space.name}` holds it")
    return budget


def _search(
    folder: RunFolder,
    scorer: Scorer,
    budget: Budget,
    trials: int,
    sampler: str,
    seed: int,
    screen: Screen,
) -> Row:
    from nas.latency import SubnetTimer, describe_load
    from nas.optuna_bridge import write_study
    from nas.record import Record
    from nas.search import Trial, search
    from nestling.workflows.search_result import RECORD, describe_result, save_result

    supernet, space = scorer.supernet, scorer.supernet.space
    record = Record(folder.search_path / RECORD, scorer.fingerprint, space.backbone)
    for doubt in record.doubts:
        _warn(doubt)
    best = float("inf")

    def on_trial(trial: Trial) -> None:
        nonlocal best
        best = min(best, trial.candidate.score.mean)
        screen.advance(f"{budget.text or 'no budget'}  best loss {best:.4f}")

    if budget.latency:
        _warn(describe_load())
    screen.start("search", trials)
    result = search(
        space,
        budget,
        scorer,
        _make_proposer(sampler, space),
        record,
        trials=trials,
        seed=seed,
        on_trial=on_trial,
        time_subnets=SubnetTimer(supernet) if budget.latency else None,
    )
    described = describe_result(result, space, scorer.name, _command_line())
    save_result(folder.search_path, described)
    with _as_by_product():
        write_study(record.candidates, space, folder.search_path / "study.db", scorer.fingerprint)
    return described


def _make_proposer(sampler: str, space: SearchSpace) -> Proposer:
    from nas.proposals import EvolutionProposer, RandomProposer
    from search_spaces.errors import NestlingError

    match sampler.partition(":"):
        case ("auto" | "evolution", _, ""):
            return EvolutionProposer(space)
        case ("random", _, ""):
            return RandomProposer(space)
        case ("optuna", _, kind):
            from nas.optuna_bridge import OptunaProposer

            return OptunaProposer(space, kind)
    raise NestlingError(
        f"--sampler {sampler}: choices are auto, evolution, random, optuna:nsga2, optuna:tpe, optuna:random"
    )


def _show_result(result: Row) -> None:
    """The winner, who comes near it, and how sure that is."""
    from nas.objective import DistillationObjective
    from nestling.reports.run_facts import short_count

    finalists = result["finalists"]
    winner = finalists[0]
    table = Table(box=SIMPLE, title=f"Budget: {result['budget'] or 'none'}", title_justify="left", pad_edge=False)
    timed = bool(result["latency_seconds"])
    for name in ("", "id", "params", "MACs@1s", "loss", "above the best", "", *(["ms"] if timed else [])):
        table.add_column(name, no_wrap=True, justify="left" if name in ("", "id") else "right")
    named = [("–", result["uniform"]), ("–", result["largest"])]
    rows = [*((str(i), row) for i, row in enumerate(finalists, start=1)), *((k, v) for k, v in named if v)]
    shown: set[str] = set()
    for label, row in rows:
        if row["id"] not in shown:
            shown.add(row["id"])
            low, high = row["excess_loss"]
            table.add_row(
                label,
                row["id"],
                short_count(row["params"]),
                short_count(row["macs_1s"]),
                f"{row['loss']:.4f}",
                "" if row is winner else f"{low:+.3f} … {high:+.3f}",
                row["origin"] + (", tied" if row["tied"] and row is not winner else ""),
                *([" ".join(f"{latency['median']:.1f}" for latency in row["latency_ms"])] if timed else []),
            )
    out.print(table)
    if result["objective"] != DistillationObjective.name:
        _tell(f"The loss is the {result['objective']}, a share.")
    used = "; ".join(f"{u['share']:.1%} of {u['bound']}" for u in result["utilization"])
    tied = result["tied"] - 1 or "none"
    out.print(
        f"Chosen: {winner['id']}, {winner['params']:,} parameters{f' ({used})' if used else ''}. "
        f"Of the other {result['scored'] - 1} that were scored, {tied} cannot be told from it."
    )


# --- export, report ---------------------------------------------------------------------------------------------------


@export_app.command("subnet")
def export_subnet(
    folder: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    run: RunOption = None,
    subnet: Annotated[str, typer.Option("--subnet", help="best, a candidate's id, or a subnet.json.")] = "best",
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="hf (always), onnx, int8 (brings onnx along), s3prl; repeat, or a,b."),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Write the chosen subnet as a folder that `transformers` opens, and other runtimes on request; prove it first.

    Example: nestling export subnet --subnet best --to onnx,int8 --out my-encoder
    """
    from checkpoints.export import check_folder, check_targets
    from checkpoints.run_folder import RunFolder
    from search_spaces.quoting import python_literal

    targets = tuple(name.strip() for names in to or ["hf"] for name in names.split(","))
    check_targets(targets)
    opened = RunFolder.open(run)
    _name_run(opened, run)
    check_folder(folder, opened.path)
    report = _export(opened, subnet, folder, targets)
    if form == "json":
        print(json.dumps({**report, "folder": str(folder)}, indent=2))
        return
    _tell(
        f"{folder}: {report['params']:,} parameters, {report['size_bytes'] / 1e6:.1f} MB, "
        f"equal to the supernet within {report['error']:.1e} in {', '.join(report['proven_in'])}."
    )
    if report["int8_bytes"]:
        _tell(f"In int8: {report['int8_bytes'] / 1e6:.1f} MB, hidden states off by up to {report['int8_error']:.1%}.")
    trust = "" if report["plain"] else ", trust_remote_code=True"
    _tell(f"Load it: AutoModel.from_pretrained({python_literal(str(folder))}{trust})")


def _export(run: RunFolder, name: str, folder: Path, targets: Sequence[str] = ("hf",)) -> Row:
    from checkpoints.export import INT8, export_subnet
    from nestling.reports.model_card import model_card
    from nestling.workflows.run_report import collect_record
    from nestling.workflows.search_result import find_subnet, load_result
    from search_spaces.budget import Budget

    supernet = run.load_supernet()
    subnet = find_subnet(run.search_path, name, supernet.space)
    text = load_result(run.search_path, supernet.space).budget if name == "best" else ""
    _note(f"exporting {subnet.id} of {run.path}; what is written is opened again and compared")
    report = export_subnet(
        supernet,
        subnet,
        folder,
        budget=Budget.parse(text, supernet.space),
        card=model_card(collect_record(run, subnet, _command_line())),
        to=targets,
        audio=_sample_speech(run) if INT8 in targets else (),
    )
    if report.kept_card:
        _warn(f"the model card in {folder} was not as an export had left it; it is kept as {report.kept_card}")
    return {
        "id": subnet.id,
        "params": report.params,
        "macs_1s": report.macs,
        "size_bytes": report.size_bytes,
        "plain": report.plain,
        "error": max(report.errors.values()),
        "proven_in": list(report.errors),
        "int8_bytes": report.int8_bytes,
        "int8_error": report.int8_error,
    }


def _sample_speech(run: RunFolder) -> list[Tensor]:
    """A little of the run's audio, to measure the error of int8 on; nothing where it is gone."""
    from nestling.workflows.jobs import sample_speech
    from search_spaces.errors import NestlingError

    try:
        return sample_speech(_open_audio_of(run), 8)
    except NestlingError as error:
        _warn(f"the error of int8 is measured on noise: {error}")
        return []


@app.command()
def report(run: RunOption = None) -> None:
    """Write report.html of a run, whatever is known by now.

    Example: nestling report --run runs/demo
    """
    from checkpoints.run_folder import RunFolder

    folder = RunFolder.open(run)
    _name_run(folder, run)
    _tell(f"The report is in {_write_report(folder)}")


def _write_report(folder: RunFolder) -> Path:
    from nestling.reports.run_page import write_report
    from nestling.reports.still_picture import save_picture
    from nestling.workflows.run_report import collect_report

    report = collect_report(folder)
    write_report(report, folder.report_path)
    if report.chosen:
        with _as_by_product():
            save_picture(report, folder.report_path.with_suffix(".svg"))
    return folder.report_path


# --- evaluate ---------------------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Exports, Hugging Face folders, NAME or NAME@REVISION of the hub, demo, log-mel, mfcc, untrained:NAME."
        ),
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="phones, keywords, intent, …; first (default) or all; repeat.")
    ] = None,
    split: Annotated[
        Literal["test", "dev", "both"],
        typer.Option("--split", help="What is scored: dev to choose by, test to report."),
    ] = "test",
    out_of_domain: Annotated[
        bool,
        typer.Option("--out-of-domain/--no-out-of-domain", help="Beside test, other voices by another synthesiser."),
    ] = True,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The encoder that others are compared with; default: the first.")
    ] = None,
    librispeech: Annotated[
        Path | None, typer.Option("--librispeech", help="A LibriSpeech folder in place of the synthesised sentences.")
    ] = None,
    speech_commands: Annotated[
        Path | None, typer.Option("--speech-commands", help="A Speech Commands folder in place of the keywords.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Probe every hidden state too.")] = False,
    to: Annotated[Path, typer.Option("--out", help="Folder of scores and page; what it knows is not scored again.")] = (
        Path("runs/evaluation")
    ),
    form: FormatOption = "text",
) -> None:
    """Score frozen encoders side by side: small heads on their hidden states, with 95% intervals.

    Example: nestling evaluate my-encoder demo log-mel --task first --reference demo
    """
    from checkpoints.representations import open_representation
    from nestling.workflows.evaluation import Ledger, evaluate_encoders, name_apart, view_layers, write_evaluation_page
    from search_spaces.files import check_writable
    from speech_tasks.comparison import Comparison, find_reference
    from speech_tasks.layer_view import LayerProbe
    from speech_tasks.materials import open_materials
    from speech_tasks.suite import COMMANDS, SENTENCES, build_tasks, find_materials, find_tasks

    check_writable(to, "--out", folder=True)
    tasks = find_tasks([name for names in task or ["first"] for name in names.split(",")])
    encoders = [open_representation(source) for source in dict.fromkeys(sources)]
    names = name_apart(encoders)
    place = find_reference([(name, e.source) for name, e in zip(names, encoders, strict=True)], reference)
    ledger = Ledger(to)
    with Screen() as screen:
        materials = open_materials(
            dict.fromkeys([*find_materials(tasks), *([SENTENCES, COMMANDS] if layers else [])]),
            scored=split,
            out_of_domain=out_of_domain,
            librispeech=librispeech,
            speech_commands=speech_commands,
            on_progress=screen.show,
            say=_warn,
        )
        entries = evaluate_encoders(encoders, build_tasks(tasks, materials), split, ledger, screen.show, _note)
        probe = LayerProbe(materials[SENTENCES], materials[COMMANDS]) if layers else None
        views = view_layers(encoders, place, probe, split, ledger, screen.show) if probe else []
    comparison = Comparison(entries, names[place])
    page = None
    with _as_by_product():
        page = write_evaluation_page(comparison, dict(zip(names, views, strict=False)), split, _command_line(), to)
    if form == "json":
        print(json.dumps({"split": split, **comparison.to_dict(), "page": page and str(page)}, indent=2))
        return
    _show_comparison(comparison)
    _tell(comparison.caveat + (f" More in {page}." if page else ""))


def _show_comparison(comparison: Comparison) -> None:
    """Every metric, five to a table, and what the marks mean."""
    from speech_tasks.comparison import BOTTOM_LINE, MEAN
    from speech_tasks.task import IN_DOMAIN

    columns = [*comparison.metrics, MEAN]
    scored = any(comparison.score(entry, IN_DOMAIN) is not None for entry in comparison.entries)
    for first in range(0, len(columns), 5):
        out.print(_comparison_table(comparison, columns[first : first + 5], first == 0, scored))
    said = ["± is half of the 95 % interval"]
    if len(comparison.entries) > 1:
        said.append(f"▲ better, ▼ worse than {comparison.reference.name} by more than the paired interval")
    if scored:
        said.append(f"score: 0 is {BOTTOM_LINE}, 1000 is {comparison.reference.name}")
    over = {condition: comparison.counted(condition) for condition in comparison.conditions}
    if len(set(over.values())) > 1:
        said += [f"{MEAN} {condition}: over {', '.join(metrics)}" for condition, metrics in over.items()]
    _tell("; ".join(said) + ".")
    for remark in comparison.remarks:
        _tell(remark)


def _comparison_table(comparison: Comparison, metrics: Sequence[str], costs: bool, scored: bool) -> Table:
    """A row for each encoder and condition; the last table, that with the mean, has the score too."""
    from nestling.reports.run_facts import short_count
    from speech_tasks.comparison import MEAN, describe_metric

    def cost(count: int | None) -> str:
        return short_count(count) if count is not None else "–"

    scored = scored and MEAN in metrics
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("encoder", overflow="fold", max_width=22)
    for name in [*(["params", "MACs@1s"] if costs else []), *metrics, *(["score"] if scored else [])]:
        metric = describe_metric(name) if name in metrics else None
        unit = f"\n{metric.unit} {'↑' if metric.higher_is_better else '↓'}" if metric else ""
        table.add_column(f"{name}{unit}", justify="right", no_wrap=True)
    for entry in comparison.entries:
        for condition in comparison.conditions:
            first = condition == comparison.conditions[0]
            score = comparison.score(entry, condition)
            table.add_row(
                _text(entry.name if first else f"  {condition}"),
                *([cost(n) if first else "" for n in (entry.params, entry.macs_1s)] if costs else []),
                *(_show_cell(comparison.cell(entry, name, condition)) for name in metrics),
                *(["–" if score is None else f"{score:.0f}"] if scored else []),
                style="" if first else "dim",
            )
    return table


def _show_cell(cell: Cell | None) -> str:
    """`12.3 ± 0.4 ▲`."""
    from speech_tasks.comparison import format_value

    if cell is None:
        return "–"
    name, score = cell.score.metric, cell.score
    mark = {"better": " [green]▲[/]", "worse": " [red]▼[/]", "": "  "}[cell.verdict]
    return f"{format_value(name, score.value)} ± {format_value(name, score.half_interval)}{mark}"


# --- measure ----------------------------------------------------------------------------------------------------------


@app.command()
def measure(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Exports, Hugging Face folders, NAME or NAME@REVISION of the hub, demo; the first is the reference."
        ),
    ],
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="torch,transformers,onnx,onnx-int8; default: torch and a folder's ONNX files."),
    ] = None,
    threads: Annotated[str, typer.Option("--threads", help="Numbers of threads; all: one for each core.")] = "1,all",
    seconds: Annotated[str, typer.Option("--seconds", help="Of audio.")] = "1,2,5,10,20",
    repeats: Annotated[
        int | None, typer.Option("--repeats", help="Rounds; default: up to 20, as many as two minutes allow.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: a quarter of a minute.")] = False,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Peak memory, in fresh processes.")] = True,
    to: Annotated[Path | None, typer.Option("--out", help="A JSON file to write too.")] = None,
    form: FormatOption = "text",
) -> None:
    """Time encoders side by side on this machine, in each runtime, and take their peak memory.

    Example: nestling measure my-encoder demo --runtime torch,onnx --seconds 1,5,20
    """
    from checkpoints.runtimes.subjects import find_subjects, parse_runtimes
    from nas.latency import MIN_REPEATS, describe_load
    from nas.measurement import PAUSE_S, QUICK_S, TOTAL_S, count_cores, measure_encoders, parse_seconds, parse_threads
    from search_spaces.errors import NestlingError
    from search_spaces.files import check_writable, write_file

    if to:
        check_writable(to, "--out", folder=False)
    if quick and repeats is not None:
        raise NestlingError("--quick and --repeats both say how many rounds; give one of them")
    if repeats is not None and repeats < MIN_REPEATS:
        raise NestlingError(f"--repeats must be at least {MIN_REPEATS}, got {repeats}")
    counts, durations = parse_threads(threads, count_cores()), parse_seconds(seconds)
    subjects = find_subjects(list(dict.fromkeys(sources)), None if runtime is None else parse_runtimes(runtime), _warn)
    _warn(before := describe_load())
    with Screen() as screen:
        contestants = [contestant for subject in subjects for contestant in subject.open()]
        limit_s = QUICK_S if quick else TOTAL_S
        timings = measure_encoders(contestants, durations, counts, repeats, limit_s, screen.show, pause_s=PAUSE_S)
        _warn(after := describe_load(own=max(counts)))
        memories = _measure_memory(subjects, durations[-1], max(counts), screen) if memory else []
    values = _describe_measurement(timings, memories, [text for text in (before, after) if text])
    text = json.dumps(values, indent=2)
    if form == "json":
        print(text)
    else:
        _show_timings(timings, durations)
        _show_memory(memories)
        _tell(values["made_on"])
    if to:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_file(to, text + "\n")
        if form == "text":
            _tell(f"All of it is in {to}.")


def _measure_memory(subjects: Sequence[Subject], seconds: float, threads: int, screen: Screen) -> list[Row]:
    from checkpoints.runtimes.peak_memory import measure_memory

    pairs = [(subject, runtime) for subject in subjects for runtime in subject.runtimes]
    rows = []
    for done, (subject, runtime) in enumerate(pairs):
        screen.show("memory", done, len(pairs))
        found = measure_memory(subject.folder, runtime, seconds, threads)
        rows.append(
            {"encoder": subject.name, "runtime": runtime, "seconds": seconds, "threads": threads, **found.to_dict()}
        )
    return rows


def _describe_measurement(timings: Sequence[Timing], memories: Sequence[Row], warnings: Sequence[str]) -> Row:
    """All that was measured, and on what."""
    from checkpoints.run_folder import made_with
    from checkpoints.runtimes.onnx_session import runtime_version
    from nas.measurement import count_cores, name_processor

    versions = {**made_with(), "onnxruntime": runtime_version()}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version and name != "commit")
    return {
        "command": _command_line(),
        "made_on": f"{name_processor()}, {count_cores()} cores; {shown}.",
        "made_with": versions,
        "warnings": warnings,
        "timings": [timing.to_dict() for timing in timings],
        "memory": memories,
    }


def _show_timings(timings: Sequence[Timing], durations: Sequence[float]) -> None:
    """For each number of threads, every encoder and runtime, five durations to a table; and what the rows mean."""
    for count in dict.fromkeys(timing.threads for timing in timings):
        for first in range(0, len(durations), 5):
            shown = durations[first : first + 5]
            out.print(_timing_table([t for t in timings if t.threads == count and t.seconds in shown], shown))
    said = [
        "ms: median for a waveform alone, ± half of its 95% interval",
        "× real time: seconds of audio in a second, more is faster",
    ]
    if references := dict.fromkeys(timing.reference for timing in timings if timing.reference):
        names = " or ".join(references)
        said.append(f"ratio: time over that of {names} in the same runtime; ▲ faster, ▼ slower by its paired interval")
    if any(timing.front_end for timing in timings):
        said.append("front-end: its share of the time; the rest is the Transformer's")
    _tell("; ".join(said) + ".")


def _timing_table(timings: Sequence[Timing], durations: Sequence[float]) -> Table:
    """A block of rows for each encoder and runtime."""
    from nas.measurement import count_threads

    table = Table(
        title=f"Time on {count_threads(timings[0].threads)}", title_justify="left", box=SIMPLE, pad_edge=False
    )
    table.add_column("encoder", overflow="fold", max_width=22)
    table.add_column("")
    for seconds in durations:
        table.add_column(f"{seconds:g} s", justify="right", no_wrap=True)
    for encoder, runtime in dict.fromkeys((t.encoder, t.runtime) for t in timings):
        row = [t for t in timings if (t.encoder, t.runtime) == (encoder, runtime)]
        table.add_row(_text(encoder), "ms", *(_show_time(t) for t in row))
        table.add_row(f"  {runtime}", "× real time", *(_figure(t.times_real_time) for t in row), style="dim")
        if row[0].ratio:
            table.add_row("", "ratio", *(_show_ratio(t.ratio) for t in row if t.ratio), style="dim")
        if row[0].front_end:
            shares = (f"{t.front_end.median:.0%}" for t in row if t.front_end)
            table.add_row("", "front-end", *shares, style="dim")
    table.add_row("", "rounds", *(str(len(t.latency.rounds_ms)) for t in row), style="dim")
    return table


def _show_time(timing: Timing) -> str:
    """`12.3 ± 0.4`."""
    latency = timing.latency
    return f"{_figure(latency.median_ms)} ± {_figure((latency.high_ms - latency.low_ms) / 2)}"


def _show_ratio(ratio: Ratio) -> str:
    """`0.52 ± 0.01 ▲`."""
    mark = "  " if ratio.tied else " [green]▲[/]" if ratio.high < 1 else " [red]▼[/]"
    return f"{_figure(ratio.median)} ± {_figure((ratio.high - ratio.low) / 2)}{mark}"


def _figure(value: float) -> str:
    """Three digits or more: `0.52`, `12.3`, `1234`."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _show_memory(memories: Sequence[Row]) -> None:
    """What an encoder adds to its runtime, and what was measured."""
    from nas.measurement import count_threads

    if not memories:
        return
    table = Table(title="Peak memory, MB", title_justify="left", box=SIMPLE, pad_edge=False)
    table.add_column("encoder", overflow="fold", max_width=40)
    for name in ("runtime", "encoder adds", "runtime alone", "in all"):
        table.add_column(name, justify="left" if name == "runtime" else "right", no_wrap=True)
    for row in memories:
        sizes = (row[f"{part}_bytes"] / 1e6 for part in ("encoder", "import", "peak"))
        table.add_row(_text(row["encoder"]), row["runtime"], *(f"{size:.0f}" for size in sizes))
    out.print(table)
    _tell(
        "Memory: the highest resident memory of a fresh process that imports the runtime (alone: so far), opens the "
        f"encoder and encodes {memories[0]['seconds']:g} s of audio with {count_threads(memories[0]['threads'])}."
    )


# --- space, cost ------------------------------------------------------------------------------------------------------


@app.command()
def space(
    name: Annotated[str, typer.Argument(help="A shipped space or a .yaml file.")],
    budget: BudgetOption = None,
    form: FormatOption = "text",
) -> None:
    """Profile a space: how many subnets it has and how many hold a budget, exactly.

    Example: nestling space lighthubert-small --budget 25M
    """
    from nestling.workflows.search_result import describe_cost
    from search_spaces.budget import Budget, format_count
    from search_spaces.space import SearchSpace

    loaded = SearchSpace.load(name)
    parsed = Budget.parse(budget or [], loaded)
    profile = loaded.profile(parsed)
    if profile.fitting == 0:
        loaded.largest(parsed)  # raises, with the conflict and the nearest feasible value
    assert profile.smallest_fitting
    assert profile.largest_fitting
    if form == "json":
        values = {
            "space": loaded.name,
            "budget": parsed.text,
            "subnets": profile.total,
            "fitting": profile.fitting,
            "binds": profile.fitting < profile.total,
            "smallest": describe_cost(loaded, profile.smallest_fitting),
            "largest": describe_cost(loaded, profile.largest_fitting),
            "container": describe_cost(loaded, loaded.container),
            "front_end_floor": {"params": profile.floor_params, "macs_1s": profile.floor_macs},
        }
        print(json.dumps(values, indent=2))
        return
    table = Table(
        "", "least", "median", "most", "front-end floor", title=_text(f"{loaded.name}: {profile.total:,} subnets")
    )
    for label, span, floor, share in (
        ("parameters", profile.params, profile.floor_params, profile.floor_params_share),
        ("MACs @1s", profile.macs, profile.floor_macs, profile.floor_macs_share),
    ):
        table.add_row(
            label,
            f"{span.least:,}",
            f"{span.median:,}",
            f"{span.most:,}",
            f"{floor:,} ({share:.0%} of least)",
        )
    out.print(table)
    if parsed.bounds:
        out.print(f"{parsed.text}: {profile.fitting:,} subnets hold it ({profile.fitting_share:.2%})")
        for label, subnet in (("smallest", profile.smallest_fitting), ("largest", profile.largest_fitting)):
            cost = describe_cost(loaded, subnet)
            out.print(
                f"  {label} {cost['id']}: {cost['params']:,} parameters, {format_count(cost['macs_1s'])} MACs @1s"
            )
        if profile.fitting == profile.total:
            out.print("  the budget does not bind: every subnet holds it")
    out.print("Parameters are counted as transformers counts a HubertModel: no prediction heads.")


@app.command()
def cost(
    space: SpaceOption,
    subnet: Annotated[str, typer.Option("--subnet", help="largest, smallest, or a subnet.json.")] = "largest",
    seconds: Annotated[float, typer.Option("--seconds", help="Of audio, for MACs.")] = 1.0,
    cross_check: Annotated[bool, typer.Option("--cross-check", help="Beside PyTorch's counter, fvcore, thop.")] = False,
    form: FormatOption = "text",
) -> None:
    """Count what a subnet costs, by module group; compare with other counters.

    Example: nestling cost --space base --subnet largest --cross-check
    """
    from nestling.workflows.search_result import load_subnet
    from search_spaces.costs import breakdown
    from search_spaces.errors import NestlingError
    from search_spaces.space import SearchSpace

    loaded = SearchSpace.load(space)
    if subnet in ("largest", "smallest"):  # a file of that name is ./largest
        chosen = loaded.container if subnet == "largest" else loaded.smallest()
    else:
        if not Path(subnet).is_file():
            raise NestlingError(f"--subnet {subnet}: give largest, smallest or a subnet.json")
        chosen = load_subnet(Path(subnet), loaded)
    parts = breakdown(loaded.backbone, chosen, seconds)
    checks = []
    if cross_check:
        from nas.cross_check import cross_check as count_with_tools

        checks = count_with_tools(loaded.backbone, chosen, seconds)
    if form == "json":
        groups = {name: {"params": p, "macs": m} for name, (p, m) in parts.items()}
        print(
            json.dumps(
                {
                    "id": chosen.id,
                    "seconds": seconds,
                    "groups": groups,
                    "checks": [{**asdict(check), "exact": check.exact} for check in checks],
                },
                indent=2,
            )
        )
        return
    table = Table("group", "parameters", f"MACs @{seconds:g}s", title=_text(f"{loaded.name}/{chosen.id}"))
    for name, (params, macs) in parts.items():
        table.add_row(name, f"{params:,}", f"{macs:,}")
    table.add_row("total", *(f"{sum(p[i] for p in parts.values()):,}" for i in (0, 1)), style="bold")
    out.print(table)
    if checks:
        table = Table("", "tool", "as it says", "corrected", "", "correction", title="Other counters, the same encoder")
        for check in checks:
            verdict = "exact" if check.exact else f"closed form {check.expected:,}"
            table.add_row(
                check.quantity, check.tool, f"{check.raw:,}", f"{check.corrected:,}", verdict, check.correction
            )
        out.print(table)


# --- demo -------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="The same in under 90 s: less audio, fewer steps.")] = False,
    run: Annotated[Path, typer.Option("--run", help="Run folder.")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option("--budget", help="For the search.")] = "1M",
) -> None:
    """The whole job on the embedded default: train, search, export, report.

    Example: nestling demo --quick
    """
    from nestling.workflows.demo import describe_demo, measure_sizes
    from nestling.workflows.jobs import open_scorer
    from search_spaces.space import SearchSpace

    began = time.monotonic()
    run = _fresh(run)
    job = describe_demo(quick)
    parsed = _parse_budget([budget], SearchSpace.from_dict(job["space"]))
    _, folder = _train(run, job)
    with folder.lock(), Screen() as screen:
        scorer = open_scorer(folder, _open_audio(job["audio"]), 16 if quick else 40, "cpu", _note)
        result = _search(folder, scorer, parsed, 20 if quick else 64, "auto", 0, screen)
    _show_result(result)
    exported = folder.path / "encoder"
    with folder.lock(), Screen() as screen:
        screen.start("phone error on test", None)
        measure_sizes(folder, quick, screen.advance)
    _export(folder, "best", exported)
    path = _write_report(folder)
    _tell("", f"The encoder is in {exported}, the report in {path} ({time.monotonic() - began:.0f} s).")


def _fresh(path: Path) -> Path:
    """`path`, or the first of path-2, path-3 … that is free: a demo never overwrites a run."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _tell(*lines: str) -> None:
    """Prints a result."""
    _print(out, lines)


def _note(*lines: str) -> None:
    """Says what is going on."""
    _print(log, lines)


def _warn(*lines: str | None) -> None:
    """Says what the user should know, if there is anything."""
    _print(log, [line for line in lines if line], "yellow")


def _print(console: Console, lines: Sequence[str], style: str = "") -> None:
    """Lines as they are: none is broken, no bracket is read as markup, and what cannot be seen is shown."""
    from search_spaces.quoting import printable

    for line in lines:
        console.print(Text(printable(line), style), soft_wrap=True)


def _text(value: str) -> str:
    """Somebody else's words in a table, in rich's markup."""
    from search_spaces.quoting import printable

    return escape(printable(value))


def _command(command: str, **options: object) -> str:
    """What to type next."""
    from search_spaces.quoting import shell_command

    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shell_command(["nestling", *command.split(), *words])


@contextmanager
def _as_by_product() -> Iterator[None]:
    """Warns of what could not be written where the result is complete without it."""
    from search_spaces.errors import FailedError

    try:
        yield
    except FailedError as error:
        _warn(str(error))


@contextmanager
def _hinting(hint: str) -> Iterator[None]:
    """Whoever stops this is told how to go on."""
    try:
        yield
    except Stopped as stop:
        stop.hint = stop.hint or hint
        raise


def _name_run(folder: RunFolder, asked: Path | None) -> None:
    if asked is None:
        _note(f"run: {folder.path}")


def _command_line() -> str:
    """What was typed, as a shell would read it again."""
    from search_spaces.quoting import shell_command

    return shell_command(["nestling", *sys.argv[1:]])


# --- what the user sees -----------------------------------------------------------------------------------------------


class Screen:
    """A progress bar on a terminal, a line now and then elsewhere; on stderr."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=log,
            transient=True,
        )
        self._task: Any = None
        self._name, self._done, self._spoke = "", 0, time.monotonic()
        self._total: int | None = None

    def __enter__(self) -> Screen:
        if log.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if log.is_terminal:
            self._bar.stop()

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """Begins a piece of work of `total` steps."""
        from search_spaces.quoting import printable

        self._name, self._total, self._done = name, total, done
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(printable(name), total=total, completed=done, note="")

    def advance(self, note: str = "") -> None:
        """One step is done."""
        self._done += 1
        self._bar.update(self._task, advance=1, note=note)
        self._speak(note)

    def show(self, name: str, done: int, total: int | None) -> None:
        """How far a piece of work is that counts by itself; another name begins another piece."""
        if self._task is None or self._name != name:
            self.start(name, total)
        self._done, self._total = done, total
        self._bar.update(self._task, completed=done, total=total)
        self._speak()

    def reporter(self, name: str) -> Callable[[int, int], None]:
        """A callback (done, total) for a piece of work that counts by itself."""
        return lambda done, total: self.show(name, done, total)

    def _speak(self, note: str = "") -> None:
        """Without a terminal: a line, unless the last was just now."""
        if log.is_terminal or time.monotonic() - self._spoke < PLAIN_SECONDS:
            return
        self._spoke = time.monotonic()
        done = f" {self._done}/{self._total or '?'}" if self._done or self._total else ""
        _note(f"{self._name}{done}  {note}".rstrip())


class Stopped(BaseException):
    """Ctrl-C or a signal to end; `hint` says how to go on."""

    def __init__(self, number: int, _frame: object = None) -> None:
        super().__init__(number)
        self.number, self.hint = number, ""


def _raise_stopped(number: int, frame: object) -> None:
    raise Stopped(number, frame)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Signals to end raise `Stopped`, unless the shell had them ignored, as it does in the background of a script."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _raise_stopped) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Runs the command line.

    What a user caused ends in a short message and exit code 2, a machine that refused in exit code 1. Anything else
    is a fault of ours: it says so, keeps its traceback in a file, and ends in exit code 1. A signal ends in 128 and its
    number, and says how to go on.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not take a core from working ones
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # no result is lost over an arrow that latin-1 lacks
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        with _stoppable():
            code = app(prog_name="nestling", standalone_mode=False)
    except Stopped as stop:
        _note(f"stopped{stop.hint}")
        code = 128 + stop.number
    except Exception as error:  # the last door
        if debug and not isinstance(error, UsageError):
            raise
        code = _explain(error)
    sys.exit(code)


def _open_closed_streams() -> None:
    """What the shell closed (`>&-`) takes anything and shows nothing: else the next file would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end


def _explain(error: Exception) -> int:
    """Prints a few lines in place of a traceback; returns the exit code."""
    from search_spaces.errors import NestlingError, OutOfMemoryError, describe_shortage
    from search_spaces.quoting import printable

    if not isinstance(error, NestlingError | UsageError) and (shortage := describe_shortage(error)):
        remedy = REMEDIES.get(next(iter(sys.argv[1:]), ""), "ask for less")
        error = OutOfMemoryError(f"{shortage}; {remedy}, or close other programs")
    if isinstance(error, OSError) and error.errno in NAMES_NOTHING:
        error = NestlingError(f"{error.filename}: {error.strerror}; give another name")
    if isinstance(error, NestlingError):
        first, *more = map(str, error.args)
        if len(more) >= MAX_LINES:
            more = [*more[: MAX_LINES - 2], f"and {len(more) - MAX_LINES + 2} more"]
        more = [f"  {line}" for line in more]
    elif isinstance(error, UsageError):
        first, more = _explain_usage(error)
    elif isinstance(error, OSError):
        first, more = str(error), []
    else:
        said = traceback.format_exception_only(error)[-1].strip().splitlines()
        first, more = f"this is a fault of Nestling, not yours: {said[0]}", [_keep_traceback(error)]
    if first:  # there is nothing to say where no word was typed: the help has been printed
        log.print(Text.assemble(("error:", "bold red"), " ", _shorten(printable(first))), soft_wrap=True)
        _note(*map(_shorten, more))
    return error.exit_code if isinstance(error, NestlingError | UsageError) else 1


def _shorten(line: str) -> str:
    """A line without its middle, if it is very long: its ends say what is wrong, and what to do."""
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH // 2]} … {line[-MAX_LENGTH // 2 :]}"


def _explain_usage(error: Any) -> tuple[str, list[str]]:
    """What is wrong with the words that were typed, and where the right ones are."""
    text = error.format_message().removesuffix(".").replace("Value error, ", "")
    return text, [f"  {error.ctx.command_path} --help shows what there is"] if error.ctx else []


def _keep_traceback(error: Exception) -> str:
    """Writes a traceback into a file of its own; says where it is, and what to do with it."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="nestling-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n\n")
            traceback.print_exception(error, file=file)
    except OSError:
        return "run it again with --debug to see where"
    return f"where it happened is in {file.name}; please report it with that file (--debug shows it at once)"


if __name__ == "__main__":
    main()
