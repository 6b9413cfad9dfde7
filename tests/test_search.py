import fcntl
import json
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from nas import search as search_module
from nas.latency import Latency
from nas.proposals import EvolutionProposer, RandomProposer, draw_unseen, find_maximal_uniform, propose_first
from nas.record import Record
from nas.search import NUM_FIRST, search
from search_spaces.budget import Budget, InfeasibleBudget
from search_spaces.costs import count_macs
from search_spaces.counting import Census
from search_spaces.errors import FailedError, NestlingError
from search_spaces.space import SearchSpace
from tests.nas_cases import NUM_UTTERANCES, SPACE, MadeUpObjective, candidate, empty_record, params
from tests.test_whole_files import full_disk

ROOT = Path(__file__).parents[1]
EVERYTHING = Budget()
MIDDLE = Budget.parse("60%", SPACE)
PROPOSERS = [RandomProposer, EvolutionProposer]


def few(n):
    """A budget that about `n` subnets hold, and how many."""
    census = Census(SPACE.boxes())
    high = sorted(params(census.subnet(i)) for i in range(census.total))[n]
    budget = Budget.parse(str(high), SPACE)
    return budget, SPACE.count(budget)


def run(record=None, budget=MIDDLE, objective=None, trials=40, seed=0, proposer=EvolutionProposer, **kwargs):
    objective = objective or MadeUpObjective()
    record = record or empty_record()
    return search(SPACE, budget, objective, proposer(SPACE), record, trials=trials, seed=seed, **kwargs)


def summary(result):
    return [(f.candidate.subnet.id, f.candidate.score.mean, f.excess) for f in result.finalists]


# The first proposals


def test_first_are_the_largest_uniform_shapes_and_samples_of_every_size():
    first = propose_first(SPACE, random.Random(0), [], MIDDLE, 16)
    assert first[0] == SPACE.largest(MIDDLE)
    uniform = [subnet for subnet in first if subnet in SPACE.uniform_shapes(MIDDLE)]
    assert len(uniform) >= min(8, len(find_maximal_uniform(SPACE, MIDDLE)))
    assert min(map(params, first)) < 0.5 * max(map(params, first))
    assert len(set(first)) == 16
    assert all(MIDDLE.holds(SPACE.backbone, subnet) for subnet in first)


def test_maximal_uniform_shapes_cannot_grow():
    def sizes(subnet):
        layer = subnet.layers[0]
        return subnet.embed_dim, len(subnet.layers), sum(subnet.conv_dims), layer.heads, layer.ffn_dim

    shapes = SPACE.uniform_shapes(MIDDLE)
    maximal = find_maximal_uniform(SPACE, MIDDLE)
    assert 1 < len(maximal) < len(shapes)
    for shape in shapes:
        larger = [s for s in shapes if s != shape and all(map(int.__ge__, sizes(s), sizes(shape)))]
        assert (shape in maximal) == (not larger)
    assert find_maximal_uniform(SPACE, EVERYTHING) == [SPACE.container]


def test_first_respects_what_is_known_and_what_there_is():
    budget, total = few(10)
    known = [candidate(SPACE.largest(budget), 1.0)]
    first = propose_first(SPACE, random.Random(0), known, budget, 16)
    assert len(set(first)) == len(first) == total - 1
    assert known[0].subnet not in first


def test_impossible_budget_names_the_nearest():
    smallest = params(SPACE.smallest())
    with pytest.raises(InfeasibleBudget, match=f"the smallest has {smallest:,} parameters"):
        run(budget=Budget.parse("1k", SPACE))


# Proposers: one suite for each


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_proposals_hold_the_budget_and_are_new(proposer):
    rng = random.Random(0)
    history = [candidate(subnet, i) for i, subnet in enumerate(propose_first(SPACE, rng, [], MIDDLE, 16))]
    for _ in range(10):
        proposed = proposer(SPACE).propose(rng, history, MIDDLE, 8)
        assert len(set(proposed)) == 8
        assert not {c.subnet for c in history} & set(proposed)
        assert all(subnet in SPACE and MIDDLE.holds(SPACE.backbone, subnet) for subnet in proposed)
        history += [candidate(subnet, 0.5) for subnet in proposed]


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_proposals_depend_on_rng_and_history_alone(proposer):
    history = [candidate(SPACE.smallest(), 1.0)]
    once, again, other = (proposer(SPACE).propose(random.Random(seed), history, MIDDLE, 8) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_every_subnet_of_a_small_budget_is_found(proposer):
    budget, total = few(30)
    rng, history = random.Random(0), []
    while proposed := proposer(SPACE).propose(rng, history, budget, 7):
        history += [candidate(subnet, 1.0) for subnet in proposed]
    assert len({c.subnet for c in history}) == len(history) == total


def test_stubborn_draws_are_replaced_by_fresh_ones():
    largest = SPACE.largest(MIDDLE)
    drawn = draw_unseen(lambda: largest, SPACE, random.Random(0), {largest}, MIDDLE, 5)
    assert len(set(drawn)) == 5
    assert largest not in drawn


def test_huge_space_is_not_listed():
    space = SearchSpace.load("base")
    drawn = draw_unseen(space.smallest, space, random.Random(0), (), EVERYTHING, 4)
    assert len(set(drawn)) == 4


def test_evolution_ignores_failed_scores_and_works_without_any():
    history = [candidate(SPACE.smallest(), np.nan)]
    assert len(EvolutionProposer(SPACE).propose(random.Random(0), history, MIDDLE, 3)) == 3


def test_fresh_draws_of_evolution_are_even_over_depths_and_the_baselines_over_subnets():
    """Of the subnets of `tiny` under 60 % of its parameters 88 % have all six layers."""
    space = SearchSpace.load("tiny")
    budget = Budget.parse("60%", space)
    for proposer, shares in ((EvolutionProposer, dict.fromkeys(space.depth, 40)), (RandomProposer, {5: 23, 6: 176})):
        depths = Counter(len(s.layers) for s in proposer(space).propose(random.Random(0), [], budget, 200))
        assert {n: depths[n] for n in shares} == pytest.approx(shares, rel=0.4)


def test_the_first_draws_are_spread_over_the_logarithm_of_size():
    """Each of the lower six of seven bands has one; even over parameters, two or three of them would have none."""
    least, most = (params(extreme(MIDDLE)) for extreme in (SPACE.smallest, SPACE.largest))
    for seed in range(3):
        drawn = propose_first(SPACE, random.Random(seed), [], MIDDLE, 16)[1:]
        bands = {int(7 * np.log(params(subnet) / least) / np.log(most / least)) for subnet in drawn}
        assert set(range(6)) <= bands


def test_evolution_beats_random():
    def best(proposer, seed):
        return run(proposer=proposer, seed=seed, trials=80).winner.candidate.score.mean

    seeds = range(5)
    evolved, drawn = ([best(proposer, seed) for seed in seeds] for proposer in (EvolutionProposer, RandomProposer))
    assert np.mean(evolved) < np.mean(drawn)


# The loop


def test_finds_nearly_the_best_there_is():
    objective = MadeUpObjective(noise=0.0)
    budget, total = few(600)
    census = Census(SPACE.boxes(), budget.bounds)
    losses = sorted(objective.losses(census.subnet(i)).mean() for i in range(total))
    found = run(budget=budget, objective=objective, trials=100).winner.candidate.score.mean
    assert np.searchsorted(losses, found - 1e-6) < 0.01 * total


def test_everything_scored_holds_the_budget_and_nothing_is_scored_twice():
    objective = MadeUpObjective()
    seen = []
    result = run(objective=objective, trials=50, on_trial=seen.append)
    assert len(set(objective.scored)) == len(objective.scored) == 50 == result.num_evaluated
    assert all(MIDDLE.holds(SPACE.backbone, subnet) for subnet in objective.scored)
    assert [trial.number for trial in seen] == list(range(1, 51))
    assert not any(trial.reused for trial in seen)


def test_result_says_what_there_is_to_say():
    result = run(trials=60)
    losses = [finalist.candidate.score.mean for finalist in result.finalists]
    assert losses == sorted(losses)
    assert len(losses) == search_module.NUM_FINALISTS
    assert result.winner is result.finalists[0]
    assert result.winner.excess == (0.0, 0.0)
    assert result.uniform.candidate.subnet in SPACE.uniform_shapes(MIDDLE)
    assert result.largest.candidate.subnet == SPACE.largest(MIDDLE)
    assert result.uniform.candidate.score.mean >= losses[0]
    [(bound, share)] = result.utilization
    assert share == params(result.winner.candidate.subnet) / bound.high
    assert 0.8 < share <= 1
    assert result.binds
    assert (result.num_scored, result.num_failed) == (60, 0)


def test_budget_that_excludes_nothing_does_not_bind():
    result = run(budget=Budget.parse("100%", SPACE), trials=5)
    assert not result.binds
    assert result.winner.candidate.subnet == SPACE.container
    assert run(budget=EVERYTHING, trials=5).utilization == ()


def test_stops_when_everything_is_scored():
    budget, total = few(12)
    result = run(budget=budget, trials=1000)
    assert result.num_evaluated == total


def test_longer_search_begins_with_the_shorter_one():
    short, long = MadeUpObjective(), MadeUpObjective()
    run(objective=short, trials=21)
    run(objective=long, trials=45)
    assert long.scored[:21] == short.scored


def test_failed_scores_never_win():
    class Failing(MadeUpObjective):
        def losses(self, subnet):
            losses = super().losses(subnet)
            return losses * np.nan if params(subnet) > 0.5 * params(SPACE.container) else losses

    result = run(objective=Failing(), trials=40)
    assert result.num_failed > 0
    assert result.num_failed + result.num_scored == 40
    assert all(np.isfinite(f.candidate.score.mean) for f in result.finalists)
    assert result.largest is None


def test_only_failed_scores_is_an_error():
    with pytest.raises(ValueError, match="no subnet has a finite loss"):
        run(objective=MadeUpObjective(noise=np.inf), trials=3)


def test_no_trials_is_an_error():
    with pytest.raises(ValueError, match="at least one trial; got 0"):
        run(trials=0)


# The record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search" / "candidates.jsonl"


def open_record(path, fingerprint="one"):
    return Record(path, fingerprint, SPACE.backbone)


def test_scores_survive_the_file_to_the_bit(path):
    first = run(open_record(path))
    result = run(open_record(path))
    assert result.num_evaluated == 0
    assert summary(result) == summary(first)


class KilledError(Exception):
    pass


class KilledObjective(MadeUpObjective):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def __call__(self, subnet):
        if len(self.scored) == self.after:
            raise KilledError
        return super().__call__(subnet)


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize("after", [0, 1, NUM_FIRST, 23, 39])
def test_killed_search_resumes_as_if_never_killed(path, tmp_path, proposer, after):
    whole = run(open_record(tmp_path / "whole.jsonl"), proposer=proposer)
    killed = KilledObjective(after)
    with pytest.raises(KilledError):
        run(open_record(path), objective=killed, proposer=proposer)
    resumed = MadeUpObjective()
    result = run(open_record(path), objective=resumed, proposer=proposer)
    assert len(resumed.scored) == 40 - after
    assert summary(result) == summary(whole)
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [2, 7, 200])
def test_torn_last_line_costs_one_candidate(path, cut):
    run(open_record(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    objective = MadeUpObjective()
    result = run(open_record(path), objective=objective)
    assert len(objective.scored) == 1
    assert result.num_evaluated == 1
    assert path.read_bytes() == whole


def test_a_last_row_that_lacks_only_its_newline_is_kept(path):
    run(open_record(path), trials=3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    reader, writer = open_record(path), open_record(path)
    assert len(reader.candidates) == 3
    assert path.read_bytes() == whole[:-1]
    one, other = (candidate(SPACE.sample(random.Random(seed)), *[1.0] * NUM_UTTERANCES) for seed in (98, 99))
    writer.add(one)
    assert path.read_bytes().startswith(whole)
    reader.add(other)
    again = open_record(path)
    assert again.doubts == reader.doubts == ()
    assert [c.subnet for c in again.candidates[3:]] == [one.subnet, other.subnet]


def test_reading_a_torn_record_does_not_change_it(path):
    run(open_record(path), trials=3)
    torn = path.read_bytes()[:-9]
    path.write_bytes(torn)
    assert len(open_record(path).candidates) == 2
    assert path.read_bytes() == torn


WRITER = """
import itertools, sys
from pathlib import Path
from random import Random
from nas.record import Record
from tests.nas_cases import SPACE, candidate
record = Record(Path(sys.argv[1]), "one", SPACE.backbone)
for i in itertools.count():
    subnet = SPACE.sample(Random(i))
    if record.find(subnet) is None:
        record.add(candidate(subnet, *[i / 7] * 500))
        print(subnet.id, flush=True)
"""


def test_a_failed_score_survives_the_file(path):
    open_record(path).add(candidate(SPACE.container, float("nan"), 1.0))
    (kept,) = open_record(path).candidates
    assert kept.score.failed
    assert kept.score.per_utterance[1] == 1.0


def test_a_record_that_cannot_be_read_is_named(path):
    path.mkdir(parents=True)
    with pytest.raises(NestlingError) as caught:
        open_record(path)
    assert str(caught.value) == f"{path}: is a directory"


def test_nothing_that_was_added_is_lost_by_a_kill(path):
    added = []
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as writer:
            added += [writer.stdout.readline().strip() for _ in range(20)]
            writer.kill()
            added += writer.stdout.read().split()  # each line was written whole, and after its candidate
        kept = [c.subnet.id for c in open_record(path).candidates]
        assert kept[: len(added)] == added
        assert len(kept) <= len(added) + 1
        added = kept


def test_a_full_disk_is_told_and_costs_nothing_that_was_added(path):
    run(open_record(path), trials=3)
    kept, record = summary(run(open_record(path), trials=3)), open_record(path)
    with full_disk(path.stat().st_size + 20), pytest.raises((FailedError, OSError)) as caught:
        record.add(candidate(SPACE.container, *[1.0] * NUM_UTTERANCES))
    assert str(caught.value) == f"could not write {path}: File too large; free space or check permissions"
    assert summary(run(open_record(path), trials=3)) == kept
    assert open_record(path).add(candidate(SPACE.container, *[1.0] * NUM_UTTERANCES)).score.mean == 1.0
    assert len(open_record(path).candidates) == 4


def test_damage_elsewhere_is_named(path):
    run(open_record(path), trials=3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-5], *lines[2:], ""]))
    with pytest.raises(ValueError, match=r"line 2 of .*candidates\.jsonl is damaged .*; delete that line"):
        open_record(path)


def test_openers_of_one_record_keep_each_others_rows(path):
    subnets = [SPACE.sample(random.Random(i)) for i in range(4)]
    first, second = open_record(path), open_record(path)
    first.add(candidate(subnets[0], 1.0))
    second.add(candidate(subnets[1], 2.0))
    assert [c.subnet for c in open_record(path).candidates] == subnets[:2]
    first.start("a search")
    path.write_bytes(path.read_bytes() + b'{"fingerprint":"o')  # a third was killed
    second.add(candidate(subnets[2], 3.0))
    first.add(candidate(subnets[3], 4.0))
    assert [c.subnet for c in open_record(path).candidates] == subnets
    assert first.candidates[1].subnet == subnets[1]  # each has seen what the other did
    assert len(open_record(path).start("a search")) == 2


def test_two_searches_that_score_the_same_subnet_agree_on_its_score(path):
    """Another process is always a little earlier, and rounds otherwise."""
    other = open_record(path)

    class Overtaken(MadeUpObjective):
        def __call__(self, subnet):
            score = super().__call__(subnet)
            other.add(candidate(subnet, *score.per_utterance + np.float32(1e-6)))
            return score

    smallest, largest = (count_macs(SPACE.backbone, s, 1.0) / 1e6 for s in (SPACE.smallest(), SPACE.container))
    budget = Budget.parse(f"latency<={smallest + 0.03 * (largest - smallest):.3f}ms@1s", SPACE)
    seen, problem = [], ""
    try:
        run(open_record(path), budget, Overtaken(), on_trial=seen.append, time_subnets=fake_timer([]))
    except KeyError as error:
        problem = f"no {error}"
    assert not problem
    assert {t.candidate.subnet: t.candidate.score.mean for t in seen} == {
        c.subnet: c.score.mean for c in open_record(path).candidates
    }


def change(path, number, change, seal=True):
    """Changes the row of a line; unless `seal`, it is as Nestling 0.1 wrote it, without number and checksum."""
    lines = path.read_text().splitlines()
    row = json.loads(lines[number - 1])
    change(row)
    if not seal:
        row.pop("number", None)
        row.pop("check", None)
    lines[number - 1] = json.dumps(row, separators=(",", ":"))
    path.write_text("\n".join([*lines, ""]))


TAMPERED = {
    "another id": (lambda row: row.update(id="0123456789"), "id '0123456789' is not that of its subnet"),
    "another subnet": (lambda row: row["subnet"].update(embed_dim=64), "is not that of its subnet"),
    "a better loss": (lambda row: row.update(loss=0.5), "loss 0.5 is not the mean of per_utterance"),
    "a lost loss": (lambda row: row.update(loss=None), "loss None is not the mean of per_utterance"),
    "another utterance": (lambda row: row["per_utterance"].__setitem__(3, 7.0), "is not the mean of per_utterance"),
    "a failed utterance": (lambda row: row["per_utterance"].__setitem__(3, None), "is not the mean of per_utterance"),
    "fewer utterances": (
        lambda row: row.update(per_utterance=row["per_utterance"][:1], loss=row["per_utterance"][0]),
        f"per_utterance has 1 losses, and those before it have {NUM_UTTERANCES}",
    ),
    "no utterances": (lambda row: row.update(per_utterance=[], loss=None), "per_utterance is empty"),
    "no subnet": (lambda row: row.pop("subnet"), "missing key `subnet`"),
    "words for numbers": (lambda row: row["subnet"].update(kept=["0"]), "`subnet.kept.0` should be a valid integer"),
}


@pytest.mark.parametrize("name", TAMPERED)
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "old"])
def test_a_row_that_was_tampered_with_is_said(path, name, seal):
    run(open_record(path), trials=3, budget=EVERYTHING)
    tamper, message = TAMPERED[name]
    change(path, 3, tamper, seal)
    with pytest.raises(ValueError, match=r"line 3 of .*; delete that line to go on without it") as caught:
        open_record(path)
    assert ("it is not what was written there" if seal else message) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_rows_of_an_older_nestling_are_taken_as_they_are(path):
    run(open_record(path), trials=5)
    whole = summary(run(open_record(path), trials=9))
    path.unlink()
    run(open_record(path), trials=5)
    for number in range(1, 7):
        change(path, number, dict.copy, seal=False)
    assert summary(run(open_record(path), trials=9)) == whole
    assert [json.loads(line).get("number") for line in path.read_text().splitlines()] == [None] * 6 + [7, 8, 9, 10]


@pytest.mark.parametrize("number", [2, "3"], ids=["one that was there", "a word"])
def test_a_row_whose_number_is_not_the_next_is_said_and_kept(path, number):
    run(open_record(path), trials=3)

    def renumber(row):
        row["number"] = number
        del row["check"]

    change(path, 3, renumber)
    record = open_record(path)
    assert record.doubts == (
        f"line 3 of {path} is row {number}, which has its place before it",
        f"a row is missing before line 4 of {path}",
    )
    assert len(record.candidates) == 3


def test_damage_done_by_others_while_a_search_runs_is_named_by_its_line(path):
    record = open_record(path)
    for i in range(3):
        record.add(candidate(SPACE.sample(random.Random(i)), 1.0))
    with path.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(ValueError, match=r"line 4 of .*candidates\.jsonl is damaged"):
        record.add(candidate(SPACE.container, 1.0))


def test_a_row_is_forced_to_the_disk_before_it_counts(path, monkeypatch):
    record, forced = open_record(path), []
    monkeypatch.setattr("nas.record.os.fsync", lambda _: forced.append(path.read_bytes()))
    record.add(candidate(SPACE.container, 1.0))
    assert forced == [path.read_bytes()]


def test_who_appends_waits_for_who_is_appending(path):
    record = open_record(path)
    record.start("a search")
    with ThreadPoolExecutor() as pool, path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        added = pool.submit(record.add, candidate(SPACE.container, 1.0))
        with pytest.raises(TimeoutError):
            added.result(timeout=0.3)
        fcntl.flock(other, fcntl.LOCK_UN)
        added.result(timeout=30)
    assert len(open_record(path).candidates) == 1


@pytest.mark.parametrize("delete", [True, False], ids=["deleted", "cut"])
def test_a_record_that_shrinks_under_a_search_is_not_written_on(path, delete):
    record = open_record(path)
    run(record, trials=3)
    if delete:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{path} was {'deleted' if delete else 'cut'} while it was written"):
        record.add(candidate(SPACE.container, 1.0))
    assert path.exists() != delete


def test_rows_are_plain_json_that_others_can_read(path):
    run(open_record(path), trials=3)
    start, *rows = map(json.loads, path.read_text().splitlines())
    assert start | {"check": ""} == {
        "fingerprint": "one",
        "search": f"{MIDDLE.text}; evolution; seed 0",
        "number": 1,
        "check": "",
    }
    largest = SPACE.largest(MIDDLE)
    assert rows[0]["id"] == largest.id
    assert rows[0]["params"] == params(largest)
    assert rows[0]["loss"] == pytest.approx(np.mean(rows[0]["per_utterance"]))
    assert len(rows[0]["per_utterance"]) == NUM_UTTERANCES


def test_another_budget_reuses_every_evaluation_that_fits(path):
    run(open_record(path), budget=MIDDLE, trials=40)
    smaller = Budget.parse("50%", SPACE)
    fitting = [c for c in open_record(path).candidates if smaller.holds(SPACE.backbone, c.subnet)]
    assert fitting
    objective = MadeUpObjective()
    result = run(open_record(path), budget=smaller, objective=objective, trials=20)
    assert len(objective.scored) == 20
    assert not {c.subnet for c in fitting} & set(objective.scored)
    assert result.num_scored == 20 + len(fitting)


def test_rows_of_another_fingerprint_are_left_alone(path):
    run(open_record(path, "old"), trials=5)
    before = path.read_bytes()
    objective = MadeUpObjective()
    run(open_record(path, "new"), objective=objective, trials=5)
    assert len(objective.scored) == 5
    assert path.read_bytes().startswith(before)
    assert len(open_record(path, "old").candidates) == len(open_record(path, "new").candidates) == 5


def test_what_came_later_does_not_change_the_course_of_a_search(path):
    run(open_record(path), trials=24)
    run(open_record(path), trials=24, seed=1)
    undisturbed, resumed = MadeUpObjective(), MadeUpObjective()
    run(objective=undisturbed, trials=40)
    seen = []
    result = run(open_record(path), objective=resumed, trials=40, on_trial=seen.append)
    assert [trial.candidate.subnet for trial in seen] == undisturbed.scored
    assert result.num_scored > 40  # but all that is known may win


# Ties


def test_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        difficulty = rng.normal(0, 10, 60)
        a = candidate(SPACE.smallest(), *difficulty)
        b = candidate(SPACE.container, *(difficulty + 0.3 + rng.normal(0, 1, 60)))
        [(low, high)] = search_module.excess_intervals([b], a)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 198  # 190 are expected


def test_interval_is_students_of_pairs():
    rng = np.random.default_rng(0)
    for size in (2, 5, 60):
        a, b = rng.normal(0, 1, (2, size)).astype(np.float32)
        expected = ttest_rel(b.astype(float), a).confidence_interval()
        found = search_module.excess_intervals([candidate(SPACE.container, *b)], candidate(SPACE.smallest(), *a))
        assert found[0] == pytest.approx((expected.low, expected.high))


def test_pairs_see_what_means_alone_cannot():
    difficulty = np.random.default_rng(0).normal(0, 10, 60)
    a, b = candidate(SPACE.smallest(), *difficulty), candidate(SPACE.container, *(difficulty + 0.01))
    [(low, high)] = search_module.excess_intervals([b], a)
    assert 0.009 < low <= high < 0.011


def test_ties_are_told_from_losses():
    clear, noisy = run(objective=MadeUpObjective(noise=1e-5)), run(objective=MadeUpObjective(noise=2.0))
    assert clear.num_tied < 5 < noisy.num_tied
    assert clear.num_tied == sum(f.tied for f in clear.finalists)
    assert all(f.tied for f in noisy.finalists)


def test_a_lone_number_ties_with_nothing():
    assert search_module.excess_intervals([candidate(SPACE.container, 2.0)], candidate(SPACE.smallest(), 1.5)) == [
        (0.5, 0.5)
    ]


# Latency, with a clock that reads MACs: 1 ms for a million


def fake_timer(calls):
    def time_subnets(subnets, seconds):
        calls.append((list(subnets), seconds))
        macs = [count_macs(SPACE.backbone, subnet, seconds) / 1e6 for subnet in subnets]
        return [Latency((ms,) * 3, ms, ms) for ms in macs]

    return time_subnets


def test_finalists_over_the_latency_bound_are_dropped():
    finalists = [f.candidate.subnet for f in run(budget=MIDDLE).finalists]
    times = [count_macs(SPACE.backbone, subnet, 1.0) / 1e6 for subnet in finalists]
    fast = [subnet for subnet, ms in zip(finalists, times, strict=True) if ms <= np.median(times)]
    calls = []
    budget = Budget.parse(["60%", f"latency<={np.median(times):.6f}ms@1s"], SPACE)
    result = run(budget=budget, time_subnets=fake_timer(calls))
    assert calls == [(finalists, 1.0)]
    assert [f.candidate.subnet for f in result.finalists] == fast
    assert 1 <= result.num_tied <= len(fast) < 10


def test_what_another_search_scores_meanwhile_wins_if_it_is_fast_enough(path):
    best = SPACE.sample(random.Random(5))
    open_record(path).start("another search")

    class Meanwhile(MadeUpObjective):
        def __call__(self, subnet):
            if len(self.scored) == 15:
                open_record(path).add(candidate(best, *[0.0] * NUM_UTTERANCES))
            return super().__call__(subnet)

    calls, budget = [], Budget.parse("latency<=1000ms@1s", SPACE)
    result = run(open_record(path), budget, Meanwhile(), time_subnets=fake_timer(calls), trials=20)
    assert result.winner.candidate.subnet == best
    assert [len(subnets) for subnets, _ in calls] == [10, 1]  # its own finalists, then what else there is


def test_what_is_better_than_the_winner_but_too_slow_is_not_tied():
    """Larger is better here, and only what is small is fast."""
    smallest, largest = (count_macs(SPACE.backbone, s, 1.0) / 1e6 for s in (SPACE.smallest(), SPACE.container))
    budget = Budget.parse(f"latency<={smallest + 0.3 * (largest - smallest):.3f}ms@1s", SPACE)
    result = run(budget=budget, objective=MadeUpObjective(noise=1e-5), time_subnets=fake_timer([]))
    better = result.largest
    assert better.candidate.subnet == SPACE.container
    assert better.excess[1] < 0
    assert not better.tied
    assert result.winner.tied


def test_when_no_finalist_is_fast_enough_smaller_ones_are_searched():
    calls, objective = [], MadeUpObjective()
    smallest, largest = (count_macs(SPACE.backbone, s, 1.0) / 1e6 for s in (SPACE.smallest(), SPACE.container))
    limit = smallest + 0.3 * (largest - smallest)
    budget = Budget.parse(f"latency<={limit:.3f}ms@1s", SPACE)
    result = run(budget=budget, objective=objective, time_subnets=fake_timer(calls), trials=64)
    assert 0.8 * limit < result.winner.latencies[0].median_ms <= limit
    assert 64 < len(objective.scored) <= 64 + 32 + 1
    assert len(calls) <= 2 + search_module.LATENCY_ROUNDS
    timed = [subnet for subnets, _ in calls for subnet in subnets]
    assert len(timed) == len(set(timed))


class NoisyClock:
    """Reads MACs, give or take a third; a killed one stops before its last reading is known."""

    def __init__(self, seed, readings=10**6):
        self.rng, self.readings = random.Random(seed), readings
        self.read = {}

    def __call__(self, subnets, seconds):
        if len(self.read) + len(subnets) > self.readings:
            raise KilledError
        for subnet in subnets:
            ms = self.rng.uniform(0.67, 1.33) * count_macs(SPACE.backbone, subnet, seconds) / 1e6
            self.read[subnet] = Latency((ms,) * 3, ms, ms)
        return [self.read[subnet] for subnet in subnets]


@pytest.mark.parametrize(("readings", "scores"), [(9, 99), (10, 99), (11, 66), (11, 70), (20, 99), (30, 78), (99, 90)])
def test_a_search_under_latency_that_was_killed_goes_on_as_if_it_never_was(path, tmp_path, readings, scores):
    smallest, largest = (count_macs(SPACE.backbone, s, 1.0) / 1e6 for s in (SPACE.smallest(), SPACE.container))
    budget = Budget.parse(f"latency<={smallest + 0.3 * (largest - smallest):.3f}ms@1s", SPACE)
    first, second = NoisyClock(0, readings), NoisyClock(1)
    killed, resumed = KilledObjective(scores), MadeUpObjective()
    with pytest.raises(KilledError):
        run(open_record(path), budget=budget, objective=killed, time_subnets=first, trials=64)
    result = run(open_record(path), budget=budget, objective=resumed, time_subnets=second, trials=64)

    never_killed, timed = MadeUpObjective(), []

    def read_the_same(subnets, _):
        timed.extend(subnets)
        return [first.read.get(subnet) or second.read.get(subnet) or Latency((1e9,), 1e9, 1e9) for subnet in subnets]

    whole = open_record(tmp_path / "whole.jsonl")
    expected = run(whole, budget=budget, objective=never_killed, time_subnets=read_the_same, trials=64)
    assert killed.scored + resumed.scored == never_killed.scored
    assert [*first.read, *second.read] == timed
    assert summary(result) == summary(expected)
    assert [f.latencies for f in result.finalists] == [f.latencies for f in expected.finalists]
    assert path.read_bytes() == whole.path.read_bytes()


def test_a_search_under_latency_that_came_to_its_end_is_timed_anew(path):
    largest = count_macs(SPACE.backbone, SPACE.container, 1.0) / 1e6
    budget = Budget.parse(f"latency<={largest:.3f}ms@1s", SPACE)
    for expected in ([10], [10]):
        calls = []
        run(open_record(path), budget=budget, time_subnets=fake_timer(calls), trials=20)
        assert [len(subnets) for subnets, _ in calls] == expected
    hopeless = Budget.parse("latency<=0.1ms@1s", SPACE)
    for _ in range(2):
        calls = []
        with pytest.raises(InfeasibleBudget):
            run(open_record(path), budget=hopeless, time_subnets=fake_timer(calls), trials=20)
        assert [len(subnets) for subnets, _ in calls] == [10, 1]


def test_times_of_another_machine_are_not_taken(path, monkeypatch):
    budget = Budget.parse("latency<=1000ms@1s", SPACE)
    record, search_name = open_record(path), "latency<=1000ms@1s; evolution; seed 0"
    run(record, budget=budget, time_subnets=fake_timer([]), trials=20)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], ""]))  # killed before it was done
    for machine, expected in (("", []), ("another machine", [10])):
        calls = []
        if machine:
            monkeypatch.setattr("platform.node", lambda name=machine: name)
            path.write_text("\n".join([*lines[:-1], ""]))
        run(open_record(path), budget=budget, time_subnets=fake_timer(calls), trials=20)
        assert [len(subnets) for subnets, _ in calls] == expected
    assert json.loads(lines[-1])["search"] == search_name


def test_latency_no_subnet_can_hold_names_the_fastest():
    smallest = count_macs(SPACE.backbone, SPACE.smallest(), 1.0) / 1e6
    with pytest.raises(InfeasibleBudget) as caught:
        run(budget=Budget.parse("latency<=0.1ms@1s", SPACE), time_subnets=fake_timer([]))
    assert str(caught.value) == (
        "no subnet was found that holds the budget on this device\n  "
        "latency<=0.1ms@1s: of 11 subnets that were timed, the smallest too, the fastest takes "
        f"{smallest:.4g} ms (95 % interval {smallest:.4g} to {smallest:.4g})"
    )


def test_latency_needs_a_clock():
    with pytest.raises(ValueError, match="latency<=1ms@1s: latency is measured, and there is nothing to measure"):
        run(budget=Budget.parse("latency<=1ms@1s", SPACE))
