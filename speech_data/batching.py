"""Batches of waveforms, each a pure function of what is asked for, so that a resumed run sees the same."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import NestlingError
from search_spaces.randomness import generator
from search_spaces.subnet import SAMPLE_RATE_HZ, FrameGrid
from speech_data.augmentation import render
from speech_data.corpus import SpeechCorpus, Utterance, Waveform

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Waveforms of equal length, zero beyond each one's own.

    B is the number of rows, S the samples of the longest (or of a crop).
    """

    wave: NDArray[np.float32]
    """(B, S): what the model hears; noisy if the batch is augmented."""
    clean: NDArray[np.float32]
    """(B, S): the same without augmentation; the very same array if there was none."""
    lengths: NDArray[np.int64]
    """(B,): valid samples, 1 <= lengths <= S."""
    utterances: tuple[Utterance, ...]
    offsets: NDArray[np.int64]
    """(B,): the sample of the utterance at which its row starts."""


def batch_at(
    corpus: SpeechCorpus,
    split: str,
    step: int,
    *,
    seed: int,
    batch_size: int,
    crop_seconds: float,
    augment: bool,
    rows: range | None = None,
    hop: int = FrameGrid.hop,
) -> Batch:
    """The training batch of a step.

    Epochs are permutations, keyed by (seed, epoch), laid end to end; crop and noise of an utterance are keyed
    by (seed, epoch, utterance). So nothing depends on earlier steps or on who else makes which rows.

    Args:
        corpus: Where the audio is.
        split: Usually `train`.
        step: >= 0.
        seed: Of the run.
        batch_size: Rows of the whole batch.
        crop_seconds: Length of a row; a shorter utterance is zero-padded.
        augment: Whether `wave` is a noisy rendition of `clean`.
        rows: The rows to make; default all. Ranks take a share each.
        hop: Samples from frame to frame. Crops start at its multiples, so that labels of whole utterances fit them.

    Raises:
        NestlingError: The split is unknown or empty, or a size is not positive.
    """
    size = round(crop_seconds * SAMPLE_RATE_HZ)
    if batch_size < 1 or size < 1:
        raise NestlingError(f"a batch needs at least one row and one sample; got {batch_size} rows of {crop_seconds} s")
    utterances = corpus.utterances(split)
    if not utterances:
        raise NestlingError(f"the split {split!r} of {corpus.name} is empty")
    chosen, offsets, cleans, noisies = [], [], [], []
    for row in range(batch_size) if rows is None else rows:
        epoch, position = divmod(step * batch_size + row, len(utterances))
        utterance = utterances[_permutation(seed, epoch, len(utterances))[position]]
        rng = generator(seed, "crop and noise", epoch, utterance.id)
        offset = hop * int(rng.integers(max(0, utterance.num_samples - size) // hop + 1))
        clean = corpus.read(utterance)[offset : offset + size]
        chosen.append(utterance)
        offsets.append(offset)
        cleans.append(clean)
        noisies.append(render(clean, rng) if augment else clean)
    return _pack(chosen, offsets, cleans, noisies, size)


def evaluation_batches(
    corpus: SpeechCorpus, split: str, *, batch_size: int, augment: bool, max_utterances: int | None = None
) -> Iterator[Batch]:
    """Whole utterances in batches of similar length, shortest first; the same whatever the seed of a run.

    Args:
        corpus: Where the audio is.
        split: `search` or `dev`; `test` for evaluation alone.
        batch_size: Rows at most.
        augment: Whether `wave` is a noisy rendition of `clean`, keyed by the utterance's id alone.
        max_utterances: Take so many at most, from all over the split; a smaller draw is part of a larger one.

    Raises:
        NestlingError: The split is unknown.
    """
    drawn = sorted(draw_utterances(corpus, split, max_utterances), key=lambda u: (u.num_samples, u.id))
    for first in range(0, len(drawn), batch_size):
        chosen = drawn[first : first + batch_size]
        cleans = [corpus.read(utterance) for utterance in chosen]
        noisies = [
            render(clean, generator("evaluation noise", utterance.id)) if augment else clean
            for utterance, clean in zip(chosen, cleans, strict=True)
        ]
        yield _pack(chosen, [0] * len(chosen), cleans, noisies, max(map(len, cleans)))


def draw_utterances(corpus: SpeechCorpus, split: str, max_utterances: int | None) -> list[Utterance]:
    """At most so many utterances from all over a split, always the same; a smaller draw begins a larger one."""
    utterances = corpus.utterances(split)
    return [utterances[i] for i in _permutation(0, 0, len(utterances))[:max_utterances]]


def prefetch(make: Callable[[int], Item], start: int, stop: int, ahead: int = 2) -> Iterator[Item]:
    """Yields make(start), …, make(stop - 1), made in one background thread, `ahead` of them waiting at most.

    What `make` raises is raised here, in its turn. The thread ends when the iterator is exhausted or closed.
    """
    made: queue.Queue[Item | _Failure] = queue.Queue(maxsize=ahead)
    closed = threading.Event()

    def put(item: Item | _Failure) -> None:
        while not closed.is_set():
            try:
                made.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for step in range(start, stop):
                if closed.is_set():
                    return
                put(make(step))
        except Exception as error:
            put(_Failure(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item = made.get()
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        closed.set()
        thread.join()


@dataclass(frozen=True)
class _Failure:
    error: Exception


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return generator(seed, "epoch", epoch).permutation(size)


def _pack(
    utterances: Sequence[Utterance],
    offsets: Sequence[int],
    cleans: Sequence[Waveform],
    noisies: Sequence[Waveform],
    size: int,
) -> Batch:
    clean = _pad(cleans, size)
    augmented = any(noisy is not plain for noisy, plain in zip(noisies, cleans, strict=True))
    return Batch(
        wave=_pad(noisies, size) if augmented else clean,
        clean=clean,
        lengths=np.array([len(wave) for wave in cleans], np.int64),
        utterances=tuple(utterances),
        offsets=np.array(offsets, np.int64),
    )


def _pad(waves: Sequence[Waveform], size: int) -> NDArray[np.float32]:
    padded = np.zeros((len(waves), size), np.float32)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    return padded
