"""The quality of a subnet, as it comes from what measures it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Score:
    """The quality of a subnet: a loss for each of some fixed utterances, so that subnets compare in pairs."""

    per_utterance: NDArray[np.float32]
    """(N,), lower is better; always the same utterances in the same order. A lone number is a list of one."""

    @cached_property
    def failed(self) -> bool:
        """Whether some loss is not a finite number."""
        return not np.isfinite(self.per_utterance).all()

    @cached_property
    def mean(self) -> float:
        """What candidates are ranked by; not a number when scoring failed."""
        return float("nan") if self.failed else float(self.per_utterance.mean(dtype=np.float64))
