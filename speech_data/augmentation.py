"""The noisy rendition of a clean utterance: a room, a spectral tilt, coloured noise.

All filtering is one multiplication of spectra, so a rendition of 2 s costs about a millisecond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_data.corpus import SAMPLE_RATE_HZ, Waveform

SNR_DB = (8.0, 30.0)
"""Speech (as it sounds in the room) over noise."""
REVERBERATION_SECONDS = (0.1, 0.6)
"""Time in which the room's sound falls by 60 dB."""
DIRECT_TO_REVERBERANT_DB = (2.0, 16.0)
TILT_DB_PER_OCTAVE = (-3.0, 3.0)
NOISE_EXPONENT = (0.0, 2.0)
"""The noise's power falls as frequency to this power: 0 is white, 1 pink, 2 brown."""

_RESPONSE_SAMPLES = SAMPLE_RATE_HZ // 4
_TAIL_STARTS = SAMPLE_RATE_HZ // 500  # 2 ms after the direct sound
_TILT_PIVOT_HZ, _TILT_OCTAVES = 1000.0, 3.0
_NOISE_FLOOR_HZ = 60.0


def render(clean: Waveform, rng: np.random.Generator) -> Waveform:
    """A noisy rendition of the same length and timing: the direct sound is not delayed.

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
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    path = np.fft.rfft(room_response(rng), size) * _tilt(frequencies, rng.uniform(*TILT_DB_PER_OCTAVE))
    speech = _inverse(np.fft.rfft(clean, size) * path, size)[:num_samples]
    noise = _coloured_noise(frequencies, size, rng)[:num_samples]
    gain = 10 ** (-rng.uniform(*SNR_DB) / 20) * _rms(speech) / _rms(noise)
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
