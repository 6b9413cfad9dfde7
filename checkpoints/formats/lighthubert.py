"""LightHuBERT's released supernets (arXiv 2203.15610): read as a `Supernet`, or made a run to search and export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.formats.fairseq_layout import to_fairseq_name
from checkpoints.formats.hugging_face import TeacherError, unfold_weight_norm, unwrap_names
from checkpoints.formats.stand_ins import plain
from checkpoints.formats.weight_files import read_checkpoint
from checkpoints.locations import DEMO, locate
from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from distillation.stages import load_recipe
from search_spaces.quoting import shell_command
from search_spaces.space import SearchSpace
from speech_data.names import NAMES
from supernet.model import Supernet

PRUNED, STAGE_1 = "hubert_pruner", "student_hubert"
"""`_name` of the files of base and small, and of stage 1, whose container alone was trained."""
SPACES: Mapping[str, str] = {"base.yaml": "lighthubert-base", "small.yaml": "lighthubert-small"}
"""How the path in `pruner_supernet` ends -> the space."""
WIDTH = 768
"""Of the network in every file."""
UNUSED = ("label_embs_concat", "final_proj.weight", "final_proj.bias", "layer_pred_heads.11.weight")
"""In every file, read by nothing."""
TEACHER, TEACHER_LICENSE = "facebook/hubert-base-ls960", "apache-2.0"
DATASET, HOURS = "openslr/librispeech_asr", 960.0
RECIPE = "lighthubert"


def load_supernet(path: str | Path) -> Supernet:
    """A released supernet; `supernet.space` is its space. Any subnet of it computes what the official code does.

    Args:
        path: `lighthubert_base.pt`, `lighthubert_small.pt` or `lighthubert_stage1.pt`; which one shows in the file.

    Raises:
        NestlingError: The file is not such a supernet, is damaged, or holds more than weights; says what differs.
    """
    values = plain(read_checkpoint(Path(path)), str(path))
    if not isinstance(values, Mapping) or not {"cfg", "model"} <= values.keys():
        raise TeacherError(f"{path} is no LightHuBERT: it has no `cfg` and `model`")
    space, weights = find_space(values["cfg"], str(path)), values["model"]
    if isinstance(weights, Mapping) and all(isinstance(n, str) and isinstance(w, Tensor) for n, w in weights.items()):
        weights = unfold_weight_norm(unwrap_names(weights, str(path)), "encoder.pos_conv.0", "weight_g", "weight_v")
    whole = Supernet(_whole(space), torch.Generator())
    names = _check(weights, whole, str(path))
    whole.load_encoder({ours: weights[theirs].float() for ours, theirs in names.items()})
    supernet = Supernet(space, torch.Generator())
    supernet.load_encoder(whole.weights_of(space.container))
    return supernet


def find_space(config: Any, source: str) -> SearchSpace:
    """The space that a file's `cfg` names, with LightHuBERT's rule of slicing.

    Raises:
        TeacherError: It names none.
    """
    model = config.get("model") if isinstance(config, Mapping) else None
    name = model.get("_name") if isinstance(model, Mapping) else None
    if name not in (PRUNED, STAGE_1):
        raise TeacherError(f"{source} is no LightHuBERT: cfg.model._name is {name!r}, not {PRUNED!r} or {STAGE_1!r}")
    assert isinstance(model, Mapping)
    if name == STAGE_1:
        base = SearchSpace.load("lighthubert-base")
        return replace(
            base,
            name="lighthubert-stage1",
            description="The container of LightHuBERT's first stage, alone.",
            embed_dim=base.embed_dim[-1:],
            heads=base.heads[-1:],
            ffn_ratio=base.ffn_ratio[-1:],
            slicing="lighthubert",
        )
    path = str(model.get("pruner_supernet", "")).lower()
    found = next((space for ending, space in SPACES.items() if path.endswith(ending)), None)
    if found is None:
        raise TeacherError(
            f"{source}: cfg.model.pruner_supernet is {model.get('pruner_supernet')!r}, and should end in "
            f"{' or '.join(SPACES)}: it alone says which space the supernet was trained in"
        )
    return replace(SearchSpace.load(found), slicing="lighthubert")


def import_supernet(path: str | Path, run: str | Path, audio: str, teacher: str = TEACHER) -> RunFolder:
    """Makes a released supernet a run, as if it had just finished its training by the recipe `lighthubert`.

    Args:
        path: As in `load_supernet`.
        run: A folder that does not exist yet.
        audio: What searches compare subnets on.
        teacher: Whose layers they read off subnets; probes of tasks need none.

    Raises:
        NestlingError: The file is no supernet, or the folder holds something.
    """
    RunFolder(Path(run)).check_free()
    supernet, recipe = load_supernet(path), load_recipe(RECIPE, [])
    config = {
        "command": shell_command(
            ["import", "supernet", Path(path).name, "--run", run, "--audio", audio, "--teacher", teacher]
        ),
        "teacher": locate(teacher, (DEMO,)),
        "audio": locate(audio, NAMES),
        "device": "cpu",
        "precision": "fp32",
        "space": supernet.space.to_dict(),
        "recipe": recipe.model_dump(mode="json"),
        "trained_on": DATASET,
        "hours": HOURS,
        "data": "",
    }
    folder = RunFolder.create(run, config, recipe.seed)
    with folder.lock():
        folder.save_supernet(supernet, SupernetRecord(TEACHER, TEACHER_LICENSE, None))
    return folder


def _whole(space: SearchSpace) -> SearchSpace:
    """The space with the network in the file as its container: every file has HuBERT-base's, that of small too."""
    return replace(
        space,
        embed_dim=tuple(sorted({*space.embed_dim, WIDTH})),
        heads=tuple(sorted({*space.heads, WIDTH // space.backbone.head_dim})),
    )


def _check(weights: Any, supernet: Supernet, source: str) -> dict[str, str]:
    """Refuses tensors that are not those of the container; returns their names in the file by ours."""
    if not isinstance(weights, Mapping) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise TeacherError(f"{source}: `model` holds something else than tensors by name")
    parameters = dict(supernet.container.named_parameters())
    names = {name: to_fairseq_name(name, supernet.container.config.conv_norm) for name in parameters}
    wanted = {theirs: list(parameters[ours].shape) for ours, theirs in names.items()}
    problems = [f"missing {name}" for name in wanted if name not in weights]
    for name, weight in weights.items():
        if name in UNUSED:
            continue
        if name not in wanted:
            problems.append(f"unexpected {name}")
        elif list(weight.shape) != wanted[name]:
            problems.append(f"{name} has shape {list(weight.shape)}, not {wanted[name]}")
        elif not weight.is_floating_point() or not weight.isfinite().all():
            problems.append(f"{name} has numbers that are not finite")
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise TeacherError(f"{source}: not the weights of {supernet.space.name}:", *problems[:5], *more)
    return names
