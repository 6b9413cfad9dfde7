"""Optuna's samplers as proposers, and every record as a study that Optuna's own tools open.

Searches ask and tell in memory: a storage of Optuna's would commit each of a trial's parameters on its own.
The record stays the truth; `write_study` copies it into SQLite when asked to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from nas.proposals import draw_unseen
from nas.record import Candidate
from search_spaces.budget import Budget
from search_spaces.costs import PARAMS, Cost
from search_spaces.counting import Census
from search_spaces.errors import FailedError, NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from search_spaces.variation import mutate

POPULATION = 24
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "nsga2": lambda seed: NSGAIISampler(population_size=POPULATION, seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
COSTS = (PARAMS, Cost("macs", 1.0), Cost("size"))

Params = dict[str, Any]
"""Parameter -> value, as Optuna sees a subnet."""

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce every study on the user's screen


class OptunaProposer:
    """What an Optuna sampler suggests, made to hold the budget.

    Optuna's own constraints are soft. A suggestion over the budget is repaired instead: a few of its genes,
    or as many as it takes, are drawn anew, uniformly from the values with which it fits. Optuna is told the
    repaired parameters and their loss. A suggestion that was seen before is dropped.

    One instance serves one search: what it has told Optuna stays told.

    Args:
        space: Where to search.
        kind: A key of `SAMPLERS`.

    Raises:
        NestlingError: There is no such sampler.
    """

    def __init__(self, space: SearchSpace, kind: str) -> None:
        if kind not in SAMPLERS:
            raise NestlingError(f"no sampler optuna:{kind}; there are {', '.join(f'optuna:{k}' for k in SAMPLERS)}")
        self.name = f"optuna:{kind}"
        self.space = space
        self._kept = {_kept_text(kept): kept for kept in space.choices["kept"]}
        self._distributions: dict[str, BaseDistribution] = {
            gene: CategoricalDistribution(tuple(self._kept) if gene == "kept" else values)
            for gene, values in space.choices.items()
        }
        self._make_sampler = SAMPLERS[kind]
        self._study = optuna.create_study(direction="minimize", sampler=self._make_sampler(0))
        self._open: list[Trial] = []
        """Asked for, not finished: samplers avoid them within a batch."""
        self._asked: dict[Subnet, Params] = {}
        self._told: set[Subnet] = set()

    def propose(self, rng: Random, history: Sequence[Candidate], budget: Budget, n: int) -> list[Subnet]:
        """See `Proposer`."""
        self._study.sampler = self._make_sampler(rng.getrandbits(32))
        for trial in self._open:
            self._study.tell(trial, state=TrialState.FAIL)  # what became of it is told as a trial of its own
        self._open.clear()
        for candidate in history:
            if candidate.subnet not in self._told:
                self._tell(candidate)
        seen = {candidate.subnet for candidate in history}
        return draw_unseen(lambda: self._ask(rng, budget), self.space, rng, seen, budget, n)

    def _ask(self, rng: Random, budget: Budget) -> Subnet:
        trial = self._study.ask(self._distributions)
        self._open.append(trial)
        genes = {gene: (self._kept[v] if gene == "kept" else v,) for gene, v in trial.params.items()}
        subnet = Census(self.space.boxes(genes)).subnet(0)  # the only one with these genes
        if not budget.holds(self.space.backbone, subnet):
            subnet = mutate(self.space, subnet, rng, budget)
        self._asked[subnet] = trial.params
        return subnet

    def _tell(self, candidate: Candidate) -> None:
        """A finished trial with a candidate's parameters; genes it does not have stay as asked for."""
        subnet = candidate.subnet
        absent = self._asked.get(subnet) or self._params(self.space.container)
        self._study.enqueue_trial(absent | self._params(subnet))
        trial = self._study.ask(self._distributions)
        _ = trial.relative_params  # here NSGA-II notes to which generation the trial belongs
        if candidate.score.failed:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, candidate.score.mean)
        self._told.add(subnet)

    def _params(self, subnet: Subnet) -> Params:
        genes = self.space.genes(subnet)
        return genes | {"kept": _kept_text(genes["kept"])}


def write_study(candidates: Iterable[Candidate], space: SearchSpace, path: Path, name: str) -> None:
    """Adds candidates to a study in an SQLite file; those it holds already are left out.

    A parameter for each gene: heads and inner width are 0 where a layer is not kept. Attributes hold the
    subnet, its id and its costs. Any sampler's candidates will do.

    Args:
        candidates: Of one record. Failed ones become failed trials.
        space: Theirs.
        path: The file; made if there is none. Open it with `optuna-dashboard sqlite:///PATH`.
        name: Of the study. Scores of another fingerprint belong into a study of another name.

    Raises:
        FailedError: The file is damaged or in use, or the disk refused. Nothing else depends on it.
    """
    trials = [_trial(candidate, space) for candidate in candidates]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The path itself and no URL of it: Optuna and SQLAlchemy would each find something to interpret in one.
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": partial(sqlite3.connect, path)})
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
            written = {trial.user_attrs.get("id") for trial in study.get_trials(deepcopy=False)}
            study.add_trials(trial for trial in trials if trial.user_attrs["id"] not in written)
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except Exception as error:  # SQLite, SQLAlchemy and Optuna fail in a dozen ways
        said = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise FailedError(
            f"{path} was not written: {said[0]}; the search is complete without it, and the next one writes it anew "
            "if it is deleted"
        ) from error


def _trial(candidate: Candidate, space: SearchSpace) -> FrozenTrial:
    subnet, failed = candidate.subnet, candidate.score.failed
    params: Params = {f"conv_dims.{i}": width for i, width in enumerate(subnet.conv_dims)}
    params |= {"embed_dim": subnet.embed_dim, "kept": _kept_text(subnet.kept)}
    choices = {gene: values for gene, values in space.choices.items() if gene in params}
    choices["kept"] = tuple(map(_kept_text, space.choices["kept"]))
    ratios = space.ffn_dim or space.ffn_ratio
    genes = space.genes(subnet)
    for k in range(len(space.container.layers)):
        kept = k in subnet.kept
        params[f"heads.{k}"] = genes[f"heads.{k}"] if kept else 0
        params[f"ffn_dim.{k}"] = ratios[genes[f"ffn_dim.{k}"]] if kept else 0
        choices[f"heads.{k}"], choices[f"ffn_dim.{k}"] = (0, *space.heads), (0, *ratios)
    return create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        value=None if failed else candidate.score.mean,
        params=params,
        distributions={gene: CategoricalDistribution(choices[gene]) for gene in params},
        user_attrs={
            "id": subnet.id,
            **{str(cost): cost.count(space.backbone, subnet) for cost in COSTS},
            "subnet": subnet.to_dict(),
        },
    )


def _kept_text(kept: tuple[int, ...]) -> str:
    return " ".join(map(str, kept))
