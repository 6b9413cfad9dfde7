"""Query by example: which utterances hold a few spoken words, found without training. SUPERB's QbE.

Q queries of M frames, N documents of T frames, L hidden states, D channels. A trial is a query and a document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from search_spaces.errors import NestlingError
from search_spaces.randomness import generator
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.corpus import Utterance
from speech_data.espeak import SILENCE
from speech_tasks.feature_store import Clip, FeatureStore
from speech_tasks.intervals import Voices
from speech_tasks.metrics import (
    find_accepted,
    maximum_term_weighted_value,
    normalize_scores,
    worth_of_queries,
)
from speech_tasks.task import Errors, Material, Score, score_of_trials

MAX_WORDS = 2
MIN_SECONDS, MIN_PHONES = 0.35, 5
"""What is shorter sounds like much that it is not."""
MIN_RELEVANT = 2
"""Documents that must hold a query."""
MAX_WORD_SHARE = 0.04
"""Share of the documents that may hold a word of a query: words of content are rare, and so are finds."""
DOCUMENTS_AT_A_TIME = 50

Floats = NDArray[np.float32]


class Queries:
    """Maximum term-weighted value of spoken words, one or two, looked for in sentences that others say.

    Every hidden state is tried on `search`; the best alone is scored. Nothing is trained, so there is one seed. The
    interval is over speakers, with both what they ask and what they say.

    Args:
        material: Sentences with speakers and timed words and phones.
        num_queries: Of the scored split, at most; a third of them are of `search`.
        num_documents: Of the scored split, at most; half of them are of `search`.

    Raises:
        NestlingError: An utterance lacks a label, or a split offers no query.

    Source: SUPERB (arXiv 2105.01051), 3, QbE, and its reference code (s3prl/downstream/quesst14_dtw): channels
    standardised over queries and documents, subsequence matching, scores normalised for each query, best state.
    """

    name = "queries"
    metrics = ("MTWV",)

    def __init__(self, material: Material, num_queries: int = 300, num_documents: int = 500) -> None:
        self.search = choose_trials(material.clips("search", num_documents // 2), num_queries // 3)
        self.scored = {
            condition: choose_trials(clips[:num_documents], num_queries)
            for condition, clips in material.scored_sets().items()
        }

    @cached_property
    def clips(self) -> list[Clip]:
        """All that it reads."""
        return [clip for trials in (self.search, *self.scored.values()) for clip in trials.clips]

    def score(self, store: FeatureStore) -> list[Score]:
        """The value in each condition."""
        values = [
            maximum_term_weighted_value(*flatten(self.search, scores))
            for scores in score_trials(store, self.search, range(store.num_layers))
        ]
        best = int(np.argmax(values))
        settings = {"hidden state": best, "MTWV on search": values[best]}
        return [
            score_found(self.metrics[0], condition, trials, score_trials(store, trials, [best])[0], settings)
            for condition, trials in self.scored.items()
        ]


@dataclass(frozen=True)
class Trials:
    """Which query is looked for in which documents."""

    queries: tuple[Clip, ...]
    documents: tuple[Clip, ...]
    asked: NDArray[np.bool_]
    """(Q, N): not in documents by the query's own speaker, so that no voice and no recording gives one away."""
    relevant: NDArray[np.bool_]
    """(Q, N): the document's text holds the query's words, in order and without others between."""

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Queries and documents."""
        return self.queries + self.documents


def choose_trials(documents: Sequence[Clip], num_queries: int) -> Trials:
    """Cuts queries out of some utterances, which are all documents; always the same ones.

    No two queries are of the same words or the same utterance.

    Args:
        documents: Whole utterances.
        num_queries: At most so many.

    Raises:
        NestlingError: An utterance lacks a label, or there is no query to be had.
    """
    for clip in documents:
        _require_labels(clip.utterance)
    speakers = np.array([clip.utterance.speaker for clip in documents])
    texts = [f" {clip.utterance.text} " for clip in documents]
    counts = Counter(word for text in texts for word in set(text.split()))
    rare = {word for word, count in counts.items() if count <= MAX_WORD_SHARE * len(documents)}
    chosen: dict[str, tuple[Clip, NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for clip in documents:
        others = speakers != clip.utterance.speaker
        for words, cut in _shuffled_cuts(clip, rare):
            relevant = others & np.array([f" {words} " in text for text in texts])
            if words not in chosen and len(chosen) < num_queries and relevant.sum() >= MIN_RELEVANT:
                chosen[words] = cut, others, relevant
                break
    if not chosen:
        raise NestlingError(
            f"no query to be had from {len(documents)} utterances: one wants a rare word or two of {MIN_SECONDS} s and "
            f"{MIN_PHONES} phones that {MIN_RELEVANT} utterances by other speakers hold; give more utterances"
        )
    queries, asked, relevant = zip(*chosen.values(), strict=True)
    return Trials(queries, tuple(documents), np.stack(asked), np.stack(relevant))


def score_trials(store: FeatureStore, trials: Trials, layers: Sequence[int]) -> Floats:
    """How well each query matches a piece of each document, by some of the hidden states: (len(layers), Q, N)."""
    mean, std = (x[list(layers)] for x in store.statistics(trials.clips))

    def load(clip: Clip) -> Floats:  # (T, len(layers), D); rows of length one, so that a product is a cosine
        frames: Floats = F.normalize((store.frames(clip)[:, list(layers)] - mean) / std, dim=2).numpy()
        return frames

    queries = [load(clip) for clip in trials.queries]
    scores = np.empty((len(layers), len(queries), len(trials.documents)), np.float32)
    for first in range(0, len(trials.documents), DOCUMENTS_AT_A_TIME):
        some = slice(first, first + DOCUMENTS_AT_A_TIME)
        frames = [load(clip) for clip in trials.documents[some]]
        for layer in range(len(layers)):
            shelf = Shelf([x[:, layer] for x in frames])
            for i, query in enumerate(queries):
                scores[layer, i, some] = -shelf.match(query[:, layer])
    return scores


class Shelf:
    """Documents side by side, so that a query is matched with all of them at once.

    Args:
        documents: Frames of each, (T, D), of length one.
    """

    def __init__(self, documents: Sequence[Floats]) -> None:
        gap = np.zeros((2, documents[0].shape[1]), np.float32)  # as wide as the longest step
        self.frames = np.concatenate([part for document in documents for part in (gap, document)])
        ends = np.cumsum([len(gap) + len(document) for document in documents])
        starts = ends - [len(document) for document in documents]
        self.bounds = np.stack([starts, ends], axis=1).ravel()[:-1]
        self.owners = np.repeat(np.arange(len(documents)), np.diff(ends, prepend=0))
        self.gaps = (starts[:, None] - [1, 2]).ravel()

    def match(self, query: Floats) -> Floats:
        """The mean distance along the best path through any piece of each document, (N,), 0 to 1.

        Each frame of the query goes to the same frame of the document as the one before it, to the next or to the next
        but one. So a path has M steps, and the piece is from nothing to twice as long. A distance is e^(1 - cosine),
        scaled so that over a document it runs from 0 to 1 for each frame of the query.

        Args:
            query: (M, D), frames of length one.
        """
        distances = np.expm1(1 - query @ self.frames.T)  # (M, all T)
        lowest, highest = (
            np.asarray(extreme.reduceat(distances, self.bounds, axis=1)[:, ::2]) for extreme in (np.minimum, np.maximum)
        )
        scale = 1 / np.maximum(highest - lowest, 1e-9)
        distances *= scale[:, self.owners]
        distances -= (lowest * scale)[:, self.owners]
        distances[:, self.gaps] = np.inf
        total = distances[0]
        for row in distances[1:]:
            reached = total.copy()
            np.minimum(reached[1:], total[:-1], out=reached[1:])
            np.minimum(reached[2:], total[:-2], out=reached[2:])
            total = reached + row
        return np.asarray(np.minimum.reduceat(total, self.bounds)[::2] / len(query))


def flatten(trials: Trials, scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """What metrics want of scores, (Q, N): normalised scores, relevance and query of each trial that is asked."""
    owners, _ = np.nonzero(trials.asked)
    return normalize_scores(scores[trials.asked], owners), trials.relevant[trials.asked], owners


def score_found(
    metric: str, condition: str, trials: Trials, scores: Floats, settings: Mapping[str, float] | None = None
) -> Score:
    """The value of some scores, (Q, N), and what speakers move, as who asks and as who says."""
    values, relevant, owners = flatten(trials, scores)
    accepted = find_accepted(values, relevant, owners)
    names = [[str(clip.utterance.speaker) for clip in clips] for clips in (trials.queries, trials.documents)]
    speakers = sorted({*names[0], *names[1]})
    asks, says = (np.array([speakers.index(name) for name in one]) for one in names)
    sides = asks[owners], says[np.nonzero(trials.asked)[1]]

    def measure(_: int, weights: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
        worth = worth_of_queries(accepted, relevant, owners, counts * weights[sides[1]])
        return float(np.average(worth, weights=weights[asks]))

    found = worth_of_queries(accepted, relevant, owners)
    errors = Errors(Voices.of(trials.queries), np.stack([found, np.ones_like(found)], axis=1)[None])
    value = maximum_term_weighted_value(values, relevant, owners)
    return score_of_trials(metric, condition, [value], measure, sides, speakers, errors, settings)


def _shuffled_cuts(clip: Clip, rare: set[str]) -> Iterator[tuple[str, Clip]]:
    """The words, and the piece of sound, of every query that an utterance offers, in an order of its own."""
    said = clip.utterance.words
    places = [(i, i + count) for count in range(1, MAX_WORDS + 1) for i in range(len(said) - count + 1)]
    for place in generator("spoken queries", clip.utterance.id).permutation(len(places)):
        spans = said[slice(*places[place])]
        start, end = spans[0][1], spans[-1][2]
        num_phones = sum(
            symbol != SILENCE and start <= (first + last) / 2 <= end for symbol, first, last in clip.utterance.phones
        )
        if end - start >= MIN_SECONDS and num_phones >= MIN_PHONES and {word for word, _, _ in spans} <= rare:
            cut = replace(clip, first=round(start * SAMPLE_RATE_HZ), max_samples=round((end - start) * SAMPLE_RATE_HZ))
            yield " ".join(word for word, _, _ in spans), cut


def _require_labels(utterance: Utterance) -> None:
    """Raises NestlingError unless queries can be cut out of an utterance."""
    labels = {
        "text": utterance.text,
        "speaker": utterance.speaker,
        "words": utterance.words,
        "phones": utterance.phones,
    }
    if missing := [name for name, label in labels.items() if not label]:
        raise NestlingError(
            f"{utterance.id} has no {' and no '.join(missing)}; queries are cut out of sentences with timed words and "
            "phones, and looked for in what other speakers say"
        )
