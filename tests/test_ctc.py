"""Heads that write are the maps they claim to be, hear no padding, and learn what is there to be heard."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from search_spaces.randomness import generator
from speech_tasks.ctc import BATCH, LinearHead, RecurrentHead, ctc_loss, fit_writer, log_probs, mask_states
from speech_tasks.heads import Plan
from tests.speech_cases import seeded
from tests.written_cases import hearing, say

LAYERS, DIM, SYMBOLS = 3, 6, 5
QUICK = Plan(epochs=25, learning_rates=(3e-2,), num_seeds=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # models so small only wait for a second one
    yield
    torch.set_num_threads(before)


def draw_states(lengths, seed=0):
    """States of utterances, (L, T, D) each, and together, zero where padded."""
    rows = [torch.randn(LAYERS, length, DIM, generator=seeded(seed + i)) for i, length in enumerate(lengths)]
    padded = pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True)  # (B, T, L, D)
    return rows, padded.permute(2, 0, 1, 3).contiguous()


def make_head(kind):
    torch.manual_seed(0)
    head = kind(LAYERS, DIM, SYMBOLS).eval()
    with torch.no_grad():
        head.sum.weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return head


def letters(num_clips, seed, alphabet="abcd", longest=6):
    rng = np.random.default_rng(seed)
    return [rng.choice(list(alphabet), rng.integers(2, longest + 1)).tolist() for _ in range(num_clips)]


# Heads


@pytest.mark.parametrize("kind", [LinearHead, RecurrentHead])
@pytest.mark.parametrize("lengths", [(7, 12, 1, 9, 2), (13, 6, 3, 12), (5, 4)])
def test_an_utterance_is_heard_alike_alone_and_padded(kind, lengths):
    head = make_head(kind)
    rows, states = draw_states(lengths)
    with torch.no_grad():
        together = head(states, torch.tensor(lengths))
        assert together.shape == (len(lengths), max(lengths), SYMBOLS)
        for row, heard, length in zip(rows, together, lengths, strict=True):
            alone = head(row.unsqueeze(1), torch.tensor([length]))[0]
            torch.testing.assert_close(heard[:length], alone)


@pytest.mark.parametrize("kind", [LinearHead, RecurrentHead])
def test_heads_give_probabilities(kind):
    _, states = draw_states((7, 4))
    heard = make_head(kind)(states, torch.tensor([7, 4]))
    torch.testing.assert_close(heard.exp().sum(2), torch.ones(2, 7))


def test_the_linear_head_is_its_two_maps_one_after_the_other():
    head = make_head(LinearHead)
    _, states = draw_states((7, 4))
    steps = head.classify(head.project(head.sum(states))).log_softmax(2)
    at_once = head(states, torch.tensor([7, 4]))
    torch.testing.assert_close(at_once, steps)
    weights = torch.randn(at_once.shape, generator=seeded(1))
    slopes, expected = (torch.autograd.grad((x * weights).sum(), list(head.parameters())) for x in (at_once, steps))
    for slope, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-4, atol=1e-5)  # sums in another order


def test_the_recurrent_head_is_a_bidirectional_lstm_over_pairs_of_frames():
    lengths = (9, 12, 1, 4)
    head = make_head(RecurrentHead)
    _, states = draw_states(lengths)
    both = nn.LSTM(head.ahead.input_size, head.ahead.hidden_size, batch_first=True, bidirectional=True)
    own = {f"{name}_reverse": x for name, x in head.back.named_parameters()}
    both.load_state_dict(dict(head.ahead.named_parameters()) | own)

    summed = head.project(head.sum(states))  # (B, T, narrow)
    pairs = torch.cat([summed[:, ::2], summed[:, 1::2]], dim=2)
    packed = pack_padded_sequence(pairs, torch.tensor([5, 6, 1, 2]), batch_first=True, enforce_sorted=False)
    heard = head.classify(pad_packed_sequence(both(packed)[0], batch_first=True)[0])
    first, second = heard.chunk(2, dim=2)  # of each pair
    expected = torch.stack([first, second], dim=2).flatten(1, 2).log_softmax(2)

    for row, reference, length in zip(head(states, torch.tensor(lengths)), expected, lengths, strict=True):
        torch.testing.assert_close(row[:length], reference[:length])


def test_dropout_is_for_training():
    _, states = draw_states((8,))
    head = make_head(RecurrentHead)
    assert torch.equal(head(states, torch.tensor([8])), head(states, torch.tensor([8])))
    head.train()
    assert not torch.equal(head(states, torch.tensor([8])), head(states, torch.tensor([8])))


# Masks


def hide(lengths, key, num_layers=2, dim=60):
    """Of states that are nowhere zero: which (row, frame, channel) became so, in one layer as in all."""
    states = torch.ones(num_layers, len(lengths), max(lengths), dim)
    mask_states(states, torch.tensor(lengths), generator("test", key))
    assert set(states.unique().tolist()) <= {0.0, 1.0}
    assert all(torch.equal(layer, states[0]) for layer in states)
    return states[0] == 0


def hidden_times_and_channels(lengths, key, dim=60):
    hidden = hide(lengths, key, dim=dim)
    return hidden.all(2), hidden.all(1)


def test_masks_hide_something_of_each_row_and_no_time_beyond_it():
    lengths = [40, 25, 3, 12, 40, 1]
    hidden = hide(lengths, 0)
    times, channels = hidden.all(2), hidden.all(1)
    assert hidden.flatten(1).any(1).all()
    assert not any(times[row, length:].any() for row, length in enumerate(lengths))
    assert torch.equal(hidden, times.unsqueeze(2) | channels.unsqueeze(1))
    assert any(not torch.equal(times[0], times[row]) for row in range(1, len(lengths)))
    assert any(not torch.equal(channels[0], channels[row]) for row in range(1, len(lengths)))


def test_masks_are_two_spans_of_up_to_200_ms_and_four_of_up_to_a_fifteenth_of_the_channels():
    times, channels = hidden_times_and_channels([300] * 400, 1)
    for spans, most, longest in ((times, 2, 10), (channels, 4, 4)):
        counts = spans.sum(1)
        assert counts.max() <= most * longest
        assert 0.85 * most * longest / 2 < counts.double().mean() <= most * longest / 2 * 1.05  # some spans overlap
        starts = spans[:, 1:] & ~spans[:, :-1]
        assert (starts.sum(1) + spans[:, 0]).max() == most


def test_masks_reach_the_first_and_the_last_of_everything():
    times, _ = hidden_times_and_channels([12, 7] * 400, 2)
    _, channels = hidden_times_and_channels([25] * 400, 2)  # more frames than two spans hide
    assert times[::2].any(0).all()
    assert times[1::2, :7].any(0).all()
    assert channels.any(0).all()


def test_masks_are_keyed():
    lengths = [40, 30, 20]
    assert torch.equal(hide(lengths, 3), hide(lengths, 3))
    assert not torch.equal(hide(lengths, 3), hide(lengths, 4))


# Loss


class AsGiven(nn.Module):
    """A head whose scores are the first hidden state."""

    def forward(self, states, lengths):
        del lengths
        return states[0].log_softmax(2)


def loss_of(scores, lengths, targets):
    return ctc_loss(AsGiven(), (scores.unsqueeze(0), torch.tensor(lengths), [torch.tensor(x) for x in targets]))


def test_the_loss_by_hand():
    even = torch.zeros(1, 2, 2)
    # Of four alignments of two frames, "aa", "a-" and "-a" are a.
    assert loss_of(even, [2], [[1]]).item() == pytest.approx(log(4 / 3))
    assert loss_of(even, [1], [[1]]).item() == pytest.approx(log(2))
    assert loss_of(even, [2], [[]]).item() == pytest.approx(log(4))
    # Of nine alignments one is "ab"; each of its symbols counts half.
    assert loss_of(torch.zeros(1, 2, 3), [2], [[1, 2]]).item() == pytest.approx(log(9) / 2)
    both = loss_of(torch.zeros(2, 2, 2), [2, 1], [[1], [1]])
    assert both.item() == pytest.approx((log(4 / 3) + log(2)) / 2)


def test_an_utterance_too_short_for_its_symbols_has_no_loss_and_frames_of_padding_no_slope():
    scores = torch.randn(3, 6, 4, generator=seeded(0)).requires_grad_()
    # "1 1" takes three frames, a blank between the two.
    loss = loss_of(scores, [2, 4, 6], [[1, 1], [1, 1], [1, 2, 3]])
    assert loss.isfinite()
    (slope,) = torch.autograd.grad(loss, scores)
    assert slope.isfinite().all()
    assert (slope[0] == 0).all()
    assert (slope[1, 4:] == 0).all()
    assert (slope[1, :4].abs().sum(1) > 0).all()
    assert (slope[2].abs().sum(1) > 0).all()
    alone = loss_of(scores[1:], [4, 6], [[1, 1], [1, 2, 3]])
    assert loss.item() == pytest.approx(2 / 3 * alone.item())


# Fitting


def test_what_can_be_heard_is_learnt_and_noise_is_not():
    errors = {}
    train, search = say(letters(48, 0)), say(letters(24, 1), "search")
    for clear in (True, False):
        with hearing([*train, *search], clear) as store:
            (errors[clear],) = fit_writer(store, train, search, LinearHead, QUICK).fitted.search_errors
    assert errors[True] < 0.02
    assert errors[False] > 0.6


def test_a_recurrent_head_learns_under_masks_and_repeats_itself():
    train, search = say(letters(48, 2, "ab", 4)), say(letters(16, 3, "ab", 4), "search")
    plan = Plan(epochs=15, learning_rates=(1e-2,), num_seeds=1)
    with hearing([*train, *search]) as store:
        one, again = (fit_writer(store, train, search, RecurrentHead, plan, masks=True) for _ in range(2))
    assert one.fitted.search_errors[0] < 0.1
    weights, others = (writer.fitted.heads[0].state_dict() for writer in (one, again))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_masks_change_what_is_learnt():
    train = say(letters(8, 4))
    plan = Plan(epochs=1, learning_rates=(1e-2,), num_seeds=1)
    with hearing(train) as store:
        one, other = (fit_writer(store, train, train, LinearHead, plan, masks=masks) for masks in (False, True))
    assert not torch.equal(one.fitted.heads[0].classify.weight, other.fitted.heads[0].classify.weight)


def test_classes_and_statistics_are_those_of_train_and_other_symbols_count_as_errors():
    train = say(letters(48, 5, "dbac"))
    search = say([["a", "x", "b"], ["x", "c", "d"]], "search")  # x is one symbol of three
    with hearing([*train, *search]) as store:
        writer = fit_writer(store, train, search, LinearHead, QUICK)
        assert writer.symbols == ("", "a", "b", "c", "d")
        for x, expected in zip(writer.statistics, store.statistics([one.clip for one in train]), strict=True):
            assert torch.equal(x, expected)
        assert writer.fitted.search_errors[0] == pytest.approx(1 / 3)
        assert writer.read([2, 1, 4]) == ("b", "a", "d")


@pytest.mark.parametrize("rates", [(1e-6, 3e-2, 1e-5), (3e-2, 1e-6)])
def test_the_rate_with_the_fewest_search_errors_is_taken_by_every_seed(rates):
    train, search = say(letters(48, 6)), say(letters(20, 7), "search")
    with hearing([*train, *search]) as store:
        plan = Plan(epochs=20, learning_rates=rates, num_seeds=2)
        writer = fit_writer(store, train, search, LinearHead, plan)
        written = writer.write(store, [one.clip for one in search])
    errors = writer.fitted.search_errors
    assert writer.fitted.learning_rate == 3e-2
    assert min(errors) == errors[rates.index(3e-2)] < 0.05
    assert errors[rates.index(1e-6)] > 0.5
    assert len(written) == len(writer.fitted.heads) == 2
    for heard in written:
        right = [said.symbols == one for said, one in zip(search, heard, strict=True)]
        assert np.mean(right) > 0.8


def test_clips_are_read_in_batches_of_similar_length_and_told_in_their_order():
    lengths = np.random.default_rng(0).integers(1, 15, 2 * BATCH + 3).tolist()
    spoken = say([["a"] * length for length in lengths])
    clips = [one.clip for one in spoken]
    torch.manual_seed(0)
    heads = [RecurrentHead(2, 24, SYMBOLS).eval() for _ in range(2)]
    with hearing(spoken, clear=False) as store:
        mean, std = store.statistics(clips)
        made = log_probs(heads, store, clips, (mean, std))
        for head, heard in zip(heads, made, strict=True):
            for clip, x in zip(clips, heard, strict=True):
                states = ((store.frames(clip) - mean) / std).transpose(0, 1).unsqueeze(1)  # (L, 1, T, D)
                with torch.no_grad():
                    alone = head(states, torch.tensor([clip.num_frames]))[0].numpy()
                assert x.shape == (clip.num_frames, SYMBOLS)
                np.testing.assert_allclose(x, alone, atol=2e-3)  # states are kept in half precision
