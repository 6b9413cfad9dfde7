"""A model card says, line by line, what was counted, where the encoder comes from and how it is used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from checkpoints.export import CODE, CardFacts
from nestling.reports.model_card import ExportRecord, model_card
from supernet.encoder_config import EncoderConfig

CONFIG = EncoderConfig((16, 8), 32, (2, 3), (48, 64), head_dim=16, conv_kernels=(10, 4), conv_strides=(80, 4))
FACTS = CardFacts(
    name="small_one",
    id="0123abcd",
    space="tiny",
    params=1234567,
    macs_1s=7654321,
    size_bytes=4938268,
    budget="",
    measured_budget=False,
    model_class="HubertModel",
    code_hashes={name: f"sha of {name}" for name in CODE},
    errors={"transformers": 1.25e-6, "onnxruntime": 2e-7},
)


def card(facts: dict[str, Any] | None = None, config: dict[str, Any] | None = None, **record: Any) -> str:
    return model_card(ExportRecord(**record))(replace(FACTS, **facts or {}), replace(CONFIG, **config or {}))


def section(text: str, title: str) -> list[str]:
    """Lines between a heading and the next, without the empty ones."""
    return list(filter(None, text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0].splitlines()))


def test_a_plain_card() -> None:
    text = card()
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: feature-extraction\ntags:\n")
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == [
        "Costs",
        "Use",
        "Limits",
        "Shape",
        "Proof",
    ]
    assert "\n\n# small\\_one\n\nA speech encoder with **1,234,567 parameters**, hatched by Nestling.\n" in text
    assert "\nIt is subnet `0123abcd` of the space `tiny`.\n\n## Costs\n\n" in text
    assert section(text, "Costs") == [
        "| | counted |",
        "|---|---|",
        "| parameters | 1,234,567 |",
        "| multiply-accumulates, 1 s of audio | 7,654,321 |",
        "| fp32 weights | 4,938,268 bytes |",
        "| budget | none |",
    ]
    assert section(text, "Use")[-1] == "It is a plain `HubertModel`: no remote code."
    assert 'model = AutoModel.from_pretrained("small_one")\n' in text
    assert ".hidden_states  # 3 x (batch, frames, 32)\n" in text
    assert section(text, "Shape") == [
        "| | value |",
        "|---|---|",
        "| front-end channels | 16, 8 |",
        "| width | 32 |",
        "| heads of each layer | 2, 3 |",
        "| inner width of each layer | 48, 64 |",
    ]
    assert text.endswith(
        "\nerror of any hidden state, relative to its RMS, was 1e-06 with transformers and 2e-07 with onnxruntime.\n"
        "`sha256sum -c SHA256SUMS` checks every file but this one.\n"
    )


@pytest.mark.parametrize(
    ("config", "record", "head"),
    [
        ({}, {}, {"tags": "hubert"}),
        ({"gate_width": 32}, {}, {"tags": "wavlm"}),
        ({}, {"license": "mit", "language": "en"}, {"license": "mit", "language": "en", "tags": "hubert"}),
        ({}, {"teacher": "demo", "datasets": ("demo",)}, {"tags": "hubert"}),
        (
            {},
            {"teacher": "me/mine", "datasets": ("demo", "a/b", "c/d")},
            {"base_model": "me/mine", "datasets": ["a/b", "c/d"], "tags": "hubert"},
        ),
    ],
)
def test_the_head_holds_what_the_hub_understands(
    config: dict[str, Any], record: dict[str, Any], head: dict[str, Any]
) -> None:
    read = yaml.safe_load(card(config=config, **record).split("---\n")[1])
    tags = ["speech", head["tags"], "nestling", "neural-architecture-search", "knowledge-distillation"]
    assert read == {"library_name": "transformers", "pipeline_tag": "feature-extraction", **head, "tags": tags}


@pytest.mark.parametrize(
    ("facts", "lines"),
    [
        (
            {"budget": "latency<=30ms@2s", "measured_budget": True},
            ["| budget | latency<=30ms@2s (latency is measured, not counted) |"],
        ),
        ({"budget": "2M", "int8_bytes": 1234}, ["| budget | 2M |", "| model.int8.onnx | 1,234 bytes |"]),
    ],
)
def test_costs_are_what_was_bounded_and_written(facts: dict[str, Any], lines: list[str]) -> None:
    assert section(card(facts), "Costs")[5:] == lines


def test_each_runtime_has_its_use() -> None:
    facts = {"model_class": "NestlingModel", "onnx_opset": 20, "s3prl_entry": "small"}
    text = card(facts | {"int8_error": 0.0312, "int8_audio": "20 utterances"})
    use = section(text, "Use")
    assert 'model = AutoModel.from_pretrained("small_one", trust_remote_code=True)' in use
    assert [line for line in use if line.startswith("- ")] == [f"- `{name}` sha of {name}" for name in CODE]
    assert "In ONNX Runtime (opset 20; batch and time are dynamic):" in use
    assert 'session = onnxruntime.InferenceSession("small_one/model.onnx")' in use
    assert use[use.index("`hidden_states.0`, `hidden_states.1` … are outputs too.") + 1 :][:2] == [
        "`model.int8.onnx` takes and gives the same, with products in integers. Its hidden states are off by up to "
        "3.1% of",
        "their RMS (on 20 utterances); what that does to a task, "
        "`nestling evaluate small_one small_one/model.int8.onnx` tells.",
    ]
    assert 'upstream = torch.hub.load("small_one", "small", source="local")' in use
    assert "3.1%" not in card(facts)
    assert "off by up to 0.0% of" in card(facts | {"int8_error": 0.0})  # exact, not left out


UNKNOWN = " That licence is not known here: find it out before you publish."
SEEN_TO = "It expects each waveform at zero mean and unit variance."
ITSELF = "It brings each waveform to zero mean and unit variance itself, so the feature extractor does not; "
AS_IT_IS = "It takes the waveform as it is, not normalised."
ONNX_TOO = "model.onnx brings each waveform there itself."


@pytest.mark.parametrize(
    ("facts", "config", "record", "said"),
    [
        ({}, {}, {"license": "mit"}, [SEEN_TO, "Padding changes no valid frame, as long as"]),
        ({"onnx_opset": 20}, {}, {"license": "mit"}, [SEEN_TO, ONNX_TOO, "Padding changes no valid frame, as long as"]),
        ({"model_class": "NestlingModel"}, {"conv_norm": "group"}, {}, [ITSELF, "Its group norm averages over time,"]),
        ({"onnx_opset": 20}, {"normalize_waveform": False}, {}, [AS_IT_IS, "Padding changes no valid frame,"]),
    ],
)
def test_limits_are_those_of_this_encoder(
    facts: dict[str, Any], config: dict[str, Any], record: dict[str, Any], said: list[str]
) -> None:
    first, second, *rest, last = section(card(facts, config, **record), "Limits")
    assert first.startswith("- It is **bidirectional and does not stream**: ")
    assert second == "- It reads 16 kHz mono audio, 250 samples at least, and gives 50 frames a second."
    assert len(rest) == len(said)
    for line, words in zip(rest, said, strict=True):
        assert line.startswith(f"- {words}")
    assert last == "- It descends from its teacher and inherits its biases and its licence." + (
        "" if record else UNKNOWN
    )


def test_gates_are_told_with_the_shape() -> None:
    line = "| position bias | gated, as in WavLM, on a stream of 32 |"
    assert section(card(config={"gate_width": 32}), "Shape")[-1] == line


TEACHER = "| teacher | `me/mine`, licence unknown |"


@pytest.mark.parametrize(
    ("record", "introduced", "lines"),
    [
        ({"teacher": "me/mine"}, ", distilled from `me/mine`", [TEACHER]),
        (
            {"teacher": "me/mine", "revision": "abc", "license": "cc_by", "datasets": ("a", "b|c"), "hours": 1.25},
            ", distilled from `me/mine`, trained on `a`, `b|c`",
            ["| teacher | `me/mine@abc`, licence cc\\_by |", "| audio | `a`, `b\\|c`, 1.2 hours |"],
        ),
        (
            {"teacher": "me/mine", "datasets": ("a",)},
            ", distilled from `me/mine`, trained on `a`",
            [TEACHER, "| audio | `a` |"],
        ),
        ({"commands": ("one\n", "two")}, "", ["```", "one\\n", "two", "```"]),
    ],
)
def test_origin(record: dict[str, Any], introduced: str, lines: list[str]) -> None:
    text = card(**record)
    assert f"of the space `tiny`{introduced}.\n" in text
    assert section(text, "Origin") == ["| |  |", "|---|---|", *lines]


def test_scores_are_shown_as_plain_text() -> None:
    text = card(scores={"phone *error* rate, a|b": "21.3 ± 1.2 %"})
    assert section(text, "Scores") == [
        "| | measured |",
        "|---|---|",
        "| phone \\*error\\* rate, a\\|b | 21.3 ± 1.2 % |",
    ]


def test_shown_names_do_nothing() -> None:
    text = card({"name": 'a"b`c\n', "space": "x`y{{ 7*7 }}{% endif %}"})
    assert '# a"b\\`c\\\\n\n' in text  # the break is text, too
    assert "of the space ``x`y{{ 7*7 }}{% endif %}``." in text
    assert "AutoModel.from_pretrained('a\"b`c\\n')" in text
