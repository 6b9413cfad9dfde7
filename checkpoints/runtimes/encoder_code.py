"""The code that travels in an export: the encoder's modules side by side, and what opens the folder with them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import supernet.blocks
import supernet.encoder
import supernet.encoder_config
import supernet.front_end
from search_spaces.files import write_file

_MODULES = (supernet.encoder, supernet.encoder_config, supernet.front_end, supernet.blocks)
ENCODER_CODE = tuple(f"{module.__name__.partition('.')[2]}.py" for module in _MODULES)
"""The network, as files of any folder: they need torch and one another."""


def write_encoder_code(folder: Path, opener: Path, name: str) -> None:
    """Writes a module of ours that imports the encoder, and the files of `ENCODER_CODE`.

    `transformers` 5.0 copies out of a folder no more than what the file of the class itself imports: that names each.

    Args:
        folder: There already.
        opener: The module.
        name: Of its file in the folder.
    """
    write_file(folder / name, _beside(opener.read_text("utf-8")))
    for file, module in zip(ENCODER_CODE, _MODULES, strict=True):
        write_file(folder / file, _beside(inspect.getsource(module)))


def _beside(source: str) -> str:
    """The text of a module whose neighbours lie in the same folder."""
    return re.sub(r"^from supernet\.", "from .", source, flags=re.MULTILINE)
