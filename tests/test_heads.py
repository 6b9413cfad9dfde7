"""The weighted sum is SUPERB's, and the sweep takes the learning rate that `search` likes best."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from speech_tasks.heads import Plan, WeightedSum, shuffled, sweep
from tests.speech_cases import seeded


def test_the_sum_is_a_softmax_over_layers():
    states = torch.randn(3, 5, 7, 4, generator=seeded(0))
    summed = WeightedSum(3)
    torch.testing.assert_close(summed(states), states.mean(0))
    with torch.no_grad():
        summed.weights.copy_(torch.tensor([0.0, 1.0, -2.0]))
    share = summed.weights.softmax(0)
    torch.testing.assert_close(summed(states), sum(share[i] * states[i] for i in range(3)))
    summed(states).sum().backward()
    assert summed.weights.grad is not None
    assert summed.weights.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [None, lambda x: x])
def test_an_epoch_has_every_item_once_and_another_order_each_time(size):
    items = list(range(50))
    one, again, other = (shuffled(items, 8, key, size=size) for key in ("0/0", "0/0", "0/1"))
    assert sorted(x for batch in one for x in batch) == items
    assert one == again != other
    assert sorted(map(len, one)) == [2, *[8] * 6]


def test_sizes_put_similar_items_together():
    batches = shuffled(list(range(10, 1010)), 10, "0/0", size=lambda x: x)
    assert max(max(batch) - min(batch) for batch in batches) < 400
    firsts = [batch[0] for batch in batches]
    assert firsts != sorted(firsts)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.randn(1))

    def forward(self, x):
        return self.slope * x


def fit(rates, num_seeds=3):
    x = torch.linspace(-1, 1, 32)
    return sweep(
        Plan(epochs=5, learning_rates=rates, num_seeds=num_seeds),
        Line,
        lambda key: shuffled(range(32), 8, key),
        lambda rows: x[rows],
        lambda head, batch: (head(batch) - 2 * batch).square().mean(),
        lambda head: float((head.slope - 2).abs()),
    )


def test_the_best_rate_wins_and_every_seed_uses_it():
    fitted = fit((1e-5, 0.3, 1e-4))
    assert fitted.learning_rate == 0.3
    assert fitted.search_errors[1] == min(fitted.search_errors)
    assert len(fitted.heads) == 3
    slopes = [float(head.slope.detach()) for head in fitted.heads]
    assert all(abs(slope - 2) < 0.5 for slope in slopes)
    assert len(set(slopes)) == 3  # each from a start of its own
    assert not any(head.training for head in fitted.heads)


def test_a_sweep_is_repeatable():
    one, again = fit((0.1, 0.3)), fit((0.1, 0.3))
    assert [float(h.slope.detach()) for h in one.heads] == [float(h.slope.detach()) for h in again.heads]


def test_a_rate_that_diverges_loses():
    assert fit((float("inf"), 0.3), num_seeds=1).learning_rate == 0.3
