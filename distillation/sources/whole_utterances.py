"""What a teacher makes of whole utterances, found once for each, and the frames of crops out of it.

B batch, S samples, T frames, d channels, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distillation.sources.source import Store
from distillation.views import Seen
from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch
from speech_data.corpus import SpeechCorpus, Utterance

Hear = Callable[[Tensor], Sequence[Tensor]]
"""One clean utterance (1, S) -> what each layer makes of it, L of (1, T, d)."""


class WholeUtterances:
    """For a teacher to which the ends of a crop are not what the ends of an utterance are.

    Args:
        hear: The teacher.
        corpus: Where whole utterances are.
        store: Keeps their states, in half precision, so that each is heard once in a run.
        grid: Where frames lie.
        teacher: A hash of all that decides what `hear` gives.
    """

    def __init__(self, hear: Hear, corpus: SpeechCorpus, store: Store, grid: FrameGrid, teacher: str) -> None:
        self.hear, self.corpus, self.store, self.grid = hear, corpus, store, grid
        self._made_of = (teacher, corpus.hash)

    def __call__(self, batch: Batch, seen: Seen) -> list[Tensor]:
        """The frames of each row out of those of its whole utterance, L of (B, T, d), zero where padded.

        Raises:
            NestlingError: Targets are to be computed from noisy audio, whose noise is another each time.
        """
        if not seen.clean:
            raise NestlingError(
                "this teacher hears whole utterances without noise; set view.target of its stage to clean"
            )
        total, counts = self.grid.count(seen.target.shape[1]), self.grid.count(batch.lengths).tolist()
        rows = []
        for utterance, offset, count in zip(batch.utterances, batch.offsets.tolist(), counts, strict=True):
            first = round(offset / self.grid.hop)
            kept = self._find(utterance, seen.target.device)[:, first : first + count].float()  # (L, T, d)
            rows.append(F.pad(kept, (0, 0, 0, total - kept.shape[1])))
        return list(torch.stack(rows, 1).to(seen.target.device))

    def _find(self, utterance: Utterance, device: torch.device) -> Tensor:
        """The states of a whole utterance, (L, T, d), in half precision on the CPU."""
        name = fingerprint(*self._made_of, utterance.id)
        if (kept := self.store.get(name)) is not None:
            return kept["states"]
        wave = torch.tensor(self.corpus.read(utterance), device=device).unsqueeze(0)
        states = torch.cat(list(self.hear(wave))).half().cpu()
        if not states.isfinite().all():
            raise NestlingError(f"what the teacher makes of {utterance.id} is no number, or beyond half precision")
        self.store[name] = {"states": states}
        return states
