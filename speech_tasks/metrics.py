"""Numbers that say how wrong an answer is: edits, equal error, term-weighted value, slots; and CTC decoding.

Pure functions of numpy arrays and strings. Those called `tallies` give two numbers for each of N utterances, (N, 2),
whose sums divided are the metric, so that each speaker can be left out. All are shares (1 is 100 %), never percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rapidfuzz.distance import Levenshtein
from scipy.special import ndtri

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Slot = tuple[str, str]
"""A slot's type and its value, such as ("city", "london")."""

FALSE_ALARM_COST, MISS_COST, TARGET_PRIOR = 1.0, 100.0, 0.0008
BETA = FALSE_ALARM_COST / MISS_COST * (1 / TARGET_PRIOR - 1)
"""What a false alarm weighs against a miss in QUESST 2014: 12.49."""

BAND = 0.1
"""Of the targets, on either side of the threshold of equal errors: what the slope of the errors is taken over.
At most half of those that go wrong: the worst of all lie far off, among many impostors."""


def edit_tallies(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> Floats:
    """Edits and reference length of each utterance; their sums divided are an error rate.

    The edits are the fewest insertions, deletions and substitutions, each of cost one, that turn a hypothesis into
    its reference. Phones as tokens give the phone error rate, words the word error rate, and a plain string is its
    characters. Either may be empty; the rate may be above 1.

    Args:
        references: What was said, N sequences of tokens; a token may be any string.
        hypotheses: What was recognised, N sequences of tokens.

    Returns:
        (N, 2): edits, tokens of the reference.

    Raises:
        ValueError: There are not as many hypotheses as references.

    Source: NIST's sclite counts so; SUPERB's PER, WER and CER are the sum of the edits over the sum of the lengths.
    """
    _require_pairs(references, hypotheses)
    numbers: dict[str, int] = {}  # rapidfuzz compares tokens by hash, in which "" and "\0" are one

    def numbered(tokens: Sequence[str]) -> list[int]:
        return [numbers.setdefault(token, len(numbers)) for token in tokens]

    rows = [
        (Levenshtein.distance(numbered(said), numbered(heard)), len(said))
        for said, heard in zip(references, hypotheses, strict=True)
    ]
    return np.array(rows, np.float64).reshape(-1, 2)


def equal_error_rate(scores: ArrayLike, same: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The error rate at the threshold where as many targets are refused as impostors are accepted.

    The ROC curve is the polygon through its operating points, one for each distinct score; trials that tie are
    accepted together, so they make one slanted edge. The result is where it crosses the line of equal rates, exactly.

    Args:
        scores: Of each trial, (N,): the higher, the likelier the same speaker.
        same: Whether the trial is of one speaker, (N,).
        weights: How often each trial counts, (N,), >= 0; a trial between resampled utterances counts as often as the
            product of theirs. Default once.

    Returns:
        A share, 0 to 1.

    Raises:
        ValueError: Shapes differ, a number is not one, or either kind of trial is missing.

    Source: SUPERB's speaker verification (s3prl/metric/common.py) interpolates the same polygon, numerically.
    """
    values, targets, counts = _require_trials(scores, same, weights)
    order, ends = _by_threshold(values)
    accepted = [np.append(0.0, np.cumsum((counts * kind)[order])[ends]) for kind in (targets, ~targets)]
    if accepted[0][-1] == 0 or accepted[1][-1] == 0:
        raise ValueError(
            "an equal error rate needs trials of both kinds; there are "
            f"{np.count_nonzero(counts[targets])} of the same speaker and {np.count_nonzero(counts[~targets])} of "
            "different ones that count; draw more trials"
        )
    found, false_alarms = (x / x[-1] for x in accepted)
    gap = 1 - found - false_alarms  # misses less false alarms: from 1 down to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(false_alarms[after - 1] + share * (false_alarms[after] - false_alarms[after - 1]))


def find_equal_errors(scores: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.bool_], float]:
    """Which trials go wrong at the threshold of equal errors, and how much misses weigh beside false alarms there.

    When a few trials are taken away, the threshold moves too. To first order the equal error rate then moves by the
    weight times what misses move at the fixed threshold, plus the rest of 1 times what false alarms move. The weight is
    the density of impostors over that of both kinds, here from a band (`BAND`) of the targets on either side.

    Args:
        scores: Of each trial, (N,): the higher, the likelier the same speaker.
        same: Whether the trial is of one speaker, (N,); some are and some are not.

    Returns:
        (N,), and a share, 0 to 1.
    """
    values, targets, _ = _require_trials(scores, same, None)
    order, ends = _by_threshold(values)
    found, accepted = (np.cumsum(kind[order])[ends] / np.count_nonzero(kind) for kind in (targets, ~targets))
    missed = 1 - found  # both by falling threshold
    best = int(np.argmin(np.abs(missed - accepted)))
    band = min(BAND, missed[best] / 2, (1 - missed[best]) / 2)
    low, high = (int(np.argmin(np.abs(missed - (missed[best] + side * band)))) for side in (1, -1))
    # Both rates are nearly straight lines to each other as normal quantiles, which a band may be read off.
    ends_of_band = (ndtri(np.clip(x[[low, high]], 1e-3, 1 - 1e-3)) for x in (accepted, missed))
    steps = [abs(float(end[1] - end[0])) for end in ends_of_band]
    weight = steps[0] / sum(steps) if sum(steps) > 0 else 0.5
    return (values >= values[order[ends[best]]]) != targets, float(weight)


def normalize_scores(scores: ArrayLike, queries: ArrayLike) -> Floats:
    """Scores with zero mean and unit deviation over the trials of each query, so that one threshold fits all.

    Args:
        scores: Of each trial, (N,).
        queries: Which query each trial is of, (N,), whole numbers from 0.

    Returns:
        (N,); zeros where the scores of a query are all alike.

    Raises:
        ValueError: Shapes differ, or a score is not finite.

    Source: SUPERB's query by example (s3prl/downstream/quesst14_dtw/dtw_utils.py).
    """
    values, owners = np.asarray(scores, np.float64), _require_queries(scores, queries)
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite to be normalised; give a trial without a match a low score instead")
    counts = np.maximum(np.bincount(owners), 1)
    centred = values - (np.bincount(owners, values) / counts)[owners]
    deviation = np.sqrt(np.bincount(owners, centred**2) / counts)
    return np.asarray(centred / np.maximum(deviation, 1e-9)[owners])


def maximum_term_weighted_value(
    scores: ArrayLike,
    relevant: ArrayLike,
    queries: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    beta: float = BETA,
) -> float:
    """How well spoken queries find the utterances that hold them, at the best threshold common to all queries.

    At a threshold, a query misses a share of the utterances that hold it and falsely finds a share of the others; the
    term-weighted value is 1 - mean over queries of (P_miss + β P_fa). Finding nothing at all is worth 0 and is one
    of the thresholds, so the maximum is never below that.

    Args:
        scores: Of each trial, a query against an utterance, (N,): the higher, the likelier it holds the query.
        relevant: Whether it does, (N,).
        queries: Which query each trial is of, (N,), whole numbers 0 to Q - 1.
        weights: How often each query counts, (Q,), >= 0, when queries are resampled. Default once.
        beta: What a false alarm weighs against a miss, C_fa / C_miss (1 / P_target - 1).

    Returns:
        0 to 1; 1 is a threshold between all relevant and all other trials.

    Raises:
        ValueError: Shapes differ, a number is not one, a query has no relevant or no other trial, or none counts.

    Source: NIST's STD 2006 evaluation plan; costs of QUESST 2014 (MediaEval), whose score is SUPERB's. There as here
    a trial is a whole utterance, not a second of speech.
    """
    values, hits, _ = _require_trials(scores, relevant, None)
    owners = _require_queries(values, queries)
    num_queries = int(owners.max()) + 1
    counts = np.ones(num_queries) if weights is None else np.asarray(weights, np.float64)
    if counts.ndim != 1 or len(counts) < num_queries or not (counts >= 0).all() or not 0 < counts.sum() < np.inf:
        raise ValueError(f"weights must be {num_queries} numbers, one for each query, none negative and some above 0")
    num_hits = np.bincount(owners, hits, len(counts))
    num_others = np.bincount(owners, ~hits, len(counts))
    if (lacking := np.flatnonzero((num_hits == 0) | (num_others == 0))).size:
        first = lacking[0]
        raise ValueError(
            f"query {first} has {num_hits[first]:.0f} relevant and {num_others[first]:.0f} other trials, and needs "
            f"some of each; leave out the {len(lacking)} such queries"
        )
    # What accepting a trial adds to the term-weighted value.
    worth = counts[owners] / counts.sum() * np.where(hits, 1 / num_hits[owners], -beta / num_others[owners])
    order, ends = _by_threshold(values)
    return float(max(0.0, np.cumsum(worth[order])[ends].max()))


def find_accepted(
    scores: ArrayLike, relevant: ArrayLike, queries: ArrayLike, *, beta: float = BETA
) -> NDArray[np.bool_]:
    """Which trials are accepted at the threshold of the maximum term-weighted value, (N,); none if it is 0.

    Args:
        scores: As in `maximum_term_weighted_value`, of queries that each have relevant and other trials.
        relevant: The same.
        queries: The same.
        beta: The same.
    """
    values, hits, _ = _require_trials(scores, relevant, None)
    owners = _require_queries(values, queries)
    worth = np.where(hits, 1 / np.bincount(owners, hits)[owners], -beta / np.bincount(owners, ~hits)[owners])
    order, ends = _by_threshold(values)
    total = np.cumsum(worth[order])[ends]
    best = int(total.argmax())
    return values >= values[order[ends[best]]] if total[best] > 0 else np.zeros(len(values), np.bool_)


def worth_of_queries(
    accepted: NDArray[np.bool_],
    relevant: NDArray[np.bool_],
    queries: Integers,
    weights: Floats | None = None,
    *,
    beta: float = BETA,
) -> Floats:
    """1 - (misses + β false alarms) of each query, (Q,), both as shares.

    Args:
        accepted: Whether each trial is taken for one that holds the query, (N,).
        relevant: Whether it does, (N,); of each query some do and some do not.
        queries: Which query each trial is of, (N,), whole numbers 0 to Q - 1.
        weights: How much each trial counts, (N,), > 0. Default once.
        beta: What a false alarm weighs against a miss.
    """
    counts = np.ones(len(queries)) if weights is None else weights
    found, false_alarms = (
        np.bincount(queries, counts * (kind & accepted)) / np.bincount(queries, counts * kind)
        for kind in (relevant, ~relevant)
    )
    return np.asarray(found - beta * false_alarms)


def slot_tallies(references: Sequence[Sequence[Slot]], hypotheses: Sequence[Sequence[Slot]]) -> Floats:
    """F1 of the slot types of each utterance; their mean is SUPERB's slot-type F1.

    Only which types occur matters: not how often, in which order or with which value. An utterance without slots is
    right when none are found. The mean is over utterances, as SUPERB's is, not over slots.

    Args:
        references: (type, value) of what was said, N lists.
        hypotheses: The same of what was recognised, N lists.

    Returns:
        (N, 2): F1, one.

    Raises:
        ValueError: There are not as many hypotheses as references.

    Source: s3prl/metric/slot_filling.py, `slot_type_f1`.
    """
    _require_pairs(references, hypotheses)
    rows = []
    for said, heard in zip(references, hypotheses, strict=True):
        expected, found = ({kind for kind, _ in slots} for slots in (said, heard))
        num_types = len(expected) + len(found)
        rows.append((2 * len(expected & found) / num_types if num_types else 1.0, 1.0))
    return np.array(rows, np.float64).reshape(-1, 2)


def slot_value_tallies(references: Sequence[Sequence[Slot]], hypotheses: Sequence[Sequence[Slot]]) -> Floats:
    """Character edits and characters of each utterance's slot values; their sums divided are SUPERB's slot-value CER.

    Each value that was said meets the closest value found under its type, or nothing if the type was not found. One
    value found may serve several; those found under a type that was not said cost nothing here, only in F1.

    Args:
        references: (type, value) of what was said, N lists; blanks in a value are characters.
        hypotheses: The same of what was recognised, N lists.

    Returns:
        (N, 2): edits, characters of the reference.

    Raises:
        ValueError: There are not as many hypotheses as references.

    Source: s3prl/metric/slot_filling.py, `slot_value_cer`.
    """
    _require_pairs(references, hypotheses)
    tallies = np.zeros((len(references), 2))
    for i, (said, heard) in enumerate(zip(references, hypotheses, strict=True)):
        for kind, value in said:
            found = [other for other_kind, other in heard if other_kind == kind] or [""]
            tallies[i] += edit_tallies([value] * len(found), found).min(0)
    return tallies


def ctc_collapse(ids: ArrayLike, blank: int = 0) -> list[int]:
    """The labelling of one alignment: repeats become one, then blanks go.

    Args:
        ids: A class for each frame, (T,).
        blank: The class that stands for no label.

    Source: Graves et al. 2006, the map B; on the best class of each frame it is greedy decoding.
    """
    frames = np.asarray(ids, np.int64)
    starts = np.append(True, frames[1:] != frames[:-1])[: len(frames)]
    return [int(label) for label in frames[starts] if label != blank]


def beam_search(log_probs: ArrayLike, beam_width: int, blank: int = 0) -> list[int]:
    """The likeliest labelling found by a CTC prefix beam search, without a language model.

    A labelling is as likely as all its alignments together, which greedy decoding does not see. A beam wide enough to
    hold every prefix finds the best; a narrower one may not.

    Args:
        log_probs: Log probability of each class in each frame, (T, C), natural logarithm; -inf is allowed.
        beam_width: How many prefixes live from one frame to the next, >= 1.
        blank: The class that stands for no label.

    Returns:
        At most T labels; none for T = 0.

    Raises:
        ValueError: The beam is empty, `blank` is no class, or a frame has no possible class or a NaN.

    Source: Hannun et al. 2014 (arXiv 1408.2873), algorithm 1, without its language model.
    """
    rows = np.asarray(log_probs, np.float64)
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1, got {beam_width}")
    if rows.ndim != 2 or not 0 <= blank < rows.shape[1]:
        raise ValueError(f"log_probs must be (frames, classes) with the class blank={blank}; its shape is {rows.shape}")
    if not (rows < np.inf).all() or np.isneginf(rows).all(1).any():
        raise ValueError("log_probs must be below inf and not NaN, with a possible class in every frame")
    tree = _PrefixTree([-1], [blank], {})
    beam = _Beam(np.array([0]), np.array([-1]), np.array([blank]), np.array([0.0]), np.array([-np.inf]))
    for row in rows:
        beam = _advance(beam, row, beam_width, blank, tree)
    return tree.read(int(beam.nodes[0]))


@dataclass
class _PrefixTree:
    """Every prefix met, by number: a labelling that leaves the beam and returns keeps its number. The root is 0."""

    parents: list[int]
    labels: list[int]
    children: dict[tuple[int, int], int]

    def extend(self, node: int, label: int) -> int:
        """The number of a prefix with one more label."""
        child = self.children.setdefault((node, label), len(self.labels))
        if child == len(self.labels):
            self.parents.append(node)
            self.labels.append(label)
        return child

    def read(self, node: int) -> list[int]:
        """The labels of a prefix, first to last."""
        labels = []
        while node > 0:
            labels.append(self.labels[node])
            node = self.parents[node]
        return labels[::-1]


@dataclass(frozen=True)
class _Beam:
    """The likeliest prefixes after some frames, best first; all (K,)."""

    nodes: Integers
    parents: Integers
    labels: Integers
    """The last label of each; the blank for the empty prefix."""
    after_blank: Floats
    """Log probability of all alignments of a prefix that end in a blank."""
    after_label: Floats
    """The same of those that end in its last label."""


def _advance(beam: _Beam, row: Floats, beam_width: int, blank: int, tree: _PrefixTree) -> _Beam:
    """The beam one frame later; row is (C,)."""
    total = np.logaddexp(beam.after_blank, beam.after_label)
    stay_blank = total + row[blank]
    stay_label = beam.after_label + row[beam.labels]
    longer = total[:, None] + row  # (K, C)
    longer[np.arange(len(total)), beam.labels] = beam.after_blank + row[beam.labels]  # a repeat needs a blank between
    longer[:, blank] = -np.inf
    # A prefix in the beam may also be reached from its parent in the beam.
    child, parent = np.nonzero(beam.parents[:, None] == beam.nodes)
    last = beam.labels[child]
    stay_label[child] = np.logaddexp(stay_label[child], longer[parent, last])
    longer[parent, last] = -np.inf

    scores = np.concatenate([np.logaddexp(stay_blank, stay_label), longer.ravel()])
    best = np.argsort(-scores, kind="stable")[:beam_width]
    best = best[np.isfinite(scores[best])]  # else what was merged above would come back as a second copy
    is_stay = best < len(total)
    stay = np.where(is_stay, best, 0)
    origin, label = np.divmod(np.where(is_stay, 0, best - len(total)), len(row))
    nodes = beam.nodes[stay]
    for i in np.flatnonzero(~is_stay):
        nodes[i] = tree.extend(int(beam.nodes[origin[i]]), int(label[i]))
    return _Beam(
        nodes,
        np.where(is_stay, beam.parents[stay], beam.nodes[origin]),
        np.where(is_stay, beam.labels[stay], label),
        np.where(is_stay, stay_blank[stay], -np.inf),
        np.where(is_stay, stay_label[stay], scores[best]),
    )


def _by_threshold(scores: Floats) -> tuple[Integers, Integers]:
    """The order of falling scores, and the last place of each distinct score in it: where a threshold may lie."""
    order = np.argsort(-scores, kind="stable")  # linear where the scores come sorted
    falling = scores[order]
    return order, np.flatnonzero(np.append(falling[1:] != falling[:-1], True))


def _require_pairs(references: Sequence[object], hypotheses: Sequence[object]) -> None:
    if len(references) != len(hypotheses):
        raise ValueError(f"each reference needs one hypothesis; got {len(references)} and {len(hypotheses)}")


def _require_trials(
    scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Scores, labels and weights of trials, (N,) each, N >= 1."""
    values, labels = np.asarray(scores, np.float64), np.asarray(positive, np.bool_)
    counts = np.ones(values.shape) if weights is None else np.asarray(weights, np.float64)
    if values.ndim != 1 or not len(values) or not values.shape == labels.shape == counts.shape:
        raise ValueError(
            "scores, labels and weights must be one row of trials each, equally many and at least one; their shapes "
            f"are {values.shape}, {labels.shape} and {counts.shape}"
        )
    if np.isnan(values).any():
        raise ValueError(f"scores must be numbers; {np.isnan(values).sum()} of {len(values)} are NaN")
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise ValueError("weights must be finite and not negative")
    return values, labels, counts


def _require_queries(scores: ArrayLike, queries: ArrayLike) -> Integers:
    """The query of each trial, (N,)."""
    owners = np.asarray(queries)
    if owners.shape != np.shape(scores) or owners.ndim != 1 or not np.issubdtype(owners.dtype, np.integer):
        raise ValueError(
            f"queries must be a whole number for each of {np.shape(scores)} trials; got {owners.dtype} {owners.shape}"
        )
    if owners.size and owners.min() < 0:
        raise ValueError(f"queries are numbered from 0; got {owners.min()}")
    return owners.astype(np.int64)
