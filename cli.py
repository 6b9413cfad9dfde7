"""The command line: parse, build, call, show.

Results go to stdout, progress and logs to stderr. Exit code 0: done; 1: failed; 2: the user's input or budget.
`--debug`, anywhere, shows the whole traceback of an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.core

from nestling import data, options
from nestling.ending import hinting, run_app
from nestling.reports.terminal import Screen, command_line, next_command, note, show_json, tell

if TYPE_CHECKING:
    from checkpoints.run_folder import RunFolder
    from supernet.model import Supernet

ORDER = [
    *("demo", "data", "train", "import", "search", "export", "report"),
    *("evaluate", "measure", "space", "cost", "doctor"),
]
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
app.add_typer(data.app, name="data")


@app.callback()
def nestling(_version: options.Version = False) -> None:
    """Train one speech supernet and hatch encoders of any size from it."""


# --- train, import ----------------------------------------------------------------------------------------------------


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
    form: options.Format = "text",
) -> None:
    """Pre-train a small teacher by masked prediction, as HuBERT was, and write it in Hugging Face format.

    Example: nestling train teacher --audio my-audio/ --run runs/teacher
    """
    from checkpoints.export import check_folder
    from checkpoints.saving import replace_teacher
    from nestling.workflows.run_report import describe_training

    place = to or run / "teacher"
    if not dry_run and (to or place.exists()):
        check_folder(place, run, "a teacher")
    if not (trained := _train("train teacher", run, context)):
        return None
    supernet, folder = trained
    with hinting(lambda: _how_to_go_on(run, out=to)):
        replace_teacher(supernet.extract(supernet.space.container), place)
    if form == "json":
        return show_json({"teacher": str(place), **describe_training(folder)})
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
    form: options.Format = "text",
) -> None:
    """Distil a teacher into a supernet, in the stages of a recipe.

    Example: nestling train supernet --space base --teacher facebook/hubert-base-ls960 --audio my-audio/ --run runs/base
    """
    from nestling.workflows.run_report import describe_training

    if not (trained := _train("train supernet", run or Path("runs") / Path(space).stem, context)):
        return None
    folder = trained[1]
    if form == "json":
        return show_json(describe_training(folder))
    tell(f"The supernet is in {folder.path}. Next: {next_command('search subnet', run=folder.path, budget='50%')}")


def _train(kind: str, path: Path, context: typer.Context) -> tuple[Supernet, RunFolder] | None:
    """Trains a new run, or goes on with one but for what was typed and may change; nothing of a dry run."""
    from nestling.workflows.jobs import describe_job
    from nestling.workflows.train import resume, train
    from search_spaces.errors import NestlingError

    given = context.params
    if given["resume"] and given["dry_run"]:
        raise NestlingError("--dry-run tells what a new run would take; leave out --resume")
    if not given["resume"]:
        names = ("space", "init" if kind == "train teacher" else "teacher", "audio", "config", "changes")
        job = describe_job(kind, *(given[name] for name in (*names, "device", "precision", "seed")))
        if given["dry_run"]:
            _dry_run(job, given["form"])
            return None
    with hinting(lambda: _how_to_go_on(path, out=given.get("to"))), Screen() as screen:
        if given["resume"]:
            sources = {name: context.get_parameter_source(name) for name in given}
            typed = {name: given[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
            supernet, folder = resume(kind, path, typed, command_line(), screen)
        else:
            supernet, folder = train(path, job, command_line().removeprefix("nestling "), screen)
    _show_stages(folder)
    return supernet, folder


def _how_to_go_on(path: Path, **named: object) -> str:
    """For whoever stops a training."""
    from checkpoints.run_folder import RunFolder

    command = RunFolder(path).resume_command(**named)
    return f"; go on with {command}" if command else ""


def _show_stages(run: RunFolder) -> None:
    """Shows what each stage did, beside the result."""
    from nestling.reports.search_table import show_stages
    from nestling.workflows.run_report import summarize_stages

    show_stages(summarize_stages(run.metrics()))


def _dry_run(job: dict[str, Any], form: str) -> None:
    """Shows what a job would take."""
    from nestling.reports.search_table import show_estimate
    from nestling.workflows.train import describe_estimate, estimate

    recipe, found = estimate(job)
    if form == "json":
        return show_json(describe_estimate(recipe, found))
    show_estimate(recipe.stages, found.step_seconds, found.memory_bytes)


@import_app.command("supernet")
def import_supernet(
    file: options.Released,
    run: options.ImportedRun,
    audio: options.Audio = "demo",
    teacher: options.ImportedTeacher = "facebook/hubert-base-ls960",
    form: options.Format = "text",
) -> None:
    """Make a released LightHuBERT supernet a run, to be searched and exported. Nothing in the file is run.

    Example: nestling import supernet lighthubert_small.pt --run runs/lh-small --audio my-audio/
    """
    from checkpoints.formats.lighthubert import import_supernet as make_run
    from search_spaces.space import SearchSpace

    folder = make_run(file, run, audio, teacher)
    space = SearchSpace.from_dict(folder.config["space"])
    if form == "json":
        return show_json({"run": str(folder.path), "space": space.name, "subnets": space.count()})
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
    budgets: options.Budgets = None,
    trials: options.Trials = 64,
    sampler: options.Sampler = "auto",
    utterances: options.Utterances = 60,
    audio: options.MovedAudio = None,
    objective: options.Objective = "readout",
    teacher: options.ReadTeacher = None,
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

    check_objective(objective, teacher)
    if budget and budgets:
        raise NestlingError("--budget is for what must hold together, --budgets for alternatives; give one of them")
    folder = _open_run(run)
    with hinting("; what was scored is kept, and the same command goes on"), Screen() as screen:
        results = search_run(
            folder,
            [[text] for text in options.split(budgets)] if budgets else [options.split(budget)],
            trials=trials,
            sampler=sampler,
            seed=seed or 0,
            utterances=utterances,
            audio=audio,
            objective=objective,
            teacher=teacher,
            device=device,
            command=command_line(),
            listener=screen,
        )
    if form == "json":
        return show_json(results if budgets else results[0])
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

    targets = options.split(to) or ["hf"]
    check_targets(targets)
    opened = _open_run(run)
    check_folder(folder, opened.path)
    with Screen() as screen:
        report = export(opened, subnet, folder, targets, command_line(), screen)
    if form == "json":
        return show_json(describe_export(report))
    tell(
        f"{folder}: {report.params:,} parameters, {report.size_bytes / 1e6:.1f} MB, "
        f"equal to the supernet within {max(report.errors.values()):.1e} in {', '.join(report.errors)}."
    )
    if report.int8_bytes:
        tell(f"In int8: {report.int8_bytes / 1e6:.1f} MB, hidden states off by up to {report.int8_error:.1%}.")
    trust = "" if report.plain else ", trust_remote_code=True"
    tell(f"Load it: AutoModel.from_pretrained({python_literal(str(folder))}{trust})")


@app.command()
def report(run: options.Run = None, form: options.Format = "text") -> None:
    """Write report.html of a run, whatever is known by now.

    Example: nestling report --run runs/demo
    """
    from nestling.workflows.export import write_report

    folder = _open_run(run)
    path = write_report(folder, Screen())
    if form == "json":
        return show_json({"run": str(folder.path), "report": str(path)})
    tell(f"The report is in {path}")


# --- evaluate, measure ------------------------------------------------------------------------------------------------


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

    with hinting("; what was scored is kept, and the same command goes on"), Screen() as screen:
        comparison, page = evaluate_sources(
            sources,
            options.split(task) or ["first"],
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
        return show_json({"split": split, **comparison.to_dict(), "page": page and str(page)})
    show_comparison(comparison)
    tell(comparison.caveat + (f" More in {page}." if page else ""))


@app.command()
def measure(
    sources: options.Timed,
    runtime: options.Runtimes = None,
    threads: options.Threads = ["1,all"],
    seconds: options.Durations = ["1,2,5,10,20"],
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
    from search_spaces.files import check_writable

    if to:
        check_writable(to, "--out", folder=False)
    lists = (None if runtime is None else ",".join(runtime)), ",".join(threads), ",".join(seconds)
    with Screen() as screen:
        found = measure_sources(sources, *lists, repeats, quick, memory, screen)
    if form == "json":
        show_json(found.to_dict(command_line()))
    else:
        show_timings(found.timings)
        show_memory(found.memory)
        tell(found.made_on)
    if to:
        found.save(to, command_line())
        note(f"all of it is in {to}")


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
    from nestling.workflows.cost import profile_space

    parsed, profile, described = profile_space(name, options.split(budget))
    if form == "json":
        return show_json(described)
    show_space(described["space"], parsed, profile, {label: described[label] for label in ("smallest", "largest")})


@app.command()
def cost(
    name: options.SpaceNameOrNone = None,
    space: options.SameSpace = None,
    run: options.CountedRun = None,
    subnet: options.CountedSubnet = "largest",
    seconds: options.Seconds = 1.0,
    cross_check: options.CrossCheck = False,
    form: options.Format = "text",
) -> None:
    """Count what a subnet costs, by module group; compare with other counters.

    Example: nestling cost base --subnet smallest --cross-check
    """
    from nestling.reports.cost_table import show_costs
    from nestling.workflows.cost import count_subnet
    from search_spaces.errors import NestlingError

    if name is not None and space is not None:
        raise NestlingError(f"two spaces were given, {name} and {space}; leave out one")
    counted = count_subnet(name or space, subnet, seconds, cross_check, run)
    if form == "json":
        return show_json(counted.to_dict())
    show_costs(counted.name, counted.parts, seconds, counted.checks)


# --- demo, doctor -----------------------------------------------------------------------------------------------------


@app.command()
def demo(
    quick: options.Quick = False,
    run: options.NewRun = Path("runs/demo"),
    budget: options.DemoBudget = ["1M"],
    resume: options.Resume = False,
    form: options.Format = "text",
) -> None:
    """The whole job on the embedded default: train, search, export, report.

    Example: nestling demo --quick
    """
    from nestling.reports.search_table import show_result
    from nestling.workflows.demo import find_free, run_demo

    place = run if resume else find_free(run)
    with hinting(lambda: _how_to_go_on(place, budget=",".join(budget))), Screen() as screen:
        done = run_demo(place, quick, options.split(budget), command_line(), screen, go_on=resume)
    _show_stages(done.run)
    if form == "json":
        return show_json(done.to_dict())
    show_result(done.result)
    tell("", f"The encoder is in {done.encoder}, the report in {done.report} ({done.seconds:.0f} s).")


@app.command()
def doctor(form: options.Format = "text") -> None:
    """Say what this machine has for Nestling, and what to do about what it lacks.

    Example: nestling doctor
    """
    from nestling.reports.doctor_table import show_findings
    from nestling.workflows.doctor import describe_findings, examine

    findings = examine()
    if form == "json":
        return show_json(describe_findings(findings))
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
    """The program `nestling`."""
    run_app(app)


if __name__ == "__main__":
    main()
