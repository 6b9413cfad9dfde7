"""The probe reads off what is there, no more, and says how sure it is."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nestling.workflows.training import quick_probe
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.corpus import Corpus, Utterance
from speech_tasks.intervals import Voices
from speech_tasks.phone_probe import (
    Frames,
    PhoneProbe,
    collect_frames,
    fit_linear,
    hidden_states,
    probe_phones,
    stacked_mfcc,
)
from tests.training_cases import make_teacher, make_wave

NUM_CLASSES = 4
FRAMES_EACH = 25


def labels(seed, num_frames):
    """Half of the frames are of class 0."""
    drawn = np.random.default_rng(seed).choice(NUM_CLASSES, num_frames, p=[0.5, 0.25, 0.15, 0.1])
    return torch.from_numpy(drawn)


def noise(seed, num_frames, dim=6):
    return torch.randn(num_frames, dim, generator=torch.Generator().manual_seed(seed))


def linear(said, seed):
    """Features that hold the label in a few directions, over noise and at an odd scale."""
    directions = noise(99, NUM_CLASSES)
    return 1000 + 50 * (directions[said] + 0.05 * noise(seed, len(said)))


def frames(seed, *layers, num_utterances=40, first_layer=0):
    """Labelled frames; a layer is `linear` or `noise`."""
    said = labels(seed, FRAMES_EACH * num_utterances)
    made = [
        linear(said, seed) if layer is linear else noise(seed + 50 + i, len(said)) for i, layer in enumerate(layers)
    ]
    return Frames(tuple(made), said, np.repeat(np.arange(num_utterances), FRAMES_EACH), first_layer)


def score(*layers, **values):
    return probe_phones(*(frames(seed, *layers, **values) for seed in (1, 2, 3)), NUM_CLASSES)


# The probe


def test_labels_that_are_there_are_read_off():
    assert score(linear).error < 0.01


def test_noise_gives_no_more_than_the_majority():
    result = score(noise)
    majority = float((labels(3, 40 * FRAMES_EACH) != 0).float().mean())
    assert result.error == pytest.approx(majority, abs=0.02)
    assert result.half_interval == pytest.approx(1.96 * (0.25 / (40 * FRAMES_EACH)) ** 0.5, rel=0.3)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_best_layer_is_picked_on_the_tuning_split(best):
    layers = [noise] * 3
    layers[best] = linear
    result = score(*layers, first_layer=4)
    assert result.layer == 4 + best
    assert result.error < 0.01
    assert len(result.tuning_errors) == 3
    assert int(np.argmin(result.tuning_errors)) == best


def test_the_scored_split_has_no_say_in_the_layer():
    train, tuning, scored = frames(1, linear, linear), frames(2, linear, noise), frames(3, noise, linear)
    result = probe_phones(train, tuning, scored, NUM_CLASSES)
    assert result.layer == 0
    assert result.error > 0.3


def test_the_interval_covers_the_truth_where_errors_come_in_clumps():
    """A fifth of the utterances is said by someone whose labels are all wrong."""
    train = frames(1, linear)
    covered, halves = 0, []
    for repeat in range(60):
        scored = frames(100 + repeat, linear, num_utterances=100)
        odd = torch.from_numpy(np.random.default_rng(repeat).random(100) < 0.2).repeat_interleave(FRAMES_EACH)
        wrong = torch.where(odd, (scored.labels + 1) % NUM_CLASSES, scored.labels)
        result = probe_phones(train, train, Frames(scored.layers, wrong, scored.utterances, 0), NUM_CLASSES)
        covered += abs(result.error - 0.2) <= result.half_interval
        halves.append(result.half_interval)
    assert covered >= 52  # of 60; 57 are expected
    assert np.mean(halves) == pytest.approx(1.96 * (0.2 * 0.8 / 100) ** 0.5, rel=0.1)  # over utterances, not frames


def test_the_interval_is_over_speakers_where_they_are_known():
    """What one speaker says in pieces is as sure as what speakers say at one go."""
    train, scored = frames(1, linear), frames(3, noise, linear)
    odd = torch.from_numpy(np.random.default_rng(0).random(20) < 0.3).repeat_interleave(2 * FRAMES_EACH)
    labels = torch.where(odd, (scored.labels + 1) % NUM_CLASSES, scored.labels)
    voices = Voices(tuple(f"s{i // 2}" for i in range(40)), tuple(map(str, range(40))))
    by_speaker, whole, apart = (
        probe_phones(train, train, Frames((scored.layers[1],), labels, owners, 0, said), NUM_CLASSES).half_interval
        for owners, said in (
            (scored.utterances, voices),
            (scored.utterances // 2, None),
            (scored.utterances, None),
        )
    )
    assert by_speaker == pytest.approx(whole)
    assert by_speaker > 1.2 * apart


def test_the_same_frames_give_the_same_score():
    assert score(linear, noise) == score(linear, noise)


def test_scale_and_offset_of_features_do_not_matter():
    said = labels(0, 500)
    x = linear(said, 0)
    a, b = fit_linear(x, said, NUM_CLASSES), fit_linear(x * 1e3 - 7, said, NUM_CLASSES)
    torch.testing.assert_close(a(x), b(x * 1e3 - 7), atol=0.1, rtol=0.01)
    loss = F.cross_entropy(a(x), said)
    assert loss < 0.1


# Frames of a corpus


class Beeps:
    """Each phone is a tone of its own."""

    phones = ("high", "low", "middle")
    pitch_hz = (3000, 300, 1000)

    def utterances(self, split):
        start, count = {"train": (0, 12), "dev": (20, 4), "search": (30, 6)}[split]
        return [self.utterance(start + i) for i in range(count)]

    def utterance(self, number):
        said = np.random.default_rng(number).integers(3, size=6 + number % 3)
        spans = tuple((self.phones[p], 0.1 * i, 0.1 * (i + 1)) for i, p in enumerate(said))
        return Utterance(f"{number}", None, 1600 * len(spans), phones=spans)

    def read(self, utterance):
        times = np.arange(1600) / SAMPLE_RATE_HZ
        pitch = dict(zip(self.phones, self.pitch_hz, strict=True))
        wave = np.concatenate([np.sin(2 * np.pi * pitch[phone] * times) for phone, _, _ in utterance.phones])
        return (0.1 * wave).astype(np.float32)


def num_frames(wave):
    return (wave.shape[1] - 400) // 320 + 1


@pytest.fixture(scope="module")
def probe():
    return PhoneProbe(Beeps(), "search", num_train=12, num_tuning=4)


def test_stacked_mfcc_tell_tones_apart_and_noise_does_not(probe):
    good = probe.score(stacked_mfcc)
    bad = probe.score(lambda wave, _: [noise(0, len(wave) * num_frames(wave)).view(len(wave), num_frames(wave), -1)])
    assert good.error < 0.1
    assert bad.error > 0.4
    assert good.layer == 0


def test_an_encoder_is_scored_by_its_own_layers(probe):
    teacher = make_teacher()
    result = probe.score(hidden_states(teacher))
    assert len(result.tuning_errors) == 3
    last = PhoneProbe(Beeps(), "search", num_train=12, num_tuning=4, last_layers=2).score(hidden_states(teacher))
    assert last.tuning_errors == result.tuning_errors[1:]
    assert last.layer in (1, 2)


def test_every_frame_meets_its_own_label():
    """A feature that is the frame's own tone, by way of padded batches of unequal utterances."""

    def tell(wave, lengths):
        del lengths
        centres = wave.unfold(1, 400, 320)
        return [torch.fft.rfft(centres).abs().argmax(-1, keepdim=True) * SAMPLE_RATE_HZ / 400]

    probe = PhoneProbe(Beeps(), "search", num_scored=5)
    found = collect_frames(tell, probe._batches[2], Beeps.phones)
    heard = found.layers[0][:, 0]
    told = torch.tensor(Beeps.pitch_hz)[found.labels]
    assert (heard - told).abs().le(40).float().mean() > 0.9  # but where a window holds two tones
    assert len(set(found.utterances)) == 5
    assert len(found.utterances) == len(found.labels) == len(heard)
    assert found.first_layer == 0


def test_stacked_mfcc_have_their_shape_and_ignore_padding():
    wave = torch.zeros(2, 6400)
    wave[0], wave[1, :4000] = torch.from_numpy(make_wave(6400, 0)), torch.from_numpy(make_wave(4000, 1))
    (together,) = stacked_mfcc(wave, torch.tensor([6400, 4000]))
    (alone,) = stacked_mfcc(wave[1:, :4000], None)
    assert together.shape == (2, 19, 39 * 9)
    assert alone.shape == (1, 12, 351)
    torch.testing.assert_close(together[1, :12], alone[0], atol=1e-4, rtol=1e-4)


def test_the_probe_of_the_record_fits_on_train_chooses_on_dev_and_scores_search():
    class Synthesised(Beeps, Corpus):
        def __init__(self):
            pass

    probe = quick_probe(Synthesised())
    read = [sorted(u.id for batch in part for u in batch.utterances) for part in probe._batches]
    assert read == [sorted(u.id for u in Beeps().utterances(split)) for split in ("train", "dev", "search")]


def test_audio_without_phones_is_refused():
    class Unlabelled(Beeps):
        def utterance(self, number):
            return Utterance(f"{number}", None, 9600)

        def read(self, utterance):
            return make_wave(utterance.num_samples, 0)

    with pytest.raises(ValueError, match="has no phone labels; only the synthesised corpus has them"):
        PhoneProbe(Unlabelled(), "search").score(stacked_mfcc)
