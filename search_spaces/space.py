"""A search space: the choices for each dimension, and exact questions about the subnets they span."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from search_spaces.budget import Bound, Budget, InfeasibleBudget
from search_spaces.conflicts import explain_infeasible
from search_spaces.costs import PARAMS, Cost, breakdown
from search_spaces.counting import Box, Census, Extreme, find_extreme, find_median
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from search_spaces.profile import CostRange, SpaceProfile
from search_spaces.strict_yaml import load_yaml, parse_config
from search_spaces.subnet import Backbone, Layer, Subnet
from search_spaces.validation import find_excesses, find_problems

_FOLDER = Path(__file__).parent

Genes = dict[str, Any]
"""Gene -> value. The genes: `conv_dims.0` …, `embed_dim`, `kept`, and by container layer `heads.0` …,
`ffn_dim.0` …. An FFN gene is a *position* among the choices: a ratio gives each embed_dim its width."""


@dataclass(frozen=True)
class SearchSpace:
    """What may vary. Every layer offers the same heads and the same FFN widths."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str
    conv_dims: tuple[tuple[int, ...], ...]
    """Widths of each convolution of the front-end."""
    embed_dim: tuple[int, ...]
    heads: tuple[int, ...]
    depth: Mapping[int, tuple[tuple[int, ...], ...]]
    """Number of layers -> the sets of container layers that may be kept; the deepest keeps all. Read only."""
    ffn_dim: tuple[int, ...] = ()
    ffn_ratio: tuple[float, ...] = ()
    """Instead of `ffn_dim`: the width is int(ratio * embed_dim)."""
    description: str = ""
    backbone: Backbone = field(default_factory=Backbone)
    slicing: Literal["aligned", "lighthubert"] = "aligned"
    """What a subnet takes of the container; `lighthubert`: as its released weights want. See `supernet.slicing`."""

    def __post_init__(self) -> None:
        if problems := list(find_problems(self)) or list(find_excesses(self)):
            raise NestlingError(*problems)

    def __hash__(self) -> int:
        return hash(self.hash)

    @classmethod
    def load(cls, name: str | Path) -> SearchSpace:
        """A shipped space by its name, or your own from a YAML file.

        Raises:
            NestlingError: No such space, or the file is not a valid space; lists every problem.
        """
        shipped = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"), key=lambda path: path.stem)}
        path = shipped.get(str(name), Path(name))
        if path.suffix not in (".yaml", ".yml") and not path.is_file():
            raise NestlingError(f"no space `{name}`; {suggest(name, shipped)}; or give a .yaml file")
        return parse_config(cls, load_yaml(path), source=str(name))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """The space that `to_dict` wrote.

        Raises:
            NestlingError: Lists every problem.
        """
        return parse_config(cls, values, source="space")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @cached_property
    def hash(self) -> str:
        """Names the content: equal for spaces of the same subnets and backbone, whatever they are called."""
        content = {k: v for k, v in self.to_dict().items() if k not in ("name", "description")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @cached_property
    def container(self) -> Subnet:
        """The largest subnet: the shape of the supernet's weights."""
        num_layers, width = max(self.depth), max(self.embed_dim)
        layer = Layer(max(self.heads), max(self.ffn_dims(width)))
        return Subnet(tuple(map(max, self.conv_dims)), width, (layer,) * num_layers, tuple(range(num_layers)))

    def ffn_dims(self, embed_dim: int) -> tuple[int, ...]:
        """The FFN widths that a layer may take at this width of the residual stream."""
        return self.ffn_dim or tuple(int(ratio * embed_dim) for ratio in self.ffn_ratio)

    # Membership

    def explain(self, subnet: Subnet) -> str | None:
        """Why a subnet is not in the space; None when it is."""
        if len(subnet.conv_dims) != len(self.conv_dims):
            return f"{len(subnet.conv_dims)} conv_dims; the space has {len(self.conv_dims)} convolutions"
        if (num_layers := len(subnet.layers)) not in self.depth:
            return f"{num_layers} layers are not in the space; choices are {tuple(self.depth)}"
        ffn_dims = self.ffn_dims(subnet.embed_dim)
        convs = zip(subnet.conv_dims, self.conv_dims, strict=True)
        checks: list[tuple[str, Any, tuple[Any, ...]]] = [
            *((f"conv_dims[{i}]", width, widths) for i, (width, widths) in enumerate(convs)),
            ("embed_dim", subnet.embed_dim, self.embed_dim),
            ("kept", subnet.kept, self.depth[num_layers]),
            *((f"layers[{i}].heads", layer.heads, self.heads) for i, layer in enumerate(subnet.layers)),
            *((f"layers[{i}].ffn_dim", layer.ffn_dim, ffn_dims) for i, layer in enumerate(subnet.layers)),
        ]
        rule = "{}={} is not in the space; choices are {}"
        return "; ".join(rule.format(*check) for check in checks if check[1] not in check[2]) or None

    def __contains__(self, subnet: Subnet) -> bool:
        return self.explain(subnet) is None

    # Genes

    @cached_property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Every gene with the values it may take."""
        layers = range(max(self.depth))
        positions = tuple(range(len(self.ffn_dim or self.ffn_ratio)))
        return {
            **{f"conv_dims.{i}": widths for i, widths in enumerate(self.conv_dims)},
            "embed_dim": self.embed_dim,
            "kept": tuple(kept for options in self.depth.values() for kept in options),
            **{f"heads.{k}": self.heads for k in layers},
            **{f"ffn_dim.{k}": positions for k in layers},
        }

    def genes(self, subnet: Subnet) -> Genes:
        """The value of each gene that a subnet has; layers it does not keep have none.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        if why := self.explain(subnet):
            raise NestlingError(why)
        ffn_dims = self.ffn_dims(subnet.embed_dim)
        layers = list(zip(subnet.kept, subnet.layers, strict=True))
        return {
            **{f"conv_dims.{i}": width for i, width in enumerate(subnet.conv_dims)},
            "embed_dim": subnet.embed_dim,
            "kept": subnet.kept,
            **{f"heads.{k}": layer.heads for k, layer in layers},
            **{f"ffn_dim.{k}": ffn_dims.index(layer.ffn_dim) for k, layer in layers},
        }

    def boxes(self, choices: Mapping[str, tuple[Any, ...]] | None = None) -> list[Box]:
        """For exact counting: the space, or its part where the genes in `choices` take those values alone."""
        allowed = self.choices | dict(choices or {})
        layers = range(max(self.depth))

        def ffn_dims(width: int, k: int) -> tuple[int, ...]:
            return tuple(self.ffn_dims(width)[position] for position in allowed[f"ffn_dim.{k}"])

        return [
            Box(
                backbone=self.backbone,
                conv_dims=tuple(allowed[f"conv_dims.{i}"] for i in range(len(self.conv_dims))),
                embed_dim=width,
                kept=allowed["kept"],
                heads=tuple(allowed[f"heads.{k}"] for k in layers),
                ffn_dim=tuple(ffn_dims(width, k) for k in layers),
            )
            for width in allowed["embed_dim"]
        ]

    # Exact questions

    def count(self, budget: Budget | None = None) -> int:
        """How many subnets hold the budget, exactly."""
        return _census(self, _bounds(budget)).total

    def binds(self, budget: Budget) -> bool:
        """Whether the exact part of a budget excludes any subnet at all."""
        return self.count(budget) < self.count()

    def sample(self, rng: Random, budget: Budget | None = None) -> Subnet:
        """A subnet drawn uniformly from those that hold the budget.

        Raises:
            InfeasibleBudget: There is none.
        """
        census = _census(self, _bounds(budget))
        if not census.total:
            raise self._infeasible(_bounds(budget))
        return census.subnet(rng.randrange(census.total))

    def smallest(self, budget: Budget | None = None) -> Subnet:
        """The subnet of least cost that holds the budget. Cost means that of the first bound, or parameters.

        Raises:
            InfeasibleBudget: There is none.
        """
        return self._extreme(_bounds(budget), largest=False)

    def largest(self, budget: Budget | None = None) -> Subnet:
        """As `smallest`, but of greatest cost."""
        return self._extreme(_bounds(budget), largest=True)

    def _extreme(self, bounds: tuple[Bound, ...], largest: bool) -> Subnet:
        found = _find_extreme(self, bounds, bounds[0].cost if bounds else PARAMS, largest)
        if found is None:
            raise self._infeasible(bounds)
        return found.subnet

    def _infeasible(self, bounds: tuple[Bound, ...]) -> InfeasibleBudget:
        return InfeasibleBudget(*explain_infeasible(self.name, partial(_find_extreme, self), bounds))

    def profile(self, budget: Budget | None = None) -> SpaceProfile:
        """What the space spans and how much of it holds the budget."""
        bounds = _bounds(budget)
        fitting = self.count(budget)
        smallest = self.smallest()
        floor_params, floor_macs = breakdown(self.backbone, smallest)["front_end"]
        return SpaceProfile(
            total=self.count(),
            fitting=fitting,
            params=self._range(PARAMS),
            macs=self._range(Cost("macs", 1.0)),
            smallest=smallest,
            largest=self.largest(),
            smallest_fitting=self._extreme(bounds, largest=False) if fitting else None,
            largest_fitting=self._extreme(bounds, largest=True) if fitting else None,
            floor_params=floor_params,
            floor_macs=floor_macs,
        )

    def _range(self, cost: Cost) -> CostRange:
        least, most = (_find_extreme(self, (), cost, largest) for largest in (False, True))
        assert least, "a space has a subnet"
        assert most
        return CostRange(least.count, find_median(self.boxes(), cost), most.count)

    def uniform_shapes(self, budget: Budget | None = None) -> list[Subnet]:
        """The subnets that hold the budget with all layers alike, largest first.

        Their convolutions, too, all stand at the same place among their choices.
        """
        budget = budget or Budget()
        shapes = (
            Subnet(front, width, (Layer(heads, ffn_dim),) * num_layers, kept[0])
            for front in self._uniform_fronts()
            for width in self.embed_dim
            for num_layers, kept in self.depth.items()
            for heads in self.heads
            for ffn_dim in self.ffn_dims(width)
        )
        fitting = [shape for shape in shapes if budget.holds(self.backbone, shape)]
        return sorted(fitting, key=lambda shape: PARAMS.count(self.backbone, shape), reverse=True)

    def is_uniform(self, subnet: Subnet) -> bool:
        """Whether a subnet of the space is among `uniform_shapes`."""
        alike = len(set(subnet.layers)) == 1 and subnet.kept == self.depth[len(subnet.layers)][0]
        return alike and subnet.conv_dims in self._uniform_fronts()

    def _uniform_fronts(self) -> list[tuple[int, ...]]:
        """Widths of convolutions that all stand at the same place among their choices."""
        num_levels = max(map(len, self.conv_dims))
        places = [level / max(1, num_levels - 1) for level in range(num_levels)]
        return [tuple(dims[round(place * (len(dims) - 1))] for dims in self.conv_dims) for place in places]


def _bounds(budget: Budget | None) -> tuple[Bound, ...]:
    return budget.bounds if budget else ()


@lru_cache(maxsize=8)
def _census(space: SearchSpace, bounds: tuple[Bound, ...]) -> Census:
    return Census(space.boxes(), bounds)


@lru_cache(maxsize=256)
def _find_extreme(space: SearchSpace, bounds: tuple[Bound, ...], cost: Cost, largest: bool) -> Extreme | None:
    return find_extreme(space.boxes(), bounds, cost, largest)
