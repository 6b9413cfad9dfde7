"""A search space: the choices for each dimension, and exact questions about the subnets they span."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache, partial
from math import comb, gcd, isfinite, prod
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from search_spaces.budget import Bound, Budget, InfeasibleBudget
from search_spaces.conflicts import explain_infeasible
from search_spaces.costs import PARAMS, Cost, breakdown
from search_spaces.counting import Box, Census, Extreme, find_extreme, find_median
from search_spaces.errors import NestlingError
from search_spaces.profile import CostRange, SpaceProfile
from search_spaces.strict_yaml import load_yaml, parse_config
from search_spaces.subnet import Backbone, Layer, Subnet

MAX_CHAINS = 20_000
"""Most front-ends of a space: exact counting lists them."""
MAX_STATES = 1_000_000
"""Most distinct (embed_dim, depth, Σ heads, Σ FFN) of a space: exact counting tabulates them."""
MAX_WIDTH = 8192
MAX_DEPTH = 256
"""Of Transformer layers, and of convolutions; the largest speech encoders have 48 and 7."""
MAX_KERNEL = 4096
"""Of kernels and strides, in samples or frames."""
MAX_BUCKETS = 65_536
MAX_DISTANCE = 10_000_000
MAX_PARAMS = 4_000_000_000
"""The largest HuBERT has one billion."""

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
        if problems := list(_find_problems(self)) or list(_find_excesses(self)):
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
            near = get_close_matches(str(name), shipped, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise NestlingError(f"no space `{name}`; {hint}shipped: {', '.join(shipped)}; or give a .yaml file")
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

    # Variation

    def mutate(self, subnet: Subnet, rng: Random, budget: Budget | None = None) -> Subnet:
        """A neighbour that holds the budget: of up to four random genes one must change and the others may.

        It is uniform over the subnets that these genes span. Where none fits, other and more genes are freed.

        Raises:
            NestlingError: `subnet` is not in the space.
            InfeasibleBudget: Nothing holds the budget.
        """
        own = self.genes(subnet)
        variable = [gene for gene in own if len(self.choices[gene]) > 1]
        for num_free in _doubling(rng.randint(1, 4), len(variable)):
            freed = rng.sample(variable, num_free)
            part = {gene: (value,) for gene, value in own.items()}
            part |= {gene: self.choices[gene] for gene in freed}
            part[freed[0]] = tuple(value for value in self.choices[freed[0]] if value != own[freed[0]])
            if child := self._draw(part, rng, budget):
                return child
        return self.sample(rng, budget)

    def cross(self, a: Subnet, b: Subnet, rng: Random, budget: Budget | None = None) -> Subnet:
        """A child of two subnets that holds the budget, each gene from either parent.

        It is uniform over all such children. Where none fits, random genes are freed, more and more.

        Raises:
            NestlingError: `a` or `b` is not in the space.
            InfeasibleBudget: Nothing holds the budget.
        """
        parents = self.genes(a), self.genes(b)
        genes = [gene for gene in self.choices if any(gene in parent for parent in parents)]
        both = {gene: tuple({parent[gene]: None for parent in parents if gene in parent}) for gene in genes}
        for num_free in (0, *_doubling(1, len(genes))):
            freed = {gene: self.choices[gene] for gene in rng.sample(genes, num_free)}
            if child := self._draw(both | freed, rng, budget):
                return child
        return self.sample(rng, budget)

    def _draw(self, part: Mapping[str, tuple[Any, ...]], rng: Random, budget: Budget | None) -> Subnet | None:
        """A uniform subnet of a part of the space; None when nothing there holds the budget."""
        census = Census(self.boxes(part), _bounds(budget))
        return census.subnet(rng.randrange(census.total)) if census.total else None


def _bounds(budget: Budget | None) -> tuple[Bound, ...]:
    return budget.bounds if budget else ()


@lru_cache(maxsize=8)
def _census(space: SearchSpace, bounds: tuple[Bound, ...]) -> Census:
    return Census(space.boxes(), bounds)


@lru_cache(maxsize=256)
def _find_extreme(space: SearchSpace, bounds: tuple[Bound, ...], cost: Cost, largest: bool) -> Extreme | None:
    return find_extreme(space.boxes(), bounds, cost, largest)


def _doubling(start: int, end: int) -> Iterator[int]:
    """start, 2 start, 4 start … and last `end`; nothing when `end` is 0."""
    while 0 < start < end:
        yield start
        start *= 2
    if end:
        yield end


def _find_problems(space: SearchSpace) -> Iterator[str]:
    """Every rule that a space breaks, in the words of its file."""
    yield from _find_backbone_problems(space.backbone)
    if len(space.conv_dims) != (num_convs := len(space.backbone.conv_kernels)):
        yield f"conv_dims must list the widths of {num_convs} convolutions, got {len(space.conv_dims)}"
    if bool(space.ffn_dim) == bool(space.ffn_ratio):
        yield "exactly one of ffn_dim and ffn_ratio must be given"

    lists: dict[str, tuple[float, ...]] = {f"conv_dims[{i}]": widths for i, widths in enumerate(space.conv_dims)}
    lists |= {name: getattr(space, name) for name in ("embed_dim", "heads", "ffn_dim", "ffn_ratio")}
    for name, values in lists.items():
        if not values and not name.startswith("ffn"):
            yield f"{name} must offer at least one choice"
        elif list(values) != sorted(set(values)):
            yield f"{name} must be increasing, without repeats, got {list(values)}"
        elif values and not 0 < values[0] <= values[-1] <= MAX_WIDTH:
            yield f"{name} must be positive and at most {MAX_WIDTH}, got {list(values)}"
    groups = max(1, space.backbone.pos_conv_groups)
    if odd := [width for width in space.embed_dim if width % groups]:
        yield f"embed_dim must be multiples of pos_conv_groups ({groups}), got {odd}"
    if space.ffn_ratio and all(map(isfinite, space.ffn_ratio)):
        for width in space.embed_dim:
            if min(dims := space.ffn_dims(width)) < 1 or max(dims) > MAX_WIDTH or len(set(dims)) < len(dims):
                yield f"ffn_ratio must give different widths in 1..{MAX_WIDTH}, at {width} got {list(dims)}"
    yield from _find_gate_problems(space)
    if space.slicing == "lighthubert" and space.embed_dim and (space.ffn_dim or space.ffn_ratio):
        yield from _find_block_problems(space)
    yield from _find_depth_problems(space.depth)


def _find_backbone_problems(backbone: Backbone) -> Iterator[str]:
    limits = {"head_dim": MAX_WIDTH, "pos_conv_kernel": MAX_KERNEL, "pos_conv_groups": MAX_WIDTH}
    limits |= {"num_buckets": MAX_BUCKETS, "max_distance": MAX_DISTANCE}
    for name, limit in limits.items():
        if not 1 <= (value := getattr(backbone, name)) <= limit:
            yield f"backbone.{name} must be in 1..{limit}, got {value}"
    if not 0 <= backbone.gate_width <= MAX_WIDTH:
        yield f"backbone.gate_width must be 0 (no position bias) or up to {MAX_WIDTH}, got {backbone.gate_width}"
    near = backbone.num_buckets // 4
    if backbone.num_buckets % 4 or not 0 < near < backbone.max_distance:
        yield (
            f"backbone.num_buckets must be a positive multiple of 4 and a quarter of it below max_distance, "
            f"got {backbone.num_buckets} and {backbone.max_distance}"
        )
    kernels, strides = list(backbone.conv_kernels), list(backbone.conv_strides)
    if not 1 <= len(kernels) == len(strides) <= MAX_DEPTH:
        yield (
            f"backbone.conv_kernels, .conv_strides must pair up, 1 to {MAX_DEPTH} of each, "
            f"got {len(kernels)} and {len(strides)}"
        )
    elif not 1 <= min(kernels + strides) <= max(kernels + strides) <= MAX_KERNEL:
        yield f"backbone.conv_kernels, .conv_strides must be in 1..{MAX_KERNEL}, got {kernels}, {strides}"


def _find_gate_problems(space: SearchSpace) -> Iterator[str]:
    gates, head_dim = space.backbone.gate_width, max(1, space.backbone.head_dim)
    if not gates or not space.embed_dim or not space.heads:
        return
    widest, inner = max(space.embed_dim), max(space.heads) * head_dim
    if gates != widest or gates % head_dim or inner > gates:
        yield (
            f"backbone.gate_width must be the widest embed_dim ({widest}), a multiple of head_dim ({head_dim}) "
            f"and at least head_dim * heads ({inner}), got {gates}"
        )
    if space.slicing != "aligned":
        yield f"slicing must be aligned where backbone.gate_width is set, got {space.slicing}"


def _find_block_problems(space: SearchSpace) -> Iterator[str]:
    """LightHuBERT's rule takes the first d of each block of D inner units; they must be there to take."""
    widest = max(space.embed_dim)
    held = max(space.ffn_dims(widest))
    for width in space.embed_dim:
        num_blocks, rest = divmod(max(space.ffn_dims(width)), width)
        if (needed := num_blocks * widest + rest) > held:
            yield (
                f"slicing lighthubert takes {width} of each {widest} inner units, so an FFN of "
                f"{max(space.ffn_dims(width))} at width {width} needs {needed} in the widest, which has {held}; "
                "give ffn_ratio, or slicing aligned"
            )


def _find_depth_problems(depth: Mapping[int, tuple[tuple[int, ...], ...]]) -> Iterator[str]:
    if not depth or min(depth) < 1 or list(depth) != sorted(depth):
        yield f"depth must map numbers of layers, increasing from at least 1, got {list(depth)}"
        return
    if (deepest := max(depth)) > MAX_DEPTH:
        yield f"depth must be at most {MAX_DEPTH} layers, got {deepest}"
        return
    if list(depth[deepest]) != [tuple(range(deepest))]:
        yield f"depth {deepest}, the deepest, must keep all its layers: [{list(range(deepest))}]"
    for num_layers, options in depth.items():
        if not options or len(set(options)) < len(options):
            yield f"depth {num_layers} must list different sets of layers, got {list(map(list, options))}"
        for kept in options:
            if len(kept) != num_layers or list(kept) != sorted(set(kept) & set(range(deepest))):
                yield f"depth {num_layers} must keep as many of 0..{deepest - 1}, in order, got {list(kept)}"


def _find_excesses(space: SearchSpace) -> Iterator[str]:
    """What would make a valid space too big to hold, or to count exactly."""
    if (num_params := PARAMS.count(space.backbone, space.container)) > MAX_PARAMS:
        yield f"the largest subnet has {num_params:,} parameters; at most {MAX_PARAMS:,} are allowed"
    if (num_chains := prod(map(len, space.conv_dims))) > MAX_CHAINS:
        yield f"conv_dims gives {num_chains:,} front-ends; at most {MAX_CHAINS:,} can be counted exactly"
    num_states = sum(
        _max_totals(space.heads, num_layers) * _max_totals(space.ffn_dims(width), num_layers)
        for width in space.embed_dim
        for num_layers in space.depth
    )
    if num_states > MAX_STATES:
        yield (
            f"heads and FFN widths give up to {num_states:,} pairs of totals; at most {MAX_STATES:,} can be "
            "counted exactly: offer fewer choices, or multiples of a common step"
        )


def _max_totals(values: tuple[int, ...], num_layers: int) -> int:
    """At least the number of distinct totals of one value for each layer."""
    step = gcd(*(value - values[0] for value in values)) or 1
    span = num_layers * (values[-1] - values[0])
    return min(comb(num_layers + len(values) - 1, num_layers), span // step + 1)
