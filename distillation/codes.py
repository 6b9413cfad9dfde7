"""Hidden units: a code for every frame of a corpus, by k-means over MFCC or over a network's own layer.

Source: HuBERT (arXiv 2106.07447), section II-B: MFCC first, then the hidden states of the iteration before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distillation.sources import CodeSource
from speech_data.batching import Batch

Describe = Callable[[Tensor, Tensor], Tensor]
"""Waveforms (B, S) and lengths (B,) -> a description of every frame, (B, T, F)."""


@torch.no_grad()
def code_corpus(
    describe: Describe,
    sample: Iterable[Batch],
    batches: Iterable[Batch],
    count_frames: Callable[[Tensor], Tensor],
    num_codes: int,
    hop: int,
    seed: int,
) -> CodeSource:
    """Clusters descriptions of clean frames and names every frame of whole utterances by its cluster.

    Args:
        describe: What is clustered.
        sample: The utterances that the clusters are found on; they are held in memory. HuBERT too takes a part.
        batches: The utterances that get codes, a batch at a time.
        count_frames: Samples -> frames.
        num_codes: Clusters.
        hop: Samples from one frame to the next.
        seed: Of the clustering.
    """
    frames = np.concatenate([x for _, x in _describe_frames(describe, sample, count_frames)])
    mean, std = frames.mean(0), frames.std(0) + 1e-5
    centroids = torch.from_numpy(cluster((frames - mean) / std, num_codes, seed))
    codes = {
        name: nearest(torch.from_numpy((x - mean) / std), centroids).numpy().astype(np.int16)
        for name, x in _describe_frames(describe, batches, count_frames)
    }
    return CodeSource(codes, num_codes, count_frames, hop)


def _describe_frames(
    describe: Describe, batches: Iterable[Batch], count_frames: Callable[[Tensor], Tensor]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each utterance's id and the description of every frame, (T, F)."""
    for batch in batches:
        lengths = torch.from_numpy(batch.lengths)
        described = describe(torch.from_numpy(batch.clean), lengths).float().cpu().numpy()
        for utterance, x, count in zip(batch.utterances, described, count_frames(lengths).tolist(), strict=True):
            yield utterance.id, x[:count]


def load_codes(
    state: Mapping[str, Mapping[str, Tensor]],
    num_codes: int,
    count_frames: Callable[[Tensor], Tensor],
    hop: int,
) -> CodeSource:
    """The source whose `state` was kept."""
    return CodeSource({name: x.numpy() for name, x in state["codes"].items()}, num_codes, count_frames, hop)


def cluster(frames: NDArray[np.float32], num_codes: int, seed: int) -> NDArray[np.float32]:
    """Centroids of `frames` (N, F) by mini-batch k-means, (num_codes, F)."""
    from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415 - slow to import, and most runs cluster nothing

    model = MiniBatchKMeans(num_codes, random_state=seed, batch_size=10_000, n_init=3, max_iter=100)
    return np.asarray(model.fit(frames).cluster_centers_, dtype=np.float32)


def nearest(frames: Tensor, centroids: Tensor) -> Tensor:
    """Index of the nearest centroid of each frame: (N, F), (K, F) -> (N,)."""
    return (centroids.square().sum(1) - 2 * frames @ centroids.T).argmin(1)
