"""The encoder by itself: what is tapped, left out, frozen and computed again."""

from __future__ import annotations

import pytest
import torch

from supernet.blocks import LAYER_TAPS, NO_DROPOUT, Dropout
from supernet.encoder import TAPS, Trace, Transformer
from supernet.encoder_config import EncoderConfig
from supernet.front_end import check_lengths, normalize_waveform
from tests.encoders import SMALL, TOLERANCE, error_of, make_batch, make_encoder

HUBERT = EncoderConfig((512,) * 7, 768, (12,) * 12, (3072,) * 12)


@pytest.mark.parametrize(("config", "least", "rate", "second"), [(HUBERT, 400, 50.0, 49), (SMALL, 40, 200.0, 200)])
def test_the_least_audio_makes_one_frame(config: EncoderConfig, least: int, rate: float, second: int) -> None:
    assert (config.min_samples, config.frame_rate_hz) == (least, rate)
    assert [config.count_frames(n) for n in (least - 1, least)] == [0, 1]
    assert config.count_frames(torch.tensor([[least, 16_000]])).tolist() == [[1, second]]


@pytest.mark.parametrize("gates", [{}, {"gate_width": 32, "num_buckets": 20, "max_distance": 40}])
@torch.no_grad()
def test_taps_hold_what_the_network_computes(gates: dict[str, int]) -> None:
    encoder = make_encoder(**gates)
    wave, lengths = make_batch()
    plain, trace = (encoder(wave, lengths, taps) for taps in ((), TAPS))
    assert all(getattr(plain, tap) == [] for tap in ("hidden", *LAYER_TAPS))
    assert plain.front_end is None
    assert error_of([trace.last], [plain.last]) <= TOLERANCE  # by two ways to compute attention
    assert torch.equal(trace.front_end, encoder.feature_extractor(normalize_waveform(wave, lengths)))
    assert (len(trace.hidden), *(len(getattr(trace, tap)) for tap in LAYER_TAPS)) == (3, 2, 2, 2, 2)
    assert torch.equal(trace.hidden[-1], trace.last)
    for layer, scores, probabilities in zip(encoder.encoder.layers, trace.attention, trace.probabilities, strict=True):
        assert not probabilities[~trace.valid[:, None, None].expand_as(probabilities)].any()
        assert torch.allclose(probabilities.sum(-1), torch.ones(()))
        if not gates:
            hidden = scores.masked_fill(~trace.valid[:, None, None], -torch.inf)
            assert torch.allclose(probabilities, hidden.softmax(-1), atol=1e-6)
        assert layer.attention.q_proj.out_features == scores.shape[1] * layer.attention.head_dim
    first = encoder.encoder.layers[0].attention
    maps = (first.q_proj, first.k_proj, first.v_proj)
    query, key, value = (each(trace.hidden[0]).unflatten(-1, (4, 8)).transpose(1, 2) for each in maps)
    assert torch.allclose(trace.values[0], value)
    assert torch.allclose(trace.attention[0], query @ key.transpose(-1, -2) / 8**0.5, atol=1e-5)


def test_one_tap_alone_is_what_it_is_among_others() -> None:
    encoder = make_encoder()
    with torch.no_grad():
        wanted = encoder(make_batch()[0], None, TAPS)
        for tap in LAYER_TAPS:
            alone = encoder(make_batch()[0], None, (tap,))
            assert error_of(getattr(alone, tap), getattr(wanted, tap)) <= 10 * TOLERANCE
            assert not any(getattr(alone, other) for other in ("hidden", *LAYER_TAPS) if other != tap)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["hidden", "attention", "activation", "features"])
def test_each_dropout_leaves_something_out(name: str, grad: bool) -> None:
    encoder = make_encoder()
    with torch.set_grad_enabled(grad):
        outputs = [encoder(make_batch()[0], dropout=d).last for d in (NO_DROPOUT, Dropout(**{name: 0.5}), NO_DROPOUT)]
    assert not torch.allclose(outputs[0], outputs[1], atol=0.01)
    assert torch.equal(outputs[0], outputs[2])


@torch.no_grad()
def test_a_layer_that_is_left_out_has_none_in_its_place() -> None:
    encoder = make_encoder(heads=(4,) * 6, ffn_dims=(48,) * 6)
    torch.manual_seed(0)
    trace = encoder(make_batch()[0], None, TAPS, dropout=Dropout(layer=0.5))
    left_out = [torch.equal(a, b) for a, b in zip(trace.hidden, trace.hidden[1:], strict=False)]
    assert (len(left_out), len(set(left_out))) == (6, 2)
    for tap in LAYER_TAPS:
        assert [x is None for x in getattr(trace, tap)] == left_out
    few = encoder(make_batch()[0], None, ["values", "values", "hidden"], dropout=Dropout(layer=1 - 1e-9))
    assert few.values == [None] * 6


def test_layers_are_computed_again_in_training_where_it_is_asked_for() -> None:
    encoder = make_encoder()
    runs: list[int] = []
    encoder.encoder.layers[0].attention.register_forward_hook(lambda *_: runs.append(1))

    def count() -> int:
        runs.clear()
        encoder(make_batch()[0], None, TAPS).last.square().mean().backward()
        return len(runs)

    assert not Transformer.gradient_checkpointing
    assert count() == 1
    encoder.encoder.gradient_checkpointing = True
    assert count() == 2
    encoder.requires_grad_(False).encoder.layers.requires_grad_(True)  # nothing that goes in has a gradient
    assert count() == 2
    encoder.eval()
    assert count() == 1


def test_a_front_end_is_frozen_by_the_name_that_heads_know() -> None:
    encoder = make_encoder()
    encoder.feature_extractor._freeze_parameters()
    frozen = {name for name, weight in encoder.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith("feature_extractor.")}


def test_what_layers_give_goes_to_the_lists_of_their_taps() -> None:
    trace = Trace(torch.zeros(1), None, 50.0)
    trace.add({"values", "ffn", "hidden"}, [torch.ones(1), None])
    assert (trace.ffn, trace.values, trace.attention, trace.hidden) == ([torch.ones(1)], [None], [], [])


@pytest.mark.parametrize(
    ("samples", "lengths", "said"),
    [
        (39, None, "an utterance must have 40 samples or more to make a frame, got 39"),
        (100, [39, 100], "an utterance must have 40 samples or more to make a frame, got 39"),
        (100, [40, 101], "lengths must be at most 100, the samples of the batch, got 101"),
        (100, [100], r"lengths must be one for each item, \[2\] of them, got \[1\]"),
        (100, [[100, 100]], r"lengths must be one for each item, \[2\] of them, got \[1, 2\]"),
    ],
)
def test_lengths_are_refused_by_their_rule(samples: int, lengths: list[int] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_encoder()(torch.zeros(2, samples), None if lengths is None else torch.tensor(lengths))


def test_a_graph_that_is_compiled_does_not_ask_for_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert make_encoder()(torch.ones(1, 100), torch.tensor([39])).valid is not None


def test_lengths_of_no_items_are_none_too_many() -> None:
    check_lengths((0, 100), torch.zeros(0, dtype=torch.int64), 40)
