"""Heads that write down what is said, symbol by symbol, by CTC: what phones, characters and slots share.

B utterances of a batch, T frames, L hidden states, D channels of a frame, C symbols, the blank among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from search_spaces.randomness import generator
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.heads import Fitted, Plan, WeightedSum, shuffled, sweep
from speech_tasks.metrics import ctc_collapse, edit_tallies
from speech_tasks.standardised_states import StatesInMemory, Statistics

Symbols = tuple[str, ...]
WrittenBatch = tuple[Tensor, Tensor, list[Tensor]]
"""States (L, B, T, D), lengths (B,), and the classes of the symbols of each clip."""
BLANK = ""
"""The symbol of number 0, which stands for none."""

BATCH = 16
PROJECTION = 256
STACK = 2
NARROW = 64
CELLS = 96
DROPOUT = 0.2
TIME_MASKS, MASKED_SECONDS = 2, 0.2
CHANNEL_MASKS, MASKED_SHARE = 4, 1 / 15


@dataclass(frozen=True)
class Spoken:
    """A clip, and the symbols said in it."""

    clip: Clip
    symbols: Symbols


class LinearHead(nn.Module):
    """Weighted sum, projection, classifier: (L, B, T, D) and lengths (B,) -> log probabilities (B, T, C).

    There is no nonlinearity between the two maps, so their product is taken first: the same function, faster.

    Source: SUPERB (arXiv 2105.01051), 3, PR; projection of 256 as in its reference code.
    """

    def __init__(self, num_layers: int, dim: int, num_symbols: int) -> None:
        super().__init__()
        self.sum = WeightedSum(num_layers)
        self.project = nn.Linear(dim, PROJECTION)
        self.classify = nn.Linear(PROJECTION, num_symbols)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States to log probabilities."""
        del lengths  # each frame is judged alone
        weight = self.classify.weight @ self.project.weight  # (C, D)
        bias = F.linear(self.project.bias, self.classify.weight, self.classify.bias)
        return F.linear(self.sum(states), weight, bias).log_softmax(2)


class RecurrentHead(nn.Module):
    """Weighted sum, projection, BiLSTM, classifier: (L, B, T, D) and lengths (B,) -> log probabilities (B, T, C).

    Differs from SUPERB's, which is made for 100 h of speech, in its size: one layer of 96 cells each way behind a
    projection of 64, for two layers of 1024 behind 1024. And the LSTM takes two frames a step, and gives two: that
    halves its cost, and leaves CTC the frames it needs for fast speech.

    Source: SUPERB (arXiv 2105.01051), 3, ASR and SF; dropout as in its reference code.
    """

    def __init__(self, num_layers: int, dim: int, num_symbols: int) -> None:
        super().__init__()
        self.num_symbols = num_symbols
        self.sum = WeightedSum(num_layers)
        self.project = nn.Linear(dim, NARROW)
        self.ahead = nn.LSTM(STACK * NARROW, CELLS, batch_first=True)
        self.back = nn.LSTM(STACK * NARROW, CELLS, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.classify = nn.Linear(2 * CELLS, STACK * num_symbols)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """States, zero where padded, to log probabilities; those of an utterance do not depend on its padding."""
        num_rows, num_frames = states.shape[1:3]
        summed = F.pad(self.sum(states), (0, 0, 0, -num_frames % STACK))
        x = self.project(summed).reshape(num_rows, -1, STACK * NARROW)  # (B, T / 2, 2 narrow)
        steps = (lengths + STACK - 1) // STACK
        back = _reverse(self.back(_reverse(x, steps))[0], steps)  # a packed sequence does the same at 5 times the cost
        heard = self.dropout(torch.cat([self.ahead(x)[0], back], dim=2))  # (B, T / 2, 2 cells)
        scores = self.classify(heard).reshape(num_rows, -1, self.num_symbols)
        return scores[:, :num_frames].log_softmax(2)  # type: ignore[no-any-return]


def mask_states(states: Tensor, lengths: Tensor, rng: np.random.Generator) -> None:
    """Hides spans of time and of channels of each utterance, in place: they become the mean, 0.

    The widths are SpecAugment's, as SUPERB's recognisers have it, scaled to shorter utterances; there is no warp.

    Args:
        states: Standardised, (L, B, T, D).
        lengths: (B,).
        rng: What is hidden.
    """
    dim = states.shape[3]
    for row, length in enumerate(lengths.tolist()):
        for _ in range(TIME_MASKS):
            width = min(int(rng.integers(round(MASKED_SECONDS * 50) + 1)), length)
            first = int(rng.integers(length - width + 1))
            states[:, row, first : first + width] = 0
        for _ in range(CHANNEL_MASKS):
            width = int(rng.integers(round(MASKED_SHARE * dim) + 1))
            first = int(rng.integers(dim - width + 1))
            states[:, row, :, first : first + width] = 0


@dataclass(frozen=True)
class Writer:
    """Fitted heads that write symbols, one for each seed."""

    fitted: Fitted[nn.Module]
    symbols: Symbols
    """The symbol of each class."""
    statistics: Statistics

    def write(self, store: FeatureStore, clips: Sequence[Clip]) -> list[list[Symbols]]:
        """What each head hears in each clip, by greedy decoding."""
        return [
            [self.read(ctc_collapse(x.argmax(1))) for x in heard]
            for heard in log_probs(self.fitted.heads, store, clips, self.statistics)
        ]

    def read(self, classes: Sequence[int]) -> Symbols:
        """Classes as symbols."""
        return tuple(self.symbols[i] for i in classes)


def fit_writer(
    store: FeatureStore,
    train: Sequence[Spoken],
    search: Sequence[Spoken],
    make_head: Callable[[int, int, int], nn.Module],
    plan: Plan,
    *,
    masks: bool = False,
) -> Writer:
    """Fits heads by CTC, at the learning rate with the fewest symbol errors on `search`.

    Args:
        store: Holds all clips.
        train: What the heads are fitted on; its symbols are the classes.
        search: What the learning rate is chosen on.
        make_head: The numbers of hidden states, of channels and of classes -> a head: states (L, B, T, D) and
            lengths (B,) -> log probabilities (B, T, C).
        plan: Epochs, learning rates, seeds.
        masks: Whether spans of time and channels are hidden in training.
    """
    symbols = (BLANK, *sorted({symbol for spoken in train for symbol in spoken.symbols}))
    statistics = store.statistics([spoken.clip for spoken in train])
    batches = _Batches(store, train, symbols, statistics, masks)
    said = [spoken.symbols for spoken in search]

    def search_error(head: nn.Module) -> float:
        (heard,) = log_probs([head], store, [spoken.clip for spoken in search], statistics)
        written = [tuple(symbols[i] for i in ctc_collapse(x.argmax(1))) for x in heard]
        edits, length = edit_tallies(said, written).sum(0)
        return float(edits / length)

    fitted = sweep(
        plan,
        lambda: make_head(store.num_layers, store.dim, len(symbols)),
        batches.epoch,
        batches.load,
        ctc_loss,
        search_error,
    )
    return Writer(fitted, symbols, statistics)


@torch.no_grad()
def log_probs(
    heads: Sequence[nn.Module], store: FeatureStore, clips: Sequence[Clip], statistics: Statistics
) -> list[list[NDArray[np.float32]]]:
    """What heads make of clips: for each head and each clip the log probabilities of the classes, (T, C)."""
    made: list[list[NDArray[np.float32]]] = [[np.empty(0, np.float32)] * len(clips) for _ in heads]
    order = sorted(range(len(clips)), key=lambda i: clips[i].num_frames)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        states, lengths = StatesInMemory(store, [clips[row] for row in rows], statistics).batch(range(len(rows)))
        for head, kept in zip(heads, made, strict=True):
            for row, x, length in zip(rows, head(states, lengths), lengths.tolist(), strict=True):
                kept[row] = x[:length].numpy()
    return made


def ctc_loss(head: nn.Module, batch: WrittenBatch) -> Tensor:
    """The CTC loss of a head on a batch; an utterance too short for its symbols has none."""
    states, lengths, targets = batch
    return F.ctc_loss(
        head(states, lengths).transpose(0, 1),  # (T, B, C)
        pad_sequence(targets, batch_first=True),
        lengths,
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )


class _Batches:
    """The training clips."""

    def __init__(
        self,
        store: FeatureStore,
        train: Sequence[Spoken],
        symbols: Symbols,
        statistics: Statistics,
        masks: bool,
    ) -> None:
        classes = {symbol: i for i, symbol in enumerate(symbols)}
        self._states = StatesInMemory(store, [spoken.clip for spoken in train], statistics)
        self._targets = [torch.tensor([classes[symbol] for symbol in spoken.symbols]) for spoken in train]
        self._masks = masks

    def epoch(self, key: str) -> list[tuple[str, list[int]]]:
        """Batches of clips of similar length: a name and the clips."""
        batches = shuffled(range(len(self._targets)), BATCH, key, size=lambda i: self._states.num_frames[i])
        return [(f"{key}/{i}", rows) for i, rows in enumerate(batches)]

    def load(self, batch: tuple[str, Sequence[int]]) -> WrittenBatch:
        """States, masked if need be, and targets."""
        name, rows = batch
        states, lengths = self._states.batch(rows)
        if self._masks:
            mask_states(states, lengths, generator("masks of heads", name))
        return states, lengths, [self._targets[row] for row in rows]


def _reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each row read from its end, (B, T, C); what is beyond its length stays beyond."""
    index = (lengths.unsqueeze(1) - 1 - torch.arange(x.shape[1])) % x.shape[1]  # (B, T)
    return x.gather(1, index.unsqueeze(2).expand_as(x))
