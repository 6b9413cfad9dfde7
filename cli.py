"""The command line: parse, build, call, show.

Results go to stdout, progress and logs to stderr. Exit code 0: done; 1: failed; 2: the user's input or budget.
`--debug`, anywhere, shows the whole traceback of an error.
"""

from __future__ import annotations

import json
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from nestling import options
from nestling.ending import Stopped, UsageError, explain, hinting, open_closed_streams, stoppable
from nestling.reports.terminal import Screen, command_line, next_command, note, tell

if TYPE_CHECKING:
    from checkpoints.run_folder import RunFolder
    from supernet.model import Supernet

Row = dict[str, Any]

ORDER = ["demo", "train", "import", "search", "export", "report", "evaluate", "measure", "space", "cost", "doctor"]
"""Commands as work goes; to try all of it, and to look something up, stand around it."""


class Ordered(typer.core.TyperGroup):
    """Lists commands in the order of the work."""

    def list_commands(self, _context: Any) -> list[str]:
        """Names, for help and completion."""
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(name="nestling", cls=Ordered, no_args_is_help=True, pretty_exceptions_enable=False)
train_app = typer.Typer(help="Train a teacher or a supernet.", no_args_is_help=True)
search_app = typer.Typer(help="Find the best subnet under a budget.", no_args_is_help=True)
export_app = typer.Typer(help="Write a subnet as a checkpoint that stands alone.", no_args_is_help=True)
import_app = typer.Typer(help="Make somebody else's supernet a run.", no_args_is_help=True)
for name, group in {"train": train_app, "search": search_app, "export": export_app, "import": import_app}.items():
    app.add_typer(group, name=name)


@app.callback()
def nestling(_version: options.Version = False) -> None:
    """Train one speech supernet and hatch encoders of any size from it."""


# --- train ------------------------------------------------------------------------------------------------------------


@train_app.command("teacher")
def train_teacher(
    context: typer.Context,
    run: options.NewRun = Path("runs/teacher"),
    space: options.Space = "demo-teacher",
    audio: options.Audio = "demo",
    config: options.Config = "hubert",
    changes: options.Set = None,
    init: options.Init = None,
    to: options.TeacherOut = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    device: options.Device = "cpu",
    precision: options.Precision = "auto",
    seed: options.Seed = None,
) -> None:
    """Pre-train a small teacher by masked prediction, as HuBERT was, and write it in Hugging Face format.

    Example: nestling train teacher --audio my-audio/ --run runs/teacher
    """
    from checkpoints.export import check_folder
    from checkpoints.saving import replace_teacher
    from nestling.workflows.jobs import describe_job
    from nestling.workflows.train import how_to_go_on

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
    with hinting(lambda: how_to_go_on(run, to)):
        replace_teacher(supernet.extract(supernet.space.container), place)
    following = next_command("train supernet", teacher=place, audio=folder.config["audio"])
    tell(f"The teacher is in {place}. Next: {following}")


@train_app.command("supernet")
def train_supernet(
    context: typer.Context,
    space: options.Space = "base",
    teacher: options.Teacher = "demo",
    audio: options.Audio = "demo",
    run: options.SpacesRun = None,
    config: options.Config = "two-stage",
    changes: options.Set = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    device: options.Device = "cpu",
    precision: options.Precision = "auto",
    seed: options.Seed = None,
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
    from nestling.workflows.train import how_to_go_on, train

    with hinting(lambda: how_to_go_on(path, to)), Screen() as screen:
        supernet, folder = train(path, job, command_line().removeprefix("nestling "), screen)
    _show_stages(folder)
    return supernet, folder


def _resume(kind: str, path: Path, context: typer.Context) -> tuple[Supernet, RunFolder]:
    """Goes on with a run, but for what was typed and may change."""
    from nestling.workflows.train import how_to_go_on, resume

    sources = {name: context.get_parameter_source(name) for name in context.params}
    asked = {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    with hinting(lambda: how_to_go_on(path, asked.get("to"))), Screen() as screen:
        supernet, folder = resume(kind, path, asked, command_line(), screen)
    _show_stages(folder)
    return supernet, folder


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
    file: options.Released,
    run: options.ImportedRun,
    audio: options.Audio = "demo",
    teacher: options.ImportedTeacher = "facebook/hubert-base-ls960",
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
    run: options.Run = None,
    budget: options.Budget = None,
    budgets: options.Budgets = "",
    trials: options.Trials = 64,
    sampler: options.Sampler = "auto",
    utterances: options.Utterances = 60,
    audio: options.MovedAudio = None,
    objective: options.Objective = "loss",
    device: options.Device = "cpu",
    seed: options.Seed = None,
    form: options.Format = "text",
) -> None:
    """Find the best subnet that holds every budget.

    Example: nestling search subnet --budget 25M --budget "latency<=30ms@2s"
    """
    from nestling.reports.search_table import show_result
    from nestling.workflows.scoring import check_objective
    from nestling.workflows.search import search_run
    from search_spaces.errors import NestlingError

    check_objective(objective)
    if budget and budgets:
        raise NestlingError("--budget is for what must hold together, --budgets for alternatives; give one of them")
    folder = _open_run(run)
    with hinting("; what was scored is kept, and the same command goes on"), Screen() as screen:
        results = search_run(
            folder,
            [[b] for b in budgets.split(",")] if budgets else [budget or []],
            trials=trials,
            sampler=sampler,
            seed=seed or 0,
            utterances=utterances,
            audio=audio,
            objective=objective,
            device=device,
            command=command_line(),
            listener=screen,
        )
    if form == "json":
        print(json.dumps(results if budgets else results[0], indent=2))
        return
    for result in results:
        show_result(result)
    tell(f"Next: {next_command('export subnet', run=folder.path, out='my-encoder')}")


# --- export, report ---------------------------------------------------------------------------------------------------


@export_app.command("subnet")
def export_subnet(
    folder: options.ExportOut,
    run: options.Run = None,
    subnet: options.Subnet = "best",
    to: options.Targets = None,
    form: options.Format = "text",
) -> None:
    """Write the chosen subnet as a folder that `transformers` opens, and other runtimes on request; prove it first.

    Example: nestling export subnet --subnet best --to onnx,int8 --out my-encoder
    """
    from checkpoints.export import check_folder, check_targets
    from nestling.workflows.export import describe_export, export
    from search_spaces.quoting import python_literal

    targets = tuple(name.strip() for names in to or ["hf"] for name in names.split(","))
    check_targets(targets)
    opened = _open_run(run)
    check_folder(folder, opened.path)
    with Screen() as screen:
        report = export(opened, subnet, folder, targets, command_line(), screen)
    if form == "json":
        print(json.dumps(describe_export(report), indent=2))
        return
    tell(
        f"{folder}: {report.params:,} parameters, {report.size_bytes / 1e6:.1f} MB, "
        f"equal to the supernet within {max(report.errors.values()):.1e} in {', '.join(report.errors)}."
    )
    if report.int8_bytes:
        tell(f"In int8: {report.int8_bytes / 1e6:.1f} MB, hidden states off by up to {report.int8_error:.1%}.")
    trust = "" if report.plain else ", trust_remote_code=True"
    tell(f"Load it: AutoModel.from_pretrained({python_literal(str(folder))}{trust})")


@app.command()
def report(run: options.Run = None) -> None:
    """Write report.html of a run, whatever is known by now.

    Example: nestling report --run runs/demo
    """
    from nestling.workflows.export import write_report

    tell(f"The report is in {write_report(_open_run(run), Screen())}")


# --- evaluate ---------------------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    sources: options.Encoders,
    task: options.Tasks = None,
    split: options.Split = "test",
    out_of_domain: options.OutOfDomain = True,
    reference: options.Reference = None,
    librispeech: options.LibriSpeech = None,
    speech_commands: options.SpeechCommands = None,
    layers: options.Layers = False,
    to: options.ScoresOut = Path("runs/evaluation"),
    form: options.Format = "text",
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
    sources: options.Timed,
    runtime: options.Runtimes = None,
    threads: options.Threads = "1,all",
    seconds: options.Durations = "1,2,5,10,20",
    repeats: options.Repeats = None,
    quick: options.FewRounds = False,
    memory: options.Memory = True,
    to: options.JsonOut = None,
    form: options.Format = "text",
) -> None:
    """Time encoders side by side on this machine, in each runtime, and take their peak memory.

    Example: nestling measure my-encoder demo --runtime torch,onnx --seconds 1,5,20
    """
    from nestling.reports.measurement_table import show_memory, show_timings
    from nestling.workflows.measure import measure_sources
    from search_spaces.errors import NestlingError
    from search_spaces.files import check_writable, write_file

    if to:
        check_writable(to, "--out", folder=False)
    if quick and repeats is not None:
        raise NestlingError("--quick and --repeats both say how many rounds; give one of them")
    with Screen() as screen:
        found = measure_sources(sources, runtime, threads, seconds, repeats, quick, memory, screen)
    text = json.dumps(found.to_dict(command_line()), indent=2)
    if form == "json":
        print(text)
    else:
        show_timings(found.timings)
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
    name: options.SpaceName,
    budget: options.Budget = None,
    form: options.Format = "text",
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
    space: options.Space,
    subnet: options.CountedSubnet = "largest",
    seconds: options.Seconds = 1.0,
    cross_check: options.CrossCheck = False,
    form: options.Format = "text",
) -> None:
    """Count what a subnet costs, by module group; compare with other counters.

    Example: nestling cost --space base --subnet largest --cross-check
    """
    from nestling.reports.cost_table import show_costs
    from nestling.workflows.cost import count_subnet

    counted = count_subnet(space, subnet, seconds, cross_check)
    if form == "json":
        print(json.dumps(counted.to_dict(), indent=2))
        return
    show_costs(counted.name, counted.parts, seconds, counted.checks)


# --- demo -------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    quick: options.Quick = False,
    run: options.NewRun = Path("runs/demo"),
    budget: options.DemoBudget = "1M",
) -> None:
    """The whole job on the embedded default: train, search, export, report.

    Example: nestling demo --quick
    """
    from nestling.reports.search_table import show_result
    from nestling.workflows.demo import find_free, run_demo
    from nestling.workflows.train import how_to_go_on

    free = find_free(run)
    with hinting(lambda: how_to_go_on(free)), Screen() as screen:
        done = run_demo(free, quick, budget, command_line(), screen)
    _show_stages(done.run)
    show_result(done.result)
    tell("", f"The encoder is in {done.encoder}, the report in {done.report} ({done.seconds:.0f} s).")


# --- doctor -----------------------------------------------------------------------------------------------------------


@app.command()
def doctor(form: options.Format = "text") -> None:
    """Say what this machine has for Nestling, and what to do about what it lacks.

    Example: nestling doctor
    """
    from nestling.reports.doctor_table import show_findings
    from nestling.workflows.doctor import describe_findings, examine

    findings = examine()
    if form == "json":
        print(json.dumps(describe_findings(findings), indent=2))
        return
    show_findings([(finding.name, finding.said, finding.remedy) for finding in findings])


def _open_run(path: Path | None) -> RunFolder:
    """The run that was named; else the newest, and says which that is."""
    from checkpoints.run_folder import RunFolder

    folder = RunFolder.open(path)
    if path is None:
        note(f"run: {folder.path}")
    return folder


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
