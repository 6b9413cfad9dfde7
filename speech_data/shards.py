"""Writes a corpus for `Corpus`: shards in a scratch folder, which takes its place in the cache once all are there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.errors import NestlingError
from search_spaces.files import hash_file, replacing_folder, write_file
from speech_data.corpus import FORMAT, MANIFEST, cache_folder
from speech_data.espeak import PHONE_CLASSES
from speech_data.plans import PlannedUtterance
from speech_data.recordings import Recording

UTTERANCES_PER_SHARD = 200

Plan = Mapping[str, Sequence[PlannedUtterance]]
"""The utterances of each split."""
Progress = Callable[[int, int], None]
"""Called with the number of utterances done and the number of all."""


def folder_of_plan(name: str, plan: Plan) -> Path:
    """Where the cache keeps a corpus; another text, voice or format means another folder."""
    values = {split: [asdict(planned) for planned in utterances] for split, utterances in plan.items()}
    key = hashlib.sha256(json.dumps([FORMAT, values], sort_keys=True).encode()).hexdigest()
    return cache_folder() / "corpora" / f"{name}-{key[:10]}"


def shards_of_plan(plan: Plan) -> dict[str, dict[str, Sequence[PlannedUtterance]]]:
    """The plan of every shard, by split and name."""
    return {
        split: {
            f"{split}-{first // UTTERANCES_PER_SHARD:03d}": utterances[first : first + UTTERANCES_PER_SHARD]
            for first in range(0, len(utterances), UTTERANCES_PER_SHARD)
        }
        for split, utterances in plan.items()
    }


@contextmanager
def new_corpus(
    folder: Path, name: str, shards: Mapping[str, Sequence[str]], recipe: Mapping[str, Any]
) -> Iterator[Path]:
    """A scratch folder to write shards into; left without an error, it becomes the corpus.

    Args:
        folder: Where the corpus will be; must not exist.
        name: What reports call it.
        shards: The names of each split's.
        recipe: How it was made, for the reader of its manifest.

    Raises:
        NestlingError: The folder exists.
    """
    if folder.exists():
        raise NestlingError(f"{folder} exists; delete it to synthesise the corpus again")
    with replacing_folder(folder, seal=MANIFEST) as scratch:  # if another process was first, its corpus is the same
        scratch.mkdir()
        yield scratch
        files = {path.name: hash_file(path) for path in sorted(scratch.iterdir())}
        lines = "".join(f"{name} {content}\n" for name, content in files.items())
        manifest = {
            "format": FORMAT,
            "name": name,
            "hash": hashlib.sha256(lines.encode()).hexdigest()[:16],
            "files": files,
            "phones": sorted(set(PHONE_CLASSES.values())),
            "recipe": dict(recipe),
            "shards": {split: list(names) for split, names in shards.items()},
        }
        write_file(scratch / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def write_shard(shard: Path, recordings: Sequence[Recording]) -> None:
    """Writes the samples and the labels; the shard's name has no suffix."""
    samples = np.concatenate([samples for samples, _ in recordings])
    write_file(shard.with_name(shard.name + ".npy"), lambda file: np.save(file, samples))
    lines = "".join(json.dumps(labels.to_dict(), separators=(",", ":")) + "\n" for _, labels in recordings)
    write_file(shard.with_name(shard.name + ".jsonl"), lines)
