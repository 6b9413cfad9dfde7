"""Whatever is opened gives every hidden state at 50 Hz, the same alone as in a padded batch, or is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    Data2VecAudioConfig,
    HubertConfig,
    HubertModel,
    PretrainedConfig,
    SEWConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
)

from checkpoints.export import write_encoder
from checkpoints.formats.fairseq_layout import to_fairseq
from checkpoints.formats.hugging_face import TeacherError
from checkpoints.locations import DEMO_TEACHER, Found
from checkpoints.manifest import write_manifest
from checkpoints.representations import ACCEPTED, Representation, encode_alone, open_representation
from checkpoints.runtimes.onnx_export import write_onnx
from checkpoints.runtimes.quantize import write_int8
from checkpoints.saving import save_encoder
from search_spaces.costs import count_frames
from search_spaces.errors import NestlingError
from search_spaces.subnet import Backbone
from speech_data.features import log_mel, mfcc
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig
from tests.encoders import SMALL, TOLERANCE, error_of, make_encoder, randomize

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [8, 8, 8, 8, 8, 8, 16],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
KINDS: dict[str, PretrainedConfig] = {
    "hubert-group": HubertConfig(**SHAPE),
    "hubert-layer": HubertConfig(**SHAPE, **LAYER_NORM),
    "hubert-of-others": HubertConfig(**SHAPE, feat_proj_layer_norm=False),
    "wav2vec2-group": Wav2Vec2Config(**SHAPE),
    "wav2vec2-layer": Wav2Vec2Config(**SHAPE, **LAYER_NORM),
    "wavlm-group": WavLMConfig(**SHAPE, num_buckets=20),
    "wavlm-layer": WavLMConfig(**SHAPE, num_buckets=20, **LAYER_NORM),
    "data2vec": Data2VecAudioConfig(**SHAPE),
    "unispeech": UniSpeechSatConfig(**SHAPE),
}
MOVED_BY_PADDING = ("hubert-group", "hubert-of-others", "wav2vec2-group", "wavlm-group", "data2vec", "unispeech")
OURS = EncoderConfig(
    conv_dims=(8, 8, 8, 8, 8, 8, 16),
    embed_dim=32,
    heads=(2, 4, 3),
    ffn_dims=(48, 24, 48),
    head_dim=8,
    pos_conv_kernel=8,
    pos_conv_groups=4,
)
LENGTHS = (9000, 16000, 5377)


def write_model(folder: Path, config: PretrainedConfig, normalize: bool = False, head: Any = None) -> nn.Module:
    """A randomised model in a folder, as `transformers` saves it."""
    model: Any = (head or transformers.AutoModel.from_config)(config)
    randomize(model)
    model.eval().save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return model


def make_waves() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.2 * torch.randn(n, generator=generator) + 0.1 for n in LENGTHS]


def make_batch() -> tuple[Tensor, Tensor]:
    """(3, S) and (3,); what lies beyond an utterance is not silence, so that reading it shows."""
    wave = torch.full((len(LENGTHS), max(LENGTHS)), 0.7)
    for row, x in zip(wave, make_waves(), strict=True):
        row[: len(x)] = x
    return wave, torch.tensor(LENGTHS)


@torch.no_grad()
def states_by_transformers(model: Any, wave: Tensor, normalize: bool) -> list[Tensor]:
    """Every hidden state of one utterance, (1, T, d), prepared and encoded by `transformers` alone."""
    prepare = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    values = prepare(wave.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    return list(model(values, output_hidden_states=True).hidden_states)


def assert_batch_is_nothing_but_its_utterances(opened: Representation) -> None:
    states = opened.encode(*make_batch())
    num_frames = count_frames(Backbone(), max(LENGTHS))
    assert {x.shape for x in states} == {(3, num_frames, states[0].shape[2])}
    for i, wave in enumerate(make_waves()):
        alone = opened.encode(wave[None], None)
        assert alone[0].shape[1] == count_frames(Backbone(), len(wave))
        together = [x[i : i + 1, : alone[0].shape[1]] for x in states]
        assert error_of(together, list(alone)) <= 3 * TOLERANCE  # padding changes the order of sums


# What opens


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, kind: str, normalize: bool) -> None:
    folder = tmp_path / kind
    model: Any = write_model(folder, KINDS[kind], normalize)
    opened = open_representation(str(folder))
    assert (opened.name, opened.source) == (kind, str(folder))
    assert opened.params == sum(p.numel() for p in model.parameters())
    for wave in make_waves():
        got = list(opened.encode(wave[None], None))
        assert len(got) == 3  # the input of the first layer, and two outputs
        assert not any(x.requires_grad for x in got)
        assert error_of(got, states_by_transformers(model, wave, normalize)) <= 10 * TOLERANCE
    assert_batch_is_nothing_but_its_utterances(opened)


@pytest.mark.parametrize("kind", MOVED_BY_PADDING)
def test_padding_would_change_these(tmp_path: Path, kind: str) -> None:
    """Otherwise the test above could not fail."""
    model: Any = write_model(tmp_path, KINDS[kind])
    wave, lengths = make_batch()
    mask = (torch.arange(wave.shape[1]) < lengths[:, None]).long()
    with torch.no_grad(), pytest.warns() if kind.startswith("wavlm") else torch.no_grad():
        padded = model(wave * mask, attention_mask=mask, output_hidden_states=True).hidden_states
    alone = states_by_transformers(model, make_waves()[2], normalize=False)
    assert error_of([x[2:, : alone[0].shape[1]] for x in padded], alone) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("hubert-group", "HubertForCTC"),
        ("wav2vec2-layer", "Wav2Vec2ForCTC"),
        ("wav2vec2-group", "Wav2Vec2ForPreTraining"),
        ("wavlm-group", "WavLMForSequenceClassification"),
        ("wavlm-layer", "WavLMForXVector"),
    ],
)
def test_models_under_a_head(tmp_path: Path, kind: str, head: str) -> None:
    config = type(KINDS[kind])(**{**KINDS[kind].to_dict(), "pad_token_id": 0, "use_weighted_layer_sum": True})
    model: Any = write_model(tmp_path / "head", config, head=getattr(transformers, head))
    bare = getattr(model, model.base_model_prefix)
    opened = open_representation(str(tmp_path / "head"))
    wanted = states_by_transformers(bare, make_waves()[0], normalize=False)
    assert error_of(list(opened.encode(make_waves()[0][None], None)), wanted) <= TOLERANCE
    assert opened.params == sum(p.numel() for p in bare.parameters())


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
@pytest.mark.parametrize("heads", [(2, 4, 3), (4, 4, 4)], ids=["wrapper", "plain"])
def test_exports_open_as_what_they_are(tmp_path: Path, conv_norm: str, heads: tuple[int, ...]) -> None:
    ffn_dims = OURS.ffn_dims if len(set(heads)) > 1 else (48, 48, 48)
    encoder = make_encoder_like(replace(OURS, conv_norm=conv_norm, heads=heads, ffn_dims=ffn_dims))
    write_encoder(encoder, tmp_path / "mine")
    kind = json.loads((tmp_path / "mine/config.json").read_text())["model_type"]
    assert kind == ("hubert" if len(set(heads)) == 1 else "nestling")
    opened = open_representation(str(tmp_path / "mine"))
    with torch.no_grad():
        wanted = [encoder(wave[None]).hidden for wave in make_waves()]
    for wave, states in zip(make_waves(), wanted, strict=True):
        got = list(opened.encode(wave[None], None))
        assert [x.shape for x in got] == [(1, count_frames(Backbone(), len(wave)), 32)] * 4
        assert error_of(got, states) <= TOLERANCE
    assert_batch_is_nothing_but_its_utterances(opened)


def make_encoder_like(config: EncoderConfig) -> Encoder:
    encoder = Encoder(config)
    randomize(encoder)
    return encoder.eval()


def test_a_plain_export_equals_the_hubert_model_it_is(tmp_path: Path) -> None:
    config = replace(OURS, heads=(4, 4), ffn_dims=(48, 48), normalize_waveform=False)
    save_encoder(make_encoder_like(config), tmp_path)
    model = HubertModel.from_pretrained(tmp_path).eval()
    opened = open_representation(str(tmp_path))
    wave = make_waves()[1]
    assert error_of(list(opened.encode(wave[None], None)), states_by_transformers(model, wave, False)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wav2vec2-layer", "wavlm-group", "wavlm-layer"])
def test_our_own_network_computes_them(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path, KINDS[kind])
    monkeypatch.setattr("checkpoints.representations.open_network", None)
    for source in (str(tmp_path), f"untrained:{tmp_path}"):
        assert len(open_representation(source).encode(make_waves()[0][None], None)) == 3


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
def test_files_of_others(tmp_path: Path, conv_norm: str) -> None:
    gates = {"gate_width": 32, "num_buckets": 20}
    config = replace(OURS, heads=(4, 4), ffn_dims=(48, 48), conv_norm=conv_norm, **gates)
    encoder = make_encoder_like(config)
    torch.save(to_fairseq(encoder, "wavlm"), tmp_path / "WavLM.pt")
    save_encoder(encoder, tmp_path / "folder")
    opened, same = (open_representation(str(tmp_path / name)) for name in ("WavLM.pt", "folder"))
    assert (opened.name, same.name) == ("WavLM.pt", "folder")
    assert (opened.params, opened.macs_1s, opened.fingerprint) == (same.params, same.macs_1s, same.fingerprint)
    wave = make_waves()[0][None]
    assert error_of(list(opened.encode(wave, None)), list(same.encode(wave, None))) == 0
    fresh = open_representation(f"untrained:{tmp_path / 'WavLM.pt'}")
    assert fresh.params == opened.params
    assert fresh.fingerprint == open_representation(f"untrained:{tmp_path / 'folder'}").fingerprint
    assert_batch_is_nothing_but_its_utterances(opened)


def test_the_demo_teacher() -> None:
    opened = open_representation("demo")
    assert (opened.name, opened.source) == ("demo", "demo")
    states = opened.encode(torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)), None)
    assert [x.shape for x in states] == [(1, 49, 256)] * 7
    assert_batch_is_nothing_but_its_utterances(opened)


def test_names_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(make_encoder_like(OURS), tmp_path / "mfcc")
    monkeypatch.chdir(tmp_path)
    assert open_representation("./mfcc/").name == "mfcc"
    assert open_representation("./mfcc/").params != open_representation("mfcc").params == 0
    monkeypatch.chdir(tmp_path / "mfcc")
    assert open_representation(".").name == "mfcc"


def test_models_on_the_hub_keep_the_name_and_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Found(DEMO_TEACHER, "some/name", "c" * 40)
    monkeypatch.setattr("checkpoints.representations.find_model", lambda _: found)
    for source in ("some/name", "some/name@main", "untrained:some/name@main"):  # what stands for a commit is shown
        opened = open_representation(source)
        assert (opened.name, opened.source, opened.revision) == (source, source, "c" * 40)


# What it costs


@pytest.mark.parametrize("kind", ["hubert-group", "hubert-layer", "wav2vec2-group", "wav2vec2-layer", "wavlm-group"])
def test_macs_are_those_that_torch_counts(tmp_path: Path, kind: str) -> None:
    model: Any = write_model(tmp_path, KINDS[kind])
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 16000))
    assert open_representation(str(tmp_path)).macs_1s == counter.get_total_flops() // 2


def test_like_shapes_cost_alike(tmp_path: Path) -> None:
    """A closed form counts a HuBERT and a run counts a wav2vec 2.0, whose networks are the same."""
    costs = []
    for kind in ("hubert-layer", "wav2vec2-layer"):
        write_model(tmp_path / kind, KINDS[kind])
        opened = open_representation(str(tmp_path / kind))
        costs.append((opened.params, opened.macs_1s))
    assert costs[0] == costs[1]
    assert costs[0][1] is not None


# Baselines


def test_mfcc_keep_their_mean() -> None:
    opened = open_representation("mfcc")
    assert (opened.name, opened.params, opened.macs_1s) == ("mfcc", 0, None)
    wave = make_waves()[0]
    (got,) = opened.encode(wave[None], None)
    assert torch.equal(got, mfcc(wave[None], 27))
    assert got.shape == (1, 27, 39)
    assert float(got[0, :, 0].mean().abs()) > 1
    assert_batch_is_nothing_but_its_utterances(opened)


def test_log_mel_is_standardised_over_the_utterance() -> None:
    opened = open_representation("log-mel")
    (got,) = opened.encode(*make_batch())
    assert got.shape == (3, 49, 240)
    for i, wave in enumerate(make_waves()):
        num_frames = count_frames(Backbone(), len(wave))
        static = log_mel(wave[None], num_frames, 80)[0].numpy()
        first = slopes(static)
        wanted = np.concatenate([static, first, slopes(first)], axis=1)
        wanted = (wanted - wanted.mean(0)) / wanted.std(0)
        assert np.abs(got[i, :num_frames].numpy() - wanted).max() < 0.01  # the variance has a small floor
        assert not got[i, num_frames:].any()
    assert_batch_is_nothing_but_its_utterances(opened)
    (silence,) = opened.encode(torch.zeros(1, 8000), None)
    assert float(silence.abs().max()) < 0.01


def slopes(x: np.ndarray) -> np.ndarray:
    """Least-squares slope over five frames, ends repeated, by NumPy's own fit."""
    padded = np.pad(x, ((2, 2), (0, 0)), mode="edge")
    return np.stack([np.polyfit(np.arange(5), padded[t : t + 5], 1)[0] for t in range(len(x))])


@pytest.mark.parametrize("kind", ["hubert-layer", "wavlm-group"])
def test_untrained_is_the_same_shape_and_always_the_same(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    write_model(folder, KINDS[kind])
    trained = open_representation(str(folder))
    (folder / "model.safetensors").unlink()  # it needs no weights
    before = torch.random.get_rng_state()
    first = open_representation(f"untrained:{folder}")
    torch.manual_seed(5)
    second = open_representation(f"untrained:{folder}")
    torch.random.set_rng_state(before)
    assert (first.name, first.source) == (f"untrained:{kind}", f"untrained:{folder}")
    assert (first.params, first.macs_1s) == (trained.params, trained.macs_1s)
    assert first.fingerprint == second.fingerprint != trained.fingerprint
    wave = make_waves()[0][None]
    states = [list(x.encode(wave, None)) for x in (first, second, trained)]
    assert error_of(states[0], states[1]) == 0
    assert 1e-2 < error_of(states[0], states[2]) < float("inf")  # the same shapes, other numbers
    assert_batch_is_nothing_but_its_utterances(first)


def test_opening_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    write_model(tmp_path, KINDS["wavlm-group"])
    before = torch.random.get_rng_state()
    for source in (f"untrained:{tmp_path}", str(tmp_path), "untrained:demo"):
        open_representation(source)
        assert torch.equal(torch.random.get_rng_state(), before)


# Fingerprints


@pytest.mark.parametrize("kind", ["hubert-group", "wavlm-layer"])
def test_fingerprints_know_what_matters_alone(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path / "a", KINDS[kind])
    wanted = open_representation(str(tmp_path / "a")).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    edit(tmp_path / "b/config.json", transformers_version="4.0.0", dtype="float32", architectures=["Other"])
    assert open_representation(str(tmp_path / "b")).fingerprint == wanted
    edit(tmp_path / "b/preprocessor_config.json", do_normalize=True)
    assert open_representation(str(tmp_path / "b")).fingerprint != wanted
    edit(tmp_path / "b/preprocessor_config.json", do_normalize=False)
    weights = safetensors.torch.load_file(tmp_path / "b/model.safetensors")
    weights["encoder.layer_norm.bias"][0] += 1e-6
    safetensors.torch.save_file(weights, tmp_path / "b/model.safetensors", {"format": "pt"})
    assert open_representation(str(tmp_path / "b")).fingerprint != wanted
    assert open_representation("mfcc").fingerprint != open_representation("log-mel").fingerprint


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What must be refused


def refusal(source: Path | str) -> str:
    with pytest.raises(TeacherError) as caught:
        open_representation(str(source))
    message = str(caught.value)
    assert str(source) in message
    assert len(message) < 700
    assert len(message.splitlines()) <= 7
    return message


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing") == f"there is no folder {tmp_path}/nothing"
    (tmp_path / "empty").mkdir()
    assert "has no config.json; a model in Hugging Face format is wanted" in refusal(tmp_path / "empty")
    assert refusal("untrained:mfcc") == "untrained:mfcc: nothing is trained in mfcc; name an encoder after untrained:"
    assert "the Hugging Face hub gave no model of that name" in refusal("some/name")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9), ""),
        (
            SEWConfig(**SHAPE, squeeze_factor=2, conv_stride=[5, 2, 2, 2, 2, 2, 2], conv_kernel=[10, 3, 3, 3, 3, 2, 2]),
            "it makes 24 frames of 1 s; one every 20 ms is wanted, 49",
        ),
        (
            Data2VecAudioConfig(**SHAPE, conv_stride=[5, 2, 2, 2, 2, 2, 1]),
            "it makes 98 frames of 1 s; one every 20 ms is wanted, 49",
        ),
    ],
    ids=["bert", "sew", "twice-as-fast"],
)
def test_what_makes_no_frames_of_a_waveform(tmp_path: Path, config: PretrainedConfig, error: str) -> None:
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "Model does not turn a waveform into frames" in message
    assert error in message
    assert message.endswith(ACCEPTED)


def test_our_own_shape_at_another_rate(tmp_path: Path) -> None:
    save_encoder(make_encoder(), tmp_path)  # `SMALL` has three convolutions
    assert "kernels [10, 3, 2] and strides [5, 4, 4] do not make the frames of HuBERT's" in refusal(tmp_path)
    assert SMALL.conv_strides == (5, 4, 4)


def test_models_of_no_known_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "kaldi"}')
    message = refusal(tmp_path)
    assert f"model_type is 'kaldi', which transformers {transformers.__version__} does not have; what can" in message
    (tmp_path / "config.json").write_text("{}")
    assert "model_type is None" in refusal(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "nestling"}')
    assert "config.json lacks conv_bias, conv_dims" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["hubert-group", "wav2vec2-group"])
def test_weights_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, KINDS[kind])
    path = tmp_path / "model.safetensors"
    good = safetensors.torch.load_file(path)

    def write(changes: dict[str, Tensor], removed: str = "") -> None:
        weights = {name: weight for name, weight in (good | changes).items() if name != removed}
        safetensors.torch.save_file(weights, path, {"format": "pt"})

    write({}, removed="encoder.layers.1.attention.k_proj.bias")
    assert "do not fit config.json:\n  missing encoder.layers.1.attention.k_proj.bias" in refusal(tmp_path)
    write({"encoder.layers.2.layer_norm.weight": torch.ones(32)})
    assert "do not fit config.json:\n  unexpected encoder.layers.2.layer_norm.weight" in refusal(tmp_path)
    write({"encoder.layer_norm.bias": torch.full((32,), torch.nan)})
    assert "numbers that are not finite" in refusal(tmp_path)
    write({"encoder.layer_norm.bias": torch.zeros(31)})
    assert "do not fit config.json:\n  encoder.layer_norm.bias has shape [31], not [32]" in refusal(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "is truncated: " in refusal(tmp_path)
    path.unlink()
    assert "model.safetensors" in refusal(tmp_path)


def test_every_missing_tensor_is_not_listed(tmp_path: Path) -> None:
    write_model(tmp_path, KINDS["wavlm-group"])
    edit(tmp_path / "config.json", num_hidden_layers=4)
    assert refusal(tmp_path).splitlines()[-1].startswith("  and ")


@pytest.mark.parametrize("kind", ["hubert-group", "data2vec"])
def test_a_folder_is_checked_against_its_manifest_whoever_computes_it(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path, KINDS[kind])
    write_manifest(tmp_path)
    open_representation(str(tmp_path))
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(NestlingError, match=r"is not what its SHA256SUMS lists: model\.safetensors differs"):
        open_representation(str(tmp_path))
    assert open_representation(f"untrained:{tmp_path}").params  # which reads no weights


def test_a_mask_embedding_may_be_missing(tmp_path: Path) -> None:
    write_model(tmp_path, KINDS["wav2vec2-group"])
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del weights["masked_spec_embed"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    first = open_representation(str(tmp_path))
    torch.rand(1)
    assert open_representation(str(tmp_path)).fingerprint == first.fingerprint  # whatever takes its place


@pytest.mark.parametrize("model_type", ["wav2vec2", "my-own"])
def test_code_in_a_folder_is_never_run(tmp_path: Path, model_type: str) -> None:
    folder = tmp_path / "folder"
    write_model(folder, KINDS["wav2vec2-group"])
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    auto_map = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    edit(folder / "config.json", model_type=model_type, auto_map=auto_map)
    if model_type == "wav2vec2":
        assert open_representation(str(folder)).name == "folder"  # by the class that transformers has
    else:
        assert "model_type is 'my-own'" in refusal(folder)
    assert not marker.exists()


def test_audio_at_another_rate(tmp_path: Path) -> None:
    write_model(tmp_path, KINDS["wavlm-group"])
    edit(tmp_path / "preprocessor_config.json", sampling_rate=8000)
    assert "wants audio at 8000 Hz; only 16000 Hz is supported" in refusal(tmp_path)


def test_utterances_too_short_for_a_frame() -> None:
    with pytest.raises(ValueError, match="an utterance of 399 samples gives no frame; encoders want 400 samples"):
        encode_alone(lambda wave: [wave[..., None]], torch.zeros(2, 800), torch.tensor([399, 800]))


def test_each_utterance_is_encoded_by_itself() -> None:
    heard = []

    def states_of(wave: Tensor) -> list[Tensor]:
        heard.append(tuple(wave.shape))
        return [wave[:, ::400, None], -wave[:, ::400, None]]

    wave = torch.arange(1.0, 1601).view(2, 800)
    first, second = encode_alone(states_of, wave, torch.tensor([400, 800]))  # the least that makes a frame
    assert heard == [(1, 400), (1, 800)]
    assert first.tolist() == [[[1], [0]], [[801], [1201]]]
    assert torch.equal(second, -first)


def test_other_frames_than_one_every_20_ms_are_refused() -> None:
    message = r"^the encoder makes 3 frames of 0\.05 s; tasks want one every 20 ms, 2$"
    with pytest.raises(NestlingError, match=message):
        encode_alone(lambda _: [torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)], torch.zeros(1, 800), None)


def test_onnx_files_of_an_export(tmp_path: Path) -> None:
    encoder = make_encoder_like(replace(OURS, heads=(3,), ffn_dims=(24,)))  # every layer takes seconds to export
    write_encoder(encoder, tmp_path / "export")
    write_onnx(encoder, tmp_path / "export" / "model.onnx")
    write_int8(tmp_path / "export" / "model.onnx", tmp_path / "export" / "model.int8.onnx")
    whole = open_representation(str(tmp_path / "export"))
    wave, lengths = make_batch()
    wanted = whole.encode(wave, lengths)
    found = {}
    for name, bounds in {"model.onnx": (0, 1e-5), "model.int8.onnx": (1e-4, 0.3)}.items():
        found[name] = open_representation(str(tmp_path / "export" / name))
        assert (found[name].name, found[name].params) == (f"export/{name}", whole.params)
        states = found[name].encode(wave, lengths)
        assert len(states) == len(wanted)
        valid = [count_frames(Backbone(), int(n)) for n in lengths]
        for a, b in zip(states, wanted, strict=True):
            for i, frames in enumerate(valid):
                error = (a[i, :frames] - b[i, :frames]).square().mean().sqrt() / b[i, :frames].square().mean().sqrt()
                assert bounds[0] <= error <= bounds[1]
    assert found["model.onnx"].fingerprint != found["model.int8.onnx"].fingerprint
    with pytest.raises(ValueError, match="an ONNX file has no fresh weights"):
        open_representation(f"untrained:{tmp_path}/export/model.onnx")
    with pytest.raises(ValueError, match="there is no file"):
        open_representation(str(tmp_path / "none.onnx"))
    model = onnx.load(tmp_path / "export" / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != "parameters"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(ValueError, match="does not say how many parameters it has; export it again"):
        open_representation(str(tmp_path / "old.onnx"))
    damaged = bytearray((tmp_path / "export" / "model.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "export" / "model.onnx").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"model\.onnx is not what SHA256SUMS beside it lists"):
        open_representation(str(tmp_path / "export" / "model.onnx"))
