"""Writes encoders of different shape out of trained supernets: what a proxy is validated on.

    python benchmarks/encoders.py FOLDER RUN…

Every run gives eleven: the container, the smallest, a middle one, one that is small along each single axis, and the
largest under three budgets. `nestling evaluate` opens them as FOLDER/NAME.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from checkpoints.export import write_encoder
from checkpoints.run_folder import RunFolder
from search_spaces.budget import Budget
from search_spaces.costs import count_params
from search_spaces.space import SearchSpace
from search_spaces.subnet import Layer, Subnet

SHARES = ("60%", "30%", "15%")
"""Budgets, of the container's parameters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    for run in arguments.runs:
        for path in write_encoders(run, arguments.folder):
            print(path)


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
