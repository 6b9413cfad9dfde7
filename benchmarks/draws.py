"""Which draws of random subnets train the better supernet, at equal compute.

    python benchmarks/draws.py                        every cell that is missing, then benchmarks/draws.md
    python benchmarks/draws.py --trainings tiny --draws subnet size --seeds 1
    python benchmarks/draws.py --page                 the page alone, of the cells there are

A cell is one training by one rule from one seed; it is kept in benchmarks/results/draws/ when it is done, so whatever
stops the command, the same command goes on. All cells of a training and a seed spend in their last stage the FLOPs that
today's rule spends in as many steps as the recipe says; draws that are cheaper get more steps. A step is counted in
closed form: each of its subnets forward and, twice as dear, backward, and the teacher forward. Heads are not counted.

A cell takes some 21 CPU minutes in one thread, 13 to train and 8 to score; there are 36 by default.

Every cell scores the same subnets, drawn once by size: some at each of eight sizes, of every depth, and the two ends.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import accumulate, count, islice, takewhile
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.teachers import Teacher, load_teacher
from checkpoints.versions import made_with
from distillation.factory import SourceFactory
from distillation.stages import Recipe, Stage, load_recipe
from distillation.trainer import Trainer, draw_subnets, generator
from nestling.workflows.scoring import open_probed
from nestling.workflows.training import training_batches
from search_spaces.costs import count_macs, count_params
from search_spaces.draws import Draws, draw_each_size
from search_spaces.files import write_file
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from speech_data.corpus import Corpus
from speech_data.synthesis import FULL, synthesised_corpus
from speech_tasks.intervals import Voices, spread_of_ratio
from speech_tasks.phone_probe import PhoneProbe, hidden_states
from speech_tasks.proxy import DEFAULT_MIX, Proxy
from supernet.model import Supernet

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "draws", HERE / "draws.md"
TODAYS = "subnet"
DRAWS: dict[str, Draws] = {
    "subnet": "subnet",
    "size": "size",
    "depth": "depth",
    "dimension": "dimension",
    "size-subnet": {"size": 0.5, "subnet": 0.5},
    "depth-subnet": {"depth": 0.5, "subnet": 0.5},
}
"""Name of a cell's draws -> what its recipe says."""
NUM_SIZES, EACH_SIZE = 8, 4
CHOSEN_BY = 31
"""The seed of what is scored: of the first forty the one that gives every depth five subnets in both spaces."""
MOST_LOST = 1.0
"""Points of the proxy that a new default may lose at a size or a depth."""
METRICS = ("proxy", "phones")
"""Points, more is better: of the proxy; and of a linear probe of phones, 100 less its error in percent."""


@dataclass(frozen=True)
class Training:
    """What is trained; all cells of one are compared."""

    space: str
    recipe: str


TRAININGS = {
    "tiny": Training("tiny", "demo"),
    "skewed": Training(str(HERE / "draws-skewed.yaml"), "demo"),
}
Cell = dict[str, Any]
"""One training by one rule from one seed: what it was, and its scores in the order of `choose_subnets`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--draws", nargs="+", choices=DRAWS, default=list(DRAWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="Of PyTorch; the figures differ in their last digits.")
    parser.add_argument("--set", nargs="+", default=[], help="Changes of the recipe, as `nestling train` takes them.")
    parser.add_argument("--scale", type=float, default=1.0, help="Audio of the probes over the usual amount.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--page", action="store_true", help="Write the page of the cells there are.")
    arguments = parser.parse_args()
    if (arguments.set or arguments.scale != 1) and arguments.results == RESULTS:
        parser.error("--set and --scale make cells that stand beside no others: name a folder of their own, --results")
    torch.set_num_threads(arguments.threads)
    asked = [(t, d, s) for s in range(arguments.seeds) for t in arguments.trainings for d in arguments.draws]
    for training, draws, seed in asked if not arguments.page else ():
        path = arguments.results / f"{training}-{draws}-{seed}.json"
        if not path.exists():
            cell = run_cell(training, draws, seed, arguments.set, arguments.scale)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(cell) + "\n")
            print(f"{path}: {cell['steps']} steps, {cell['train_seconds']:.0f} s and {cell['score_seconds']:.0f} s")
    write_file(arguments.out, describe([json.loads(p.read_text("utf-8")) for p in sorted(arguments.results.glob("*"))]))


# Cells


def run_cell(training: str, draws: str, seed: int, changes: Sequence[str], scale: float) -> Cell:
    """Trains and scores."""
    began = time.perf_counter()
    what = TRAININGS[training]
    space, corpus, teacher = SearchSpace.load(what.space), open_corpus(), open_teacher()
    recipe = load_recipe(what.recipe, [*changes, f"seed={seed}"])
    recipe, spent = spend_alike(recipe, space, DRAWS[draws])
    supernet = Supernet(space, generator(seed, "weights"))
    supernet.load_encoder(teacher.encoder.state_dict())
    Trainer(
        supernet,
        recipe,
        training_batches(corpus, seed),
        SourceFactory(corpus, teacher.network, seed),
        on_step=lambda _: None,
        on_stage=lambda *_: None,
        on_checkpoint=lambda _: None,
    ).run()
    trained = time.perf_counter()
    return {
        "training": training,
        "draws": draws,
        "seed": seed,
        "space": space.hash,
        "changes": list(changes),
        "threads": torch.get_num_threads(),
        "steps": recipe.stages[-1].steps,
        "flops": 2 * spent,
        "scores": score_subnets(supernet, scale),
        "train_seconds": trained - began,
        "score_seconds": time.perf_counter() - trained,
        "made_with": made_with(),
    }


def score_subnets(supernet: Supernet, scale: float) -> dict[str, list[float]]:
    """Metric -> points of each of `choose_subnets`."""
    phones, proxy = open_probes(scale)
    scores: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for subnet in choose_subnets(supernet.space):
        encode = hidden_states(supernet.extract(subnet))
        scores["proxy"].append(proxy.score(encode).points)
        scores["phones"].append(100 - 100 * phones.score(encode).error)
    return scores


def spend_alike(recipe: Recipe, space: SearchSpace, draws: Draws) -> tuple[Recipe, int]:
    """The recipe, its last stage by these draws for as many steps as spend what today's do; and that stage's MACs."""
    *before, last = recipe.stages
    first = recipe.num_steps - last.steps
    today, ours = (last.model_copy(update={"draws": rule}) for rule in (TODAYS, draws))
    allowed = sum(islice(step_macs(today, space, recipe.seed, first), last.steps))
    spent = list(takewhile(lambda total: total <= allowed, accumulate(step_macs(ours, space, recipe.seed, first))))
    return recipe.model_copy(update={"stages": (*before, ours.model_copy(update={"steps": len(spent)}))}), spent[-1]


def step_macs(stage: Stage, space: SearchSpace, seed: int, first: int) -> Iterator[int]:
    """MACs of each step of a stage whose first step is `first`: subnets forward and backward, the teacher forward."""
    teacher = SearchSpace.load("demo-teacher")
    targets = count_macs(teacher.backbone, teacher.container, stage.crop_seconds)
    for step in count(first):
        drawn = draw_subnets(stage, SimpleNamespace(space=space), seed, step)  # type: ignore[arg-type]
        students = sum(count_macs(space.backbone, subnet, stage.crop_seconds) for _, subnet in drawn)
        yield stage.batch_size * (3 * students + targets)


def choose_subnets(space: SearchSpace) -> list[Subnet]:
    """What every cell scores: the smallest, `EACH_SIZE` at each of `NUM_SIZES`, sizes in turn, and the container."""
    rng = Random(CHOSEN_BY)
    middle = [subnet for _ in range(EACH_SIZE) for subnet in draw_each_size(space, rng, NUM_SIZES)]
    return [space.smallest(), *middle, space.container]


def places(space: SearchSpace) -> dict[str, list[int]]:
    """Where in `choose_subnets` the subnets of each size are, and those of each depth; the ends are of their depth."""
    subnets = choose_subnets(space)
    num_sizes = (len(subnets) - 2) // EACH_SIZE
    sizes = {f"size {i + 1}": list(range(1 + i, len(subnets) - 1, num_sizes)) for i in range(num_sizes)}
    depths = {f"{n} layers": [i for i, s in enumerate(subnets) if len(s.layers) == n] for n in space.depth}
    return sizes | depths | {"all": list(range(len(subnets)))}


@cache
def open_corpus() -> Corpus:
    return synthesised_corpus(FULL)


@cache
def open_teacher() -> Teacher:
    return load_teacher("demo")


@cache
def open_probes(scale: float) -> tuple[PhoneProbe, Proxy]:
    """Neither reads `test`: draws are a choice, so they are compared on `search`."""
    sizes = (max(2, round(scale * usual)) for usual in (240, 80, 200))
    train, tuning, scored = sizes
    phones = PhoneProbe(open_corpus(), "search", num_train=train, num_tuning=tuning, num_scored=scored, last_layers=2)
    return phones, Proxy(open_probed(DEFAULT_MIX, print), DEFAULT_MIX, scale=scale / 3)


# Page


def describe(cells: Sequence[Cell]) -> str:
    """The page."""
    lines = [
        "# Draws of random subnets",
        f"{date.today()}, `python benchmarks/draws.py`, whose head says what spends equal FLOPs. Scores of the same "
        "subnets: points of the proxy and of a linear probe of phones, both on `search`. Differences from today's "
        f"draws (`{TODAYS}`), paired by seed and subnet; after each ± half of a 95 % interval over seeds and subnets. "
        "Synthesised speech, never SUPERB.",
    ]
    if not cells:
        return "\n\n".join([*lines, "No cell is computed yet.\n"])
    computed = {cell["training"] for cell in cells}
    found = {name: compare(name, cells) for name in TRAININGS if name in computed}
    for name, compared in found.items():
        lines += [*describe_training(name, cells, compared)]
    lines.append(decide(found))
    made = sorted({json.dumps(cell["made_with"]) for cell in cells})
    return "\n\n".join([*lines, "Made with: " + "; ".join(f"`{each}`" for each in made)]) + "\n"


Difference = tuple[float, float]
"""Mean, and half of its 95 % interval."""
Compared = dict[str, dict[str, dict[str, Difference]]]
"""Draws -> metric -> place -> how much better than today's."""


def compare(training: str, cells: Sequence[Cell]) -> Compared:
    """Every rule that has seeds in common with today's, against today's."""
    space = SearchSpace.load(TRAININGS[training].space)
    where = places(space)
    by_draws: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        if cell["training"] == training and cell["space"] == space.hash:
            by_draws.setdefault(cell["draws"], {})[cell["seed"]] = cell
    today = by_draws.pop(TODAYS, {})
    compared: Compared = {}
    for draws in (name for name in DRAWS if name in by_draws):
        seeds = sorted(by_draws[draws].keys() & today.keys())
        for metric in METRICS if seeds else ():
            ours, theirs = (np.array([of[s]["scores"][metric] for s in seeds]) for of in (by_draws[draws], today))
            differences = {place: average((ours - theirs)[:, chosen]) for place, chosen in where.items()}
            compared.setdefault(draws, {})[metric] = differences
    return compared


def average(differences: NDArray[np.float64]) -> Difference:
    """The mean over seeds and subnets, (S, N), and how sure it is."""
    voices = Voices((None,) * differences.shape[1], tuple(map(str, range(differences.shape[1]))))
    tallies = np.stack([differences, np.ones_like(differences)], axis=-1)
    return float(differences.mean()), spread_of_ratio("draws", tallies, voices).half_interval


def describe_training(name: str, cells: Sequence[Cell], compared: Compared) -> Iterator[str]:
    """Its cells, then the differences at every place."""
    space = SearchSpace.load(TRAININGS[name].space)
    mine = [cell for cell in cells if cell["training"] == name and cell["space"] == space.hash]
    subnets = choose_subnets(space)
    params = [count_params(space.backbone, subnet) for subnet in subnets]
    yield f"## {name}"
    yield f"{len(subnets)} subnets of `{space.name}`, {params[0]:,} to {params[-1]:,} parameters."
    rows = ["| draws | seeds | steps | FLOPs | proxy | phones |", "|---|---:|---:|---:|---:|---:|"]
    for draws in DRAWS:
        of = [cell for cell in mine if cell["draws"] == draws]
        if of:
            steps, flops = (
                " … ".join(sorted({f"{cell[key]:{form}}" for cell in of}))
                for key, form in (("steps", ","), ("flops", ".3g"))
            )
            means = [f"{np.mean([cell['scores'][metric] for cell in of]):.2f}" for metric in METRICS]
            rows.append(f"| {draws} | {len(of)} | {steps} | {flops} | {' | '.join(means)} |")
    yield "\n".join(rows)
    where = places(space)
    for metric in METRICS if compared else ():
        heads = [f"{place} ({np.mean([params[i] for i in chosen]) / 1e6:.2f} M)" for place, chosen in where.items()]
        rows = [f"| {metric} | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
        for draws, by_metric in compared.items():
            shown = [f"{mean:+.2f} ± {half:.2f}" for mean, half in by_metric[metric].values()]
            rows.append(f"| {draws} | {' | '.join(shown)} |")
        yield "\n".join(rows)


def decide(found: Mapping[str, Compared]) -> str:
    """The default by the rule that was set before anything was measured."""
    rule = (
        f"Rule: of those draws that in no training lose more than {MOST_LOST:g} point of the proxy at a size or a "
        "depth, and are better by more than the interval in every training, the best mean over the sizes."
    )
    if missing := [name for name in TRAININGS if name not in found]:
        rule += f" Not computed yet: {', '.join(missing)}."
    gains: dict[str, float] = {}
    for draws in DRAWS:
        by_place = [compared[draws]["proxy"] for compared in found.values() if draws in compared]
        if len(by_place) < len(found):
            continue
        worst = min(mean for each in by_place for mean, _ in each.values())
        sure = all(each["all"][0] > each["all"][1] for each in by_place)
        if worst >= -MOST_LOST and sure:
            sizes = [mean for each in by_place for place, (mean, _) in each.items() if place.startswith("size")]
            gains[draws] = float(np.mean(sizes))
    if not gains:
        return f"{rule} None beats today's, so they stay: `{TODAYS}`."
    best = max(gains, key=gains.__getitem__)
    return f"{rule} That is `{best}`, {gains[best]:+.2f} points over the sizes."


if __name__ == "__main__":
    main()
