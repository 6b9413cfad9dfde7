"""What sources of targets found once, for a whole corpus or for an utterance, a file for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from checkpoints.run_config import RunError
from search_spaces.files import write_file


class TargetFiles:
    """A `distillation.sources.source.Store` on disk. Sources keep the hashes of what they wrote, so this keeps none.

    Args:
        folder: Made by the first that is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, /) -> dict[str, Tensor] | None:
        """The tensors that were written under a name; None if none were.

        Raises:
            RunError: The file is damaged.
        """
        from safetensors import SafetensorError  # noqa: PLC0415 - most runs keep nothing here
        from safetensors.torch import load  # noqa: PLC0415

        path = self._path(name)
        try:
            return load(path.read_bytes()) if path.exists() else None
        except SafetensorError as error:
            raise RunError(f"{path} is damaged: {error}; put a copy of it back, or delete it") from error

    def __setitem__(self, name: str, tensors: Mapping[str, Tensor], /) -> None:
        from safetensors.torch import save  # noqa: PLC0415

        self.folder.mkdir(exist_ok=True)
        write_file(self._path(name), save(dict(tensors)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.safetensors"
