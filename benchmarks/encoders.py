"""Writes encoders of different shape out of trained supernets: what a proxy is validated on.

    python benchmarks/encoders.py FOLDER RUN… [--alone]

Every run gives eleven: the container, the smallest, a middle one, one that is small along each single axis, and the
largest under three budgets. `nestling evaluate` opens them as FOLDER/NAME. With --alone there is a twelfth, of the
smallest shape, trained by itself: from the same slices of the teacher, in as many steps as the supernet took in both
stages, on the same batches.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from checkpoints.export import write_encoder
from checkpoints.run_folder import RunFolder
from checkpoints.teachers import load_teacher
from distillation.factory import SourceFactory
from distillation.stages import Recipe
from distillation.trainer import Trainer, draw_subnets, generator
from nestling.workflows.training import training_batches
from search_spaces.budget import Budget
from search_spaces.costs import count_macs, count_params
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from search_spaces.subnet import Layer, Subnet
from speech_data.synthesis import FULL, synthesised_corpus
from supernet.encoder import Encoder
from supernet.model import Supernet

SHARES = ("60%", "30%", "15%")
"""Budgets, of the container's parameters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--alone", action="store_true", help="Train the smallest shape alone too.")
    arguments = parser.parse_args()
    for run in arguments.runs:
        for path in write_encoders(run, arguments.folder):
            print(path)
        if arguments.alone:
            print(write_alone(run, arguments.folder))


def write_encoders(run: Path, folder: Path) -> list[Path]:
    """Writes the subnets of a run that `name_shapes` names, each into a folder of its own.

    Raises:
        ValueError: The run has no supernet, or a folder is there already.
    """
    supernet = RunFolder.open(run).load_supernet()
    paths = []
    for name, subnet in name_shapes(supernet.space).items():
        path = folder / f"{run.name}-{name}"
        if path.exists():
            raise ValueError(f"{path} exists; delete it, or name another folder")
        write_encoder(supernet.extract(subnet), path)
        params = count_params(supernet.space.backbone, subnet)
        paths.append(path.rename(path.with_name(f"{path.name}-{params / 1e6:.2f}M")))
    return paths


def write_alone(path: Path, folder: Path) -> Path:
    """Trains the smallest shape of a run alone, and tells its share of the supernet's compute."""
    run = RunFolder.open(path)
    recipe = parse_config(Recipe, run.config["recipe"])
    supernet = run.load_supernet()
    alone = train_alone(supernet, load_teacher(run.config["teacher"]).encoder, recipe, run.config["precision"])
    print(f"the smallest alone takes {alone_share(supernet, recipe):.1%} of the supernet's compute")
    written = folder / f"{path.name}-smallest-alone"
    write_encoder(alone, written)
    return written


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


def name_shapes(space: SearchSpace) -> dict[str, Subnet]:
    """Subnets that differ in every way a space allows; each once, under the name it first gets."""
    whole = space.container
    depth = min(space.depth)
    named = {
        "container": whole,
        "smallest": space.smallest(),
        "middle": _middle(space),
        "thin-front-end": replace(whole, conv_dims=tuple(map(min, space.conv_dims))),
        "narrow": replace(whole, embed_dim=min(space.embed_dim)),
        "few-heads": replace(whole, layers=tuple(Layer(min(space.heads), x.ffn_dim) for x in whole.layers)),
        "small-ffn": replace(whole, layers=tuple(Layer(x.heads, min(space.ffn_dim)) for x in whole.layers)),
        "shallow": replace(whole, layers=whole.layers[:depth], kept=space.depth[depth][-1]),
        **{f"under-{share.removesuffix('%')}-percent": space.largest(Budget.parse(share, space)) for share in SHARES},
    }
    found: dict[Subnet, str] = {}
    for name, subnet in named.items():
        found.setdefault(subnet, name)
    return {name: subnet for subnet, name in found.items()}


def _middle(space: SearchSpace) -> Subnet:
    """The middle choice of every axis."""

    def middle(choices: tuple[int, ...]) -> int:
        return sorted(choices)[len(choices) // 2]

    depth = middle(tuple(space.depth))
    layer = Layer(middle(space.heads), middle(space.ffn_dim))
    conv_dims = tuple(map(middle, space.conv_dims))
    return Subnet(conv_dims, middle(space.embed_dim), (layer,) * depth, space.depth[depth][0])


if __name__ == "__main__":
    main()
