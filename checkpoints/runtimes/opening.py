"""Encoders opened in each runtime that they can run in: torch, `transformers`, ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.formats.config_json import NESTLING_TYPE, normalizes_waveform, read_json
from checkpoints.formats.hugging_face import OtherNetworkError, TeacherError
from checkpoints.formats.transformers_models import load_model
from checkpoints.formats.whisper import is_whisper, open_whisper
from checkpoints.locations import ACCEPTED, find_model
from checkpoints.runtimes.onnx_session import INSTALL, ONNX_FILES, open_session, runtime_version
from checkpoints.teachers import load_encoder
from nas.measurement import Contestant, Run
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from supernet.front_end import normalize_waveform

RUNTIMES = ("torch", "transformers", *ONNX_FILES)
"""`torch` runs our own network where that computes the folder's, and that of `transformers` otherwise."""
INSTALL_HINT = f"onnxruntime is not installed; run: {INSTALL}"


@dataclass(frozen=True)
class Subject:
    """An encoder to be measured."""

    name: str
    """What tables call it: the folder's own name, the name on the hub and the commit, or the source of names alike."""
    source: str
    folder: Path
    runtimes: tuple[str, ...]
    """In which it is to run."""

    def open(self) -> list[Contestant]:
        """The encoder in each of its runtimes.

        Raises:
            TeacherError: The folder holds no encoder; or, when an ONNX file is opened, ValueError of that file.
        """
        return [self._open(runtime) for runtime in self.runtimes]

    def _open(self, runtime: str) -> Contestant:
        if runtime in ONNX_FILES:
            path = self.folder / ONNX_FILES[runtime]
            return Contestant(self.name, runtime, lambda threads: _open_onnx(path, threads))
        run, front_end = open_torch(self.folder) if runtime == "torch" else (open_transformers(self.folder), None)
        return Contestant(self.name, runtime, lambda _: run, front_end)


def parse_runtimes(text: str) -> tuple[str, ...]:
    """Runtimes from words such as `torch,onnx`.

    Raises:
        NestlingError: There is no such runtime.
    """
    words = dict.fromkeys(word.strip() for word in text.split(","))
    for word in words:
        if word not in RUNTIMES:
            raise NestlingError(f"--runtime {text}: no runtime `{word}`; {suggest(word, RUNTIMES)}")
    return tuple(words)


def find_subjects(
    sources: Sequence[str], runtimes: Sequence[str] | None, say: Callable[[str], None] = lambda _: None
) -> list[Subject]:
    """Finds encoders, and what each can run in.

    Args:
        sources: Exports, folders in Hugging Face format or names on the hub, `demo`.
        runtimes: Those wanted; None for torch and what ONNX files a folder has.
        say: Called with what is left out, and why.

    Raises:
        TeacherError: There is no such folder.
        NestlingError: A folder lacks the file of a runtime that is wanted, or that runtime is not installed.
    """
    for source in sources:
        if Path(source).suffix == ".onnx":
            raise NestlingError(f"{source}: name the folder, {Path(source).parent}, and --runtime onnx or onnx-int8")
    found = {source: find_model(source) for source in sources}
    titles = [f"{model.name}@{model.revision[:12]}" if model.revision else model.name for model in found.values()]
    names = [s if titles.count(title) > 1 else title for s, title in zip(found, titles, strict=True)]
    subjects = [
        Subject(name, source, model.path, tuple(runtimes) if runtimes else _available(model.path))
        for name, (source, model) in zip(names, found.items(), strict=True)
    ]
    if runtime_version() is None and any(set(ONNX_FILES) & set(s.runtimes) for s in subjects):
        if runtimes:
            raise NestlingError(INSTALL_HINT)
        say(f"ONNX files are left out: {INSTALL_HINT}")
        subjects = [replace(subject, runtimes=("torch",)) for subject in subjects]
    for subject in subjects:
        for runtime in subject.runtimes:
            if runtime in ONNX_FILES and not (subject.folder / ONNX_FILES[runtime]).is_file():
                kind = "onnx" if runtime == "onnx" else "int8"
                raise NestlingError(
                    f"{subject.source} has no {ONNX_FILES[runtime]}, which the runtime {runtime} wants; "
                    f"`nestling export subnet --to {kind}` writes it"
                )
    return subjects


def open_torch(folder: Path) -> tuple[Run, Run | None]:
    """An encoder in eager torch, and its front-end alone where the network is ours.

    Raises:
        TeacherError: The folder holds no encoder.
    """
    if is_whisper(folder):
        whisper: Any = open_whisper(folder)[0].network
        return lambda wave: whisper(wave)[-1], whisper.front_end
    try:
        encoder = load_encoder(folder).requires_grad_(False)
    except OtherNetworkError:
        return open_transformers(folder), None

    def run(wave: Tensor) -> Tensor:
        return encoder(wave, None, ()).last  # type: ignore[no-any-return]

    def front_end(wave: Tensor) -> Tensor:
        return encoder.feature_extractor(normalize_waveform(wave) if encoder.config.normalize_waveform else wave)  # type: ignore[no-any-return]

    return run, front_end


def open_transformers(folder: Path) -> Run:
    """An encoder as `transformers` computes it, its preprocessor included.

    Raises:
        TeacherError: The folder holds no encoder.
    """
    if is_whisper(folder):
        raise TeacherError(f"{folder}: of a Whisper, transformers wants 30 s in one piece; take --runtime torch")
    values = read_json(folder / "config.json", required=True)
    normalizes = normalizes_waveform(folder)
    model: Any
    if values.get("model_type") == NESTLING_TYPE:
        from checkpoints.runtimes.modeling_nestling import NestlingConfig, NestlingModel  # noqa: PLC0415 - transformers is slow

        model = NestlingModel(NestlingConfig(**values))
        model.nestling = load_encoder(folder)
    else:
        model = load_model(folder, values, ACCEPTED)
    model.eval().requires_grad_(False)

    def run(wave: Tensor) -> Tensor:
        return model(normalize_waveform(wave) if normalizes else wave).last_hidden_state  # type: ignore[no-any-return]

    return run


def _available(folder: Path) -> tuple[str, ...]:
    """Torch, unless there are ONNX files alone, and what ONNX files there are."""
    files = tuple(runtime for runtime, name in ONNX_FILES.items() if (folder / name).is_file())
    return files if files and not (folder / "config.json").is_file() else ("torch", *files)


def _open_onnx(path: Path, threads: int) -> Run:
    run = open_session(path, threads)
    return lambda wave: run(wave.numpy())
