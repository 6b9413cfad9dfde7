"""What 95 % intervals cover: simulated pairs of encoders that are equal, and pairs that differ, by few speakers.

    python benchmarks/intervals.py > intervals.txt

Some speakers are hard for all encoders, some for one alone; heads of one encoder share three of four of their errors,
and differ a little in level. Whatever interval excludes 0 although the encoders are equal is wrong: 5 % should. Beside
the interval of `speech_tasks/intervals.py` stand those that were tried: utterances resampled (as until November 2026),
speakers resampled, and the latter widened by Student's t and sqrt(k / (k - 1)).
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import torch
from scipy.stats import nct

from speech_data.corpus import Utterance
from speech_tasks.feature_store import Clip
from speech_tasks.intervals import Voices, combine, quantile, ratio, spread_of_ratio
from speech_tasks.queries import Trials, score_found
from speech_tasks.verification import Trials as VoiceTrials
from speech_tasks.verification import score_verification

SEEDS, DRAWS, MOST_PHONES = 3, 400, 12
PAIRS, PAIRS_RESAMPLED, PAIRS_OF_QUERIES = 1000, 300, 300

RATIOS = {
    # speakers, utterances, deviation of speakers for one encoder alone, of seeds, level, unequal lengths
    "PER, WER: test until now": (12, 500, 0.5, 0.05, -0.5, True),
    "PER, WER: test": (48, 500, 0.5, 0.05, -0.5, True),
    "PER, WER: dev": (8, 300, 0.5, 0.05, -0.5, True),
    "PER, WER: out of domain": (4, 200, 0.5, 0.05, 0.5, True),
    "accuracy: test until now": (12, 700, 0.5, 0.05, -2.5, False),
    "accuracy: test": (48, 700, 0.5, 0.05, -2.5, False),
    "accuracy: out of domain": (4, 360, 0.5, 0.05, 0.5, False),
    "speakers known: test": (176, 528, 0.5, 0.05, 0.0, False),
    "no speaker effect": (48, 700, 0.0, 0.05, -2.5, False),
    "seeds that disagree": (48, 500, 0.5, 0.3, -0.5, True),
}


def main() -> None:
    """Prints the tables."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    print(f"Equal encoders, {pairs} pairs ({min(pairs, PAIRS_RESAMPLED)} for what is resampled): % whose interval")
    print("excludes 0, 5 wanted. Found: of pairs that differ by 2.5 standard errors, % whose interval says so.\n")
    print("| | speakers | utterances resampled | speakers resampled | … widened | now | found | theory |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, setting in RATIOS.items():
        print(f"| {name} | {setting[0]} | {' | '.join(judge_ratios(setting, pairs))} |", flush=True)
    few = min(pairs, PAIRS_OF_QUERIES)
    print(f"\nMetrics of trials, {pairs} pairs (MTWV {few}); deviation: of speakers for one encoder alone.\n")
    print("| | speakers | deviation | queries resampled | now | interval over what it should be |")
    print("|---|---:|---:|---:|---:|---:|")
    for speakers, clips, deviation in ((96, 4, 0.0), (96, 4, 0.2), (20, 8, 0.0), (20, 8, 0.2)):
        found = " | ".join(judge_verification(speakers, clips, deviation, pairs))
        print(f"| EER, {speakers * clips} clips | {speakers} | {deviation} | – | {found} |", flush=True)
    for speakers, deviation in ((12, 0.0), (12, 0.4), (48, 0.0), (48, 0.4)):
        found = " | ".join(judge_queries(speakers, 120, 200, deviation, few))
        print(f"| MTWV, 120 queries | {speakers} | {deviation} | {found} |", flush=True)


def judge_ratios(setting: tuple[int, int, float, float, float, bool], pairs: int) -> list[str]:
    """How often each interval excludes 0, in percent."""
    rng = np.random.default_rng(0)
    wrong = np.zeros(4)
    differences = []
    for i in range(pairs):
        tallies, voices = draw_ratios(rng, *setting)
        difference, half = pair(tallies, voices)
        wrong[3] += (abs(difference) > half) / pairs
        differences.append(difference)
        if i < PAIRS_RESAMPLED:
            ends = resample(np.random.default_rng(i), tallies, voices, difference)
            wrong[:3] += [(not low <= 0 <= high) / min(pairs, PAIRS_RESAMPLED) for low, high in ends]
    # Errors become rarer for the second encoder, by 2.5 standard errors of a pair that is equal.
    rate = 1 / (1 + np.exp(-setting[4]))
    gain = 2.5 * float(np.std(differences)) / (rate * (1 - rate))
    differences, found = [], 0
    for _ in range(pairs):
        tallies, voices = draw_ratios(rng, *setting, gain=gain)
        difference, half = pair(tallies, voices)
        found += difference > half
        differences.append(difference)
    effect = np.mean(differences) / np.std(differences)
    theory = 1 - nct.cdf(quantile(setting[0] - 1), setting[0] - 1, effect)
    return [f"{100 * share:.1f}" for share in (*wrong, found / pairs, theory)]


def draw_ratios(
    rng: np.random.Generator,
    num_speakers: int,
    num_utterances: int,
    speaker_deviation: float,
    seed_deviation: float,
    level: float,
    unequal: bool,
    gain: float = 0.0,
) -> tuple[np.ndarray, Voices]:
    """Tallies of two encoders, (2, S, N, 2), and who says the utterances."""
    speakers = np.arange(num_utterances) % num_speakers
    lengths = rng.integers(4, MOST_PHONES + 1, num_utterances) if unequal else np.ones(num_utterances, np.int64)
    counted = np.arange(MOST_PHONES) < lengths[:, None]
    hard = rng.normal(0, 0.5, num_speakers)[speakers] + rng.normal(0, 0.5, num_utterances)
    tallies = np.zeros((2, SEEDS, num_utterances, 2))
    tallies[..., 1] = lengths
    for encoder in range(2):
        own = rng.normal(0, speaker_deviation, num_speakers)[speakers]
        common = rng.random(counted.shape)
        for seed in range(SEEDS):
            chance = 1 / (1 + np.exp(-(level + hard + own - gain * encoder + rng.normal(0, seed_deviation))))
            drawn = np.where(rng.random(counted.shape) < 0.75, common, rng.random(counted.shape))
            tallies[encoder, seed, :, 0] = ((drawn < chance[:, None]) & counted).sum(1)
    names = tuple(f"s{i}" for i in speakers)
    return tallies, Voices(names, tuple(map(str, range(num_utterances))))


def pair(tallies: np.ndarray, voices: Voices) -> tuple[float, float]:
    """The difference of two encoders, and half of its interval."""
    first, second = (ratio(one.sum(1)).mean() for one in tallies)
    spreads = [spread_of_ratio("", one, voices) for one in tallies]
    return float(first - second), combine([(1.0, spreads[0]), (-1.0, spreads[1])]).half_interval


def resample(
    rng: np.random.Generator, tallies: np.ndarray, voices: Voices, difference: float
) -> list[tuple[float, float]]:
    """Both ends of three intervals: utterances resampled, speakers resampled, and the latter widened."""

    def ends_of(blocks: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:  # (2, S, K, 2)
        counts = rng.multinomial(blocks.shape[2], np.full(blocks.shape[2], 1 / blocks.shape[2]), DRAWS)
        rates = ratio(np.einsum("dk,eskc->edsc", counts, blocks))
        draws = np.take_along_axis(rates[0] - rates[1], chosen, axis=1).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        return float(low), float(high)

    low, high = ends_of(tallies, rng.integers(SEEDS, size=(DRAWS, SEEDS)))
    half = (high - low) / 2
    owners = np.unique(voices.blocks, return_inverse=True)[1]
    blocks = np.stack([tallies[:, :, owners == i].sum(2) for i in range(voices.count)], axis=2)
    ends = ends_of(blocks, np.tile(np.arange(SEEDS), (DRAWS, 1)))
    factor = quantile(voices.count - 1) / 1.96 * np.sqrt(voices.count / (voices.count - 1))
    wide = (difference + factor * (ends[0] - difference), difference + factor * (ends[1] - difference))
    return [(difference - half, difference + half), ends, wide]


def judge_verification(num_speakers: int, each: int, deviation: float, pairs: int) -> list[str]:
    """Equal error rates of embeddings whose speakers are hard for one encoder alone."""
    rng = np.random.default_rng(1)
    owners = np.repeat(np.arange(num_speakers), each)
    trials = VoiceTrials(clips_of(owners))
    differences, halves = [], []
    for _ in range(pairs):
        centres, shared = rng.normal(size=(num_speakers, 12)), rng.normal(0, 0.25, num_speakers)
        common = rng.normal(size=(len(owners), 12))
        found = []
        for _ in range(2):
            quality = np.exp(shared + rng.normal(0, deviation, num_speakers))[owners, None]
            own = centres + rng.normal(0, 1, size=centres.shape) * deviation / 2
            x = own[owners] + 0.6 * quality * (common + rng.normal(size=common.shape))
            embeddings = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
            found.append(score_verification("", trials, [embeddings]))
        difference, half = found[0].difference(found[1])
        differences.append(difference)
        halves.append(half)
    return summarise(differences, halves, num_speakers)


def judge_queries(num_speakers: int, num_queries: int, num_documents: int, deviation: float, pairs: int) -> list[str]:
    """MTWV of scores in which speakers, as who asks and as who says, are hard for one encoder alone."""
    rng = np.random.default_rng(2)
    says, asks = np.arange(num_documents) % num_speakers, rng.integers(num_speakers, size=num_queries)

    asked = says != asks[:, None]
    differences, halves, wrong = [], [], 0
    for _ in range(pairs):
        relevant = np.zeros(asked.shape, np.bool_)
        for row, allowed in zip(relevant, asked, strict=True):
            row[rng.choice(np.flatnonzero(allowed), 2 + rng.poisson(2), replace=False)] = True
        trials = Trials(clips_of(asks), clips_of(says), asked, relevant)
        shared = rng.normal(0, 0.3, num_speakers)[says] + rng.normal(0, 0.5, num_queries)[:, None]
        common, found = rng.normal(size=asked.shape), []
        for _ in range(2):
            own = rng.normal(0, deviation, num_speakers)[says] + rng.normal(0, deviation, num_speakers)[asks][:, None]
            noise = 0.7 * (common + rng.normal(size=asked.shape))
            found.append(score_found("MTWV", "", trials, (relevant * (3 + shared + own) + noise).astype(np.float32)))
        difference, half = found[0].difference(found[1])
        differences.append(difference)
        halves.append(half)
        worth = [score.errors.tallies[0, :, 0] for score in found if score.errors]
        counts = rng.multinomial(num_queries, np.full(num_queries, 1 / num_queries), DRAWS)
        low, high = np.quantile(counts @ (worth[0] - worth[1]) / num_queries, [0.025, 0.975])
        wrong += abs(difference) > (high - low) / 2
    return [f"{100 * wrong / pairs:.1f}", *summarise(differences, halves, num_speakers)]


def clips_of(speakers: np.ndarray) -> tuple[Clip, ...]:
    """A clip of nothing by each of these speakers."""
    corpus = SimpleNamespace(name="", hash="")
    said = (Utterance(str(i), f"s{speaker:03}", 1) for i, speaker in enumerate(speakers))
    return tuple(Clip(corpus, utterance, "clean") for utterance in said)  # type: ignore[arg-type]


def summarise(differences: list[float], halves: list[float], num_speakers: int) -> list[str]:
    """How often the interval excludes 0, in percent, and its width over that of the true spread."""
    wrong = np.mean(np.abs(differences) > np.array(halves))
    return [f"{100 * wrong:.1f}", f"{np.mean(halves) / (quantile(num_speakers - 1) * np.std(differences)):.2f}"]


if __name__ == "__main__":
    main()
