"""The encoder computes what HuBERT, wav2vec 2.0 and WavLM of `transformers` do, in every hidden state."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from checkpoints.formats.hugging_face import preprocessor_config
from supernet.blocks import bucket_distances
from supernet.front_end import normalize_waveform
from tests.encoders import (
    FAMILIES,
    GATES,
    TOLERANCE,
    error_of,
    make_batch,
    make_encoder,
    make_model,
    run_encoder,
    run_model,
)

OPTIONS = {
    "conv_norm": ("layer", "group"),
    "norm_first": (False, True),
    "conv_bias": (False, True),
    "pos_conv_kernel": (8, 7, 1),
}
CASES = [dict(zip(OPTIONS, values, strict=True)) for values in product(*OPTIONS.values())]
KEY_BIAS = ".k_proj.bias"  # adds the same number to every score of a frame, which the softmax takes out again
FIRST_BIAS = "feature_extractor.conv_layers.0.conv.bias"  # a group norm takes it out again


def name_case(case: dict[str, object]) -> str:
    return "-".join(f"{value}" for value in case.values())


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=name_case)
def test_every_hidden_state_is_that_of_transformers(case: dict[str, object], model_type: str) -> None:
    gates = GATES if model_type == "wavlm" else {}
    encoder = make_encoder(normalize_waveform=False, **case, **gates)
    model = make_model(encoder, model_type)
    wave, lengths = make_batch()
    frames = encoder.config.count_frames(lengths)
    masked = torch.rand(2, int(frames[0]), generator=torch.Generator().manual_seed(1)) < 0.3
    valid = torch.arange(int(frames[0])) < frames.unsqueeze(1)
    for seen, mask in product((None, lengths), (None, masked)):
        wanted = run_model(model, wave, seen, mask)
        got = run_encoder(encoder, wave, seen, mask)
        assert len(wanted) == len(encoder.config.heads) + 2
        assert error_of(got, wanted, None if seen is None else valid) <= TOLERANCE


@pytest.mark.parametrize("normalize", [False, True])
def test_the_waveform_is_normalised_as_the_feature_extractor_does(normalize: bool) -> None:
    encoder = make_encoder(normalize_waveform=normalize)
    wave, lengths = make_batch()
    prepare = Wav2Vec2FeatureExtractor(**preprocessor_config(encoder.config, normalize))
    inputs = prepare(
        [w[:n].numpy() for w, n in zip(wave, lengths, strict=True)],
        sampling_rate=16000,
        padding=True,
        return_tensors="pt",
    )
    assert inputs["attention_mask"].sum(-1).tolist() == lengths.tolist()
    if normalize:
        assert error_of([normalize_waveform(wave, lengths)], [inputs["input_values"]]) <= TOLERANCE
    wanted = run_model(make_model(encoder), inputs["input_values"], lengths, None)
    got = run_encoder(encoder, wave, lengths, None)
    frames = encoder.config.count_frames(lengths)
    valid = torch.arange(int(frames[0])) < frames.unsqueeze(1)
    assert error_of(got, wanted, valid) <= TOLERANCE
    other = make_encoder(normalize_waveform=not normalize)
    assert error_of(run_encoder(other, wave, lengths, None), wanted, valid) > 100 * TOLERANCE


@pytest.mark.parametrize("num_samples", [400, 65_503, 65_505, 70_000, 300_000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_length_is_normalised_in_any_precision(num_samples: int, dtype: torch.dtype) -> None:
    """fp16 counts to 65,504 and not further; bf16 has no odd number above 256."""
    longest = num_samples + 5001
    wave = (0.3 * torch.randn(2, longest, generator=torch.Generator().manual_seed(0)) + 0.1).to(dtype)
    wave[0, num_samples:] = 0
    lengths = torch.tensor([num_samples, longest])
    together = normalize_waveform(wave, lengths)
    assert together.dtype == dtype
    assert not together[0, num_samples:].any()
    for row, got, length in zip(wave, together, lengths.tolist(), strict=True):
        samples = row[:length].double().numpy()
        wanted = torch.from_numpy((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))
        alone = normalize_waveform(row[None, :length])
        masked = normalize_waveform(row[None, :length], torch.tensor([length]))
        assert torch.equal(alone, masked)
        for found in (got[:length], alone[0]):  # rounded once, at a size of up to 8
            assert (found - wanted).abs().max() <= max(4 * torch.finfo(dtype).eps, 1e-6)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(320, 800), (320, 1280), (20, 40), (64, 100), (128, 4096)])
def test_distances_of_minutes_fall_into_wavlms_buckets(num_buckets: int, max_distance: int) -> None:
    distances = torch.arange(-9000, 9001)  # three minutes at 50 Hz
    shape = SimpleNamespace(num_buckets=num_buckets, max_distance=max_distance)
    wanted = WavLMAttention._relative_positions_bucket(shape, distances.clone())
    assert torch.equal(bucket_distances(distances, num_buckets, max_distance), wanted)
    assert wanted.unique().numel() == num_buckets - 1  # all but that of distance 0 in the other direction


def test_gates_are_wavlms_beyond_16_seconds() -> None:
    """At the published 800 frames, which is 16 s at 50 Hz, all distances are one; here the frames are of 5 ms."""
    gates = {"gate_width": 32, "num_buckets": 320, "max_distance": 800}
    encoder = make_encoder(normalize_waveform=False, conv_norm="group", heads=(4,), ffn_dims=(48,), **gates)
    generator = torch.Generator().manual_seed(0)
    wave = 0.3 * torch.randn(1, 80 * 1000, generator=generator)
    wanted = run_model(make_model(encoder, "wavlm"), wave, None, None)
    assert wanted[0].shape[1] == 1000
    assert error_of(run_encoder(encoder, wave, None, None), wanted) <= TOLERANCE
    encoder.encoder.max_distance = 900  # and that is noticed
    assert error_of(run_encoder(encoder, wave, None, None), wanted) > 100 * TOLERANCE


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("model_type", ["hubert", "wavlm"])
def test_one_wrong_number_in_any_tensor_is_noticed(conv_norm: str, norm_first: bool, model_type: str) -> None:
    options = {"conv_norm": conv_norm, "norm_first": norm_first, **(GATES if model_type == "wavlm" else {})}
    encoder = make_encoder(conv_bias=True, normalize_waveform=False, **options)
    model = make_model(encoder, model_type)
    wave, lengths = make_batch()
    masked = torch.zeros(2, int(encoder.config.count_frames(lengths)[0]), dtype=torch.bool)
    masked[:, 3:6] = True
    wanted = run_model(model, wave, None, masked)
    assert error_of(run_encoder(encoder, wave, None, masked), wanted) <= TOLERANCE
    unnoticed = []
    for name, parameter in encoder.named_parameters():
        number = parameter.detach().flatten()[parameter.numel() // 3 :][:1]
        kept = number.clone()
        number += 0.5
        if error_of(run_encoder(encoder, wave, None, masked), wanted) < 100 * TOLERANCE:
            unnoticed.append(name)
        number.copy_(kept)
    key_biases = [name for name, _ in encoder.named_parameters() if name.endswith(KEY_BIAS)]
    assert len(key_biases) == len(encoder.config.heads)
    assert unnoticed == [FIRST_BIAS] * (conv_norm == "group") + key_biases
