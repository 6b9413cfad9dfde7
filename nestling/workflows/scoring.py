"""The scorer of a search: what it minimises, the distillation loss or the error of probes, over a run's supernet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from distillation.trainer import open_device
from nas.objective import DistillationObjective
from nas.task_objective import TaskObjective
from nestling.workflows.training import blame, build_trainer
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from search_spaces.space import SearchSpace
from speech_data.batching import evaluation_batches
from speech_data.corpus import SpeechCorpus
from speech_tasks.proxy import DEFAULT_MIX, NUM_SEARCH, PROBES, Proxy, find_probe_materials
from speech_tasks.task import Material

Scorer = DistillationObjective | TaskObjective
"""What a search minimises, with the supernet it scores and a name for reports."""
LOSS, PROXY = "loss", "proxy"
OBJECTIVES = (LOSS, PROXY, *PROBES)
"""What a search may minimise: the distillation loss, the error of the proxy, or that of one of its probes."""


def open_scorer(
    run: RunFolder,
    corpus: SpeechCorpus,
    num_utterances: int,
    device: str,
    say: Callable[[str], None],
    objective: str = LOSS,
) -> Scorer:
    """Scores subnets of a run's supernet on the search split.

    Args:
        run: It must have a supernet.
        corpus: The audio of the run; the loss is measured on it.
        num_utterances: Utterances that are scored. Probes are fitted on about twice as many of `train`.
        device: Where subnets run.
        say: Told what the user should know.
        objective: One of `OBJECTIVES`. Probes read the synthesised corpora of the tasks, whatever trained the run.

    Raises:
        NestlingError: There is no such objective, or the run has no supernet, no checkpoint with its heads, or no audio
            to compare subnets on.
    """
    check_objective(objective)
    open_device(device)
    if objective == LOSS:
        return _open_loss(run, corpus, num_utterances, device, say)
    probes = DEFAULT_MIX if objective == PROXY else (objective,)
    supernet = run.load_supernet().to(device)
    return TaskObjective(supernet, Proxy(open_probed(probes, say), probes, scale=num_utterances / NUM_SEARCH))


def check_objective(name: str) -> None:
    """Raises NestlingError unless a search can minimise it."""
    if name not in OBJECTIVES:
        raise NestlingError(f"no objective `{name}`; {suggest(name, OBJECTIVES)}")


def open_probed(probes: Sequence[str], say: Callable[[str], None]) -> Mapping[str, Material]:
    """The materials that probes read, without the test split."""
    from speech_tasks.materials import open_materials  # noqa: PLC0415

    return open_materials(find_probe_materials(probes), scored="dev", out_of_domain=False, say=say)


def _open_loss(
    run: RunFolder, corpus: SpeechCorpus, num_utterances: int, device: str, say: Callable[[str], None]
) -> DistillationObjective:
    """The distillation loss, with the heads of the last stage."""
    try:
        corpus.utterances("search")
    except NestlingError as error:
        raise NestlingError(
            f"{corpus.name} has no audio to compare subnets on; three files or more have some"
        ) from error
    job = {**run.config, "device": device}
    supernet = run.load_supernet()
    if supernet.space.hash != SearchSpace.from_dict(job["space"]).hash:
        raise RunError(f"{run.config_path}: `space` is not that of {run.supernet_record_path}, which was trained")
    state = run.load_state(say)
    if state is None:
        raise RunError(f"{run.path} has no checkpoint, and its heads are needed to score subnets; train it first")
    trainer, _ = build_trainer(run, job, corpus, lambda _: None, say)
    trainer.supernet.load_state_dict(supernet.state_dict())
    with blame(run.state_path):
        stage, sources, objective = trainer.restore(state)
    batches = evaluation_batches(
        corpus, "search", batch_size=8, augment=corpus.synthesised, max_utterances=num_utterances
    )
    return DistillationObjective(trainer.supernet, objective, sources, batches, stage.view)
