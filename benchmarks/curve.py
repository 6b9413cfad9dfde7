"""The demo's curve: phone error against size on `test`, beside the smallest shape trained alone.

    python benchmarks/curve.py RUN > benchmarks/curve.md

RUN is a finished run of `nestling demo`. The smallest shape alone starts from the same slices of the teacher, and gets
as many steps as the supernet took in both stages, on the same batches; its share of the compute is counted in MACs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from checkpoints.jobs import training_batches
from checkpoints.run_folder import RunFolder, made_with
from checkpoints.teachers import load_teacher
from distillation.factory import SourceFactory
from distillation.stages import Recipe
from distillation.trainer import Trainer, draw_subnets, generator
from search_spaces.costs import count_macs
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from speech_data.synthesis import FULL, synthesised_corpus
from speech_tasks.curve import Point, describe_spread, measure_curve
from speech_tasks.phone_probe import PhoneProbe, hidden_states
from supernet.encoder import Encoder
from supernet.model import Supernet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = RunFolder.open(parser.parse_args().run)
    recipe = parse_config(Recipe, run.config["recipe"])
    precision = run.config["precision"]
    supernet = run.load_supernet()
    teacher = load_teacher(run.config["teacher"]).encoder
    probe = PhoneProbe(synthesised_corpus(FULL, allow_test=True), "test", num_train=400, num_tuning=150)
    points = measure_curve(supernet, teacher, probe, [], num_middle=3, on_progress=lambda _: None)
    alone = train_alone(supernet, teacher, recipe, precision)
    score = probe.score(hidden_states(alone))
    share = alone_share(supernet, recipe)
    points.insert(
        2, Point("smallest, alone", "subnet", points[1].params, score.error, score.half_interval, score.layer, share)
    )
    print(f"# Phone error against size\n\n{date.today()}, `python benchmarks/curve.py {run.path}`, {made_with()}\n")
    print("Linear probe on frozen features, 400 training utterances, unseen voices and sentences, noise and rooms.")
    print("Synthesised speech: a sanity figure, never SUPERB.\n")
    print("| encoder | parameters | phone error, `test` | layer | share of the compute |\n|---|---:|---:|---:|---:|")
    for p in points:
        size = f"{p.params:,}" if p.params else "–"
        spent = f"{p.compute_share:.1%}" if p.compute_share else ""
        print(f"| {p.label} | {size} | {100 * p.error:.1f} % ± {100 * p.half_interval:.1f} | {p.layer} | {spent} |")
    if warning := describe_spread([p for p in points if p.compute_share is None]):
        print(f"\n{warning}")


def train_alone(supernet: Supernet, teacher: Encoder, recipe: Recipe, precision: str) -> Encoder:
    """The smallest subnet's shape, distilled by itself from the same start."""
    smallest = supernet.space.smallest()
    space = one_subnet(supernet.space)
    start = Supernet(supernet.space, generator(recipe.seed, "weights"))
    start.load_encoder(teacher.state_dict())
    alone = Supernet(space, generator(recipe.seed, "weights"))
    alone.load_encoder(start.extract(smallest).state_dict())
    last = recipe.stages[-1]
    stage = last.model_copy(update={"subnets": "container", "reorder": False, "steps": recipe.num_steps})
    corpus = synthesised_corpus(FULL)

    Trainer(
        alone,
        recipe.model_copy(update={"stages": (stage,)}),
        training_batches(corpus, recipe.seed),
        SourceFactory(corpus, teacher, recipe.seed),
        on_step=lambda _: None,
        on_stage=lambda *_: None,
        on_checkpoint=lambda _: None,
        precision="bf16" if precision == "bf16" else "fp32",
    ).run()
    return alone.extract(space.container)


def one_subnet(space: SearchSpace) -> SearchSpace:
    """The space whose only subnet has the shape of the smallest of `space`."""
    smallest = space.smallest()
    layer = smallest.layers[0]
    return replace(
        space,
        conv_dims=tuple((c,) for c in smallest.conv_dims),
        embed_dim=(smallest.embed_dim,),
        heads=(layer.heads,),
        ffn_dim=(layer.ffn_dim,),
        depth={len(smallest.layers): (tuple(range(len(smallest.layers))),)},
    )


def alone_share(supernet: Supernet, recipe: Recipe) -> float:
    """MACs of training the smallest alone, over those of the supernet; the teacher is left out."""
    space = supernet.space
    spent = 0
    for stage in recipe.stages:
        for step in range(stage.steps):
            spent += sum(
                count_macs(space.backbone, s, 2.0) for _, s in draw_subnets(stage, supernet, recipe.seed, step)
            )
    return recipe.num_steps * count_macs(space.backbone, space.smallest(), 2.0) / spent


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
