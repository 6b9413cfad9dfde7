"""Files of others hold the same encoder: every layout is read back whole, and named as its owners name it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from checkpoints.formats.fairseq_layout import Layout, from_fairseq, is_checkpoint, to_fairseq, to_fairseq_name
from checkpoints.formats.hugging_face import OtherNetworkError, TeacherError, hugging_face_config
from checkpoints.saving import save_encoder, write_model
from checkpoints.teachers import load_encoder, load_teacher
from supernet.encoder import Encoder
from tests.encoders import (
    FAMILIES,
    GATES,
    SMALL,
    TOLERANCE,
    error_of,
    make_batch,
    make_encoder,
    make_model,
    run_encoder,
    run_model,
)
from tests.test_parity import CASES, name_case

HEADS = {
    "hubert": ("ForCTC", "ForSequenceClassification"),
    "wav2vec2": (
        *("ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector", "ForPreTraining"),
    ),
    "wavlm": ("ForCTC", "ForSequenceClassification", "ForAudioFrameClassification", "ForXVector"),
}
HEAD_OPTIONS = {"pad_token_id": 0, "use_weighted_layer_sum": True, "tdnn_dim": [8] * 5, "classifier_proj_size": 8}
LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "hubert": ("hubert", "hubert_ctc", "s3prl", "wavlm"),
    "wav2vec2": ("wav2vec2", "wav2vec_ctc"),
    "wavlm": ("wavlm",),
}


def assert_same(got: Encoder, wanted: Encoder) -> None:
    assert got.config == wanted.config
    state = got.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    for name, weight in wanted.state_dict().items():
        assert torch.equal(state[name], weight), name


def write_file(path: Path, checkpoint: object) -> Path:
    torch.save(checkpoint, path)
    return path


def write_folder(folder: Path, encoder: Encoder, model_type: str, rename: Callable[[str], str] = str) -> Path:
    """A folder as the hub has it, with pickled weights under names of the writer's choice."""
    config = hugging_face_config(encoder.config, model_type)
    assert config
    write_model(folder, config, {}, {"do_normalize": encoder.config.normalize_waveform})
    (folder / "model.safetensors").unlink()
    weights = {rename(name): weight for name, weight in make_model(encoder, model_type).state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def old_name(name: str) -> str:
    """As in files of before PyTorch 2."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def every_round_trip(encoder: Encoder, model_type: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Every way that such an encoder can be stored."""
    yield "new names", write_folder(folder / "new", encoder, model_type)
    yield "old names", write_folder(folder / "old", encoder, model_type, old_name)
    yield (
        "old names, under a head",
        write_folder(folder / "under", encoder, model_type, lambda name: f"{model_type}.{old_name(name)}"),
    )
    yield "the weights in a folder", folder / "new/pytorch_model.bin"
    if model_type != "wav2vec2":
        save_encoder(encoder, folder / "saved")
        yield "ours", folder / "saved"
        yield "our weights", folder / "saved/model.safetensors"
    for layout in LAYOUTS[model_type]:
        yield layout, write_file(folder / f"{layout}.pt", to_fairseq(encoder, layout))


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=name_case)
def test_every_layout_is_read_back_whole(tmp_path: Path, case: dict[str, Any], model_type: str) -> None:
    normalize = bool(case["norm_first"])
    encoder = make_encoder(normalize_waveform=normalize, **case, **(GATES if model_type == "wavlm" else {}))
    as_it_is = replace(encoder.config, normalize_waveform=False)
    wave, lengths = make_batch()
    wanted = run_model(make_model(encoder, model_type), wave, lengths, None)
    frames = encoder.config.count_frames(lengths)
    valid = torch.arange(int(frames[0])) < frames.unsqueeze(1)
    for layout, path in every_round_trip(encoder, model_type, tmp_path):
        read = load_encoder(path)
        assert_same(read, encoder)
        read.config = as_it_is  # the model of `transformers` leaves that to its preprocessor
        assert error_of(run_encoder(read, wave, lengths, None), wanted, valid) <= TOLERANCE, layout


@pytest.mark.parametrize(("model_type", "head"), [(kind, head) for kind, heads in HEADS.items() for head in heads])
def test_models_under_a_head_as_transformers_saves_them(tmp_path: Path, model_type: str, head: str) -> None:
    encoder = make_encoder(normalize_waveform=False, **(GATES if model_type == "wavlm" else {}))
    model: Any = make_model(encoder, model_type, head, **HEAD_OPTIONS)
    model.save_pretrained(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert 0 < sum(name.startswith(f"{model_type}.") for name in stored) < len(stored)
    assert_same(load_encoder(tmp_path), encoder)


# What the owners of each layout call its tensors: written out by hand, against the names of `transformers`

FAIRSEQ = """
mask_emb                                   32        masked_spec_embed
feature_extractor.conv_layers.0.0.weight   8,1,10    feature_extractor.conv_layers.0.conv.weight
feature_extractor.conv_layers.1.0.weight   12,8,3    feature_extractor.conv_layers.1.conv.weight
feature_extractor.conv_layers.2.0.weight   16,12,2   feature_extractor.conv_layers.2.conv.weight
layer_norm.weight                          16        feature_projection.layer_norm.weight
layer_norm.bias                            16        feature_projection.layer_norm.bias
post_extract_proj.weight                   32,16     feature_projection.projection.weight
post_extract_proj.bias                     32        feature_projection.projection.bias
encoder.pos_conv.0.bias                    32        encoder.pos_conv_embed.conv.bias
encoder.pos_conv.0.weight_g                1,1,8     encoder.pos_conv_embed.conv.parametrizations.weight.original0
encoder.pos_conv.0.weight_v                32,8,8    encoder.pos_conv_embed.conv.parametrizations.weight.original1
encoder.layer_norm.weight                  32        encoder.layer_norm.weight
encoder.layer_norm.bias                    32        encoder.layer_norm.bias
"""
GROUP_NORM = """
feature_extractor.conv_layers.0.2.weight   8         feature_extractor.conv_layers.0.layer_norm.weight
feature_extractor.conv_layers.0.2.bias     8         feature_extractor.conv_layers.0.layer_norm.bias
"""
LAYER_NORM = """
feature_extractor.conv_layers.0.0.bias     8         feature_extractor.conv_layers.0.conv.bias
feature_extractor.conv_layers.1.0.bias     12        feature_extractor.conv_layers.1.conv.bias
feature_extractor.conv_layers.2.0.bias     16        feature_extractor.conv_layers.2.conv.bias
feature_extractor.conv_layers.0.2.1.weight 8         feature_extractor.conv_layers.0.layer_norm.weight
feature_extractor.conv_layers.0.2.1.bias   8         feature_extractor.conv_layers.0.layer_norm.bias
feature_extractor.conv_layers.1.2.1.weight 12        feature_extractor.conv_layers.1.layer_norm.weight
feature_extractor.conv_layers.1.2.1.bias   12        feature_extractor.conv_layers.1.layer_norm.bias
feature_extractor.conv_layers.2.2.1.weight 16        feature_extractor.conv_layers.2.layer_norm.weight
feature_extractor.conv_layers.2.2.1.bias   16        feature_extractor.conv_layers.2.layer_norm.bias
"""
LAYER = """
encoder.layers.0.self_attn.q_proj.weight       32,32  encoder.layers.0.attention.q_proj.weight
encoder.layers.0.self_attn.q_proj.bias         32     encoder.layers.0.attention.q_proj.bias
encoder.layers.0.self_attn.k_proj.weight       32,32  encoder.layers.0.attention.k_proj.weight
encoder.layers.0.self_attn.k_proj.bias         32     encoder.layers.0.attention.k_proj.bias
encoder.layers.0.self_attn.v_proj.weight       32,32  encoder.layers.0.attention.v_proj.weight
encoder.layers.0.self_attn.v_proj.bias         32     encoder.layers.0.attention.v_proj.bias
encoder.layers.0.self_attn.out_proj.weight     32,32  encoder.layers.0.attention.out_proj.weight
encoder.layers.0.self_attn.out_proj.bias       32     encoder.layers.0.attention.out_proj.bias
encoder.layers.0.self_attn_layer_norm.weight   32     encoder.layers.0.layer_norm.weight
encoder.layers.0.self_attn_layer_norm.bias     32     encoder.layers.0.layer_norm.bias
encoder.layers.0.fc1.weight                    48,32  encoder.layers.0.feed_forward.intermediate_dense.weight
encoder.layers.0.fc1.bias                      48     encoder.layers.0.feed_forward.intermediate_dense.bias
encoder.layers.0.fc2.weight                    32,48  encoder.layers.0.feed_forward.output_dense.weight
encoder.layers.0.fc2.bias                      32     encoder.layers.0.feed_forward.output_dense.bias
encoder.layers.0.final_layer_norm.weight       32     encoder.layers.0.final_layer_norm.weight
encoder.layers.0.final_layer_norm.bias         32     encoder.layers.0.final_layer_norm.bias
"""
GATED_LAYER = """
encoder.layers.0.self_attn.grep_a              1,4,1,1 encoder.layers.0.attention.gru_rel_pos_const
encoder.layers.0.self_attn.grep_linear.weight  8,8     encoder.layers.0.attention.gru_rel_pos_linear.weight
encoder.layers.0.self_attn.grep_linear.bias    8       encoder.layers.0.attention.gru_rel_pos_linear.bias
"""
FIRST_LAYER = """
encoder.layers.0.self_attn.relative_attention_bias.weight 20,4 encoder.layers.0.attention.rel_attn_embed.weight
"""


def second(layer: str) -> str:
    return layer.replace("layers.0.", "layers.1.")


ROWS = {
    "hubert": FAIRSEQ + GROUP_NORM + LAYER + second(LAYER),
    "wav2vec2": FAIRSEQ + LAYER_NORM + LAYER + second(LAYER),
    "wavlm": FAIRSEQ + GROUP_NORM + LAYER + GATED_LAYER + FIRST_LAYER + second(LAYER + GATED_LAYER),
}
SHAPES: Mapping[str, dict[str, Any]] = {
    "hubert": {"conv_norm": "group"},
    "wav2vec2": {"conv_norm": "layer", "conv_bias": True},
    "wavlm": {"conv_norm": "group", **GATES},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tensors_have_the_names_that_their_owners_gave(model_type: str) -> None:
    encoder = make_encoder(**SHAPES[model_type])
    rows = [line.split() for line in ROWS[model_type].splitlines() if line]
    model = make_model(encoder, model_type).state_dict()
    assert {theirs for _, _, theirs in rows} == model.keys()
    for layout in LAYOUTS[model_type]:
        checkpoint = to_fairseq(encoder, layout)
        weights = checkpoint["model_weight" if layout == "s3prl" else "model"]
        prefix = "w2v_encoder.w2v_model." if layout.endswith("_ctc") else ""
        assert weights.keys() == {prefix + name for name, _, _ in rows}
        for name, shape, theirs in rows:
            assert list(weights[prefix + name].shape) == [int(size) for size in shape.split(",")]
            assert torch.equal(weights[prefix + name], model[theirs]), name


@pytest.mark.parametrize("model_type", ["hubert", "wavlm"])
def test_saved_folders_have_the_names_of_transformers(tmp_path: Path, model_type: str) -> None:
    encoder = make_encoder(**SHAPES[model_type])
    save_encoder(encoder, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    model = make_model(encoder, model_type).state_dict()
    assert stored.keys() == model.keys()
    assert all(torch.equal(stored[name], weight) for name, weight in model.items())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_tensor_has_a_name_of_its_own(model_type: str) -> None:
    config = make_encoder(**SHAPES[model_type]).config
    names = Encoder(config).state_dict().keys()
    assert len({to_fairseq_name(name, config.conv_norm) for name in names}) == len(names)


def test_options_are_those_that_their_owners_read() -> None:
    encoder = make_encoder(norm_first=True, conv_bias=True, pos_conv_kernel=7, normalize_waveform=True, **GATES)
    assert to_fairseq(encoder, "wavlm")["cfg"] == {
        "extractor_mode": "layer_norm",
        "encoder_layers": 2,
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 48,
        "encoder_attention_heads": 4,
        "activation_fn": "gelu",
        "layer_norm_first": True,
        "conv_feature_layers": "[(8, 10, 5), (12, 3, 4), (16, 2, 4)]",
        "conv_bias": True,
        "conv_pos": 7,
        "conv_pos_groups": 4,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "num_buckets": 20,
        "max_distance": 40,
        "normalize": True,
    }
    plain = to_fairseq(make_encoder(conv_norm="group", normalize_waveform=False), "hubert")["cfg"]
    assert plain["model"]["extractor_mode"] == "default"
    assert plain["task"] == {"normalize": False}


# What is found in files that others wrote


def read_changed(change: Callable[[dict[str, Any]], Any], layout: Layout = "hubert", **shape: Any) -> Encoder:
    """The encoder in a checkpoint that was changed in place."""
    checkpoint = to_fairseq(make_encoder(**shape), layout)
    change(checkpoint)
    assert is_checkpoint(checkpoint)
    config, weights = from_fairseq(checkpoint, "old.pt")
    names = {to_fairseq_name(name, config.conv_norm): name for name in Encoder(config).state_dict()}
    assert weights.keys() == names.keys()
    encoder = Encoder(config)
    encoder.load_state_dict({names[name]: weight for name, weight in weights.items()})
    return encoder


def test_heads_of_pre_training_are_left_out(tmp_path: Path) -> None:
    extras = {
        "label_embs_concat": torch.zeros(5, 8),
        "final_proj.weight": torch.zeros(8, 32),
        "final_proj.bias": torch.zeros(8),
        "quantizer.vars": torch.zeros(1, 4, 8),
        "quantizer.weight_proj.weight": torch.zeros(4, 16),
        "project_q.weight": torch.zeros(8, 8),
        "target_glu.0.weight": torch.zeros(8, 8),
    }
    checkpoint = to_fairseq(make_encoder(), "wav2vec2")
    checkpoint["model"] |= extras
    assert_same(load_encoder(write_file(tmp_path / "small.pt", checkpoint)), make_encoder())
    tuned = to_fairseq(make_encoder(), "wav2vec_ctc")
    tuned["model"] |= {"w2v_encoder.proj.weight": torch.zeros(9, 32), "w2v_encoder.proj.bias": torch.zeros(9)}
    tuned["model"] |= {"w2v_encoder.w2v_model.label_embs_concat": torch.zeros(5, 8)}
    assert_same(load_encoder(write_file(tmp_path / "tuned.pt", tuned)), make_encoder())


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_first_releases_have_everything_in_args(norm_first: bool) -> None:
    def make_old(checkpoint: dict[str, Any]) -> None:
        cfg = checkpoint.pop("cfg")
        checkpoint["cfg"] = {}
        checkpoint["args"] = {"task": "audio_pretraining", "arch": "wav2vec2", **cfg["task"], **cfg["model"]}

    shape = {"norm_first": norm_first, "normalize_waveform": norm_first}
    assert_same(read_changed(make_old, "wav2vec2", **shape), make_encoder(**shape))

    def make_old_and_tuned(checkpoint: dict[str, Any]) -> None:
        cfg = checkpoint.pop("cfg")
        inner = cfg["model"]["w2v_args"]
        flat = {"task": "audio_pretraining", **inner["model"], **inner["task"]}
        checkpoint["args"] = {"arch": "wav2vec_ctc", "encoder_embed_dim": 999, "w2v_args": flat, **cfg["task"]}

    assert_same(read_changed(make_old_and_tuned, "wav2vec_ctc", **shape), make_encoder(**shape))


def test_normalisation_is_the_tasks() -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["cfg"]["model"]["normalize"] = "${task.normalize}"
        checkpoint["cfg"]["model"]["w2v_args"]["task"] = {"normalize": False}

    assert read_changed(change, "hubert_ctc", normalize_waveform=True).config.normalize_waveform
    assert not read_changed(lambda checkpoint: checkpoint["cfg"]["task"].clear()).config.normalize_waveform


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
@pytest.mark.parametrize("key", sorted(to_fairseq(make_encoder(**GATES), "wavlm")["cfg"]))
def test_what_an_option_left_out_shows_in_the_tensors(key: str, conv_norm: str) -> None:
    """Save what no tensor shows: then the default of its owners holds, or the file is refused."""
    shape = {"conv_norm": conv_norm, "conv_bias": True, "norm_first": True, **GATES}
    if key == "conv_feature_layers":
        with pytest.raises(TeacherError, match=r"^old\.pt does not say conv_feature_layers, and the tensors do not"):
            read_changed(lambda checkpoint: checkpoint["cfg"].pop(key), "wavlm", **shape)
        return
    read = read_changed(lambda checkpoint: checkpoint["cfg"].pop(key), "wavlm", **shape)
    defaults = {
        "layer_norm_first": {"norm_first": False},
        "normalize": {"normalize_waveform": False},
        "max_distance": {"max_distance": 1280},
    }
    assert read.config == replace(make_encoder(**shape).config, **defaults.get(key, {}))


def test_what_is_left_out_of_a_published_shape() -> None:
    published = make_encoder(
        conv_dims=(8,) * 7,
        conv_kernels=(10, 3, 3, 3, 3, 2, 2),
        conv_strides=(5, 2, 2, 2, 2, 2, 2),
        embed_dim=128,
        heads=(2, 2),
        head_dim=64,
    )
    checkpoint = to_fairseq(published, "hubert")
    checkpoint["cfg"]["model"] = {"layer_norm_first": False}
    assert from_fairseq(checkpoint, "bare.pt")[0] == published.config
    with pytest.raises(TeacherError, match=r"encoder_attention_heads, and heads of 64 channels do not divide .*=32$"):
        read_changed(lambda checkpoint: checkpoint["cfg"]["model"].pop("encoder_attention_heads"))


@pytest.mark.parametrize(
    ("text", "convs"),
    [
        ("[(8, 10, 5), (12, 3, 4), (16, 2, 4)]", True),
        ("[(8,10,5)] + [(12,3,4)] * 1 + [(16,2,4)]", True),
        ("[(8, 10, 5)] + ([(12, 3, 4), (16, 2, 4)])", True),
        ("[(8, 10, 5)] + [(12, 3, 4)] * 2 + [(16, 2, 4)]", False),
        ("[(8, 10, 5), (12, 3, 4), (16, 2)]", False),
        ("[(8, 10, 5), (12, 3, 4), (16, 2, 0)]", False),
        ("[(8, 10, 5), (12, 3, 4), (16, 2, True)]", False),
        ("[(8, 10, 5)] * 1000000000", False),
        ("[(8, 10, 5)]" + " * 64" * 60, False),
        ("(" * 2000, False),
        ("__import__('os').abort()", False),
        ("", False),
    ],
)
def test_convolutions_are_read_and_never_run(text: str, convs: bool) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["cfg"]["model"]["conv_feature_layers"] = text

    if convs:
        assert_same(read_changed(change), make_encoder())
        return
    with pytest.raises(TeacherError) as caught:
        read_changed(change)
    message = str(caught.value)
    assert "but the tensors have the channels and kernels (8, 10), (12, 3), (16, 2)" in message
    assert len(message) < 300


# What must be refused


MISFIT = ": the weights do not fit its options:"


def refusal(tmp_path: Path, checkpoint: object) -> str:
    path = write_file(tmp_path / "other.pt", checkpoint)
    with pytest.raises(TeacherError) as caught:
        load_teacher(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) <= 7
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_fn": "relu"}, ": activation_fn='relu' is not supported, only 'gelu'"),
        ({"layer_type": "conformer"}, ": layer_type='conformer' is not supported, only 'transformer'"),
        ({"conv_pos_batch_norm": True}, ": conv_pos_batch_norm=True is not supported, only False"),
        ({"pos_conv_depth": 5}, ": pos_conv_depth=5 is not supported, only 1"),
        ({"quantize_input": True}, ": quantize_input=True is not supported, only False"),
        ({"crop_seq_to_multiple": 2}, ": crop_seq_to_multiple=2 is not supported, only 1"),
        ({"relative_position_embedding": True}, ": only a relative position bias with gates is supported, or neither"),
        ({"encoder_layers": 3}, ": encoder_layers is 3, but the tensors are of 2"),
        ({"encoder_layers": 10**12}, ": encoder_layers is 1000000000000, but the tensors are of 2"),
        ({"encoder_embed_dim": 64}, ": encoder_embed_dim is 64, but the tensors are of 32"),
        ({"encoder_attention_heads": 5}, ": encoder_embed_dim=32 must be a multiple of encoder_attention_heads=5"),
        ({"encoder_attention_heads": 0}, ": encoder_attention_heads=0 is not like 12"),
        ({"extractor_mode": "batch_norm"}, ": extractor_mode='batch_norm' is not supported"),
        (
            {"extractor_mode": "default"},
            f"{MISFIT}\n  missing feature_extractor.conv_layers.0.2.bias",
        ),
        (
            {"conv_bias": True},
            f"{MISFIT}\n  missing feature_extractor.conv_layers.0.0.bias",
        ),
        ({"conv_bias": 1}, ": conv_bias=1 is not like false"),
        (
            {"_name": "hubert_pruner"},
            " is LightHuBERT's (hubert_pruner); import it with `nestling import supernet`",
        ),
        ({"_name": "student_hubert"}, " is LightHuBERT's (student_hubert); import it with"),
    ],
)
def test_a_network_that_is_not_computed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    checkpoint = to_fairseq(make_encoder(), "hubert")
    checkpoint["cfg"]["model"] |= change
    assert refusal(tmp_path, checkpoint).startswith(message)


def test_gates_that_do_not_add_up(tmp_path: Path) -> None:
    checkpoint = to_fairseq(make_encoder(**GATES), "wavlm")
    for name in [name for name in checkpoint["model"] if "grep" in name]:
        del checkpoint["model"][name]
    checkpoint["cfg"]["gru_rel_pos"] = False
    assert "only a relative position bias with gates is supported, or neither" in refusal(tmp_path, checkpoint)
    checkpoint = to_fairseq(make_encoder(**GATES), "wavlm")
    checkpoint["cfg"]["max_distance"] = 5
    assert "no attention has gates of width 32 with 20 buckets up to a distance of 5" in refusal(tmp_path, checkpoint)


@pytest.mark.parametrize("name", sorted(to_fairseq(make_encoder(**GATES), "wavlm")["model"]))
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    checkpoint = to_fairseq(make_encoder(**GATES), "wavlm")
    del checkpoint["model"][name]
    message = refusal(tmp_path, checkpoint)
    shown_otherwise = "fc1.weight" in name or name.endswith(".0.weight")  # layers are counted by these
    assert name in message or (shown_otherwise and "but the tensors" in message) or "is another network" in message


@pytest.mark.parametrize("layout", ["hubert", "hubert_ctc", "s3prl"])
def test_names_under_wrappers_are_found(tmp_path: Path, layout: Layout) -> None:
    encoder = make_encoder(head_dim=8, conv_norm="group")
    checkpoint = to_fairseq(encoder, layout)
    key = "model_weight" if layout == "s3prl" else "model"
    checkpoint[key] = {
        "module." + name.replace("encoder.layers.1.", "encoder.layers.1._orig_mod."): weight
        for name, weight in checkpoint[key].items()
    }
    torch.save(checkpoint, tmp_path / "x.pt")
    try:
        got: Encoder | str = load_encoder(tmp_path / "x.pt")
    except ValueError as error:
        got = str(error)
    assert isinstance(got, Encoder), got
    for name, weight in encoder.state_dict().items():
        assert torch.equal(got.state_dict()[name], weight), name


@pytest.mark.parametrize("how", ["folded", "torch 2"])
def test_weight_norm_as_others_save_it(tmp_path: Path, how: str) -> None:
    encoder = make_encoder()
    checkpoint = to_fairseq(encoder, "wav2vec2")
    conv, weights = "encoder.pos_conv.0", checkpoint["model"]
    gains, kernel = (weights.pop(f"{conv}.weight_{part}") for part in "gv")
    if how == "folded":
        weights[f"{conv}.weight"] = encoder.encoder.pos_conv_embed.conv.weight.detach()
    else:
        weights |= {f"{conv}.parametrizations.weight.original{i}": w for i, w in enumerate((gains, kernel))}
    torch.save(checkpoint, tmp_path / "x.pt")
    try:
        got: Encoder | str = load_encoder(tmp_path / "x.pt")
    except ValueError as error:
        got = str(error)
    assert isinstance(got, Encoder), got
    wave = make_batch()[0]
    with torch.no_grad():
        assert error_of([got(wave).last], [encoder(wave).last]) <= TOLERANCE


def test_other_faults_of_tensors(tmp_path: Path) -> None:
    checkpoint = to_fairseq(make_encoder(), "hubert_ctc")
    checkpoint["model"]["w2v_encoder.w2v_model.encoder.layers.1.fc2.bias"] = torch.zeros(31)
    checkpoint["model"]["w2v_encoder.w2v_model.mask_emb"] = torch.full((32,), torch.nan)
    checkpoint["model"]["w2v_encoder.w2v_model.input_quantizer.vars"] = torch.zeros(1)
    assert refusal(tmp_path, checkpoint).splitlines() == [
        MISFIT,
        "  encoder.layers.1.fc2.bias has shape [31], not [32]",
        "  mask_emb has numbers that are not finite",
        "  unexpected input_quantizer.vars",
    ]


def test_files_that_are_something_else(tmp_path: Path) -> None:
    wanted = "; wanted is a HuBERT or wav2vec 2.0 of fairseq, a WavLM of unilm, or what s3prl converted of them"
    assert refusal(tmp_path, {"Config": {}, "Distiller": {}}) == f" holds Config, Distiller{wanted}"
    assert refusal(tmp_path, [1, 2]) == f" holds list{wanted}"
    assert refusal(tmp_path, {"cfg": {}, "model": [1]}) == f" holds something else than tensors by name{wanted}"
    other = {"cfg": {"model": {"_name": "data2vec_multi"}}, "model": {"alibi": torch.zeros(1)}}
    assert refusal(tmp_path, other).startswith(" is another network (data2vec_multi), without feature_extractor.conv")
    tensors = {"weight": torch.zeros(1)}
    assert refusal(tmp_path, tensors) == " holds tensors alone, and no config.json is beside it to say what they are"
    tuned = to_fairseq(make_encoder(), "wav2vec_ctc")
    tuned["cfg"]["model"]["w2v_args"] = None
    assert "has tensors, but not the options that they were trained with" in refusal(tmp_path, tuned)
    loop: dict[str, Any] = to_fairseq(make_encoder(), "wav2vec_ctc")
    loop["cfg"]["model"]["w2v_args"] = loop["cfg"]
    assert "'s configuration is nested too deeply, or without end" in refusal(tmp_path, loop)
    text = tmp_path / "notes.txt"
    text.touch()
    with pytest.raises(TeacherError, match=r"notes\.txt is no file of weights, which end in \.pt, \.pth, \.bin, \.saf"):
        load_teacher(text)
    with pytest.raises(TeacherError, match=r"^there is no file .*none\.pt$"):
        load_teacher(tmp_path / "none.pt")


def test_a_file_of_another_network_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(OtherNetworkError):
        load_teacher(write_file(tmp_path / "x.pt", {"cfg": {"_name": "vits"}, "model": {"a": torch.zeros(1)}}))


@pytest.mark.parametrize(
    ("layout", "changes"), [("hubert", GATES), ("wavlm", {"heads": (4, 2)}), ("wavlm", {**GATES, "gate_width": 64})]
)
def test_shapes_that_no_layout_has(layout: Layout, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"no model of the layout {layout} has this shape: layers must be alike"):
        to_fairseq(make_encoder(**changes), layout)


# Old files of wav2vec 2.0


@pytest.mark.parametrize("stored", ["mask_time_emb_vector", None])
def test_mask_embeddings_of_old_files(tmp_path: Path, stored: str | None) -> None:
    encoder = make_encoder()
    write_folder(tmp_path, encoder, "wav2vec2")
    weights = torch.load(tmp_path / "pytorch_model.bin")
    mask: Tensor = weights.pop("masked_spec_embed")
    if stored:
        weights[stored] = mask
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_encoder(tmp_path).masked_spec_embed, mask if stored else torch.zeros(32))
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "hubert"}))
    if not stored:
        with pytest.raises(TeacherError, match="missing masked_spec_embed"):
            load_encoder(tmp_path)


def test_names_of_teachers_in_files(tmp_path: Path) -> None:
    teacher = load_teacher(write_file(tmp_path / "WavLM-Tiny.pt", to_fairseq(make_encoder(**GATES), "wavlm")))
    assert (teacher.name, teacher.license) == ("WavLM-Tiny.pt", None)
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert teacher.encoder.config == replace(SMALL, **GATES)
