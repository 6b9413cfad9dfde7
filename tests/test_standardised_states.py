"""Heads get states of zero mean and unit variance, padded with zeros."""

from __future__ import annotations

import torch

from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.standardised_states import StatesInMemory, standardise_means
from tests.speech_cases import FakeCorpus, spectral_states, utterance


def test_states_are_standardised_and_padded():
    corpus = FakeCorpus({"train": [utterance("a", 4000), utterance("b", 8000), utterance("c", 6000)]})
    clips = [Clip(corpus, u, "clean") for u in corpus.utterances("train")]
    with FeatureStore(spectral_states, clips) as store:
        statistics = store.statistics(clips)
        memory = StatesInMemory(store, clips, statistics)
        states, lengths = (x.clone() for x in memory.batch([0, 1]))
        assert states.shape == (2, 2, 24, 8)
        assert lengths.tolist() == [12, 24]
        assert not states[:, 0, 12:].any()
        mean, std = statistics
        expected = ((store.frames(clips[0]) - mean) / std).transpose(0, 1)
        torch.testing.assert_close(states[:, 0, :12], expected, atol=2e-3, rtol=2e-3)

        every = torch.cat([memory.batch([i])[0][:, 0].clone() for i in range(3)], dim=1)
        torch.testing.assert_close(every.mean(1), torch.zeros(2, 8), atol=2e-3, rtol=0)
        torch.testing.assert_close(every.std(1, correction=0), torch.ones(2, 8), atol=2e-3, rtol=0)

        means = standardise_means(store, clips, statistics)
        torch.testing.assert_close(means[:, 0], expected.mean(1), atol=2e-3, rtol=2e-3)
        assert means.shape == (2, 3, 8)


def test_a_smaller_batch_does_not_see_a_larger_one():
    corpus = FakeCorpus({"train": [utterance("a", 4000), utterance("b", 8000)]})
    clips = [Clip(corpus, u, "clean") for u in corpus.utterances("train")]
    with FeatureStore(spectral_states, clips) as store:
        memory = StatesInMemory(store, clips, store.statistics(clips))
        alone = memory.batch([0])[0].clone()
        memory.batch([0, 1])
        torch.testing.assert_close(memory.batch([0])[0], alone, atol=0, rtol=0)
