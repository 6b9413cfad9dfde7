"""Hidden states are those the encoder makes of each clip alone, kept once, and gone when the store closes."""

from __future__ import annotations

import pytest
import torch

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_tasks.feature_store import Clip, FeatureStore
from tests.speech_cases import FakeCorpus, spectral_states, utterance

LENGTHS = (4000, 7900, 16_000, 400, 5120)
CORPUS = FakeCorpus({"train": [utterance(f"u{i}", n) for i, n in enumerate(LENGTHS)]})
HALF = 1e-3  # half precision keeps 11 bits


def clips(rendition="clean"):
    return [Clip(CORPUS, u, rendition) for u in CORPUS.utterances("train")]


def alone(clip):
    return torch.stack(spectral_states(torch.from_numpy(clip.read())[None], None), 2)[0]  # (T, L, D)


@pytest.mark.parametrize("rendition", ["clean", "noisy", "otherwise"])
def test_states_are_those_of_each_clip_alone_up_to_a_scale_for_each_layer(rendition):
    with FeatureStore(spectral_states, clips(rendition)) as store:
        assert (store.num_layers, store.dim) == (2, 8)
        ratios = []
        for clip in clips(rendition):
            kept, expected = store.frames(clip), alone(clip)
            assert kept.shape == (count_frames(Backbone(), clip.num_samples), 2, 8)
            ratio = (kept.square().sum((0, 2)) / expected.square().sum((0, 2))).sqrt()
            torch.testing.assert_close(kept, expected * ratio[:, None], rtol=HALF, atol=HALF)
            ratios.append(ratio)
        torch.testing.assert_close(torch.stack(ratios), ratios[0].expand(len(ratios), 2), rtol=HALF, atol=0)


def test_renditions_differ_and_repeat():
    waves = {rendition: Clip(CORPUS, CORPUS.utterances("train")[2], rendition) for rendition in ("clean", "noisy")}
    assert (waves["noisy"].read() == waves["noisy"].read()).all()
    assert (waves["noisy"].read() != waves["clean"].read()).any()


def test_a_piece_is_a_clip_of_its_own():
    whole = CORPUS.utterances("train")[2]
    piece = Clip(CORPUS, whole, "clean", first=3200, max_samples=6400)
    assert piece.num_samples == 6400
    assert (piece.read() == CORPUS.read(whole)[3200:9600]).all()
    assert Clip(CORPUS, whole, "clean", first=15_000).num_samples == 1000
    with FeatureStore(spectral_states, [piece, *clips()]) as store:
        assert len(store.frames(piece)) == count_frames(Backbone(), 6400)
        assert not torch.equal(store.pooled([piece]), store.pooled([clips()[2]]))


def test_means_and_statistics_are_over_frames():
    with FeatureStore(spectral_states, clips()) as store:
        frames = [store.frames(clip) for clip in clips()]
        torch.testing.assert_close(
            store.pooled(clips()), torch.stack([x.mean(0) for x in frames]), rtol=HALF, atol=HALF
        )
        everything = torch.cat(frames)
        mean, std = store.statistics(clips())
        torch.testing.assert_close(mean, everything.mean(0), rtol=HALF, atol=HALF)
        torch.testing.assert_close(std, everything.std(0, correction=0), rtol=5e-3, atol=HALF)


@pytest.mark.parametrize("distance", [30.0, 3000.0, 20_000.0])
def test_channels_far_from_zero_keep_their_variance_and_their_frames(distance):
    """Against float64. Some hidden states of HuBERT and WavLM have a mean of many deviations."""
    plain = torch.cat([alone(clip) for clip in clips()])  # (N, L, D)
    far = distance * plain.std(0)

    def encode(wave, lengths):
        return [x + offset for x, offset in zip(spectral_states(wave, lengths), far, strict=True)]

    with FeatureStore(encode, clips()) as store:
        mean, std = store.statistics(clips())
        frames = torch.cat([(store.frames(clip).double() - mean) / std for clip in clips()])
        means = (store.pooled(clips()).double() - mean) / std
    true = (plain.double() + far).float().double()  # what an encoder that computes in fp32 can say at best
    deviation = true.std(0, correction=0)
    torch.testing.assert_close((std / mean).double(), deviation / true.mean(0), rtol=0.01, atol=0)
    true = (true - true.mean(0)) / deviation
    torch.testing.assert_close(frames, true, rtol=0.01, atol=0.02)
    sizes = [clip.num_frames for clip in clips()]
    torch.testing.assert_close(means, torch.stack([x.mean(0) for x in true.split(sizes)]), rtol=0.01, atol=0.02)


def test_clips_alike_are_encoded_once():
    heard = []

    def encode(wave, lengths):
        heard.append(len(wave))
        return spectral_states(wave, lengths)

    done = []
    with FeatureStore(encode, [*clips(), *clips()], on_progress=lambda i, n: done.append((i, n))):
        pass
    assert sum(heard) == len(LENGTHS)
    assert done[-1] == (len(LENGTHS), len(LENGTHS))


def test_an_encoder_of_another_frame_rate_is_refused():
    with pytest.raises(ValueError, match=r"the encoder makes 12 frames of 1.00 s; tasks want one every 20 ms, 49"):
        FeatureStore(lambda wave, _: [torch.zeros(len(wave), 12, 3)], [clips()[2]])


def test_states_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="hidden states are not finite for u"):
        FeatureStore(lambda wave, lengths: [x / 0 for x in spectral_states(wave, lengths)], clips())


def test_states_too_large_for_half_precision_are_kept():
    with FeatureStore(lambda wave, lengths: [1e6 * x for x in spectral_states(wave, lengths)], clips()) as store:
        assert store.frames(clips()[0]).isfinite().all()
