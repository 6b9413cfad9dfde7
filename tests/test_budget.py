"""The grammar of budgets: what each text means, and what a bad one is told."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.amounts import format_bytes, format_count
from search_spaces.budget import Bound, Budget
from search_spaces.costs import PARAMS, Cost
from search_spaces.space import SearchSpace

SPACE = SearchSpace.load("tiny")
MACS = Cost("macs", 1.0)
SIZE = Cost("size")


@pytest.mark.parametrize(
    ("text", "bound", "canonical"),
    [
        ("25M", Bound(PARAMS, 25_000_000), "params<=25M"),
        ("25m", Bound(PARAMS, 25_000_000), "params<=25M"),
        (" params <= 25 M ", Bound(PARAMS, 25_000_000), "params<=25M"),
        ("0.025G", Bound(PARAMS, 25_000_000), "params<=25M"),
        ("1.5e6", Bound(PARAMS, 1_500_000), "params<=1.5M"),
        ("61_234", Bound(PARAMS, 61_234), "params<=61_234"),
        ("999.9", Bound(PARAMS, 999), "params<=999"),
        ("params=24M..25M", Bound(PARAMS, 25_000_000, 24_000_000), "params=24M..25M"),
        ("24.5M .. 25M", Bound(PARAMS, 25_000_000, 24_500_000), "params=24.5M..25M"),
        ("10.2..12.9", Bound(PARAMS, 12, 11), "params=11..12"),
        ("100%", Bound(PARAMS, 3_033_760), "params<=3_033_760"),
        ("60%", Bound(PARAMS, 1_820_256), "params<=1_820_256"),
        ("50%..60%", Bound(PARAMS, 1_820_256, 1_516_880), "params=1_516_880..1_820_256"),
        ("macs<=2G@1s", Bound(MACS, 2_000_000_000), "macs<=2G@1s"),
        ("MACs<=2G@1000ms", Bound(MACS, 2_000_000_000), "macs<=2G@1s"),
        ("flops<=4G@1s", Bound(MACS, 2_000_000_000), "macs<=2G@1s"),
        ("flops<=5@1s", Bound(MACS, 2), "macs<=2@1s"),
        ("flops=3..5@1s", Bound(MACS, 2, 2), "macs=2..2@1s"),
        ("macs<=50%@1s", Bound(MACS, 109_890_192), "macs<=109_890_192@1s"),
        ("flops<=50%@1s", Bound(MACS, 109_890_192), "macs<=109_890_192@1s"),
        ("macs=1G..2G@0.5s", Bound(Cost("macs", 0.5), 2 * 10**9, 10**9), "macs=1G..2G@0.5s"),
        ("size<=50MB", Bound(SIZE, 50_000_000), "size<=50MB"),
        ("size<=50MiB", Bound(SIZE, 52_428_800), "size<=50MiB"),
        ("size<=12_345B", Bound(SIZE, 12_345), "size<=12_345B"),
        ("size<=50%", Bound(SIZE, 6_067_520), "size<=6_067_520B"),
        ("1e99", Bound(PARAMS, 1 << 62), "params<=4_611_686_018_427_387_904"),
    ],
)
def test_good_budgets(text, bound, canonical):
    budget = Budget.parse([text], SPACE)
    assert budget == Budget(bounds=(bound,))
    assert budget.text == canonical
    assert Budget.parse(budget.text, SPACE) == budget


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("latency<=30ms@2s", "latency<=30ms@2s"), ("latency <= 0.0305 s @ 500ms", "latency<=30.5ms@0.5s")],
)
def test_latency_is_kept_apart(text, canonical):
    budget = Budget.parse(["25M", text], SPACE)
    assert budget.bounds == (Bound(PARAMS, 25_000_000),)
    assert budget.text == f"params<=25M, {canonical}"
    assert Budget.parse(budget.text, SPACE) == budget
    assert SPACE.count(budget) == SPACE.count()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("parms<=25M", "unknown cost `parms`; did you mean `params`"),
        ("mac<=2G@1s", "unknown cost `mac`; did you mean `macs`"),
        ("zzz<=25M", "unknown cost `zzz`; there are params, macs, flops, size, latency"),
        ("", "not a cost, a relation and an amount"),
        ("<=25M", "not a cost, a relation and an amount"),
        ("macs<=2G@1s@2s", "not a cost, a relation and an amount"),
        ("params>=25M", "write params<=HIGH for an upper bound and params=LOW..HIGH for a band"),
        ("params<25M", "write params<=HIGH for an upper bound"),
        ("params=25M", "write params<=HIGH for an upper bound"),
        ("params<=24M..25M", "write params<=HIGH for an upper bound and params=LOW..HIGH for a band"),
        ("macs<=2G", "macs needs a duration of audio, such as macs<=2G@1s"),
        ("latency<=30ms", "latency needs a duration of audio, such as latency<=30ms@1s"),
        ("latency=1ms..2ms@1s", "latency takes an upper bound, not a band"),
        ("latency<=30@1s", "`30` is not a time: ms or s"),
        ("params<=25M@1s", "params does not depend on the duration; leave out the @1s"),
        ("macs<=2G@1", "`1` is not a time: s or ms"),
        ("macs<=2G@2h", "`2h` is not a time: s or ms"),
        ("macs<=2G@0.01s", "the audio must give at least one frame and last at most 3600 s"),
        ("macs<=2G@3601s", "the audio must give at least one frame and last at most 3600 s"),
        ("50MB", "`50MB` is not a count: k, M, G or %; for bytes write size<=50MB"),
        ("30ms", "`30ms` is not a count: k, M, G or %; for time write latency<=30ms@1s"),
        ("25Q", "`25Q` is not a count: k, M, G or %"),
        ("size<=50M", "`50M` is not bytes: MB or MiB"),
        ("0M", "the amount must be above zero"),
        ("-5M", "`-5M` is not a positive number with a unit"),
        ("nan", "`nan` is not a positive number with a unit"),
        ("1e999", "`1e999` is not a positive number with a unit"),
        ("5M..", "a band has two ends"),
        ("..5M", "a band has two ends"),
        ("6M..5M", "no whole number lies from the lower end to the upper end"),
        ("1.2..1.4", "no whole number lies from the lower end to the upper end"),
    ],
)
def test_bad_budgets(text, why):
    examples = "25M, params=24M..25M, 60%, macs<=2G@1s, flops<=4G@1s, size<=50MB, latency<=30ms@2s"
    message = rf"^budget `{re.escape(text)}`: {re.escape(why)}.*[.?] Examples: {re.escape(examples)}$"
    with pytest.raises(ValueError, match=message):
        Budget.parse([text], SPACE)


def test_all_bounds_must_hold():
    budget = Budget.parse(["500k", "macs<=40M@1s", "500k"], SPACE)
    assert len(budget.bounds) == 2
    assert hash(budget) == hash(Budget.parse("500k, macs<=40M@1s", SPACE))
    smallest = SPACE.smallest()
    assert budget.holds(SPACE.backbone, smallest)
    assert not budget.holds(SPACE.backbone, SPACE.container)
    assert not Budget.parse(["params=78k..1M"], SPACE).holds(SPACE.backbone, smallest)
    assert Budget().holds(SPACE.backbone, SPACE.container)
    assert Budget.parse([], SPACE) == Budget.parse("", SPACE) == Budget()
    assert Budget().text == ""


@given(st.integers(1, 1 << 62))
def test_a_written_amount_reads_back(count):
    assert Budget.parse([format_count(count)], SPACE).bounds[0].high == count
    assert Budget.parse([f"size<={format_bytes(count)}"], SPACE).bounds[0].high == count


@given(
    st.text(max_size=20) | st.from_regex(r"(params|macs|size)?<?=?[0-9.]{1,5}[kMG%]?(@[0-9.]{1,4}s)?", fullmatch=True)
)
def test_any_text_parses_or_is_told_why(text):
    try:
        Budget.parse([text], SPACE)
        told = ""
    except ValueError as error:
        told = str(error)
    assert not told or told.startswith("budget `")
