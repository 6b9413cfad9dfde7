import numpy as np
import pytest

from speech_tasks.mix import choose_mix, held_out_agreement, judge_mixes, spearman

NAMES = [f"encoder {i}" for i in range(12)]
SUITE = dict(zip(NAMES, range(12), strict=True))


def points(*values):
    return dict(zip(NAMES, map(float, values), strict=True))


GOOD = points(*range(12))
SWAPPED = points(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10)
BAD = points(*reversed(range(12)))
UPPER = points(0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6)
LOWER = points(0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6)


def seconds(**costs):
    return {name: {"hidden states of sentences": 10.0, name: cost} for name, cost in costs.items()}


# Rank correlation


def test_spearman_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman([1, 2, 3], [5, 5, 5]) == 0


def test_spearman_with_ties_is_the_correlation_of_mean_ranks():
    x, y = np.random.default_rng(0).integers(0, 5, (2, 30))
    ranks = [[(v < value).sum() + (v == value).sum() / 2 for value in v] for v in (x, y)]
    assert spearman(x, y) == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_spearman_takes_rows_together():
    x, y = np.random.default_rng(1).normal(size=(2, 7, 9))
    assert spearman(x, y) == pytest.approx([float(spearman(a, b)) for a, b in zip(x, y, strict=True)])


# The choice


def test_the_cheapest_that_ranks_well_is_chosen():
    probes = {"good": GOOD, "swapped": SWAPPED, "bad": BAD}
    assert choose_mix(SUITE, probes, seconds(good=5, swapped=4, bad=1)).probes == ("swapped",)
    assert choose_mix(SUITE, probes, seconds(good=5, swapped=6, bad=1)).probes == ("good",)
    assert choose_mix(SUITE, probes, seconds(good=5, swapped=4, bad=1), least=0.99).probes == ("good",)


def test_of_mixes_that_cost_the_same_the_closest_is_chosen():
    assert choose_mix(SUITE, {"swapped": SWAPPED, "good": GOOD}, seconds(swapped=2, good=2)).probes == ("good",)


def test_probes_that_see_half_each_are_chosen_together():
    chosen = choose_mix(SUITE, {"lower": LOWER, "upper": UPPER}, seconds(lower=1, upper=1), least=0.99)
    assert chosen.probes == ("lower", "upper")
    assert chosen.correlation == chosen.lowest == pytest.approx(1)
    assert chosen.seconds == 12.0  # the hidden states are computed once


def test_leaving_out_the_one_encoder_that_stands_out_is_seen():
    mostly_noise = points(5, 2, 8, 1, 9, 3, 7, 0, 6, 4, 5.5, 100)
    mix = judge_mixes(SUITE, {"noise": mostly_noise}, seconds(noise=1))[0]
    suite, found = np.arange(11), np.array(list(mostly_noise.values()))[:11]
    assert mix.lowest <= spearman(suite, found) < mix.correlation
    assert mix.low < mix.correlation < mix.high


def test_all_mixes_come_cheapest_first():
    probes = {"good": GOOD, "swapped": SWAPPED, "bad": BAD}
    mixes = judge_mixes(SUITE, probes, seconds(good=5, swapped=4, bad=1))
    assert len({mix.probes for mix in mixes}) == len(mixes) == 7
    assert [mix.seconds for mix in mixes] == sorted(mix.seconds for mix in mixes)
    assert mixes[0].probes == ("bad",)
    assert mixes[0].correlation == pytest.approx(-1)
    assert next(mix for mix in mixes if mix.probes == ("good",)).low == pytest.approx(1)


def test_when_no_mix_is_good_enough_the_nearest_is_named():
    with pytest.raises(ValueError, match=r"the nearest, swapped, has 0\.9.*add probes"):
        choose_mix(SUITE, {"swapped": SWAPPED, "bad": BAD}, seconds(swapped=1, bad=1), least=0.99)


def test_a_chosen_mix_ranks_encoders_it_has_not_seen():
    assert held_out_agreement(SUITE, {"good": GOOD}, seconds(good=1)) == 1
    found = held_out_agreement(SUITE, {"swapped": SWAPPED}, seconds(swapped=1))
    assert found == pytest.approx(1 - 6 * 2 / (12 * 11))  # six pairs of neighbours are the wrong way round


@pytest.mark.parametrize(
    ("suite", "probes", "message"),
    [
        (dict(list(SUITE.items())[:4]), {"good": GOOD}, "5 encoders or more; got 1 and 4"),
        (SUITE, {}, "one probe or more"),
        (
            SUITE,
            {"good": {**GOOD, "another": 1.0}},
            "the probe `good` must score the same encoders; they differ in another",
        ),
        (SUITE, {"good": {**GOOD, NAMES[0]: float("nan")}}, "those of good are not"),
        (SUITE, {"untimed": GOOD}, "the seconds of untimed are missing"),
    ],
)
def test_numbers_that_do_not_fit_are_explained(suite, probes, message):
    with pytest.raises(ValueError, match=message):
        choose_mix(suite, probes, seconds(good=1))
