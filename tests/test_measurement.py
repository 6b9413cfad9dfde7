"""Timings of encoders in runtimes, by a clock that only the encoders move."""

from __future__ import annotations

import json
import re

import pytest
import torch

from nas import measurement
from nas.measurement import (
    Contestant,
    count_threads,
    make_wave,
    measure_encoders,
    name_processor,
    parse_seconds,
    parse_threads,
)


class Machine:
    """Contestants that take so many milliseconds for each second of audio, shared by the threads."""

    def __init__(self):
        self.now = 0.0
        self.opened = []
        self.ran = []

    def contestant(self, encoder, runtime, cost, front_end=None):
        def open_with(threads):
            self.opened.append((encoder, runtime, threads))
            return self._run(f"{encoder} {runtime}", lambda: cost / threads)

        share = front_end and self._run(f"{encoder} front-end", lambda: front_end / torch.get_num_threads())
        return Contestant(encoder, runtime, open_with, share)

    def _run(self, name, cost):
        def run(wave):
            self.ran.append(name)
            self.now += cost() / 1000 * wave.shape[1] / 16000

        return run

    def clock(self):
        return self.now


def three(machine):
    return [
        machine.contestant("ours", "torch", 10, front_end=4),
        machine.contestant("ours", "onnx", 8),
        machine.contestant("teacher", "torch", 40, front_end=10),
        machine.contestant("teacher", "onnx-int8", 20),
        machine.contestant("tiny", "onnx", 2),
    ]


def test_every_encoder_is_timed_for_every_duration_on_every_number_of_threads():
    machine = Machine()
    progress = []
    timings = measure_encoders(
        three(machine),
        (1.0, 5.0),
        (1, 2),
        repeats=4,
        on_progress=lambda *words: progress.append(words),
        clock=machine.clock,
    )
    got = {(t.encoder, t.runtime, t.threads, t.seconds): t.latency.median_ms for t in timings}
    costs = {
        ("ours", "torch"): 10,
        ("ours", "onnx"): 8,
        ("teacher", "torch"): 40,
        ("teacher", "onnx-int8"): 20,
        ("tiny", "onnx"): 2,
    }
    wanted = {
        (*key, threads, seconds): cost * seconds / threads
        for threads in (1, 2)
        for seconds in (1.0, 5.0)
        for key, cost in costs.items()
    }
    assert list(got) == list(wanted)
    assert got == pytest.approx(wanted)
    assert [len(t.latency.rounds_ms) for t in timings] == [4] * 20
    assert [t.times_real_time for t in timings[:5]] == pytest.approx([100, 125, 25, 50, 500])
    assert machine.opened == [(*key, threads) for threads in (1, 2) for key in costs]
    assert progress == [
        ("1 thread, 1 s of audio", 0, 4),
        ("1 thread, 5 s of audio", 1, 4),
        ("2 threads, 1 s of audio", 2, 4),
        ("2 threads, 5 s of audio", 3, 4),
    ]


def test_ratios_are_to_the_first_encoder_in_the_same_runtime():
    machine = Machine()
    timings = measure_encoders(three(machine), (1.0,), (1,), repeats=3, clock=machine.clock)
    assert [t.reference for t in timings] == [None, None, "ours", None, "ours"]
    assert [t.ratio and t.ratio.median for t in timings] == pytest.approx([None, None, 4.0, None, 0.25])
    assert timings[2].ratio.low == pytest.approx(timings[2].ratio.high) == pytest.approx(4.0)


def test_the_front_end_has_its_share_where_it_can_run_alone():
    machine = Machine()
    timings = measure_encoders(three(machine), (1.0,), (1, 2), repeats=3, clock=machine.clock)
    shares = [t.front_end and t.front_end.median for t in timings]
    assert shares == pytest.approx([0.4, None, 0.25, None, None] * 2)


def test_all_that_compares_runs_in_the_same_rounds():
    machine = Machine()
    measure_encoders(three(machine), (1.0,), (1,), repeats=3, clock=machine.clock)
    names = set(machine.ran)
    assert len(names) == 7
    tail = machine.ran[-3 * 8 :]  # a round of seven, and the control
    for start in (0, 8, 16):
        assert set(tail[start : start + 7]) == names
        assert tail[start + 7] == "ours torch"


def test_slow_durations_get_the_time_that_fast_ones_leave_over():
    machine = Machine()
    contestants = [machine.contestant("ours", "torch", 10), machine.contestant("teacher", "torch", 80)]
    timings = measure_encoders(contestants, (1.0, 10.0, 20.0, 100.0), (1,), total_s=60.0, clock=machine.clock)
    rounds = [len(t.latency.rounds_ms) for t in timings if t.encoder == "ours"]
    # A round takes 0.1 s for each second of audio, control included. The first leaves 57.6 s to the other three.
    assert rounds == [20, 19, 9, 3]
    plenty = measure_encoders(contestants, (100.0,), (1,), total_s=1000.0, clock=machine.clock)
    assert len(plenty[0].latency.rounds_ms) == 20


def test_rounds_that_were_asked_for_are_run_however_long_they_take():
    machine = Machine()
    contestants = [machine.contestant("ours", "torch", 1e6)]
    (timing,) = measure_encoders(contestants, (1.0,), (1,), repeats=5, total_s=1.0, clock=machine.clock)
    assert len(timing.latency.rounds_ms) == 5


def test_what_cannot_encode_is_named_before_anything_is_timed():
    machine = Machine()

    def fail(wave):
        raise RuntimeError(f"kernel size\nexceeds {wave.shape[1]} samples")

    contestants = [machine.contestant("ours", "torch", 10), Contestant("teacher", "onnx", lambda _: fail)]
    wanted = "teacher in onnx does not encode 0.1 s of audio (RuntimeError): kernel size exceeds 1600 samples"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        measure_encoders(contestants, (0.1, 1.0), (1,), clock=machine.clock)
    assert machine.ran == ["ours torch"]


def test_two_repeats_are_too_few():
    machine = Machine()
    with pytest.raises(ValueError, match="at least 3 repeats"):
        measure_encoders(three(machine), (1.0,), (1,), repeats=2, clock=machine.clock)


def test_torch_gets_the_threads():
    seen = []
    contestant = Contestant("ours", "torch", lambda _: lambda _: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    measure_encoders([contestant], (0.1,), (2,), repeats=3)
    assert set(seen[1:]) == {2}
    assert torch.get_num_threads() == before


def test_timings_as_json():
    machine = Machine()
    timings = measure_encoders(three(machine), (2.0,), (1,), repeats=3, clock=machine.clock)
    values = json.loads(json.dumps([t.to_dict() for t in timings]))
    assert {tuple(v) for v in values} == {tuple(values[0])}
    assert values[2]["median_ms"] == pytest.approx(80)
    assert values[2]["times_real_time"] == pytest.approx(25)
    assert values[2]["reference"] == "ours"
    assert values[2]["ratio"] == pytest.approx({"median": 4, "low": 4, "high": 4})
    assert values[2]["front_end_share"] == pytest.approx({"median": 0.25, "low": 0.25, "high": 0.25})
    assert values[2]["rounds"] == 3
    assert values[1]["ratio"] is values[1]["front_end_share"] is None


def test_waves_have_their_duration_and_are_no_silence():
    assert make_wave(0.5).shape == (1, 8000)
    assert make_wave(0.5).std() == pytest.approx(0.1, rel=0.1)
    assert make_wave(0.5).equal(make_wave(0.5))


# What a user writes


def test_durations():
    assert parse_seconds("5,1, 0.5,1.0") == (0.5, 1.0, 5.0)
    assert parse_seconds("0.025") == (0.025,)


@pytest.mark.parametrize("word", ["0.024", "0", "-1", "nan", "inf", "1e308", "two", "", "5s"])
def test_durations_that_are_none(word):
    wanted = f"--seconds 1,{word}: `{word}` is no number from 0.025, which one frame needs, to 3600"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        parse_seconds(f"1,{word}")


def test_threads():
    assert parse_threads("1,all", 8) == (1, 8)
    assert parse_threads("all, 2,1,2", 8) == (8, 2, 1)
    assert parse_threads("1,all", 1) == (1,)


@pytest.mark.parametrize("word", ["0", "9", "-1", "1.5", "many", ""])
def test_threads_that_are_none(word):
    wanted = f"--threads 1,{word}: `{word}` is neither all nor a number from 1 to 8, the cores there are"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        parse_threads(f"1,{word}", 8)


def test_what_is_measured_on_has_a_name():
    assert name_processor()
    assert measurement.count_cores() >= 1
    assert (count_threads(1), count_threads(2)) == ("1 thread", "2 threads")
