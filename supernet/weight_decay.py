"""Which weights weight decay is for."""

from __future__ import annotations

from torch import nn

MATRICES = ("weight", "original1")
"""What matrices and kernels are called; the second under weight norm, whose gains are `original0`."""


def split_by_decay(*modules: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that weight decay pulls towards zero, and those that it leaves alone, each in the modules' order.

    The first are the matrices of linear maps and the kernels of convolutions. The others are no maps, whatever their
    shape: biases, norms and gains, the constants and the table of WavLM's gates, the mask embedding.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in (part for whole in modules for part in whole.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            is_map = name in MATRICES and parameter.dim() > 1 and not isinstance(module, nn.Embedding)
            (decayed if is_map else others).append(parameter)
    return decayed, others
