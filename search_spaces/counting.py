"""Exact answers about the subnets that hold a budget: how many, the r-th, the smallest, the largest.

Fix the width of the residual stream and the layers that are kept. Then every cost is affine in two totals,

    cost = base[front-end] + per_head · Σ heads + per_unit · Σ FFN units,

so how the layers share a total out does not matter; `Shares` counts the ways. For one front-end and one
Σ heads, every bound leaves an *interval* of Σ FFN units. Intersect the intervals of all bounds, and count for
each pair of totals the front-ends whose interval covers it. That answers any conjunction of bounds:

    subnets = Σ over pairs of totals: front-ends that fit × shares of the heads × shares of the units × kept.

The counts put the subnets in order. Each has a rank, and a uniform rank is a uniform subnet: nothing is ever
rejected.

Letters: C front-ends, H and F distinct totals of heads and of FFN units.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.budget import Bound
from search_spaces.costs import Cost, IntArray, Totals
from search_spaces.subnet import Backbone, Layer, Subnet

Choices = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Part of a space: one width of the residual stream, and the values that every other gene may take."""

    backbone: Backbone
    conv_dims: tuple[Choices, ...]
    embed_dim: int
    kept: tuple[tuple[int, ...], ...]
    heads: tuple[Choices, ...]
    """For each layer of the container."""
    ffn_dim: tuple[Choices, ...]
    """For each layer of the container."""

    def blocks(self) -> list[Block]:
        """The box cut so that, within a block, the kept layers offer the same choices."""
        alike: dict[tuple[tuple[Choices, ...], tuple[Choices, ...]], list[tuple[int, ...]]] = {}
        for kept in self.kept:
            offered = tuple(self.heads[k] for k in kept), tuple(self.ffn_dim[k] for k in kept)
            alike.setdefault(offered, []).append(kept)
        return [
            Block(self.backbone, self.conv_dims, self.embed_dim, tuple(kept), *map(shares_of, offered))
            for offered, kept in alike.items()
        ]


class Shares:
    """The totals that one choice per layer can give, and the ways to share each out over the layers."""

    def __init__(self, choices: tuple[Choices, ...]) -> None:
        self._choices = choices
        self._ways: list[Counter[int]] = [Counter({0: 1})]  # [i][total]: of the layers from the i-th on
        for options in reversed(choices):
            ways: Counter[int] = Counter()
            for total, count in self._ways[0].items():
                for option in options:
                    ways[total + option] += count
            self._ways.insert(0, ways)
        self.totals: IntArray = np.array(sorted(self._ways[0]), dtype=np.int64)
        ways_to = [self._ways[0][total] for total in self.totals.tolist()]
        self.ways: NDArray[np.object_] = np.array(ways_to, dtype=object)
        """For each total; Python integers, which cannot overflow."""

    def share(self, total: int, rank: int) -> tuple[int, ...]:
        """The `rank`-th way to share `total` out, 0 <= rank < its ways."""
        shared = []
        for options, ways in zip(self._choices, self._ways[1:], strict=True):
            for option in options:
                if rank < ways[total - option]:
                    shared.append(option)
                    total -= option
                    break
                rank -= ways[total - option]
        return tuple(shared)

    def share_evenly(self, total: int) -> tuple[int, ...]:
        """The way with the least sum of squares, its larger values spread over the depth."""
        least = [{0: 0}]  # [i][total]: sum of squares, of the layers from the i-th on
        for options, ways in zip(reversed(self._choices), reversed(self._ways[:-1]), strict=True):
            rest = least[0]
            least.insert(0, {t: min(o * o + rest[t - o] for o in options if t - o in rest) for t in ways})

        def off_line(i: int, so_far: int, option: int) -> int:
            """How far the running total then is from total * (i + 1) / layers, times the layers."""
            return abs((so_far + option) * len(self._choices) - total * (i + 1))

        shared: list[int] = []
        for i, options in enumerate(self._choices):
            left, rest = total - sum(shared), least[i + 1]
            best = [o for o in options if left - o in rest and o * o + rest[left - o] == least[i][left]]
            shared.append(min(best, key=partial(off_line, i, total - left)))
        return tuple(shared)


@lru_cache(maxsize=256)
def shares_of(choices: tuple[Choices, ...]) -> Shares:
    """The shares of these choices, computed once."""
    return Shares(choices)


class _Affine(NamedTuple):
    """One cost over a block: `base[chain] + per_head · Σ heads + per_unit · Σ FFN units`."""

    base: IntArray  # (C,)
    per_head: int
    per_unit: int


@lru_cache(maxsize=256)
def _chains(conv_dims: tuple[Choices, ...]) -> tuple[IntArray, ...]:
    """Every front-end: for each convolution its widths, (C,)."""
    return tuple(np.array(list(product(*conv_dims)), dtype=np.int64).T)


@lru_cache(maxsize=256)
def _affine(cost: Cost, backbone: Backbone, conv_dims: tuple[Choices, ...], embed_dim: int, depth: int) -> _Affine:
    """A cost's coefficients, read off its closed form."""

    def count(heads: int, ffn_dim: int) -> IntArray:
        scalars: Iterable[IntArray] = map(np.asarray, (embed_dim, depth, heads, ffn_dim))
        return cost.count_totals(backbone, Totals(_chains(conv_dims), *scalars))

    base = count(0, 0)
    return _Affine(base, int((count(1, 0) - base)[0]), int((count(0, 1) - base)[0]))


@dataclass(frozen=True, eq=False)
class Block:
    """Subnets of one embed_dim whose kept layers offer the same choices."""

    backbone: Backbone
    conv_dims: tuple[Choices, ...]
    embed_dim: int
    kept: tuple[tuple[int, ...], ...]
    heads: Shares
    ffn: Shares

    @property
    def ways(self) -> NDArray[np.object_]:
        """(H, F): the subnets of one front-end with each pair of totals."""
        ways: NDArray[np.object_] = self.heads.ways[:, None] * self.ffn.ways * len(self.kept)
        return ways

    def affine(self, cost: Cost) -> _Affine:
        """A cost over this block."""
        return _affine(cost, self.backbone, self.conv_dims, self.embed_dim, len(self.kept[0]))

    def reachable(self, bounds: Iterable[Bound]) -> IntArray:
        """Positions of the front-ends that can keep each bound, taken alone."""
        fits = np.ones(len(_chains(self.conv_dims)[0]), dtype=bool)
        for bound in bounds:
            base, per_head, per_unit = self.affine(bound.cost)
            least, most = (base + per_head * self.heads.totals[i] + per_unit * self.ffn.totals[i] for i in (0, -1))
            fits &= (least <= bound.high) & (most >= bound.low)
        return np.flatnonzero(fits)

    def intervals(self, chains: IntArray, bounds: Iterable[Bound]) -> tuple[IntArray, IntArray]:
        """(first, stop), each (C, H): for a front-end and a Σ heads, `ffn.totals[first:stop]` fit."""
        shape = len(chains), len(self.heads.totals)
        first, stop = np.zeros(shape, np.int64), np.full(shape, len(self.ffn.totals), np.int64)
        for bound in bounds:
            base, per_head, per_unit = self.affine(bound.cost)
            spent = base[chains, None] + per_head * self.heads.totals
            most = (bound.high - spent) // per_unit
            stop = np.minimum(stop, np.searchsorted(self.ffn.totals, most, side="right"))
            if bound.low:
                least = -((spent - bound.low) // per_unit)  # the division rounds up
                first = np.maximum(first, np.searchsorted(self.ffn.totals, least))
        return first, np.maximum(first, stop)

    def count_chains(self, bounds: Iterable[Bound]) -> IntArray:
        """(H, F): the number of front-ends that fit with each pair of totals."""
        num_heads, num_ends = len(self.heads.totals), len(self.ffn.totals) + 1
        row = np.arange(num_heads) * num_ends
        opened, closed = (
            np.bincount((ends + row).ravel(), minlength=num_heads * num_ends)
            for ends in self.intervals(self.reachable(bounds), bounds)
        )
        return np.cumsum((opened - closed).reshape(num_heads, num_ends), axis=1)[:, :-1]

    def extreme(self, bounds: Iterable[Bound], cost: Cost, sign: int) -> Extreme | None:
        """Where `sign · cost` is greatest; None when nothing fits."""
        chains = self.reachable(bounds)
        first, stop = self.intervals(chains, bounds)
        fits = stop > first
        if not fits.any():
            return None
        base, per_head, per_unit = self.affine(cost)
        units = self.ffn.totals[np.where(fits, stop - 1 if sign > 0 else first, 0)]
        counts = base[chains, None] + per_head * self.heads.totals + per_unit * units
        best = int(np.argmax(np.where(fits, sign * counts, np.iinfo(np.int64).min)))
        chain, h = divmod(best, len(self.heads.totals))
        heads, ffn = int(self.heads.totals[h]), int(units.flat[best])
        return Extreme(int(counts.flat[best]), self, int(chains[chain]), heads, ffn)

    def subnet(self, chain: int, kept: int, heads: tuple[int, ...], ffn_dim: tuple[int, ...]) -> Subnet:
        """The subnet with these values; `chain` and `kept` are positions."""
        return Subnet(
            conv_dims=tuple(int(widths[chain]) for widths in _chains(self.conv_dims)),
            embed_dim=self.embed_dim,
            layers=tuple(Layer(h, f) for h, f in zip(heads, ffn_dim, strict=True)),
            kept=self.kept[kept],
        )


@dataclass(frozen=True, eq=False)
class Extreme:
    """A least or greatest cost, and where in its block it is."""

    count: int
    block: Block
    chain: int
    heads: int
    ffn: int

    @property
    def subnet(self) -> Subnet:
        """A subnet of this cost, its layers as alike as the totals allow."""
        heads, ffn = self.block.heads.share_evenly(self.heads), self.block.ffn.share_evenly(self.ffn)
        return self.block.subnet(self.chain, 0, heads, ffn)


class Census:
    """The subnets of some disjoint boxes that keep some bounds, in a fixed order."""

    def __init__(self, boxes: Iterable[Box], bounds: Sequence[Bound] = ()) -> None:
        self._bounds = bounds
        self._blocks = [block for box in boxes for block in box.blocks()]
        self._counts = [block.count_chains(bounds) * block.ways for block in self._blocks]  # each (H, F)
        self.total = sum(int(counts.sum()) for counts in self._counts)
        """How many subnets there are."""

    @cached_property
    def _running(self) -> list[list[int]]:
        """For each block, the subnets up to and including each pair of totals."""
        return [list(accumulate(counts.ravel().tolist())) for counts in self._counts]

    def subnet(self, rank: int) -> Subnet:
        """The `rank`-th subnet, 0 <= rank < total; every subnet has exactly one rank."""
        for block, running in zip(self._blocks, self._running, strict=True):
            if rank < running[-1]:
                return self._member(block, running, rank)
            rank -= running[-1]
        raise IndexError(f"a rank is below the total of {self.total:,} subnets")

    def _member(self, block: Block, running: list[int], rank: int) -> Subnet:
        """The `rank`-th subnet of a block; `rank` is used up digit by digit."""
        pair = bisect_right(running, rank)
        rank -= running[pair - 1] if pair else 0
        h, f = divmod(pair, len(block.ffn.totals))
        rank, kept = divmod(rank, len(block.kept))
        rank, heads_rank = divmod(rank, block.heads.ways[h])
        rank, ffn_rank = divmod(rank, block.ffn.ways[f])
        heads, ffn = int(block.heads.totals[h]), int(block.ffn.totals[f])
        chain = self._fitting_chain(block, heads, ffn, rank)
        return block.subnet(chain, kept, block.heads.share(heads, heads_rank), block.ffn.share(ffn, ffn_rank))

    def _fitting_chain(self, block: Block, heads: int, ffn: int, rank: int) -> int:
        """The `rank`-th front-end that fits with these totals."""
        if not self._bounds:
            return rank
        fits = np.ones(len(_chains(block.conv_dims)[0]), dtype=bool)
        for bound in self._bounds:
            affine = block.affine(bound.cost)
            counts = affine.base + (affine.per_head * heads + affine.per_unit * ffn)
            fits &= (bound.low <= counts) & (counts <= bound.high)
        return int(np.flatnonzero(fits)[rank])


def find_extreme(boxes: Iterable[Box], bounds: Sequence[Bound], cost: Cost, largest: bool) -> Extreme | None:
    """The greatest or least cost under the bounds; None when nothing fits.

    Ties go to the first in the order of the space.
    """
    sign = 1 if largest else -1
    found = (block.extreme(bounds, cost, sign) for box in boxes for block in box.blocks())
    return max(filter(None, found), key=lambda each: sign * each.count, default=None)


def find_median(boxes: Iterable[Box], cost: Cost) -> int:
    """The least cost that at least half of all subnets do not exceed."""
    parts = []
    for block in (block for box in boxes for block in box.blocks()):
        base, per_head, per_unit = block.affine(cost)
        spent = (per_head * block.heads.totals[:, None] + per_unit * block.ffn.totals).ravel()
        order = np.argsort(spent)
        running = np.concatenate([[0], np.cumsum(block.ways.ravel()[order])])
        parts.append((base, spent[order], running))

    def count_at_most(limit: int) -> int:
        return sum(
            int(running[np.searchsorted(spent, limit - base, side="right")].sum()) for base, spent, running in parts
        )

    highest = max(int(base.max() + spent[-1]) for base, spent, _ in parts)
    return bisect_left(range(highest), (count_at_most(highest) + 1) // 2, key=count_at_most)
