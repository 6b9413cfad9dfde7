"""A space at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.subnet import Subnet


@dataclass(frozen=True)
class CostRange:
    """One cost over all subnets of a space, each counted once."""

    least: int
    median: int
    """Half of all subnets do not exceed it."""
    most: int


@dataclass(frozen=True)
class SpaceProfile:
    """What a space spans and how much of it holds a budget. MACs are for 1 s of audio."""

    total: int
    fitting: int
    """Subnets that hold the budget; latency bounds are not looked at."""
    params: CostRange
    macs: CostRange
    smallest: Subnet
    largest: Subnet
    smallest_fitting: Subnet | None
    """None, as `largest_fitting`, when nothing holds the budget."""
    largest_fitting: Subnet | None
    floor_params: int
    """The front-end of the smallest subnet, which no choice of layers can go below."""
    floor_macs: int

    @property
    def fitting_share(self) -> float:
        """Of all subnets, 0 to 1."""
        return self.fitting / self.total

    @property
    def floor_params_share(self) -> float:
        """Of the least parameters, 0 to 1."""
        return self.floor_params / self.params.least

    @property
    def floor_macs_share(self) -> float:
        """Of the least MACs, 0 to 1."""
        return self.floor_macs / self.macs.least
