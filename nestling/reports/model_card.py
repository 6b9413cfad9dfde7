"""README.md of an exported encoder: costs, use in each runtime, limits, scores, origin and proof."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

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
    return _template().render(
        head=dump_yaml(_head(config, record)),
        facts=facts,
        config=config,
        record=record,
        teacher=f"{record.teacher}@{record.revision}" if record.revision else record.teacher,
        compare=shell_command(["nestling", "evaluate", facts.name, f"{facts.name}/model.int8.onnx"]),
        code_files=CODE,
    )


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


def _is_on_hub(name: str) -> bool:
    """Whether a name has the form OWNER/NAME, which the hub makes a link of."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _template() -> Template:
    """The card, and how it writes strings of others; Markdown has no escape that would do everywhere."""
    templates = Environment(
        loader=PackageLoader("nestling.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "cell": lambda text: text.replace("|", "\\|"),
        "code": markdown_code,
        "digits": "{:,}".format,
        "line": printable,
        "literal": python_literal,
        "text": markdown_text,
    }
    return templates.get_template("card.md")
