"""The command line: parse, build, call, show.

Results go to stdout, progress and logs to stderr. Exit code 0: done; 1: failed; 2: the user's input or budget.
`--debug`, anywhere, shows the whole traceback of an error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nestling.ending import Stopped, UsageError, explain, hinting, open_closed_streams, stoppable
from nestling.reports.terminal import Screen, command_line, next_command, note, tell, warn

if TYPE_CHECKING:
    from checkpoints.export import ExportReport
    from checkpoints.run_folder import RunFolder
    from supernet.model import Supernet

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
    from checkpoints.saving import replace_teacher
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
    with hinting(lambda: _how_to_go_on(run, to)):
        replace_teacher(supernet.extract(supernet.space.container), place)
    following = next_command("train supernet", teacher=place, audio=folder.config["audio"])
    tell(f"The teacher is in {place}. Next: {following}")


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
    tell(f"The supernet is in {folder.path}. Next: {next_command('search subnet', run=folder.path, budget='50%')}")


def _train(path: Path, job: Row, to: Path | None = None) -> tuple[Supernet, RunFolder]:
    """Trains a new run; `to` is the `--out` that was given."""
    from nestling.workflows.train import train

    with hinting(lambda: _how_to_go_on(path, to)), Screen() as screen:
        supernet, folder = train(path, job, command_line().removeprefix("nestling "), screen)
    _show_stages(folder)
    return supernet, folder


def _resume(kind: str, path: Path, context: typer.Context) -> tuple[Supernet, RunFolder]:
    """Goes on with a run, but for what was typed and may change."""
    from nestling.workflows.train import resume

    sources = {name: context.get_parameter_source(name) for name in context.params}
    asked = {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    with hinting(lambda: _how_to_go_on(path, asked.get("to"))), Screen() as screen:
        supernet, folder = resume(kind, path, asked, command_line(), screen)
    _show_stages(folder)
    return supernet, folder


def _how_to_go_on(path: Path, to: Path | None = None) -> str:
    """What to type to go on with a run, if there is one by now."""
    from checkpoints.run_folder import RunFolder

    if not RunFolder(path).config_path.exists():
        return ""
    teacher = RunFolder(path).config["command"].startswith("train teacher")
    options = {"run": path} if to is None else {"run": path, "out": to}
    return f"; go on with {next_command('train teacher' if teacher else 'train supernet', **options)} --resume"


def _show_stages(run: RunFolder) -> None:
    from nestling.reports.search_table import show_stages
    from nestling.workflows.run_report import summarize_stages

    show_stages(summarize_stages(run.metrics()))


def _dry_run(job: Row) -> None:
    from nestling.reports.search_table import show_estimate
    from nestling.workflows.train import estimate

    recipe, found = estimate(job)
    show_estimate(recipe.stages, found.step_seconds, found.memory_bytes)


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
    tell(
        f"{folder.path}: the supernet of {space.name}, {space.count():,} subnets.",
        f"Next: {next_command('search subnet', run=folder.path, budget='25M')} "
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
    from nestling.reports.search_table import show_result
    from nestling.workflows.audio import open_audio_of
    from nestling.workflows.scoring import check_objective, open_scorer
    from nestling.workflows.search import find_best, make_proposer, parse_budget, search
    from search_spaces.errors import NestlingError
    from search_spaces.space import SearchSpace

    check_objective(objective)
    if budget and budgets:
        raise NestlingError("--budget is for what must hold together, --budgets for alternatives; give one of them")
    folder = RunFolder.open(run)
    _name_run(folder, run)
    space = SearchSpace.from_dict(folder.config["space"])
    texts = [[b] for b in budgets.split(",")] if budgets else [budget or []]
    with hinting("; what was scored is kept, and the same command goes on"), Screen() as screen:
        parsed = [parse_budget(text, space, screen) for text in texts]  # all are checked before anything is spent
        make_proposer(sampler, space)
        with folder.lock(warn):
            scorer = open_scorer(folder, open_audio_of(folder, screen, audio), utterances, device, note, objective)
            before = find_best(folder, space)
            results = [search(folder, scorer, b, trials, sampler, seed or 0, command_line(), screen) for b in parsed]
    chosen = results[-1]["finalists"][0]["id"]
    if before not in (None, chosen):
        note(f"`best` is {chosen} from now on; it was {before}: --subnet {before} still names that")
    if form == "json":
        print(json.dumps(results if budgets else results[0], indent=2))
        return
    for result in results:
        show_result(result)
    tell(f"Next: {next_command('export subnet', run=folder.path, out='my-encoder')}")


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
    from nestling.workflows.export import export
    from search_spaces.quoting import python_literal

    targets = tuple(name.strip() for names in to or ["hf"] for name in names.split(","))
    check_targets(targets)
    opened = RunFolder.open(run)
    _name_run(opened, run)
    check_folder(folder, opened.path)
    with Screen() as screen:
        report = export(opened, subnet, folder, targets, command_line(), screen)
    if form == "json":
        print(json.dumps({**_describe_export(report), "folder": str(folder)}, indent=2))
        return
    tell(
        f"{folder}: {report.params:,} parameters, {report.size_bytes / 1e6:.1f} MB, "
        f"equal to the supernet within {max(report.errors.values()):.1e} in {', '.join(report.errors)}."
    )
    if report.int8_bytes:
        tell(f"In int8: {report.int8_bytes / 1e6:.1f} MB, hidden states off by up to {report.int8_error:.1%}.")
    trust = "" if report.plain else ", trust_remote_code=True"
    tell(f"Load it: AutoModel.from_pretrained({python_literal(str(folder))}{trust})")


def _describe_export(report: ExportReport) -> Row:
    return {
        "id": report.subnet.id,
        "params": report.params,
        "macs_1s": report.macs,
        "size_bytes": report.size_bytes,
        "plain": report.plain,
        "error": max(report.errors.values()),
        "proven_in": list(report.errors),
        "int8_bytes": report.int8_bytes,
        "int8_error": report.int8_error,
    }


@app.command()
def report(run: RunOption = None) -> None:
    """Write report.html of a run, whatever is known by now.

    Example: nestling report --run runs/demo
    """
    from checkpoints.run_folder import RunFolder
    from nestling.workflows.export import write_report

    folder = RunFolder.open(run)
    _name_run(folder, run)
    tell(f"The report is in {write_report(folder, Screen())}")


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
    from nestling.reports.evaluation_table import show_comparison
    from nestling.workflows.evaluation import evaluate_sources

    with Screen() as screen:
        comparison, page = evaluate_sources(
            sources,
            [name for names in task or ["first"] for name in names.split(",")],
            to,
            split=split,
            out_of_domain=out_of_domain,
            reference=reference,
            librispeech=librispeech,
            speech_commands=speech_commands,
            layers=layers,
            command=command_line(),
            listener=screen,
        )
    if form == "json":
        print(json.dumps({"split": split, **comparison.to_dict(), "page": page and str(page)}, indent=2))
        return
    show_comparison(comparison)
    tell(comparison.caveat + (f" More in {page}." if page else ""))


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
    from checkpoints.runtimes.opening import find_subjects, parse_runtimes
    from nas.latency import MIN_REPEATS
    from nas.measurement import QUICK_S, TOTAL_S, count_cores, parse_seconds, parse_threads
    from nestling.reports.measurement_table import show_memory, show_timings
    from nestling.workflows.measure import measure as measure_subjects
    from search_spaces.errors import NestlingError
    from search_spaces.files import check_writable, write_file

    if to:
        check_writable(to, "--out", folder=False)
    if quick and repeats is not None:
        raise NestlingError("--quick and --repeats both say how many rounds; give one of them")
    if repeats is not None and repeats < MIN_REPEATS:
        raise NestlingError(f"--repeats must be at least {MIN_REPEATS}, got {repeats}")
    counts, durations = parse_threads(threads, count_cores()), parse_seconds(seconds)
    subjects = find_subjects(list(dict.fromkeys(sources)), None if runtime is None else parse_runtimes(runtime), warn)
    with Screen() as screen:
        found = measure_subjects(
            subjects, durations, counts, repeats, QUICK_S if quick else TOTAL_S, memory, listener=screen
        )
    text = json.dumps(found.to_dict(command_line()), indent=2)
    if form == "json":
        print(text)
    else:
        show_timings(found.timings, durations)
        show_memory(found.memory)
        tell(found.made_on)
    if to:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_file(to, text + "\n")
        if form == "text":
            tell(f"All of it is in {to}.")


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
    from nestling.reports.cost_table import show_space
    from nestling.workflows.search_result import describe_space
    from search_spaces.budget import Budget
    from search_spaces.space import SearchSpace

    loaded = SearchSpace.load(name)
    parsed = Budget.parse(budget or [], loaded)
    profile = loaded.profile(parsed)
    if profile.fitting == 0:
        loaded.largest(parsed)  # raises, with the conflict and the nearest feasible value
    described = describe_space(loaded, parsed, profile)
    if form == "json":
        print(json.dumps(described, indent=2))
        return
    show_space(loaded.name, parsed, profile, {label: described[label] for label in ("smallest", "largest")})


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
    from nestling.reports.cost_table import show_costs
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
    show_costs(f"{loaded.name}/{chosen.id}", parts, seconds, checks)


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
    from nestling.reports.search_table import show_result
    from nestling.workflows.audio import open_audio
    from nestling.workflows.demo import describe_demo, measure_sizes
    from nestling.workflows.export import export, write_report
    from nestling.workflows.scoring import open_scorer
    from nestling.workflows.search import parse_budget, search
    from search_spaces.space import SearchSpace

    began = time.monotonic()
    run = _fresh(run)
    job = describe_demo(quick)
    parsed = parse_budget([budget], SearchSpace.from_dict(job["space"]), Screen())
    _, folder = _train(run, job)
    with folder.lock(), Screen() as screen:
        scorer = open_scorer(folder, open_audio(job["audio"], screen), 16 if quick else 40, "cpu", note)
        result = search(folder, scorer, parsed, 20 if quick else 64, command=command_line(), listener=screen)
    show_result(result)
    exported = folder.path / "encoder"
    with folder.lock(), Screen() as screen:
        screen.start("phone error on test", None)
        measure_sizes(folder, quick, screen.advance)
    with Screen() as screen:
        export(folder, "best", exported, command=command_line(), listener=screen)
        path = write_report(folder, screen)
    tell("", f"The encoder is in {exported}, the report in {path} ({time.monotonic() - began:.0f} s).")


def _fresh(path: Path) -> Path:
    """`path`, or the first of path-2, path-3 … that is free: a demo never overwrites a run."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _name_run(folder: RunFolder, asked: Path | None) -> None:
    if asked is None:
        note(f"run: {folder.path}")


# --- what the user sees -----------------------------------------------------------------------------------------------


def main() -> None:
    """Runs the command line.

    What a user caused ends in a short message and exit code 2, a machine that refused in exit code 1. Anything else
    is a fault of ours: it says so, keeps its traceback in a file, and ends in exit code 1. A signal ends in 128 and its
    number, and says how to go on.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not take a core from working ones
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # no result is lost over an arrow that latin-1 lacks
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        with stoppable():
            code = app(prog_name="nestling", standalone_mode=False)
    except Stopped as stop:
        note(f"stopped{stop.hint}")
        code = 128 + stop.number
    except Exception as error:  # the last door
        if debug and not isinstance(error, UsageError):
            raise
        code = explain(error)
    sys.exit(code)


if __name__ == "__main__":
    main()
