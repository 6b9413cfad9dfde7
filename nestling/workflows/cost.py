"""Counts what spaces and their subnets cost, and asks other counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.run_folder import RunFolder
from nestling.workflows.search_result import Result, describe_space, find_subnet
from search_spaces.budget import Budget
from search_spaces.costs import breakdown
from search_spaces.errors import NestlingError
from search_spaces.profile import SpaceProfile
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet

if TYPE_CHECKING:
    from nas.cross_check import Check  # which brings the counters with it


@dataclass(frozen=True)
class CountedSubnet:
    """A subnet, and what each group of its modules costs."""

    space: str
    subnet: Subnet
    seconds: float
    """Of audio, for MACs."""
    parts: Mapping[str, tuple[int, int]]
    """Group -> parameters and MACs."""
    checks: Sequence[Check]
    """What other counters say."""

    @property
    def name(self) -> str:
        """Its space and id."""
        return f"{self.space}/{self.subnet.id}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "id": self.subnet.id,
            "seconds": self.seconds,
            "groups": {name: {"params": params, "macs": macs} for name, (params, macs) in self.parts.items()},
            "checks": [{**asdict(check), "exact": check.exact} for check in self.checks],
        }


def count_subnet(
    space: str | None,
    subnet: str,
    seconds: float = 1.0,
    cross_check: bool = False,
    run: Path | None = None,
) -> CountedSubnet:
    """What a subnet costs, by module group.

    Args:
        space: A shipped space or a YAML file; None: that of the run.
        subnet: As `find_subnet` takes it.
        seconds: Of audio, for MACs.
        cross_check: Whether to ask other counters, too; they run the encoder.
        run: The folder of a run, whose best and candidates have names.

    Raises:
        NestlingError: There is no such space, run or subnet, or the audio is too short or too long.
    """
    if space is not None and run is None:
        loaded, searches = SearchSpace.load(space), None
    elif run is not None and space is None:
        folder = RunFolder.open(run)
        loaded, searches = SearchSpace.from_dict(folder.config["space"]), folder.search_path
    else:
        raise NestlingError("give a space, as in `nestling cost base`, or the --run whose space it is; not both")
    chosen = find_subnet(searches, subnet, loaded)
    parts = breakdown(loaded.backbone, chosen, seconds)
    checks: Sequence[Check] = ()
    if cross_check:
        from nas.cross_check import cross_check as count_with_tools  # noqa: PLC0415 - slow to import

        checks = count_with_tools(loaded.backbone, chosen, seconds)
    return CountedSubnet(loaded.name, chosen, seconds, parts, checks)


def profile_space(name: str, budgets: Sequence[str] = ()) -> tuple[Budget, SpaceProfile, Result]:
    """What a space spans, and how much of it holds a budget.

    Args:
        name: A shipped space or a YAML file.
        budgets: All must hold.

    Returns:
        The budget, the profile, and all of it as plain values.

    Raises:
        NestlingError: There is no such space, or nothing in it holds the budget.
    """
    space = SearchSpace.load(name)
    budget = Budget.parse(budgets, space)
    profile = space.profile(budget)
    if profile.fitting == 0:
        space.largest(budget)  # raises, with the conflict and the nearest feasible value
    return budget, profile, describe_space(space, budget, profile)
