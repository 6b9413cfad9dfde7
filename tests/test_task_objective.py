from dataclasses import replace

import numpy as np
import pytest
import torch

from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from nas.proposals import EvolutionProposer
from nas.record import Record
from nas.search import search
from nas.task_objective import TaskObjective
from nestling.workflows import jobs, scoring
from search_spaces.budget import Budget
from speech_tasks.encoding import encode_with
from speech_tasks.proxy import DEFAULT_MIX, Proxy
from supernet.model import Supernet
from tests.code_cases import changed, installed_elsewhere
from tests.nas_cases import SPACE
from tests.probe_cases import materials
from tests.speech_cases import FakeCorpus, seeded


@pytest.fixture(scope="module")
def given():
    return materials()


def supernet(seed=0, space=SPACE):
    return Supernet(space, seeded(seed))


def objective(given, probes=("keywords", "words"), seed=0, space=SPACE):
    return TaskObjective(supernet(seed, space), Proxy(given, probes, scale=0.2))


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
def test_a_subnet_scores_as_the_encoder_that_is_extracted(given, conv_norm):
    """As `evaluate` hears that: where a norm would hear padding, each utterance alone."""
    words = {
        split: [replace(u, num_samples=u.num_samples + 2000 * (i % 4)) for i, u in enumerate(utterances)]
        for split, utterances in given["keywords"].corpus.splits.items()
    }
    uneven = {"keywords": replace(given["keywords"], corpus=FakeCorpus(words, name="uneven"))}
    space = replace(SPACE, backbone=replace(SPACE.backbone, conv_norm=conv_norm))
    ranked = objective(uneven, ("keywords",), space=space)
    for subnet in (SPACE.container, SPACE.smallest()):
        score = ranked.proxy.score(encode_with(ranked.supernet.extract(subnet)))
        found = ranked(subnet)
        assert found.per_utterance.dtype == np.float32
        assert (found.per_utterance == score.per_utterance.astype(np.float32)).all()
        assert found.mean == pytest.approx(1 - score.points / 100)


def test_same_subnet_same_score(given):
    ranked = objective(given)
    first = ranked(SPACE.container).per_utterance
    other = ranked(SPACE.smallest()).per_utterance
    assert (ranked(SPACE.container).per_utterance == first).all()
    assert (first != other).any()


def test_a_subnet_that_is_not_finite_fails(given):
    ranked = objective(given)
    with torch.no_grad():
        ranked.supernet.container.encoder.layers[0].final_layer_norm.bias.fill_(float("nan"))
    assert ranked(SPACE.container).failed
    assert len(ranked(SPACE.container).per_utterance) == ranked.proxy.num_scores


def test_one_batch_that_is_not_finite_fails_the_subnet(given, monkeypatch):
    ranked, calls = objective(given), []

    def first_is_not_finite(encoder):
        def encode(*args):
            hidden = encode_with(encoder)(*args)
            if not calls:
                hidden[0].fill_(float("inf"))
            calls.append(args)
            return hidden

        return encode

    monkeypatch.setattr("nas.task_objective.encode_with", first_is_not_finite)
    assert ranked(SPACE.container).failed
    assert len(calls) > 1


def test_the_fingerprint_names_weights_and_probes(given):
    same = objective(given).fingerprint
    assert objective(given).fingerprint == same
    assert len({same, objective(given, seed=1).fingerprint, objective(given, probes=("words",)).fingerprint}) == 3
    assert objective(given).name == "error of words + keywords on search"


@pytest.mark.parametrize(
    ("file", "counts"), [("supernet/encoder.py", True), ("speech_tasks/proxy.py", True), ("nas/record.py", False)]
)
def test_code_counts(given, tmp_path, file, counts):
    with installed_elsewhere(tmp_path):
        same = objective(given).fingerprint
        with changed(tmp_path / file, "\nimport ", "\nSHIFT = 1\nimport "):
            assert (objective(given).fingerprint != same) == counts


def test_a_search_ranks_by_it(given, tmp_path):
    ranked = objective(given, probes=("keywords",))
    record = Record(tmp_path / "candidates.jsonl", ranked.fingerprint, SPACE.backbone)
    result = search(SPACE, Budget(), ranked, EvolutionProposer(SPACE), record, trials=4)
    assert result.num_scored == result.num_evaluated == 4
    errors = [finalist.candidate.score.mean for finalist in result.finalists]
    assert errors == sorted(errors)
    assert all(0 <= error <= 1 for error in errors)
    low, high = result.finalists[-1].excess
    assert low <= errors[-1] - errors[0] <= high
    again = search(SPACE, Budget(), ranked, EvolutionProposer(SPACE), record, trials=4)
    assert again.num_evaluated == 0  # the record knows them all


# What `nestling search subnet --objective` opens


@pytest.fixture
def run(tmp_path):
    job = jobs.describe_job("train supernet", "tiny", None, "demo", "two-stage", (), "cpu", "fp32", None)
    job |= {"space": SPACE.to_dict(), "data": "", "hours": 0.0}
    folder = RunFolder.create(tmp_path / "run", job, seed=0)
    folder.save_supernet(supernet(), SupernetRecord())
    return folder


def open_objective(run, given, monkeypatch, name, num_utterances=24):
    asked = []
    monkeypatch.setattr(scoring, "open_probed", lambda probes, _: asked.append(tuple(probes)) or given)
    scorer = scoring.open_scorer(run, given["sentences"].corpus, num_utterances, "cpu", print, objective=name)
    return scorer, asked


@pytest.mark.parametrize(("name", "probes"), [("words", ("words",)), ("proxy", DEFAULT_MIX)])
def test_an_objective_is_opened_by_name(run, given, monkeypatch, name, probes):
    scorer, asked = open_objective(run, given, monkeypatch, name)
    assert asked == [probes]
    assert scorer.proxy.names == probes
    assert (scorer(SPACE.smallest()).per_utterance == objective(given, probes)(SPACE.smallest()).per_utterance).all()


def test_fewer_utterances_are_fewer_scores(run, given, monkeypatch):
    few, many = (open_objective(run, given, monkeypatch, "words", n)[0] for n in (12, 36))
    assert few.proxy.num_scores < many.proxy.num_scores


def test_a_read_out_is_what_is_asked_for_by_default(run, given):
    with pytest.raises(ValueError, match="names no teacher, and has no checkpoint of stage-2"):
        scoring.open_scorer(run, given["sentences"].corpus, 8, "cpu", print)


def test_an_objective_that_does_not_exist_is_named(run, given):
    with pytest.raises(ValueError, match="no objective `phnoes`; did you mean `phones`"):
        scoring.open_scorer(run, given["sentences"].corpus, 8, "cpu", print, objective="phnoes")
