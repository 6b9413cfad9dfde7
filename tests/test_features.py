"""Features against independent definitions, labels against hand-counted frames."""

import numpy as np
import pytest
import scipy.fft
import torch

from speech_data.corpus import Utterance
from speech_data.features import (
    IGNORED,
    hold_last_frame,
    log_mel,
    mfcc,
    phone_labels,
    stack_context,
)


def noise(rows=1, num_samples=3280):
    return torch.from_numpy(np.random.default_rng(0).standard_normal((rows, num_samples)).astype(np.float32)) * 0.1


def log_mel_by_the_book(samples, num_frames, num_mels=40):
    """One frame at a time, in double precision, from the definition."""
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    hertz = np.arange(257) * 16_000 / 512
    mel = 2595 * np.log10(1 + hertz / 700)
    corners = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), num_mels + 2)
    rows = []
    for t in range(num_frames):
        frame = emphasised[320 * t : 320 * t + 400] * np.hanning(400)
        power = np.abs(np.fft.fft(frame, 512)[:257]) ** 2
        corner_hertz = 700 * (10 ** (corners / 2595) - 1)
        bands = [np.interp(hertz, corner_hertz[m : m + 3], [0, 1, 0], left=0, right=0) @ power for m in range(num_mels)]
        rows.append(np.log(np.maximum(bands, 1e-5)))
    assert mel[-1] == pytest.approx(corners[-1])
    return np.array(rows)


def test_log_mel_follows_the_definition():
    wave = noise()
    expected = log_mel_by_the_book(wave[0].double().numpy(), 10)
    np.testing.assert_allclose(log_mel(wave, 10)[0].numpy(), expected, atol=2e-3)  # float32 FFT, small bands


def test_mfcc_is_the_orthonormal_cosine_transform_of_log_mel():
    wave = noise(rows=2)
    expected = scipy.fft.dct(log_mel(wave, 10).numpy(), type=2, norm="ortho", axis=2)[:, :, :13]
    np.testing.assert_allclose(mfcc(wave, 10, deltas=False).numpy(), expected, atol=1e-4)


def test_tone_lights_its_band():
    times = torch.arange(4000) / 16_000
    bands = log_mel(torch.sin(2 * torch.pi * 1000 * times)[None], 12)[0]
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    assert (bands.argmax(dim=1) == int(np.abs(corners[1:-1] - 1000).argmin())).all()


def test_deltas_of_a_ramp_are_its_slope(monkeypatch):
    ramp = torch.arange(20.0)[None, :, None].expand(1, 20, 40)
    monkeypatch.setattr("speech_data.features.log_mel", lambda *_, **__: ramp)
    features = mfcc(noise(), 20)
    assert features.shape == (1, 20, 39)
    slope = np.sqrt(40)  # the first coefficient of the constant vector t is t sqrt(40)
    np.testing.assert_allclose(features[0, 4:-4, 13], slope, rtol=1e-5)
    np.testing.assert_allclose(features[0, 4:-4, 26], 0, atol=1e-4)


def test_frames_do_not_depend_on_padding():
    wave = noise(num_samples=320 * 9 + 400)
    padded = torch.nn.functional.pad(wave, (0, 5000))
    alone, batched = mfcc(wave, 10), mfcc(padded, 25, num_valid=torch.tensor([10]))
    np.testing.assert_allclose(batched[:, :10], alone, atol=1e-5)
    context = stack_context(alone), stack_context(batched, num_valid=torch.tensor([10]))
    np.testing.assert_allclose(context[1][:, :10], context[0], atol=1e-5)


def test_missing_samples_count_as_zeros():
    wave = noise(num_samples=1000)
    np.testing.assert_array_equal(log_mel(wave, 5), log_mel(torch.nn.functional.pad(wave, (0, 680)), 5))
    assert torch.isfinite(log_mel(torch.zeros(1, 400), 3)).all()


def test_context_holds_the_neighbours_in_order():
    features = torch.arange(6.0)[None, :, None]
    stacked = stack_context(features, context=2)
    assert stacked.shape == (1, 6, 5)
    assert stacked[0, 3].tolist() == [1, 2, 3, 4, 5]
    assert stacked[0, 0].tolist() == [0, 0, 0, 1, 2]
    assert stacked[0, 5].tolist() == [3, 4, 5, 5, 5]


def test_last_valid_frame_is_held():
    features = torch.arange(8.0).reshape(2, 4, 1)
    assert hold_last_frame(features, torch.tensor([2, 4]))[:, :, 0].tolist() == [[0, 1, 1, 1], [4, 5, 6, 7]]


PHONES = (("sil", 0.0, 0.03), ("ah", 0.03, 0.06), ("s", 0.06, 0.1))
UTTERANCE = Utterance(id="u", speaker=None, num_samples=1600, phones=PHONES)


def test_label_is_the_phone_at_the_centre_of_the_frame():
    # Centres: 200, 520, 840, 1160, 1480 samples = 12.5, 32.5, 52.5, 72.5, 92.5 ms; the sixth is outside.
    labels = phone_labels(UTTERANCE, 6, ("ah", "s", "sil"))
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 0, 1, 1, IGNORED]


def test_labels_of_a_crop_are_shifted():
    whole = phone_labels(UTTERANCE, 5, ("ah", "s", "sil"))
    assert phone_labels(UTTERANCE, 3, ("ah", "s", "sil"), offset=640).tolist() == whole[2:].tolist()


def test_unlabelled_audio_and_foreign_phones_are_refused():
    with pytest.raises(ValueError, match="u has no phone labels; only the synthesised corpus has them"):
        phone_labels(Utterance("u", None, 1600), 3, ("ah",))
    with pytest.raises(ValueError, match="u has phones that the inventory lacks: s, sil"):
        phone_labels(UTTERANCE, 3, ("ah",))
