"""README.md of an exported encoder: costs, use in each runtime, limits, scores, origin and proof."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from checkpoints.export import CODE, CardFacts
from search_spaces.quoting import markdown_code, markdown_text, printable, python_literal, shell_command
from search_spaces.strict_yaml import dump_yaml
from supernet.encoder_config import EncoderConfig


@dataclass(frozen=True)
class ExportRecord:
    """Where an encoder comes from and how good it was found to be: what no file of it tells."""

    teacher: str | None = None
    """Its name; one on the hub becomes the card's base model."""
    license: str | None = None
    """The teacher's, from whose weights these descend."""
    datasets: tuple[str, ...] = ()
    """Names of the audio that the supernet was trained on."""
    hours: float | None = None
    """How much of it."""
    language: str | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    """What was measured -> the result with its unit and interval, as in `phone error rate, test` -> `21.3 ± 1.2 %`."""
    commands: tuple[str, ...] = ()
    """That made it, in order."""
    revision: str | None = None
    """The teacher's commit, if it is of the hub."""


def model_card(record: ExportRecord) -> Callable[[CardFacts, EncoderConfig], str]:
    """What writes the card of an encoder with this record: a YAML head for the hub, then sections."""
    return partial(_render, record=record)


def _render(facts: CardFacts, config: EncoderConfig, record: ExportRecord) -> str:
    sections = [
        _introduction(facts, record),
        _section("Costs", _table("counted", _costs(facts))),
        _section("Use", "\n\n".join(_uses(facts, config))),
        _section("Limits", "\n".join(f"- {line}" for line in _limits(facts, config, record))),
        _section("Shape", _table("value", _shape(config))),
        _section("Scores", _table("measured", _shown(record.scores))) if record.scores else "",
        _section("Origin", _origin(record)) if record.commands or record.teacher else "",
        _section("Proof", _proof(facts)),
    ]
    return f"---\n{dump_yaml(_head(config, record))}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _head(config: EncoderConfig, record: ExportRecord) -> dict[str, Any]:
    head = {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "license": record.license,
        "base_model": record.teacher if _is_on_hub(record.teacher or "") else None,
        "datasets": list(filter(_is_on_hub, record.datasets)) or None,
        "language": record.language,
        "tags": [
            "speech",
            "wavlm" if config.gate_width else "hubert",
            "nestling",
            "neural-architecture-search",
            "knowledge-distillation",
        ],
    }
    return {key: value for key, value in head.items() if value is not None}


def _introduction(facts: CardFacts, record: ExportRecord) -> str:
    origin = f", distilled from {markdown_code(record.teacher)}" if record.teacher else ""
    if record.datasets:
        origin += f", trained on {_quoted(record.datasets)}"
    return (
        f"# {markdown_text(facts.name)}\n\n"
        f"A speech encoder with **{facts.params:,} parameters**, hatched by Nestling.\n"
        f"It is subnet `{facts.id}` of the space {markdown_code(facts.space)}{origin}."
    )


def _costs(facts: CardFacts) -> dict[str, str]:
    latency = " (latency is measured, not counted)" if facts.measured_budget else ""
    costs = {
        "parameters": f"{facts.params:,}",
        "multiply-accumulates, 1 s of audio": f"{facts.macs_1s:,}",
        "fp32 weights": f"{facts.size_bytes:,} bytes",
        "budget": (facts.budget or "none") + latency,
    }
    if facts.int8_bytes:
        costs["model.int8.onnx"] = f"{facts.int8_bytes:,} bytes"
    return costs


def _uses(facts: CardFacts, config: EncoderConfig) -> list[str]:
    """A block for each runtime that the folder serves."""
    remote = facts.model_class == "NestlingModel"
    uses = [
        TRANSFORMERS.format(
            folder=python_literal(facts.name),
            trust=", trust_remote_code=True" if remote else "",
            num_states=len(config.heads) + 1,
            width=config.embed_dim,
        ),
        REMOTE.format("\n".join(f"- `{name}` {facts.code_hashes[name]}" for name in CODE))
        if remote
        else f"It is a plain `{facts.model_class}`: no remote code.",
    ]
    if facts.onnx_opset:
        uses.append(ONNX.format(file=python_literal(f"{facts.name}/model.onnx"), opset=facts.onnx_opset))
    if facts.int8_error is not None:
        uses.append(
            INT8.format(
                error=f"{facts.int8_error:.1%}",
                audio=facts.int8_audio,
                command=markdown_code(
                    shell_command(["nestling", "evaluate", facts.name, f"{facts.name}/model.int8.onnx"])
                ),
            )
        )
    if facts.s3prl_entry:
        uses.append(S3PRL_USE.format(folder=python_literal(facts.name), entry=facts.s3prl_entry))
    return uses


def _limits(facts: CardFacts, config: EncoderConfig, record: ExportRecord) -> list[str]:
    lines = [
        "It is **bidirectional and does not stream**: attention reads the whole utterance, both ways.",
        f"It reads 16 kHz mono audio, {config.min_samples} samples at least, "
        f"and gives {config.frame_rate_hz:g} frames a second.",
        NORMALIZATION[facts.model_class == "NestlingModel"] if config.normalize_waveform else NO_NORMALIZATION,
        *(["model.onnx brings each waveform there itself."] if facts.onnx_opset and config.normalize_waveform else []),
        PADDING[config.conv_norm],
        "It descends from its teacher and inherits its biases and its licence.",
    ]
    if not record.license:
        lines[-1] += " That licence is not known here: find it out before you publish."
    return lines


def _shape(config: EncoderConfig) -> dict[str, str]:
    shape = {
        "front-end channels": _listed(config.conv_dims),
        "width": str(config.embed_dim),
        "heads of each layer": _listed(config.heads),
        "inner width of each layer": _listed(config.ffn_dims),
    }
    if config.gate_width:
        shape["position bias"] = f"gated, as in WavLM, on a stream of {config.gate_width}"
    return shape


def _origin(record: ExportRecord) -> str:
    rows = {}
    if record.teacher:
        teacher = f"{record.teacher}@{record.revision}" if record.revision else record.teacher
        rows["teacher"] = f"{markdown_code(teacher)}, licence {markdown_text(record.license or 'unknown')}"
    if record.datasets:
        rows["audio"] = _quoted(record.datasets) + (f", {record.hours:.1f} hours" if record.hours else "")
    made = "\n\n```\n" + "\n".join(map(printable, record.commands)) + "\n```" if record.commands else ""
    return _table("", rows) + made


def _proof(facts: CardFacts) -> str:
    errors = " and ".join(f"{error:.0e} with {name}" for name, error in facts.errors.items())
    return PROOF.format(errors=errors)


def _shown(scores: Mapping[str, str]) -> dict[str, str]:
    return {markdown_text(name): markdown_text(value) for name, value in scores.items()}


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _is_on_hub(name: str) -> bool:
    """Whether a name has the form OWNER/NAME, which the hub makes a link of."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(markdown_code, names))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _table(heading: str, rows: Mapping[str, str]) -> str:
    """A Markdown table of two columns, of Markdown."""
    cells = [[text.replace("|", "\\|") for text in row] for row in rows.items()]
    return "\n".join([f"| | {heading} |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])


TRANSFORMERS = """\
```python
from transformers import AutoFeatureExtractor, AutoModel

prepare = AutoFeatureExtractor.from_pretrained({folder})
model = AutoModel.from_pretrained({folder}{trust})
inputs = prepare(waveforms, sampling_rate=16000, padding=True, return_tensors="pt")  # a list of 1-D arrays
hidden = model(**inputs, output_hidden_states=True).hidden_states  # {num_states} x (batch, frames, {width})
```"""

REMOTE = """\
No class of `transformers` has this shape, so the network travels with it: a few short files that import torch
and transformers alone. Read them, and pin a `revision` when you load from the hub. Their SHA-256:

{}

Where Nestling is installed, `checkpoints.register_auto_model()` serves instead of `trust_remote_code`."""

ONNX = """\
In ONNX Runtime (opset {opset}; batch and time are dynamic):

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({file})
lengths = np.array([len(wave) for wave in waveforms])
padded = np.stack([np.pad(wave, (0, lengths.max() - len(wave))) for wave in waveforms]).astype(np.float32)
last, frames = session.run(["last_hidden_state", "frame_lengths"], {{"input_values": padded, "lengths": lengths}})
```

`hidden_states.0`, `hidden_states.1` … are outputs too."""

INT8 = """\
`model.int8.onnx` takes and gives the same, with products in integers. Its hidden states are off by up to {error} of
their RMS (on {audio}); what that does to a task, {command} tells."""

S3PRL_USE = """\
With torch.hub, or in s3prl (see hubconf.py), from torch and safetensors alone:

```python
import torch

upstream = torch.hub.load({folder}, "{entry}", source="local")
states = upstream([torch.from_numpy(wave) for wave in waveforms])["hidden_states"]
```"""

NORMALIZATION = {
    False: "It expects each waveform at zero mean and unit variance. The feature extractor sees to that; "
    "without one, see to it yourself.",
    True: "It brings each waveform to zero mean and unit variance itself, so the feature extractor does "
    "not; a waveform that already is so passes unchanged.",
}
"""Whether the network travels with the folder -> who normalises the waveform."""

NO_NORMALIZATION = "It takes the waveform as it is, not normalised."

PADDING = {
    "layer": "Padding changes no valid frame, as long as `attention_mask` (or `lengths`) is passed on.",
    "group": "Its group norm averages over time, so padding changes valid frames: batch equal lengths only.",
}

PROOF = """\
Before it was handed over, this folder was reopened and run on random audio beside the supernet. The largest
error of any hidden state, relative to its RMS, was {errors}.
`sha256sum -c SHA256SUMS` checks every file but this one."""
