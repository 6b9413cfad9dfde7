"""Which quick probes rank encoders as the whole suite does, and what they cost.

    python benchmarks/encoders.py runs/shapes RUN…
    nestling evaluate runs/shapes/* demo untrained:demo log-mel mfcc --task all --split both --out runs/suite
    python benchmarks/proxy.py runs/suite --split both > benchmarks/proxy.md

The suite is read from the folder's evaluation.json; the same encoders are opened again and scored by every probe. The
mix is chosen on `dev`, as recipes are: `test` takes no part.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from checkpoints.representations import BASELINES, open_representation
from checkpoints.versions import made_with
from nestling.workflows.evaluation import load_evaluations
from speech_tasks.comparison import MEAN, Comparison, Entry, describe_metric
from speech_tasks.materials import open_materials
from speech_tasks.mix import LEAST, Mix, choose_mix, held_out_agreement, judge_mixes, spearman
from speech_tasks.proxy import DEFAULT_MIX, PROBES, Proxy, ProxyScore, find_probe_materials
from speech_tasks.task import IN_DOMAIN, ON_DEV

NUM_SHOWN = 12


@dataclass(frozen=True)
class Scored:
    """An encoder's points by the suite and by every probe."""

    entry: Entry
    suite: float
    tasks: Mapping[str, float]
    """By metric."""
    probes: ProxyScore
    wall_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where `nestling evaluate --out` wrote.")
    parser.add_argument("--split", default="dev", help="As in `nestling evaluate`; of `both`, `dev` is taken.")
    arguments = parser.parse_args()
    condition = ON_DEV if arguments.split == "both" else IN_DOMAIN
    encoders = score_encoders(load_evaluations(arguments.folder, arguments.split), condition)
    command = f"python benchmarks/proxy.py {arguments.folder} --split {arguments.split}"
    print(f"# The proxy\n\n{date.today()}, `{command}`, {made_with()}\n")
    print(
        f"{len(encoders)} encoders; the suite's mean of tasks on `dev`, in domain, against quick probes, "
        "which are fitted on `train` and scored on `search`. Points, more is better; seconds are CPU seconds of one "
        "process for the costliest encoder, encoding included. Synthesised speech, never SUPERB.\n"
    )
    show_encoders(encoders)
    show_probes(encoders)
    show_mixes(encoders)


def score_encoders(entries: Sequence[Entry], condition: str) -> list[Scored]:
    """Every encoder by every probe."""
    comparison = Comparison(entries)
    proxy = Proxy(open_materials(find_probe_materials(tuple(PROBES)), scored="dev", out_of_domain=False), tuple(PROBES))
    scored = []
    for entry in entries:
        print(f"{entry.name} ({len(scored) + 1} of {len(entries)})", file=sys.stderr, flush=True)
        encoder = open_representation(entry.source)
        if encoder.fingerprint != entry.fingerprint:
            raise SystemExit(f"{entry.source} changed since it was evaluated; evaluate it again")
        cells = {m: comparison.cell(entry, m, condition) for m in (*comparison.counted(condition), MEAN)}
        points = {m: describe_metric(m).to_points(cell.score.value) for m, cell in cells.items() if cell}
        started = time.perf_counter()
        score = proxy.score(encoder.encode)
        scored.append(Scored(entry, points.pop(MEAN), points, score, time.perf_counter() - started))
    return scored


def show_encoders(encoders: Sequence[Scored]) -> None:
    names = tuple(PROBES)
    print(f"| encoder | parameters | suite | {' | '.join(names)} |\n|---|---:|---:|{'---:|' * len(names)}")
    for e in sorted(encoders, key=lambda e: -e.suite):
        points = " | ".join(f"{e.probes.by_probe[name]:.1f}" for name in names)
        print(f"| {e.entry.name} | {e.entry.params or 0:,} | {e.suite:.1f} | {points} |")


def show_probes(encoders: Sequence[Scored]) -> None:
    """Each probe alone, beside the suite and each of its metrics."""
    metrics = list(encoders[0].tasks)
    print("\nRank correlation (Spearman) of each probe with the suite, and with each of its metrics:\n")
    print(f"| probe | seconds | suite | {' | '.join(metrics)} |\n|---|---:|---:|{'---:|' * len(metrics)}")
    for mix in judge(encoders):
        if len(mix.probes) == 1:
            points = [e.probes.by_probe[mix.probes[0]] for e in encoders]
            each = " | ".join(f"{float(spearman(points, [e.tasks[m] for e in encoders])):.2f}" for m in metrics)
            print(f"| {mix.probes[0]} | {mix.seconds:.1f} | {mix.correlation:.3f} | {each} |")


def show_mixes(encoders: Sequence[Scored]) -> None:
    """The cheapest mixes, the one to take, and how sure that is."""
    mixes = judge(encoders)
    best = sorted(mixes, key=lambda mix: -mix.lowest)[:3]
    shown = list(
        dict.fromkeys((*[m for m in mixes if m.lowest >= LEAST][:NUM_SHOWN], *best, *find(mixes, DEFAULT_MIX)))
    )
    learnt = [e for e in encoders if e.entry.source not in BASELINES]
    print("\nMixes: plain means of points. Interval: bootstrap over encoders; lowest: leaving out any one.\n")
    print("| mix | seconds | all encoders | 95 % | lowest | without mfcc and log-mel |\n|---|---:|---:|---:|---:|---:|")
    for m in sorted(shown, key=lambda mix: mix.seconds):
        among = spearman([mean(e, m.probes) for e in learnt], [e.suite for e in learnt])
        print(
            f"| {' + '.join(m.probes)} | {m.seconds:.1f} | {m.correlation:.3f} | {m.low:.2f} … {m.high:.2f} | "
            f"{m.lowest:.3f} | {float(among):.3f} |"
        )
    slowest = max(encoders, key=lambda e: e.probes.seconds)
    print(
        f"\nAll probes together: {slowest.probes.seconds:.1f} CPU seconds for {slowest.entry.name}, "
        f"{slowest.wall_seconds:.1f} s on the clock with {torch.get_num_threads()} threads."
    )
    try:
        chosen = choose_mix(*numbers(encoders))
        agreement = held_out_agreement(*numbers(encoders))
    except ValueError as error:
        print(f"\n{error}.")
        return
    print(
        f"\n`DEFAULT_MIX` should be {chosen.probes}; it is {DEFAULT_MIX}. A mix chosen without an encoder orders it as "
        f"the suite does in {agreement:.1%} of its comparisons with the others."
    )


def judge(encoders: Sequence[Scored]) -> list[Mix]:
    """Every mix."""
    return judge_mixes(*numbers(encoders))


def numbers(
    encoders: Sequence[Scored],
) -> tuple[dict[str, float], dict[str, dict[str, float]], Mapping[str, Mapping[str, float]]]:
    """Points of the suite and of the probes, and the seconds of the costliest encoder."""
    suite = {e.entry.name: e.suite for e in encoders}
    probes = {name: {e.entry.name: e.probes.by_probe[name] for e in encoders} for name in PROBES}
    return suite, probes, max((e.probes for e in encoders), key=lambda score: score.seconds).spent


def find(mixes: Sequence[Mix], probes: Sequence[str]) -> list[Mix]:
    return [mix for mix in mixes if set(mix.probes) == set(probes)]


def mean(encoder: Scored, probes: Sequence[str]) -> float:
    return sum(encoder.probes.by_probe[name] for name in probes) / len(probes)


if __name__ == "__main__":
    main()
