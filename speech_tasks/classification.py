"""SUPERB's head for one label an utterance: project, take the mean over time, classify.

N utterances, L hidden states, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from speech_data.corpus import Utterance
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Plan, WeightedSum, shuffled, sweep
from speech_tasks.standardised_states import standardise_means
from speech_tasks.task import Score, score_ratio

PROJECTION = 256
BATCH = 32


class PooledClassifier(nn.Module):
    """Weighted sum, projection, mean over time, linear classifier: (L, N, D) of means over time -> (N, classes).

    There is no nonlinearity before the mean, so it is taken first, once for each clip: the same function.

    Source: SUPERB (arXiv 2105.01051), 3: KS, IC and SID; projection of 256 as in its reference code.
    """

    def __init__(self, num_layers: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers)
        self.project = nn.Linear(dim, PROJECTION)
        self.classify = nn.Linear(PROJECTION, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Means over time to scores of classes."""
        return self.classify(self.project(self.sum(pooled)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LabelledClips:
    """Clips with one label each, by what they are for.

    Raises:
        NestlingError: There is nothing to fit, choose or score on, fewer than two labels, or a clip has none.
    """

    label: Callable[[Utterance], str]
    """Of an utterance; raises ValueError for one that has none."""
    train: Sequence[Clip]
    """Heads are fitted on them; their labels are the classes."""
    search: Sequence[Clip]
    """They choose the learning rate."""
    scored: Mapping[str, Sequence[Clip]]
    """By condition."""

    def __post_init__(self) -> None:
        if not all((self.train, self.search, self.scored, *self.scored.values())):
            sizes = f"{len(self.train)}, {len(self.search)} and {sum(map(len, self.scored.values()))}"
            raise NestlingError(f"classification wants clips to fit on, to choose by and to score; there are {sizes}")
        if len(self.classes) < 2:
            raise NestlingError(f"classification wants two classes at least; train has only {', '.join(self.classes)}")
        for clip in self.clips:
            self.label(clip.utterance)

    @cached_property
    def classes(self) -> dict[str, int]:
        """Number of each label of `train`."""
        return {name: i for i, name in enumerate(sorted({self.label(clip.utterance) for clip in self.train}))}

    @cached_property
    def clips(self) -> list[Clip]:
        """All of them."""
        return [*self.train, *self.search, *(clip for clips in self.scored.values() for clip in clips)]

    def targets(self, clips: Sequence[Clip]) -> Tensor:
        """Classes, (N,); -1 for a label that `train` has not."""
        return torch.tensor([self.classes.get(self.label(clip.utterance), -1) for clip in clips])


def score_classification(store: FeatureStore, labelled: LabelledClips, metric: str, plan: Plan) -> list[Score]:
    """Accuracy of utterance labels, in percent, in each condition.

    Args:
        store: Holds all clips.
        labelled: The clips.
        metric: Name of the accuracy.
        plan: Epochs, learning rates, seeds.
    """
    statistics = store.statistics(labelled.train)

    def load(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        return standardise_means(store, clips, statistics), labelled.targets(clips)

    train, search = load(labelled.train), load(labelled.search)
    fitted = sweep(
        plan,
        partial(PooledClassifier, store.num_layers, store.dim, len(labelled.classes)),
        lambda key: shuffled(range(len(labelled.train)), BATCH, key),
        lambda rows: (train[0][:, rows], train[1][rows]),
        lambda head, batch: F.cross_entropy(head(batch[0]), batch[1]),
        lambda head: float(_wrong(head, *search).mean()),
    )
    scores = []
    for condition, clips in labelled.scored.items():
        states, targets = load(clips)
        right = 1 - np.stack([_wrong(head, states, targets) for head in fitted.heads])
        tallies = np.stack([right, np.ones_like(right)], axis=2)
        scores.append(score_ratio(metric, condition, tallies, clips, settings={"learning rate": fitted.learning_rate}))
    return scores


@torch.no_grad()
def _wrong(head: PooledClassifier, pooled: Tensor, expected: Tensor) -> NDArray[np.float64]:
    """One where another class scores highest, else zero; (N,)."""
    wrong: NDArray[np.float64] = (head(pooled).argmax(1) != expected).double().numpy()
    return wrong
