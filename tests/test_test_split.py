"""Training and search never open the test split: neither a corpus that may read it, nor one of its files."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from checkpoints.run_folder import RunFolder
from nestling.workflows import scoring
from speech_data.corpus import Corpus
from speech_data.folder import FolderCorpus
from speech_data.synthesis import corpus_folder, synthesised_corpus
from speech_tasks import materials
from tests.evaluation_cases import RECIPES, use_quick_heads, use_tiny_audio, write_cache
from tests.shell import Shell
from tests.test_architecture import ROOT, modules
from tests.training_cases import SPACE, write_audio, write_case

QUICK = ("--set", "stage-1.steps=2", "--set", "stage-2.steps=2")


@dataclass
class Watch:
    """What was done with test splits while it looked."""

    allowed: list[str] = field(default_factory=list)
    """Corpora that were opened with the right to read test."""
    asked: list[str] = field(default_factory=list)
    """Corpora whose test split was asked for, whether they gave it or not."""
    files: list[str] = field(default_factory=list)
    """Files of test splits that were opened, by whoever."""

    @property
    def saw_nothing(self):
        return not (self.allowed or self.asked or self.files)


WATCHES: list[Watch] = []


def note_file(event, arguments):
    if event == "open" and WATCHES and isinstance(arguments[0], str) and Path(arguments[0]).name.startswith("test-0"):
        WATCHES[-1].files.append(arguments[0])


sys.addaudithook(note_file)  # hooks stay for good; without a watch it does nothing


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def watch(monkeypatch, cache):
    """Looks at every corpus and every file from here on; all audio is tiny."""
    use_tiny_audio(monkeypatch, cache)
    use_quick_heads(monkeypatch)
    seen = Watch()
    for kind in (Corpus, FolderCorpus):

        def opening(self, *arguments, allow_test=False, opened=kind.__init__, **options):
            opened(self, *arguments, allow_test=allow_test, **options)
            if allow_test:
                seen.allowed.append(self.name)

        def reading(self, split, utterances=kind.utterances):
            if split == "test":
                seen.asked.append(self.name)
            return utterances(self, split)

        monkeypatch.setattr(kind, "__init__", opening)
        monkeypatch.setattr(kind, "utterances", reading)
    WATCHES.append(seen)
    yield seen
    WATCHES.remove(seen)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("case"))


def train(folder, options, audio="demo-small"):
    shell = Shell(folder)
    shell.done("train supernet --run runs/a", *options, "--audio", str(audio), *QUICK)
    return shell


# What training, search and their reports do


def test_training_and_search_open_no_test_split(watch, options, tmp_path):
    shell = train(tmp_path, options)
    shell.done("train supernet --run runs/a --resume")
    shell.done("search subnet --run runs/a --trials 3 --utterances 4")
    shell.done("export subnet --run runs/a --out mine")
    shell.done("report --run runs/a")
    assert any("phone_error" in row for row in RunFolder(tmp_path / "runs/a").metrics())  # a probe looked at the audio
    assert watch.saw_nothing, watch


def test_training_a_teacher_opens_no_test_split(watch, options, tmp_path):
    recipe = tmp_path / "teacher.yaml"
    recipe.write_text(
        "stages:\n  - name: one\n    steps: 1\n    batch_size: 2\n    crop_seconds: 0.4\n"
        "    sources: {codes: {kind: codes, num_codes: 4}}\n"
        "    objective: [{source: codes, matching: codes, distance: cross_entropy}]\n"
    )
    space = options[options.index("--space") + 1]
    shell = Shell(tmp_path)
    shell.done("train teacher --audio demo-small", "--space", space, "--config", str(recipe))
    assert watch.saw_nothing, watch


def test_training_on_a_folder_opens_no_test_split(watch, options, tmp_path):
    shell = train(tmp_path, options, write_audio(tmp_path / "audio"))
    shell.done("search subnet --run runs/a --trials 3 --utterances 4")
    assert watch.saw_nothing, watch


@pytest.fixture(scope="module")
def run(cache, options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_tiny_audio(monkeypatch, cache)
        train(folder, options)
    return RunFolder.open(folder / "runs/a")


@pytest.mark.parametrize("objective", scoring.OBJECTIVES)
def test_no_objective_of_a_search_opens_a_test_split(watch, run, objective):
    corpus = synthesised_corpus(RECIPES["sentences"])
    scorer = scoring.open_scorer(run, corpus, 60, "cpu", print, objective)
    assert not scorer(SPACE.smallest()).failed
    assert watch.saw_nothing, watch


def test_scoring_dev_opens_no_test_split(watch, tmp_path):
    shell = Shell(tmp_path)
    shell.done("evaluate log-mel --task all --split dev --layers --format json")
    assert watch.saw_nothing, watch


# The watch sees what it should


def test_scoring_test_is_seen(watch, tmp_path):
    Shell(tmp_path).done("evaluate log-mel --task keywords --no-out-of-domain")
    assert watch.allowed == ["nestling-tiny-keywords-test"]
    assert set(watch.asked) == {"nestling-tiny-keywords-test"}
    assert {Path(path).name for path in watch.files} == {"test-000.jsonl", "test-000.npy"}


def test_an_objective_that_scores_test_would_be_seen(watch, run, monkeypatch):
    monkeypatch.setattr(scoring, "open_probed", lambda *_: materials.open_materials(["keywords"]))
    scorer = scoring.open_scorer(run, synthesised_corpus(RECIPES["sentences"]), 60, "cpu", print, "keywords")
    scorer(SPACE.smallest())
    assert "nestling-tiny-keywords-test" in watch.allowed


def test_asking_for_test_is_refused_and_seen(watch):
    corpus = synthesised_corpus(RECIPES["sentences"])
    with pytest.raises(ValueError, match="the test split is read once, by evaluate"):
        corpus.utterances("test")
    assert (watch.allowed, watch.asked, watch.files) == ([], [corpus.name], [])


def test_a_file_that_is_opened_behind_the_corpus_is_seen(watch):
    labels = corpus_folder(RECIPES["sentences"]) / "test-000.jsonl"
    assert labels.read_text()
    assert watch.files == [str(labels)]


# What the code says


def find_permissions(tree):
    """Every place that could let a test split be read, but for passing on what a caller allowed."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="allow_test", value=value):
                found.append(value)
            case ast.Assign(targets=targets, value=value) if any(_names_permission(x) for x in targets):
                found.append(value if isinstance(targets[0], ast.Attribute) else node)
            case ast.AnnAssign(target=target) | ast.AugAssign(target=target) if _names_permission(target):
                found.append(node)
            case ast.Constant(value="allow_test"):  # as in setattr(corpus, "allow_test", ...)
                found.append(node)
            case ast.Call(func=ast.Name(id="refuse_test"), args=[_, value]):
                found.append(value)
            case ast.arguments():
                pairs = zip(node.kwonlyargs, node.kw_defaults, strict=True)
                found += [default for name, default in pairs if name.arg == "allow_test" and default]
                optional = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
                found += [name for name in optional if name.arg == "allow_test"]  # could be passed without its name
    return [text for text in map(ast.unparse, found) if text not in ("False", "allow_test", "self.allow_test")]


def _names_permission(target):
    return "allow_test" in (getattr(target, "id", None), getattr(target, "attr", None))


def mentioned_in(tree):
    """Names that are used, and not defined, in a module."""
    nodes = list(ast.walk(tree))
    used = {getattr(node, "id", getattr(node, "attr", None)) for node in nodes}
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return (used | imported) - {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.fixture(scope="module")
def trees():
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in modules()}


def test_materials_alone_allow_a_test_split(trees):
    found = {path: find_permissions(tree) for path, tree in trees.items()}
    assert {path: sorted(texts) for path, texts in found.items() if texts} == {
        "speech_tasks/materials.py": ["True", "True", "True", "own", "split == 'test'"]
    }


@pytest.mark.parametrize(
    ("name", "callers"),
    [
        ("open_test", ["nestling/workflows/demo.py"]),
        ("run_demo", ["cli.py"]),
        ("flite_corpus", ["speech_tasks/materials.py"]),
        ("open_materials", ["nestling/workflows/evaluation.py", "nestling/workflows/scoring.py"]),
    ],
)
def test_what_can_open_test_is_called_by_evaluation_and_with_dev_by_search(trees, name, callers):
    assert sorted(path for path, tree in trees.items() if name in mentioned_in(tree)) == callers


def test_search_asks_for_dev(trees):
    calls = [
        {k.arg: ast.unparse(k.value) for k in node.keywords}
        for node in ast.walk(trees["nestling/workflows/scoring.py"])
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("open_materials")
    ]
    assert [call["scored"] for call in calls] == ["'dev'"]


@pytest.mark.parametrize(
    "source",
    [
        "Corpus(folder, allow_test=True)",
        "Corpus(folder, allow_test=not False)",
        "Corpus(folder, **{'allow_test': True})",
        "corpus.allow_test = True",
        "setattr(corpus, 'allow_test', True)",
        "allow_test = True",
        "allow_test: bool = True",
        "refuse_test(split, True)",
        "def f(*, allow_test=True): pass",
        "def f(folder, allow_test: bool = False): pass",
    ],
)
def test_a_permission_would_be_found(source):
    assert find_permissions(ast.parse(source))


def test_passing_a_permission_on_is_none():
    source = "def f(*, allow_test=False):\n    self.allow_test = allow_test\n    g(allow_test=allow_test)"
    assert find_permissions(ast.parse(source)) == []
