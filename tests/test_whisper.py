"""Whisper's encoders: hidden states of `transformers`' own, on HuBERT's frames, from folders of either kind."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel, WhisperFeatureExtractor

from checkpoints.formats.whisper_encoder import WhisperEncoder, WhisperShape, plan_windows
from checkpoints.representations import Representation, open_representation
from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.whisper_features import log_mel_spectrogram, mel_filters
from tests.encoders import TOLERANCE, error_of, randomize
from tests.shell import Shell
from tests.test_representations import assert_batch_is_nothing_but_its_utterances, refusal
from tests.whisper_cases import (
    ct2_bytes,
    encoder_of,
    make_wave,
    make_whisper,
    states_by_transformers,
    tensor,
    text,
    write_ct2,
    write_whisper,
)

ROUNDED = 1e-3
"""Of the RMS: what half precision of weights moves states by."""


def hear(opened: Representation, wave: Tensor) -> list[Tensor]:
    return list(opened.encode(wave[None], None))


def mels_by_transformers(wave: Tensor, num_mels: int = 80) -> Tensor:
    """The spectrogram of an utterance's own length, (1, C, M)."""
    prepare = WhisperFeatureExtractor(feature_size=num_mels)
    options = {"sampling_rate": 16000, "padding": "do_not_pad", "truncation": False, "return_tensors": "pt"}
    found: Tensor = prepare(wave.numpy(), **options).input_features
    return found


def mirrored(wave: Tensor) -> Tensor:
    """What `transformers` hears of a wave: mirrored at its ends, in whole steps of the spectrogram."""
    padded = F.pad(wave[None], (200, 200), mode="reflect")[0]
    return padded[: len(wave) // 160 * 160 + 240]


# The spectrogram


@pytest.mark.parametrize("num_mels", [80, 128])
def test_the_spectrogram_is_that_of_transformers(num_mels: int) -> None:
    filters = WhisperFeatureExtractor(feature_size=num_mels).mel_filters
    np.testing.assert_allclose(mel_filters(num_mels).numpy(), filters, atol=1e-6 * filters.max())
    for num_samples in (480_000, 16_000, 8_123, 560):
        wave = make_wave(num_samples)
        wave[: num_samples // 3] = 0  # as quiet as it gets
        wanted = mels_by_transformers(wave, num_mels)
        got = log_mel_spectrogram(mirrored(wave)[None], num_mels)
        assert got.shape == wanted.shape == (1, num_mels, num_samples // 160)
        assert (got - wanted).abs().max() < 1e-4


# Hidden states


@pytest.mark.parametrize("num_frames", [1500, 700, 49, 1])
def test_hidden_states_are_those_of_transformers(tmp_path: Path, num_frames: int) -> None:
    model = write_whisper(tmp_path / "tiny")
    opened = open_representation(str(tmp_path / "tiny"))
    assert opened.params == sum(p.numel() for p in encoder_of(model).parameters())
    wave = make_wave(320 * num_frames)  # two steps of the spectrogram for each frame
    wanted = states_by_transformers(model, mels_by_transformers(wave))
    got = hear(opened, mirrored(wave))
    assert [x.shape for x in got] == [(1, num_frames, 16)] * 4
    assert error_of(got, wanted) <= 10 * TOLERANCE


@pytest.mark.parametrize("head", ["WhisperForConditionalGeneration", "WhisperForAudioClassification"])
def test_models_under_a_head_and_of_other_spectrograms(tmp_path: Path, head: str) -> None:
    model = write_whisper(tmp_path, head, num_mel_bins=128)
    wave = make_wave(16_000)
    wanted = states_by_transformers(model, mels_by_transformers(wave, 128))
    assert error_of(hear(open_representation(str(tmp_path)), mirrored(wave)), wanted) <= 10 * TOLERANCE


def test_a_pickle_is_read_without_running_it_and_so_are_shards(tmp_path: Path) -> None:
    model = write_whisper(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert (tmp_path / "shards/model.safetensors.index.json").is_file()
    (tmp_path / "old").mkdir()
    torch.save(model.state_dict(), tmp_path / "old/pytorch_model.bin")
    model.config.save_pretrained(tmp_path / "old")
    wave = make_wave(9_000)
    wanted = hear(open_representation(str(tmp_path / "whole")), wave)
    for name in ("shards", "old"):
        assert error_of(hear(open_representation(str(tmp_path / name)), wave), wanted) == 0


def test_there_are_as_many_frames_as_hubert_has(tmp_path: Path) -> None:
    write_whisper(tmp_path)
    opened = open_representation(str(tmp_path))
    for num_samples in (400, 559, 560, 719, 720, 879, 880, 16_000, 16_079, 16_080, 16_239):
        states = hear(opened, make_wave(num_samples))
        assert {x.shape[1] for x in states} == {count_frames(Backbone(), num_samples)}, num_samples
    assert_batch_is_nothing_but_its_utterances(opened)


@pytest.mark.parametrize("at", [8_000, 8_100, 8_213])
def test_a_click_is_in_the_frames_about_it(at: int) -> None:
    """Within half a frame, in Whisper's convolutions and in HuBERT's."""
    wave = torch.zeros(1, 16_000)
    wave[0, at] = 1.0
    encoder = WhisperEncoder(WhisperShape(80, 16, 1, 2, 24, 1500))
    randomize(encoder)
    config = HubertConfig(conv_dim=[16] * 7, hidden_size=16, num_hidden_layers=0, feat_extract_norm="layer")
    hubert = HubertModel(config)
    randomize(hubert)
    with torch.no_grad():
        ours, theirs = encoder.front_end(wave), hubert.feature_extractor(wave).transpose(1, 2)
    for x in (ours, theirs):
        inner = x[0, 3:-3]  # at the ends, convolutions hear zeros, which are no silence
        moved = torch.nonzero((inner - inner[0]).abs().sum(1) > 1e-3) + 3
        assert abs(320 * float(moved.float().mean()) + 200 - at) <= 160


# Longer than 30 s


def test_long_utterances_are_heard_in_windows_that_overlap(tmp_path: Path) -> None:
    write_whisper(tmp_path, max_source_positions=30)
    opened = open_representation(str(tmp_path))
    wave = make_wave(320 * 71 + 80 + 100)
    got = hear(opened, wave)
    windows = plan_windows(71, 30)
    assert [(start, end) for start, end, _ in windows] == [(0, 30), (14, 44), (27, 57), (41, 71)]
    for start, end, kept in windows:
        alone = hear(opened, wave[320 * start : 320 * end + 240])
        assert alone[0].shape[1] == 30
        frames = slice(start + kept.start, start + kept.stop)
        assert error_of([x[:, frames] for x in got], [x[:, kept] for x in alone]) <= TOLERANCE
    assert got[0].shape[1] == 71


@pytest.mark.parametrize("size", [3, 30, 1500])
def test_windows_keep_every_frame_once_and_from_where_most_is_heard(size: int) -> None:
    for num_frames in (1, size - 1, size, size + 1, 2 * size, 7 * size + 5):
        windows = plan_windows(num_frames, size)
        kept = [t for start, _, own in windows for t in range(start + own.start, start + own.stop)]
        assert kept == list(range(num_frames))
        assert all(0 <= start < end <= num_frames and end - start <= size for start, end, _ in windows)
        for (_, end, own), (start, _, _) in pairwise(windows):
            assert end - start >= size // 3
            assert own.stop > 0
    assert plan_windows(1600, 1500) == [(0, 1500, slice(0, 800)), (100, 1600, slice(700, 1500))]


# CTranslate2


@pytest.mark.parametrize(("kind", "tolerance"), [("f4", 0), ("f2", 0.02), ("bf16", 0.1), ("i1", 0.2), ("i2", 0.05)])
def test_a_file_of_ctranslate2_is_the_same_whisper(tmp_path: Path, kind: str, tolerance: float) -> None:
    model = write_whisper(tmp_path / "hf")
    write_ct2(tmp_path / "ct2", encoder_of(model), kind=kind)
    wave = make_wave(20_000)
    there, here = (open_representation(str(tmp_path / name)) for name in ("hf", "ct2"))
    wanted, got = hear(there, wave), hear(here, wave)
    assert error_of(got, wanted) <= tolerance
    assert here.name == "ct2"
    assert (here.params, here.macs_1s) == (there.params, there.macs_1s)
    assert (here.fingerprint == there.fingerprint) == (kind == "f4")
    file = open_representation(str(tmp_path / "ct2/model.bin"))
    assert file.fingerprint == here.fingerprint


def test_quantised_weights_are_divided_by_the_scale_of_their_row(tmp_path: Path) -> None:
    """Against the very numbers that the file holds, so that no tolerance hides a scale in a wrong place."""
    model = make_whisper()
    encoder: Any = encoder_of(model)
    with torch.no_grad():
        for layer in encoder.layers:
            linears = [layer.fc1, layer.fc2, layer.self_attn.out_proj]
            linears += [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
            for i, linear in enumerate(linears):
                linear.weight.mul_(torch.logspace(-1, 0.3, len(linear.weight))[:, None])  # rows of unlike size
                peak = linear.weight.abs().amax(1, keepdim=True)
                linear.weight.copy_((linear.weight / peak * 127).round() * (peak / 127) * (1 + 0.0 * i))
    write_ct2(tmp_path / "ct2", encoder, kind="i1")
    wave = make_wave(16_000)
    wanted = states_by_transformers(model, mels_by_transformers(wave))
    assert error_of(hear(open_representation(str(tmp_path / "ct2")), mirrored(wave)), wanted) <= 20 * TOLERANCE


def test_twins_and_heads_that_are_not_told(tmp_path: Path) -> None:
    model = make_whisper(d_model=128)
    encoder: Any = encoder_of(model)
    encoder.layers[2].fc2.weight = encoder.layers[1].fc2.weight
    assert ct2_bytes(encoder, "f4").count(b"encoder/layer_2/ffn/linear_1/weight") == 1  # by its other name alone
    for kind in ("f4", "i1"):
        write_ct2(tmp_path / kind, encoder, kind=kind, heads=None)  # 64 channels each
    wave = make_wave(16_000)
    wanted = states_by_transformers(model, mels_by_transformers(wave))
    assert error_of(hear(open_representation(str(tmp_path / "f4")), mirrored(wave)), wanted) <= 10 * TOLERANCE
    assert error_of(hear(open_representation(str(tmp_path / "i1")), mirrored(wave)), wanted) <= 0.2


# What it costs, and fresh weights


def test_macs_are_those_of_the_layers(tmp_path: Path) -> None:
    write_whisper(tmp_path)
    d, f, frames, mels = 16, 24, 49, 98
    layers = 3 * frames * (4 * d * d + 2 * d * f + 2 * frames * d)
    assert open_representation(str(tmp_path)).macs_1s == (
        mels * 201 * 80 + mels * 80 * d * 3 + frames * d * d * 3 + layers
    )


def test_untrained_is_the_same_shape_and_always_the_same(tmp_path: Path) -> None:
    model = write_whisper(tmp_path / "hf")
    write_ct2(tmp_path / "ct2", encoder_of(model))
    (tmp_path / "hf/model.safetensors").unlink()
    first, second, third = (open_representation(f"untrained:{tmp_path / name}") for name in ("hf", "hf", "ct2"))
    assert first.fingerprint == second.fingerprint == third.fingerprint
    assert first.params == sum(p.numel() for p in encoder_of(model).parameters())
    shape = WhisperShape(80, 16, 1, 2, 24, 1500)
    wanted = encoder_of(make_whisper_untouched()).embed_positions.weight
    torch.testing.assert_close(WhisperEncoder(shape).embed_positions.weight, wanted, atol=1e-4, rtol=0)


def make_whisper_untouched() -> Any:
    from transformers import WhisperConfig, WhisperModel

    from tests.whisper_cases import SIZES

    return WhisperModel(WhisperConfig(**SIZES))


# What is refused


def damage(folder: Path, data: bytes) -> str:
    """What is said of a folder of CTranslate2 whose file holds this."""
    (folder / "model.bin").write_bytes(data)
    return refusal(folder)


def test_a_file_that_ends_too_early_or_late(tmp_path: Path) -> None:
    encoder = encoder_of(make_whisper(max_source_positions=50))
    data = (write_ct2(tmp_path / "ct2", encoder) / "model.bin").read_bytes()
    for left in (30, 60, 100, len(data) // 3, len(data) // 2, len(data) - 1):
        assert f"is truncated: {left:,} bytes are left of it" in damage(tmp_path / "ct2", data[:left])
    assert "is damaged: 3 bytes are behind its end" in damage(tmp_path / "ct2", data + b"abc")


def claim(*pieces: bytes, count: int | None = None) -> bytes:
    """A file that holds these tensors, or says that it has so many."""
    head = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
    return head + struct.pack("<I", len(pieces) if count is None else count) + b"".join(pieces) + struct.pack("<I", 0)


WEIGHT = text("encoder/conv1/weight")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (claim(count=2**32 - 1)[:-4], "is truncated"),
        (claim(WEIGHT + b"\xff" * 2000), "encoder/conv1/weight has 255 axes; at most 8 are read"),
        (claim(WEIGHT + b"\x08" + b"\xff" * 32 + struct.pack("<BI", 0, 4)), "has 4 bytes; it should have"),
        (claim(WEIGHT + b"\x01" + struct.pack("<IBI", 2**30 - 1, 0, 2**32 - 4)), "is truncated"),
        (claim(text("decoder/x") + b"\x01" + struct.pack("<IBI", 2**30 - 1, 0, 2**32 - 4)), "is truncated"),
        (claim(WEIGHT + b"\x00" + struct.pack("<BI", 9, 4) + b"abcd"), "is of type 9; 0 to 5 are known"),
        (
            claim(WEIGHT + b"\x01" + struct.pack("<IBI", 3, 4, 4) + b"abcd"),
            "of shape [3] has 4 bytes; it should have 6",
        ),
        (claim(b"\x03\x00abc"), "is no name"),
        (claim(*[tensor("encoder/conv1/bias", [1.0], "f4")] * 2), "it has encoder/conv1/bias twice"),
        (claim(), "missing conv1.weight"),
        (claim(tensor("encoder/conv1/weight", 1.0, "f4")), "missing conv1.weight"),
        (struct.pack("<I", 9) + claim()[4:], "has version 9 of CTranslate2's layout; 4 to 6 are read"),
        (ct2_bytes(encoder_of(make_whisper()), spec="TransformerSpec"), "is a TransformerSpec of CTranslate2; Whis"),
    ],
    ids=range(13),
)
def test_absurd_claims_of_a_file(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "ct2").mkdir()
    assert message in damage(tmp_path / "ct2", data)


@pytest.mark.parametrize("scale", [[1.0], [0.0] * 24, [float("nan")] * 24, [1.0] * 23])
def test_scales_that_do_not_fit(tmp_path: Path, scale: list[float]) -> None:
    whole = tensor("encoder/layer_0/ffn/linear_0/weight", torch.ones(24, 16), "i1")
    (tmp_path / "ct2").mkdir()
    said = damage(tmp_path / "ct2", claim(whole, tensor("encoder/layer_0/ffn/linear_0/weight_scale", scale, "f4")))
    assert ("the scale of encoder/layer_0/ffn/linear_0/weight" in said) == (scale != [1.0]), said
    assert scale != [1.0] or "missing conv1.weight" in said


def test_weights_of_ctranslate2_that_do_not_fit(tmp_path: Path) -> None:
    encoder: Any = encoder_of(make_whisper())
    data = ct2_bytes(encoder, "f4", heads=3)
    (tmp_path / "ct2").mkdir()
    assert "heads=3" in damage(tmp_path / "ct2", data)
    assert "heads=-1" in damage(tmp_path / "ct2", ct2_bytes(encoder, heads=-1))
    encoder.layers[1].fc1 = torch.nn.Linear(16, 25)
    assert "layers.1.fc1.weight has shape [25, 16], not [24, 16]" in damage(tmp_path / "ct2", ct2_bytes(encoder))
    encoder.conv2.bias.data[0] = float("inf")
    assert "conv2.bias has numbers that are not finite" in damage(tmp_path / "ct2", ct2_bytes(encoder))
    raw = tensor("encoder/conv1/weight", torch.ones(16, 80, 3), "i1")
    named = [raw, tensor("encoder/layer_0/ffn/linear_0/weight", torch.ones(24, 16), "f4")]
    positions = tensor("encoder/position_encodings/encodings", torch.ones(50, 16), "f4")
    said = damage(tmp_path / "ct2", claim(*named, positions, tensor("encoder/num_heads", 2, "i2")))
    assert "conv1.weight is torch.int8, not dense floating point" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "relu"}, 'activation_function="relu" is not supported, only "gelu"'),
        ({"d_model": "wide"}, 'd_model="wide" is not like 384'),
        ({"encoder_layers": 300}, "encoder_layers=300 is too large; at most 256"),
        ({"num_mel_bins": 10**9}, "num_mel_bins=1000000000 is too large"),
        ({"max_source_positions": 10**12}, "parameters are too many"),
        ({"encoder_attention_heads": 3}, "heads share the width"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads=0 is not like 6"),
        ({"encoder_layers": 2}, "unexpected layers.2.fc1.bias"),
        ({"encoder_layers": 4}, "missing layers.3.fc1.bias"),
        ({"quantization_config": {"bits": 4}}, 'quantization_config={"bits": 4} is not supported, only null'),
    ],
)
def test_configurations_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_whisper(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hop_length": 80}, "hop_length=80 of preprocessor_config.json is not supported, only 160"),
        ({"feature_size": 128}, "feature_size=128 of preprocessor_config.json is not supported, only 80"),
        ({"sampling_rate": 8000}, "the model wants audio at 8000 Hz"),
    ],
)
def test_other_spectrograms_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_whisper(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert message in refusal(tmp_path)


def test_weights_of_other_things(tmp_path: Path) -> None:
    write_whisper(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    path.write_bytes(safetensors.torch.save({n: w for n, w in weights.items() if n.startswith("decoder")}))
    assert "has no tensor of a Whisper's encoder, such as conv1.weight; its tensors are decoder." in refusal(tmp_path)
    path.write_bytes(safetensors.torch.save({**weights, "b.conv1.weight": weights["encoder.conv1.weight"] * 1}))
    assert "holds several encoders, whose names begin with 'b.' and 'encoder.'" in refusal(tmp_path)
    path.write_bytes(b"x" * 500)
    assert "is no safetensors file" in refusal(tmp_path)
    path.unlink()
    assert "has no weights" in refusal(tmp_path)


def test_a_folder_that_is_not_what_its_manifest_lists(tmp_path: Path) -> None:
    write_ct2(tmp_path / "ct2", encoder_of(make_whisper()))
    (tmp_path / "ct2/SHA256SUMS").write_text(f"{'0' * 64}  model.bin\n")
    assert "SHA256SUMS" in refusal(tmp_path / "ct2")
    assert "SHA256SUMS" in refusal(tmp_path / "ct2/model.bin")


# From the command line


def test_they_are_measured(tmp_path: Path) -> None:
    model = write_whisper(tmp_path / "hf")
    write_ct2(tmp_path / "ct2", encoder_of(model))
    nestling = Shell(tmp_path)
    said = nestling.done("measure hf ct2 --seconds 0.1 --repeats 3 --threads 1 --out all.json")
    assert "front-end" in said.out
    rows = json.loads((tmp_path / "all.json").read_text())
    assert [row["encoder"] for row in rows["memory"]] == ["hf", "ct2"]
    said = nestling("measure hf --runtime transformers --seconds 0.1 --no-memory")
    assert said.code == 2
    assert "hf: of a Whisper, transformers wants 30 s in one piece; take --runtime torch" in said.err
