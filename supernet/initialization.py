"""Fresh weights."""

from __future__ import annotations

import torch
from torch import nn

from supernet.blocks import Attention
from supernet.encoder import Encoder


def initialize(encoder: Encoder, generator: torch.Generator) -> None:
    """Fresh weights as HuBERT starts: normal(0, 0.02) for linear maps, He-normal convolutions, norms at identity."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Attention) and module.gate_width:
            nn.init.ones_(module.gru_rel_pos_const)
        elif isinstance(module, nn.Conv1d):
            if name.endswith("pos_conv_embed.conv"):
                std = 2.0 * (module.kernel_size[0] * module.in_channels) ** -0.5
                module.weight = torch.empty_like(module.weight).normal_(0.0, std, generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.uniform_(encoder.masked_spec_embed, generator=generator)
