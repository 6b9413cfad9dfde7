"""Masked spans have their length, their share and their key."""

from math import comb

import numpy as np
import pytest
from pydantic import ValidationError

from distillation.views import View, draw_mask


def runs(mask):
    """(value, length) of every stretch of equal values."""
    edges = np.flatnonzero(np.diff(mask)) + 1
    return [(bool(part[0]), len(part)) for part in np.split(mask, edges)]


def masks(num_frames, view, count=2000):
    rng = np.random.default_rng(0)
    return np.array([draw_mask(num_frames, view, rng) for _ in range(count)])


@pytest.mark.parametrize("length", [1, 4, 10])
def test_spans_are_no_shorter_than_they_should_be(length):
    found = [run for mask in masks(99, View(mask_share=0.4, mask_length=length), 50) for run in runs(mask)]
    lengths = {size for masked, size in found if masked}
    assert min(lengths) == length
    assert max(lengths) > length  # some overlap or touch


@pytest.mark.parametrize(("share", "length", "num_frames"), [(0.65, 10, 99), (0.8, 10, 49), (0.3, 3, 20), (0.1, 7, 50)])
def test_every_frame_is_masked_as_often_as_distinct_uniform_starts_would(share, length, num_frames):
    fewest, rest = divmod(share * num_frames / length, 1)
    places = num_frames - length + 1
    expected = np.zeros(num_frames)
    for count, probability in ((int(fewest), 1 - rest), (int(fewest) + 1, rest)):  # so that the mean is right
        for frame in range(num_frames):
            covering = min(frame, places - 1) - max(0, frame - length + 1) + 1  # starts whose span has the frame
            expected[frame] += probability * (1 - comb(places - covering, count) / comb(places, count))
    found = masks(num_frames, View(mask_share=share, mask_length=length)).mean(0)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert found == pytest.approx(expected, abs=0.05)  # 4.5 standard errors


def test_every_frame_can_be_masked():
    assert masks(30, View(mask_share=0.5, mask_length=10)).any(0).all()


@pytest.mark.parametrize(
    ("num_frames", "view", "masked"),
    [
        (0, View(mask_share=0.5), []),
        (5, View(), [False] * 5),
        (5, View(mask_share=1.0, mask_length=10), None),  # a span is cut to the utterance; there is one place for it
        (4, View(mask_share=1.0, mask_length=1), [True] * 4),
    ],
)
def test_edges(num_frames, view, masked):
    mask = draw_mask(num_frames, view, np.random.default_rng(0))
    assert mask.dtype == bool
    assert mask.tolist() == masked if masked is not None else set(mask) in ({True}, {False})


def test_the_generator_decides():
    view = View(mask_share=0.5)
    draws = [draw_mask(99, view, np.random.default_rng(seed)) for seed in (7, 7, 8)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize("wrong", [{"mask_share": 1.5}, {"mask_length": 0}, {"student": "loud"}, {"shift": 1}])
def test_impossible_views_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        View(**wrong)
