"""Tiny corpora in a cache of their own, tasks that count their calls, and scores given by hand, for the tests of
evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from speech_data import flite, synthesis
from speech_data.corpus import MANIFEST, SPLITS
from speech_data.flite import FliteRecipe
from speech_data.plans import CorpusRecipe, distinct_sentences
from speech_data.shards import folder_of_plan, write_shard
from speech_tasks import characters, labels, materials, phones, queries, slots, speakers, verification
from speech_tasks.comparison import Entry
from speech_tasks.feature_store import Clip
from speech_tasks.heads import Plan
from speech_tasks.suite import Evaluation, TaskResult
from speech_tasks.task import IN_DOMAIN, Score, score_ratio
from tests.probe_cases import PHONES, talk

KNOWN, UNSEEN = [f"known-{i}" for i in range(8)], [f"unseen-{i}" for i in range(5)]
NO_OTHERS = {"num_train": 0, "num_search": 0, "num_dev": 0}
RECIPES = {
    name: CorpusRecipe(f"nestling-tiny-{name}", num_train=1, num_search=1, num_dev=1, num_test=1, material=name)
    for name in materials.RECIPES
}
TESTS = {
    name: CorpusRecipe(f"nestling-tiny-{name}-test", num_test=1, material=name, crowd=True, **NO_OTHERS)
    for name in materials.TESTS
}
FLITE_RECIPES = {name: FliteRecipe(f"nestling-tiny-flite-{name}", 1, (1.0,), distinct_sentences) for name in RECIPES}
NUM_WORDS = {"sentences": 3, "keywords": 1}


def write_corpus(folder, name, splits):
    """A corpus as `Corpus` reads it, of noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    for split, utterances in splits.items():
        waves = [(3000 * rng.standard_normal(u.num_samples)).astype(np.int16) for u in utterances]
        write_shard(folder / f"{split}-000", list(zip(waves, utterances, strict=True)))
    manifest = {"name": name, "hash": f"hash of {name}", "phones": PHONES, "shards": {s: [f"{s}-000"] for s in splits}}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def tiny_split(material, split):
    """Utterances of a split with all labels; voices are known and unseen where they must be."""
    seed, words = 10 * SPLITS.index(split), NUM_WORDS.get(material, 2)
    if split == "train":
        said = talk(split, KNOWN, 40, words, seed)
    elif material == "voices":
        said = [*talk(split, KNOWN, 16, words, seed + 1), *talk(split, UNSEEN, 15, words, seed + 2)]
    else:
        said = talk(split, UNSEEN, 20, words, seed + 3)
    return [replace(u, slots=(("thing", u.text.split()[0]),)) for u in said]


def write_cache(folder):
    """What `use_tiny_audio` finds."""
    for name, recipe in RECIPES.items():
        write_corpus(folder_in(folder, synthesis.corpus_folder(recipe)), recipe.name, splits_of(name, SPLITS))
        if name in TESTS:
            tests = folder_in(folder, synthesis.corpus_folder(TESTS[name]))
            write_corpus(tests, TESTS[name].name, splits_of(name, ("test",)))
        other = folder_of_plan(FLITE_RECIPES[name].name, {"test": plan_flite(name)})
        write_corpus(folder_in(folder, other), FLITE_RECIPES[name].name, splits_of(name, ("test",)))
    return folder


def splits_of(material, splits):
    return {split: tiny_split(material, split) for split in splits}


def folder_in(cache, folder):
    return cache / "corpora" / folder.name


def plan_flite(material):
    usual, flite.RECIPES = flite.RECIPES, FLITE_RECIPES
    try:
        return flite.plan_test(material)
    finally:
        flite.RECIPES = usual


def use_tiny_audio(monkeypatch, cache):
    """Everything that is synthesised comes from a cache of tiny corpora, or the test fails."""

    def refuse(*_, **__):
        raise AssertionError("nothing should be synthesised")

    monkeypatch.setenv("NESTLING_CACHE", str(cache))
    monkeypatch.setitem(synthesis.BY_NAME, "demo-small", RECIPES["sentences"])
    monkeypatch.setattr(synthesis, "synthesise_corpus", refuse)
    monkeypatch.setattr(materials, "RECIPES", RECIPES)
    monkeypatch.setattr(materials, "TESTS", TESTS)
    monkeypatch.setattr(flite, "RECIPES", FLITE_RECIPES)
    monkeypatch.setattr(flite, "synthesise_test", refuse)


def use_quick_heads(monkeypatch):
    """Heads of one epoch and one seed; queries of words that are not rare."""
    for task in (characters, labels, phones, slots, speakers, verification):
        monkeypatch.setattr(task, "PLAN", Plan(epochs=1, learning_rates=(1e-3,), num_seeds=1))
    monkeypatch.setattr(queries, "MAX_WORD_SHARE", 1.0)
    monkeypatch.setattr(queries, "MIN_PHONES", 3)


class LoudnessTask:
    """The share of clips whose mean state is above a threshold, in percent; remembers how often it was asked."""

    def __init__(self, name, corpus, metric, threshold=0.0):
        self.name, self.metrics, self.threshold = name, (metric,), threshold
        self.clips = [Clip(corpus, u, "clean") for u in corpus.utterances("test")]
        self.calls = 0

    def score(self, store):
        self.calls += 1
        loud = (store.pooled(self.clips).mean((1, 2)) > self.threshold).double().numpy()
        return [score_ratio(self.metrics[0], IN_DOMAIN, np.stack([loud, np.ones_like(loud)], 1)[None], self.clips)]


def make_score(metric, value, moves=None, condition=IN_DOMAIN, seeds=None, shared=None):
    """A score that neither a speaker nor a seed moves, unless it is said how."""
    from speech_tasks.aggregates import METRICS
    from speech_tasks.intervals import spread_of_moves

    seeds = (float(value),) if seeds is None else seeds
    moves = dict.fromkeys(map(str, range(40)), 0.0) if moves is None else moves
    fitted = METRICS[metric].task if metric in METRICS else metric
    spread = spread_of_moves(fitted, seeds, moves, len(moves), shared)
    return Score(metric, condition, float(value), seeds, spread, {"learning rate": 1e-3})


TASK_OF = {
    "PER": "phones",
    "KS accuracy": "keywords",
    "IC accuracy": "intent",
    "EER": "verification",
    "slot F1": "slots",
    "slot CER": "slots",
    "MTWV": "queries",
    "WER": "characters",
    "WER (beam)": "characters",
}


def make_entry(name, scores, source=None, audio="nestling-english 0123"):
    """An encoder with scores by metric, or given whole; each metric is of the task it belongs to."""
    if isinstance(scores, dict):
        scores = [make_score(metric, value) for metric, value in scores.items()]
    by_task = {}
    for score in scores:
        by_task.setdefault(TASK_OF[score.metric], []).append(score)
    results = tuple(TaskResult(task, f"{task} code", (audio,), tuple(own), 2.0) for task, own in by_task.items())
    return Entry(name, source or name, f"{abs(hash(name)):x}", 1_000_000, 2_000_000_000, Evaluation(name, results, 3.0))
