"""One run on disk: configuration, record, checkpoints and supernet, safe against a kill at any moment.

Files are written whole (`search_spaces.files`). Checkpoints and the supernet come with a SHA-256, so a damaged file is
found before it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import safetensors.torch
import torch
import yaml

from checkpoints.run_config import FORMAT, MADE_WITH, RunConfig, check_format
from distillation.trainer import STATE
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import check_writable, explaining, is_unfinished, write_file
from search_spaces.space import SearchSpace
from search_spaces.strict_json import MAX_BYTES, MOST, load_json
from search_spaces.strict_yaml import load_yaml, parse_config, read_bytes, read_text
from supernet.model import Supernet

SCHEMA_VERSION = 1
KEPT_STATES = 2
HISTORY = "history"
"""In a configuration: what was changed when the run was resumed."""


class RunError(NestlingError):
    """A run folder is not what it should be."""


@dataclass(frozen=True)
class SupernetRecord:
    """Where a supernet comes from."""

    teacher: str | None = None
    """Name of the teacher: its folder's, or that on the hub."""
    license: str | None = None
    """The teacher's licence, as its model card names it."""
    data: str | None = None
    """Hash of the audio it was trained on."""
    revision: str | None = None
    """The teacher's commit, if it is of the hub."""
    teacher_hash: str | None = None
    """Of the teacher's shape and weights."""


@dataclass(frozen=True)
class _MetricsRow:
    """A line of metrics.jsonl: a step, or a probe before a stage."""

    step: int
    stage: str | None = None
    losses: dict[str, float] | None = None
    learning_rate: float | None = None
    before: str | None = None
    phone_error: float | None = None

    def __post_init__(self) -> None:
        if self.before is not None and self.phone_error is None:
            raise NestlingError("missing key `phone_error` beside `before`")
        if self.before is None and (self.stage is None or self.learning_rate is None):
            raise NestlingError("a step needs `stage` and `learning_rate`, a probe `before` and `phone_error`")
        if self.before is None and "largest" not in (self.losses or {}):
            raise NestlingError("missing key `losses.largest`")


@dataclass(frozen=True)
class _SupernetEntry:
    """What supernet.json says of the weights beside it."""

    schema_version: int
    sha256: str
    space: SearchSpace
    space_hash: str
    teacher: str | None
    license: str | None
    data: str | None
    revision: str | None = None
    teacher_hash: str | None = None

    def __post_init__(self) -> None:
        if self.space.hash != self.space_hash:
            raise NestlingError("space is not the one that space_hash names")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(_SupernetEntry)} | {"space": self.space.to_dict()}


@dataclass(frozen=True)
class _SupernetFile(_SupernetEntry):
    """All of supernet.json."""

    replaces: _SupernetEntry | None = None
    """Described are both, until the weights that this one is of are renamed into place."""


class RunFolder:
    """A run at `path`; `create` starts one and `open` finds one.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.jsonl"
        self.state_path = path / "state"
        self.supernet_path = path / "supernet.safetensors"
        self.supernet_record_path = path / "supernet.json"
        self.search_path = path / "search"
        self.report_path = path / "report.html"
        self.lock_path = path / "lock"

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], seed: int) -> RunFolder:
        """Starts a run and writes its configuration.

        Args:
            path: A folder that does not exist yet, or is empty.
            config: Fully resolved, plain JSON values.
            seed: Written beside them.

        Raises:
            NestlingError: As `check_free`.
        """
        run = cls(Path(path))
        run.check_free()
        run.path.mkdir(parents=True, exist_ok=True)
        text = dump_yaml({"format": FORMAT, "seed": seed, **config, MADE_WITH: made_with()})
        write_file(run.config_path, text)
        return cls.open(run.path)

    def check_free(self) -> None:
        """Tells of a place where no run can begin, before any work is done.

        Raises:
            NestlingError: It already holds a run or anything else, is no folder, or cannot be written.
        """
        if self.config_path.exists():
            raise RunError(f"{self.path} already holds a run; resume it, or name another folder")
        check_writable(self.path, "--run", folder=True)
        if strays := [path for path in self.path.glob("*") if path.name != "lock" and not is_unfinished(path)]:
            raise RunError(f"{self.path} is not empty ({strays[0].name} …) and not a run; name another folder")

    @classmethod
    def open(cls, path: str | Path | None, root: str | Path = "runs") -> RunFolder:
        """The run at `path`, or without one the newest under `root`.

        Raises:
            RunError: There is no run.
        """
        if path is None:
            path = newest_run(root).path
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunError(f"there is no run at {path}; train one first, or check the name")
        if not run.config_path.is_file():
            raise RunError(f"{path} is not a run: it has no config.yaml")
        run._check_format()
        run.state_path.mkdir(exist_ok=True)
        run.search_path.mkdir(exist_ok=True)
        return run

    def _check_format(self) -> dict[str, Any]:
        """What config.yaml holds, of whatever run."""
        values = load_yaml(self.config_path)
        try:
            check_format(values, FORMAT)
        except NestlingError as error:
            raise RunError(f"{self.config_path}: {error}") from error
        return values

    def _read_config(self) -> tuple[dict[str, Any], RunConfig]:
        values = self._check_format()
        return values, parse_config(RunConfig, values, str(self.config_path), most=MOST)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration the run was started with, seed included; `made_with` is left out.

        Raises:
            NestlingError: The file was edited into something else, or is of a newer Nestling; names the keys at fault.
        """
        values, _ = self._read_config()
        del values[MADE_WITH]
        return values

    @property
    def made_with(self) -> Mapping[str, str | None]:
        """The versions that made the run; raises as `config` does."""
        return self._read_config()[1].made_with

    def discard(self) -> bool:
        """Deletes a run without a checkpoint, of which nothing can be made; says whether it was one."""
        if any(self._states()):
            return False
        shutil.rmtree(self.path, ignore_errors=True)  # a mount point stays, and is empty
        return True

    def amend(self, config: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        """Writes a changed configuration, and under `history` what changed.

        Args:
            config: Replaces the values of these keys.
            change: Plain JSON values.
        """
        kept = load_yaml(self.config_path)
        history = [*kept.get(HISTORY, ()), dict(change)]
        write_file(self.config_path, dump_yaml({**kept, **config, HISTORY: history}))

    @contextmanager
    def lock(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Lets one process at a time write the run.

        The operating system frees the lock of a process that dies, so a stale one is simply taken over.

        Args:
            say: Told who held the lock last, if that was killed.

        Raises:
            RunError: Another process holds it.
            FailedError: The run was deleted meanwhile, and all that was written with it.
        """
        with open(self.lock_path, "a+", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - flock wants a descriptor
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path} is being written by {_read_owner(file)}; wait for it or stop it") from None
            if owner := _read_owner(file):
                say(f"{self.path} was last written by {owner}, which was killed at it")
            _write_owner(file, f"process {os.getpid()} on {socket.gethostname()}")
            try:
                yield
            finally:
                _write_owner(file, "")
            if not os.fstat(file.fileno()).st_nlink:
                raise FailedError(f"{self.path} was deleted while it was written, and what this command wrote with it")

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one row to the record; a kill right after it does not lose it.

        Args:
            row: Plain JSON values with a whole number under `step`.

        Raises:
            ValueError: The row has no step, or a number that is not finite.
            FailedError: The disk refused.
        """
        if not isinstance(step := row.get("step"), int):
            raise ValueError(f"a row of the record needs a whole number under `step`, got {step!r}")
        with explaining(self.metrics_path), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of the record; a torn last line is left out.

        Raises:
            RunError: A line before the last is not a row.
        """
        return [row for _, row in self._metrics_lines()]

    def cut_metrics(self, step: int) -> None:
        """Cuts away the rows at or beyond `step`, and a torn last line: a resumed run goes on from there."""
        kept = b"".join(line for line, row in self._metrics_lines() if row["step"] < step)
        write_file(self.metrics_path, kept)

    def _metrics_lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        if not self.metrics_path.exists():
            return []
        lines = read_bytes(self.metrics_path, MAX_BYTES).splitlines(keepends=True)
        rows = []
        for number, line in enumerate(lines, start=1):
            where = f"{self.metrics_path}, line {number}"
            try:
                row = load_json(line, where)
            except NestlingError:
                row = None
                if number < len(lines):
                    raise
            if number == len(lines) and not (line.endswith(b"\n") and isinstance(row, dict)):
                break  # torn
            parse_config(_MetricsRow, row, where, most=MOST)
            rows.append((line, row))
        return rows

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint and, once it is safe, deletes all but the last two.

        Args:
            state: Tensors and plain values; `step` says how many steps are done.

        Raises:
            FailedError: The disk refused; earlier checkpoints are untouched.
        """
        self.state_path.mkdir(exist_ok=True)
        path = self.state_path / f"step-{state['step']:08d}.pt"
        digest = write_file(path, lambda file: torch.save(dict(state), file))
        write_file(path.with_suffix(".sha256"), _manifest_line(path, digest))
        # A checkpoint beyond this step is one that `load_state` passed over.
        finished = [p for p in self._states() if p <= path and p.with_suffix(".sha256").exists()]
        kept = finished[-KEPT_STATES:]
        for old in self.state_path.glob("step-*"):
            if old.with_suffix(".pt") not in kept:
                old.unlink()

    def load_state(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, or None when none was ever written.

        Args:
            say: Told of every checkpoint that had to be passed over.

        Raises:
            RunError: There are checkpoints, but none is whole.
        """
        damaged: dict[str, str] = {}
        for path in reversed(self._states()):
            manifest = path.with_suffix(".sha256")
            if not manifest.exists():
                continue  # killed before the checkpoint was finished
            state, problem = _load_state(path, manifest.read_bytes())
            if state is not None:
                for name, reason in damaged.items():
                    say(f"checkpoint {name} is damaged ({reason}); going back to {path.name}")
                return state
            damaged[path.name] = problem
        if damaged:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in damaged.items())
            raise RunError(
                f"no checkpoint in {self.state_path} is whole ({reasons}); "
                f"start again, or delete {self.state_path} to train from step 0"
            )
        return None

    def _states(self) -> list[Path]:
        """Checkpoints, oldest first, finished or not."""
        return sorted(self.state_path.glob("step-*.pt"))

    def save_supernet(self, supernet: Supernet, record: SupernetRecord) -> None:
        """Writes the supernet's weights and space, replacing those of an earlier step.

        Raises:
            FailedError: The disk refused; the earlier supernet is untouched.
        """
        data = safetensors.torch.save(supernet.state_dict(), metadata={"format": "pt"})
        entry = {
            "schema_version": SCHEMA_VERSION,
            "sha256": hashlib.sha256(data).hexdigest(),
            "space": supernet.space.to_dict(),
            "space_hash": supernet.space.hash,
            **asdict(record),
        }
        # Until the weights are renamed, the record describes both the old ones and the new ones.
        try:
            old = self._supernet_entry()
        except NestlingError:  # there is none, or none worth keeping
            old = None
        self._write_supernet_entry({**entry, "replaces": old and old.to_dict()})
        write_file(self.supernet_path, data)
        self._write_supernet_entry(entry)

    def load_supernet(self) -> Supernet:
        """The supernet that `save_supernet` wrote.

        Raises:
            RunError: There is none, it is damaged, or another version wrote it.
        """
        entry = self._supernet_entry()
        supernet = Supernet(entry.space, torch.Generator())
        try:
            supernet.load_state_dict(safetensors.torch.load(self.supernet_path.read_bytes()))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise RunError(
                f"{self.supernet_path} does not hold the weights of `space` in {self.supernet_record_path}"
            ) from error
        return supernet

    @property
    def supernet_record(self) -> SupernetRecord:
        """Where the run's supernet comes from; raises as `load_supernet` does."""
        entry = self._supernet_entry()
        return SupernetRecord(entry.teacher, entry.license, entry.data, entry.revision, entry.teacher_hash)

    def _supernet_entry(self) -> _SupernetEntry:
        """The part of supernet.json that describes the weights that are there."""
        if not self.supernet_path.exists():
            raise RunError(f"{self.path} has no supernet yet; finish its training, or name another run")
        with self.supernet_path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = self.supernet_record_path
        values = load_json(read_text(path, MAX_BYTES), str(path))
        try:
            check_format(values if isinstance(values, dict) else {}, SCHEMA_VERSION, "schema_version")
        except NestlingError as error:
            raise RunError(f"{path}: {error}") from error
        newest = parse_config(_SupernetFile, values, str(path), most=MOST)
        for entry in (newest, newest.replaces):
            if entry and entry.sha256 == digest:
                return entry
        raise RunError(f"{self.supernet_path} is damaged: it fails the SHA-256 of supernet.json")

    def _write_supernet_entry(self, entry: Mapping[str, Any]) -> None:
        write_file(self.supernet_record_path, json.dumps(entry, indent=2) + "\n")


def newest_run(root: str | Path = "runs") -> RunFolder:
    """The run under `root` that was written last.

    Raises:
        RunError: There is none.
    """
    runs = [RunFolder(config.parent) for config in Path(root).glob("*/config.yaml")]
    if not runs:
        raise RunError(f"there is no run under {root}; train one first, or name its folder")

    def written(run: RunFolder) -> int:
        paths = (run.config_path, run.metrics_path)
        return max(path.stat().st_mtime_ns for path in paths if path.exists())

    return max(runs, key=written)


def made_with() -> dict[str, str | None]:
    """The versions that a run's numbers depend on, and the commit of this code if it is tracked by git."""
    return {
        "nestling": importlib.metadata.version("nestling"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of this code, with `-dirty` if files differ from it; None outside a git checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed inside somebody else's checkout?
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Plain JSON values as YAML that `load_yaml` reads back unchanged."""
    plain = json.loads(json.dumps(values, allow_nan=False))  # no aliases: nothing is shared any more
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but every text that YAML 1.2 could take for a number is quoted (`1e-4`, `08`)."""


_NUMBER_LIKE = re.compile(r"[-+.]*[0-9][-+.eE0-9]*$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER_LIKE, list("-+.0123456789"))


def _load_state(path: Path, manifest: bytes) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint, or None and what is wrong with it."""
    with path.open("rb") as file:
        if manifest != _manifest_line(path, hashlib.file_digest(file, "sha256").hexdigest()):
            return None, "it fails its SHA-256"
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch.save did not write fails in a dozen ways
            return None, f"it is no checkpoint, {type(error).__name__}"
    if not isinstance(state, dict):
        return None, f"it holds a {type(state).__name__}"
    for key, kind in STATE.items():
        if key not in state:
            return None, f"it has no `{key}`"
        if not isinstance(state[key], kind) or isinstance(state[key], bool):
            return None, f"`{key}` is a {type(state[key]).__name__}, not a {kind.__name__}"
    return state, ""


def _read_owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()


def _write_owner(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _manifest_line(path: Path, digest: str) -> bytes:
    """What `sha256sum --check` reads."""
    return f"{digest}  {path.name}\n".encode()
