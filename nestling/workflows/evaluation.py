"""Evaluates encoders side by side, and keeps every score: none is computed twice, and a kill loses one task at most."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.formats.limits import shorten
from checkpoints.representations import Representation, open_representation
from checkpoints.versions import made_with, show_versions
from nestling.reports.evaluation_page import EvaluationFacts, write_evaluation
from nestling.workflows.listening import SILENT, Listener, by_product
from search_spaces.errors import NestlingError
from search_spaces.files import check_writable, write_file
from search_spaces.locks import take_lock
from search_spaces.quoting import shell_command
from search_spaces.strict_json import MAX_BYTES, load_json
from search_spaces.strict_yaml import parse_config, read_text
from speech_tasks.comparison import Comparison, Entry, find_reference, find_unlike
from speech_tasks.feature_store import FeatureStore
from speech_tasks.layer_view import LayerProbe, LayerView, ProbeErrors, compare_layers
from speech_tasks.materials import open_materials
from speech_tasks.provenance import fingerprint_task
from speech_tasks.suite import (
    COMMANDS,
    SENTENCES,
    TASKS,
    Evaluation,
    TaskResult,
    TaskValues,
    build_tasks,
    evaluate,
    find_materials,
    find_tasks,
)
from speech_tasks.task import Task

EVALUATIONS = "evaluation.json"
PAGE = "evaluation.html"
FORMAT = 2
NOTES = (
    "The encoders are frozen. Each task reads a learnt weighted sum of all hidden states with a small head, fitted on "
    "train by three seeds at the learning rate that is best on search.",
    "Intervals are over speakers, whose utterances go wrong together, and over the seeds of heads: Student's t, each "
    "speaker left out in turn. They say nothing about other corpora, nor about another training of the encoder.",
)
DEV_NOTES = ("Scores of dev serve to compare recipes; what is reported at last is of test.",)

Row = dict[str, Any]
Report = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is, and how much there is, None where that is not known."""


@dataclass(frozen=True)
class _Layers:
    """A `LayerView` as it is stored, and what it was made with."""

    key: str
    probes: tuple[ProbeErrors, ...]
    likeness: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class _EncoderRow:
    """An encoder's scores on a split."""

    fingerprint: str
    split: str
    name: str
    source: str
    params: int | None
    macs_1s: int | None
    encode_seconds: float
    tasks: tuple[TaskValues, ...]
    code: str = ""
    layers: _Layers | None = None


@dataclass(frozen=True)
class _LedgerFile:
    """All of evaluation.json."""

    format: int
    encoders: tuple[_EncoderRow, ...]


class Ledger:
    """All scores in a folder: `evaluation.json`, a row for each encoder and split, with every task it was scored by.

    Several processes may write it: each row is read, added to and written again under a lock.

    Args:
        folder: Made with the first score.

    Raises:
        NestlingError: The file is there and cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / EVALUATIONS
        self.rows()

    def rows(self) -> list[Row]:
        """Every encoder's, as plain JSON values."""
        if not self.path.exists():
            return []
        text = read_text(self.path, MAX_BYTES)
        try:
            values = load_json(text, "it", finite=False)
            if isinstance(values, dict) and (found := values.get("format", FORMAT)) != FORMAT:
                raise NestlingError(f"it has format {shorten(found)}, this Nestling writes {FORMAT}")
            parse_config(_LedgerFile, values, "it", most=1)
        except NestlingError as error:
            said = " ".join(str(error).split()).removeprefix("it: ")
            raise NestlingError(f"{self.path} cannot be read: {said}; delete it or name another --out") from error
        return list(values["encoders"])

    def find(self, encoder: Representation, split: str) -> Row:
        """The row of an encoder, an empty one if it has none yet."""
        return _find(self.rows(), encoder, split)

    def update(self, encoder: Representation, split: str, change: Callable[[Row], None]) -> None:
        """Changes the row of an encoder, on the disk, at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder / ".lock"):
            rows = self.rows()
            row = _find(rows, encoder, split)
            change(row)
            kept = [r for r in rows if (r["fingerprint"], r["split"]) != (row["fingerprint"], split)]
            lines = ",\n".join(json.dumps(r) for r in [*kept, row])
            head = f'"format": {FORMAT}, "made_with": {json.dumps(made_with())}'
            write_file(self.path, f'{{{head}, "encoders": [\n{lines}\n]}}\n')


def load_evaluations(folder: Path, split: str = "test") -> list[Entry]:
    """Every encoder that was evaluated into a folder, with its newest result of each task; the newest encoder last.

    Of what was evaluated under one name, the last counts: what was there before is there no more.

    Raises:
        NestlingError: The folder holds no evaluation of that split, or its file cannot be read; or the scores do not
            compare, because code, libraries or audio changed between them.
    """
    scored = [row for row in Ledger(folder).rows() if row["split"] == split]
    last = {row["source"]: row for row in scored}
    rows = {row["source"]: row for row in scored if row is last[row["source"]]}  # where the last stands, not the first
    if not rows:
        raise NestlingError(f"{folder} holds no evaluation on {split}; run `nestling evaluate … --out {folder}` first")
    names = dict(zip(rows, _name_apart([(row["name"], source) for source, row in rows.items()]), strict=True))
    entries = [
        _entry(names[source], row, {result["task"]: result for result in row["tasks"]}.values())
        for source, row in rows.items()
    ]
    stale = {unlike.entry.source: ", ".join(unlike.tasks) for unlike in find_unlike(entries)}
    newest = {_kind(row): row.get("code") for row in rows.values()}
    for source, row in rows.items():
        if "code" not in row:
            stale[source] = "all, from before it was kept what computes an encoder"
        elif row["code"] != newest[_kind(row)]:
            stale[source] = "all, of other code or libraries of the encoder"
    if stale:
        told = "; ".join(f"{names[source]} ({what})" for source, what in stale.items())
        command = shell_command(["nestling", "evaluate", *stale, "--split", split, "--out", folder])
        raise NestlingError(
            f"scores in {folder} do not compare with the newest there, which are of other code, libraries or audio: "
            f"{told}; score them again: {command}"
        )
    return entries


def _kind(row: Row) -> str:
    """What computes an encoder: code changes for all of a kind at once."""
    return str(row.get("code", "")).partition(" ")[0]


def evaluate_sources(
    sources: Sequence[str],
    tasks: Sequence[str],
    folder: Path,
    *,
    split: str = "test",
    out_of_domain: bool = True,
    reference: str | None = None,
    librispeech: Path | None = None,
    speech_commands: Path | None = None,
    layers: bool = False,
    command: str = "",
    listener: Listener = SILENT,
) -> tuple[Comparison, Path | None]:
    """Scores encoders side by side, from their names to a page.

    Args:
        sources: As `open_representation` takes them, each once.
        tasks: Names of tasks, or `first` or `all`.
        folder: Of scores and page; what it knows is not scored again.
        split: What is scored: test, dev or both.
        out_of_domain: Beside test, other voices by another synthesiser.
        reference: The encoder that others are compared with; None: the first.
        librispeech: A LibriSpeech folder in place of the synthesised sentences.
        speech_commands: A Speech Commands folder in place of the keywords.
        layers: Whether to probe every hidden state too.
        command: That asked for it, for the page.
        listener: Told how far it is.

    Returns:
        The scores, and the page if it could be written.

    Raises:
        NestlingError: Something named is not there, or the folder cannot be written.
    """
    check_writable(folder, "--out", folder=True)
    chosen = find_tasks(tasks)
    encoders = [open_representation(source) for source in dict.fromkeys(sources)]
    names = name_apart(encoders)
    place = find_reference([(name, e.source) for name, e in zip(names, encoders, strict=True)], reference)
    ledger = Ledger(folder)
    materials = open_materials(
        dict.fromkeys([*find_materials(chosen), *([SENTENCES, COMMANDS] if layers else [])]),
        scored=split,
        out_of_domain=out_of_domain,
        librispeech=librispeech,
        speech_commands=speech_commands,
        on_progress=listener.show,
        say=listener.warn,
    )
    entries = evaluate_encoders(encoders, build_tasks(chosen, materials), split, ledger, listener.show, listener.note)
    probe = LayerProbe(materials[SENTENCES], materials[COMMANDS]) if layers else None
    views = view_layers(encoders, place, probe, split, ledger, listener.show) if probe else []
    comparison = Comparison(entries, names[place])
    page = None
    with by_product(listener):
        page = write_evaluation_page(comparison, dict(zip(names, views, strict=False)), split, command, folder)
    return comparison, page


def evaluate_encoders(
    encoders: Sequence[Representation],
    tasks: Sequence[Task],
    split: str,
    ledger: Ledger,
    on_progress: Report = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Entry]:
    """Scores each encoder by each task, unless the ledger has that score: the same encoder, task code and audio.

    Args:
        encoders: In the order of rows.
        tasks: From `suite.build_tasks`.
        split: What they score, for the ledger.
        ledger: Where every score goes as soon as it is known.
        on_progress: Called as it goes.
        say: Called with what a user should know of each encoder.
    """
    wanted = {fingerprint_task(task): task for task in tasks}
    entries = []
    for encoder, name in zip(encoders, name_apart(encoders), strict=True):
        known = {result["fingerprint"] for result in ledger.find(encoder, split).get("tasks", ())}
        missing = [task for fingerprint, task in wanted.items() if fingerprint not in known]
        if missing:
            _evaluate(encoder, name, missing, split, ledger, on_progress)
        ledger.update(encoder, split, partial(_renew, wanted))
        row = ledger.find(encoder, split)
        results = {result["fingerprint"]: result for result in row["tasks"]}
        entries.append(_entry(name, row, [results[fingerprint] for fingerprint in wanted]))
        if again := [task.name for fingerprint, task in wanted.items() if fingerprint in known]:
            say(f"{name}: {', '.join(again)} known from {ledger.path}")
    return entries


def _renew(wanted: Collection[str], row: Row) -> None:
    """Moves what was asked for to the end, which is newest, whether it was computed now or known."""
    row["tasks"] = sorted(row["tasks"], key=lambda result: result["fingerprint"] in wanted)


def _evaluate(
    encoder: Representation, name: str, tasks: Sequence[Task], split: str, ledger: Ledger, on_progress: Report
) -> None:
    """Scores an encoder by some tasks; each score is kept as soon as it is known."""
    versions = made_with()

    def keep(result: TaskResult) -> None:
        def add(row: Row) -> None:
            row["tasks"] = [*row["tasks"], {**result.to_dict(), "made_with": versions}]

        ledger.update(encoder, split, add)

    evaluation = evaluate(
        name,
        encoder.encode,
        tasks,
        on_encode=lambda done, total: on_progress(f"{name}: encode", done, total),
        on_task=lambda task: on_progress(f"{name}: {task}", 0, None),
        on_result=keep,
    )
    ledger.update(encoder, split, lambda row: row.update(encode_seconds=round(evaluation.encode_seconds, 2)))


def view_layers(
    encoders: Sequence[Representation],
    reference: int,
    probe: LayerProbe,
    split: str,
    ledger: Ledger,
    on_progress: Report = lambda *_: None,
) -> list[LayerView]:
    """Probes every hidden state of each encoder and compares it with those of the reference; kept in the ledger.

    Args:
        encoders: In the order of rows.
        reference: Which of them the others are compared with.
        probe: What every hidden state is asked.
        split: What it scores, for the ledger.
        ledger: Where views are kept.
        on_progress: Called as it goes.
    """
    key = f"{fingerprint_task(probe)} {encoders[reference].fingerprint}"
    names = name_apart(encoders)
    kept = [ledger.find(encoder, split).get("layers", {}) for encoder in encoders]
    missing = [i for i, values in enumerate(kept) if values.get("key") != key]
    theirs: Tensor | None = None
    for i in dict.fromkeys([reference, *missing]) if missing else ():
        report = partial(on_progress, f"{names[i]}: layers")
        with FeatureStore(encoders[i].encode, probe.clips, on_progress=report) as store:
            view = LayerView(tuple(probe.probe(store)))
            ours = probe.sample(store)
        if theirs is None:
            theirs = ours
        else:
            view = replace(view, likeness=compare_layers(ours, theirs))
        kept[i] = {"key": key, **view.to_dict()}
        ledger.update(encoders[i], split, lambda row, values=kept[i]: row.update(layers=values))  # type: ignore[misc]
    return [LayerView.from_dict(values) for values in kept]


def write_evaluation_page(
    comparison: Comparison, views: Mapping[str, LayerView], split: str, command: str, folder: Path
) -> Path:
    """Writes `evaluation.html` beside the scores."""
    results = [result for entry in comparison.entries for result in entry.evaluation.results]
    made = EvaluationFacts(
        split="test and dev" if split == "both" else split,
        audio=tuple(dict.fromkeys(name for result in results for name in result.audio)),
        command=command,
        versions=show_versions(made_with()),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        notes=(comparison.caveat, *comparison.remarks, *NOTES, *(DEV_NOTES if split == "dev" else ())),
    )
    path = folder / PAGE
    write_evaluation(comparison, views, made, path)
    return path


def name_apart(encoders: Sequence[Representation]) -> list[str]:
    """What tables call encoders: their names, or what they were opened by where names coincide."""
    return _name_apart([(encoder.name, encoder.source) for encoder in encoders])


def _name_apart(encoders: Sequence[tuple[str, str]]) -> list[str]:
    names = [name for name, _ in encoders]
    return [source if names.count(name) > 1 else name for name, source in encoders]


def _find(rows: Sequence[Row], encoder: Representation, split: str) -> Row:
    """The row of an encoder, brought up to date in what it is called."""
    empty: Row = {"fingerprint": encoder.fingerprint, "split": split, "encode_seconds": 0.0, "tasks": []}
    same = (row for row in rows if (row["fingerprint"], row["split"]) == (encoder.fingerprint, split))
    names = {
        "name": encoder.name,
        "source": encoder.source,
        "revision": encoder.revision,
        "code": encoder.code,
        "params": encoder.params,
        "macs_1s": encoder.macs_1s,
    }
    return {**next(same, empty), **names}


def _entry(name: str, row: Row, results: Iterable[Row]) -> Entry:
    order = list(TASKS)
    ordered = sorted(results, key=lambda r: order.index(r["task"]) if r["task"] in order else len(order))
    evaluation = Evaluation.from_dict({"name": name, "encode_seconds": row["encode_seconds"], "tasks": ordered})
    return Entry(name, row["source"], row["fingerprint"], row["params"], row["macs_1s"], evaluation)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock."""
    with path.open("a") as file:
        take_lock(file, wait=True)
        yield
