"""Where models are: the one that ships with the package, on this disk, or on the Hugging Face hub."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.manifest import MANIFEST, list_manifest
from search_spaces.errors import FailedError, NestlingError

DEMO = "demo"
DEMO_TEACHER = Path(__file__).parent / "demo_teacher"
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""What a disk answers that takes no files; a network has other numbers, or none."""
ACCEPTED = (
    "what can teach: demo, a folder or a name on the Hugging Face hub (HuBERT, wav2vec 2.0, WavLM, Whisper, or another "
    "network of `transformers` that makes a hidden state of a waveform every 20 ms), a Whisper of CTranslate2, or a "
    "file of fairseq, unilm or s3prl"
)


@dataclass(frozen=True)
class Found:
    """Where a model is, and what it is called."""

    path: Path
    """A folder or a file."""
    name: str
    """`demo`, the folder's or file's own name, or the name on the hub, without a revision."""
    revision: str | None = None
    """On the hub: the commit that a name or a revision stood for. None for what is on this disk."""


def locate(source: str, shipped: Container[str]) -> str:
    """What finds a teacher or audio from any folder: a path is made absolute, a name stays what it is.

    Args:
        source: As somebody gave it.
        shipped: Names that mean no path, even if there is one.
    """
    path = _expand(source)
    if not source or source in shipped or not path.exists():
        return source
    return str(path.parent.resolve() / path.name)  # a link stays one: its name may tell what it leads to


def find_model(source: str) -> Found:
    """What a source names: `demo`, a folder, a file, or a name on the hub with or without `@REVISION`.

    Raises:
        TeacherError: There is nothing of that name.
    """
    if source == DEMO:
        if not (DEMO_TEACHER / "config.json").is_file():
            raise TeacherError("this installation has no demo teacher; name a folder or a model on the hub")
        return Found(DEMO_TEACHER, source)
    path = _expand(source)
    if path.is_dir() or path.suffix in SUFFIXES:
        if path.exists():
            return Found(path, path.resolve().name)
        raise TeacherError(f"there is no file {source}")
    if path.is_file():
        raise TeacherError(f"{source} is no file of weights, which end in {', '.join(SUFFIXES)}; {ACCEPTED}")
    named = re.fullmatch(r"([A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@([\w.][\w./-]*))?", source)
    if not named:
        raise TeacherError(f"there is no folder {source}")
    try:
        return _download(named[1], named[2])
    except NestlingError:
        raise
    except Exception as error:  # a network fails in a dozen ways
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            raise FailedError(
                f"the files of {source} could not be kept: {error.strerror} ({error.filename}); free space, or set "
                "HF_HOME to a folder that can be written"
            ) from error
        raise TeacherError(
            f"there is no folder {source}, and the Hugging Face hub gave no model of that name "
            f"({type(error).__name__}); check the name and the connection"
        ) from error


def _expand(source: str) -> Path:
    """A path with the home folder for `~`; that of nobody, `~nobody/x`, stays as it is."""
    return Path(os.path.expanduser(source))  # noqa: PTH111 - Path's raises if there is no such user


def _download(name: str, revision: str | None) -> Found:
    """The files of a model on the hub that are opened here; all that its manifest lists, if it is an export of ours."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and seldom needed

    def fetch(patterns: Sequence[str], revision: str | None) -> Found:
        options: dict[str, Any] = {"revision": revision} if revision else {}
        folder = Path(snapshot_download(name, allow_patterns=list(patterns), **options))
        is_commit = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
        return Found(folder, name, folder.name if is_commit else revision)

    small = ["config.json", "preprocessor_config.json", "processor_config.json", "README.md", MANIFEST]
    safe = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
    found = fetch([*small, *safe], revision)
    if not any((found.path / file).exists() for file in safe[:2]):
        others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin", "model.bin"]
        found = fetch([*small, *others], found.revision)
    if absent := [file for file in list_manifest(found.path) if not (found.path / file).exists()]:
        found = fetch(absent, found.revision)
    return found
