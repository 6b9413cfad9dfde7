"""What ranks subnets of one size: the score of a search, its rivals, and what probes say.

    python -m benchmarks.score cells  # trains two supernets where runs/score lacks them, then makes a cell each subnet
    python -m benchmarks.score page > benchmarks/score.md

A cell is one subnet of one run: its score by every candidate, on `search`, and its errors in probes that are fitted on
`train` and scored on `dev`. Cells lie in benchmarks/results/score, are small, and are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from benchmarks.score_cells import (
    BANDS,
    CELLS,
    DEFAULT,
    EACH,
    NUM_SCORED,
    OBJECTIVES,
    PENALTIES,
    PROBES,
    draw_subnets,
    make_cells,
)
from checkpoints.versions import made_with
from search_spaces.randomness import generator
from search_spaces.space import SearchSpace
from speech_tasks.proxy import DEFAULT_MIX

DRAWS = 4000
READ = ("last", "weighted", "middle and last", "every")
WANTED = ("mean", "upper", "all")
FITTED = ("cross", "half", "train")
SIMPLEST_FIRST = tuple(f"{x} → {y}, {z}" for x in READ for z in FITTED for y in WANTED)
"""Few states before many; one forward pass for each scored utterance before two; few targets before many."""
PROXY = DEFAULT_MIX
TRUTHS = {"proxy": PROXY, "phones": ("phones",)}
OLD, IDENTITY = "trained heads", "trained heads, identity"
SHALLOW, DEEP = 3, 5


@dataclass(frozen=True)
class Judged:
    """Numbers of a candidate in every draw of subnets, by truth; the first draw is the subnets themselves."""

    tau: tuple[np.ndarray, ...]
    bias: tuple[np.ndarray, ...]

    @property
    def fair(self) -> bool:
        """Whether neither bias excludes 0."""
        return all(map(holds_zero, self.bias))

    def less(self, other: Judged) -> list[np.ndarray]:
        """The differences of τ."""
        return [mine - theirs for mine, theirs in zip(self.tau, other.tau, strict=True)]


class Table:
    """Cells as arrays: runs R, bands B, subnets of a band N."""

    def __init__(self, cells: Sequence[Mapping[str, Any]]) -> None:
        found = {(c["run"], c["id"]): c for c in cells}
        drawn = draw_subnets(SearchSpace.load("tiny"))
        self.cells = [
            [[found[run, subnet.id] for at, subnet in drawn if at == band] for band in BANDS] for run in OBJECTIVES
        ]
        rng = generator("subnets of a band", EACH)
        counts = rng.multinomial(EACH, np.full(EACH, 1 / EACH), (DRAWS, len(BANDS)))
        self.counts = np.concatenate([np.ones((1, *counts.shape[1:])), counts])  # (1 + DRAWS, B, N), alike in all runs
        depths = np.array([[len(c["kept"]) for c in band] for band in self.cells[0]])
        self.shallow, self.deep = depths <= SHALLOW, depths >= DEEP

    def values(self, of: Callable[[Mapping[str, Any]], float]) -> np.ndarray:
        """(R, B, N)."""
        return np.array([[[of(c) for c in band] for band in run] for run in self.cells])

    def errors(self, probes: Sequence[str], half: int | None = None) -> np.ndarray:
        """Mean error of some probes, on every second clip or on all."""
        halves = (0, 1) if half is None else (half,)
        return self.values(lambda c: float(np.mean([c["errors"][p][h] for p in probes for h in halves])))

    def scores(self, name: str) -> np.ndarray:
        """Of a candidate; where a run has not got it, of the trained heads."""
        return self.values(lambda c: c["scores"].get(name, c["scores"][OLD]))

    def tau(self, x: np.ndarray, y: np.ndarray, runs: slice = slice(None)) -> np.ndarray:
        """Kendall's, mean over bands and runs, in each draw; a subnet drawn twice is no pair with itself."""

        def add(pairs: np.ndarray) -> np.ndarray:  # (R, B, N, N) -> (D, R, B)
            return np.asarray(np.einsum("dbi,rbij,dbj->drb", self.counts, pairs, self.counts, optimize=True))

        return np.asarray(tau_b(x[runs], y[runs], add).mean((1, 2)))

    def bias(self, score: np.ndarray, halves: Sequence[np.ndarray], runs: slice = slice(None)) -> np.ndarray:
        """What the score of shallow subnets is above what probes predict, less that of deep ones, in deviations.

        A positive bias favours deep subnets. Halves of the clips err apart, so that their covariance is the variance
        of what they measure, and the line is not flattened by their noise.
        """
        score = score[runs] / score[runs].std(-1, keepdims=True)
        first, second = (h[runs] for h in halves)
        both, w = (first + second) / 2, self.counts[:, None] / EACH  # (D, 1, B, N)

        def centre(v: np.ndarray) -> np.ndarray:
            return np.asarray(v - (w * v).sum(-1, keepdims=True))  # (D, R, B, N)

        slope = (w * centre(score) * centre(both)).sum((2, 3)) / (w * centre(first) * centre(second)).sum((2, 3))
        rest = centre(score) - slope[:, :, None, None] * centre(both)
        ends = [(w * rest * at).sum(-1) / np.maximum((w * at).sum(-1), 1e-9) for at in (self.shallow, self.deep)]
        return np.asarray((ends[0] - ends[1]).mean((1, 2)))


def tau_b(x: np.ndarray, y: np.ndarray, add: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Kendall's τ with ties (its form b) of the last axis; `add` sums over pairs, (..., N, N)."""
    first, second = (np.sign(v[..., :, None] - v[..., None, :]) for v in (x, y))
    return np.asarray(add(first * second) / np.sqrt(add(first**2) * add(second**2)))


def show(values: np.ndarray) -> str:
    """A number and its 95 % interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:+.2f} [{low:+.2f}, {high:+.2f}]"


def holds_zero(values: np.ndarray) -> bool:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return bool(low <= 0 <= high)


def show_page() -> None:
    """All tables, from the cells alone."""
    cells = [json.loads(path.read_text()) for path in sorted(CELLS.glob("*/*.json"))]
    table = Table(cells)
    print(f"# What ranks subnets of one size\n\n{date.today()}, `python -m benchmarks.score page`, {made_with()}\n")
    print(INTRODUCTION.format(runs=len(OBJECTIVES), bands=len(BANDS), each=EACH, scored=NUM_SCORED))
    seconds = np.array([c["seconds"] for c in cells]).mean(0)
    errors = table.errors(PROXY)
    print(
        f"{len(cells)} cells, {seconds[0]:.0f} s of CPU each for all candidates and {seconds[1]:.0f} s for probes. The "
        f"proxy's errors run from {errors.min():.1%} to {errors.max():.1%}, with a standard deviation of "
        f"{errors.std(-1).mean():.1%} within a band.\n"
    )
    judged = {name: judge(table, name) for name in (OLD, IDENTITY, *SIMPLEST_FIRST)}
    chosen = show_candidates(judged)
    show_runs(table, chosen)
    show_probes(table, chosen)
    show_penalties(table)
    show_sizes(table, chosen)


def judge(table: Table, name: str) -> Judged:
    score = table.scores(name)
    return Judged(
        tuple(table.tau(score, table.errors(probes)) for probes in TRUTHS.values()),
        tuple(table.bias(score, [table.errors(probes, half) for half in (0, 1)]) for probes in TRUTHS.values()),
    )


INTRODUCTION = """{runs} supernets of `tiny`, distilled from the demo teacher by the demo's recipe: `layers` with its
own terms (each layer, L1 and cosine), `mean` with L1 and cosine of the last state with the mean of the teacher's last
two thirds. Of each the same subnets: {bands} bands of parameters (±7 %), {each} subnets each, one after another of
every depth from 6 to 2, drawn uniformly within band and kept path. Scores hear {scored} utterances of `search`. What
they are held against hears others: probes fitted on `train` and scored on `dev`. There are two truths: the proxy (mean
error of phones, keywords and verification of voices) and phones alone. Kendall's τ (τ-b, where there are ties) is the
mean over bands and runs; intervals are 95 %, by bootstrap over the subnets of a band (the same in both runs), so that
two candidates compare on the same draws. Synthesised speech, never SUPERB.

- **trained heads**: the score until November 2026, the training loss with its heads, mean over the kept layers.
- **trained heads, identity**: a dropped layer is the identity, so that all heads are asked; in `mean` as above.
- **x → y**: ridge regression in closed form from the last state, the last and the middle one, all (every) or their best
  weighted sum, to all of the teacher's layers, its upper two thirds, or the mean of these; the unexplained share of
  their variance. Fitted on half of the utterances and scored on the others (half), that and the other way round
  (cross), or fitted on as many utterances of `train`, which costs a second forward pass (train). The weights of the
  sum, one for each state, are fitted on the first half in all three, so that cross and train score what these heard.
- **bias**: how far the score of shallow subnets (3 layers at most) lies above what their probes predict, less the same
  of deep ones (5 or more), in standard deviations within a band; positive is unfair to shallow ones. The line from
  probes to score is corrected for the noise of the probes (covariance of two halves of the clips).
"""


def show_candidates(judged: Mapping[str, Judged]) -> str:
    """Every candidate, and the one that the rule takes."""
    best = max((n for n in judged if judged[n].fair), key=lambda n: sum(tau[0] for tau in judged[n].tau))
    alike = [n for n in SIMPLEST_FIRST if judged[n].fair and all(map(holds_zero, judged[n].less(judged[best])))]
    chosen = alike[0] if alike else best
    heads = [f"{what}, {truth}" for what in ("τ", "less trained heads", "less the best", "bias") for truth in TRUTHS]
    print(f"| candidate | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name in sorted(judged, key=lambda n: -sum(tau[0] for tau in judged[n].tau)):
        one = judged[name]
        rivals = [[""] * len(TRUTHS) if name == n else map(show, one.less(judged[n])) for n in (OLD, best)]
        shown = [*map(show, one.tau), *rivals[0], *rivals[1], *map(show, one.bias)]
        print(f"| {f'**{name}**' if name == chosen else name} | {' | '.join(shown)} |")
    print(
        "\nThe rule: of the candidates whose bias may be 0 against either truth, that of the highest τ (mean of both), "
        f"{best}; of those that cannot be told from it by either, the simplest: **{chosen}**.\n"
    )
    return chosen


def show_runs(table: Table, chosen: str) -> None:
    heads = ("trained heads", "identity", "chosen", "chosen less trained heads", "bias, trained heads", "bias, chosen")
    print(f"## By run\n\n| | truth | {' | '.join(heads)} |\n|---|---|{'---:|' * len(heads)}")
    for i, run in enumerate(OBJECTIVES):
        for truth, probes in TRUTHS.items():
            runs, halves = slice(i, i + 1), [table.errors(probes, half) for half in (0, 1)]
            old, identity, new = (
                table.tau(table.scores(n), table.errors(probes), runs) for n in (OLD, IDENTITY, chosen)
            )
            biases = [table.bias(table.scores(n), halves, runs) for n in (OLD, chosen)]
            print(f"| {run} | {truth} | {' | '.join(map(show, (old, identity, new, new - old, *biases)))} |")
    print()


def show_probes(table: Table, chosen: str) -> None:
    print(
        "## By probe\n\nWith itself: errors on every second clip against errors on the others, which is a ceiling for"
    )
    print("half as many clips.\n\n| | with itself | trained heads | chosen | chosen less trained heads |")
    print("|---|---:|---:|---:|---:|")
    for name, probes in {"proxy": PROXY, **{probe: (probe,) for probe in PROBES}}.items():
        ceiling = table.tau(*(table.errors(probes, half) for half in (0, 1)))
        old, new = (table.tau(table.scores(n), table.errors(probes)) for n in (OLD, chosen))
        print(f"| {name} | {show(ceiling)} | {show(old)} | {show(new)} | {show(new - old)} |")
    print()


def show_penalties(table: Table) -> None:
    print("## Penalty\n\nOf the squared weights, for each frame; last → all, cross; against phones.\n")
    print("| penalty | τ | less the default | bias |\n|---:|---:|---:|---:|")
    name = "last → all, cross, penalty {:g}"
    default = judge(table, name.format(DEFAULT))
    for penalty in PENALTIES:
        one = judge(table, name.format(penalty))
        print(f"| {penalty:g} | {show(one.tau[1])} | {show(one.less(default)[1])} | {show(one.bias[1])} |")
    print()


def show_sizes(table: Table, chosen: str) -> None:
    """What size alone says, within bands and over all of them."""
    truth = table.errors(PROXY)
    predictors = {
        "parameters": table.values(lambda c: -c["params"]),
        "MACs of 1 s": table.values(lambda c: -c["macs"]),
        "layers": table.values(lambda c: -len(c["kept"])),
        "trained heads": table.scores(OLD),
        "chosen": table.scores(chosen),
    }
    print("## Size\n\nAgainst the proxy.\n\n| | τ within bands | τ over all sizes |\n|---|---:|---:|")
    for name, values in predictors.items():
        overall = tau_b(*(v.reshape(len(OBJECTIVES), -1) for v in (values, truth)), np.sum)
        print(f"| {name} | {show(table.tau(values, truth))} | {overall:+.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cells", "page"])
    parser.add_argument("runs", nargs="*", default=list(OBJECTIVES), help="Of which cells are made; default: all.")
    arguments = parser.parse_args()
    if arguments.what == "cells":
        make_cells(arguments.runs)
    else:
        show_page()


if __name__ == "__main__":
    main()
