"""Noisy renditions of a clean utterance: `render` for training, `render_otherwise` for what training never heard.

The first has a diffuse room, a spectral tilt and coloured noise. The second has a few early reflections; a murmur,
clicks or mains hum; at times a telephone line and an amplifier that clips. Filters are multiplications of spectra, so
a rendition of 2 s costs one to ten milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.corpus import Waveform

SNR_DB = (8.0, 30.0)
"""Speech (as it sounds in the room) over noise."""
REVERBERATION_SECONDS = (0.1, 0.6)
"""Time in which the room's sound falls by 60 dB."""
DIRECT_TO_REVERBERANT_DB = (2.0, 16.0)
TILT_DB_PER_OCTAVE = (-3.0, 3.0)
NOISE_EXPONENT = (0.0, 2.0)
"""The noise's power falls as frequency to this power: 0 is white, 1 pink, 2 brown."""

OTHER_SNR_DB = (5.0, 20.0)
NUM_REFLECTIONS = (4, 12)
REFLECTION_SECONDS = (0.003, 0.05)
REFLECTED_TO_DIRECT_DB = (-14.0, -2.0)
TELEPHONE_SHARE = 0.5
"""Of the other renditions, that come over a telephone line."""
TELEPHONE_HZ = (150.0, 300.0, 3400.0, 4000.0)
"""Corners of the line's band: it passes all between the inner two and nothing beyond the outer two."""
CLIPPING_SHARE = 0.5
CLIPPING_LEVEL = (1.5, 4.0)
"""Where soft clipping sets in, over the root mean square."""
NUM_TALKERS = (4, 8)
CLICKS_PER_SECOND = (3.0, 15.0)
MAINS_HZ = (50.0, 60.0)

_RESPONSE_SAMPLES = SAMPLE_RATE_HZ // 4
_TAIL_STARTS = SAMPLE_RATE_HZ // 500  # 2 ms after the direct sound
_TILT_PIVOT_HZ, _TILT_OCTAVES = 1000.0, 3.0
_NOISE_FLOOR_HZ = 60.0


def render(clean: Waveform, rng: np.random.Generator, *, snr_db: tuple[float, float] = SNR_DB) -> Waveform:
    """A noisy rendition of the same length and timing: the direct sound is not delayed.

    Args:
        clean: (num_samples,), any level. Digital silence stays silent.
        rng: All randomness comes from it.
        snr_db: Range of speech (as it sounds in the room) over noise.

    Returns:
        (num_samples,) float32.
    """
    num_samples = len(clean)
    if num_samples == 0 or not np.any(clean):
        return clean.copy()
    size = _fft_size(num_samples + _RESPONSE_SAMPLES)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    path = np.fft.rfft(room_response(rng), size) * _tilt(frequencies, rng.uniform(*TILT_DB_PER_OCTAVE))
    speech = _inverse(np.fft.rfft(clean, size) * path, size)[:num_samples]
    noise = _coloured_noise(frequencies, size, rng)[:num_samples]
    gain = 10 ** (-rng.uniform(*snr_db) / 20) * _rms(speech) / _rms(noise)
    return (speech + np.float32(gain) * noise).astype(np.float32)


def room_response(rng: np.random.Generator) -> Waveform:
    """A room's impulse response, (4000,): the direct sound, 1 at time 0, and a tail of decaying noise."""
    times = np.arange(_RESPONSE_SAMPLES - _TAIL_STARTS, dtype=np.float32) / SAMPLE_RATE_HZ
    decay = np.log(1000) / rng.uniform(*REVERBERATION_SECONDS)  # amplitude falls by 1000 = 60 dB
    tail = rng.standard_normal(len(times), dtype=np.float32) * np.exp(-decay * times, dtype=np.float32)
    tail *= 10 ** (-rng.uniform(*DIRECT_TO_REVERBERANT_DB) / 20) / np.linalg.norm(tail)
    response = np.zeros(_RESPONSE_SAMPLES, np.float32)
    response[0] = 1
    response[_TAIL_STARTS:] = tail
    return response


def render_otherwise(clean: Waveform, rng: np.random.Generator) -> Waveform:
    """A rendition with noise, room and channel that `render` never makes; same length, same timing.

    The noise is set against the speech as it sounds in the room, before the line and the amplifier.

    Args:
        clean: (num_samples,), any level. Digital silence stays silent.
        rng: All randomness comes from it.

    Returns:
        (num_samples,) float32.
    """
    num_samples = len(clean)
    if num_samples == 0 or not np.any(clean):
        return clean.copy()
    size = _fft_size(num_samples + _RESPONSE_SAMPLES)
    speech = _inverse(np.fft.rfft(clean, size) * np.fft.rfft(early_reflections(rng), size), size)[:num_samples]
    over_telephone, clips = rng.random() < TELEPHONE_SHARE, rng.random() < CLIPPING_SHARE
    ratio, clipping_level = 10 ** (-rng.uniform(*OTHER_SNR_DB) / 20), rng.uniform(*CLIPPING_LEVEL)
    noise = NOISES[sorted(NOISES)[rng.integers(len(NOISES))]](num_samples, rng)
    heard = speech + np.float32(ratio * _rms(speech) / _rms(noise)) * noise
    if over_telephone:
        heard = _telephone(heard, size)
    if clips:
        limit = np.float32(clipping_level * _rms(heard))
        heard = limit * np.tanh(heard / limit)
    return np.asarray(heard, np.float32)


def early_reflections(rng: np.random.Generator) -> Waveform:
    """A small room's impulse response, (4000,): the direct sound, 1 at time 0, and a few echoes of either sign."""
    low, high = NUM_REFLECTIONS
    first, last = REFLECTION_SECONDS
    delays = first * (last / first) ** rng.random(rng.integers(low, high + 1))
    echoes = np.zeros(_RESPONSE_SAMPLES, np.float32)
    strengths = rng.choice([-1.0, 1.0], len(delays)) * rng.uniform(0.5, 1, len(delays)) * np.exp(-delays / 0.03)
    np.add.at(echoes, np.round(delays * SAMPLE_RATE_HZ).astype(int), strengths)
    echoes *= 10 ** (rng.uniform(*REFLECTED_TO_DIRECT_DB) / 20) / max(float(np.linalg.norm(echoes)), 1e-6)
    echoes[0] = 1
    return echoes


def coloured_noise(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Noise between white and brown, (num_samples,), at no particular level."""
    size = _fft_size(num_samples)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    return _coloured_noise(frequencies, size, rng)[:num_samples]


def murmur(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Several talkers at a distance: noise as speech is coloured, each with formants and syllables of its own."""
    size = _fft_size(num_samples)
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    # The long-term spectrum of speech: level up to 500 Hz, 9 dB less with each octave above, little below 100 Hz.
    speech_shape = np.minimum(1, frequencies / 100) * np.maximum(1, frequencies / 500) ** np.float32(-1.5)
    total = np.zeros(num_samples, np.float32)
    low, high = NUM_TALKERS
    for _ in range(rng.integers(low, high + 1)):
        formants = rng.uniform([300, 900, 2000], [800, 2000, 3200]).astype(np.float32)
        peaks = sum(np.exp(-np.square((frequencies - formant) / 150)) for formant in formants)
        spectrum = rng.standard_normal((len(frequencies), 2), dtype=np.float32).view(np.complex64)[:, 0]
        voice = _inverse(spectrum * speech_shape * (1 + 3 * peaks), size)[:num_samples]
        seconds_of_syllable = rng.uniform(0.12, 0.3)
        places = np.arange(num_samples) / (seconds_of_syllable * SAMPLE_RATE_HZ)
        loudness = rng.uniform(0.3, 1) * rng.uniform(0, 1, int(places[-1]) + 2) ** 2
        total += voice * np.interp(places, np.arange(len(loudness)), loudness)
    return total


def clicks(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Knocks and crackle: short decaying tones at random moments, over a faint hiss."""
    wave = 0.01 * rng.standard_normal(num_samples, dtype=np.float32)
    for _ in range(1 + rng.poisson(rng.uniform(*CLICKS_PER_SECOND) * num_samples / SAMPLE_RATE_HZ)):
        start = int(rng.integers(num_samples))
        times = np.arange(min(num_samples - start, SAMPLE_RATE_HZ // 50)) / SAMPLE_RATE_HZ
        decay, hertz = np.exp(-times / rng.uniform(0.0003, 0.004)), rng.uniform(200, 6000)
        wave[start : start + len(times)] += rng.uniform(0.2, 1) * decay * np.cos(2 * np.pi * hertz * times)
    return wave


def hum(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Mains hum: a fundamental near 50 or 60 Hz and its harmonics, over a faint hiss."""
    times = np.arange(num_samples) / SAMPLE_RATE_HZ
    hertz = rng.choice(MAINS_HZ) * rng.uniform(0.99, 1.01)
    slope = rng.uniform(0.2, 1.2)
    fundamental = np.exp(2j * np.pi * hertz * times).astype(np.complex64)
    wave = 0.1 * rng.standard_normal(num_samples, dtype=np.float32)
    rotation = np.ones(num_samples, np.complex64)
    for harmonic in range(1, 31):
        rotation *= fundamental
        phase = np.exp(2j * np.pi * rng.random())
        wave += (np.complex64(rng.uniform(0.2, 1) * harmonic**-slope * phase) * rotation).imag
    return wave


NOISES: dict[str, Callable[[int, np.random.Generator], Waveform]] = {"clicks": clicks, "hum": hum, "murmur": murmur}
"""What `render_otherwise` adds: (num_samples, rng) -> (num_samples,), at no particular level."""


def _telephone(wave: Waveform, size: int) -> Waveform:
    """The wave within a telephone's band; the filter has no delay."""
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    gain = np.interp(frequencies, TELEPHONE_HZ, (0.0, 1.0, 1.0, 0.0)).astype(np.float32)
    return _inverse(np.fft.rfft(wave, size) * gain, size)[: len(wave)]


def _tilt(frequencies: NDArray[np.float32], db_per_octave: float) -> NDArray[np.float32]:
    """Gain at each frequency: a straight line over octaves, level beyond three of them from 1 kHz."""
    octaves = np.log2(np.maximum(frequencies, 1) / np.float32(_TILT_PIVOT_HZ)).clip(-_TILT_OCTAVES, _TILT_OCTAVES)
    gain: NDArray[np.float32] = np.exp(np.float32(db_per_octave * np.log(10) / 20) * octaves)
    return gain


def _coloured_noise(frequencies: NDArray[np.float32], size: int, rng: np.random.Generator) -> Waveform:
    exponent = rng.uniform(*NOISE_EXPONENT)
    magnitude = np.maximum(frequencies, _NOISE_FLOOR_HZ) ** np.float32(-exponent / 2)
    spectrum = rng.standard_normal((len(frequencies), 2), dtype=np.float32).view(np.complex64)[:, 0]
    return _inverse(spectrum * magnitude, size)


def _inverse(spectrum: NDArray[np.complexfloating], size: int) -> Waveform:
    return np.asarray(np.fft.irfft(spectrum, size), np.float32)


def _fft_size(minimum: int) -> int:
    """A size with small factors: a multiple of 4096."""
    return -(-minimum // 4096) * 4096


def _rms(wave: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
