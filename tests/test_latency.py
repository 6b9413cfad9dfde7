from random import Random

import pytest
import torch

from nas import latency
from nas.latency import Latency, SubnetTimer, compare_latency, describe_load, measure_latency
from supernet.encoder import Encoder
from supernet.model import Supernet, encoder_config
from tests.nas_cases import SPACE

WAVE = torch.zeros(1, 400)


class Machine:
    """A clock that only the models move, each by its own cost times whatever the machine suffers from."""

    def __init__(self, slowdown):
        self.now, self.runs, self.slowdown = 0.0, 0, slowdown

    def model(self, milliseconds):
        def run(wave):
            del wave
            self.runs += 1
            self.now += milliseconds / 1000 * self.slowdown(self)

        return run

    def clock(self):
        return self.now


def noisy(seed, spikes=0.0, drift=0.0):
    """2 % of noise, a share of runs that take five times as long, and a slowdown by `drift` every second."""
    rng = Random(seed)
    return Machine(lambda machine: rng.gauss(1, 0.02) * (5 if rng.random() < spikes else 1) * (1 + drift * machine.now))


def verdict(machine, a, b, seed):
    models = {"a": machine.model(a), "b": machine.model(b)}
    times = measure_latency(models, WAVE, rng=Random(seed), clock=machine.clock)
    return compare_latency(times["a"], times["b"])


def test_quiet_machine_gives_the_true_times():
    machine = Machine(lambda _: 1.0)
    times = measure_latency({"a": machine.model(10), "b": machine.model(20)}, WAVE, repeats=5, clock=machine.clock)
    assert times["a"].median_ms == pytest.approx(10)
    assert times["b"].median_ms == pytest.approx(20)
    assert times["b"].mad_ms == pytest.approx(0)
    assert (times["b"].low_ms, times["b"].high_ms) == pytest.approx((20, 20))
    assert machine.runs == 2 * (latency.WARM_UPS + 5) + 6  # the control runs around each round


@pytest.mark.parametrize("trouble", [{}, {"spikes": 0.1}, {"drift": 0.2}, {"spikes": 0.05, "drift": 0.2}])
def test_ten_per_cent_apart_is_never_ordered_wrongly(trouble):
    ratios = [verdict(noisy(seed, **trouble), 10, 11, seed) for seed in range(50)]
    assert all(ratio.low < 1 for ratio in ratios)
    assert sum(ratio.high < 1 for ratio in ratios) >= 48
    assert sum(0.88 < ratio.median < 0.94 for ratio in ratios) >= 48  # 1 / 1.1


@pytest.mark.parametrize("trouble", [{}, {"spikes": 0.1}, {"drift": 0.2}])
def test_equals_are_tied(trouble):
    tied = [verdict(noisy(seed, **trouble), 10, 10, seed).tied for seed in range(100)]
    assert sum(tied) >= 92  # 95 are expected


def test_rounds_across_which_the_control_drifts_are_dropped():
    machine = Machine(lambda machine: 2.0 if 10 <= machine.runs < 13 else 1.0)
    models = {"a": machine.model(10), "b": machine.model(20)}
    times = measure_latency(models, WAVE, repeats=4, clock=machine.clock)
    assert times["a"].rounds_ms == pytest.approx([10] * 4)
    assert times["b"].rounds_ms == pytest.approx([20] * 4)


def test_rounds_are_bounded_when_nothing_is_steady():
    rng = Random(0)
    machine = Machine(lambda _: rng.uniform(1, 3))
    times = measure_latency({"a": machine.model(10)}, WAVE, repeats=4, clock=machine.clock)
    assert len(times["a"].rounds_ms) == 4
    assert machine.runs == latency.WARM_UPS + 1 + 2 * 4 * latency.MAX_ROUNDS


@pytest.mark.parametrize(("limit_s", "rounds"), [(9.0, 20), (1.6, 10), (0.5, 3), (0.4, 3), (0.1, 3), (0.0, 3)])
def test_slow_models_get_fewer_rounds(limit_s, rounds):
    machine = Machine(lambda _: 1.0)
    models = {"a": machine.model(50), "b": machine.model(50)}  # a round and its control take 0.15 s
    times = measure_latency(models, WAVE, repeats=20, clock=machine.clock, limit_s=limit_s)
    assert len(times["a"].rounds_ms) == rounds
    warm_ups = 2 if limit_s >= 0.45 else 1
    assert machine.runs == 2 * (warm_ups + rounds) + rounds + 1
    assert machine.now <= max(limit_s, 3 * 0.15) + 0.1 * warm_ups + 0.05 + 1e-9


def test_order_within_rounds_varies():
    order = []
    models = {name: (lambda _, name=name: order.append(name)) for name in "abc"}
    measure_latency(models, WAVE, repeats=10)
    rounds = {"".join(order[i : i + 3]) for i in range(3 * latency.WARM_UPS + 1, len(order), 4)}
    assert len(rounds) > 3


def test_threads_are_set_and_restored_even_after_an_error():
    before = torch.get_num_threads()
    seen = []
    measure_latency({"a": lambda _: seen.append(torch.get_num_threads())}, WAVE, repeats=3, threads=1)
    assert set(seen) == {1}
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            measure_latency({"a": lambda _: 1 / 0}, WAVE, repeats=3, threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("repeats", "threads", "names"), [(2, 1, "a"), (3, 0, "a"), (3, 1, "")])
def test_refuses_what_it_cannot_time(repeats, threads, names):
    with pytest.raises(ValueError, match="at least 3 repeats, 1 thread and 1 model; got"):
        measure_latency(dict.fromkeys(names, lambda wave: wave), WAVE, repeats, threads)


def test_only_what_ran_together_compares():
    with pytest.raises(ValueError, match="same rounds compare; got 1 and 2 rounds"):
        compare_latency(Latency((1.0,), 1.0, 1.0), Latency((1.0, 1.0), 1.0, 1.0))


def test_subnets_are_timed_as_extracted_encoders(monkeypatch):
    supernet = Supernet(SPACE, torch.Generator().manual_seed(0))
    heard = []
    forward = Encoder.forward

    def listen(self, wave, lengths, taps):
        heard.append((self.config, tuple(wave.shape), torch.is_grad_enabled()))
        return forward(self, wave, lengths, taps)

    monkeypatch.setattr(Encoder, "forward", listen)
    subnets = [SPACE.container, SPACE.smallest()]
    latencies = SubnetTimer(supernet, repeats=3)(subnets, seconds=0.5)
    assert set(heard) == {(encoder_config(SPACE.backbone, s), (1, 8000), False) for s in subnets}
    assert [len(latency.rounds_ms) for latency in latencies] == [3, 3]
    assert all(0 < latency.low_ms <= latency.median_ms <= latency.high_ms for latency in latencies)


def test_load_is_named(monkeypatch):
    monkeypatch.setattr(latency.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(latency.os, "getloadavg", lambda: (3.9, 0, 0))
    assert describe_load() is None
    monkeypatch.setattr(latency.os, "getloadavg", lambda: (9.26, 0, 0))
    assert describe_load() == "the load average is 9.3 on 4 cores: other work slows these timings"
    assert describe_load(own=2) == (
        "the load average is 9.3 on 4 cores, of which up to 2 is ours: other work slows these timings"
    )


@pytest.mark.parametrize(
    ("load", "own", "warns"),
    [(4.1, 0, True), (4.1, 1, True), (3.9, 1, False), (4.4, 4, False), (4.6, 4, True)],
)
def test_our_own_threads_are_no_reason_to_warn(monkeypatch, load, own, warns):
    monkeypatch.setattr(latency.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(latency.os, "getloadavg", lambda: (load, 0, 0))
    assert (describe_load(own) is not None) == warns
