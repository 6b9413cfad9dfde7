"""What `benchmarks/score.py` compares: the score of a search and the one before, and how both agree with truths."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from benchmarks.score import SIMPLEST_FIRST, TRUTHS, Table
from benchmarks.score_cells import BANDS, CELLS, OBJECTIVES, Scores
from checkpoints.teachers import load_teacher
from distillation.objective import Objective
from distillation.sources.teacher import TeacherSource
from distillation.stages import load_recipe
from distillation.views import View
from nas.objective import ReadOutObjective
from search_spaces.space import SearchSpace
from speech_data.batching import evaluation_batches
from supernet.model import Supernet
from tests.speech_cases import FakeCorpus, seeded, utterance

TINY = SearchSpace.load("tiny")
CELL_OF = [json.loads(path.read_text("utf-8")) for path in sorted(CELLS.glob("*/*.json"))]


@pytest.mark.parametrize("subnet", [TINY.container, TINY.smallest()])
def test_a_cell_has_the_score_of_a_search_and_that_of_training(subnet: Any) -> None:
    """Of a run as the trainer keeps it: targets standardised by what it measured, heads as they were trained."""
    splits = {
        split: [utterance(f"{split}-{i}", 8000 + 1000 * i) for i in range(count)]
        for split, count in (("search", 4), ("train", 5))
    }
    corpus, view, grid = FakeCorpus(splits), View(), TINY.backbone.grid
    supernet, stage = Supernet(TINY, seeded(0)), load_recipe("demo").stages[-1]
    supernet.load_encoder(load_teacher("demo").encoder.state_dict())
    teacher = TeacherSource(load_teacher("demo").encoder, ["hidden"], "channel")
    batches = list(evaluation_batches(corpus, "search", batch_size=1, augment=True))
    seen = [view.draw(batch, grid, torch.device("cpu")) for batch in batches]
    for batch, each in zip(batches[:2], seen, strict=False):
        teacher.calibrate(batch, each)
    objective = Objective(stage.objective, {"teacher": teacher}, TINY.container, supernet.stream_groups, seeded(1))
    losses = []
    with torch.no_grad():
        for batch, each in zip(batches, seen, strict=True):
            trace = supernet(each.student, None, subnet, objective.taps)
            losses.append(float(objective.weigh(objective(trace, {"teacher": teacher(batch, each)}, subnet, None))))
    state = {"heads": objective.state_dict(), "sources": {"teacher": teacher.state}}
    scores: Any = Scores(SimpleNamespace(load_supernet=lambda: supernet, load_state=lambda _: state), corpus)  # type: ignore[arg-type]
    found = scores(subnet)
    assert set(SIMPLEST_FIRST) < found.keys()
    assert found["trained heads"] == pytest.approx(np.mean(losses), rel=1e-4)
    sources = {"teacher": TeacherSource(load_teacher("demo").encoder, ["hidden"], "none")}
    read_out = ReadOutObjective(supernet, sources, batches, view)(subnet).mean
    assert found["last → mean, cross"] == pytest.approx(read_out, rel=0.02)  # one frame less where variances are taken


def test_taus_are_kendalls_with_ties() -> None:
    table = Table(CELL_OF)
    depths = table.values(lambda cell: -len(cell["kept"]))
    for x, probes in (
        (depths, ("phones",)),
        (table.scores("last → mean, cross"), ("speakers",)),
        (depths, ("speakers",)),
    ):
        y = table.errors(probes)
        rows = [(x[run, band], y[run, band]) for run in range(len(OBJECTIVES)) for band in range(len(BANDS))]
        assert table.tau(x, y)[0] == pytest.approx(np.mean([kendalltau(*row).statistic for row in rows]))


def test_the_page_is_of_its_cells() -> None:
    """Of what was chosen, τ with each truth and each bias; draws are other numbers on no machine."""
    table, page = Table(CELL_OF), (CELLS.parents[1] / "score.md").read_text("utf-8")
    name = "last → mean, cross"
    (row,) = (line.split(" | ") for line in page.splitlines() if line.startswith(f"| **{name}** |"))
    score = table.scores(name)
    taus = [table.tau(score, table.errors(probes))[0] for probes in TRUTHS.values()]
    biases = [table.bias(score, [table.errors(p, half) for half in (0, 1)])[0] for p in TRUTHS.values()]
    assert [cell.split()[0] for cell in (*row[1:3], *row[-2:])] == [f"{number:+.2f}" for number in (*taus, *biases)]
