"""The learning core against an earlier commit's: the same recipe, data and seeds, scored by one code.

    git worktree add ../earlier a6f896b
    cd ../earlier  # for each seed:
    nestling train supernet --space tiny --config demo --precision fp32 --seed 0 --run runs/0
    python benchmarks/learning.py ../earlier/runs/*  # every run that has no cell yet, then benchmarks/learning.md

A run of seed N stands against the cell `tiny-DRAWS-N` of draws.py, which the code of then trained by the same recipe
in fp32. Runs are scored as draws.py scores its cells, some 8 CPU minutes each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import draws
import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.run_folder import RunFolder
from search_spaces.costs import count_params
from search_spaces.files import write_file
from search_spaces.space import SearchSpace
from speech_tasks.intervals import quantile

RESULTS, PAGE = draws.HERE / "results" / "learning", draws.HERE / "learning.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--draws", default=draws.TODAYS, help="Whose cells the runs stand against.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for path in arguments.runs:
        run = RunFolder.open(path)
        kept = RESULTS / f"tiny-{run.config['seed']}.json"
        if not kept.exists():
            scores = draws.score_subnets(run.load_supernet(), 1.0)
            cell = {"seed": run.config["seed"], "scores": scores, "made_with": run.made_with}
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_file(kept, json.dumps(cell) + "\n")
    earlier, now = read(RESULTS, "tiny-?"), read(draws.RESULTS, f"tiny-{arguments.draws}-?")
    write_file(PAGE, describe([(earlier[seed], now[seed]) for seed in earlier if seed in now], arguments.draws))


def read(folder: Path, names: str) -> dict[int, draws.Cell]:
    """Seed -> its cell."""
    cells = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob(f"{names}.json"))]
    return {cell["seed"]: cell for cell in cells}


def describe(pairs: Sequence[tuple[draws.Cell, draws.Cell]], rule: str) -> str:
    """The page."""
    space = SearchSpace.load("tiny")
    params = [count_params(space.backbone, subnet) for subnet in draws.choose_subnets(space)]
    where = {"smallest": [0], "largest": [len(params) - 1]} | draws.places(space)
    lines = [
        "# The learning core against an earlier one",
        f"{date.today()}, `python benchmarks/learning.py`, whose head says what was trained. {len(pairs)} seeds, "
        f"draws by `{rule}`; the same subnets, scored by one code: points of the proxy (a mean of tasks) and of a "
        "linear probe of phones, both on `search`, more is better. Differences are paired by seed and subnet; ± half "
        "of a 95 % interval over seeds and subnets, and with one subnet over seeds. Synthesised speech, never SUPERB.",
    ]
    for metric in draws.METRICS if pairs else ():
        before, after = (np.array([pair[i]["scores"][metric] for pair in pairs]) for i in (0, 1))
        rows = [f"| {metric} | M parameters | before | after | difference |", "|---|---:|---:|---:|---:|"]
        for place, chosen in where.items():
            mean, half = average((after - before)[:, chosen])
            size = np.mean([params[i] for i in chosen]) / 1e6
            sides = f"{before[:, chosen].mean():.2f} | {after[:, chosen].mean():.2f}"
            rows.append(f"| {place} | {size:.2f} | {sides} | {mean:+.2f} ± {half:.2f} |")
        lines.append("\n".join(rows))
    made = sorted({json.dumps(cell["made_with"]) for pair in pairs for cell in pair})
    return "\n\n".join([*lines, "Made with: " + "; ".join(f"`{each}`" for each in made)]) + "\n"


def average(differences: NDArray[np.float64]) -> draws.Difference:
    """The mean over seeds and subnets, (S, N), and how sure it is; of one subnet, over seeds."""
    seeds, num_subnets = differences.mean(1), differences.shape[1]
    if num_subnets > 1:
        return draws.average(differences)
    return float(seeds.mean()), quantile(len(seeds) - 1) * float(seeds.std(ddof=1)) / len(seeds) ** 0.5


if __name__ == "__main__":
    main()
