"""Quality against size: subnets of one supernet beside their teacher and a baseline that never learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from search_spaces.costs import count_params
from search_spaces.files import write_file
from search_spaces.space import SearchSpace
from search_spaces.strict_json import read_json
from search_spaces.subnet import Layer, Subnet
from speech_tasks.phone_probe import Encode, PhoneProbe, hidden_states, stacked_mfcc
from supernet.encoder import Encoder
from supernet.model import Supernet

CURVE = "curve.json"

Kind = Literal["subnet", "teacher", "reference"]
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Point:
    """One encoder's phone error."""

    label: str
    kind: Kind
    params: int | None
    error: float
    half_interval: float
    layer: int
    compute_share: float | None = None
    """Of the supernet's training compute; None where it does not apply."""


def shape_at(space: SearchSpace, level: float) -> Subnet:
    """The subnet whose every choice stands at `level`, from the smallest (0) to the largest (1), all layers alike."""

    def pick(choices: Sequence[Choice]) -> Choice:
        return choices[round(level * (len(choices) - 1))]

    width, kept = pick(space.embed_dim), pick(list(space.depth.values()))[0]
    layer = Layer(pick(space.heads), pick(space.ffn_dims(width)))
    return Subnet(tuple(map(pick, space.conv_dims)), width, (layer,) * len(kept), kept)


def measure_curve(
    supernet: Supernet,
    teacher: Encoder,
    probe: PhoneProbe,
    chosen: Sequence[Subnet],
    *,
    num_middle: int,
    on_start: Callable[[int], None],
    on_progress: Callable[[str], None],
) -> list[Point]:
    """Probes the smallest subnet, evenly spaced shapes, the largest, those chosen, the teacher and stacked MFCC.

    `on_start` is told how many there are, `on_progress` each of them in words.
    """
    space = supernet.space

    def measure(label: str, kind: Kind, params: int | None, encode: Encode) -> Point:
        score = probe.score(encode)
        on_progress(f"{label}  {score.error:.1%}")
        return Point(label, kind, params, score.error, score.half_interval, score.layer)

    shapes = {shape_at(space, i / (num_middle + 1)): f"shape {i}/{num_middle + 1}" for i in range(num_middle + 2)}
    labels = shapes | {space.smallest(): "smallest", space.container: "largest"}
    labels |= {subnet: f"chosen {subnet.id}" for subnet in chosen}
    on_start(len(labels) + 2)
    points = [measure("stacked MFCC", "reference", None, stacked_mfcc)]
    for subnet in sorted(labels, key=lambda s: count_params(space.backbone, s)):
        params = count_params(space.backbone, subnet)
        points.append(measure(labels[subnet], "subnet", params, hidden_states(supernet.extract(subnet))))
    params = sum(p.numel() for p in teacher.parameters())
    return [*points, measure("teacher", "teacher", params, hidden_states(teacher))]


def describe_spread(points: Sequence[Point]) -> str:
    """A warning when the sizes differ by less than twice their intervals; empty when they separate."""
    subnets = [p for p in points if p.kind == "subnet"]
    if len(subnets) < 2:
        return ""
    spread = max(p.error for p in subnets) - min(p.error for p in subnets)
    noise = 2 * max(p.half_interval for p in subnets)
    if spread > noise:
        return ""
    return (
        f"The sizes differ by {100 * spread:.1f} points of phone error, which is no more than the intervals allow "
        "by chance: this curve says little about size."
    )


def save_curve(folder: Path, points: Sequence[Point]) -> None:
    """Keeps a curve in a run folder."""
    write_file(folder / CURVE, json.dumps([asdict(p) for p in points], indent=2) + "\n")


def load_curve(folder: Path) -> list[Point]:
    """The curve of a run folder; empty when none was measured.

    Raises:
        NestlingError: The file is damaged; names it and the keys at fault.
    """
    path = folder / CURVE
    return read_json(path, list[Point], "delete it, or run the demo again") if path.exists() else []
