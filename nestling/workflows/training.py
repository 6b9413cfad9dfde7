"""The trainer of a job: supernet, teacher, batches, and what it writes into the run on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from checkpoints.teachers import Teacher, load_teacher
from distillation.factory import SourceFactory, check_sources
from distillation.sources.teacher import FrozenNetwork
from distillation.stages import Recipe, Stage
from distillation.trainer import Step, Trainer, generator
from nestling.workflows.jobs import Job
from search_spaces.errors import NestlingError
from search_spaces.randomness import seed_of
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from search_spaces.subnet import SAMPLE_RATE_HZ, FrameGrid
from speech_data.batching import Batch, batch_at, prefetch
from speech_data.corpus import Corpus, SpeechCorpus
from speech_data.features import HUBERT_GRID
from speech_tasks.phone_probe import PhoneProbe
from supernet.encoder import Encoder
from supernet.misfits import find_misfits
from supernet.model import Supernet


def build_trainer(
    run: RunFolder,
    job: Job,
    corpus: SpeechCorpus,
    on_progress: Callable[[str], None],
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Trainer, SupernetRecord]:
    """The trainer of a job, which writes its record and checkpoints into `run`, and where its supernet is from.

    Args:
        run: Where the record and the checkpoints go.
        job: What to train, as `describe_job` says it.
        corpus: The audio that the job names.
        on_progress: Called after every step with its losses in words.
        say: Told what the user should know of the teacher.

    Raises:
        NestlingError: The teacher does not give what the recipe wants; or it lends no weights, and nothing else
            is wanted; or it is not the one that the job was begun with.
    """
    recipe = parse_config(Recipe, job["recipe"], source=str(run.config_path))
    supernet = Supernet(SearchSpace.from_dict(job["space"]), generator(recipe.seed, "weights"))
    teacher = open_teacher(run, job, say) if job["teacher"] else None
    network = teacher.network if teacher else None
    check_sources(recipe, network, supernet.container.config, corpus)
    if teacher:
        _lend_weights(teacher, supernet, recipe, say)
        _tell_of_states(teacher, corpus, recipe, run.kept_states.folder, say)
    trainer = Trainer(
        supernet,
        recipe,
        training_batches(corpus, recipe.seed, supernet.space.backbone.grid.hop),
        SourceFactory(corpus, network, recipe.seed, run.kept_targets, run.kept_states),
        on_step=_keep_steps(run, on_progress),
        on_stage=_probe_stages(run, recipe, quick_probe(corpus, supernet.space.backbone.grid)),
        on_checkpoint=run.save_state,
        precision=job["precision"],
        device=job["device"],
    )
    if teacher is None:
        return trainer, SupernetRecord(data=corpus.hash)
    return trainer, SupernetRecord(teacher.name, teacher.license, corpus.hash, teacher.revision, teacher.hash)


def _lend_weights(teacher: Teacher, supernet: Supernet, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Lets a supernet start from its teacher's weights, or says why it starts from fresh ones."""
    if not recipe.teacher_taps or isinstance(teacher.network, Encoder):
        left = supernet.load_encoder(teacher.encoder.state_dict(), teacher.encoder.config)
        _compare_gates(teacher.encoder, supernet, say)
        for misfit in find_misfits(teacher.encoder.config, supernet.space.backbone):
            left = [name for name in left if not re.match(misfit.names, name)]
            say(
                f"the teacher's {misfit.setting} is {misfit.theirs}, and that of the space {supernet.space.name} "
                f"{misfit.ours}: {misfit.part} starts from noise"
            )
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            say(f"nothing of the teacher fits {left[0]}{more}: it starts from noise")
    else:
        say(f"{teacher.name} lends no weights, so the supernet starts from fresh ones: {teacher.reason}")


def _tell_of_states(
    teacher: Teacher, corpus: SpeechCorpus, recipe: Recipe, folder: Path, say: Callable[[str], None]
) -> None:
    """Says how much of the disk will be taken by what a teacher makes of whole utterances."""
    network = teacher.network
    if not recipe.teacher_taps or not isinstance(network, FrozenNetwork) or not network.whole:
        return
    seconds = sum(utterance.seconds for utterance in corpus.utterances("train"))
    num_layers = len(network.hear(torch.zeros(1, SAMPLE_RATE_HZ)))
    gigabytes = seconds * network.config.frame_rate_hz * num_layers * network.dim * 2 / 1e9
    say(f"{teacher.name} hears whole utterances, each once; its states take up to {gigabytes:.2g} GB in {folder}")


def _keep_steps(run: RunFolder, on_progress: Callable[[str], None]) -> Callable[[Step], None]:
    """Puts each step into the record, and says it in words."""

    def on_step(step: Step) -> None:
        run.append_metrics(asdict(step))
        on_progress(f"{step.stage}  " + "  ".join(f"{role} {loss:.3f}" for role, loss in step.losses.items()))

    return on_step


def _probe_stages(run: RunFolder, recipe: Recipe, probe: PhoneProbe | None) -> Callable[[str, Supernet], None]:
    """Puts into the record how well the container tells phones apart before each stage and at the end."""
    starts = {stage.name: sum(s.steps for s in recipe.stages[:i]) for i, stage in enumerate(recipe.stages)}

    def on_stage(name: str, supernet: Supernet) -> None:
        if probe is None:
            return
        device, container = supernet.residual_order.device, supernet.space.container

        def encode(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
            trace = supernet(wave.to(device), None if lengths is None else lengths.to(device), container)
            return [x.cpu() for x in trace.hidden]

        score = probe.score(encode)
        run.append_metrics({"step": starts.get(name, recipe.num_steps), "before": name, "phone_error": score.error})

    return on_stage


def open_teacher(run: RunFolder, job: Job, say: Callable[[str], None]) -> Teacher:
    """The network that a run learns from.

    Raises:
        NestlingError: It cannot be opened, or it is not the one that the run was begun with.
    """
    teacher = _load_teacher(run, job["teacher"])
    _recognize(teacher, run, job, say)
    return teacher


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
    """The network that a run learns from; where it has moved, the error says which key of the run names it."""
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
    with blame(run.state_path):
        trainer.resume(state)


@contextmanager
def blame(folder: Path) -> Iterator[None]:
    """Names the folder of a run that an error is about."""
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


def training_batches(
    corpus: SpeechCorpus, seed: int, hop: int = FrameGrid.hop
) -> Callable[[Stage, int, int], Iterator[Batch]]:
    """Batches of the training split, made ahead in a thread; the synthesised corpus is clean, so noise is added.

    A stage hears the utterances in an order of its own, with crops and noise of its own.
    """

    def batches(stage: Stage, first: int, stop: int) -> Iterator[Batch]:
        def make(step: int) -> Batch:
            return batch_at(
                corpus,
                "train",
                step,
                seed=seed_of(seed, stage.name, "audio"),
                batch_size=stage.batch_size,
                crop_seconds=stage.crop_seconds,
                augment=corpus.synthesised,
                hop=hop,
            )

        return prefetch(make, first, stop)

    return batches


def quick_probe(corpus: SpeechCorpus, grid: FrameGrid = HUBERT_GRID) -> PhoneProbe | None:
    """A small probe of the container for the record, where the audio has timed phones and frames are HuBERT's."""
    if not isinstance(corpus, Corpus) or grid != HUBERT_GRID:
        return None
    return PhoneProbe(corpus, "search", num_train=120, num_tuning=40, num_scored=100, last_layers=2)
