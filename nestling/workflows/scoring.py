"""The scorer of a search: what it minimises over the supernet of a run, as read-outs of the teacher or probes say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from checkpoints.teachers import load_teacher
from distillation.factory import SourceFactory
from distillation.sources.source import Source
from distillation.sources.teacher import TeacherSource
from distillation.stages import Recipe
from distillation.trainer import open_device
from nas.objective import ReadOutObjective
from nas.task_objective import TaskObjective
from nestling.workflows.training import blame, open_teacher
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from speech_data.batching import evaluation_batches
from speech_data.corpus import SpeechCorpus
from speech_tasks.proxy import DEFAULT_MIX, NUM_SEARCH, PROBES, Proxy, find_probe_materials
from speech_tasks.task import Material
from supernet.model import Supernet

Scorer = ReadOutObjective | TaskObjective
"""What a search minimises, with the supernet it scores and a name for reports."""
READ_OUT, PROXY = "readout", "proxy"
OBJECTIVES = (READ_OUT, PROXY, *PROBES)
"""What a search may minimise: what is not read of the teacher, the error of the proxy, or that of one of its probes."""


def open_scorer(
    run: RunFolder,
    corpus: SpeechCorpus,
    num_utterances: int,
    device: str,
    say: Callable[[str], None],
    objective: str = READ_OUT,
    teacher: str | None = None,
) -> Scorer:
    """Scores subnets of a run's supernet on the search split.

    Args:
        run: It must have a supernet.
        corpus: The audio of the run; the read-out is fitted and scored on it.
        num_utterances: Utterances that are scored. Probes are fitted on about twice as many of `train`.
        device: Where subnets run.
        say: Told what the user should know.
        objective: One of `OBJECTIVES`. Probes read the synthesised corpora of the tasks, whatever trained the run.
        teacher: Whose layers `readout` predicts, as `load_teacher` takes it; default: the run's own.

    Raises:
        NestlingError: There is no such objective, it reads no teacher, or the run has no supernet, nothing to read, or
            no audio to compare subnets on.
    """
    check_objective(objective, teacher)
    open_device(device)
    if objective == READ_OUT:
        return _open_read_out(run, corpus, num_utterances, device, say, teacher)
    probes = DEFAULT_MIX if objective == PROXY else (objective,)
    supernet = run.load_supernet().to(device)
    return TaskObjective(supernet, Proxy(open_probed(probes, say), probes, scale=num_utterances / NUM_SEARCH))


def check_objective(name: str, teacher: str | None = None) -> None:
    """Raises NestlingError unless a search can minimise it, beside a teacher that was named or without."""
    if name == "loss":
        raise NestlingError(
            "the objective `loss`, of trained heads, asked less of subnets that drop layers and is gone; take "
            f"{READ_OUT}, the default"
        )
    if name not in OBJECTIVES:
        raise NestlingError(f"no objective `{name}`; {suggest(name, OBJECTIVES)}")
    if teacher and name != READ_OUT:
        raise NestlingError(f"--teacher is what {READ_OUT} predicts, and {name} reads labels; leave out one of them")


def open_probed(probes: Sequence[str], say: Callable[[str], None]) -> Mapping[str, Material]:
    """The materials that probes read, without the test split."""
    from speech_tasks.materials import open_materials  # noqa: PLC0415

    return open_materials(find_probe_materials(probes), scored="dev", out_of_domain=False, say=say)


def _open_read_out(
    run: RunFolder,
    corpus: SpeechCorpus,
    num_utterances: int,
    device: str,
    say: Callable[[str], None],
    teacher: str | None,
) -> ReadOutObjective:
    """What is read of the teacher's layers; of a run without one, of what its last stage learnt."""
    try:
        corpus.utterances("search")
    except NestlingError as error:
        raise NestlingError(
            f"{corpus.name} has no audio to compare subnets on; three files or more have some"
        ) from error
    supernet = run.load_supernet().to(device)
    if supernet.space.hash != SearchSpace.from_dict(run.config["space"]).hash:
        raise RunError(f"{run.config_path}: `space` is not that of {run.supernet_record_path}, which was trained")
    recipe = parse_config(Recipe, run.config["recipe"], source=str(run.config_path))
    sources = _open_sources(run, corpus, recipe, supernet, say, teacher)
    batches = evaluation_batches(
        corpus, "search", batch_size=8, augment=corpus.synthesised, max_utterances=num_utterances
    )
    return ReadOutObjective(supernet, sources, batches, recipe.stages[-1].view)


def _open_sources(
    run: RunFolder,
    corpus: SpeechCorpus,
    recipe: Recipe,
    supernet: Supernet,
    say: Callable[[str], None],
    teacher: str | None,
) -> Mapping[str, Source]:
    """The hidden states of the teacher, whatever the run's own terms asked of it; of a run without one, its codes."""
    stage = recipe.stages[-1]
    if teacher or (run.config["teacher"] and any(spec.kind == "teacher" for spec in stage.sources.values())):
        found = load_teacher(teacher) if teacher else open_teacher(run, run.config, say)
        name = Path(teacher).name if teacher else "teacher"
        return {name: TeacherSource(found.network.to(supernet.residual_order.device), ["hidden"], "none")}
    state = run.load_state(say)
    if state is None or state["step"] <= recipe.num_steps - stage.steps:
        raise RunError(
            f"{run.path} names no teacher, and has no checkpoint of {stage.name} that keeps what it learnt instead; "
            "train it first, or name a --teacher"
        )
    with blame(run.state_path):
        made = SourceFactory(corpus, None, recipe.seed, run.kept_targets)(stage, supernet, state["sources"])
    heard = {name: source for name, source in made.items() if "labels" not in source.reads}
    if not heard:
        raise RunError(f"{run.path} learnt from labels alone, which rank no subnets; name a --teacher")
    return heard
