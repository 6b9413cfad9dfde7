"""The layout of fairseq's HuBERT and wav2vec 2.0 and of unilm's WavLM, both ways: options, names of tensors, keys.

Pre-trained and fine-tuned files, and those that s3prl converts, hold the same tensors under different keys; which it is
shows in the file. Neither fairseq nor omegaconf is needed: a checkpoint comes as plain values and tensors.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Literal

from torch import Tensor

from checkpoints.formats.hugging_face import (
    OLD_NAMES,
    OtherNetworkError,
    TeacherError,
    check_like,
    hugging_face_config,
    unfold_weight_norm,
    unwrap_names,
)
from search_spaces.errors import NestlingError
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig

Layout = Literal["hubert", "wav2vec2", "hubert_ctc", "wav2vec_ctc", "wavlm", "s3prl"]
"""fairseq's own names of pre-trained and fine-tuned models, unilm's WavLM, and a HuBERT that s3prl converted."""

NAMES = (
    (r"masked_spec_embed", "mask_emb"),
    (r"(feature_extractor\.conv_layers\.\d+)\.conv", r"\1.0"),
    (r"(feature_extractor\.conv_layers\.\d+)\.layer_norm", r"\1.2.1"),
    (r"feature_projection\.layer_norm", "layer_norm"),
    (r"feature_projection\.projection", "post_extract_proj"),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
    (r"encoder\.pos_conv_embed\.conv", "encoder.pos_conv.0"),
    (r"encoder\.rel_attn_embed", "encoder.layers.0.self_attn.relative_attention_bias"),
    (r"(encoder\.layers\.\d+)\.attention\.gru_rel_pos_const", r"\1.self_attn.grep_a"),
    (r"(encoder\.layers\.\d+)\.attention\.gru_rel_pos_linear", r"\1.self_attn.grep_linear"),
    (r"(encoder\.layers\.\d+)\.attention", r"\1.self_attn"),
    (r"(encoder\.layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
    (r"(encoder\.layers\.\d+)\.feed_forward\.intermediate_dense", r"\1.fc1"),
    (r"(encoder\.layers\.\d+)\.feed_forward\.output_dense", r"\1.fc2"),
)
"""How the name of a tensor of `Encoder` begins -> how fairseq's does, the first that fits; the rest is the same."""

GROUP_NORM = ("feature_extractor.conv_layers.0.2.1.", "feature_extractor.conv_layers.0.2.")
"""The one norm of a front-end that normalises over time sits a step higher."""

OPTIONS: Mapping[str, str] = {
    "embed_dim": "encoder_embed_dim",
    "conv_bias": "conv_bias",
    "norm_first": "layer_norm_first",
    "pos_conv_kernel": "conv_pos",
    "pos_conv_groups": "conv_pos_groups",
}
"""Field of `EncoderConfig` -> option of fairseq."""

GATE_OPTIONS: Mapping[str, str] = {"num_buckets": "num_buckets", "max_distance": "max_distance"}
"""The same, of a WavLM."""

NORMS: Mapping[str, str] = {"layer": "layer_norm", "group": "default"}
"""`conv_norm` -> `extractor_mode`."""

DEFAULTS: Mapping[str, Any] = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "extractor_mode": "default",
    "conv_bias": False,
    "layer_norm_first": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": False,
    "gru_rel_pos": False,
    "num_buckets": 320,
    "max_distance": 1280,
}
"""What HuBERT and WavLM take for an option that a file leaves out and that the shapes of its tensors do not give."""

REQUIRED_OPTIONS: Mapping[str, Any] = {
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "conv_pos_batch_norm": False,
    "pos_conv_depth": 1,
    "quantize_input": False,
    "crop_seq_to_multiple": 1,
}
"""Options that change what such a model computes, with the one value that `Encoder` computes."""

HEADS = ("label_embs_concat", "final_proj.", "quantizer.", "project_q.", "target_glu.")
"""Tensors of pre-training that an encoder does without, by the start of their names."""

SIZES = tuple(key for key, value in DEFAULTS.items() if type(value) is int)
"""Options that are refused where the tensors are of another size, before anything is built of them."""

HEAD_DIM = 64
"""Of all published models. Without gates no tensor shows how many heads there are."""
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Of the front-end of all published models, whose strides no tensor shows."""
MAX_CONVS = 64
MAX_TEXT = 1000
"""Of conv_feature_layers, in convolutions and in characters."""
MAX_NESTING = 3
"""Models that were fine-tuned from one another."""
FINE_TUNED = "w2v_encoder.w2v_model."
"""Before the names of a pre-trained network that was fine-tuned."""
SUPERNETS = ("hubert_pruner", "student_hubert")
"""LightHuBERT's, which have other options and more than one shape."""
WANTED = "a HuBERT or wav2vec 2.0 of fairseq, a WavLM of unilm, or what s3prl converted of them"

_CONV = "feature_extractor.conv_layers.{}.0.weight"
_FIRST = _CONV.format(0)
_LAYER = "encoder.layers.0"
_POSITIONAL = "encoder.pos_conv.0"


def to_fairseq_name(name: str, conv_norm: str) -> str:
    """What fairseq calls a tensor of `Encoder`."""
    for ours, theirs in NAMES:
        if match := re.match(rf"{ours}(?=\.|$)", name):
            name = match.expand(theirs) + name[match.end() :]
            break
    return name.replace(*GROUP_NORM) if conv_norm == "group" else name


def is_checkpoint(values: Any) -> bool:
    """Whether a file's content has fairseq's, unilm's or s3prl's keys: options and, beside them, tensors."""
    return isinstance(values, Mapping) and bool(
        ({"cfg", "args"} & values.keys() and "model" in values) or {"model_cfg", "model_weight"} <= values.keys()
    )


def from_fairseq(checkpoint: Mapping[str, Any], source: str) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """The shape that a checkpoint has, and its encoder's tensors by fairseq's names, without prefix and heads.

    Args:
        checkpoint: For which `is_checkpoint` holds; plain values and tensors.
        source: What to blame in an error.

    Raises:
        TeacherError: It is a network that `Encoder` does not compute, or its options and its tensors do not agree.
    """
    stored = checkpoint.get("model_weight", checkpoint.get("model"))
    if not isinstance(stored, Mapping) or not all(
        isinstance(key, str) and isinstance(weight, Tensor) for key, weight in stored.items()
    ):
        raise TeacherError(f"{source} holds something else than tensors by name; wanted is {WANTED}")
    stored = unwrap_names(stored, source)
    sections = list(_find_sections(checkpoint))
    options = sections[-1]
    name = options.get("_name", options.get("arch"))
    if name in SUPERNETS:
        raise TeacherError(f"{source} is LightHuBERT's ({name}); import it with `nestling import supernet`")
    prefix = next((key.removesuffix(_FIRST) for key in stored if key.endswith(_FIRST)), None)
    if prefix is None:
        raise OtherNetworkError(f"{source} is another network ({name}), without {_FIRST}; wanted is {WANTED}")
    if not {"encoder_layers", "layer_norm_first"} & options.keys():
        raise TeacherError(
            f"{source} has tensors, but not the options that they were trained with, such as layer_norm_first "
            "(a fine-tuned model has them in w2v_args); ask for a complete checkpoint"
        )
    bare = {key.removeprefix(prefix): weight for key, weight in stored.items() if key.startswith(prefix)}
    weights = {_renamed(key): weight for key, weight in bare.items() if not key.startswith(HEADS)}
    weights = unfold_weight_norm(weights, _POSITIONAL, "weight_g", "weight_v")
    normalize = next((v for section in sections if isinstance(v := section.get("normalize"), bool)), False)
    return _read_options(options, weights, normalize, source), weights


def _renamed(key: str) -> str:
    """A name of weight norm's tensors as it was before torch 2, which saves them by other names."""
    for old, new in OLD_NAMES.items():
        key = key.replace(f"{_POSITIONAL}.{new}", f"{_POSITIONAL}.{old}")
    return key


def _find_sections(checkpoint: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Groups of options: those of the task first, those that shape the network last."""
    if isinstance(task := checkpoint.get("task_cfg"), Mapping):
        yield task
    stored = [checkpoint.get(key) for key in ("cfg", "args", "model_cfg")]
    found = next((values for values in stored if isinstance(values, Mapping) and values), {})
    for _ in range(MAX_NESTING):
        if isinstance(task := found.get("task"), Mapping):
            yield task
        yield found
        if isinstance(model := found.get("model"), Mapping):
            yield (found := model)
        if not isinstance(nested := found.get("w2v_args"), Mapping):  # of the model that was fine-tuned
            return
        found = nested


def _read_options(
    given: Mapping[str, Any], weights: Mapping[str, Tensor], normalize: bool, source: str
) -> EncoderConfig:
    for option, required in REQUIRED_OPTIONS.items():
        if (got := given.get(option, required)) != required:
            raise OtherNetworkError(f"{source}: {option}={got!r} is not supported, only {required!r}")
    shown = _read_shapes(weights, source)
    options = {**DEFAULTS, **shown, **{key: given[key] for key in DEFAULTS if key in given}}
    width = shown["encoder_embed_dim"]
    if "encoder_attention_heads" not in {**shown, **given}:
        if width % HEAD_DIM:
            raise TeacherError(
                f"{source} does not say encoder_attention_heads, and heads of {HEAD_DIM} channels do not divide "
                f"encoder_embed_dim={width}"
            )
        options["encoder_attention_heads"] = width // HEAD_DIM
    for key, example in DEFAULTS.items():
        check_like(options, key, example, source)
    for key, value in shown.items():
        if key in SIZES and options[key] != value:
            raise TeacherError(f"{source}: {key} is {options[key]}, but the tensors are of {value}")
    if options["extractor_mode"] not in NORMS.values():
        raise OtherNetworkError(f"{source}: extractor_mode={options['extractor_mode']!r} is not supported")
    heads, depth = options["encoder_attention_heads"], options["encoder_layers"]
    if width % heads or width % options["conv_pos_groups"]:
        raise TeacherError(
            f"{source}: encoder_embed_dim={width} must be a multiple of encoder_attention_heads={heads} "
            f"and of conv_pos_groups={options['conv_pos_groups']}"
        )
    if (gates := options["gru_rel_pos"]) != options["relative_position_embedding"]:
        raise OtherNetworkError(f"{source}: only a relative position bias with gates is supported, or neither")
    keys = {**OPTIONS, **(GATE_OPTIONS if gates else {})}
    dims, kernels, strides = zip(*_read_convs(given.get("conv_feature_layers"), weights, source), strict=True)
    return EncoderConfig(
        conv_dims=dims,
        conv_kernels=kernels,
        conv_strides=strides,
        conv_norm=next(norm for norm, mode in NORMS.items() if mode == options["extractor_mode"]),
        heads=(heads,) * depth,
        ffn_dims=(options["encoder_ffn_embed_dim"],) * depth,
        head_dim=width // heads,
        gate_width=width if gates else 0,
        normalize_waveform=normalize,
        **{field: options[key] for field, key in keys.items()},
    )


def _read_shapes(weights: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The options that the shapes of tensors show."""

    def size(name: str, dim: int) -> int:
        if name not in weights or weights[name].dim() <= dim:
            raise TeacherError(f"{source}: the tensors are incomplete: there is no {name} of {dim + 1} dimensions")
        return weights[name].shape[dim]

    width = size("post_extract_proj.weight", 0)
    gains, table = f"{_LAYER}.self_attn.grep_a", f"{_LAYER}.self_attn.relative_attention_bias.weight"
    shown = {
        "encoder_layers": _count(weights, "encoder.layers.{}.fc1.weight"),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": size(f"{_LAYER}.fc1.weight", 0),
        "extractor_mode": NORMS["group" if "feature_extractor.conv_layers.0.2.weight" in weights else "layer"],
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in weights,
        "conv_pos": size("encoder.pos_conv.0.weight_v", 2),
        "conv_pos_groups": width // max(1, size("encoder.pos_conv.0.weight_v", 1)),
        "gru_rel_pos": gains in weights,
        "relative_position_embedding": table in weights,
    }
    if gains in weights:
        shown["encoder_attention_heads"] = size(gains, 1)
    if table in weights:
        shown["num_buckets"] = size(table, 0)
    return shown


def _read_convs(text: Any, weights: Mapping[str, Tensor], source: str) -> list[tuple[int, int, int]]:
    """Channels, kernel and stride of each convolution, as the option and the tensors agree on them."""
    shapes = [weights[_CONV.format(i)].shape for i in range(_count(weights, _CONV))]
    found = [(shape[0], shape[2]) if len(shape) == 3 else (0, 0) for shape in shapes]
    if text is None:
        if tuple(kernel for _, kernel in found) != KERNELS:
            raise TeacherError(f"{source} does not say conv_feature_layers, and the tensors do not show strides")
        return [(*size, stride) for size, stride in zip(found, STRIDES, strict=True)]
    convs = _parse_convs(str(text))
    if convs is None or [conv[:2] for conv in convs] != found:
        raise TeacherError(
            f"{source}: conv_feature_layers is {str(text)[:100]!r}, but the tensors have the channels and kernels "
            f"{', '.join(map(str, found))}"
        )
    return convs


def _parse_convs(text: str) -> list[tuple[int, int, int]] | None:
    """What `[(512, 10, 5)] + [(512, 3, 2)] * 4` says; None if it is of another form. It is never run."""

    def read(node: ast.expr) -> list[tuple[int, int, int]]:
        match node:
            case ast.List(elts=items) | ast.Tuple(elts=items):
                convs = [tuple(ast.literal_eval(item)) for item in items]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                convs = read(left) + read(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(times))) if times <= MAX_CONVS:
                convs = read(left) * times
            case _:
                raise ValueError
        if len(convs) > MAX_CONVS or any(len(conv) != 3 or not all(_is_count(n) for n in conv) for conv in convs):
            raise ValueError
        return convs

    try:
        return read(ast.parse(text[:MAX_TEXT], mode="eval").body)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _count(weights: Mapping[str, Tensor], template: str) -> int:
    """How many names there are, from 0 on."""
    return next(i for i in count() if template.format(i) not in weights)


def to_fairseq(encoder: Encoder, layout: Layout) -> dict[str, Any]:
    """An encoder as a checkpoint that `torch.save` writes: plain values and tensors, without heads.

    Args:
        encoder: Of uniform layers, with embed_dim = heads * head_dim.
        layout: Where the options and the tensors are put; only `wavlm` has gates.

    Raises:
        NestlingError: No such model has this shape.
    """
    config = encoder.config
    model_type = "wavlm" if config.gate_width else "hubert"
    if hugging_face_config(config, model_type) is None or (config.gate_width and layout != "wavlm"):
        raise NestlingError(
            f"no model of the layout {layout} has this shape: layers must be alike, with embed_dim = heads * head_dim, "
            f"and gates of that width or none (only wavlm has any); got {config}"
        )
    convs = zip(config.conv_dims, config.conv_kernels, config.conv_strides, strict=True)
    values = config.to_dict()
    options = {
        **{key: values[field] for field, key in OPTIONS.items()},
        "extractor_mode": NORMS[config.conv_norm],
        "conv_feature_layers": str(list(convs)),
        "encoder_layers": len(config.heads),
        "encoder_attention_heads": config.heads[0],
        "encoder_ffn_embed_dim": config.ffn_dims[0],
        "activation_fn": "gelu",
    }
    weights = {to_fairseq_name(name, config.conv_norm): weight for name, weight in encoder.state_dict().items()}
    normalize = {"normalize": config.normalize_waveform}
    match layout:
        case "wavlm":
            gates = {"relative_position_embedding": config.gate_width > 0, "gru_rel_pos": config.gate_width > 0}
            reach = {key: values[field] for field, key in GATE_OPTIONS.items()}
            return {"cfg": {**options, **gates, **reach, **normalize}, "model": weights}
        case "s3prl":
            return {"task_cfg": normalize, "model_cfg": options, "model_weight": weights, "dictionaries_symbols": []}
        case "hubert" | "wav2vec2":
            return {"args": None, "cfg": {"model": {"_name": layout, **options}, "task": normalize}, "model": weights}
        case "hubert_ctc" | "wav2vec_ctc":
            kind = "hubert" if layout == "hubert_ctc" else "wav2vec2"
            inner = {"model": {"_name": kind, **options}, "task": normalize}
            outer = {"model": {"_name": layout, "w2v_args": inner, **normalize}, "task": normalize}
            return {"args": None, "cfg": outer, "model": {FINE_TUNED + name: w for name, w in weights.items()}}
