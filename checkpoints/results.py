"""What a search found, as plain values: printed, kept in the run, read by export and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nas.latency import Latency
from nas.record import RecordFile, ScoreRow
from nas.report import LARGEST, SEARCHED, UNIFORM
from nas.search import Finalist, SearchResult
from search_spaces.costs import count_bytes, count_macs, count_params
from search_spaces.errors import NestlingError
from search_spaces.files import write_file
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet

Result = dict[str, Any]
RESULT = "result.json"
RECORD = "candidates.jsonl"


def describe_cost(space: SearchSpace, subnet: Subnet) -> Result:
    """A subnet with what it spends; MACs are for 1 s of audio."""
    return {
        "id": subnet.id,
        "params": count_params(space.backbone, subnet),
        "macs_1s": count_macs(space.backbone, subnet, 1.0),
        "size_bytes": count_bytes(space.backbone, subnet),
        "subnet": subnet.to_dict(),
    }


def describe_result(result: SearchResult, space: SearchSpace, objective: str, command: str) -> Result:
    """A search's outcome as plain JSON values.

    Args:
        result: It.
        space: That was searched.
        objective: What its losses are.
        command: That ran it.
    """
    return {
        "budget": result.budget.text,
        "objective": objective,
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
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / RESULT, json.dumps(result, indent=2) + "\n")


def load_result(folder: Path) -> Result:
    """The newest outcome of a search.

    Raises:
        NestlingError: There is none.
    """
    path = folder / RESULT
    if not path.is_file():
        raise NestlingError(f"{folder.parent} was not searched yet; run `nestling search subnet --budget …` first")
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result


def load_subnet(path: Path) -> Subnet:
    """The subnet in a JSON file, on its own or under `subnet`.

    Raises:
        NestlingError: The file holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Subnet.from_dict(values.get("subnet", values))
    except (ValueError, AttributeError, RecursionError) as error:
        raise NestlingError(f"{path} holds no subnet: {error}") from error


def find_subnet(folder: Path, name: str) -> Subnet:
    """The subnet that `best`, an id (or its beginning) or a JSON file names.

    Raises:
        NestlingError: None or several have that id.
    """
    if Path(name).is_file():
        return load_subnet(Path(name))
    if name == "best":
        return Subnet.from_dict(load_result(folder)["finalists"][0]["subnet"])
    record = folder / RECORD
    rows = (row for row in RecordFile(record).read() if isinstance(row, ScoreRow))
    found = {row.id: row.subnet for row in rows if row.id.startswith(name)}
    if len(found) != 1:
        problem = "several subnets" if found else "no subnet"
        raise NestlingError(f"{problem} in {record} with an id that starts with {name!r}; give `best` or a longer id")
    return next(iter(found.values()))
