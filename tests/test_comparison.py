"""Side by side: verdicts follow paired intervals, aggregates equal sums by hand, and what is missing is left out."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from speech_tasks.comparison import (
    MEAN,
    Comparison,
    describe_metric,
    find_reference,
    find_unlike,
    format_value,
)
from speech_tasks.feature_store import Clip
from speech_tasks.suite import Evaluation
from speech_tasks.task import IN_DOMAIN, OUT_OF_DOMAIN, score_ratio
from tests.evaluation_cases import make_entry, make_score
from tests.speech_cases import FakeCorpus, utterance


def moved(seed, deviation, num_speakers=40):
    """How far each of some speakers moves a number whose deviation is given."""
    moves = np.random.default_rng(seed).normal(0, 1, num_speakers)
    moves *= deviation / np.sqrt((moves**2).sum())
    return {f"speaker {i}": move for i, move in enumerate(moves)}


def added(*parts):
    return {name: sum(part[name] for part in parts) for name in parts[0]}


SHARED, OWN = moved(0, 5.0), moved(1, 0.1)
WIDTH = student.ppf(0.975, 39)


def cell(metric, value, moves, base=40.0):
    """Of an encoder beside one that the speakers move as `SHARED` says."""
    entries = [
        make_entry("r", [make_score(metric, base, SHARED)]),
        make_entry("e", [make_score(metric, value, moves)]),
    ]
    return Comparison(entries).cell(entries[1], metric, IN_DOMAIN)


# Verdicts


@pytest.mark.parametrize(("metric", "verdict"), [("PER", "worse"), ("EER", "worse"), ("KS accuracy", "better")])
def test_a_difference_that_speakers_do_not_move_is_real_and_has_the_metrics_direction(metric, verdict):
    found = cell(metric, 41.0, added(SHARED, OWN))
    assert found.verdict == verdict
    assert found.difference == pytest.approx(1.0)
    assert found.half_interval == pytest.approx(0.1 * WIDTH)
    assert found.score.half_interval > 8  # far more than the difference: intervals of each alone would hide it
    other = {"better": "worse", "worse": "better"}[verdict]
    assert cell(metric, 39.0, added(SHARED, OWN)).verdict == other


def test_the_same_difference_is_not_real_when_other_speakers_move_it():
    found = cell("PER", 41.0, dict(zip(SHARED, reversed(SHARED.values()), strict=True)))
    assert found.verdict == ""
    apart = np.subtract(list(SHARED.values()), list(reversed(SHARED.values())))
    assert found.half_interval == pytest.approx(WIDTH * np.sqrt((apart**2).sum()))


def test_a_difference_as_large_as_its_interval_is_not_real():
    moves = added(SHARED, moved(2, 1 / WIDTH))
    assert cell("PER", 41.0, moves).half_interval == pytest.approx(1.0)
    assert cell("PER", 40.999, moves).verdict == ""
    assert cell("PER", 41.001, moves).verdict == "worse"
    same = [make_entry(name, {"PER": 40}) for name in "re"]  # which nothing moves
    assert Comparison(same).cell(same[1], "PER", IN_DOMAIN).verdict == ""


def test_nothing_is_real_where_one_speaker_judges():
    found = cell("PER", 90.0, {"speaker 0": 0.0})
    assert (found.half_interval, found.verdict) == (math.inf, "")


def test_heads_that_disagree_widen_the_difference():
    """Students' t of the paired differences of three seeds, where speakers move nothing."""
    still = dict.fromkeys(SHARED, 0.0)
    entries = [
        make_entry("r", [make_score("PER", 40.0, still, seeds=(39.0, 40.0, 41.0))]),
        make_entry("e", [make_score("PER", 42.0, still, seeds=(40.0, 42.5, 43.5))]),
    ]
    found = Comparison(entries).cell(entries[1], "PER", IN_DOMAIN)
    expected = ttest_rel((40.0, 42.5, 43.5), (39.0, 40.0, 41.0)).confidence_interval()
    assert found.half_interval == pytest.approx((expected.high - expected.low) / 2)


def test_the_reference_is_compared_with_nobody():
    entries = [make_entry("a", {"PER": 10}), make_entry("b", {"PER": 30})]
    comparison = Comparison(entries, "b")
    assert comparison.reference is entries[1]
    assert comparison.cell(entries[1], "PER", IN_DOMAIN).difference is None
    assert comparison.cell(entries[1], "PER", IN_DOMAIN).verdict == ""
    assert comparison.cell(entries[0], "PER", IN_DOMAIN).difference == -20
    assert comparison.cell(entries[0], "PER", IN_DOMAIN).verdict == "better"


def test_what_one_of_two_lacks_is_not_compared():
    entries = [make_entry("r", {"PER": 10}), make_entry("e", {"PER": 30, "EER": 5})]
    comparison = Comparison(entries)
    assert comparison.cell(entries[0], "EER", IN_DOMAIN) is None
    alone = comparison.cell(entries[1], "EER", IN_DOMAIN)
    assert (alone.score.value, alone.difference, alone.verdict) == (5, None, "")
    assert comparison.cell(entries[1], "PER", OUT_OF_DOMAIN) is None


# One number


ROWS = {
    "log-mel": {"PER": 60, "KS accuracy": 50, "slot F1": 20, "slot CER": 80, "MTWV": 0.1},
    "mine": {"PER": 40, "KS accuracy": 80, "slot F1": 50, "slot CER": 70, "MTWV": 0.2},
    "top": {"PER": 20, "KS accuracy": 90, "slot F1": 80, "slot CER": 40, "MTWV": 0.5},
}


def compare(rows=ROWS, reference="top", sources=None):
    entries = [make_entry(name, scores, (sources or {}).get(name)) for name, scores in rows.items()]
    return Comparison(entries, reference), {entry.name: entry for entry in entries}


def test_the_mean_of_tasks_is_in_points():
    comparison, entries = compare()
    means = {name: comparison.cell(entry, MEAN, IN_DOMAIN).score.value for name, entry in entries.items()}
    assert means["mine"] == pytest.approx((60 + 80 + 50 + 30 + 20) / 5)
    assert means["top"] == pytest.approx((80 + 90 + 80 + 60 + 50) / 5)
    mine = comparison.cell(entries["mine"], MEAN, IN_DOMAIN)
    assert mine.difference == pytest.approx(48 - 72)
    assert mine.verdict == "worse"  # more points are better


def test_what_a_speaker_moves_in_two_metrics_adds_up_in_their_mean():
    # Who makes more errors also makes fewer answers right: in points both go the same way.
    opposite = {name: -move for name, move in SHARED.items()}
    scores = [make_score("PER", 40, SHARED), make_score("KS accuracy", 70, opposite)]
    entry = make_entry("e", scores)
    found = Comparison([entry]).cell(entry, MEAN, IN_DOMAIN).score
    assert found.value == pytest.approx(65)
    assert found.half_interval == pytest.approx(scores[0].half_interval)
    entry = make_entry("e", [make_score("PER", 40, SHARED), make_score("KS accuracy", 70, SHARED)])
    assert Comparison([entry]).cell(entry, MEAN, IN_DOMAIN).score.half_interval == pytest.approx(0, abs=1e-9)
    others = {f"other {name}": move for name, move in SHARED.items()}
    entry = make_entry("e", [make_score("PER", 40, SHARED), make_score("KS accuracy", 70, others)])
    half = Comparison([entry]).cell(entry, MEAN, IN_DOMAIN).score.half_interval
    assert half == pytest.approx(scores[0].half_interval / math.sqrt(2))


def test_the_mean_is_in_points_of_a_hundred_for_mtwv_too():
    entry = make_entry("e", [make_score("MTWV", 0.4, {name: move / 100 for name, move in SHARED.items()})])
    assert Comparison([entry]).cell(entry, MEAN, IN_DOMAIN).score.half_interval == pytest.approx(5 * WIDTH)


def said_by(speakers):
    """A clip of each of these speakers."""
    said = [utterance(f"u{i}", speaker=name) for i, name in enumerate(speakers)]
    return [Clip(FakeCorpus({"test": said}), u, "clean") for u in said]


def test_two_metrics_of_the_same_heads_have_their_chance_in_common():
    """Student's t over three seeds, where what a seed gives in one metric of slots it gives in the other as well."""
    found, wrong = np.array([[40, 50, 66], [47, 53, 59]]), np.array([[61, 50, 38], [58, 50, 45]])

    def score(metric, seeds):  # four speakers who are all alike
        return score_ratio(metric, IN_DOMAIN, np.array([[[x, 100]] * 4 for x in seeds], float), said_by("abcd"))

    pairs = zip("re", found, wrong, strict=True)
    entries = [make_entry(name, [score("slot F1", f1), score("slot CER", cer)]) for name, f1, cer in pairs]
    stored = json.loads(json.dumps([entry.evaluation.to_dict() for entry in entries]))
    points = (found + 100 - wrong) / 2
    expected = ttest_rel(points[1], points[0]).confidence_interval()
    again = replace(entries[1], evaluation=Evaluation.from_dict(stored[1]))
    for other in (entries[1], again):
        cell = Comparison([entries[0], other]).cell(other, MEAN, IN_DOMAIN)
        assert cell.half_interval == pytest.approx((expected.high - expected.low) / 2)


def test_speakers_are_counted_where_all_that_a_mean_is_of_is_judged_by_speakers():
    right = np.stack([np.arange(6) % 2, np.ones(6)], axis=1)[None].astype(float)

    def counted(*speakers):
        clips = map(said_by, speakers)
        scores = [score_ratio(m, IN_DOMAIN, right, c) for m, c in zip(("PER", "KS accuracy"), clips, strict=True)]
        (encoder,) = Comparison([make_entry("e", scores)]).to_dict()["encoders"]
        return [score["speakers"] for score in encoder["scores"]]

    assert counted("aabbcc", "abcdef") == [3, 6, 3]
    assert counted("aaaaaa", "aaaaaa") == [None, None, None]
    assert counted("aabbcc", "aaaaaa") == [3, None, None]


@pytest.mark.parametrize(
    ("speakers", "who"),
    [
        (["ann"] * 3, "of this reader alone, ann"),
        ([None] * 3, "of unknown speakers"),
        (["ann", None, None], "of one known speaker, ann, and of utterances that name none"),
    ],
)
def test_it_is_said_who_is_judged_by_where_there_are_no_two_speakers(speakers, who):
    right = np.ones((1, 3, 2))
    entry = make_entry("e", [score_ratio("PER", IN_DOMAIN, right, said_by(speakers))])
    assert Comparison([entry]).remarks == (
        f"PER in domain is {who}: its interval is over utterances, and says nothing of other voices.",
    )


def test_nothing_is_said_of_scores_that_several_speakers_judge():
    right = np.ones((1, 3, 2))
    entry = make_entry("e", [score_ratio("PER", IN_DOMAIN, right, said_by("aab")), make_score("EER", 5)])
    assert Comparison([entry]).remarks == ()


def test_what_is_no_number_is_neither_better_nor_worse():
    for values in ((5.0, math.nan), (math.nan, 5.0)):
        entries = [make_entry(name, {"EER": value}) for name, value in zip("re", values, strict=True)]
        assert Comparison(entries).cell(entries[1], "EER", IN_DOMAIN).verdict == ""


def test_wordings_are_spoken_of_where_commands_are_synthesised():
    entry = make_entry("e", {"PER": 1, "IC accuracy": 2})
    first, second = entry.evaluation.results
    results = (first, replace(second, synthesised=False))  # sentences by a program, commands by people
    assert Comparison([replace(entry, evaluation=Evaluation("e", results, 3.0))]).remarks == ()
    assert Comparison([make_entry("e", {"slot CER": 4, "PER": 1, "IC accuracy": 2, "slot F1": 3})]).remarks == (
        "IC accuracy, slot CER, slot F1: all wordings of the synthesised commands occur in train; only voices are new.",
    )


def test_it_is_said_what_chance_marks_where_differences_are_many():
    few = [make_entry(name, {"PER": 1, "EER": 2}) for name in "ab"]
    assert Comparison(few).remarks == ()
    many = [make_entry(name, {"PER": 1, "EER": 2, "MTWV": 0.5, "WER": 3, "KS accuracy": 4}) for name in "abcde"]
    for entries, number in ((many, 20), (many[:3], 10)):
        assert Comparison(entries).remarks == (
            f"Of {number} differences, about 1 (5 %) are marked by chance alone where nothing differs.",
        )
    (said,) = Comparison([*many[:3], make_entry("f", {"PER": 1, "EER": 2})]).remarks  # what it lacks is no difference
    assert said.startswith("Of 12 differences, about 1 ")


def test_the_score_is_between_log_mel_and_the_reference():
    comparison, entries = compare()
    assert comparison.score(entries["log-mel"], IN_DOMAIN) == pytest.approx(0)
    assert comparison.score(entries["top"], IN_DOMAIN) == pytest.approx(1000)
    # PER 20 of 40, KS 30 of 40, slots the mean of 30 of 60 and 10 of 40, MTWV 0.1 of 0.4; slots are one task
    expected = 1000 * (0.5 + 0.75 + (0.5 + 0.25) / 2 + 0.25) / 4
    assert comparison.score(entries["mine"], IN_DOMAIN) == pytest.approx(expected)
    assert comparison.score(entries["mine"], OUT_OF_DOMAIN) is None


def test_the_score_wants_log_mel_and_a_reference_that_is_better_everywhere():
    def scored(comparison, entries):
        return comparison.score(entries["mine"], IN_DOMAIN) is not None

    assert scored(*compare())
    assert not scored(*compare(sources={"log-mel": "./log-mel"}))  # a folder of that name
    assert scored(*compare(sources={"top": "path/to/top"}))
    assert not scored(*compare({name: ROWS[name] for name in ("mine", "top")}))
    assert not scored(*compare(reference="log-mel"))
    assert not scored(*compare({**ROWS, "top": {**ROWS["top"], "MTWV": 0.05}}))
    assert not scored(*compare({**ROWS, "top": {**ROWS["top"], "PER": 60}}))


def test_aggregates_are_over_what_all_encoders_have():
    rows = {
        "log-mel": {"PER": 60, "KS accuracy": 50, "WER": 90, "WER (beam)": 80, "EER": math.nan},
        "mine": {"PER": 40, "KS accuracy": 80, "IC accuracy": 5, "WER (beam)": 50, "EER": 10},
        "top": {"PER": 20, "KS accuracy": 90, "IC accuracy": 95, "WER": 20, "WER (beam)": 10, "EER": 5},
    }
    comparison, entries = compare(rows)
    assert comparison.counted(IN_DOMAIN) == ("PER", "KS accuracy")
    assert comparison.cell(entries["mine"], MEAN, IN_DOMAIN).score.value == pytest.approx((60 + 80) / 2)
    assert comparison.score(entries["mine"], IN_DOMAIN) == pytest.approx(1000 * (0.5 + 0.75) / 2)
    assert comparison.counted(OUT_OF_DOMAIN) == ()
    assert comparison.cell(entries["mine"], MEAN, OUT_OF_DOMAIN) is None


def test_each_condition_has_aggregates_of_its_own():
    def entry(name, inside, outside):
        return make_entry(name, [*inside, *(make_score("PER", value, condition=OUT_OF_DOMAIN) for value in outside)])

    a = entry("a", [make_score("PER", 20), make_score("EER", 10)], [50])
    b = entry("b", [make_score("PER", 30), make_score("EER", 20)], [60])
    comparison = Comparison([a, b])
    assert comparison.conditions == (IN_DOMAIN, OUT_OF_DOMAIN)
    assert comparison.counted(IN_DOMAIN) == ("PER", "EER")
    assert comparison.counted(OUT_OF_DOMAIN) == ("PER",)
    assert comparison.cell(b, MEAN, OUT_OF_DOMAIN).score.value == 40
    assert comparison.cell(b, MEAN, IN_DOMAIN).score.value == 75
    assert Comparison([make_entry("c", {"PER": 1})]).conditions == (IN_DOMAIN,)


# How it is shown


def test_metrics_are_in_the_order_of_the_suite():
    late = make_entry("late", {"MTWV": 0.3, "slot F1": 50, "slot CER": 40})
    early = make_entry("early", {"EER": 10, "PER": 30})
    assert Comparison([late, early]).metrics == ("PER", "EER", "slot F1", "slot CER", "MTWV")


def test_a_variant_has_the_unit_and_direction_of_its_kind():
    assert describe_metric("WER (beam)") == describe_metric("WER")
    assert (describe_metric("WER (beam)").unit, describe_metric("WER (beam)").higher_is_better) == ("%", False)
    assert (describe_metric(MEAN).unit, describe_metric(MEAN).higher_is_better) == ("points", True)


@pytest.mark.parametrize(
    ("name", "value", "shown", "signed"),
    [
        ("PER", 12.345, "12.3", "+12.3"),
        ("WER (beam)", -0.55001, "-0.6", "-0.6"),
        ("MTWV", 0.4567, "0.457", "+0.457"),
        (MEAN, 80.04, "80.0", "+80.0"),
        ("PER", math.inf, "∞", "∞"),
    ],
)
def test_a_value_has_as_many_digits_as_its_unit_deserves(name, value, shown, signed):
    assert format_value(name, value) == shown
    assert format_value(name, value, sign=True) == signed


def test_the_caveat_names_synthesised_speech():
    spoken, read = make_entry("a", {"PER": 1}), make_entry("b", {"PER": 1})
    recorded = tuple(replace(result, synthesised=False) for result in read.evaluation.results)
    read = replace(read, evaluation=replace(read.evaluation, results=recorded))
    assert Comparison([spoken]).caveat == Comparison([read, spoken]).caveat == "Synthesised speech: never SUPERB."
    assert Comparison([read]).caveat == "Splits, sizes and heads of our own: never SUPERB."


def test_json_holds_all_but_errors_by_utterance():
    comparison, _ = compare()
    text = json.dumps(comparison.to_dict(), allow_nan=False)
    assert "moves" not in text
    values = json.loads(text)
    assert values["reference"] == "top"
    assert values["metrics"]["MTWV"] == {"unit": "", "higher_is_better": True}
    assert values["metrics"]["PER"] == {"unit": "%", "higher_is_better": False}
    assert values["mean_is_over"] == {IN_DOMAIN: ["PER", "KS accuracy", "slot F1", "slot CER", "MTWV"]}
    assert [encoder["name"] for encoder in values["encoders"]] == ["log-mel", "mine", "top"]
    mine = values["encoders"][1]
    assert (mine["params"], mine["macs_1s"], mine["encode_seconds"]) == (1_000_000, 2_000_000_000, 3.0)
    assert mine["task_seconds"] == {"phones": 2.0, "keywords": 2.0, "slots": 2.0, "queries": 2.0}
    assert mine["score_from_log_mel_to_reference"][IN_DOMAIN] == pytest.approx(468.75)
    scores = {score["metric"]: score for score in mine["scores"]}
    assert list(scores) == [*values["metrics"]]
    assert (scores["PER"]["value"], scores["PER"]["difference"], scores["PER"]["verdict"]) == (40, 20, "worse")
    assert scores["PER"]["settings"] == {"learning rate": 1e-3}


def test_json_holds_half_intervals_where_they_have_a_bound():
    entries = [make_entry(name, [make_score("PER", 40, SHARED), make_score("EER", 5, {"one": 0.0})]) for name in "re"]
    values = json.loads(json.dumps(Comparison(entries).to_dict(), allow_nan=False))
    first, second = ({score["metric"]: score for score in e["scores"]} for e in values["encoders"])
    for each in (first, second):
        assert each["PER"]["half_interval"] == pytest.approx(5 * WIDTH)
        assert each["EER"]["half_interval"] is None
    halves = [second[metric]["difference_half_interval"] for metric in ("PER", "EER")]
    assert halves == [pytest.approx(0, abs=1e-9), None]
    assert first["PER"]["difference_half_interval"] is None


# What compares


def of_code(entry, **codes):
    """An entry some of whose tasks have other code."""
    results = tuple(replace(r, fingerprint=codes.get(r.task, r.fingerprint)) for r in entry.evaluation.results)
    return replace(entry, evaluation=replace(entry.evaluation, results=results))


def test_scores_of_other_code_than_the_last_are_found_and_refused():
    a, b, c = (make_entry(name, {"PER": 10, "KS accuracy": 90, "EER": 5}) for name in "abc")
    c = replace(c, evaluation=replace(c.evaluation, results=c.evaluation.results[:1]))  # phones alone
    assert find_unlike([a, b, c]) == []
    old = of_code(a, phones="old", keywords="old", verification="old")
    told = "phones of a are of others than those of c; keywords, verification of a are of others than those of b"
    assert "; ".join(map(str, find_unlike([old, b, c]))) == told
    with pytest.raises(
        ValueError, match=rf"^only scores of the same code, libraries and audio compare, and {told}; eva"
    ):
        Comparison([old, b, c])
    (last,) = find_unlike([a, of_code(b, phones="new")])
    assert (last.entry, last.tasks, last.newest) == (a, ("phones",), "b")


# Which is the reference


ENCODERS = [("small", "exports/small"), ("demo", "demo"), ("log-mel", "log-mel")]


def test_the_reference_is_found_by_name_or_source():
    assert find_reference(ENCODERS, None) == 0
    assert find_reference(ENCODERS, "demo") == 1
    assert find_reference(ENCODERS, "small") == find_reference(ENCODERS, "exports/small") == 0


def test_a_reference_that_is_not_there_is_named():
    with pytest.raises(
        ValueError,
        match=r"^the reference `dmo` is not among the encoders; did you mean `demo`\? there are small, demo, log-mel$",
    ):
        find_reference(ENCODERS, "dmo")
    with pytest.raises(
        ValueError, match=r"^the reference `x` is not among the encoders; there are small, demo, log-mel$"
    ):
        Comparison([make_entry(name, {"PER": 1}, source) for name, source in ENCODERS], "x")
