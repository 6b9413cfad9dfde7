"""The suite: tasks are found by name, clips are encoded once for all of them, and results survive the disk."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speech_tasks import materials, suite
from speech_tasks.comparison import Comparison, Entry
from speech_tasks.feature_store import Clip
from speech_tasks.provenance import fingerprint_task
from speech_tasks.suite import (
    FIRST,
    TASKS,
    ErrorValues,
    Evaluation,
    ScoreValues,
    TaskResult,
    TaskValues,
    build_tasks,
    evaluate,
    find_materials,
    find_tasks,
)
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, Material, score_ratio
from tests.evaluation_cases import LoudnessTask, make_score
from tests.speech_cases import FakeCorpus, spectral_states, utterance

CORPUS = FakeCorpus({"test": [utterance(f"u{i}", 4000 + 640 * i) for i in range(5)]}, name="some", hash="1")
LONGER = FakeCorpus({"test": CORPUS.splits["test"][1:]}, name="other", hash="2")


# What is said of the audio


@pytest.mark.parametrize(("name", "synthesised"), [("nestling-interviews", False), ("read aloud", True)])
def test_audio_is_called_synthesised_if_it_is_whatever_its_name(name, synthesised):
    corpus = FakeCorpus(CORPUS.splits, name=name, hash="3", synthesised=synthesised)
    found = evaluate("e", spectral_states, [LoudnessTask("phones", corpus, "PER")])
    stored = json.loads(json.dumps([result.to_dict() for result in found.results]))
    again = Evaluation("e", tuple(map(TaskResult.from_dict, stored)), 1.0)
    wanted = "Synthesised speech: never" if synthesised else "Splits, sizes and heads of our own: never"
    for evaluation in (found, again):
        assert Comparison([Entry("e", "e", "0", 1, 1, evaluation)]).caveat.startswith(wanted)


# Names


def test_tasks_are_found_by_group_once_and_in_order():
    assert find_tasks(["first"]) == ["phones", "keywords", "intent", "verification"]
    assert find_tasks(["all"]) == list(TASKS)
    assert find_tasks(["queries", "intent", "phones", "intent"]) == ["phones", "intent", "queries"]
    assert find_tasks(["slots", "first"]) == [*FIRST, "slots"]
    assert find_tasks([]) == []


def test_a_task_that_is_nearly_named_is_suggested():
    message = "no task `keyword`; did you mean `keywords`? there are phones, keywords, intent, verification, speakers"
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        find_tasks(["phones", "keyword"])
    with pytest.raises(ValueError, match=r"^no task `xyz`; there are .*queries, first, all$"):
        find_tasks(["xyz"])


def test_a_material_is_opened_once_for_all_its_tasks():
    assert find_materials(["phones", "verification", "slots", "speakers"]) == ["sentences", "voices", "commands"]
    assert sorted(find_materials(list(TASKS))) == sorted(materials.RECIPES)  # none is made for nothing


def test_each_task_is_built_of_its_material(monkeypatch):
    given = {name: Material(CORPUS, scored=name) for name in find_materials(list(TASKS))}
    for name, (_, material) in TASKS.items():
        monkeypatch.setitem(suite.TASKS, name, (lambda m, name=name: (name, m.scored), material))
    assert build_tasks(["speakers", "keywords"], given) == [("speakers", "voices"), ("keywords", "keywords")]
    assert dict(build_tasks(list(TASKS), given)) == {name: material for name, (_, material) in TASKS.items()}


# One encoder


def test_each_clip_is_encoded_once_for_all_tasks():
    heard, shown, told = [], [], []

    def encode(wave, lengths):
        heard.append(len(wave))
        return spectral_states(wave, lengths)

    tasks = [LoudnessTask("phones", CORPUS, "PER"), LoudnessTask("keywords", CORPUS, "KS accuracy")]
    tasks.append(LoudnessTask("intent", LONGER, "IC accuracy"))
    evaluation = evaluate(
        "e",
        encode,
        tasks,
        on_encode=lambda done, total: shown.append((done, total)),
        on_task=lambda name: told.append(f"{name} begins"),
        on_result=lambda result: told.append(f"{result.task} ends"),
    )
    assert sum(heard) == 5 + 4
    assert shown[-1] == (9, 9)
    assert told == [f"{task.name} {what}" for task in tasks for what in ("begins", "ends")]
    assert [task.calls for task in tasks] == [1, 1, 1]
    assert [result.fingerprint for result in evaluation.results] == [fingerprint_task(task) for task in tasks]
    assert [result.audio for result in evaluation.results] == [("some 1",), ("some 1",), ("other 2",)]


def test_a_score_is_of_the_encoder_that_was_given():
    tasks = [LoudnessTask("phones", CORPUS, "PER", threshold=0.5)]  # states are scaled to a root mean square of 1
    loud = evaluate("loud", spectral_states, tasks)
    quiet = evaluate("quiet", lambda wave, lengths: [-x for x in spectral_states(wave, lengths)], tasks)
    assert (loud.find("PER", IN_DOMAIN).value, quiet.find("PER", IN_DOMAIN).value) == (100, 0)


def test_a_result_is_known_before_the_next_task_begins():
    known = []

    class Broken(LoudnessTask):
        def score(self, _):
            raise RuntimeError("broken")

    tasks = [LoudnessTask("phones", CORPUS, "PER"), Broken("keywords", CORPUS, "KS accuracy")]
    with pytest.raises(RuntimeError, match="broken"):
        evaluate("e", spectral_states, tasks, on_result=known.append)
    assert [result.task for result in known] == ["phones"]


# On the disk


def test_results_come_back_from_json_as_they_were():
    moves = dict(zip("abcdefgh", np.random.default_rng(0).normal(0, 2, 8), strict=True))
    seeds = (30.0, 30.5)
    clips = [Clip(CORPUS, u, "clean") for u in CORPUS.utterances("test")]
    tallies = np.random.default_rng(1).integers(1, 9, (2, len(clips), 2)).astype(float)
    tallies[..., 1] = tallies[0, :, 1]
    scores = (
        make_score("PER", 30.25, moves, seeds=seeds, shared={"x": 0.5}),
        score_ratio("PER", OUT_OF_DOMAIN, tallies, clips, settings={"learning rate": 0.1}),
    )
    result = TaskResult("phones", "f0", ("some 1", "other 2"), scores, 12.5)
    first = Evaluation("mine", (result, TaskResult("keywords", "f1", (), (make_score("KS accuracy", 90),), 1.0)), 4.0)
    again = Evaluation.from_dict(json.loads(json.dumps(first.to_dict())))
    assert (again.name, again.encode_seconds, again.task_seconds) == ("mine", 4.0, {"phones": 12.5, "keywords": 1.0})
    assert [(r.task, r.fingerprint, r.audio) for r in again.results] == [
        ("phones", "f0", ("some 1", "other 2")),
        ("keywords", "f1", ()),
    ]
    assert len(again.scores) == 3
    for one, other in zip(first.scores, again.scores, strict=True):
        assert (one.metric, one.condition, one.value) == (other.metric, other.condition, other.value)
        assert (one.seeds, one.settings) == (other.seeds, other.settings)
        assert one.half_interval == pytest.approx(other.half_interval, rel=1e-5)
        assert one.difference(other)[1] == pytest.approx(0, abs=1e-5)
    kept = again.scores[1].errors
    assert kept.voices == scores[1].errors.voices
    np.testing.assert_array_equal(kept.tallies, tallies)


def test_who_is_unknown_and_what_has_no_bound_come_back():
    clips = [Clip(CORPUS, utterance(f"u{i}", speaker=name), "clean") for i, name in enumerate(["ann", None])]
    tallies = np.array([[[0.25, 1], [1 / 3, 1]]])
    score = score_ratio("PER", IN_DOMAIN, tallies[:, :1], clips[:1])
    (stored,) = TaskResult("phones", "f", (), (score,), 1.0).to_dict()["scores"]
    assert stored["half_interval"] is None  # one utterance says nothing of chance
    score = score_ratio("PER", IN_DOMAIN, tallies, clips)
    stored = json.loads(json.dumps(TaskResult("phones", "f", (), (score,), 1.0).to_dict()))
    (kept,) = stored["scores"]
    assert kept["half_interval"] == pytest.approx(score.half_interval, rel=1e-4)
    assert kept["errors"]["speaker_of"] == [0, -1]
    assert kept["errors"]["added"] == [[0.25, 0.3333]]
    (again,) = TaskResult.from_dict(stored).scores
    assert again.errors.voices.speakers == ("ann", None)


def test_results_that_do_not_say_who_spoke_are_of_a_program():
    result = TaskResult("phones", "f", (), (make_score("PER", 30),), 1.0)
    stored = result.to_dict()
    del stored["synthesised"]
    assert result.synthesised
    assert TaskResult.from_dict(stored).synthesised
    assert TaskValues("phones", "f", (), 1.0, ()).synthesised


GIVEN = {"utterances": ("u", "v"), "speakers": ("a",), "speaker_of": (0, -1), "added": ((1, 2),), "of": (3, 4)}
COUNTS = "speaker_of, of and each of added must have 2 entries, as many as utterances"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker_of": (0,)}, COUNTS),
        ({"of": (3, 4, 5)}, COUNTS),
        ({"added": ((1, 2), (1,))}, COUNTS),
        ({"added": ()}, COUNTS),
        ({"speaker_of": (-1, 1)}, "speaker_of names speaker 1 of 1"),
    ],
)
def test_stored_errors_must_agree(changes, message):
    assert ErrorValues(**GIVEN).speaker_of == (0, -1)
    nobody = dict.fromkeys(("utterances", "speakers", "speaker_of", "of"), ())
    assert ErrorValues(**nobody, added=((),)).speakers == ()
    with pytest.raises(ValueError, match=f"^{message}$"):
        ErrorValues(**{**GIVEN, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "PERR"}, r"^no metric `PERR`; did you mean `PER`\? there are PER, KS accuracy, "),
        ({"seeds": ()}, r"^seeds is empty$"),
    ],
)
def test_stored_scores_are_of_known_metrics_and_of_some_head(changes, message):
    given = {"metric": "PER", "condition": IN_DOMAIN, "value": 1.0, "half_interval": None, "seeds": (1.0,)}
    rest = {"settings": {}, "count": 1, "moves": {}, "shared": {}}
    assert ScoreValues(**given, **rest).errors is None
    with pytest.raises(ValueError, match=message):
        ScoreValues(**{**given, **changes}, **rest)


def test_audio_is_synthesised_if_any_of_it_is():
    task = LoudnessTask("phones", CORPUS, "PER")
    recorded = FakeCorpus(CORPUS.splits, name="read", hash="3", synthesised=False)
    task.clips = [Clip(recorded, u, "clean") for u in recorded.utterances("test")][:2] + task.clips[2:]
    (result,) = evaluate("e", spectral_states, [task]).results
    assert result.synthesised


def test_a_score_is_found_by_metric_and_condition():
    scores = (make_score("PER", 30), make_score("PER", 40, condition=OUT_OF_DOMAIN))
    evaluation = Evaluation("e", (TaskResult("phones", "f", (), scores, 1.0),), 0.0)
    assert evaluation.find("PER", OUT_OF_DOMAIN).value == 40
    assert evaluation.find("PER", IN_DOMAIN).value == 30
    assert evaluation.find("EER", IN_DOMAIN) is None
