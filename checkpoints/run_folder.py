"""One run on disk: configuration, record, checkpoints and supernet, safe against a kill at any moment.

Files are written whole (`search_spaces.files`). Checkpoints and the supernet come with a SHA-256, so a damaged file is
found before it is used.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from checkpoints.run_config import FORMAT, MADE_WITH, RunConfig, RunError, check_format
from checkpoints.supernet_files import (
    DESCRIPTION,
    WEIGHTS,
    SupernetRecord,
    read_record,
    read_supernet,
    write_supernet,
)
from checkpoints.target_files import TargetFiles
from checkpoints.training_record import append_row, cut_rows, read_rows
from checkpoints.training_states import list_states, read_newest_state, write_state
from checkpoints.versions import made_with
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import check_writable, is_unfinished, write_file
from search_spaces.locks import take_lock
from search_spaces.quoting import shell_command
from search_spaces.strict_json import MOST
from search_spaces.strict_yaml import dump_yaml, load_yaml, parse_config
from supernet.model import Supernet

HISTORY = "history"
"""In a configuration: what was changed when the run was resumed."""


IMPORT = "import supernet"
BEGINNINGS = ("train supernet", "train teacher", "demo", IMPORT)
"""Commands that begin a run."""


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
        self.supernet_path = path / WEIGHTS
        self.supernet_record_path = path / DESCRIPTION
        self.search_path = path / "search"
        self.report_path = path / "report.html"
        self.lock_path = path / "lock"
        self.kept_targets = TargetFiles(path / "codes")
        """Codes that sources found, written once and not into every checkpoint."""
        self.kept_states = TargetFiles(path / "teacher_states")
        """What a teacher makes of whole utterances, a file for each; of those that are gone it is computed again."""

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
            command = self.resume_command()
            how = f"go on with it ({command})" if command else "use it as it is"
            raise RunError(f"{self.path} already holds a run; {how}, or name another folder")
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

    def resume_command(self, **options: object) -> str:
        """What to type to go on with its training; nothing where there is no run, or none that trains.

        Args:
            options: What else to name, such as `out`; None leaves it out.
        """
        try:
            began = self.config["command"]
        except NestlingError:
            return ""
        command = next((known for known in BEGINNINGS if began.startswith(known)), BEGINNINGS[0])
        if command == IMPORT:
            return ""
        named = {"run": self.path, **{name: value for name, value in options.items() if value is not None}}
        words = [word for name, value in named.items() for word in (f"--{name}", value)]
        return shell_command(["nestling", *command.split(), *words, "--resume"])

    def discard(self) -> bool:
        """Deletes a run without a checkpoint, of which nothing can be made; says whether it was one."""
        if any(list_states(self.state_path)):
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
        with open(self.lock_path, "a+", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - `open` is a method here
            try:
                take_lock(file, wait=False)
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
        """Adds one row to the record; see `training_record.append_row`."""
        append_row(self.metrics_path, row)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of the record; see `training_record.read_rows`."""
        return read_rows(self.metrics_path)

    def cut_metrics(self, step: int) -> None:
        """Cuts away the rows at or beyond `step`: a resumed run goes on from there."""
        cut_rows(self.metrics_path, step)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint; see `training_states.write_state`."""
        write_state(self.state_path, state)

    def load_state(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, or None; see `training_states.read_newest_state`."""
        return read_newest_state(self.state_path, say)

    def save_supernet(self, supernet: Supernet, record: SupernetRecord) -> None:
        """Writes the supernet, replacing that of an earlier step; see `supernet_files.write_supernet`."""
        write_supernet(self.path, supernet, record)

    def load_supernet(self) -> Supernet:
        """The supernet that `save_supernet` wrote.

        Raises:
            RunError: There is none, it is damaged, or another version wrote it.
        """
        return read_supernet(self.path)

    @property
    def supernet_record(self) -> SupernetRecord:
        """Where the run's supernet comes from; raises as `load_supernet` does."""
        return read_record(self.path)


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


def _read_owner(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip()


def _write_owner(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
