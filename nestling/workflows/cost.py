"""Counts what a subnet of a space costs, and asks other counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestling.workflows.search_result import load_subnet
from search_spaces.costs import breakdown
from search_spaces.errors import NestlingError
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


def count_subnet(space: str, subnet: str, seconds: float = 1.0, cross_check: bool = False) -> CountedSubnet:
    """What a subnet costs, by module group.

    Args:
        space: A shipped space or a YAML file.
        subnet: `largest`, `smallest` or a JSON file.
        seconds: Of audio, for MACs.
        cross_check: Whether to ask other counters, too; they run the encoder.

    Raises:
        NestlingError: There is no such space or subnet, or the audio is too short or too long.
    """
    loaded = SearchSpace.load(space)
    if subnet in ("largest", "smallest"):  # a file of that name is ./largest
        chosen = loaded.container if subnet == "largest" else loaded.smallest()
    else:
        if not Path(subnet).is_file():
            raise NestlingError(f"--subnet {subnet}: give largest, smallest or a subnet.json")
        chosen = load_subnet(Path(subnet), loaded)
    parts = breakdown(loaded.backbone, chosen, seconds)
    checks: Sequence[Check] = ()
    if cross_check:
        from nas.cross_check import cross_check as count_with_tools  # noqa: PLC0415 - slow to import

        checks = count_with_tools(loaded.backbone, chosen, seconds)
    return CountedSubnet(loaded.name, chosen, seconds, parts, checks)
