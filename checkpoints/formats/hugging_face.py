"""The layout of Hugging Face's HuBERT, wav2vec 2.0 and WavLM, both ways: keys of config.json, names of tensors."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from checkpoints.formats.limits import shorten
from search_spaces.errors import NestlingError
from supernet.encoder_config import SAMPLE_RATE_HZ, EncoderConfig


class TeacherError(NestlingError):
    """A folder, a file or a hub name does not give an encoder."""


class OtherNetworkError(TeacherError):
    """What is described is a network, but not one that `Encoder` computes."""


CLASSES: Mapping[str, str] = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "wavlm": "WavLMModel"}
"""`model_type` of config.json -> the class of `transformers` whose network `Encoder` computes."""

CONFIG_KEYS: Mapping[str, str] = {
    "conv_dims": "conv_dim",
    "embed_dim": "hidden_size",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_bias": "conv_bias",
    "conv_norm": "feat_extract_norm",
    "norm_first": "do_stable_layer_norm",
    "pos_conv_kernel": "num_conv_pos_embeddings",
    "pos_conv_groups": "num_conv_pos_embedding_groups",
}
"""Field of `EncoderConfig` -> key of config.json."""

GATE_KEYS: Mapping[str, str] = {"num_buckets": "num_buckets", "max_distance": "max_bucket_distance"}
"""The same, of a WavLM."""

DEFAULTS: Mapping[str, Any] = {
    "conv_dim": [512] * 7,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "group",
    "do_stable_layer_norm": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "num_buckets": 320,
    "max_bucket_distance": 800,
    "mask_time_prob": 0.05,
    "mask_feature_prob": 0.0,
}
"""What `transformers` takes for a key that config.json leaves out."""

REQUIRED_OPTIONS: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "layer_norm_eps": 1e-5,
    "adapter_attn_dim": None,
    "add_adapter": False,
    "quantization_config": None,
}
"""Options that change what such a model computes, with the one value that `Encoder` computes."""

NAMES: Mapping[str, str] = {"encoder.rel_attn_embed.weight": "encoder.layers.0.attention.rel_attn_embed.weight"}
"""Tensor of `Encoder` -> what `transformers` calls it, where that differs: its first layer holds what all share."""

OLD_NAMES: Mapping[str, str] = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
    "mask_time_emb_vector": "masked_spec_embed",
}
"""Last part of a name in old files -> what it is now. The first two are weight norm's before PyTorch 2."""

HEADS = (
    *("lm_head.", "projector.", "classifier.", "final_proj.", "label_embs", "layer_weights", "tdnn.", "objective."),
    *("quantizer.", "project_hid.", "project_q."),
)
"""Parameters that sit on top of an encoder, by the start of their names."""

MAX_SHOWN = 4
"""Tensors at fault that an error names."""

ANCHORS = (
    "feature_extractor.conv_layers.0.conv.weight",
    "feature_projection.projection.weight",
    "encoder.layer_norm.weight",
)
"""Tensors that every encoder has: what stands before them in a file stands before all."""

_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch's wrappers (DataParallel, compile, FSDP, checkpointing) put into names, anywhere."""
_OLD_NAME = re.compile(rf"\b({'|'.join(OLD_NAMES)})$")


def to_hugging_face(name: str) -> str:
    """What `transformers` calls a tensor of `Encoder`."""
    return NAMES.get(name, name)


def bare_names(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors as a bare model has them: nothing before their names, no heads, no old names, weight norm in two.

    Args:
        weights: By their names in a file, which may all stand below others: `hubert.`, `model.wavlm.`, `module.`.
        source: What to blame in an error.

    Raises:
        TeacherError: There are several encoders.
    """
    weights = unwrap_names(weights, source)
    found = Counter(name.removesuffix(a) for name in weights for a in ANCHORS if f".{name}".endswith(f".{a}"))
    (prefix, times), *others = [*found.most_common(), ("", 0)]
    if others and others[0][1] == times > 0:
        shown = " and ".join(sorted(repr(each) for each in (prefix, others[0][0])))
        raise TeacherError(f"{source} holds several encoders, whose names begin with {shown}; keep one of them")
    bare = {
        _OLD_NAME.sub(lambda match: OLD_NAMES[match[0]], name.removeprefix(prefix)): weight
        for name, weight in weights.items()
        if name.startswith(prefix) and (prefix or not name.startswith(HEADS))
    }
    return unfold_weight_norm(bare, "encoder.pos_conv_embed.conv", OLD_NAMES["weight_g"], OLD_NAMES["weight_v"])


def unfold_weight_norm(weights: Mapping[str, Tensor], conv: str, gains: str, kernel: str) -> dict[str, Tensor]:
    """Tensors with a convolution's weight norm as two, where a file has its product alone, as inference code saves it.

    Args:
        weights: By name.
        conv: The convolution, whose `weight`, (D, D / groups, K), is what may be there.
        gains: What its gain a tap is called, (1, 1, K); it becomes the norm of each tap.
        kernel: What the kernel is called, which can be of any length then, and is the product itself.
    """
    product = weights.get(f"{conv}.weight")
    if product is None or product.dim() != 3 or not product.is_floating_point():
        return dict(weights)
    rest = {name: weight for name, weight in weights.items() if name != f"{conv}.weight"}
    if f"{conv}.{gains}" in rest or f"{conv}.{kernel}" in rest:
        return dict(weights)
    product = product.float()
    norms = product.square().sum((0, 1), keepdim=True).sqrt()
    return rest | {f"{conv}.{gains}": norms, f"{conv}.{kernel}": torch.where(norms == 0, 1.0, product)}  # no 0 / 0


def unwrap_names(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors without what torch's wrappers put into their names, as in `module._orig_mod.encoder.layer_norm.weight`.

    Raises:
        TeacherError: Two have one name then.
    """
    bare = {_WRAPPER.sub("", name): weight for name, weight in weights.items()}
    if len(bare) < len(weights):
        twice, _ = Counter(_WRAPPER.sub("", name) for name in weights).most_common(1)[0]
        raise TeacherError(f"{source} holds {twice} twice, once under a wrapper's name; keep one of them")
    return bare


def hugging_face_config(config: EncoderConfig, model_type: str | None = None) -> dict[str, Any] | None:
    """The config.json of a model of `transformers` with this shape, or None when no such model has it.

    Args:
        config: The shape.
        model_type: One of `CLASSES`. By default a WavLM if attention has gates, and else a HuBERT.
    """
    model_type = model_type or ("wavlm" if config.gate_width else "hubert")
    if len(set(config.heads)) != 1 or len(set(config.ffn_dims)) != 1:
        return None
    if config.embed_dim != config.heads[0] * config.head_dim:
        return None
    if config.gate_width != (config.embed_dim if model_type == "wavlm" else 0):
        return None
    values = config.to_dict()
    keys = {**CONFIG_KEYS, **GATE_KEYS} if model_type == "wavlm" else CONFIG_KEYS
    return {
        "model_type": model_type,
        "architectures": [CLASSES[model_type]],
        **{key: values[name] for name, key in keys.items()},
        "num_hidden_layers": len(config.heads),
        "num_attention_heads": config.heads[0],
        "intermediate_size": config.ffn_dims[0],
    }


def preprocessor_config(config: EncoderConfig, do_normalize: bool) -> dict[str, Any]:
    """A preprocessor_config.json: how `transformers` prepares audio for this encoder.

    Args:
        config: The encoder's. Under a group norm padding changes valid frames, mask or not: none is made.
        do_normalize: The preprocessor, not the model, brings each waveform to zero mean and unit variance.
    """
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE_HZ,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": do_normalize,
        "return_attention_mask": config.conv_norm == "layer",
    }


def check_like(values: Mapping[str, Any], key: str, example: Any, source: str) -> None:
    """Raises TeacherError unless an entry has the type of an example, counts being positive."""
    if not _is_like(values[key], example):
        raise TeacherError(f"{source}: {key}={shorten(values[key])} is not like {json.dumps(example)}")


def _is_like(value: Any, example: Any) -> bool:
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(_is_like(v, example[0]) for v in value)
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, int):
        return isinstance(value, int) and (value > 0 or value == example)
    return isinstance(value, int | float if isinstance(example, float) else str)


def list_misfits(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from filling a network: those that it lacks, others, and those that are not as it has them."""
    problems = [f"missing {name}" for name in expected if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in expected]
    for name in expected.keys() & weights.keys():
        found, wanted = weights[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"{name} has shape {list(found.shape)}, not {list(wanted.shape)}")
        elif not found.is_floating_point() or found.layout != torch.strided:
            problems.append(f"{name} is {found.dtype}, not dense floating point")
        elif not found.isfinite().all():
            problems.append(f"{name} has numbers that are not finite")
    return sorted(problems)


def refuse_weights(source: str, problems: Sequence[str], shape: str = "config.json") -> TeacherError:
    """The error that names the tensors at fault, the first ones if they are many; `shape` says what they should fit."""
    shown, more = problems[:MAX_SHOWN], len(problems) - MAX_SHOWN
    lines = [f"{source}: the weights do not fit {shape}:", *shown, *([f"and {more} more"] if more > 0 else [])]
    return TeacherError(*lines)
