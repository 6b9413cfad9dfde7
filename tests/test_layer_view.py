"""Layers: likeness has its known answers, and probes find the hidden state that knows."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from speech_tasks.feature_store import FeatureStore
from speech_tasks.layer_view import LayerProbe, LayerView, ProbeErrors, compare_layers, linear_cka
from speech_tasks.task import Material
from tests.probe_cases import knowing, materials
from tests.speech_cases import FakeCorpus, seeded, spectral_states


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def rotation(dim, seed=5):
    return torch.linalg.qr(noise(dim, dim, seed=seed)).Q


# Likeness


def test_a_representation_is_like_itself_rotated_scaled_and_shifted():
    x = noise(300, 12) * torch.linspace(0.1, 3, 12)
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, 7 * x @ rotation(12) + 4) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, torch.cat([x, torch.zeros(300, 3)], 1)) == pytest.approx(1, abs=1e-5)


def test_stretching_one_channel_makes_it_less_alike():
    x = noise(300, 12)
    assert linear_cka(x, x * torch.tensor([10.0, *[1.0] * 11])) < 0.6


def test_half_of_two_equal_channels_is_alike_by_the_root_of_a_half():
    a, b = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    assert linear_cka(torch.stack([a, b], 1), a[:, None]) == pytest.approx(math.sqrt(0.5))
    assert linear_cka(a[:, None], b[:, None]) == pytest.approx(0)


def test_unrelated_noise_is_as_alike_as_the_docstring_says():
    n, d, e = 2000, 20, 30
    expected = d * e / math.sqrt((n + d) * d * (n + e) * e)
    assert linear_cka(noise(n, d), noise(n, e, seed=1)) == pytest.approx(expected, rel=0.2)
    assert expected < 0.02


def test_every_layer_is_compared_with_every_layer():
    ours = noise(3, 400, 8)
    theirs = torch.stack([ours[2] @ rotation(8), ours[0] * 3])
    found = compare_layers(ours, theirs)
    assert found.shape == (3, 2)
    assert [found[2, 0], found[0, 1]] == pytest.approx([1, 1], abs=1e-5)
    found[2, 0] = found[0, 1] = 0
    assert found.max() < 0.1


def test_frames_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="the same frames; got 4 of one and 5 of the other"):
        linear_cka(noise(4, 2), noise(5, 2))
    with pytest.raises(ValueError, match="got a constant representation"):
        linear_cka(noise(4, 2), torch.ones(4, 2))


# Probes


@pytest.fixture(scope="module")
def sentences():
    return replace(materials()["sentences"], scored="search")


@pytest.fixture(scope="module")
def viewed(sentences):
    probe = LayerProbe(sentences, scale=0.15)
    with FeatureStore(knowing({"s": sentences}, 0.95, num_layers=3), probe.clips) as store:
        return {errors.label: errors for errors in probe.probe(store)}


@pytest.mark.parametrize("label", ["phone", "intent", "speaker"])
def test_the_hidden_state_that_knows_is_found(viewed, label):
    found = viewed[label]
    assert len(found.errors) == len(found.half_intervals) == 3
    assert found.errors[2] < 10
    assert min(found.errors[:2]) > 40


def test_chance_is_the_error_of_the_most_frequent_label(viewed, sentences):
    scored = [clip.utterance.intent for clip in LayerProbe(sentences, scale=0.15).scored_commands]
    most = max(scored.count(name) for name in set(scored))
    assert viewed["intent"].chance == pytest.approx(100 * (1 - most / len(scored)))


def test_speakers_are_read_off_other_utterances_of_train(sentences):
    probe = LayerProbe(sentences, scale=0.1)
    fitted, asked = ([clip.utterance for clip in clips] for clips in (probe.train, probe.same_speakers))
    assert len(fitted) == 22
    assert len(asked) == 10
    assert all(u.id.startswith("train") for u in (*fitted, *asked))
    assert not {u.id for u in fitted} & {u.id for u in asked}
    assert {u.speaker for u in asked} <= {u.speaker for u in fitted}
    assert all(clip.utterance.id.startswith("search") for clip in (*probe.scored, *probe.scored_commands))


def test_labels_that_the_audio_lacks_are_left_out(sentences):
    corpus = sentences.corpus
    bare = {
        split: [replace(u, phones=(), intent=None) for u in corpus.utterances(split)] for split in ("train", "search")
    }
    probe = LayerProbe(Material(FakeCorpus(bare), "clean", scored="search"), scale=0.1)
    with FeatureStore(spectral_states, probe.clips) as store:
        assert [errors.label for errors in probe.probe(store)] == ["speaker"]


def test_what_one_clip_is_scored_on_is_left_out(sentences):
    """Its interval would have no end, which neither JSON nor a chart can show."""
    corpus = sentences.corpus
    few = {split: corpus.utterances(split)[:most] for split, most in (("train", None), ("search", 1))}
    probe = LayerProbe(Material(FakeCorpus(few), "clean", scored="search"), scale=0.1)
    with FeatureStore(spectral_states, probe.clips) as store:
        found = probe.probe(store)
    assert [errors.label for errors in found] == ["speaker"]
    assert np.isfinite(found[0].half_intervals).all()


def test_two_encoders_are_sampled_on_the_same_frames(sentences):
    probe = LayerProbe(sentences, scale=0.1)

    def doubled(wave, lengths):
        return [2 * x for x in spectral_states(wave, lengths)[:1]]

    with FeatureStore(spectral_states, probe.clips) as one, FeatureStore(doubled, probe.clips) as other:
        ours, theirs = probe.sample(one, 50), probe.sample(other, 50)
        assert ours.shape == (2, 50, 8)
        assert theirs.shape == (1, 50, 8)
        assert compare_layers(ours, theirs)[0, 0] == pytest.approx(1, abs=1e-4)
        everything = probe.sample(one, 10**6)
        assert everything.shape[1] == sum(len(one.frames(clip)) for clip in probe.scored)


# On the disk


def test_a_view_comes_back_from_json_as_it_was():
    errors = ProbeErrors("phone", (30.5, 12.25), (2.0, 1.5), 80.0)
    view = LayerView((errors,), np.array([[1.0, 0.25], [0.5, 0.125]]))
    again = LayerView.from_dict(json.loads(json.dumps(view.to_dict())))
    assert again.probes == (errors,)
    np.testing.assert_allclose(again.likeness, view.likeness)
    assert LayerView.from_dict(json.loads(json.dumps(LayerView((errors,)).to_dict()))).likeness is None
