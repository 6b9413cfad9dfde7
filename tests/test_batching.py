"""Batches: pure functions of (seed, step), padded honestly, noisy by the stated amount."""

import threading
import time

import numpy as np
import pytest

from search_spaces.randomness import generator
from speech_data import augmentation
from speech_data.augmentation import render, room_response
from speech_data.batching import batch_at, evaluation_batches, prefetch
from speech_data.corpus import Utterance


class RampCorpus:
    """Utterance i holds i + 1 plus a ramp, so that every sample tells where it is from."""

    name, hash = "ramps", "0"

    def __init__(self, lengths):
        self._utterances = tuple(Utterance(f"u{i}", None, length) for i, length in enumerate(lengths))

    def utterances(self, split):
        return self._utterances if split == "train" else ()

    def read(self, utterance):
        return (np.arange(utterance.num_samples) / 1e5 + int(utterance.id[1:]) + 1).astype(np.float32)


CORPUS = RampCorpus([4000, 20_000, 900, 30_000, 16_000])


def make(step, seed=0, augment=False, corpus=CORPUS, **rest):
    return batch_at(corpus, "train", step, seed=seed, batch_size=2, crop_seconds=0.5, augment=augment, **rest)


def same(a, b):
    return (
        a.utterances == b.utterances
        and np.array_equal(a.offsets, b.offsets)
        and np.array_equal(a.wave, b.wave)
        and np.array_equal(a.clean, b.clean)
        and np.array_equal(a.lengths, b.lengths)
    )


def test_batch_depends_on_seed_and_step_alone():
    later_first = [make(step, augment=True) for step in (7, 3, 0)]
    in_order = [make(step, augment=True) for step in (0, 3, 7)]
    assert all(same(a, b) for a, b in zip(later_first, reversed(in_order), strict=True))
    assert not same(make(3, augment=True), make(3, seed=1, augment=True))


def test_an_epoch_visits_every_utterance_once_and_the_next_in_another_order():
    rows = [utterance.id for step in range(10) for utterance in make(step).utterances]
    epochs = [rows[first : first + 5] for first in range(0, 20, 5)]
    assert all(sorted(epoch) == ["u0", "u1", "u2", "u3", "u4"] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_rows_are_the_same_whoever_makes_them():
    whole = make(4, augment=True)
    for row in range(2):
        part = make(4, augment=True, rows=range(row, row + 1))
        np.testing.assert_array_equal(part.wave[0], whole.wave[row])
        assert part.utterances == whole.utterances[row : row + 1]


def test_crops_start_on_the_frame_grid_and_hold_what_the_offset_says():
    offsets = set()
    for step in range(50):
        batch = make(step)
        for row, (utterance, offset) in enumerate(zip(batch.utterances, batch.offsets, strict=True)):
            assert offset % 320 == 0
            length = batch.lengths[row]
            np.testing.assert_array_equal(batch.clean[row, :length], CORPUS.read(utterance)[offset : offset + length])
            assert not batch.clean[row, length:].any()
            assert length == min(8000, utterance.num_samples)
            offsets.add((utterance.id, int(offset)))
    assert len({offset for name, offset in offsets if name == "u3"}) > 10


def test_crop_of_an_utterance_changes_with_the_epoch_only():
    by_epoch = {}
    for step in range(10):
        for row, utterance in enumerate(make(step).utterances):
            by_epoch.setdefault(utterance.id, []).append(int(make(step).offsets[row]))
    assert len(set(by_epoch["u3"])) > 1


def test_without_augmentation_wave_is_clean():
    batch = make(0)
    assert batch.wave is batch.clean
    assert batch.wave.dtype == np.float32
    assert batch.lengths.dtype == np.int64


def test_padding_stays_silent_under_augmentation():
    batch = make(1, augment=True, corpus=RampCorpus([900, 1200]))
    for row, length in enumerate(batch.lengths):
        assert np.abs(batch.wave[row, :length] - batch.clean[row, :length]).max() > 1e-3
        assert not batch.wave[row, length:].any()


def test_empty_split_and_empty_batch_are_refused():
    with pytest.raises(ValueError, match="the split 'dev' of ramps is empty"):
        batch_at(CORPUS, "dev", 0, seed=0, batch_size=1, crop_seconds=1, augment=False)
    with pytest.raises(ValueError, match="at least one row and one sample; got 0 rows"):
        batch_at(CORPUS, "train", 0, seed=0, batch_size=0, crop_seconds=1, augment=False)


def test_evaluation_takes_whole_utterances_shortest_first():
    batches = list(evaluation_batches(CORPUS, "train", batch_size=2, augment=False))
    assert [batch.lengths.tolist() for batch in batches] == [[900, 4000], [16_000, 20_000], [30_000]]
    assert [batch.wave.shape for batch in batches] == [(2, 4000), (2, 20_000), (1, 30_000)]
    assert not any(batch.offsets.any() for batch in batches)


def test_evaluation_noise_depends_on_the_utterance_alone():
    rendered = []
    for batch_size in (1, 3):
        noisy = {}
        for batch in evaluation_batches(CORPUS, "train", batch_size=batch_size, augment=True):
            for row, utterance in enumerate(batch.utterances):
                noisy[utterance.id] = batch.wave[row, : batch.lengths[row]]
        rendered.append(noisy)
    assert all(np.array_equal(rendered[0][name], rendered[1][name]) for name in rendered[0])


def test_smaller_evaluation_is_part_of_a_larger_one():
    drawn = [
        {
            u.id
            for batch in evaluation_batches(CORPUS, "train", batch_size=9, augment=False, max_utterances=n)
            for u in batch.utterances
        }
        for n in (2, 4)
    ]
    assert [len(names) for names in drawn] == [2, 4]
    assert drawn[0] < drawn[1]


# Augmentation


def speechlike(num_samples=32_000):
    rng = np.random.default_rng(1)
    envelope = np.abs(np.sin(np.arange(num_samples) / 3000))
    return (0.1 * envelope * rng.standard_normal(num_samples)).astype(np.float32)


@pytest.mark.parametrize("snr_db", [0.0, 8.0, 30.0])
def test_noise_has_the_stated_level(snr_db):
    """Two renditions that differ in the ratio alone differ by the noise alone."""
    clean = speechlike()
    speech = render(clean, generator(5), snr_db=(200, 200)).astype(np.float64)
    noise = render(clean, generator(5), snr_db=(snr_db, snr_db)).astype(np.float64) - speech
    assert 10 * np.log10((speech**2).mean() / (noise**2).mean()) == pytest.approx(snr_db, abs=0.01)


def test_rendition_keeps_the_timing(monkeypatch):
    """Room and tilt spread sound after its onset, not before."""
    monkeypatch.setattr(augmentation, "TILT_DB_PER_OCTAVE", (0.0, 0.0))
    click = np.zeros(8000, np.float32)
    click[3000] = 1
    heard = render(click, generator(2), snr_db=(200, 200))
    assert heard[3000] == pytest.approx(1, abs=1e-4)
    assert np.abs(heard[:3000]).max() < 1e-4


def test_rooms_decay_and_keep_their_direct_to_reverberant_ratio():
    for key in range(20):
        response = room_response(generator(key))
        assert response[0] == 1
        assert -16.01 <= 10 * np.log10((response[1:] ** 2).sum()) <= -1.99
        assert (response[2000:] ** 2).sum() < 0.5 * (response[1:2000] ** 2).sum()


def test_renditions_differ_by_key_and_are_finite():
    clean = speechlike()
    first, second = render(clean, generator("a")), render(clean, generator("b"))
    assert first.dtype == np.float32
    assert first.shape == clean.shape
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("num_samples", [0, 1, 400])
def test_silence_and_scraps_survive(num_samples):
    assert not render(np.zeros(num_samples, np.float32), generator(0)).any()
    assert np.isfinite(render(np.full(num_samples, 0.1, np.float32), generator(0))).all()


def test_keyed_generators_repeat_and_do_not_collide():
    assert generator(1, "a").random() == generator(1, "a").random()
    draws = {generator(*key).random() for key in [(1, 23), (12, 3), (123,), ("1", 23), ("1", "23")]}
    assert len(draws) == 5


def test_keys_draw_what_corpora_and_scores_were_made_with():
    assert generator(0, "crop and noise", 3, "dev-00017").integers(2**63) == 771484522227445613
    assert generator("evaluation noise", "u1").integers(2**63) == 3255774220269412206


# Prefetching


def test_prefetched_items_are_the_same_in_the_same_order():
    batches = list(prefetch(make, 2, 6))
    assert all(same(batch, make(step)) for batch, step in zip(batches, range(2, 6), strict=True))


def test_failure_is_raised_in_its_turn():
    def fail_at_two(step):
        if step == 2:
            raise ValueError("bad file")
        return step

    items = prefetch(fail_at_two, 0, 5)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="bad file"):
        next(items)


def test_closing_ends_the_thread():
    items = prefetch(lambda step: step, 0, 10**9)
    assert next(items) == 0
    items.close()
    deadline = time.monotonic() + 5
    while any(thread.name == "prefetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
