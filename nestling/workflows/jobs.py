"""What a run's configuration builds: its trainer, and the scorer that searches use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.locations import DEMO, locate
from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from checkpoints.teachers import Teacher, load_teacher
from distillation.factory import SourceFactory, check_sources
from distillation.stages import CHANGEABLE, Recipe, Stage, change_recipe, find_changes, is_changeable, load_recipe
from distillation.trainer import Step, Trainer, generator, open_device
from nas.objective import DistillationObjective
from nas.task_objective import TaskObjective
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from speech_data.batching import Batch, batch_at, evaluation_batches, prefetch
from speech_data.corpus import Corpus, SpeechCorpus
from speech_data.synthesis import BY_NAME
from speech_tasks.phone_probe import PhoneProbe
from speech_tasks.proxy import DEFAULT_MIX, NUM_SEARCH, PROBES, Proxy, find_probe_materials
from speech_tasks.task import Material
from supernet.encoder import Encoder
from supernet.model import Supernet

Job = dict[str, Any]
"""All that a training run depends on, resolved, as plain JSON values: what config.yaml keeps."""
Scorer = DistillationObjective | TaskObjective
"""What a search minimises, with the supernet it scores and a name for reports."""
LOSS, PROXY = "loss", "proxy"
OBJECTIVES = (LOSS, PROXY, *PROBES)
"""What a search may minimise: the distillation loss, the error of the proxy, or that of one of its probes."""


def describe_job(
    command: str,
    space: str,
    teacher: str | None,
    audio: str,
    config: str,
    changes: Sequence[str] | None,
    device: str,
    precision: str,
    seed: int | None,
) -> Job:
    """A job from what a person asked for.

    Raises:
        NestlingError: A space, recipe, change, device or precision that does not exist.
    """
    open_device(device)
    recipe = load_recipe(config, [*(changes or ()), *([] if seed is None else [f"seed={seed}"])])
    return {
        "command": command,
        "teacher": teacher and locate(teacher, (DEMO,)),
        "audio": locate(audio, BY_NAME),
        "device": device,
        "precision": _choose_precision(precision, device),
        "space": SearchSpace.load(space).to_dict(),
        "recipe": recipe.model_dump(mode="json"),
    }


def resume_job(kept: Job, asked: Mapping[str, Any], step: int) -> tuple[Job, dict[str, list[Any]]]:
    """The job of a run that goes on, with what may change on the way.

    Args:
        kept: The run's job.
        asked: Options that were typed, by name; others are as the run has them.
        step: Steps that are done.

    Returns:
        The job, and what changed: `stage-2.learning_rate` -> [before, after]. Audio and teacher may be elsewhere.

    Raises:
        NestlingError: Lists the options that cannot change; or as `describe_job`.
    """
    open_device(asked.get("device", "cpu"))
    before: Recipe = parse_config(Recipe, kept["recipe"])
    sets = [*asked.get("changes", ()), *([f"seed={asked['seed']}"] if "seed" in asked else [])]
    after = change_recipe(before, sets)
    done = [s.name for i, s in enumerate(before.stages) if sum(x.steps for x in before.stages[: i + 1]) <= step]
    refused, teacher = [], kept["teacher"]
    if "space" in asked and (space := SearchSpace.load(asked["space"])).to_dict() != kept["space"]:
        refused.append(f"--space {space.name} (the run has {kept['space']['name']})")
    for option in ("teacher", "init"):
        if option in asked and (teacher := _find_same(asked[option], kept)) is None:
            refused.append(f"--{option} {asked[option]} (the run has {kept['teacher']})")
    if "config" in asked and (other := find_changes(load_recipe(asked["config"], sets), after)):
        refused.append(f"--config {asked['config']} (the run differs in {next(iter(other))})")
    changes = find_changes(before, after)
    for key, (old, new) in changes.items():
        if key == "seed":
            refused.append(f"--seed {new} (the run has {old})")
        elif not is_changeable(key):
            refused.append(f"--set {key}={new} (the run has {old})")
        elif key.partition(".")[0] in done:
            refused.append(f"--set {key}={new} ({key.partition('.')[0]} is done)")
    if refused:
        raise NestlingError(
            f"a resumed run goes on as it began, which rules out {', '.join(refused)}; leave them out or start another "
            f"run. What may change: --device, --precision, and by --set {', '.join(CHANGEABLE)}"
        )
    job = {**kept, "recipe": after.model_dump(mode="json"), "teacher": teacher}
    job |= {"audio": locate(asked["audio"], BY_NAME)} if "audio" in asked else {}
    job |= {"device": asked["device"]} if "device" in asked else {}
    if "precision" in asked:
        job["precision"] = _choose_precision(asked["precision"], job["device"])
    free = ("teacher", "audio", "device", "precision")
    changes |= {name: (kept[name], job[name]) for name in free if kept[name] != job[name]}
    return job, {key: list(values) for key, values in changes.items()}


def _find_same(name: str, kept: Job) -> str | None:
    """Where the run's teacher is, if that is what a name leads to: by its name, or by its shape and weights."""
    other: str | None = kept["teacher"]
    if other is None or name in (other, other.partition("@")[0]) or os.path.realpath(name) == os.path.realpath(other):
        return other
    if not (wanted := kept.get("teacher_hash")):
        return None
    teacher = load_teacher(name)
    if teacher.hash != wanted:
        return None
    return f"{teacher.name}@{teacher.revision}" if teacher.revision else locate(name, (DEMO,))


def _choose_precision(precision: str, device: str) -> str:
    if precision == "auto":
        fast = torch.cpu._is_avx512_bf16_supported() if device == "cpu" else device.startswith("cuda")
        return "bf16" if fast else "fp32"
    if precision not in ("fp32", "bf16"):
        raise NestlingError(f"--precision is fp32, bf16 or auto; got {precision}")
    return precision


def build_trainer(
    run: RunFolder,
    job: Job,
    corpus: SpeechCorpus,
    on_progress: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Trainer, SupernetRecord]:
    """The trainer of a job, which writes its record and checkpoints into `run`, and where its supernet is from.

    Args:
        run: The run.
        job: Its configuration.
        corpus: The audio that the job names.
        on_progress: Called after every step with its losses in words.
        say: Told what the user should know of the teacher.

    Raises:
        NestlingError: The teacher does not give what the recipe wants; or it lends no weights, and nothing else
            is wanted; or it is not the one that the job was begun with.
    """
    recipe = parse_config(Recipe, job["recipe"], source=str(run.config_path))
    supernet = Supernet(SearchSpace.from_dict(job["space"]), generator(recipe.seed, "weights"))
    teacher = _load_teacher(run, job["teacher"]) if job["teacher"] else None
    check_sources(recipe, teacher.network if teacher else None, supernet.container.config)
    if teacher:
        _recognize(teacher, run, job, say)
        if not recipe.teacher_taps or isinstance(teacher.network, Encoder):
            supernet.load_encoder(teacher.encoder.state_dict())
            _compare_gates(teacher.encoder, supernet, say)
        else:
            say(f"{teacher.name} lends no weights, so the supernet starts from fresh ones: {teacher.reason}")
    probe = quick_probe(corpus)
    starts = {stage.name: sum(s.steps for s in recipe.stages[:i]) for i, stage in enumerate(recipe.stages)}

    def on_step(step: Step) -> None:
        row = {"step": step.step, "stage": step.stage, "learning_rate": step.learning_rate, "losses": step.losses}
        run.append_metrics(row)
        on_progress(f"{step.stage}  " + "  ".join(f"{role} {loss:.3f}" for role, loss in step.losses.items()))

    def on_stage(name: str, supernet: Supernet) -> None:
        if probe is not None:
            device, container = supernet.residual_order.device, supernet.space.container
            score = probe.score(
                lambda wave, lengths: [
                    x.cpu()
                    for x in supernet(
                        wave.to(device), None if lengths is None else lengths.to(device), container
                    ).hidden
                ]
            )
            step = starts.get(name, recipe.num_steps)
            run.append_metrics({"step": step, "before": name, "phone_error": score.error})

    trainer = Trainer(
        supernet,
        recipe,
        training_batches(corpus, recipe.seed),
        SourceFactory(corpus, teacher.network if teacher else None, recipe.seed),
        on_step=on_step,
        on_stage=on_stage,
        on_checkpoint=run.save_state,
        precision=job["precision"],
        device=job["device"],
    )
    if teacher is None:
        return trainer, SupernetRecord(data=corpus.hash)
    return trainer, SupernetRecord(teacher.name, teacher.license, corpus.hash, teacher.revision, teacher.hash)


def _recognize(teacher: Teacher, run: RunFolder, job: Job, say: Callable[[str], None]) -> None:
    """Refuses another teacher under the name of the one that a run was begun with."""
    wanted = job.get("teacher_hash")
    if wanted and teacher.hash != wanted:
        raise RunError(
            f"{job['teacher']} is not the teacher that {run.path} was begun with: its shape and weights hash to "
            f"{teacher.hash}, not {wanted}; put that one back, or start a new run"
        )
    if job.get("data") and not wanted:
        say(f"{run.path} did not keep what its teacher was; whether {job['teacher']} is still the same is not known")


def _load_teacher(run: RunFolder, source: str) -> Teacher:
    """A run's teacher."""
    try:
        return load_teacher(source)
    except TeacherError as error:
        if not run.config_path.exists():
            raise
        raise TeacherError(f"{error}; `teacher` in {run.config_path} names it: correct that if it has moved") from error


def resume_trainer(trainer: Trainer, run: RunFolder, state: dict[str, Any]) -> None:
    """Lets a trainer go on from a checkpoint of a run.

    Raises:
        RunError: It is of another recipe or space; names its folder.
    """
    with _blame(run.state_path):
        trainer.resume(state)


@contextmanager
def _blame(folder: Path) -> Iterator[None]:
    try:
        yield
    except NestlingError as error:
        raise RunError(f"{folder}: {error}") from error


def _compare_gates(teacher: Encoder, supernet: Supernet, say: Callable[[str], None]) -> None:
    """Tells of a position bias that only one of them has."""
    theirs, ours = teacher.config.gate_width > 0, supernet.space.backbone.gate_width > 0
    if theirs and not ours:
        say(f"the teacher has WavLM's position bias, which the space {supernet.space.name} lacks; base-wavlm has it")
    if ours and not theirs:
        say(f"the space {supernet.space.name} has WavLM's position bias, which the teacher lacks: it starts from noise")


def training_batches(corpus: SpeechCorpus, seed: int) -> Callable[[Stage, int, int], Iterator[Batch]]:
    """Batches of the training split, made ahead in a thread; the synthesised corpus is clean, so noise is added."""

    def batches(stage: Stage, first: int, stop: int) -> Iterator[Batch]:
        def make(step: int) -> Batch:
            return batch_at(
                corpus,
                "train",
                step,
                seed=seed,
                batch_size=stage.batch_size,
                crop_seconds=stage.crop_seconds,
                augment=corpus.synthesised,
            )

        return prefetch(make, first, stop)

    return batches


def sample_speech(corpus: SpeechCorpus, count: int) -> list[torch.Tensor]:
    """Waveforms of the search split, each (S,), as they are in training."""
    augment = corpus.synthesised
    batches = evaluation_batches(corpus, "search", batch_size=1, augment=augment, max_utterances=count)
    return [torch.from_numpy(batch.wave[0]) for batch in batches]


def quick_probe(corpus: SpeechCorpus) -> PhoneProbe | None:
    """A small probe of the container for the record, where the audio has timed phones."""
    if not isinstance(corpus, Corpus):
        return None
    return PhoneProbe(corpus, "search", num_train=120, num_tuning=40, num_scored=100, last_layers=2)


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
        run: With a supernet.
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
        near = get_close_matches(name, OBJECTIVES, n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise NestlingError(f"no objective `{name}`; {hint}it is one of {', '.join(OBJECTIVES)}")


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
    with _blame(run.state_path):
        stage, sources, objective = trainer.restore(state)
    batches = evaluation_batches(
        corpus, "search", batch_size=8, augment=corpus.synthesised, max_utterances=num_utterances
    )
    return DistillationObjective(trainer.supernet, objective, sources, batches, stage.view)
