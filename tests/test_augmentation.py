"""The other rendition: noise, rooms and channels that training never hears, at stated levels and in time."""

import numpy as np
import pytest

from search_spaces.randomness import generator
from speech_data import augmentation
from speech_data.augmentation import NOISES, coloured_noise, early_reflections, render, render_otherwise


def speechlike(num_samples=32_000):
    rng = np.random.default_rng(1)
    envelope = np.abs(np.sin(np.arange(num_samples) / 3000))
    return (0.1 * envelope * rng.standard_normal(num_samples)).astype(np.float32)


@pytest.fixture
def plain_channel(monkeypatch):
    monkeypatch.setattr(augmentation, "TELEPHONE_SHARE", 0.0)
    monkeypatch.setattr(augmentation, "CLIPPING_SHARE", 0.0)


def share_of_power(wave, low, high):
    power = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.linspace(0, 8000, len(power))
    return power[(hertz >= low) & (hertz < high)].sum() / power.sum()


def test_rendition_is_a_function_of_the_generator_alone():
    clean = speechlike()
    first = render_otherwise(clean, generator(1))
    assert (first.shape, first.dtype) == (clean.shape, np.float32)
    np.testing.assert_array_equal(first, render_otherwise(clean, generator(1)))
    assert np.abs(first - render_otherwise(clean, generator(2))).max() > 0.01
    np.testing.assert_array_equal(clean, speechlike())


@pytest.mark.parametrize("num_samples", [1, 2, 399, 16_000])
def test_any_length_is_kept(num_samples):
    for key in range(10):
        heard = render_otherwise(speechlike(num_samples) + np.float32(0.01), generator(key))
        assert heard.shape == (num_samples,)
        assert np.isfinite(heard).all()


def test_silence_stays_silent():
    assert not render_otherwise(np.zeros(8000, np.float32), generator(0)).any()
    assert render_otherwise(np.zeros(0, np.float32), generator(0)).shape == (0,)


@pytest.mark.usefixtures("plain_channel")
@pytest.mark.parametrize("noise", sorted(NOISES))
@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_noise_has_the_stated_level(monkeypatch, noise, snr_db):
    """Two renditions that differ in the ratio alone differ by the noise alone."""
    monkeypatch.setattr(augmentation, "NOISES", {noise: NOISES[noise]})
    clean = speechlike()
    monkeypatch.setattr(augmentation, "OTHER_SNR_DB", (200.0, 200.0))
    speech = render_otherwise(clean, generator(5)).astype(np.float64)
    monkeypatch.setattr(augmentation, "OTHER_SNR_DB", (snr_db, snr_db))
    added = render_otherwise(clean, generator(5)).astype(np.float64) - speech
    assert 10 * np.log10((speech**2).mean() / (added**2).mean()) == pytest.approx(snr_db, abs=0.02)


@pytest.mark.usefixtures("plain_channel")
def test_rendition_keeps_the_timing(monkeypatch):
    """Echoes come after a sound, not before."""
    monkeypatch.setattr(augmentation, "OTHER_SNR_DB", (200.0, 200.0))
    click = np.zeros(8000, np.float32)
    click[3000] = 1
    heard = render_otherwise(click, generator(2))
    assert heard[3000] == pytest.approx(1, abs=1e-4)
    assert np.abs(heard[:3000]).max() < 1e-4
    assert np.abs(heard[3000 + 40 : 3000 + 801]).max() > 0.01
    assert np.abs(heard[3802:]).max() < 1e-4


def test_line_and_amplifier_do_not_delay(monkeypatch):
    monkeypatch.setattr(augmentation, "OTHER_SNR_DB", (200.0, 200.0))
    monkeypatch.setattr(augmentation, "TELEPHONE_SHARE", 1.0)
    monkeypatch.setattr(augmentation, "CLIPPING_SHARE", 1.0)
    clean = speechlike()
    for key in range(5):
        heard = render_otherwise(clean, generator(key)).astype(np.float64)
        lags = range(-40, 41)
        match = [np.dot(clean[100:-100], heard[100 + lag : len(heard) - 100 + lag]) for lag in lags]
        assert lags[int(np.argmax(match))] == 0


def test_telephone_passes_its_band_and_nothing_else(monkeypatch):
    monkeypatch.setattr(augmentation, "CLIPPING_SHARE", 0.0)
    clean = speechlike()
    inside = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(augmentation, "TELEPHONE_SHARE", share)
        inside[share] = share_of_power(render_otherwise(clean, generator(3)), 140, 4010)
    assert inside[1.0] > 0.999
    assert inside[0.0] < 0.8


def test_amplifier_clips_softly(monkeypatch):
    monkeypatch.setattr(augmentation, "TELEPHONE_SHARE", 0.0)
    monkeypatch.setattr(augmentation, "CLIPPING_LEVEL", (1.5, 1.5))
    clean = speechlike()
    waves = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(augmentation, "CLIPPING_SHARE", share)
        waves.append(render_otherwise(clean, generator(3)))
    open_wave, clipped = waves
    limit = 1.5 * np.sqrt(np.mean(open_wave.astype(np.float64) ** 2))
    np.testing.assert_allclose(clipped, limit * np.tanh(open_wave / limit), atol=1e-5)
    assert np.abs(clipped).max() <= limit < np.abs(open_wave).max()


def test_echoes_are_few_early_and_of_the_stated_strength():
    for key in range(20):
        response = early_reflections(generator(key))
        echoes = np.flatnonzero(response[1:]) + 1
        assert response[0] == 1
        assert 2 <= len(echoes) <= 12
        assert echoes.min() >= 48
        assert echoes.max() <= 800
        assert -14.01 <= 10 * np.log10((response[1:] ** 2).sum()) <= -1.99


def test_each_noise_is_of_its_kind():
    murmur, clicks, hum = (NOISES[name](64_000, generator(name)) for name in ("murmur", "clicks", "hum"))
    assert share_of_power(murmur, 100, 4000) > 0.9  # coloured as speech is
    loudness = np.sqrt((murmur.reshape(-1, 800) ** 2).mean(1))
    white = np.sqrt((np.random.default_rng(0).standard_normal((80, 800)) ** 2).mean(1))
    assert loudness.std() / loudness.mean() > 3 * white.std() / white.mean()  # with syllables
    assert np.mean((clicks / clicks.std()) ** 4) > 20  # most power in few samples; Gaussian noise has 3
    peaks = np.sort(np.abs(np.fft.rfft(hum * np.hanning(len(hum)))) ** 2)[::-1]
    assert peaks[:200].sum() > 0.5 * peaks.sum()  # lines, of 32,001 frequencies


def test_colours_of_noise_differ():
    low = [share_of_power(coloured_noise(16_000, generator(key)), 0, 1000) for key in range(10)]
    assert max(low) - min(low) > 0.3
    assert coloured_noise(5000, generator(0)).shape == (5000,)


def test_the_two_renditions_share_no_noise():
    """The same key gives another sound: what was trained on `render` has not heard this."""
    clean = speechlike()
    first, second = render(clean, generator(7)) - clean, render_otherwise(clean, generator(7)) - clean
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
