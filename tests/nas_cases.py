"""A space of 2 layers, small enough to list, and made-up scores for it."""

import numpy as np

from nas.record import Candidate, Record, Score
from search_spaces.costs import count_params
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Subnet

SPACE = SearchSpace(
    name="test",
    conv_dims=((8, 16),) * 7,
    embed_dim=(32, 48),
    heads=(1, 2),
    ffn_dim=(16, 32, 48),
    depth={1: ((0,), (1,)), 2: ((0, 1),)},
    backbone=Backbone(head_dim=16, pos_conv_kernel=16),
)
NUM_UTTERANCES = 40


def params(subnet: Subnet) -> int:
    return count_params(SPACE.backbone, subnet)


def candidate(subnet: Subnet, *losses: float) -> Candidate:
    return Candidate(subnet, Score(np.array(losses, np.float32)))


def empty_record() -> Record:
    return Record(None, "made up", SPACE.backbone)


class MadeUpObjective:
    """Larger is better, and every utterance has a difficulty of its own. Remembers its calls.

    `noise` is what a subnet adds to each utterance at random, the same each time.
    """

    def __init__(self, noise: float = 0.01) -> None:
        self.noise = noise
        self.scored: list[Subnet] = []

    def __call__(self, subnet: Subnet) -> Score:
        self.scored.append(subnet)
        return Score(self.losses(subnet).astype(np.float32))

    def losses(self, subnet: Subnet) -> np.ndarray:
        difficulty = np.random.default_rng(0).normal(1.0, 0.2, NUM_UTTERANCES)
        own = np.random.default_rng(int(subnet.id, 16)).normal(0.0, self.noise, NUM_UTTERANCES)
        return difficulty + own - self.quality(subnet)

    @staticmethod
    def quality(subnet: Subnet) -> float:
        inner = sum(layer.heads * 0.03 + layer.ffn_dim * 0.002 for layer in subnet.layers)
        return subnet.embed_dim / 100 + sum(subnet.conv_dims) * 0.001 + inner
