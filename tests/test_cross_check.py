import random
from dataclasses import replace

import pytest
import torch

from nas.cross_check import cross_check
from search_spaces.costs import count_macs, count_params
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Layer, Subnet
from tests.spaces import GATED, small

SECONDS = 0.3
HUBERT_BASE = Subnet((512,) * 7, 768, (Layer(12, 3072),) * 12, tuple(range(12)))


def assert_exact(backbone, subnet, seconds):
    checks = cross_check(backbone, subnet, seconds)
    assert [(check.quantity, check.tool) for check in checks] == [
        ("macs", "FlopCounterMode"),
        ("macs", "fvcore"),
        ("macs", "thop"),
        ("params", "numel"),
        ("params", "fvcore"),
        ("params", "thop"),
    ]
    for check in checks:
        counted = {"macs": count_macs(backbone, subnet, seconds), "params": count_params(backbone, subnet)}
        assert check.expected == counted[check.quantity]
        assert check.exact, f"{check.tool}: {check.corrected - check.expected:+,} {check.quantity}"
        assert check.correction or check.raw == check.corrected
    return {(check.quantity, check.tool): check for check in checks}


@pytest.mark.parametrize(
    "backbone",
    [{}, {"conv_norm": "group"}, {"conv_bias": True, "norm_first": True}],
    ids=["layer", "group", "bias"],
)
@pytest.mark.parametrize("name", ["tiny", "lighthubert-small", GATED])
def test_every_tool_agrees_to_the_unit(name, backbone):
    space, rng = small(name, **backbone), random.Random(0)
    for subnet in (space.container, space.sample(rng)):
        assert_exact(space.backbone, subnet, SECONDS)


def test_the_shipped_tiny_space_and_an_odd_kernel():
    space = SearchSpace.load("tiny")
    assert_exact(space.backbone, space.sample(random.Random(1)), SECONDS)
    assert_exact(replace(space.backbone, pos_conv_kernel=31), space.smallest(), 0.41)


@pytest.mark.slow
def test_hubert_base_for_a_second():
    checks = assert_exact(Backbone(conv_norm="group"), HUBERT_BASE, 1.0)
    assert checks["params", "numel"].raw == 94_371_712
    assert checks["macs", "FlopCounterMode"].raw == 2 * 6_911_374_336


def test_corrections_say_what_each_tool_misses():
    space = small("tiny")
    checks = {(c.quantity, c.tool): c.correction for c in cross_check(space.backbone, space.smallest(), SECONDS)}
    assert checks["macs", "FlopCounterMode"] == "halved: two FLOPs to a MAC"
    assert checks["macs", "fvcore"].startswith("less 5 for each of ")
    assert "attention products it does not see" in checks["macs", "thop"]
    assert "16 of the mask embedding, 8 gains" in checks["params", "thop"]


def test_a_wrong_closed_form_is_noticed(monkeypatch):
    monkeypatch.setattr("nas.cross_check.count_macs", lambda *_: 1)
    space = small("tiny")
    checks = cross_check(space.backbone, space.smallest(), SECONDS)
    assert {check.quantity for check in checks if not check.exact} == {"macs"}


def test_tools_are_silent_and_leave_no_trace(capfd, caplog):
    space = small("tiny")
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    cross_check(space.backbone, space.smallest(), SECONDS)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_too_short_audio_is_refused():
    space = small("tiny")
    with pytest.raises(ValueError, match="at least one frame"):
        cross_check(space.backbone, space.smallest(), 0.01)
