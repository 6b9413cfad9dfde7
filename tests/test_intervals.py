"""What chance does to verdicts: pairs of encoders that are equal, and pairs that differ, judged by few speakers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from speech_tasks import phones
from speech_tasks.comparison import Comparison
from speech_tasks.heads import Fitted
from speech_tasks.intervals import bootstrap_interval
from speech_tasks.phones import Phones
from speech_tasks.task import IN_DOMAIN, Material
from tests.evaluation_cases import make_entry
from tests.speech_cases import FakeCorpus, utterance

NUM_PAIRS = 300


class Typed:
    """A writer whose heads get some phones of each utterance wrong, as often as a table says, (seeds, utterances)."""

    fitted = Fitted((), 0.1, ())

    def __init__(self, wrong):
        self.wrong = wrong

    def write(self, store, clips):
        del store
        said = [[symbol for symbol, _, _ in clip.utterance.phones] for clip in clips]
        places = [int(clip.utterance.id) for clip in clips]
        return [
            [(*"x" * one[place], *symbols[one[place] :]) for place, symbols in zip(places, said, strict=True)]
            for one in self.wrong
        ]


def corpus_of(num_speakers, num_utterances, rng):
    """Utterances of 4 to 12 phones by speakers who take turns."""
    said = []
    for i in range(num_utterances):
        spans = tuple(("aeiou"[k % 5], 0.1 * k, 0.1 * (k + 1)) for k in range(int(rng.integers(4, 13))))
        said.append(utterance(str(i), speaker=f"s{i % num_speakers}", phones=spans))
    return FakeCorpus({"train": said, "search": said, "test": said})


def draw_errors(corpus, num_speakers, rng, worse=0.0, seed_deviation=0.05):
    """Wrong phones of two encoders by three heads each, (2, 3, N).

    Some speakers are hard for both, others for one encoder alone. Three of four phones that a head gets wrong, the
    heads of other seeds get wrong as well.
    """
    lengths = np.array([len(u.phones) for u in corpus.splits["test"]])
    speakers = np.arange(len(lengths)) % num_speakers
    hard = rng.normal(0, 0.5, num_speakers)[speakers] + rng.normal(0, 0.5, len(lengths))
    wrong = np.zeros((2, 3, len(lengths)), np.int64)
    for encoder in range(2):
        own = rng.normal(0, 0.5, num_speakers)[speakers]
        common = rng.random((len(lengths), 12))
        for seed in range(3):
            level = -0.5 + hard + own + encoder * worse + rng.normal(0, seed_deviation)
            drawn = np.where(rng.random(common.shape) < 0.75, common, rng.random(common.shape))
            missed = drawn < 1 / (1 + np.exp(-level[:, None]))
            wrong[encoder, seed] = (missed & (np.arange(12) < lengths[:, None])).sum(1)
    return wrong


def judge(monkeypatch, num_speakers, num_utterances, worse=0.0):
    """Verdicts and differences of `NUM_PAIRS` pairs."""
    rng = np.random.default_rng(1)
    corpus = corpus_of(num_speakers, num_utterances, rng)
    task = Phones(Material(corpus, "clean"))
    verdicts, differences = [], []
    for _ in range(NUM_PAIRS):
        entries = []
        for name, wrong in zip("ab", draw_errors(corpus, num_speakers, rng, worse), strict=True):
            monkeypatch.setattr(phones, "fit_writer", lambda *_, wrong=wrong, **__: Typed(wrong))
            entries.append(make_entry(name, task.score(None)))
        cell = Comparison(entries).cell(entries[1], "PER", IN_DOMAIN)
        verdicts.append(cell.verdict)
        differences.append(cell.difference)
    return verdicts, differences


@pytest.mark.parametrize(("num_speakers", "num_utterances"), [(12, 96), (48, 96)])
def test_equal_encoders_differ_in_one_of_twenty(monkeypatch, num_speakers, num_utterances):
    verdicts, _ = judge(monkeypatch, num_speakers, num_utterances)
    share = 1 - verdicts.count("") / NUM_PAIRS
    assert 0.03 <= share <= 0.07


def test_encoders_that_differ_are_found_as_often_as_theory_says(monkeypatch):
    verdicts, differences = judge(monkeypatch, 12, 96, worse=0.6)
    theory = 1 - nct.cdf(student.ppf(0.975, 11), 11, np.mean(differences) / np.std(differences))
    assert 0.3 < theory < 0.9
    assert verdicts.count("worse") / NUM_PAIRS == pytest.approx(theory, abs=0.06)
    assert verdicts.count("better") / NUM_PAIRS < 0.01


def test_what_is_drawn_anew_is_as_it_was():
    values = np.array([3, 1, 4, 1.5, 5, 9, 2.6, 5.3, 5.8, 9.7])
    ends = bootstrap_interval(lambda drawn: values[drawn].mean(1), len(values), np.random.default_rng(0))
    assert ends == pytest.approx((3.18975, 6.5105))
    drawn = np.random.default_rng(0).choice(values, (1000, len(values)))  # as medians of times were made
    assert ends == tuple(np.quantile(drawn.mean(1), [0.025, 0.975]))
