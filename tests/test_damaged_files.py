"""Whatever happened to a file since it was written: it is read, or refused in a few lines that name it."""

import hashlib
import io
import json
import random
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import checkpoints.export
import nestling.workflows.evaluation
import nestling.workflows.export
from checkpoints.representations import open_representation
from checkpoints.run_folder import RunFolder
from checkpoints.runtimes.peak_memory import measure_memory
from nestling.workflows.evaluation import Ledger, load_evaluations
from nestling.workflows.run_report import collect_report
from search_spaces.errors import FailedError, NestlingError
from speech_data.corpus import Corpus, Utterance
from speech_data.espeak import phonemize
from speech_data.shards import new_corpus, write_shard
from speech_tasks.curve import Point, save_curve
from tests.evaluation_cases import make_entry, make_score
from tests.shell import Said, Shell
from tests.training_cases import write_case

CONTENTS = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "number": b"5",
    "text": b'"text"',
    "not UTF-8": b"\xff\xfe\x00{",
    "too deep": b"[" * 100_000,
}
"""In place of a whole file."""
VALUES = (None, [], {}, 5, "text", True, -1, 10**30, 0.5, float("nan"), float("inf"), [None], {"a": 1})
"""In place of one value."""
MAX_LINES = 6
SAMPLE = 6
"""Damages of either kind that each reader meets by default."""


@dataclass(frozen=True)
class Damage:
    """What is done to one file."""

    path: Path
    """In the folder that is damaged."""
    what: str
    content: Any
    """Bytes, or values where some of them were changed; None where the file is missing or a folder."""
    keys: tuple[str, ...] = ()
    """Leading to the value that was changed."""
    same_type: bool = False
    """It was replaced by another of its type: the fault may show elsewhere."""

    def __str__(self):
        return f"{self.path}: {self.what}"


def damages(folder, path, load, depth):
    """Everything that is done to a file: whole, and value by value."""
    content = (folder / path).read_bytes()
    yield Damage(path, "missing", None)
    yield Damage(path, "a folder", None)
    yield Damage(path, "cut short", content[: len(content) // 2])
    for what, damaged in CONTENTS.items():
        yield Damage(path, what, damaged)
    for keys, what, values, same_type in changes(load(content), depth) if load else ():
        yield Damage(path, f"{'.'.join(map(str, keys))} {what}", values, tuple(map(str, keys)), same_type)


def changes(values, depth, keys=()):
    """(keys, what, all, whether of the same type) for every value taken away or replaced, down to some depth."""
    if not depth:
        return
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(inner):
        here = (*keys, key)
        if isinstance(values, dict):
            yield here, "removed", {k: v for k, v in values.items() if k != key}, False
        for other in VALUES:
            if type(other) is not type(value) or other != value:
                yield here, f"= {str(other)[:12]}", with_value(values, key, other), type(other) is type(value)
        for deeper, what, changed, same_type in changes(value, depth - 1, here):
            yield deeper, what, with_value(values, key, changed), same_type


def with_value(values, key, value):
    changed = values.copy()
    changed[key] = value
    return changed


@contextmanager
def damaged(folder, damage, change):
    """A copy with a file damaged. A checkpoint gets the checksum that it would have been written with."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        path = Path(copy) / damage.path
        content = damage.content if not damage.keys else change[1](damage.content)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        elif damage.what == "a folder":
            path.mkdir()
        if damage.keys and path.parent.name == "encoder":
            (path.parent / "SHA256SUMS").unlink()  # it would notice every change
        if path.suffix == ".pt" and content is not None:
            path.with_suffix(".sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
        yield Path(copy)


def load_lines(content):
    return [json.loads(line) for line in content.splitlines()]


def dump_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def dump_yaml(values):
    return yaml.safe_dump(values, sort_keys=False).encode()


def load_state(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def dump_state(state):
    torch.save(state, file := io.BytesIO())
    return file.getvalue()


def dump_json(values):
    return json.dumps(values).encode()


def dump_record(rows):
    """Without checksums, which would notice every change."""
    return dump_lines({k: v for k, v in row.items() if k != "check"} if isinstance(row, dict) else row for row in rows)


YAML, JSON, LINES = (yaml.safe_load, dump_yaml), (json.loads, dump_json), (load_lines, dump_lines)

RUN = "train supernet --run runs/a --resume"
SEARCH = "search subnet --run runs/a --trials 1"
REPORT = "report --run runs/a"
EXPORT = "export subnet --run runs/a --out elsewhere"


def read_scores(folder):
    load_evaluations(folder / "scores")


def read_corpus(folder):
    corpus = Corpus(folder / "corpus")
    for utterance in corpus.utterances("train"):
        corpus.read(utterance)


FILES = {
    "runs/a/config.yaml": (YAML, [REPORT, SEARCH, EXPORT, RUN]),
    "runs/a/metrics.jsonl": (LINES, [REPORT, RUN]),
    "runs/a/supernet.json": (JSON, [EXPORT, SEARCH]),
    "runs/a/state/step-00000010.pt": ((load_state, dump_state), [RUN, SEARCH]),
    "runs/a/search/candidates.jsonl": ((load_lines, dump_record), [REPORT, SEARCH, EXPORT + " --subnet ID"]),
    "runs/a/search/result.json": (JSON, [REPORT, EXPORT]),
    "runs/a/curve.json": (JSON, [REPORT, EXPORT]),
    "subnet.json": (JSON, [EXPORT + " --subnet subnet.json", "cost --space handful.yaml --subnet subnet.json"]),
    "scores/evaluation.json": (JSON, ["evaluate encoder --out scores", read_scores]),
    "encoder/config.json": (JSON, ["evaluate encoder"]),
    "encoder/preprocessor_config.json": (JSON, ["evaluate encoder"]),
    "encoder/SHA256SUMS": (None, ["evaluate encoder"]),
    "corpus/corpus.json": (JSON, [read_corpus]),
    "corpus/train-000.jsonl": (LINES, [read_corpus]),
    "corpus/train-000.npy": (None, [read_corpus]),
}
"""File -> how to change it, and what reads it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All that a person has after a while: a run, searched and exported, and scores."""
    folder = tmp_path_factory.mktemp("home")
    options = write_case(folder)
    shell = Shell(folder)
    shell.done("train supernet --run runs/a", *options)
    found = shell.done("search subnet --run runs/a --budget 8k --trials 6 --format json").json
    (folder / "subnet.json").write_text(json.dumps(found["finalists"][1]))
    shell.done("export subnet --run runs/a --out encoder")
    save_curve(
        folder / "runs/a",
        [
            Point("stacked MFCC", "reference", None, 0.5, 0.01, 0),
            Point(f"chosen {found['finalists'][0]['id']}", "subnet", 7000, 0.25, 0.02, 1, 0.1),
            Point("teacher", "teacher", 30_000, 0.2, 0.01, 2),
        ],
    )
    entry = make_entry("mine", [make_score("PER", 12.0)])
    tasks = [result.to_dict() for result in entry.evaluation.results]
    encoder = open_representation(str(folder / "encoder"))
    Ledger(folder / "scores").update(encoder, "test", lambda row: row.update(tasks=tasks))
    with new_corpus(folder / "corpus", "made up", {"train": ["train-000"]}, {}) as scratch:
        labels = Utterance("a", "me", 400, "hi", (("sil", 0.0, 0.01), ("h", 0.01, 0.025)), slots=(("who", "me"),))
        write_shard(scratch / "train-000", [(np.zeros(400, np.int16), labels)])
    return folder


@pytest.fixture(autouse=True)
def _stop_when_all_is_read(monkeypatch):
    """What takes long begins where reading ends."""

    def stop(*_, **__):
        raise NestlingError("all was read")

    monkeypatch.setattr(nestling.workflows.export, "export_subnet", stop)
    monkeypatch.setattr(nestling.workflows.evaluation, "open_materials", stop)


def read(folder, reader):
    """What a command, or a function, says; ids are filled in."""
    if callable(reader):
        try:
            reader(folder)
        except (NestlingError, OSError) as error:
            return Said(2, "", f"error: {error}")
        except Exception as error:  # what `nestling` would call a fault of its own
            return Said(1, "", f"error: fault of Nestling: {error!r}")
        return Said(0, "", "")
    chosen = json.loads((folder / "subnet.json").read_text())["id"] if "ID" in reader else ""
    return Shell(folder)(reader.replace("ID", chosen))


def complaint(said, damage):
    """What is wrong with what a command said of a damaged file; None if nothing is."""
    error = said.err.partition("error: ")[2]
    lines = error.strip().splitlines()
    if said.code == 0 or error.startswith("all was read"):
        return None
    rows = damage.path.suffix == ".jsonl"  # which go by their line
    keys = (
        ["line"]
        if rows and len(damage.keys) == 1
        else [*damage.keys, *(["SHA-256"] if "sha256" in damage.keys else [])]
    )
    named = [damage.path.name, *(str(folder) for folder in damage.path.parents if folder.name)]
    faults = {
        "a fault of ours": "fault of Nestling" in error or "Traceback" in said.err or not error,
        "too many lines": len(lines) > MAX_LINES,
        "names neither file nor key": not any(name in error for name in [*named, *damage.keys]),
        "names no key": damage.keys
        and not damage.same_type
        and "is not what was synthesised" not in error  # its hash tells that, before it is read
        and not any(key in error for key in keys),
    }
    return next((f"{fault}: {error or said.err}" for fault, there in faults.items() if there), None)


def test_what_subnets_cost_is_counted_whatever_a_result_says(folder):
    run, path = RunFolder(folder / "runs/a"), folder / "runs/a/search/result.json"
    before, text = collect_report(run).finalists, path.read_text()
    changed = json.loads(text)
    for finalist in changed["finalists"]:
        finalist |= {"params": finalist["params"] - 1, "macs_1s": 1}
    try:
        path.write_text(json.dumps(changed))
        assert collect_report(run).finalists == before
    finally:
        path.write_text(text)


@pytest.mark.parametrize("reader", [EXPORT, "evaluate encoder", "evaluate encoder --out scores"])
def test_what_takes_long_is_not_done_here(folder, reader):
    assert "all was read" in read(folder, reader).err


@pytest.mark.parametrize("path", FILES)
def test_a_damaged_file_is_read_or_named(folder, path):
    check(folder, path, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES)
def test_every_damage_is_read_or_named(folder, path):
    check(folder, path, quick=False)


def check(folder, path, quick):
    change, readers = FILES[path]
    load = change and change[0]
    every = list(damages(folder, Path(path), load, depth=1 if path.endswith(".pt") else 6))
    whole, inside = ([d for d in every if bool(d.keys) == deep] for deep in (False, True))
    rng = random.Random(path)
    for reader in readers:
        some = [*rng.sample(whole, min(SAMPLE, len(whole))), *rng.sample(inside, min(SAMPLE, len(inside)))]
        tried = some if quick else every
        problems = []
        for damage in tried:
            with damaged(folder, damage, change) as copy:
                if found := complaint(read(copy, reader), damage):
                    problems.append(f"{reader}: {damage.what}: {found}")
        assert problems == []


@pytest.mark.parametrize(
    "said", ["", "nonsense", "null", "[]", "{}", '{"import_bytes": "7", "peak_bytes": 9}', "[[1]]"]
)
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            lambda folder: measure_memory(folder, "torch", 0.5, 1),
            "encoder in torch, alone in a process: what it said:",
        ),
        (lambda _: phonemize(["ship"]), "espeak-ng cannot read the texts: "),
    ],
    ids=["measure_memory", "phonemize"],
)
def test_a_process_that_says_nonsense_has_failed(folder, monkeypatch, start, message, said):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=said, stderr=""))
    monkeypatch.setattr("speech_data.espeak.find_spec", lambda _: True)
    try:
        found = start(folder / "encoder")
    except Exception as error:
        found = error
    assert isinstance(found, FailedError)
    assert message in str(found)


@pytest.mark.parametrize("what", CONTENTS)
def test_an_earlier_export_whose_subnet_is_damaged_is_taken_for_one_with_an_edited_card(folder, what, tmp_path):
    shutil.copytree(folder / "encoder", tmp_path / "encoder")
    (tmp_path / "encoder/subnet.json").write_bytes(CONTENTS[what])
    try:
        said = checkpoints.export._recorded_card(tmp_path / "encoder")
    except Exception as error:
        said = error
    assert said is None
