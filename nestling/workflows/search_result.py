"""What a search found, as plain values: printed, kept in the run, read by export and report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.formats.limits import shorten
from nas.latency import Latency
from nas.record import RecordFile, ScoreRow
from nas.search import Finalist, SearchResult
from nestling.reports.run_facts import LARGEST, SEARCHED, UNIFORM
from search_spaces.budget import Budget
from search_spaces.costs import count_bytes, count_macs, count_params
from search_spaces.errors import NestlingError
from search_spaces.files import write_file
from search_spaces.profile import SpaceProfile
from search_spaces.space import SearchSpace
from search_spaces.strict_json import MOST, load_json, read_json
from search_spaces.strict_yaml import parse_config, read_text
from search_spaces.subnet import Subnet

Result = dict[str, Any]
RESULT = "result.json"
RECORD = "candidates.jsonl"
AGAIN = "search again, which takes all scores from the record"
"""What to do about a damaged result."""
MAX_SUBNET_BYTES = 1 << 20


@dataclass(frozen=True)
class SavedLatency:
    """Milliseconds: the median, and its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class SavedFinalist:
    """As `describe_result` wrote it; what nobody reads back is left out."""

    id: str
    subnet: Subnet
    loss: float
    excess_loss: tuple[float, float]
    tied: bool
    origin: str
    latency_ms: tuple[SavedLatency, ...]

    def __post_init__(self) -> None:
        if self.id != self.subnet.id:
            raise NestlingError(f"id {self.id!r} is not that of its subnet, {self.subnet.id}")


@dataclass(frozen=True)
class SavedResult:
    """The same of a search."""

    budget: str
    objective: str
    command: str
    scored: int
    tied: int
    latency_seconds: tuple[float, ...]
    finalists: tuple[SavedFinalist, ...]
    uniform: SavedFinalist | None
    largest: SavedFinalist | None
    fingerprint: str = ""
    """Of its scores in the record; nothing in a result of before 2026-11-28."""

    def __post_init__(self) -> None:
        if not self.finalists:
            raise NestlingError("finalists is empty")


def describe_cost(space: SearchSpace, subnet: Subnet) -> Result:
    """A subnet with what it spends; MACs are for 1 s of audio."""
    return {
        "id": subnet.id,
        "params": count_params(space.backbone, subnet),
        "macs_1s": count_macs(space.backbone, subnet, 1.0),
        "size_bytes": count_bytes(space.backbone, subnet),
        "subnet": subnet.to_dict(),
    }


def describe_space(space: SearchSpace, budget: Budget, profile: SpaceProfile) -> dict[str, Any]:
    """A space and how much of it holds a budget, as plain values; something must hold it."""
    assert profile.smallest_fitting
    assert profile.largest_fitting
    return {
        "space": space.name,
        "budget": budget.text,
        "subnets": profile.total,
        "fitting": profile.fitting,
        "binds": profile.fitting < profile.total,
        "smallest": describe_cost(space, profile.smallest_fitting),
        "largest": describe_cost(space, profile.largest_fitting),
        "container": describe_cost(space, space.container),
        "front_end_floor": {"params": profile.floor_params, "macs_1s": profile.floor_macs},
    }


def describe_result(result: SearchResult, space: SearchSpace, objective: str, fingerprint: str, command: str) -> Result:
    """A search's outcome as plain JSON values.

    Args:
        result: Of `nas.search.search`.
        space: The one that was searched.
        objective: What its losses are.
        fingerprint: Of all that they depend on; names them in the record.
        command: What was typed to search.
    """
    return {
        "budget": result.budget.text,
        "objective": objective,
        "fingerprint": fingerprint,
        "command": command,
        "binds": result.binds,
        "utilization": [{"bound": str(bound), "share": share} for bound, share in result.utilization],
        "scored": result.num_scored,
        "evaluated": result.num_evaluated,
        "failed": result.num_failed,
        "tied": result.num_tied,
        "latency_seconds": [bound.seconds for bound in result.budget.latency],
        "finalists": [_describe(finalist, result, space) for finalist in result.finalists],
        "uniform": result.uniform and _describe(result.uniform, result, space),
        "largest": result.largest and _describe(result.largest, result, space),
    }


def _describe(finalist: Finalist, result: SearchResult, space: SearchSpace) -> Result:
    subnet = finalist.candidate.subnet
    if result.largest and subnet == result.largest.candidate.subnet:
        origin = LARGEST
    elif space.is_uniform(subnet):
        origin = UNIFORM
    else:
        origin = SEARCHED
    return {
        **describe_cost(space, subnet),
        "loss": finalist.candidate.score.mean,
        "excess_loss": list(finalist.excess),
        "tied": finalist.tied,
        "origin": origin,
        "latency_ms": [_describe_latency(latency) for latency in finalist.latencies],
    }


def _describe_latency(latency: Latency) -> Result:
    return {"median": latency.median_ms, "low": latency.low_ms, "high": latency.high_ms}


def save_result(folder: Path, result: Result) -> None:
    """Keeps a search's outcome; the newest is what `best` means."""
    write_file(folder / RESULT, json.dumps(result, indent=2) + "\n")


def load_result(folder: Path, space: SearchSpace) -> SavedResult:
    """The newest outcome of a search.

    Args:
        folder: Of the run's searches.
        space: The one that was searched.

    Raises:
        NestlingError: There is none; or the file is damaged, or not of this space: names it, and what is wrong.
    """
    path = folder / RESULT
    if not path.exists():
        raise NestlingError(f"{folder.parent} was not searched yet; run `nestling search subnet --budget …` first")
    result = read_json(path, SavedResult, AGAIN)
    try:
        _check(result, space)
    except NestlingError as error:
        raise NestlingError(f"{path}: {error}; {AGAIN}") from error
    return result


def _check(result: SavedResult, space: SearchSpace) -> None:
    try:
        budget = Budget.parse(result.budget, space)
    except NestlingError as error:
        raise NestlingError(f"`budget`: {error}") from error
    for i, found in enumerate(result.finalists):
        if problem := space.explain(found.subnet):
            raise NestlingError(f"`finalists.{i}.subnet`: {problem}")
        if not budget.holds(space.backbone, found.subnet):
            raise NestlingError(f"`finalists.{i}` does not hold `budget`, {budget.text}")
        if len(found.latency_ms) != len(budget.latency):
            wanted = f"one for each bound of `budget`, {budget.text or 'which has none'}"
            raise NestlingError(f"`finalists.{i}.latency_ms` must be {wanted}; got {len(found.latency_ms)}")
    for name, named in (("uniform", result.uniform), ("largest", result.largest)):
        if named and (problem := space.explain(named.subnet)):
            raise NestlingError(f"`{name}.subnet`: {problem}")


def load_subnet(path: Path, space: SearchSpace) -> Subnet:
    """The subnet in a JSON file, on its own or under `subnet`.

    Raises:
        NestlingError: The file holds none, or one that is not in the space.
    """
    text = read_text(path, MAX_SUBNET_BYTES)
    try:
        values = load_json(text, path.name)
        inner = values.get("subnet", values) if isinstance(values, dict) else values
        subnet = parse_config(Subnet, inner, "subnet", most=MOST)
        if (said := values.get("id", subnet.id)) != subnet.id:
            raise NestlingError(f"`id` is {shorten(said)}, and that of its subnet {subnet.id}")
        if problem := space.explain(subnet):
            raise NestlingError(problem)
    except NestlingError as error:
        raise NestlingError(f"{path} holds no subnet of {space.name}: {error}") from error
    return subnet


def find_subnet(folder: Path | None, name: str, space: SearchSpace) -> Subnet:
    """The subnet that `best`, `largest`, `smallest`, an id (or its beginning) or a JSON file names.

    Args:
        folder: Of the run's searches; None without a run, where `best` and ids name nothing.
        name: One of these words, the beginning of one id, or a path.
        space: The one that the subnet must be of.

    Raises:
        NestlingError: None or several have that id, or what is named is not in the space.
    """
    if name in ("largest", "smallest"):  # a file of that name is ./largest
        return space.container if name == "largest" else space.smallest()
    if name != "best" and Path(name).is_file():
        return load_subnet(Path(name), space)
    if folder is None:
        raise NestlingError(f"--subnet {name}: give largest, smallest or a subnet.json; best and ids are of a --run")
    if name == "best":
        return load_result(folder, space).finalists[0].subnet
    record = folder / RECORD
    rows = (row for row in RecordFile(record).read() if isinstance(row, ScoreRow))
    found = {row.id: row.subnet for row in rows if name and row.id.startswith(name) and row.subnet in space}
    if len(found) != 1:
        problem = "several subnets" if found else "no subnet"
        other = "a longer" if found else "another"
        raise NestlingError(
            f"{problem} in {record} with an id that starts with {name!r}; "
            f"give best, largest, smallest, {other} id or a file"
        )
    return next(iter(found.values()))
