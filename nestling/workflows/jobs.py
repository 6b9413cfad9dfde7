"""A job: all that a training run depends on, made of what a person asked for, anew or to go on with a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from checkpoints.locations import DEMO, locate
from checkpoints.teachers import load_teacher
from distillation.stages import CHANGEABLE, Recipe, change_recipe, find_changes, is_changeable, load_recipe
from distillation.trainer import open_device
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from speech_data.names import NAMES

Job = dict[str, Any]
"""All that a training run depends on, resolved, as plain JSON values: what config.yaml keeps."""


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
        "audio": locate(audio, NAMES),
        "device": device,
        "precision": _choose_precision(precision, device),
        "space": SearchSpace.load(space).to_dict(),
        "recipe": recipe.model_dump(mode="json"),
    }


def resume_job(kept: Job, asked: Mapping[str, Any], step: int) -> tuple[Job, dict[str, list[Any]]]:
    """The job of a run that goes on, with what may change on the way.

    Args:
        kept: The job that the run was begun with.
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
    job |= {"audio": locate(asked["audio"], NAMES)} if "audio" in asked else {}
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


def is_bf16_fast(device: str) -> bool:
    """Whether a device computes in bf16 by itself; others compute by way of fp32, which takes longer."""
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.startswith("cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)


def _choose_precision(precision: str, device: str) -> str:
    if precision == "auto":
        return "bf16" if is_bf16_fast(device) else "fp32"
    if precision not in ("fp32", "bf16"):
        raise NestlingError(f"--precision is fp32, bf16 or auto; got {precision}")
    return precision
