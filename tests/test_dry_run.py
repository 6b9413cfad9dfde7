"""What a dry run measures. That it trains nothing is in test_cli.py."""

import pytest
import torch

from distillation.dry_run import estimate_training, measure_peak_memory
from distillation.stages import Recipe
from search_spaces.strict_yaml import parse_config, parse_yaml
from tests.training_cases import RECIPE, SPACE, make_teacher


def test_memory_is_that_of_the_device(monkeypatch):
    assert 50e6 < measure_peak_memory("cpu") < 1e12  # bytes: torch alone takes more than 50 MB
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", {"cuda:1": 7}.__getitem__)
    assert measure_peak_memory("cuda:1") == 7


@pytest.mark.gpu
def test_dry_run_on_a_gpu():
    recipe = parse_config(Recipe, parse_yaml(RECIPE, source="recipe"))
    estimate = estimate_training(SPACE, recipe, make_teacher(), "bf16", "cuda")
    assert all(seconds > 0 for seconds in estimate.step_seconds)
    assert 0 < estimate.memory_bytes <= torch.cuda.get_device_properties("cuda").total_memory
