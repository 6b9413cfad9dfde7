"""Searches a run under budgets, and keeps what was found in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from checkpoints.run_folder import RunFolder
from nas.latency import SubnetTimer, describe_load
from nas.proposals import EvolutionProposer, Proposer, RandomProposer
from nas.record import Record
from nas.search import Trial
from nas.search import search as search_space
from nestling.workflows.audio import open_audio_of
from nestling.workflows.listening import SILENT, Listener, by_product
from nestling.workflows.scoring import READ_OUT, Scorer, open_scorer
from nestling.workflows.search_result import RECORD, describe_result, load_result, save_result
from search_spaces.budget import Budget
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace


def parse_budget(texts: Sequence[str], space: SearchSpace, listener: Listener = SILENT) -> Budget:
    """The budget, proven feasible; says so if it does not bind.

    Raises:
        NestlingError: It cannot be read, or no subnet holds it.
    """
    budget = Budget.parse(list(texts), space)
    space.largest(budget)
    if budget.bounds and not space.binds(budget):
        listener.warn(f"{budget.text} does not bind: every subnet of `{space.name}` holds it")
    return budget


def make_proposer(sampler: str, space: SearchSpace) -> Proposer:
    """What proposes subnets.

    Raises:
        NestlingError: There is no such sampler.
    """
    match sampler.partition(":"):
        case ("auto" | "evolution", _, ""):
            return EvolutionProposer(space)
        case ("random", _, ""):
            return RandomProposer(space)
        case ("optuna", _, kind) | (("nsga2" | "tpe") as kind, _, ""):
            from nas.optuna_bridge import OptunaProposer  # noqa: PLC0415 - slow to import

            return OptunaProposer(space, kind)
    raise NestlingError(
        f"--sampler {sampler}: choices are auto, evolution, random, optuna:nsga2, optuna:tpe, optuna:random"
    )


def find_best(folder: RunFolder, space: SearchSpace) -> str | None:
    """The id of what an earlier search chose, if there is one that can be read."""
    try:
        return load_result(folder.search_path, space).finalists[0].id
    except NestlingError:
        return None


def search(
    folder: RunFolder,
    scorer: Scorer,
    budget: Budget,
    trials: int,
    sampler: str = "auto",
    seed: int = 0,
    command: str = "",
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Finds the best subnet of a run under a budget.

    Args:
        folder: The run, locked.
        scorer: Tells the loss of each of its subnets.
        budget: What the subnets must hold.
        trials: How many subnets to score; those that the record has are not scored again.
        sampler: As `make_proposer` takes it.
        seed: What the proposals are drawn from.
        command: That asked for it, for the record.
        listener: Told of every trial.

    Returns:
        What result.json holds now.

    Raises:
        NestlingError: No subnet is fast enough, or the record is damaged.
    """
    from nas.optuna_bridge import write_study  # noqa: PLC0415 - slow to import

    space = scorer.supernet.space
    record = Record(folder.search_path / RECORD, scorer.fingerprint, space.backbone)
    for doubt in record.doubts:
        listener.warn(doubt)
    best = float("inf")

    def on_trial(trial: Trial) -> None:
        nonlocal best
        best = min(best, trial.candidate.score.mean)
        listener.advance(f"{budget.text or 'no budget'}  best loss {best:.4f}")

    if budget.latency:
        listener.warn(describe_load())
    listener.start("search", trials)
    result = search_space(
        space,
        budget,
        scorer,
        make_proposer(sampler, space),
        record,
        trials=trials,
        seed=seed,
        on_trial=on_trial,
        time_subnets=SubnetTimer(scorer.supernet) if budget.latency else None,
    )
    described = describe_result(result, space, scorer.name, scorer.fingerprint, command)
    save_result(folder.search_path, described)
    with by_product(listener):
        write_study(record.candidates, space, folder.search_path / "study.db", scorer.fingerprint)
    return described


def search_run(
    folder: RunFolder,
    budgets: Sequence[Sequence[str]],
    *,
    trials: int = 64,
    sampler: str = "auto",
    seed: int = 0,
    utterances: int = 60,
    audio: str | None = None,
    objective: str = READ_OUT,
    teacher: str | None = None,
    device: str = "cpu",
    command: str = "",
    listener: Listener = SILENT,
) -> list[dict[str, Any]]:
    """Finds the best subnet of a run under each of several budgets; all are checked before anything is spent.

    Args:
        folder: The run.
        budgets: Alternatives, each of texts that must hold together. The last decides what `best` means.
        trials: Subnets to score under each.
        sampler: As `make_proposer` takes it.
        seed: What the proposals are drawn from.
        utterances: Of the search split, to score on.
        audio: Where the run's audio is, if it has moved.
        objective: As `open_scorer` takes it.
        teacher: As `open_scorer` takes it.
        device: Where subnets run.
        command: That asked for it, for the record.
        listener: Told how far it is, and what `best` was until now.

    Returns:
        A result for each budget, as `search` returns it.

    Raises:
        NestlingError: As `parse_budget`, `make_proposer`, `open_scorer` and `search`.
    """
    space = SearchSpace.from_dict(folder.config["space"])
    parsed = [parse_budget(texts, space, listener) for texts in budgets]
    make_proposer(sampler, space)
    with folder.lock(listener.warn):
        corpus = open_audio_of(folder, listener, audio)
        scorer = open_scorer(folder, corpus, utterances, device, listener.note, objective, teacher)
        with _telling_best(folder, space, listener):
            return [search(folder, scorer, budget, trials, sampler, seed, command, listener) for budget in parsed]


@contextmanager
def _telling_best(folder: RunFolder, space: SearchSpace, listener: Listener) -> Iterator[None]:
    """Tells what `best` is from now on, if it was another; also where a later one of several searches fails."""
    before = find_best(folder, space)
    try:
        yield
    finally:
        chosen = find_best(folder, space)
        if before not in (None, chosen):
            listener.note(f"`best` is {chosen} from now on; it was {before}: --subnet {before} still names that")
