"""Labelled corpora and encoders that know a chosen part of the labels, for the tests of probes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from search_spaces.costs import count_frames
from search_spaces.subnet import Backbone
from speech_data.corpus import Utterance
from speech_data.features import phone_labels
from speech_tasks.feature_store import Encode
from speech_tasks.task import Material
from tests.speech_cases import FakeCorpus

WORDS = {"kitchen": "kts", "bedroom": "bdm", "lights": "lts", "heating": "hdk", "window": "mbl"}
PHONES = sorted({phone for word in WORDS.values() for phone in word} | {"sil"})
PHONE_SECONDS = 0.1
PREFIX = 32
"""Samples that tell the utterances of a test apart."""


def say(name: str, words: list[str], speaker: str, intent: str | None) -> Utterance:
    """An utterance of some words with silence around them."""
    symbols = ["sil", *(phone for word in words for phone in WORDS[word]), "sil"]
    ends = np.cumsum([PHONE_SECONDS] * len(symbols)).round(6).tolist()
    phones = tuple((s, start, end) for s, (start, end) in zip(symbols, pairwise([0.0, *ends]), strict=True))
    spans, at = [], 1
    for word in words:
        spans.append((word, phones[at][1], phones[at + len(WORDS[word]) - 1][2]))
        at += len(WORDS[word])
    return Utterance(
        name,
        speaker,
        round(ends[-1] * 16_000),
        text=" ".join(words),
        phones=phones,
        words=tuple(spans),
        intent=intent,
    )


def talk(split: str, speakers: list[str], count: int, num_words: int, seed: int) -> list[Utterance]:
    """Utterances of random words and intents; the speakers take turns."""
    rng = np.random.default_rng(seed)
    return [
        say(
            f"{split}-{seed}-{i}",
            rng.choice(sorted(WORDS), num_words).tolist(),
            speakers[i % len(speakers)],
            f"intent {rng.integers(3)}",
        )
        for i in range(count)
    ]


def materials(share: int = 1) -> dict[str, Material]:
    """What the probes read: sentences, keywords, commands and voices; larger with `share`."""
    known, unseen = [f"known-{i}" for i in range(8)], [f"unseen-{i}" for i in range(5)]
    sentences = {"train": talk("train", known, 48 * share, 3, 0), "search": talk("search", unseen, 40 * share, 3, 1)}
    keywords = {"train": talk("train", known, 48 * share, 1, 2), "search": talk("search", unseen, 40 * share, 1, 3)}
    commands = {"train": talk("train", known, 96 * share, 3, 7), "search": talk("search", unseen, 40 * share, 3, 8)}
    heard = [*talk("search", known, 16, 2, 5), *talk("search", unseen, 25 * share, 2, 6)]
    voices = {"train": talk("train", known, 40 * share, 2, 4), "search": heard}
    splits = {"sentences": sentences, "keywords": keywords, "commands": commands, "voices": voices}
    return {
        name: Material(FakeCorpus(split, name=name, hash=name, allow_test=False), "clean")
        for name, split in splits.items()
    }


def knowing(given: Mapping[str, Material], known: float, num_layers: int = 2, dim: int = 24) -> Encode:
    """An encoder whose last hidden state is `known` parts labels and 1 - `known` parts noise; the others are noise.

    Phones, intent and speaker have a direction each, as the labels of utterances it finds again by their sound.
    """
    utterances: dict[bytes, tuple[Utterance, int]] = {}
    for material in given.values():
        corpus = material.corpus
        for u in (*corpus.utterances("train"), *corpus.utterances("search")):
            utterances[corpus.read(u)[:PREFIX].tobytes()] = u, len(utterances)

    def code(kind: str, name: object) -> np.ndarray:
        seed = int.from_bytes(f"{kind} {name}".encode(), "big") % 2**32
        return np.random.default_rng(seed).standard_normal(dim)

    def states(u: Utterance, number: int) -> Tensor:
        labels = phone_labels(u, count_frames(Backbone(), u.num_samples), PHONES)
        signal = np.stack([code("phone", i) for i in range(len(PHONES))])[labels]
        signal = signal + (code("intent", u.intent) + code("speaker", u.speaker)) / 2
        rng = np.random.default_rng([number, round(1000 * known)])
        # What is wrong with an utterance lasts, else the mean over time would cancel it.
        wrong = rng.standard_normal((num_layers, *signal.shape)) + 2 * rng.standard_normal((num_layers, 1, dim))
        wrong[-1] = known * signal + (1 - known) * wrong[-1]
        return torch.from_numpy(wrong).float()  # (L, T, D)

    def encode(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
        del lengths
        out = torch.zeros(num_layers, len(wave), count_frames(Backbone(), wave.shape[1]), dim)
        for i, row in enumerate(wave):
            found = states(*utterances[row[:PREFIX].numpy().tobytes()])[:, : out.shape[2]]
            out[:, i, : found.shape[1]] = found
        return list(out)

    return encode
