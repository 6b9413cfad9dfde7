"""Parts of an encoder whose weights mean nothing in another, though their shapes agree: the two compute otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.subnet import Backbone
from supernet.encoder_config import EncoderConfig

PARTS: tuple[tuple[str, str, str], ...] = (
    ("head_dim", "attention", r"encoder\.layers\.\d+\.attention\."),
    ("norm_first", "every layer", r"encoder\.(layers|layer_norm)\."),
    ("conv_strides", "the front-end", r"feature_extractor\."),
    ("pos_conv_groups", "the positional convolution", r"encoder\.pos_conv_embed\."),
    ("num_buckets", "the position bias", r"encoder\.rel_attn_embed\."),
    ("max_distance", "the position bias", r"encoder\.rel_attn_embed\."),
)
"""A setting, what it governs, and a pattern of the names of its parameters."""
OF_GATES = ("num_buckets", "max_distance")


@dataclass(frozen=True)
class Misfit:
    """A setting in which two encoders differ, and what it governs."""

    setting: str
    theirs: object
    ours: object
    part: str
    names: str
    """A pattern of names of parameters."""


def find_misfits(config: EncoderConfig, backbone: Backbone) -> list[Misfit]:
    """Where an encoder of this shape computes otherwise than subnets of this backbone."""
    gated = config.gate_width > 0 and backbone.gate_width > 0
    return [
        Misfit(setting, theirs, ours, part, names)
        for setting, part, names in PARTS
        if (theirs := getattr(config, setting)) != (ours := getattr(backbone, setting))
        and (gated or setting not in OF_GATES)
    ]
