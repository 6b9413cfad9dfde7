"""Hidden units: a code for every frame of a corpus, by k-means over MFCC or over a network's own layer.

Source: HuBERT (arXiv 2106.07447), section II-B: MFCC first, then the hidden states of the iteration before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from distillation.sources.source import Givens, Source, Spec, Targets
from distillation.views import Seen
from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint, hash_code
from search_spaces.randomness import seed_of
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch, evaluation_batches
from speech_data.corpus import SpeechCorpus
from speech_data.features import mfcc
from supernet.model import Supernet
from supernet.weights import hash_weights

MAX_CODES = 1 << 15
"""Of a code book: codes are kept in 16 bits."""
CODE_BATCH = 16
FIT_UTTERANCES = 1500
"""Utterances that clusters are found on."""

Describe = Callable[[Tensor, Tensor], Tensor]
"""Waveforms (B, S) and lengths (B,) -> a description of every frame, (B, T, F)."""
Codes = Mapping[str, Tensor]
"""Utterance id -> the code of every frame, (T,), int16."""


class CodesSpec(Spec):
    """Clusters of frames."""

    kind: Literal["codes"]
    num_codes: int = Field(100, ge=2, le=MAX_CODES)
    """Clusters."""
    layer: int | None = None
    """Cluster this layer of the network as it stands when the stage starts; MFCC when absent."""

    @property
    def taps(self) -> tuple[str, ...]:
        """See `Spec`."""
        return ("codes",)

    @property
    def lasting(self) -> bool:
        """No: clusters found anew have other numbers."""
        return False

    def open(self, givens: Givens) -> Source:
        """Those of the checkpoint, or new ones, kept beside the run.

        Raises:
            NestlingError: The codes of the checkpoint are gone, or others lie in their place.
        """
        if givens.saved is not None:
            return CodeSource(_find_codes(givens.saved["codes"], givens), self.num_codes, givens.grid)
        layer, supernet, corpus = self.layer, givens.supernet, givens.corpus
        codes = code_corpus(
            partial(describe_mfcc, grid=givens.grid) if layer is None else _describe_layer(supernet, layer),
            evaluation_batches(corpus, "train", batch_size=CODE_BATCH, augment=False, max_utterances=FIT_UTTERANCES),
            _coded_batches(corpus),
            givens.grid,
            self.num_codes,
            seed_of(givens.seed, givens.name.partition("/")[0]) % 2**31,
        )
        givens.store[givens.name] = codes
        return CodeSource(codes, self.num_codes, givens.grid)


def _find_codes(saved: str | Codes, givens: Givens) -> Codes:
    """What a checkpoint means by its codes: their hash, or, in one from before they lay beside the run, themselves."""
    if not isinstance(saved, str):
        return saved
    codes = givens.store.get(givens.name)
    if codes is None or hash_weights(dict(codes)) != saved:
        found = "are gone" if codes is None else "are others"
        raise NestlingError(
            f"the codes of {givens.name} that the checkpoint learned {found}; put the run's `codes` folder back, or "
            "train again"
        )
    return codes


def _coded_batches(corpus: SpeechCorpus) -> Iterator[Batch]:
    """What is trained on, and the search split (two recordings leave none): subnets can be compared by codes."""
    yield from evaluation_batches(corpus, "train", batch_size=CODE_BATCH, augment=False)
    try:
        corpus.utterances("search")
    except NestlingError:
        return
    yield from evaluation_batches(corpus, "search", batch_size=CODE_BATCH, augment=False)


class CodeSource:
    """A discrete code for each frame, found once for the whole corpus. Gives the tap `codes`, one layer.

    Args:
        codes: By utterance.
        num_codes: Size of the code book.
        grid: Where the frames that have codes lie; crops start at multiples of its hop.
    """

    reads = frozenset({"audio"})

    def __init__(self, codes: Codes, num_codes: int, grid: FrameGrid) -> None:
        self.codes = codes
        self.dims = {"codes": num_codes}
        self.grid = grid

    @property
    def state(self) -> dict[str, Any]:
        """The hash of the codes, so that a resumed run learns the same ones; themselves they lie beside the run."""
        return {"codes": hash_weights(dict(self.codes))}

    @property
    def fingerprint(self) -> str:
        """Of the codes themselves: what made them is not asked again."""
        return fingerprint("codes", hash_code(__name__), self.dims, self.grid.hop, self.grid.window, self.state)

    def calibrate(self, batch: Batch, seen: Seen) -> None:
        """Nothing to measure."""

    def __call__(self, batch: Batch, seen: Seen) -> Targets:
        """Codes of each utterance's crop, (B, T), zero where padded.

        Raises:
            NestlingError: An utterance has no codes: only those of the train and search splits have. Or it has not one
                for each of its frames.
        """
        counts = self.grid.count(torch.from_numpy(batch.lengths))
        num_frames = self.grid.count(seen.target.shape[1])
        rows = []
        for utterance, offset, count in zip(batch.utterances, batch.offsets.tolist(), counts.tolist(), strict=True):
            if utterance.id not in self.codes:
                raise NestlingError(
                    f"utterance {utterance.id} has no codes; only those of the train and search splits have"
                )
            row = self.codes[utterance.id][offset // self.grid.hop :][:count].long()
            if offset % self.grid.hop or len(row) < count:
                raise NestlingError(
                    f"the codes of utterance {utterance.id} do not line up: {len(row)} for {count} frames from sample "
                    f"{offset} on, {self.grid.hop} samples a frame"
                )
            rows.append(F.pad(row, (0, num_frames - count)))
        codes = torch.stack(rows).to(seen.target.device)
        return Targets({"codes": [codes]}, self.grid.rate_hz, seen.valid_frames(self.grid))


@torch.no_grad()
def code_corpus(
    describe: Describe,
    sample: Iterable[Batch],
    batches: Iterable[Batch],
    grid: FrameGrid,
    num_codes: int,
    seed: int,
) -> dict[str, Tensor]:
    """Clusters descriptions of clean frames and names every frame of whole utterances by its cluster.

    Args:
        describe: What is clustered.
        sample: The utterances that the clusters are found on; they are held in memory. HuBERT too takes a part.
        batches: The utterances that get codes, a batch at a time.
        grid: Where frames lie.
        num_codes: Clusters.
        seed: Of the clustering.

    Returns:
        Utterance id -> codes (T,), int16.
    """
    frames = np.concatenate([x for _, x in _describe_frames(describe, sample, grid)])
    mean, std = frames.mean(0), frames.std(0) + 1e-5
    centroids = torch.from_numpy(cluster((frames - mean) / std, num_codes, seed))
    return {
        name: nearest(torch.from_numpy((x - mean) / std), centroids).to(torch.int16)
        for name, x in _describe_frames(describe, batches, grid)
    }


def _describe_frames(
    describe: Describe, batches: Iterable[Batch], grid: FrameGrid
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each utterance's id and the description of every frame, (T, F)."""
    for batch in batches:
        lengths = torch.from_numpy(batch.lengths)
        described = describe(torch.from_numpy(batch.clean), lengths).float().cpu().numpy()
        for utterance, x, count in zip(batch.utterances, described, grid.count(lengths).tolist(), strict=True):
            yield utterance.id, x[:count]


def cluster(frames: NDArray[np.float32], num_codes: int, seed: int) -> NDArray[np.float32]:
    """Centroids of `frames` (N, F) by mini-batch k-means, (num_codes, F)."""
    from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415 - slow to import, and most runs cluster nothing

    model = MiniBatchKMeans(num_codes, random_state=seed, batch_size=10_000, n_init=3, max_iter=100)
    return np.asarray(model.fit(frames).cluster_centers_, dtype=np.float32)


def nearest(frames: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid of each frame: (N, F), (K, F) -> (N,)."""
    return (centroids.square().sum(1) - 2 * frames @ centroids.T).argmin(1)


def describe_mfcc(wave: Tensor, lengths: Tensor, grid: FrameGrid) -> Tensor:
    """MFCC less the mean of each utterance, which takes its channel and much of its speaker away, (B, T, 13)."""
    num_frames = grid.count(wave.shape[1])
    x = mfcc(wave, num_frames, deltas=False, grid=grid)
    valid = (torch.arange(num_frames) < grid.count(lengths).unsqueeze(1)).unsqueeze(-1)
    return x - (x * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)


def _describe_layer(supernet: Supernet, layer: int) -> Describe:
    def describe(wave: Tensor, lengths: Tensor) -> Tensor:
        device = supernet.residual_order.device
        trace = supernet(wave.to(device), lengths.to(device), supernet.space.container, ("hidden",))
        return trace.hidden[layer].cpu()  # type: ignore[no-any-return]

    return describe
