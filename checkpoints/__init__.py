"""Teachers and foreign formats in, run state, exports out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supernet.model import Supernet


def load_supernet(path: str | Path) -> Supernet:
    """A released LightHuBERT supernet; see `formats.lighthubert.load_supernet`."""
    from checkpoints.formats import lighthubert  # noqa: PLC0415 - who runs ONNX files alone needs no torch

    return lighthubert.load_supernet(path)


def register_auto_model() -> None:
    """Lets `transformers`' `AutoModel` open exports of any shape by the code installed here, without remote code."""
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

    from checkpoints.runtimes.modeling_nestling import NestlingConfig, NestlingModel  # noqa: PLC0415

    AutoConfig.register(NestlingConfig.model_type, NestlingConfig, exist_ok=True)
    AutoModel.register(NestlingConfig, NestlingModel, exist_ok=True)
