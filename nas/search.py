"""One loop: propose, score, record. Then say who won, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import numpy as np

from nas.latency import Latency
from nas.proposals import Proposer, propose_first
from nas.record import Candidate, Record, Times
from nas.score import Score
from search_spaces.budget import UNBOUNDED, Bound, Budget, InfeasibleBudget
from search_spaces.costs import Cost
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from speech_tasks.intervals import paired_interval

Objective = Callable[[Subnet], Score]
"""What is minimised. It must give a subnet the same score every time."""
TimeSubnets = Callable[[list[Subnet], float], list[Latency]]
"""Subnets and seconds of audio -> the latency of each, measured side by side."""

NUM_FIRST = 16
"""Subnets that are scored before the proposer is asked."""
BATCH = 8
"""Proposals made at once. Whatever the number of trials, so a longer search begins with the shorter one."""
NUM_FINALISTS = 10
LATENCY_ROUNDS = 4
"""How often another bound on MACs is tried when no finalist is fast enough."""


@dataclass(frozen=True)
class Trial:
    """One step of the loop."""

    number: int
    """Counted from 1."""
    candidate: Candidate
    reused: bool
    """Its score was in the record already."""


@dataclass(frozen=True)
class Finalist:
    """A candidate beside the winner."""

    candidate: Candidate
    excess: tuple[float, float]
    """95 % interval of its loss less the winner's, over the utterances both were scored on."""
    latencies: tuple[Latency, ...] = ()
    """Measured, one for each latency bound; empty if it was not timed."""

    @property
    def tied(self) -> bool:
        """Whether these utterances cannot tell it from the winner. What is better but too slow to win is not tied."""
        return self.excess[0] <= 0.0 <= self.excess[1]


@dataclass(frozen=True)
class SearchResult:
    """Who won, and how sure that is. The best of what was scored: no proof that there is none better."""

    budget: Budget
    finalists: tuple[Finalist, ...]
    """The best that hold the budget, measured bounds included; best first."""
    uniform: Finalist | None
    """The best uniform shape that holds the exact bounds, if one was scored."""
    largest: Finalist | None
    """The largest subnet that holds the exact bounds, unless scoring it failed."""
    utilization: tuple[tuple[Bound, float], ...]
    """For each exact upper bound, the share of it that the winner spends."""
    binds: bool
    """Whether the exact bounds exclude any subnet at all."""
    num_scored: int
    """Candidates in the record that hold the exact bounds and have a finite score."""
    num_evaluated: int
    """Scored by this call; the others were known."""
    num_failed: int
    """Candidates in the record that hold the exact bounds but have no finite score."""
    num_tied: int
    """Candidates that hold the budget and cannot be told from the winner, itself included."""

    @property
    def winner(self) -> Finalist:
        """The best."""
        return self.finalists[0]


def search(
    space: SearchSpace,
    budget: Budget,
    objective: Objective,
    proposer: Proposer,
    record: Record,
    *,
    trials: int,
    seed: int = 0,
    on_trial: Callable[[Trial], None] | None = None,
    time_subnets: TimeSubnets | None = None,
) -> SearchResult:
    """Finds a good subnet that holds a budget.

    What is proposed depends on the space, the budget, the proposer, the seed and what the record held when
    this search first started; under latency bounds on what was timed, too. So a killed search that is called again
    on the same machine makes the same proposals, takes their scores and times from the record, and goes on. One that
    came to its end is timed anew. A search with another budget starts from all that the record holds.

    Args:
        space: Where to search.
        budget: Exact bounds hold for everything that is scored. Latency bounds are checked on the finalists,
            with a clock; if none is fast enough, smaller ones are searched, for half as many trials (or 32).
        objective: What is minimised.
        proposer: Made for this search, since it may keep state.
        record: Of the objective's fingerprint.
        trials: Subnets to score beside those known when the search first started.
        seed: Of all proposals.
        on_trial: Called after each trial.
        time_subnets: Needed if the budget bounds latency.

    Raises:
        InfeasibleBudget: Nothing holds the budget; says what is nearest.
        NestlingError: No trials, no clock for a latency bound, or not one subnet with a finite score.
    """
    if trials < 1:
        raise NestlingError(f"a search needs at least one trial; got {trials}")
    if budget.latency and time_subnets is None:
        raise ValueError(f"{budget.text}: latency is measured, and there is nothing to measure it with")
    space.largest(budget)  # an impossible budget fails here
    name = f"{budget.text or 'no budget'}; {proposer.name}; seed {seed}"
    known = record.start(name)
    loop = _Loop(space, objective, proposer, record, seed, known, on_trial)
    loop.run(budget, trials, NUM_FIRST)
    best = loop.rank(budget)[:NUM_FINALISTS]
    measured: Times = {}
    if best and budget.latency and time_subnets:
        try:
            best, measured = _keep_fast(loop, budget, trials, _Clock(budget, time_subnets, record, name))
        except InfeasibleBudget:
            record.finish(name)
            raise
        record.finish(name)
    if not best:
        raise NestlingError("no subnet has a finite loss; look at the supernet's losses in training, or at the audio")
    return _judge(loop, budget, best, measured)


class _Loop:
    """The candidates of one search as they come."""

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        proposer: Proposer,
        record: Record,
        seed: int,
        known: Iterable[Candidate],
        on_trial: Callable[[Trial], None] | None,
    ) -> None:
        self.space, self.objective, self.proposer, self.record = space, objective, proposer, record
        self.seed, self.known, self.on_trial = seed, tuple(known), on_trial
        self.tried: list[Candidate] = []
        self.num_evaluated = 0

    def run(self, budget: Budget, trials: int, num_first: int) -> None:
        """Scores `trials` subnets that hold the budget, or all that are left; `num_first` by fixed rules."""
        end = len(self.tried) + trials
        propose: Callable[[Random, Sequence[Candidate], Budget, int], list[Subnet]]
        propose, size = partial(propose_first, self.space), num_first
        while len(self.tried) < end:
            rng = Random(f"{self.seed}/{len(self.tried)}")
            # Scores that came into the record since this search first started would change its course.
            history = self.holding(budget, self.own)
            proposed = propose(rng, history, budget, size)
            if not proposed:
                return  # all that hold the budget are scored
            for subnet in proposed[: end - len(self.tried)]:
                self.score(subnet)
            propose, size = self.proposer.propose, BATCH

    def score(self, subnet: Subnet) -> Candidate:
        """Looks a subnet up, or scores and records it."""
        known = self.record.find(subnet)
        candidate = known or self.record.add(Candidate(subnet, self.objective(subnet)))
        self.num_evaluated += known is None
        self.tried.append(candidate)
        if self.on_trial:
            self.on_trial(Trial(len(self.tried), candidate, reused=known is not None))
        return candidate

    @property
    def own(self) -> list[Candidate]:
        """What was known when this search first started, and what it has tried since."""
        return list(dict.fromkeys((*self.known, *self.tried)))

    def rank(self, budget: Budget, candidates: Iterable[Candidate] | None = None) -> list[Candidate]:
        """Those with a finite score that hold the exact bounds, best first; by default of all in the record."""
        among = self.record.candidates if candidates is None else candidates
        scored = [c for c in self.holding(budget, among) if not c.score.failed]
        return sorted(scored, key=lambda candidate: candidate.rank)

    def holding(self, budget: Budget, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those that hold the exact bounds."""
        return [c for c in candidates if budget.holds(self.space.backbone, c.subnet)]


class _Clock:
    """Times subnets for one search, each once, even if it is killed in between."""

    def __init__(self, budget: Budget, time_subnets: TimeSubnets, record: Record, search: str) -> None:
        self.budget, self.time_subnets, self.record, self.search = budget, time_subnets, record, search
        self.measured = dict(record.times(search))

    def keep(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that are measured to hold the latency bounds."""
        subnets = [candidate.subnet for candidate in candidates if candidate.subnet not in self.measured]
        if subnets:
            columns = [self.time_subnets(subnets, bound.seconds) for bound in self.budget.latency]
            times = dict(zip(subnets, zip(*columns, strict=True), strict=True))
            self.record.add_times(self.search, times)
            self.measured.update(times)
        return [candidate for candidate in candidates if _is_fast(self.budget, self.measured[candidate.subnet])]


def _keep_fast(loop: _Loop, budget: Budget, trials: int, clock: _Clock) -> tuple[list[Candidate], Times]:
    """The finalists that are measured to hold the latency bounds, best first, and all that was measured.

    If there are none, the search goes on under other bounds on MACs, by bisection. Its course depends on this search's
    own candidates alone; at last, whatever else is in the record may win, too.
    """
    finalists = loop.rank(budget, loop.own)[:NUM_FINALISTS]
    kept = clock.keep(finalists) or _search_smaller(loop, budget, finalists, trials, clock)
    kept += clock.keep(loop.rank(budget)[:NUM_FINALISTS])
    unique = [candidate for candidate in dict.fromkeys(kept) if not candidate.score.failed]
    return sorted(unique, key=lambda candidate: candidate.rank), clock.measured


def _search_smaller(
    loop: _Loop, budget: Budget, finalists: list[Candidate], trials: int, clock: _Clock
) -> list[Candidate]:
    """Candidates that are fast enough where none of the finalists is."""
    cost = Cost("macs", max(bound.seconds for bound in budget.latency))
    macs = partial(cost.count, loop.space.backbone)
    smallest = loop.space.smallest(replace(budget, bounds=(Bound(cost), *budget.bounds)))
    if not (kept := clock.keep([loop.score(smallest)])):
        raise InfeasibleBudget(*_explain_too_slow(budget, clock.measured))
    low, high = macs(smallest), min(macs(candidate.subnet) for candidate in finalists)
    for _ in range(LATENCY_ROUNDS):
        middle = (low + high) // 2
        narrowed = replace(budget, bounds=(*budget.bounds, Bound(cost, high=middle)))
        loop.run(narrowed, max(BATCH, trials // (2 * LATENCY_ROUNDS)), BATCH)
        fast = clock.keep(loop.rank(narrowed, loop.own)[:NUM_FINALISTS])
        kept += fast
        low, high = (middle, high) if fast else (low, middle)
    return kept


def _is_fast(budget: Budget, latencies: tuple[Latency, ...]) -> bool:
    return all(latency.median_ms <= bound.high_ms for bound, latency in zip(budget.latency, latencies, strict=True))


def _explain_too_slow(budget: Budget, measured: Times) -> list[str]:
    lines = ["no subnet was found that holds the budget on this device"]
    for bound, *latencies in zip(budget.latency, *measured.values(), strict=True):
        fastest = min(latencies, key=lambda latency: latency.median_ms)
        lines.append(
            f"{bound}: of {len(latencies)} subnets that were timed, the smallest too, the fastest takes "
            f"{fastest.median_ms:.4g} ms (95 % interval {fastest.low_ms:.4g} to {fastest.high_ms:.4g})"
        )
    return lines


def _judge(loop: _Loop, budget: Budget, best: list[Candidate], measured: Times) -> SearchResult:
    """Compares the best, all of which hold the budget, with the first of them."""
    scored = loop.rank(budget)
    winner = best[0]
    intervals = dict(zip(scored, excess_intervals(scored, winner), strict=True))

    def finalist(candidate: Candidate) -> Finalist:
        return Finalist(candidate, intervals[candidate], measured.get(candidate.subnet, ()))

    largest, uniform_shapes = loop.space.largest(budget), set(loop.space.uniform_shapes(budget))
    return SearchResult(
        budget=budget,
        finalists=tuple(map(finalist, best[:NUM_FINALISTS])),
        uniform=next((finalist(c) for c in scored if c.subnet in uniform_shapes), None),
        largest=next((finalist(c) for c in scored if c.subnet == largest), None),
        utilization=tuple(
            (bound, bound.cost.count(loop.space.backbone, winner.subnet) / bound.high)
            for bound in budget.bounds
            if bound.high < UNBOUNDED
        ),
        binds=loop.space.binds(budget),
        num_scored=len(scored),
        num_evaluated=loop.num_evaluated,
        num_failed=len(loop.holding(budget, loop.record.candidates)) - len(scored),
        num_tied=sum(finalist(candidate).tied for candidate in (best if budget.latency else scored)),
    )


def excess_intervals(candidates: Sequence[Candidate], reference: Candidate) -> list[tuple[float, float]]:
    """For each candidate, the 95 % interval of its mean loss less that of `reference`: Student's, of paired utterances.

    Both are scored on the same utterances, so what is hard for all cancels out. A score that is one lone number has no
    spread: its interval is a point.
    """
    excess = np.array([c.score.per_utterance for c in candidates], np.float64) - reference.score.per_utterance
    return [(low, high) for low, high in paired_interval(excess).tolist()]
