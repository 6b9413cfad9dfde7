"""The two aggregates reproduce what was published, and refuse rows that cannot be compared."""

import math

import pytest

from speech_tasks.aggregates import METRICS, mean_of_tasks, score_between

COLUMNS = (
    "PER", "KS accuracy", "IC accuracy", "SID accuracy", "ER accuracy", "WER", "MTWV",
    "slot F1", "slot CER", "EER", "DER",
)  # fmt: skip
# As published, MTWV times 100; the last number is the published overall score.
PUBLISHED = {
    "HuBERT Base": (5.41, 96.30, 98.34, 81.42, 64.92, 6.42, 7.36, 88.53, 25.20, 5.11, 5.88, 80.80),
    "LightHuBERT Small": (6.60, 96.07, 98.23, 69.70, 64.12, 8.33, 7.64, 87.58, 26.90, 5.42, 5.85, 79.11),
    "DistilHuBERT": (16.27, 95.98, 94.99, 73.54, 63.02, 13.37, 5.11, 82.57, 35.59, 8.55, 6.19, 75.93),
    "DPHuBERT": (9.67, 96.36, 97.92, 76.83, 63.16, 10.47, 6.93, 86.86, 28.26, 5.84, 5.92, 78.90),
    "DPHuBERT 100 h": (10.02, 96.36, 97.42, 73.37, 62.78, 11.38, 6.34, 84.83, 33.03, 6.25, 6.03, 77.67),
    "STaRHuBERT": (8.16, 96.27, 97.55, 77.58, 63.01, 9.35, 6.88, 87.94, 25.31, 5.39, 6.05, 79.54),
    "DPWavLM": (8.22, 96.27, 98.58, 82.11, 65.24, 10.19, 8.74, 87.68, 26.11, 5.98, 5.53, 80.24),
}
BOTTOM = {"PER": 80.0, "KS accuracy": 10.0, "slot F1": 60.0, "slot CER": 50.0, "MTWV": -0.1}
TOP = {"PER": 30.0, "KS accuracy": 90.0, "slot F1": 80.0, "slot CER": 30.0, "MTWV": 0.3}
MIDDLE = {"PER": 40.0, "KS accuracy": 70.0, "slot F1": 65.0, "slot CER": 20.0, "MTWV": 0.2}


def row(numbers):
    values = dict(zip(COLUMNS, numbers, strict=True))
    return values | {"MTWV": values["MTWV"] / 100}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_overall_scores_are_reproduced(name):
    *numbers, overall = PUBLISHED[name]
    assert mean_of_tasks(row(numbers)) == pytest.approx(overall, abs=0.0051)  # published to two places


def test_the_mean_is_over_what_ran():
    assert mean_of_tasks({"PER": 20.0, "MTWV": 0.5}) == pytest.approx((80 + 50) / 2)
    assert mean_of_tasks({"slot F1": 90.0, "slot CER": 30.0, "WER": 130.0}) == pytest.approx((90 + 70 - 30) / 3)
    assert mean_of_tasks({"MTWV": -2.0}) == pytest.approx(-200)


def test_every_metric_says_what_it_is():
    assert set(COLUMNS) == set(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.unit == ("" if name == "MTWV" else "%")
        best, worse = (1.0 if name == "MTWV" else 100.0 * metric.higher_is_better), 0.5
        assert metric.to_points(best) == 100
        assert metric.to_points(worse) < 100
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == [
        "PER", "EER", "WER", "slot CER", "DER",
    ]  # fmt: skip


def test_the_score_by_hand():
    shares = {"PER": 40 / 50, "KS": 60 / 80, "SF": (5 / 20 + 30 / 20) / 2, "QbE": 0.3 / 0.4}
    assert score_between(MIDDLE, BOTTOM, TOP) == pytest.approx(1000 * sum(shares.values()) / 4)


def test_the_lines_score_0_and_1000_and_beyond_them_it_goes_on():
    assert score_between(BOTTOM, BOTTOM, TOP) == 0
    assert score_between(TOP, BOTTOM, TOP) == 1000
    assert score_between({"PER": 90.0}, {"PER": 80.0}, {"PER": 30.0}) == pytest.approx(-200)
    assert score_between({"PER": 20.0}, {"PER": 80.0}, {"PER": 30.0}) == pytest.approx(1200)


def test_rows_with_different_metrics_are_refused():
    bottom = {name: value for name, value in BOTTOM.items() if name != "slot F1"}
    top = {name: value for name, value in TOP.items() if name not in ("PER", "MTWV")}
    message = "bottom lacks slot F1; top lacks PER, MTWV; measure or drop them"
    with pytest.raises(ValueError, match=message):
        score_between(MIDDLE, bottom, top)
    with pytest.raises(ValueError, match="values lacks WER"):
        score_between(MIDDLE, BOTTOM | {"WER": 50.0}, TOP | {"WER": 10.0})


@pytest.mark.parametrize("top", [50.0, 60.0])
def test_a_top_line_no_better_than_the_bottom_line_is_refused(top):
    with pytest.raises(ValueError, match=rf"not in slot CER \(50 and {top:g}\)"):
        score_between(MIDDLE, BOTTOM, TOP | {"slot CER": top})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "at least one metric, got none"),
        ({"slot-F1": 90.0}, r"no metric `slot-F1`; did you mean `slot F1`\? there are PER, KS"),
        ({"STOI": 90.0}, "no metric `STOI`; there are PER, KS accuracy"),
        ({"EER": math.nan}, "EER must be a finite number, got nan"),
        ({"EER": math.inf}, "EER must be a finite number, got inf"),
        ({"MTWV": 7.36}, "MTWV=7.36 is better than perfect; MTWV is at most 1"),
        ({"WER": -1.0}, "WER=-1 is better than perfect"),
        ({"SID accuracy": 101.0}, "SID accuracy=101 is better than perfect"),
    ],
)
def test_values_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        mean_of_tasks(values)
    with pytest.raises(ValueError, match=message):
        score_between(values, values, values)
