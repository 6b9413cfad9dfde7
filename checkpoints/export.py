"""A subnet as a folder that stands alone, proven to hold its budget and to compute what the supernet does.

config.json, model.safetensors, preprocessor_config.json, subnet.json, README.md (the model card), SHA256SUMS and, when
no HubertModel or WavLMModel has the shape, modeling_nestling.py with a copy of encoder.py.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

import supernet.encoder
from checkpoints.hugging_face import hugging_face_config, preprocessor_config
from checkpoints.manifest import MANIFEST, hash_file, write_manifest
from checkpoints.proof import TOLERANCE, ProofError, prove_outputs, prove_params
from checkpoints.run_folder import dump_yaml
from checkpoints.s3prl_upstream import S3PRL_FILES
from checkpoints.teachers import NESTLING_TYPE, save_encoder, write_model
from search_spaces.budget import Budget
from search_spaces.costs import count_bytes, count_macs, count_params
from search_spaces.subnet import Subnet
from supernet.encoder import Encoder, EncoderConfig
from supernet.model import Supernet

SCHEMA_VERSION = 1
WRAPPER = Path(__file__).with_name("modeling_nestling.py")
CODE = ("modeling_nestling.py", "encoder.py")
FILES = (
    *("config.json", "model.safetensors", "preprocessor_config.json", "subnet.json", "README.md", MANIFEST),
    *CODE,
    *S3PRL_FILES,
)


class ExportError(ValueError):
    """A subnet was not exported, and nothing was written."""


@dataclass(frozen=True)
class ExportRecord:
    """What the model card says beyond what export counts."""

    teacher: str | None = None
    """Its name; one on the hub becomes the card's base model."""
    license: str | None = None
    """The teacher's, from whose weights these descend."""
    datasets: tuple[str, ...] = ()
    """Names of the audio that the supernet was trained on."""
    language: str | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    """What was measured -> the result with its unit, as in `phone error rate, test` -> `21.3 %`."""


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


def export_subnet(
    supernet: Supernet,
    subnet: Subnet,
    folder: str | Path,
    *,
    budget: Budget,
    card: ExportRecord,
) -> ExportReport:
    """Writes a subnet as a folder that `transformers` opens, or writes nothing.

    Args:
        supernet: Holds the weights.
        subnet: Of the supernet's space.
        folder: Must not exist, or be empty, or be an earlier export, which is replaced.
        budget: Its exact bounds must hold; bounds on latency are only written down.
        card: For the model card.

    Raises:
        ExportError: The subnet is not in the space or over the budget, the folder holds something else, or
            what was written does not have the counted cost or does not compute what the supernet computes.
    """
    folder = Path(folder).absolute()
    space = supernet.space
    if problem := space.explain(subnet):
        raise ExportError(problem)
    if not budget.holds(space.backbone, subnet):
        costs = ", ".join(f"{b.cost} {b.cost.count(space.backbone, subnet):,}" for b in budget.bounds)
        raise ExportError(f"subnet {subnet.id} does not hold the budget {budget.text}; it has {costs}")
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workplace:
            written = Path(workplace) / folder.name  # transformers names the module after the folder
            report = _write(written, folder, supernet, subnet, budget, card)
            if folder.exists():
                folder.rename(Path(workplace) / "replaced")
            written.rename(folder)
    except (ProofError, SafetensorError, OSError) as error:
        raise ExportError(f"{folder} was not written: {error}") from error
    return report


def _check_replaceable(folder: Path) -> None:
    """Refuses to overwrite what export did not write."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()} - {"__pycache__"}
        strays = sorted(names - set(FILES) if "subnet.json" in names else names)
        if strays:
            raise ExportError(f"{folder} holds {strays[0]}, which is no part of an export; name another folder")
    elif folder.exists():
        raise ExportError(f"{folder} is a file; name another folder")


def _write(
    written: Path, folder: Path, supernet: Supernet, subnet: Subnet, budget: Budget, card: ExportRecord
) -> ExportReport:
    """Writes and proves the folder `written`, which will become `folder`."""
    space, encoder = supernet.space, supernet.extract(subnet)
    write_encoder(encoder, written)
    prove_params(written, supernet, subnet)
    report = ExportReport(
        folder=folder,
        subnet=subnet,
        plain=not (written / WRAPPER.name).exists(),
        params=count_params(space.backbone, subnet),
        macs=count_macs(space.backbone, subnet, 1.0),
        size_bytes=count_bytes(space.backbone, subnet),
        errors=prove_outputs(written, supernet, subnet),
    )
    values = {
        "schema_version": SCHEMA_VERSION,
        "id": subnet.id,
        "subnet": subnet.to_dict(),
        "space": {"name": space.name, "hash": space.hash},
        "costs": {"params": report.params, "macs@1s": report.macs, "size_bytes": report.size_bytes},
        "budget": budget.text,
        "proof": {"tolerance": TOLERANCE, "errors": report.errors},
    }
    (written / "subnet.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    hashes = {name: hash_file(written / name) for name in CODE if not report.plain}
    text = model_card(report, encoder.config, budget, card, space.name, hashes)
    (written / "README.md").write_text(text, "utf-8")
    write_manifest(written)
    return report


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
    (folder / "encoder.py").write_text(inspect.getsource(supernet.encoder), "utf-8")
    wrapper = WRAPPER.read_text("utf-8").replace("from supernet.encoder import", "from .encoder import")
    (folder / WRAPPER.name).write_text(wrapper, "utf-8")
    write_manifest(folder)


def model_card(
    report: ExportReport,
    config: EncoderConfig,
    budget: Budget,
    card: ExportRecord,
    space: str,
    hashes: Mapping[str, str],
) -> str:
    """README.md: a YAML head for the hub, then costs, use, limits, shape, scores and proof."""
    family = "wavlm" if config.gate_width else "hubert"
    head = {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "license": card.license,
        "base_model": card.teacher if _is_on_hub(card.teacher or "") else None,
        "datasets": list(filter(_is_on_hub, card.datasets)) or None,
        "language": card.language,
        "tags": ["speech", family, "nestling", "neural-architecture-search", "knowledge-distillation"],
    }
    plain = hugging_face_config(config)
    listed = [f"`{name}` {hashes[name]}" for name in CODE if name in hashes]
    least = 1
    for kernel, stride in zip(reversed(config.conv_kernels), reversed(config.conv_strides), strict=True):
        least = (least - 1) * stride + kernel
    costs = {
        "parameters": f"{report.params:,}",
        "multiply-accumulates, 1 s of audio": f"{report.macs:,}",
        "fp32 weights": f"{report.size_bytes:,} bytes",
        "budget": (budget.text or "none") + (" (latency is measured, not counted)" if budget.latency else ""),
    }
    shape = {
        "front-end channels": ", ".join(map(str, config.conv_dims)),
        "width": str(config.embed_dim),
        "heads of each layer": ", ".join(map(str, config.heads)),
        "inner width of each layer": ", ".join(map(str, config.ffn_dims)),
    }
    return CARD.format(
        head=dump_yaml({key: value for key, value in head.items() if value is not None}),
        name=report.folder.name,
        id=report.subnet.id,
        params=report.params,
        space=space,
        origin=(f", distilled from `{card.teacher}`" if card.teacher else "")
        + (f", trained on {', '.join(f'`{name}`' for name in card.datasets)}" if card.datasets else ""),
        costs=_table("counted", costs),
        trust="" if report.plain else ", trust_remote_code=True",
        num_states=len(config.heads) + 1,
        width=config.embed_dim,
        code=PLAIN.format(plain["architectures"][0]) if plain else REMOTE.format(*listed),
        least=least,
        rate=config.frame_rate_hz,
        normalization=NORMALIZATION[report.plain] if config.normalize_waveform else NO_NORMALIZATION,
        padding=PADDING[config.conv_norm],
        license="" if card.license else " That licence is not known here: find it out before you publish.",
        shape=_table("value", shape),
        scores=f"\n## Scores\n\n{_table('measured', card.scores)}\n" if card.scores else "",
        errors=" and ".join(f"{error:.0e} with {name}" for name, error in report.errors.items()),
    )


def _is_on_hub(name: str) -> bool:
    """Whether a name has the form OWNER/NAME, which the hub makes a link of."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _table(heading: str, rows: Mapping[str, str]) -> str:
    """A Markdown table of two columns."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows.items()]
    return "\n".join([f"| | {heading} |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])


PLAIN = "It is a plain `{}`: no remote code."

REMOTE = """\
No `HubertModel` or `WavLMModel` has this shape, so the network travels with it: two short files that import
torch and transformers alone. Read them, and pin a `revision` when you load from the hub. Their SHA-256:

- {}
- {}"""

NORMALIZATION = {
    True: "It expects each waveform at zero mean and unit variance. The feature extractor sees to that; "
    "without one, see to it yourself.",
    False: "It brings each waveform to zero mean and unit variance itself, so the feature extractor does "
    "not; a waveform that already is so passes unchanged.",
}
"""Whether the export is a model of `transformers` -> who normalises the waveform."""

NO_NORMALIZATION = "It takes the waveform as it is, not normalised."

PADDING = {
    "layer": "Padding changes no valid frame, as long as `attention_mask` is passed on.",
    "group": "Its group norm averages over time, so padding changes valid frames: batch equal lengths only.",
}

CARD = """\
---
{head}---

# {name}

A speech encoder with **{params:,} parameters**, hatched by Nestling.
It is subnet `{id}` of the space `{space}`{origin}.

## Costs

{costs}

## Use

```python
from transformers import AutoFeatureExtractor, AutoModel

prepare = AutoFeatureExtractor.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}"{trust})
inputs = prepare(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")  # a list of 1-D arrays
hidden = model(**inputs, output_hidden_states=True).hidden_states  # {num_states} x (batch, frames, {width})
```

{code}

## Limits

- It is **bidirectional and does not stream**: attention reads the whole utterance, both ways.
- It reads 16 kHz mono audio, {least} samples at least, and gives {rate:g} frames a second.
- {normalization}
- {padding}
- It descends from its teacher and inherits its biases and its licence.{license}

## Shape

{shape}
{scores}
## Proof

Before it was handed over, this folder was reopened and run on random audio beside the supernet. The largest
error of any hidden state, relative to its RMS, was {errors}. `sha256sum -c SHA256SUMS` checks every file but this one.
"""
