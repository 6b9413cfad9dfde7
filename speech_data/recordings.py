"""From what a synthesiser said to a recording: at one level, with silence around it, its phones and words in time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

from search_spaces.randomness import generator
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.augmentation import coloured_noise
from speech_data.corpus import Span, Utterance
from speech_data.espeak import SILENCE, Speech
from speech_data.plans import PlannedUtterance

LEVEL = 0.06
"""Root mean square of every utterance, full scale being 1."""
SILENCE_LEVEL_DB = (-70.0, -46.0)
"""Root mean square of a recording in which nothing is said, over full scale: 22 dB or more below speech."""

Recording = tuple[NDArray[np.int16], Utterance]
"""Samples at 16 kHz, (num_samples,), and their labels."""


def record(planned: PlannedUtterance, speech: Speech, sample_rate_hz: float) -> Recording:
    """The recording of a planned utterance.

    Args:
        planned: What was said, how long the silence around it is, and the length of the vocal tract.
        speech: What the synthesiser made of it.
        sample_rate_hz: Of `speech`.
    """
    rate_hz = sample_rate_hz / planned.tract  # played slower, a tract sounds longer
    samples = _finish_wave(speech, rate_hz, planned)
    return samples, _label(planned, speech, rate_hz, len(samples))


def record_silence(planned: PlannedUtterance) -> Recording:
    """The recording in which nothing is said: faint noise of a random level and colour, of no speaker."""
    rng = generator("silence", planned.noise_seed)
    num_samples = (planned.lead_ms + planned.trail_ms) * SAMPLE_RATE_HZ // 1000
    noise = coloured_noise(num_samples, rng)
    noise *= 10 ** (rng.uniform(*SILENCE_LEVEL_DB) / 20) / np.sqrt(np.mean(noise**2))
    utterance = Utterance(
        id=planned.id,
        speaker=None,
        num_samples=num_samples,
        text="",
        phones=tile([], num_samples / SAMPLE_RATE_HZ),
        intent=planned.intent,
    )
    return np.round(noise.clip(-1, 1) * 32767).astype(np.int16), utterance


def _finish_wave(speech: Speech, sample_rate_hz: float, planned: PlannedUtterance) -> NDArray[np.int16]:
    """At 16 kHz, at the common level, with silence on both sides."""
    wave = soxr.resample(speech.wave.astype(np.float32) / 32768, sample_rate_hz, SAMPLE_RATE_HZ)
    wave = wave * min(LEVEL / max(float(np.sqrt(np.mean(wave**2))), 1e-6), 0.99 / max(float(np.abs(wave).max()), 1e-6))
    silences = [np.zeros(ms * SAMPLE_RATE_HZ // 1000, np.float32) for ms in (planned.lead_ms, planned.trail_ms)]
    finished: NDArray[np.int16] = np.round(np.concatenate([silences[0], wave, silences[1]]) * 32767).astype(np.int16)
    return finished


def _label(planned: PlannedUtterance, speech: Speech, sample_rate_hz: float, num_samples: int) -> Utterance:
    lead = planned.lead_ms / 1000
    end = num_samples / SAMPLE_RATE_HZ
    phones = tile([(name, lead + sample / sample_rate_hz) for name, sample in speech.phones], end)
    starts = [(position, lead + sample / sample_rate_hz) for position, sample in speech.words]
    return Utterance(
        id=planned.id,
        speaker=planned.speaker,
        num_samples=num_samples,
        text=planned.text,
        phones=phones,
        words=_time_words(planned.text, starts, phones),
        intent=planned.intent,
        slots=planned.slots,
        style=planned.style,
    )


def tile(starts: list[tuple[str, float]], end: float) -> tuple[Span, ...]:
    """Phones that tile [0, end]: each lasts until the next; neighbouring silences are one."""
    spans: list[Span] = []
    for symbol, announced in [(SILENCE, 0.0), *starts]:
        start = round(min(announced, end), 4)
        if spans and spans[-1][0] == symbol == SILENCE:
            continue
        if spans:
            spans[-1] = (spans[-1][0], spans[-1][1], start)
        spans.append((symbol, start, round(end, 4)))
    return tuple(span for span in spans if span[2] > span[1])


def _time_words(text: str, starts: list[tuple[int, float]], phones: tuple[Span, ...]) -> tuple[Span, ...]:
    """Words with the times of their phones.

    A word is announced a little before its first phone, and some function words ("in the") are announced
    together: their phones are divided in proportion to the letters.

    Args:
        text: Words with single blanks between them.
        starts: (position of the first character, announced at, in seconds), in time order.
        phones: They tile the utterance.
    """
    groups: list[tuple[list[str], float]] = []  # words announced together, and when
    announced = dict(reversed(starts))  # the first announcement of a position counts
    position = 0
    for word in text.split():
        if position in announced or not groups:
            groups.append(([word], announced.get(position, 0.0)))
        else:
            groups[-1][0].append(word)
        position += len(word) + 1
    spoken = [phone for phone in phones if phone[0] != SILENCE]
    words: list[Span] = []
    for i, (members, start) in enumerate(groups):
        stop = groups[i + 1][1] if i + 1 < len(groups) else float("inf")
        own = [phone for phone in spoken if start - 1e-3 <= phone[1] < stop - 1e-3]
        words.extend(_divide(members, own))
    return tuple(words)


def _divide(words: list[str], phones: list[Span]) -> Iterator[Span]:
    """Each word with its share of the phones, by letters; a word without a phone is left out."""
    letters = sum(map(len, words))
    first, seen = 0, 0
    for word in words:
        seen += len(word)
        last = round(len(phones) * seen / letters)
        if last > first:
            yield word, phones[first][1], phones[last - 1][2]
        first = last
