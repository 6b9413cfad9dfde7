"""Transcripts: the phones that are said, in order, for a loss that finds the alignment itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distillation.sources.source import Givens, Source, Spec, Targets
from distillation.views import Seen
from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint, hash_code
from search_spaces.subnet import SAMPLE_RATE_HZ, FrameGrid
from speech_data.batching import Batch
from speech_data.corpus import SpeechCorpus, Utterance

NONE = -1
"""Beyond a transcript's end."""
SILENCE = "sil"


class LabelsSpec(Spec):
    """What is said. It reads labels, so a corpus without them is refused."""

    kind: Literal["labels"]

    @property
    def taps(self) -> tuple[str, ...]:
        """See `Spec`."""
        return ("labels",)

    def open(self, givens: Givens) -> Source:
        """See `Spec`."""
        return LabelSource(read_inventory(givens.corpus, givens.name), givens.grid)


def read_inventory(corpus: SpeechCorpus, name: str) -> Sequence[str]:
    """The phones of a corpus, for the source `name`.

    Raises:
        NestlingError: It has none.
    """
    inventory: Sequence[str] = getattr(corpus, "phones", ())
    if not inventory:
        raise NestlingError(f"{name} reads labels, and {corpus.name} has no timed phones; take audio that has")
    return inventory


class LabelSource:
    """Gives the tap `labels`: class 0 is the blank, class i + 1 the i-th phone of the inventory; silence has none.

    Args:
        inventory: The phones by class.
        grid: Where the student's frames lie.
    """

    reads = frozenset({"audio", "labels"})

    def __init__(self, inventory: Sequence[str], grid: FrameGrid) -> None:
        self.classes = {phone: i + 1 for i, phone in enumerate(p for p in inventory if p != SILENCE)}
        self.dims = {"labels": len(self.classes) + 1}
        self.grid = grid
        self.state: dict[str, Any] = {}

    @property
    def fingerprint(self) -> str:
        """Of the inventory."""
        return fingerprint("labels", hash_code(__name__), self.classes)

    def calibrate(self, batch: Batch, seen: Seen) -> None:
        """Nothing to measure."""

    def __call__(self, batch: Batch, seen: Seen) -> Targets:
        """The phones whose middle lies in each crop, in order, (B, U), `NONE` beyond."""
        rows = [
            self._read(utterance, int(offset), int(length))
            for utterance, offset, length in zip(batch.utterances, batch.offsets, batch.lengths, strict=True)
        ]
        labels = pad_sequence(rows, batch_first=True, padding_value=NONE)
        return Targets({"labels": [labels.to(seen.target.device)]}, self.grid.rate_hz, seen.valid_frames(self.grid))

    def _read(self, utterance: Utterance, offset: int, length: int) -> Tensor:
        if not utterance.phones:
            raise NestlingError(f"{utterance.id} has no phone labels, which others of its corpus have; leave it out")
        first, last = offset / SAMPLE_RATE_HZ, (offset + length) / SAMPLE_RATE_HZ
        said = [phone for phone, start, end in utterance.phones if first <= (start + end) / 2 < last]
        return torch.tensor([self.classes[phone] for phone in said if phone != SILENCE], dtype=torch.int64)
