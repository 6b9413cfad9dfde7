"""A config.json of absurd sizes is refused before anything is built of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints.formats.config_json import read_config
from checkpoints.formats.hugging_face import TeacherError
from checkpoints.formats.limits import LIMITS, MAX_LAYERS, MAX_PARAMS, find_excess
from checkpoints.representations import open_representation
from checkpoints.teachers import load_encoder
from supernet.encoder_config import EncoderConfig
from tests.encoders import SMALL

LARGE = {"num_hidden_layers": 250, "hidden_size": 16_384, "intermediate_size": 65_536, "num_attention_heads": 128}


def refusals(folder: Path, values: dict[str, Any]) -> list[str]:
    """Of all that opens the folder, in a second each."""
    (folder / "config.json").write_text(json.dumps(values))
    messages = []
    readers: list[tuple[Callable[[Any], Any], Any]] = [
        (load_encoder, folder),
        (open_representation, str(folder)),
        (open_representation, f"untrained:{folder}"),
    ]
    for read, source in readers:
        start = time.process_time()
        with pytest.raises(TeacherError) as caught:
            read(source)
        assert time.process_time() - start < 1
        messages.append(str(caught.value))
    return messages


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is too large; at most 256 is allowed"),
        ({"hidden_size": 10**9}, "hidden_size=1000000000 is too large; at most 16,384 is allowed"),
        ({"hidden_size": 10**300}, "00... is too large; at most 16,384 is allowed"),
        ({"num_hidden_layers": float("inf")}, "num_hidden_layers=Infinity is too large"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers=NaN is too large"),
        ({"conv_dim": [512] * 5000}, "conv_dim has 5,000 entries; at most 256 are allowed"),
        ({"conv_dim": [512, 10**9]}, "conv_dim=1000000000 is too large"),
        ({"conv_kernel": [10**9] * 7}, "conv_kernel=1000000000 is too large"),
        ({"num_conv_pos_embeddings": 10**7}, "num_conv_pos_embeddings=10000000 is too large"),
        (LARGE, "805,306,368,000 parameters are too many; at most 4,000,000,000 are allowed"),
        ({"conv_dim": [16_384] * 7, "conv_kernel": [1000] * 7}, "parameters are too many"),
        ({"hidden_size": 16_384, "num_conv_pos_embeddings": 4096, "num_conv_pos_embedding_groups": 1}, "too many"),
    ],
)
def test_hubert_and_its_like(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    for model_type in ("hubert", "wavlm", "bert"):
        found = refusals(tmp_path, {"model_type": model_type, **values})
        assert all(message in each for each in found), found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": [1] * 5000}, "heads has 5,000 entries; at most 256 are allowed"),
        ({"heads": [10**9, 1]}, "heads=1000000000 is too large; at most 1,024 is allowed"),
        ({"embed_dim": 10**9}, "embed_dim=1000000000 is too large"),
        ({"head_dim": 10**9}, "head_dim=1000000000 is too large"),
        ({"ffn_dims": [1, 10**9]}, "ffn_dims=1000000000 is too large"),
        ({"conv_dims": [8] * 300}, "conv_dims has 300 entries"),
        ({"pos_conv_kernel": 10**9}, "pos_conv_kernel=1000000000 is too large"),
        ({"embed_dim": 16_384, "heads": [1000] * 250, "ffn_dims": [60_000] * 250}, "parameters are too many"),
        ({"embed_dim": 16_384, "pos_conv_kernel": 4096, "pos_conv_groups": 1}, "parameters are too many"),
    ],
)
def test_exports_of_ours(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    found = refusals(tmp_path, {"model_type": "nestling", **SMALL.to_dict(), **values})
    assert all(message in each for each in found), found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "data2vec-audio", "conv_pos_kernel_size": 10**9}, "parameters are too many"),
        ({"model_type": "wav2vec2-conformer", "output_hidden_size": 10**6, "add_adapter": True}, "are too many"),
        (
            {"model_type": "whisper", "encoder_layers": 300, "d_model": 6},
            "encoder_layers=300 is too large; at most 256",
        ),
        ({"model_type": "whisper", "d_model": 600_000}, "parameters are too many"),
        (
            {"model_type": "speech-encoder-decoder", "encoder": {"model_type": "hubert", "num_hidden_layers": 300}},
            "num_hidden_layers=300 is too large; at most 256 is allowed",
        ),
    ],
)
def test_networks_that_transformers_builds(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    """By sizes that are not HuBERT's, or inside another configuration, before memory is asked for."""
    (tmp_path / "config.json").write_text(json.dumps(values))
    for source in (str(tmp_path), f"untrained:{tmp_path}"):
        try:
            said = f"opened {open_representation(source)}"
        except ValueError as error:
            said = str(error)
        assert message in said


def test_the_largest_speech_encoders_are_allowed() -> None:
    values = {"model_type": "hubert", "num_hidden_layers": 48, "hidden_size": 1280, "intermediate_size": 5120}
    config = read_config(values | {"num_attention_heads": 16}, True, "hubert-xlarge")
    assert len(config.heads) == 48
    assert find_excess(values | {"hidden_size": 1920, "intermediate_size": 7680}) is None  # XLS-R of two billion


def test_every_key_of_an_export_has_a_limit() -> None:
    counts = {
        name for name, value in EncoderConfig((1,), 1, (1,), (1,)).to_dict().items() if type(value) in (int, list)
    }
    assert counts <= LIMITS.keys()
    assert find_excess({key: limit for key, limit in LIMITS.items() if key != "hidden_size"}) is None
    for key, limit in LIMITS.items():
        assert key in str(find_excess({key: limit + 1}))
        assert key in str(find_excess({key: [1, limit + 1]}))
        assert key in str(find_excess({key: [1] * (MAX_LAYERS + 1)}))
        assert find_excess({key: [limit] * MAX_LAYERS}) is None or key == "conv_dim"
    assert MAX_PARAMS > 2_000_000_000


def test_what_is_no_number_is_left_to_other_checks() -> None:
    values = {"hidden_size": "wide", "conv_dim": ["x", None, {}], "num_hidden_layers": None, "conv_kernel": {"a": 1}}
    assert find_excess(values) is None
