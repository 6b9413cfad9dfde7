"""What a search found: kept, read back, and refused where it was damaged or is of another space."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nas.record import Record, RecordFile
from nestling.workflows.search_result import (
    AGAIN,
    RECORD,
    RESULT,
    describe_space,
    find_subnet,
    load_result,
    load_subnet,
    save_result,
)
from search_spaces.budget import Budget
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from tests.nas_cases import SPACE, candidate, params

BEST, SECOND, THIRD = sorted((SPACE.sample(Random(seed)) for seed in range(3)), key=params)
STRANGER = SearchSpace.load("tiny").container


def describe(subnet: Subnet, **changes: Any) -> dict[str, Any]:
    return {
        "id": subnet.id,
        "subnet": subnet.to_dict(),
        "loss": 0.5,
        "excess_loss": [-0.1, 0.1],
        "tied": True,
        "origin": "search",
        "latency_ms": [],
        "params": params(subnet),
        **changes,
    }


def result_of(**changes: Any) -> dict[str, Any]:
    return {
        "budget": "",
        "objective": "loss",
        "command": "nestling search subnet",
        "scored": 3,
        "tied": 2,
        "latency_seconds": [],
        "finalists": [describe(BEST), describe(SECOND)],
        "uniform": None,
        "largest": describe(THIRD),
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "search").mkdir()
    return tmp_path / "search"


TIMED = {"median": 2.0, "low": 1.0, "high": 3.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"largest": None, "uniform": describe(THIRD)},
        {"budget": f"params<={params(SECOND)}"},
        {"budget": "latency<=9ms@2s", "finalists": [describe(BEST, latency_ms=[TIMED])]},
    ],
)
def test_a_result_is_read_back(folder: Path, changes: dict[str, Any]) -> None:
    save_result(folder, result_of(**changes))
    result = load_result(folder, SPACE)
    assert (result.finalists[0].subnet, result.scored, result.tied) == (BEST, 3, 2)
    assert [len(found.latency_ms) for found in result.finalists] in ([0, 0], [1])


def test_a_run_that_was_not_searched(folder: Path) -> None:
    with pytest.raises(NestlingError) as caught:
        load_result(folder, SPACE)
    assert str(caught.value) == (f"{folder.parent} was not searched yet; run `nestling search subnet --budget …` first")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"finalists": [describe(BEST, id="0")]}, f"`finalists.0`: id '0' is not that of its subnet, {BEST.id}"),
        ({"largest": describe(BEST, id="0")}, f"`largest`: id '0' is not that of its subnet, {BEST.id}"),
        ({"finalists": []}, "finalists is empty"),
        ({"finalists": [describe(BEST), describe(STRANGER)]}, f"`finalists.1.subnet`: {SPACE.explain(STRANGER)}"),
        ({"uniform": describe(STRANGER)}, f"`uniform.subnet`: {SPACE.explain(STRANGER)}"),
        ({"largest": describe(STRANGER)}, f"`largest.subnet`: {SPACE.explain(STRANGER)}"),
        ({"budget": f"params<={params(BEST)}"}, f"`finalists.1` does not hold `budget`, params<={params(BEST):_}"),
        (
            {"finalists": [describe(BEST, latency_ms=[TIMED])]},
            "`finalists.0.latency_ms` must be one for each bound of `budget`, which has none; got 1",
        ),
        (
            {"budget": "latency<=9ms@2s"},
            "`finalists.0.latency_ms` must be one for each bound of `budget`, latency<=9ms@2s; got 0",
        ),
    ],
)
def test_a_result_that_is_not_what_a_search_wrote(folder: Path, changes: dict[str, Any], problem: str) -> None:
    save_result(folder, result_of(**changes))
    with pytest.raises(NestlingError) as caught:
        load_result(folder, SPACE)
    assert str(caught.value) == f"{folder / RESULT}: {problem}; {AGAIN}"


def test_a_budget_that_is_none_is_blamed_on_the_result(folder: Path) -> None:
    save_result(folder, result_of(budget="small"))
    with pytest.raises(NestlingError) as caught:
        load_result(folder, SPACE)
    assert str(caught.value).startswith(f"{folder / RESULT}: `budget`: ")
    assert str(caught.value).endswith(f"; {AGAIN}")


# Subnets by a name


@pytest.mark.parametrize(
    "values",
    [
        BEST.to_dict(),
        {"subnet": BEST.to_dict()},
        {"id": BEST.id, "subnet": BEST.to_dict(), "loss": 0.5},
        {"id": BEST.id, **BEST.to_dict()},
    ],
)
def test_a_subnet_stands_in_a_file(tmp_path: Path, values: Any) -> None:
    (tmp_path / "x.json").write_text(json.dumps(values))
    assert load_subnet(tmp_path / "x.json", SPACE) == BEST
    assert find_subnet(tmp_path, str(tmp_path / "x.json"), SPACE) == BEST


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "subnet: should be an object, got []"),
        ("{", "x.json: not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (
            json.dumps({"id": "0" * 90, "subnet": BEST.to_dict()}),
            f'`id` is "{"0" * 76}..., and that of its subnet {BEST.id}',
        ),
        (json.dumps(STRANGER.to_dict()), SPACE.explain(STRANGER)),
    ],
)
def test_a_file_that_holds_no_subnet(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(NestlingError) as caught:
        load_subnet(path, SPACE)
    assert str(caught.value) == f"{path} holds no subnet of test: {problem}"


def test_four_faults_of_a_subnet_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**BEST.to_dict(), "layers": [{}, {}, {}]}))
    with pytest.raises(NestlingError) as caught:
        load_subnet(path, SPACE)
    first, *faults, last = str(caught.value).splitlines()
    assert first == f"{path} holds no subnet of test: subnet:"
    assert (len(faults), last) == (4, "  and 2 more")


def test_a_subnet_has_at_most_a_mebibyte(tmp_path: Path) -> None:
    path, text = tmp_path / "x.json", json.dumps(BEST.to_dict())
    path.write_text(text.ljust(1024 * 1024))
    assert load_subnet(path, SPACE) == BEST
    path.write_text(text.ljust(1024 * 1024 + 1))
    with pytest.raises(NestlingError) as caught:
        load_subnet(path, SPACE)
    assert str(caught.value) == f"{path}: 1,048,577 bytes; a file may have at most 1,048,576"


def test_best_is_the_first_finalist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_result(folder, result_of(finalists=[describe(SECOND), describe(BEST)]))
    monkeypatch.chdir(folder)
    (folder / "best").write_text(json.dumps(THIRD.to_dict()))  # a file of that name is ./best
    assert find_subnet(folder, "best", SPACE) == SECOND
    assert find_subnet(folder, "./best", SPACE) == THIRD


def test_the_ends_of_a_space_are_named_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, subnet in (("largest", SPACE.container), ("smallest", SPACE.smallest())):
        (tmp_path / name).write_text(json.dumps(BEST.to_dict()))
        assert find_subnet(None, name, SPACE) == subnet
    for name in ("best", BEST.id):
        with pytest.raises(NestlingError) as caught:
            find_subnet(None, name, SPACE)
        assert str(caught.value) == (
            f"--subnet {name}: give largest, smallest or a subnet.json; best and ids are of a --run"
        )


@pytest.mark.parametrize(("text", "binds"), [("", False), (f"params<={params(SECOND)}", True)])
def test_a_space_is_described_with_what_holds_the_budget(text: str, binds: bool) -> None:
    budget = Budget.parse(text, SPACE)
    described = describe_space(SPACE, budget, SPACE.profile(budget))
    assert (described["space"], described["subnets"], described["binds"]) == ("test", SPACE.count(), binds)
    assert described["fitting"] == SPACE.count(budget)
    ends = (SPACE.smallest(budget), SPACE.largest(budget), SPACE.container)
    assert [described[end]["id"] for end in ("smallest", "largest", "container")] == [subnet.id for subnet in ends]


def test_an_id_or_its_beginning_names_what_was_scored(folder: Path) -> None:
    record = Record(folder / RECORD, "one", SPACE.backbone)
    subnets = [BEST, SECOND, THIRD]
    assert len({subnet.id[0] for subnet in subnets}) == 3
    for subnet in subnets:
        record.add(candidate(subnet, 0.5))
        Record(folder / RECORD, "two", SPACE.backbone).add(candidate(subnet, 0.7))  # scored again by another measure
    RecordFile(folder / RECORD).append({"fingerprint": "one", "search": "x"})
    record.add(candidate(STRANGER, 0.5))  # the run's space has changed since
    for subnet in subnets:
        assert find_subnet(folder, subnet.id, SPACE) == subnet
        assert find_subnet(folder, subnet.id[0], SPACE) == subnet
    for name, problem, other in (
        ("", "no subnet", "another"),
        ("x", "no subnet", "another"),
        (STRANGER.id, "no subnet", "another"),
    ):
        with pytest.raises(NestlingError) as caught:
            find_subnet(folder, name, SPACE)
        assert str(caught.value) == (
            f"{problem} in {folder / RECORD} with an id that starts with {name!r}; "
            f"give best, largest, smallest, {other} id or a file"
        )
