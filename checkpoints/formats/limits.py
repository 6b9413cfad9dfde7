"""How large a network a config.json may describe: absurd sizes are refused before anything is built of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from search_spaces.validation import MAX_BUCKETS, MAX_DEPTH, MAX_DISTANCE, MAX_KERNEL, MAX_PARAMS

MAX_LAYERS = MAX_DEPTH
MAX_JSON_BYTES = 4 << 20

LIMITS: Mapping[str, int] = {
    # a HubertModel and its like
    "num_hidden_layers": MAX_LAYERS,
    "hidden_size": 16_384,
    "num_attention_heads": 1_024,
    "intermediate_size": 65_536,
    "conv_dim": 16_384,
    "conv_kernel": MAX_KERNEL,
    "conv_stride": MAX_KERNEL,
    "num_conv_pos_embeddings": MAX_KERNEL,
    "num_conv_pos_embedding_groups": 16_384,
    "num_buckets": MAX_BUCKETS,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 10_000_000,
    # a Whisper
    "num_mel_bins": 1_024,
    # an export of ours
    "embed_dim": 16_384,
    "heads": 1_024,
    "head_dim": 16_384,
    "ffn_dims": 65_536,
    "conv_dims": 16_384,
    "conv_kernels": MAX_KERNEL,
    "conv_strides": MAX_KERNEL,
    "pos_conv_kernel": MAX_KERNEL,
    "pos_conv_groups": 16_384,
    "gate_width": 16_384,
    "max_distance": MAX_DISTANCE,
}
"""Key of a config.json -> the largest value, or the largest entry of a list; no list has over `MAX_LAYERS` entries."""


def find_excess(values: Mapping[str, Any]) -> str | None:
    """What in a config.json is absurdly large; None if nothing is.

    Args:
        values: Its content, of any model type and not checked otherwise.
    """
    waiting = [values]  # configurations can hold others
    while waiting:
        part = waiting.pop()
        waiting += [value for value in part.values() if isinstance(value, dict)]
        for key, value in part.items():
            if (limit := LIMITS.get(key, MAX_LAYERS if key.endswith("layers") else None)) is None:
                continue
            if isinstance(value, list) and len(value) > MAX_LAYERS:
                return f"{key} has {len(value):,} entries; at most {MAX_LAYERS} are allowed"
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int | float) and not number <= limit:
                    return f"{key}={shorten(number)} is too large; at most {limit:,} is allowed"
    return explain_params(_estimate_params(values))


def _estimate_params(values: Mapping[str, Any]) -> int:
    """The weights of the large matrices that a HubertModel and its like have; keys that are no numbers count as 0."""

    def number(key: str) -> int:
        return found if isinstance(found := values.get(key), int) else 0

    def numbers(key: str) -> list[int]:
        return [v if isinstance(v, int) else 0 for v in found] if isinstance(found := values.get(key), list) else []

    width, dims = number("hidden_size"), numbers("conv_dim")
    layers = number("num_hidden_layers") * width * (4 * width + 2 * number("intermediate_size"))
    convs = sum(map(prod, zip(dims, dims[1:], numbers("conv_kernel")[1:], strict=False)))
    groups = max(1, number("num_conv_pos_embedding_groups"))
    return layers + convs + width * (width // groups) * number("num_conv_pos_embeddings")


def explain_params(count: int) -> str | None:
    """What to say of a network of so many parameters; None if they are not too many."""
    return f"{count:,} parameters are too many; at most {MAX_PARAMS:,} are allowed" if count > MAX_PARAMS else None


def shorten(value: Any) -> str:
    """A JSON value for an error message."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
