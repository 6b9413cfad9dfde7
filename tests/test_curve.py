"""The curve over sizes: which shapes it takes, what it keeps, and when it warns."""

from pathlib import Path

import pytest

from search_spaces.costs import count_params
from search_spaces.space import SearchSpace
from speech_tasks.curve import Point, describe_spread, load_curve, save_curve, shape_at


@pytest.mark.parametrize("name", ["tiny", "base", "lighthubert-base", "lighthubert-small"])
def test_shapes_run_from_the_smallest_to_the_largest(name: str) -> None:
    space = SearchSpace.load(name)
    shapes = [shape_at(space, i / 4) for i in range(5)]
    assert shapes[0] == space.smallest()
    assert shapes[-1] == space.container
    assert all(shape in space and len(set(shape.layers)) == 1 for shape in shapes)
    sizes = [count_params(space.backbone, shape) for shape in shapes]
    assert sizes == sorted(sizes)  # a space with few choices may have the same shape at two levels


def point(label: str, kind: str, error: float, half_interval: float = 0.01) -> Point:
    return Point(label, kind, 1000, error, half_interval, 3)


def test_a_flat_curve_is_called_flat() -> None:
    flat = [point("smallest", "subnet", 0.52), point("largest", "subnet", 0.51), point("MFCC", "reference", 0.9)]
    assert "differ by 1.0 points" in describe_spread(flat)
    steep = [point("smallest", "subnet", 0.60), point("largest", "subnet", 0.50)]
    assert describe_spread(steep) == ""


def test_a_curve_is_kept(tmp_path: Path) -> None:
    assert load_curve(tmp_path) == []
    points = [point("smallest", "subnet", 0.5), Point("stacked MFCC", "reference", None, 0.5, 0.02, 0)]
    save_curve(tmp_path, points)
    assert load_curve(tmp_path) == points
