"""A stored score is today's only if neither code nor audio changed; words about the code may."""

from __future__ import annotations

import importlib
import sys

import pytest

from search_spaces import identity
from speech_tasks import provenance
from speech_tasks.feature_store import Clip
from speech_tasks.provenance import fingerprint_task, name_audio
from tests.evaluation_cases import LoudnessTask
from tests.speech_cases import FakeCorpus, utterance

TASK = '''"""A task."""

from speech_parts.metric import measure


class Task:
    """One."""

    seeds: int = 3
    """Of heads."""

    def score(self):
        """Scores."""
        return measure(1, "a string that counts")
'''
METRIC = "def measure(x, unit):\n    return 100 * x\n"
UNRELATED = "WIDTH = 1\n"


@pytest.fixture
def code(monkeypatch, tmp_path):
    """Hashes speech_parts.task after files of it were changed."""
    folder = tmp_path / "speech_parts"
    folder.mkdir()
    for name, text in {"__init__": "", "task": TASK, "metric": METRIC, "unrelated": UNRELATED}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(identity, "PACKAGES", ("speech_parts",))

    def hash_changed(name="task", old="", new=""):
        text = (folder / f"{name}.py").read_text()
        assert old in text
        (folder / f"{name}.py").write_text(text.replace(old, new) if old else text)
        importlib.invalidate_caches()
        identity._read_code.cache_clear()
        return identity.hash_code("speech_parts.task")

    yield hash_changed
    for name in [name for name in sys.modules if name.startswith("speech_parts")]:
        del sys.modules[name]


def test_words_about_the_code_keep_the_hash(code):
    before = code()
    assert code(old='"""A task."""', new="# of ours\n") == before
    assert code(old='"""Of heads."""', new='"""Of what is fitted."""') == before
    assert code(old='"""Scores."""\n', new="# the\n        # scores\n\n") == before
    assert (
        code("metric", "def measure(x, unit):\n", 'def measure(x,\n            unit):\n    """Percent."""\n') == before
    )


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("task", "measure(1,", "measure(2,"),
        ("task", "seeds: int = 3", "seeds: int = 4"),
        ("task", "a string that counts", "another string"),
        ("metric", "100 * x", "x"),
    ],
)
def test_code_changes_the_hash(code, name, old, new):
    before = code()
    assert code(name, old, new) != before


def test_code_that_is_not_imported_does_not_count(code):
    before = code()
    assert code("unrelated", "1", "2") == before


def test_every_import_of_the_lower_packages_is_followed(code):
    code(old="measure(1,", new="measure(WIDTH,")
    before = code(old="class Task", new="from speech_parts.unrelated import WIDTH\n\n\nclass Task")
    assert code("unrelated", "1", "2") != before


def test_a_module_itself_is_followed_however_it_is_imported(code):
    before = code(old="from speech_parts.metric import measure", new="from speech_parts import metric")
    assert code("metric", "100 * x", "x") != before


def task(name="keywords", ids=("a", "b"), content="1", rendition="clean"):
    corpus = FakeCorpus({"test": [utterance(name) for name in ids]}, name="some", hash=content)
    made = LoudnessTask(name, corpus, "KS accuracy")
    made.clips = [Clip(corpus, u, rendition) for u in corpus.utterances("test")]
    return made


def test_clips_code_and_name_make_the_fingerprint(monkeypatch):
    before = fingerprint_task(task())
    assert fingerprint_task(task(ids=("b", "a", "a"))) == before  # which, not in what order or how often
    changed = [task(ids=("a", "c")), task(content="2"), task(rendition="noisy"), task(name="intent")]
    assert len({before, *map(fingerprint_task, changed)}) == 5
    monkeypatch.setattr(provenance, "hash_code", lambda module: f"another {module}")
    assert fingerprint_task(task()) != before


def test_all_audio_is_named():
    both = task()
    both.clips = [*both.clips, *task(content="2").clips[:1]]
    both.clips[-1].corpus.name = "second"
    assert name_audio(both) == ("some 1", "second 2")
