"""Trains a run, or goes on with one; nothing that is done gets lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints.locations import DEMO
from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from checkpoints.teachers import load_teacher
from distillation.dry_run import Estimate, estimate_training
from distillation.stages import Recipe
from distillation.trainer import Trainer
from nestling.workflows.audio import check_audio, check_teaching, open_audio, open_audio_of
from nestling.workflows.jobs import Job, resume_job
from nestling.workflows.listening import SILENT, Listener
from nestling.workflows.training import build_trainer, resume_trainer
from search_spaces.errors import NestlingError, OutOfMemoryError
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from supernet.model import Supernet


def train(path: Path, job: Job, command: str = "", listener: Listener = SILENT) -> tuple[Supernet, RunFolder]:
    """Trains a new run.

    Args:
        path: The run folder; must be free.
        job: As `describe_job` makes it.
        command: That asked for it, for the record; else the job's own.
        listener: Told how far it is.

    Raises:
        NestlingError: Something is wrong with the job; no run is left behind.
        OutOfMemoryError: What was trained so far is kept, if anything was.
    """
    RunFolder(path).check_free()
    check_teaching(job["audio"])
    corpus = open_audio(job["audio"], listener)
    if job["teacher"] == DEMO:
        listener.note("the teacher is the demo's, a small HuBERT that learnt from synthesised speech")
    trainer, record = build_trainer(RunFolder(path), job, corpus, listener.advance, listener.warn)
    hours = sum(u.seconds for u in corpus.utterances("train")) / 3600
    made = {
        "command": command or job["command"],
        "data": corpus.hash,
        "hours": hours,
        "teacher_hash": record.teacher_hash,
    }
    if record.revision:  # a branch may move before the run is resumed
        made |= {"teacher": f"{record.teacher}@{record.revision}"}
    run = RunFolder.create(path, {**job, **made}, job["recipe"]["seed"])
    with run.lock():
        try:
            return _run(trainer, run, record, listener)
        except OutOfMemoryError as error:
            if run.discard():
                raise
            raise OutOfMemoryError(
                *error.args, f"{path} keeps what was trained so far; add --resume to go on"
            ) from error


def resume(
    kind: str, path: Path, asked: Mapping[str, Any], command: str = "", listener: Listener = SILENT
) -> tuple[Supernet, RunFolder]:
    """Goes on with a run as its config.yaml says, but for what was asked and may change.

    Args:
        kind: `train teacher` or `train supernet`: what the run must have been begun by.
        path: The run folder.
        asked: Options that were typed, by name.
        command: That asked for it, for the record.
        listener: Told how far it is.

    Raises:
        NestlingError: The run is of another kind, something asked cannot change, or its audio or teacher is not what
            it was.
    """
    run = RunFolder.open(path)
    kept = run.config
    if "trained_on" in kept:
        raise NestlingError(f"{path} was imported; it can be searched and exported, not trained")
    if kept["command"].startswith("train ") and not kept["command"].startswith(kind):
        raise NestlingError(f"{path} is no run of `{kind}`: it began with nestling {kept['command']}")
    with run.lock(listener.warn):
        state = run.load_state(listener.warn)
        step = state["step"] if state else 0
        job, changes = resume_job(kept, asked, step)
        corpus = open_audio(job["audio"], listener) if "audio" in asked else open_audio_of(run, listener)
        if corpus.hash != job["data"]:
            raise NestlingError(f"the audio in {job['audio']} changed since the run began; start a new run")
        trainer, record = build_trainer(run, job, corpus, listener.advance, listener.warn)
        if state:
            resume_trainer(trainer, run, state)
        run.cut_metrics(step)
        listener.note(f"resuming {path} after step {step}, as its config.yaml says")
        if changes:
            run.amend(job, {"step": step, "command": command, "changes": changes})
            for key, (before, after) in changes.items():
                listener.note(f"from here on, {key} is {after}, not {before}")
        return _run(trainer, run, record, listener, step)


def _run(
    trainer: Trainer, run: RunFolder, record: SupernetRecord, listener: Listener, step: int = 0
) -> tuple[Supernet, RunFolder]:
    """Trains from a step on and keeps the supernet."""
    listener.start("train", trainer.recipe.num_steps, step)
    trainer.run()
    run.save_supernet(trainer.supernet, record)
    return trainer.supernet, run


def estimate(job: Job) -> tuple[Recipe, Estimate]:
    """What a job would take, from one step of every stage on noise; nothing is trained.

    Raises:
        NestlingError: There is no such audio or teacher.
    """
    check_teaching(job["audio"])
    check_audio(job["audio"])
    recipe: Recipe = parse_config(Recipe, job["recipe"])
    teacher = load_teacher(job["teacher"]).network if job["teacher"] else None
    space = SearchSpace.from_dict(job["space"])
    return recipe, estimate_training(space, recipe, teacher, job["precision"], job["device"])


def describe_estimate(recipe: Recipe, found: Estimate) -> dict[str, Any]:
    """What a job would take, as plain values."""
    stages = [
        {"name": stage.name, "steps": stage.steps, "step_seconds": seconds, "hours": seconds * stage.steps / 3600}
        for stage, seconds in zip(recipe.stages, found.step_seconds, strict=True)
    ]
    return {"stages": stages, "memory_bytes": found.memory_bytes}
