import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.optuna_bridge import SAMPLERS, OptunaProposer, write_study
from nas.proposals import propose_first
from nas.record import Record
from nas.search import search
from search_spaces.budget import Budget
from search_spaces.costs import count_macs
from search_spaces.errors import FailedError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from tests.nas_cases import SPACE, MadeUpObjective, candidate, params

BUDGET = Budget.parse("60%", SPACE)
KINDS = sorted(SAMPLERS)


def run(record, objective, kind, trials=40):
    return search(SPACE, BUDGET, objective, OptunaProposer(SPACE, kind), record, trials=trials)


def in_memory():
    return Record(None, "made up", SPACE.backbone)


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_hold_the_budget_and_are_new(kind):
    proposer, rng = OptunaProposer(SPACE, kind), random.Random(0)
    objective = MadeUpObjective()
    history = [candidate(s, *objective.losses(s)) for s in propose_first(SPACE, rng, [], BUDGET, 16)]
    for _ in range(8):
        proposed = proposer.propose(rng, history, BUDGET, 8)
        assert len(set(proposed)) == 8
        assert not {c.subnet for c in history} & set(proposed)
        assert all(subnet in SPACE and BUDGET.holds(SPACE.backbone, subnet) for subnet in proposed)
        history += [candidate(subnet, *objective.losses(subnet)) for subnet in proposed]


@pytest.mark.parametrize("kind", KINDS)
def test_small_budget_is_exhausted(kind):
    budget = Budget.parse(str(params(SPACE.smallest()) + 100), SPACE)
    proposer, rng, history = OptunaProposer(SPACE, kind), random.Random(0), []
    while proposed := proposer.propose(rng, history, budget, 3):
        history += [candidate(subnet, 1.0) for subnet in proposed]
    assert len({c.subnet for c in history}) == len(history) == SPACE.count(budget)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_search_and_resumed_search(kind, tmp_path):
    whole, half, resumed = MadeUpObjective(), MadeUpObjective(), MadeUpObjective()
    path = tmp_path / "candidates.jsonl"
    result = run(in_memory(), whole, kind)
    run(Record(path, "made up", SPACE.backbone), half, kind, trials=27)
    again = run(Record(path, "made up", SPACE.backbone), resumed, kind)
    assert half.scored + resumed.scored == whole.scored
    assert again.winner.candidate.subnet == result.winner.candidate.subnet


@pytest.mark.parametrize("kind", ["nsga2", "tpe"])
def test_samplers_learn(kind):
    learned, drawn = ([search_once(k, seed).winner.candidate.score.mean for seed in range(3)] for k in (kind, "random"))
    assert np.mean(learned) < np.mean(drawn)


def search_once(kind, seed):
    proposer = OptunaProposer(SPACE, kind)
    return search(SPACE, BUDGET, MadeUpObjective(), proposer, in_memory(), trials=100, seed=seed)


def test_later_batches_do_not_repeat_the_first_suggestions():
    """Optuna alone would: a sampler made again with the same seed starts over."""
    objective = MadeUpObjective()
    run(in_memory(), objective, "random", trials=48)
    batches = [tuple(objective.scored[i : i + 8]) for i in range(16, 48, 8)]
    assert len(set(batches)) == 4


def test_what_failed_is_told_as_failed():
    proposer, rng = OptunaProposer(SPACE, "tpe"), random.Random(0)
    history = [candidate(SPACE.smallest(), np.nan), candidate(SPACE.largest(BUDGET), 1.0)]
    proposer.propose(rng, history, BUDGET, 1)
    states = [trial.state.name for trial in proposer._study.trials]
    assert states == ["FAIL", "COMPLETE", "RUNNING"]


def test_unknown_sampler_lists_the_known():
    with pytest.raises(ValueError, match="no sampler optuna:gp; there are optuna:nsga2, optuna:tpe, optuna:random"):
        OptunaProposer(SPACE, "gp")


# Studies


def open_study(path, name="made up"):
    return optuna.load_study(storage=f"sqlite:///{path}", study_name=name)


def some_candidates(space=SPACE, n=6):
    rng, objective = random.Random(0), MadeUpObjective()
    subnets = {space.sample(rng) for _ in range(n - 1)} | {space.smallest()}
    return [candidate(subnet, *objective.losses(subnet)) for subnet in sorted(subnets, key=lambda s: s.id)]


def test_study_holds_every_candidate(tmp_path):
    path = tmp_path / "search" / "study.db"
    candidates = some_candidates()
    write_study(candidates, SPACE, path, "made up")
    study = open_study(path)
    assert [trial.value for trial in study.trials] == [c.score.mean for c in candidates]
    for trial, known in zip(study.trials, candidates, strict=True):
        assert Subnet.from_dict(trial.user_attrs["subnet"]) == known.subnet
        assert trial.user_attrs["id"] == known.subnet.id
        assert trial.user_attrs["params"] == params(known.subnet)
        assert trial.user_attrs["macs@1s"] == count_macs(SPACE.backbone, known.subnet, 1.0)
        assert trial.user_attrs["size"] == 4 * params(known.subnet)
        assert trial.params["embed_dim"] == known.subnet.embed_dim
        heads = [trial.params[f"heads.{k}"] for k in range(2)]
        assert sum(heads) == sum(layer.heads for layer in known.subnet.layers)
        assert [k for k in range(2) if heads[k]] == list(known.subnet.kept)
    best = min(candidates, key=lambda c: c.score.mean)
    assert study.best_trial.user_attrs["id"] == best.subnet.id


def test_writing_again_adds_only_what_is_new(tmp_path):
    path = tmp_path / "study.db"
    candidates = some_candidates()
    write_study(candidates[:2], SPACE, path, "made up")
    write_study(candidates, SPACE, path, "made up")
    assert len(open_study(path).trials) == len(candidates)
    write_study(candidates[:1], SPACE, path, "another supernet")
    assert len(open_study(path, "another supernet").trials) == 1


def refusal(path):
    """What is said when the study cannot be written."""
    try:
        write_study(some_candidates(), SPACE, path, "made up")
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "name", ["a?b", "x?mode=memory", "%41", "{}", "{SCHEMA_VERSION}", "{0", "#a", "a&b", ":memory:", "é ü"]
)
def test_the_study_is_in_its_folder_whatever_that_is_called(tmp_path, name):
    path = tmp_path / name / "search" / "study.db"
    assert refusal(path) is None
    assert [p.name for p in path.parent.iterdir()] == ["study.db"]
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("select count(*) from trials").fetchone() == (6,)


SPOILT = {
    "file is not a database": lambda path: path.write_bytes(b"no database" * 99),
    "database disk image is malformed": lambda path: path.write_bytes(path.read_bytes()[:3000]),
    "unable to open database file": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("said", SPOILT)
def test_a_study_that_cannot_be_written_is_named(tmp_path, said):
    path = tmp_path / "study.db"
    write_study(some_candidates()[:2], SPACE, path, "made up")
    SPOILT[said](path)
    error = refusal(path)
    assert isinstance(error, FailedError), error
    assert str(error) == (
        f"{path} was not written: {said}; the search is complete without it, and the next one writes it anew if it is "
        "deleted"
    )


@pytest.mark.parametrize(("failure", "said"), [(OSError("no\nmore"), "no"), (RuntimeError(), "RuntimeError")])
def test_whatever_goes_wrong_with_a_study_has_a_word(tmp_path, monkeypatch, failure, said):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("nas.optuna_bridge.optuna.create_study", fail)
    error = refusal(tmp_path / "study.db")
    assert isinstance(error, FailedError), error
    assert f"was not written: {said}; " in str(error)


def test_no_study_stays_open(tmp_path):
    path = tmp_path / "study.db"
    write_study(some_candidates(), SPACE, path, "made up")
    assert [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.resolve() == path] == []


def test_failed_candidates_are_failed_trials(tmp_path):
    write_study([candidate(SPACE.container, np.nan)], SPACE, tmp_path / "study.db", "made up")
    [trial] = open_study(tmp_path / "study.db").trials
    assert trial.state.name == "FAIL"


def test_widths_that_are_ratios_are_written_as_ratios(tmp_path):
    space = SearchSpace.load("lighthubert-small")
    subnet = space.smallest()
    write_study([candidate(subnet, 1.0)], space, tmp_path / "study.db", "made up")
    [trial] = open_study(tmp_path / "study.db").trials
    assert trial.params["ffn_dim.0"] == 3.0
    assert trial.params["ffn_dim.11"] == 0  # one of the two layers that are not kept
    assert trial.params["kept"] == "0 1 2 3 4 5 6 8 9 10"
