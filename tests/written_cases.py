"""Utterances of spelt words, and encoders that hear or do not hear their symbols, for the tests of what writes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.corpus import Utterance
from speech_tasks.ctc import Spoken
from speech_tasks.feature_store import Clip, FeatureStore
from tests.speech_cases import FakeCorpus

PREFIX = 32
"""Samples that tell the clips of a test apart."""


def spell(name, text, **labels):
    """An utterance whose phones are the letters of its text, 80 ms each; what is between words is silence."""
    symbols = ["sil", *(letter if letter != " " else "sil" for letter in text), "sil"]
    ends = [round(0.08 * i, 6) for i in range(len(symbols) + 1)]
    phones = tuple((symbol, *span) for symbol, span in zip(symbols, pairwise(ends), strict=True))
    return Utterance(name, "s", round(ends[-1] * 16_000), text=text, phones=phones, **labels)


def say(symbols, split="train", **labels):
    """Clips of utterances with given symbols, in a corpus of their own."""
    utterances = [spell(f"{split}-{i}", "".join(one), **labels) for i, one in enumerate(symbols)]
    corpus = FakeCorpus({split: utterances}, hash=split)
    return [Spoken(Clip(corpus, u, "clean"), tuple(one)) for u, one in zip(utterances, symbols, strict=True)]


def hear(spoken, clear=True, dim=24):
    """An encoder whose last hidden state has a direction for each symbol while it is said, and nothing between two.

    If it does not hear clearly, the state is noise; the other hidden state always is.
    """
    known = {one.clip.read()[:PREFIX].tobytes(): (i, one.symbols) for i, one in enumerate(spoken)}

    def states(number, symbols, num_frames):
        made = np.random.default_rng(number).standard_normal((2, num_frames, dim))
        if clear:
            place = np.arange(num_frames) * (len(symbols) / num_frames)
            codes = np.stack([direction(symbol, dim) for symbol in symbols])
            made[1] = codes[place.astype(int)] * (place % 1 < 0.5)[:, None]
        return torch.from_numpy(made).float()

    def encode(wave, lengths):
        num_samples = [wave.shape[1]] * len(wave) if lengths is None else lengths.tolist()
        out = torch.zeros(2, len(wave), count_frames(Backbone(), wave.shape[1]), dim)
        for i, (row, length) in enumerate(zip(wave, num_samples, strict=True)):
            num_frames = count_frames(Backbone(), length)
            out[:, i, :num_frames] = states(*known[row[:PREFIX].numpy().tobytes()], num_frames)
        return list(out)

    return encode


def direction(symbol, dim):
    return np.random.default_rng(list(symbol.encode())).standard_normal(dim)


def hearing(spoken, clear=True):
    """The hidden states of clips by an encoder that hears them, or does not."""
    return FeatureStore(hear(spoken, clear), [one.clip for one in spoken])
