"""Hidden states of the clips that tasks read, computed once for each encoder.

T frames of a clip, L layers (hidden states), D channels of a frame.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.costs import count_frames
from search_spaces.errors import NestlingError
from search_spaces.randomness import generator
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone
from speech_data.augmentation import render, render_otherwise
from speech_data.corpus import SpeechCorpus, Utterance, Waveform

Encode = Callable[[Tensor, Tensor | None], Sequence[Tensor]]
"""Waveforms (B, S) and lengths (B,), None when nothing is padded -> every hidden state, each (B, T, D)."""
Rendition = Literal["clean", "noisy", "noisier", "otherwise"]
"""As it is; with the noise and rooms of training; with more noise; with noise and rooms that no training has heard."""
NOISIER_DB = (0.0, 12.0)
"""Speech over noise, for the noisier rendition."""

BATCH_SECONDS = 40.0
LEAST_VARIANCE = 1e-12
"""Of a channel; the layer's mean square is about 1, and fp32 tells no less of a channel that far from 0."""
Key = tuple[str, str, str, int, int]


@dataclass(frozen=True)
class Clip:
    """An utterance, or a piece of it, as an encoder is to hear it."""

    corpus: SpeechCorpus
    utterance: Utterance
    rendition: Rendition
    first: int = 0
    """Its first sample."""
    max_samples: int = 2**31

    @property
    def num_samples(self) -> int:
        """Length, in samples at 16 kHz."""
        return min(self.max_samples, self.utterance.num_samples - self.first)

    @property
    def num_frames(self) -> int:
        """T: what HuBERT's strides make of it."""
        return count_frames(Backbone(), self.num_samples)

    @property
    def key(self) -> Key:
        """Tells clips apart; equal for clips that sound the same."""
        return self.corpus.hash, self.utterance.id, self.rendition, self.first, self.num_samples

    def read(self) -> Waveform:
        """The waveform, (num_samples,); its noise is keyed by the utterance alone."""
        wave = self.corpus.read(self.utterance)[self.first : self.first + self.num_samples]
        if self.rendition == "clean":
            return wave
        rng = generator("evaluation noise", self.utterance.id)
        if self.rendition == "otherwise":
            return render_otherwise(wave, rng)
        return render(wave, rng, snr_db=NOISIER_DB) if self.rendition == "noisier" else render(wave, rng)


class FeatureStore:
    """The hidden states of clips, in half precision in a temporary file; a context manager, which deletes the file.

    Each layer is divided by its root mean square over the first batch, so that half precision holds any encoder. What
    is kept is what departs from each channel's mean over that batch, so that it also holds a channel that hardly
    varies far from 0, as some of HuBERT's and WavLM's do.

    Args:
        encode: The frozen encoder.
        clips: All that will be asked for; those alike are encoded once.
        on_progress: Called with the number of clips encoded and the number of all.
        folder: Where the temporary file goes. Default: the system's.

    Raises:
        NestlingError: The encoder's frames are not 20 ms apart, or not finite.
    """

    def __init__(
        self,
        encode: Encode,
        clips: Iterable[Clip],
        *,
        on_progress: Callable[[int, int], None] = lambda *_: None,
        folder: Path | None = None,
    ) -> None:
        self._file = tempfile.TemporaryFile(prefix="nestling-features-", dir=folder)  # noqa: SIM115 - closed by close
        self._places: dict[Key, tuple[int, int]] = {}  # (first frame in the file, frames)
        self._moments: dict[Key, Tensor] = {}  # (2, L, D), float64: means of what is kept and of its squares
        self._scale = self._centre = torch.empty(0)
        self.num_layers = self.dim = 0
        distinct = list({clip.key: clip for clip in clips}.values())
        done = 0
        try:
            for batch in _batches(distinct):
                self._encode(encode, batch)
                done += len(batch)
                on_progress(done, len(distinct))
        except BaseException:
            self.close()
            raise
        self._file.flush()
        shape = (sum(count for _, count in self._places.values()), self.num_layers, self.dim)
        self._frames: NDArray[np.float16] = np.memmap(self._file, np.float16, "r", shape=shape)

    def frames(self, clip: Clip) -> Tensor:
        """Every hidden state of a clip, (T, L, D), fp32."""
        first, count = self._places[clip.key]
        return torch.from_numpy(self._frames[first : first + count].astype(np.float32)).add_(self._centre)

    def pooled(self, clips: Sequence[Clip]) -> Tensor:
        """Means over the frames of each clip, (N, L, D)."""
        return (torch.stack([self._moments[clip.key][0] for clip in clips]) + self._centre).float()

    def statistics(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel over all frames of some clips, each (L, D)."""
        counts = torch.tensor([self._places[clip.key][1] for clip in clips], dtype=torch.float64)
        weights = (counts / counts.sum())[:, None, None, None]
        mean, square = (torch.stack([self._moments[clip.key] for clip in clips]) * weights).sum(0)
        std = (square - mean.square()).clamp_min(LEAST_VARIANCE).sqrt()
        return (mean + self._centre).float(), std.float()

    def close(self) -> None:
        """Deletes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @torch.no_grad()
    def _encode(self, encode: Encode, clips: Sequence[Clip]) -> None:
        waves = [clip.read() for clip in clips]
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(padded, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        states = torch.stack(
            [x.float().cpu() for x in encode(padded, lengths if int(lengths.min()) < padded.shape[1] else None)], dim=2
        )  # (B, T, L, D)
        if (expected := count_frames(Backbone(), padded.shape[1])) != states.shape[1]:
            raise NestlingError(
                f"the encoder makes {states.shape[1]} frames of {padded.shape[1] / SAMPLE_RATE_HZ:.2f} s; "
                f"tasks want one every 20 ms, {expected}"
            )
        if not self._places:
            self.num_layers, self.dim = states.shape[2:]
            self._scale = 1 / states.square().mean((0, 1, 3)).sqrt().clamp_min(1e-6)  # (L,)
            frames = torch.cat([x[: clip.num_frames] for clip, x in zip(clips, states, strict=True)])
            self._centre = frames.double().mean(0).float() * self._scale[:, None]  # (L, D)
        first = sum(next(reversed(self._places.values()), (0, 0)))
        for clip, x in zip(clips, states, strict=True):
            kept = x[: clip.num_frames] * self._scale[:, None] - self._centre  # (T, L, D)
            moments = torch.stack([kept.double().mean(0), kept.double().square().mean(0)])
            if not moments.isfinite().all():
                raise NestlingError(f"the encoder's hidden states are not finite for {clip.utterance.id}")
            self._file.write(kept.to(torch.float16).numpy().tobytes())
            self._places[clip.key], self._moments[clip.key] = (first, len(kept)), moments
            first += len(kept)


def _batches(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    """Clips of similar length together, `BATCH_SECONDS` at most."""
    batch: list[Clip] = []
    for clip in sorted(clips, key=lambda clip: (clip.num_samples, clip.key)):
        if batch and (len(batch) + 1) * clip.num_samples > BATCH_SECONDS * SAMPLE_RATE_HZ:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch
