"""A subnet as a folder that stands alone, proven to hold its budget and to compute what the supernet does.

config.json, model.safetensors, preprocessor_config.json, subnet.json, README.md (the model card), SHA256SUMS and, when
no HubertModel or WavLMModel has the shape, modeling_nestling.py with a copy of the encoder's code. On request also
model.onnx, model.int8.onnx, and what makes the folder an upstream of s3prl.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from checkpoints.formats.config_json import NESTLING_TYPE
from checkpoints.formats.hugging_face import hugging_face_config, preprocessor_config
from checkpoints.formats.limits import MAX_JSON_BYTES
from checkpoints.manifest import CARD, KEPT_CARD, MANIFEST, is_card, write_manifest
from checkpoints.proof import TOLERANCE, ProofError, measure_error, prove_outputs, prove_params
from checkpoints.run_folder import RunFolder
from checkpoints.runtimes.encoder_code import ENCODER_CODE, write_encoder_code
from checkpoints.runtimes.onnx_export import write_onnx
from checkpoints.runtimes.onnx_session import INSTALL, ONNX_FILES, PACKAGES, OnnxError
from checkpoints.runtimes.quantize import write_int8
from checkpoints.runtimes.s3prl_upstream import S3PRL_FILES, entry_name, write_s3prl
from checkpoints.saving import save_encoder, write_model
from search_spaces.budget import Budget
from search_spaces.costs import count_bytes, count_macs, count_params
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import (
    PREFIX,
    REPLACED_CONTENTS,
    check_writable,
    hash_file,
    is_unfinished,
    replacing_folder,
    write_file,
)
from search_spaces.nearest_names import suggest
from search_spaces.strict_json import load_json
from search_spaces.strict_yaml import read_text
from search_spaces.subnet import Subnet
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig
from supernet.model import Supernet

SCHEMA_VERSION = 1
CODE = ("modeling_nestling.py", *ENCODER_CODE)
"""What travels with an encoder that no class of `transformers` has the shape of."""
WRAPPER = Path(__file__).parent / "runtimes" / "modeling_nestling.py"
HF, ONNX, INT8, S3PRL = "hf", "onnx", "int8", "s3prl"
TARGETS = (HF, ONNX, INT8, S3PRL)
"""What an export can serve: `transformers`, always; ONNX Runtime, in fp32 and beside it in int8; s3prl."""
TEACHER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", MANIFEST)
FILES = (*TEACHER_FILES, "subnet.json", CARD, *CODE, *S3PRL_FILES, *ONNX_FILES.values())
KINDS = {"an export": ("subnet.json", FILES), "a teacher": (MANIFEST, TEACHER_FILES)}
"""What is written as a folder: the file that tells it from other folders, and all that may be in it."""


class ExportError(NestlingError):
    """A subnet was not exported, and nothing was written."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and proven."""

    folder: Path
    subnet: Subnet
    plain: bool
    """It is a HubertModel or a WavLMModel and needs no remote code."""
    params: int
    macs: int
    """For 1 s of audio."""
    size_bytes: int
    """Of the fp32 weights."""
    errors: dict[str, float]
    """Who reopened the folder -> the largest relative error of an output; see `proof.TOLERANCE`."""
    onnx_opset: int | None = None
    int8_bytes: int | None = None
    int8_error: float | None = None
    """Largest relative error of any hidden state in int8, on the audio that export was given."""
    kept_card: str | None = None
    """The file that an edited model card of an earlier export was moved to."""


@dataclass(frozen=True)
class CardFacts:
    """What export counted and proved, for the model card."""

    name: str
    """Of the folder."""
    id: str
    """Of the subnet."""
    space: str
    params: int
    macs_1s: int
    size_bytes: int
    """Of the fp32 weights."""
    budget: str
    measured_budget: bool
    """It bounds a latency, which is measured and not counted."""
    model_class: str
    """That opens it in `transformers`: HubertModel, WavLMModel, or NestlingModel, which travels in the folder."""
    code_hashes: Mapping[str, str]
    """SHA-256 of the files in `CODE`, where they are needed."""
    errors: Mapping[str, float]
    """Who reopened it -> the largest relative error of an output."""
    onnx_opset: int | None = None
    """Of model.onnx, if that was asked for."""
    int8_bytes: int | None = None
    int8_error: float | None = None
    """Largest relative error of any hidden state of model.int8.onnx on `int8_audio`."""
    int8_audio: str = ""
    s3prl_entry: str | None = None
    """Of torch.hub and s3prl's hub, if the folder is an upstream."""


Card = Callable[[CardFacts, EncoderConfig], str]
"""Writes README.md."""


def export_subnet(
    supernet: Supernet,
    subnet: Subnet,
    folder: str | Path,
    *,
    budget: Budget,
    card: Card,
    to: Collection[str] = (HF,),
    audio: Sequence[Tensor] = (),
) -> ExportReport:
    """Writes a subnet as a folder that `transformers` opens, or writes nothing.

    Args:
        supernet: Holds the weights.
        subnet: Of the supernet's space.
        folder: Must not exist, or be empty, or be an earlier export, which is replaced. A link to one is followed.
        budget: Its exact bounds must hold; bounds on latency are only written down.
        card: Writes the model card; see `nestling.reports.model_card`.
        to: Some of `TARGETS`; int8 brings onnx along.
        audio: Waveforms, each (S,), on which the error of int8 is measured; without any, noise.

    Raises:
        ExportError: The subnet is not in the space or over the budget, the folder holds something else, a target does
            not exist or lacks its packages, or what was written does not have the counted cost or does not compute
            what the supernet computes.
        FailedError: The disk refused; an earlier export is untouched.
    """
    folder = Path(folder).absolute()
    space = supernet.space
    check_targets(to)
    if problem := space.explain(subnet):
        raise ExportError(problem)
    if not budget.holds(space.backbone, subnet):
        costs = ", ".join(f"{b.cost} {b.cost.count(space.backbone, subnet):,}" for b in budget.bounds)
        raise ExportError(f"subnet {subnet.id} does not hold the budget {budget.text}; it has {costs}")
    check_folder(folder)
    try:
        with replacing_folder(folder, seal=MANIFEST) as written:  # of the same name: transformers' modules have it
            report = _write(written, folder, supernet, subnet, budget, card, to, audio)
            report = replace(report, kept_card=_keep_card(folder, written))
    except (ProofError, OnnxError, SafetensorError) as error:
        raise ExportError(f"{folder} was not written: {error}") from error
    except (FailedError, OSError) as error:
        raise FailedError(f"{folder} was not written: {error}") from error
    return report


def check_targets(names: Collection[str]) -> None:
    """Raises ExportError unless an export can be written for each, by what there is and what is installed."""
    for name in names:
        if name not in TARGETS:
            raise ExportError(f"--to {name}: no such target; {suggest(name, TARGETS)}")
    missing = [name for name in PACKAGES if find_spec(name) is None] if {ONNX, INT8} & set(names) else []
    if missing:
        raise ExportError(f"writing ONNX needs {', '.join(missing)}: {INSTALL}")


def check_folder(folder: Path, run: Path | None = None, kind: str = "an export") -> None:
    """Refuses to overwrite what was not written as the same kind of folder, before anything is done.

    Args:
        folder: To be written.
        run: The run that it comes from.
        kind: One of `KINDS`.

    Raises:
        ExportError: The folder holds something else, or is or contains where one is or the run.
    """
    place = Path(os.path.realpath(folder))
    if Path.cwd().is_relative_to(place):
        raise ExportError(f"{folder.absolute()} is where you are, and {kind} replaces its folder; name another")
    if run and Path(os.path.realpath(run)).is_relative_to(place):
        raise ExportError(f"{folder} is or contains the run {run}, and {kind} replaces its folder; name another")
    if run and place in ((own := RunFolder(Path(os.path.realpath(run)))).search_path, own.state_path):
        raise ExportError(f"{folder} belongs to the run {run}, and {kind} replaces its folder; name another")
    if place.is_dir():
        names = {path.name for path in place.iterdir() if not is_unfinished(path)} - {"__pycache__"}
        mark, files = KINDS[kind]
        if mark in names or any(place.glob(f"{PREFIX}*/{REPLACED_CONTENTS}")):  # whole, or left by a kill
            names = {name for name in names - set(files) if not is_card(name)}
        if names:
            raise ExportError(f"{folder} holds {min(names)}, which is no part of {kind}; name another folder")
    check_writable(folder, "--out", folder=True)


def _keep_card(old: Path, new: Path) -> str | None:
    """Takes a model card that somebody has edited along into a new export, and those that were kept before.

    Args:
        old: An earlier export, or nothing.
        new: The export that replaces it.

    Returns:
        The name of what is newly kept.
    """
    kept = sorted(path.name for path in old.glob(f"{KEPT_CARD}*") if is_card(path.name))
    for name in kept:
        write_file(new / name, (old / name).read_bytes())
    card = old / CARD
    if not card.is_file() or hash_file(card) == _recorded_card(old):
        return None
    name = next(name for i in count(1) if (name := KEPT_CARD + (f"-{i}" if i > 1 else "")) not in kept)
    write_file(new / name, card.read_bytes())
    return name


def _recorded_card(folder: Path) -> str | None:
    """The SHA-256 of the model card that an export was written with; earlier ones do not say."""
    path = folder / "subnet.json"
    try:
        values = load_json(read_text(path, MAX_JSON_BYTES), str(path))
    except NestlingError:
        return None  # whoever damaged it may have edited the card, too
    return values.get("card_sha256") if isinstance(values, dict) else None


def _write(
    written: Path,
    folder: Path,
    supernet: Supernet,
    subnet: Subnet,
    budget: Budget,
    card: Card,
    to: Collection[str],
    audio: Sequence[Tensor],
) -> ExportReport:
    """Writes and proves the folder `written`, which will become `folder`."""
    space, encoder = supernet.space, supernet.extract(subnet)
    write_encoder(encoder, written)
    prove_params(written, supernet, subnet)
    onnx = int8 = None
    if {ONNX, INT8} & set(to):
        onnx = write_onnx(encoder, written / ONNX_FILES["onnx"])
    if INT8 in to:
        int8 = write_int8(written / ONNX_FILES["onnx"], written / ONNX_FILES["onnx-int8"])
    if S3PRL in to:
        write_s3prl(encoder, written)
    report = ExportReport(
        folder=folder,
        subnet=subnet,
        plain=not (written / WRAPPER.name).exists(),
        params=count_params(space.backbone, subnet),
        macs=count_macs(space.backbone, subnet, 1.0),
        size_bytes=count_bytes(space.backbone, subnet),
        errors=prove_outputs(written, supernet, subnet),
        onnx_opset=onnx.opset if onnx else None,
        int8_bytes=int8.size_bytes if int8 else None,
        int8_error=measure_error(written / ONNX_FILES["onnx-int8"], encoder, audio) if int8 else None,
    )
    values = {
        "schema_version": SCHEMA_VERSION,
        "id": subnet.id,
        "subnet": subnet.to_dict(),
        "space": {"name": space.name, "hash": space.hash},
        "costs": {"params": report.params, "macs@1s": report.macs, "size_bytes": report.size_bytes},
        "budget": budget.text,
        "proof": {"tolerance": TOLERANCE, "errors": report.errors, "int8_error": report.int8_error},
    }
    facts = _card_facts(report, written, space.name, budget, bool(audio))
    values["card_sha256"] = write_file(written / CARD, card(facts, encoder.config))
    write_file(written / "subnet.json", json.dumps(values, indent=2) + "\n")
    write_manifest(written)
    return report


def _card_facts(report: ExportReport, written: Path, space: str, budget: Budget, on_speech: bool) -> CardFacts:
    config = json.loads((written / "config.json").read_text("utf-8"))
    return CardFacts(
        name=report.folder.name,
        id=report.subnet.id,
        space=space,
        params=report.params,
        macs_1s=report.macs,
        size_bytes=report.size_bytes,
        budget=budget.text,
        measured_budget=bool(budget.latency),
        model_class=config["architectures"][0],
        code_hashes={name: hash_file(written / name) for name in CODE if not report.plain},
        errors=report.errors,
        onnx_opset=report.onnx_opset,
        int8_bytes=report.int8_bytes,
        int8_error=report.int8_error,
        int8_audio="speech of the run" if on_speech else "noise",
        s3prl_entry=entry_name(written) if (written / "hubconf.py").exists() else None,
    )


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Writes what `transformers` needs: a HubertModel or WavLMModel if one has the shape, else with the code too."""
    config = encoder.config
    if hugging_face_config(config) is not None:
        save_encoder(encoder, folder)
        return
    values = {
        "model_type": NESTLING_TYPE,
        "architectures": ["NestlingModel"],
        "auto_map": {
            "AutoConfig": "modeling_nestling.NestlingConfig",
            "AutoModel": "modeling_nestling.NestlingModel",
        },
        "dtype": "float32",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": len(config.heads),
        **config.to_dict(),
    }
    weights = {f"{NESTLING_TYPE}.{name}": weight for name, weight in encoder.state_dict().items()}
    # The encoder normalises the waveform itself, valid samples only, so the preprocessor need not.
    write_model(folder, values, weights, preprocessor_config(config, do_normalize=False))
    write_encoder_code(folder, WRAPPER, WRAPPER.name)
    write_manifest(folder)
