"""What a run folder tells its report and its model cards, at whatever stage the run is."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from nas.record import Record, RecordFile
from nestling.reports.run_facts import LARGEST, SEARCHED, UNIFORM, Measure, Series, Usage
from nestling.workflows.run_report import SYNTHETIC, _without_folders, collect_record, collect_report, summarize_stages
from nestling.workflows.search_result import RECORD, save_result
from search_spaces.budget import Budget
from search_spaces.costs import breakdown, count_macs, count_params
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_yaml
from search_spaces.subnet import Subnet
from speech_tasks.curve import Point, save_curve
from supernet.model import Supernet
from tests.nas_cases import SPACE, candidate
from tests.training_cases import RECIPE

BEST, SECOND, THIRD, FOURTH = (SPACE.sample(Random(seed)) for seed in (0, 1, 2, 3))


def costs(subnet: Subnet) -> tuple[int, int]:
    return count_params(SPACE.backbone, subnet), count_macs(SPACE.backbone, subnet, 1.0)


BUDGET = f"params<={max(costs(BEST), costs(SECOND))[0]}"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """One that was only begun."""
    config = {
        "command": "train supernet --audio tones",
        "teacher": None,
        "audio": "tones",
        "device": "cpu",
        "precision": "fp32",
        "space": SPACE.to_dict(),
        "recipe": parse_yaml(RECIPE),
        "data": "abc",
        "hours": 1.5,
    }
    return RunFolder.create(tmp_path / "run", config, seed=3)


def found(subnet: Subnet, loss: float, **changes: Any) -> dict[str, Any]:
    return {
        "id": subnet.id,
        "subnet": subnet.to_dict(),
        "loss": loss,
        "excess_loss": [loss - 0.6, loss - 0.4],
        "tied": True,
        "origin": SEARCHED,
        "latency_ms": [],
        **changes,
    }


def save(run: RunFolder, **changes: Any) -> None:
    """What a search of the run found."""
    result = {
        "budget": "",
        "objective": "made-up loss",
        "command": "nestling search subnet --budget 1M",
        "scored": 4,
        "tied": 2,
        "latency_seconds": [],
        "finalists": [found(BEST, 0.5), found(SECOND, 0.55, tied=False)],
        "uniform": found(THIRD, 0.625, origin=UNIFORM),
        "largest": found(BEST, 0.5, origin=LARGEST),
    }
    save_result(run.search_path, result | changes)


def score(run: RunFolder, subnet: Subnet, *losses: float, fingerprint: str = "one") -> None:
    Record(run.search_path / RECORD, fingerprint, SPACE.backbone).add(candidate(subnet, *losses))


TIMED = [{"median": 2.0, "low": 1.0, "high": 3.0}, {"median": 5.0, "low": 4.0, "high": 6.0}]


# The report


def test_a_run_that_was_only_begun_is_told_as_far_as_it_is_known(run: RunFolder) -> None:
    score(run, BEST, 0.5)  # a search that has no result yet
    report = collect_report(run)
    assert report.title == "Nestling: test from scratch"
    assert (report.chosen, report.teacher) == (None, None)
    assert report.budget == report.candidates == report.finalists == report.usage == report.notes == report.stages == ()
    assert report.latency_note == ""
    assert report.counted.parts == ()
    assert report.facts.commands == ("nestling train supernet --audio tones",)
    assert report.facts.draws == ("stage-2: 1 a step by subnet",)
    assert dict(report.facts.versions)["torch"] == torch.__version__
    assert len(dict(report.facts.versions).get("commit", "").removesuffix("-dirty")) in (0, 12)
    assert all(type(version) is str for _, version in report.facts.versions)


def test_speech_that_is_synthesised_is_told(run: RunFolder) -> None:
    run.amend({"audio": "demo"}, {"step": 1, "command": "nestling train supernet --resume", "changes": {}})
    report = collect_report(run)
    assert report.notes == (SYNTHETIC,)
    assert report.facts.commands == ("nestling train supernet --audio tones", "nestling train supernet --resume")


def test_what_a_search_found_is_told(run: RunFolder) -> None:
    save(run)
    report = collect_report(run)
    assert report.chosen is not None
    assert (report.chosen.subnet, report.chosen.params, report.chosen.macs) == (BEST, *costs(BEST))
    assert (report.chosen.loss, report.chosen.latency_ms) == (Measure(0.5), None)
    assert report.loss_name == "made-up loss"
    assert report.latency_note == ""
    assert report.facts.commands[-1] == "nestling search subnet --budget 1M"
    assert [(row.subnet, row.params, row.macs, row.loss, row.origin, row.tied) for row in report.finalists] == [
        (BEST, *costs(BEST), Measure(0.5), SEARCHED, True),
        (SECOND, *costs(SECOND), Measure(0.55), SEARCHED, False),
        (THIRD, *costs(THIRD), Measure(0.625), UNIFORM, True),
    ]
    assert report.finalists[2].excess == pytest.approx((0.025, 0.225))
    wanted = breakdown(SPACE.backbone, BEST, 1.0)
    assert {part.name: (part.params, part.macs) for part in report.counted.parts} == wanted
    assert report.usage == (Usage("write it", f"nestling export subnet --run {run.path} --out my-encoder"),)


def test_what_an_earlier_search_chose_is_not_called_the_chosen_one(run: RunFolder) -> None:
    save(run)
    save_curve(run.path, [Point(f"chosen {subnet.id}", "subnet", 1, 0.25, 0.01, 1) for subnet in (BEST, SECOND)])
    assert [point.label for point in collect_report(run).curve] == [f"chosen {BEST.id}", f"chosen before, {SECOND.id}"]


def test_a_search_without_a_uniform_shape_or_a_largest_has_its_finalists(run: RunFolder) -> None:
    save(run, uniform=None, largest=None)
    assert [row.subnet for row in collect_report(run).finalists] == [BEST, SECOND]


def test_latency_is_told_bound_by_bound(run: RunFolder) -> None:
    save(
        run,
        budget=Budget.parse([BUDGET, "latency<=9ms@2s", "latency<=20ms@5s"], SPACE).text,
        latency_seconds=[2.0, 5.0],
        finalists=[found(BEST, 0.5, latency_ms=TIMED), found(SECOND, 0.55, latency_ms=TIMED[::-1])],
    )
    report = collect_report(run)
    assert report.chosen
    assert report.chosen.latency_ms == Measure(2.0, 1.0, 3.0)
    assert [row.latency_ms for row in report.finalists] == [Measure(2.0, 1.0, 3.0), Measure(5.0, 4.0, 6.0), None]
    exact, *latency = report.budget
    assert (exact.kind, exact.used, exact.limit) == ("params", costs(BEST)[0], int(BUDGET.partition("=")[2]))
    assert [(use.kind, use.limit, use.used, use.seconds) for use in latency] == [
        ("latency", 9.0, 2.0, 2.0),
        ("latency", 20.0, 5.0, 5.0),
    ]
    assert [use.asked for use in latency] == ["latency<=9ms@2s", "latency<=20ms@5s"]
    assert report.latency_note.startswith("PyTorch on this machine")


def test_candidates_are_those_of_the_newest_measure(run: RunFolder) -> None:
    largest = SPACE.largest(Budget())
    uniform = next(s for s in SPACE.uniform_shapes() if s != largest)
    score(run, FOURTH, 0.25, 0.5, fingerprint="older")
    RecordFile(run.search_path / RECORD).append({"fingerprint": "one", "search": "x"})
    for subnet, loss in ((BEST, 0.5), (uniform, 0.75), (largest, 1.0)):
        score(run, subnet, loss)
    score(run, SECOND, float("nan"))
    score(run, SearchSpace.load("tiny").container, 0.5)  # of another space
    RecordFile(run.search_path / RECORD).append({"fingerprint": "one", "search": "x", "done": True})
    save(run)
    rows = collect_report(run).candidates
    assert [(row.subnet, row.params, row.macs, row.loss) for row in rows] == [
        (BEST, *costs(BEST), 0.5),
        (uniform, *costs(uniform), 0.75),
        (largest, *costs(largest), 1.0),
    ]
    assert [row.origin for row in rows] == [SEARCHED, UNIFORM, LARGEST]


def test_candidates_are_those_of_the_measure_that_chose(run: RunFolder) -> None:
    """A search that found all its scores in the record adds none, so that those of another measure stay the newest."""
    score(run, BEST, 0.5)
    score(run, BEST, 0.25, fingerprint="other")
    score(run, SECOND, 0.25, fingerprint="other")
    save(run, fingerprint="one")
    assert [(row.subnet, row.loss) for row in collect_report(run).candidates] == [(BEST, 0.5)]


def test_a_lone_candidate_of_the_newest_measure_is_all_there_is(run: RunFolder) -> None:
    score(run, BEST, 0.25, fingerprint="older")
    score(run, SECOND, 0.25, fingerprint="older")
    score(run, BEST, 0.5)
    save(run)
    assert [(row.subnet, row.loss) for row in collect_report(run).candidates] == [(BEST, 0.5)]


def test_a_result_without_its_record_has_no_candidates(run: RunFolder) -> None:
    save(run)
    assert collect_report(run).candidates == ()


def test_doubts_of_the_record_are_told(run: RunFolder) -> None:
    for subnet in (BEST, SECOND, THIRD):
        score(run, subnet, 0.5)
    path = run.search_path / RECORD
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    save(run)
    assert collect_report(run).notes == (f"a row is missing before line 2 of {path}",)


# Stages


def rows_of(stage: str, losses: list[dict[str, float]], first: int = 0) -> list[dict[str, Any]]:
    return [{"step": first + i, "stage": stage, "losses": each, "learning_rate": 0.1} for i, each in enumerate(losses)]


def test_a_stage_shows_the_losses_that_all_its_steps_have() -> None:
    both = [{"largest": 1.0, "random": 2.0}, {"largest": 0.5, "random": 1.0, "smallest": 3.0}]
    rows = [{"step": 0, "before": "one", "phone_error": 0.5}, *rows_of("one", both)]
    rows += [{"step": 2, "before": "two", "phone_error": 0.25}, *rows_of("two", [{"largest": 0.25}], 2)]
    one, two = summarize_stages(rows)
    assert one.series == (Series("largest", (0, 1), (1.0, 0.5)), Series("middle (random)", (0, 1), (2.0, 1.0)))
    assert two.series == (Series("largest", (2,), (0.25,)),)
    assert (one.phone_error_before, one.phone_error_after) == (0.5, 0.25)
    assert (two.phone_error_before, two.phone_error_after) == (0.25, None)


# Model cards


def card_of(run: RunFolder, subnet: Subnet) -> Any:
    run.save_supernet(Supernet(SPACE, torch.Generator()), SupernetRecord("org/teacher", "mit", "abc", "1a2b", "def"))
    return collect_record(run, subnet, "nestling export subnet")


def test_a_card_of_a_run_that_was_not_searched(run: RunFolder) -> None:
    card = card_of(run, BEST)
    assert (card.teacher, card.license, card.revision, card.hours) == ("org/teacher", "mit", "1a2b", 1.5)
    assert card.commands == ("nestling train supernet --audio tones", "nestling export subnet")
    assert card.scores == {}


def test_a_card_has_what_was_measured_of_its_subnet(run: RunFolder) -> None:
    save(run)
    save_curve(
        run.path, [Point(f"chosen {BEST.id}", "subnet", 1, 0.25, 0.01, 1), Point("x", "teacher", 1, 0.125, 0.01, 1)]
    )
    card = card_of(run, BEST)
    assert card.commands[1:] == ("nestling search subnet --budget 1M", "nestling export subnet")
    assert card.scores == {
        "made-up loss": "0.5000; 4 subnets were scored, 1 are tied",
        "made-up loss, best uniform shape": "0.6250; +0.0250 … +0.2250 above the best",
        "phone errors, test": "25.0 ± 1.0 %",
        "phone errors, test: x": "12.5 ± 1.0 %",
    }


def test_a_card_has_no_command_where_none_was_typed(run: RunFolder) -> None:
    save(run, command="")
    run.save_supernet(Supernet(SPACE, torch.Generator()), SupernetRecord(None, None, "abc", None, None))
    assert collect_record(run, BEST, "").commands == ("nestling train supernet --audio tones",)


@pytest.mark.parametrize("uniform", [None, found(SECOND, 0.55)])
def test_a_card_compares_with_another_uniform_shape_alone(run: RunFolder, uniform: Any) -> None:
    save(run, uniform=uniform)
    assert card_of(run, SECOND).scores == {"made-up loss": "0.5500; 4 subnets were scored, 1 are tied"}
    assert card_of(run, FOURTH).scores == {}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("nestling train supernet --audio /home/me/my-audio/ --run runs/a", "--audio my-audio --run runs/a"),
        ("nestling train supernet --teacher '/home/my models/t' --run=/x/y", "--teacher 't' --run=y"),
        ("nestling search subnet --budget 'macs<=2G@1s' --run ~/runs/a", "--budget 'macs<=2G@1s' --run a"),
    ],
)
def test_commands_of_a_card_keep_the_last_names_of_paths(typed: str, told: str) -> None:
    assert _without_folders(typed).endswith(told)
