"""Terms: one weighted loss each. An objective is a sum of terms."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from distillation.distances import DistanceName
from distillation.matchings import MATCHINGS, MatchingName

Frames = Literal["all", "masked", "unmasked"]


class Term(BaseModel):
    """What the student predicts, from which tap, how far off it may be, on which frames, and how much it counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    """Which of the stage's sources gives the targets."""
    tap: str | None = None
    """Which of the source's taps; the matching's own when absent, or the only one that the source has."""
    matching: MatchingName
    """Which student tensor meets which target; see `MATCHINGS`."""
    distance: DistanceName
    frames: Frames = "all"
    weight: float = Field(1.0, gt=0)

    @property
    def heads(self) -> str:
        """The name of the heads that it shares with terms which predict the same, whether they name the tap or not."""
        other = self.tap not in (None, MATCHINGS[self.matching].tap)
        return ":".join([self.source, self.matching, *([str(self.tap)] if other else [])])

    @property
    def name(self) -> str:
        """What records call it, such as `teacher:layers:l1`."""
        return ":".join([self.heads, self.distance, *([] if self.frames == "all" else [self.frames])])

    def tap_in(self, taps: Collection[str]) -> str:
        """The tap it meets, of those that its source has."""
        own = MATCHINGS[self.matching].tap
        return self.tap or (own if own in taps or len(taps) > 1 else next(iter(taps)))
