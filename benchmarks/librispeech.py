"""What HuBERT-base on LibriSpeech-960 takes: closed forms and the time to read audio, as markdown.

`python benchmarks/librispeech.py`. No GPU is asked for: hours on one follow from operations, peak speeds as the makers
state them, and an assumed share of the peak.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np
import soundfile

from checkpoints.formats.config_json import read_config
from distillation.stages import Stage, load_recipe
from search_spaces.budget import Budget
from search_spaces.costs import count_frames, count_macs
from search_spaces.draws import draw_subnet
from search_spaces.space import SearchSpace
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone, Subnet
from speech_data.batching import batch_at
from speech_data.folder import open_folder
from supernet.model import shape_of

HOURS = 960.9
UTTERANCES = 281_241
SEARCH_TRIALS, SEARCH_UTTERANCES = 64, 60  # defaults of `nestling search subnet`
NUM_SAMPLES = 2000
PEAKS = {"A100": 312, "RTX 4090": 165, "H100 SXM": 989}
"""TFLOP/s of dense bf16 matrix products, as NVIDIA states them."""
SHARES = (0.15, 0.35)
"""Of the peak: assumed, not measured."""
PAIRS = (("base", "two-stage"), ("lighthubert-base", "lighthubert"))


def describe_teacher() -> tuple[Backbone, Subnet]:
    """HuBERT-base."""
    return shape_of(read_config({"model_type": "hubert"}, True, "HuBERT-base"))


def mean_macs(space: SearchSpace, seconds: float, budget: Budget | None = None) -> float:
    """Of uniformly drawn subnets."""
    rng = Random(0)
    macs = [count_macs(space.backbone, space.sample(rng, budget), seconds) for _ in range(NUM_SAMPLES)]
    return sum(macs) / len(macs)


def count_step_macs(stage: Stage, space: SearchSpace, teacher: tuple[Backbone, Subnet]) -> float:
    """MACs of one step: the teacher forward, each subnet and its heads forward and, twice as dear, backward.

    Heads are counted at the container's width and depth for the container, and at their mean for the others.
    """
    seconds, backbone = stage.crop_seconds, space.backbone
    frames = count_frames(backbone, round(seconds * SAMPLE_RATE_HZ))

    def heads(embed_dim: float, depth: float) -> float:
        outputs = sum(depth if term.matching == "layers" else 1 for term in stage.objective)
        return frames * embed_dim * teacher[1].embed_dim * outputs

    container, smallest = space.container, space.smallest()
    students = count_macs(backbone, container, seconds) + heads(container.embed_dim, len(container.layers))
    if stage.subnets == "sandwich":
        rng = Random(0)
        drawn = [draw_subnet(space, rng, stage.draws) for _ in range(NUM_SAMPLES)]
        random = sum(count_macs(backbone, s, seconds) + heads(s.embed_dim, len(s.layers)) for s in drawn) / len(drawn)
        students += count_macs(backbone, smallest, seconds) + heads(smallest.embed_dim, len(smallest.layers))
        students += stage.num_random * random
    return stage.batch_size * (count_macs(*teacher, seconds) + 3 * students)


def print_training(teacher: tuple[Backbone, Subnet]) -> None:
    totals = {}
    print("| space, recipe | stage | steps | audio a step, s | TFLOP a step | passes over 960 h | total, 10^18 FLOP |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for space_name, recipe in PAIRS:
        space = SearchSpace.load(space_name)
        for stage in load_recipe(recipe).stages:
            flops = 2 * count_step_macs(stage, space, teacher)
            audio = stage.batch_size * stage.crop_seconds
            total = flops * stage.steps
            key = f"`{space_name}`, `{recipe}`"
            totals[key] = totals.get(key, 0.0) + total
            passes = audio * stage.steps / 3600 / HOURS
            print(
                f"| {key} | {stage.name} | {stage.steps:,} | {audio:,.0f} | {flops / 1e12:.1f} | {passes:.1f} | "
                f"{total / 1e18:.2f} |"
            )
    print("\nHours on one GPU, **assumed**, at two shares of the peak:\n")
    print("| space, recipe | " + " | ".join(f"{gpu}, {peak} TFLOP/s" for gpu, peak in PEAKS.items()) + " |")
    print("|---|" + "---:|" * len(PEAKS))
    for key, total in totals.items():
        cells = [
            " … ".join(f"{total / (peak * 1e12 * share) / 3600:,.0f}" for share in reversed(SHARES))
            for peak in PEAKS.values()
        ]
        print(f"| {key} | " + " | ".join(cells) + " |")


def print_search(teacher: tuple[Backbone, Subnet]) -> None:
    space, seconds = SearchSpace.load("base"), HOURS * 3600 / UTTERANCES
    budget = Budget.parse(["25M"], space)
    macs = SEARCH_UTTERANCES * (count_macs(*teacher, seconds) + SEARCH_TRIALS * mean_macs(space, seconds, budget))
    print(
        f"\nA search of {SEARCH_TRIALS} subnets under 25M on {SEARCH_UTTERANCES} utterances of {seconds:.1f} s: "
        f"{2 * macs / 1e12:,.0f} TFLOP, forward only."
    )


def print_reading(num_files: int = 64, steps: int = 10) -> None:
    """CPU seconds, of all threads, on files of LibriSpeech's mean length; the noise compresses about as speech does."""
    stage = load_recipe("two-stage").stages[0]
    seconds = HOURS * 3600 / UTTERANCES
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_files):
            rng = np.random.default_rng(i)
            noise = np.convolve(rng.standard_normal(round(seconds * SAMPLE_RATE_HZ)), np.ones(8) / 8, "same")
            wave = 0.1 * noise * np.sin(np.linspace(0, 40, len(noise))) ** 2
            soundfile.write(Path(folder) / f"{i}.flac", wave, SAMPLE_RATE_HZ)
        began = time.process_time()
        corpus = open_folder(folder)
        opening = (time.process_time() - began) / (num_files * seconds / 3600)
        began = time.process_time()
        for step in range(steps):
            batch_at(
                corpus,
                "train",
                step,
                seed=0,
                batch_size=stage.batch_size,
                crop_seconds=stage.crop_seconds,
                augment=False,
            )
        reading = (time.process_time() - began) / steps
    print(
        f"\nReading flac, measured: {opening:.1f} CPU seconds to check an hour of audio when it is opened; "
        f"{1000 * reading:.0f} ms for a batch of {stage.batch_size} x {stage.crop_seconds:g} s, in one thread."
    )


def main() -> None:
    teacher = describe_teacher()
    print_training(teacher)
    print_search(teacher)
    print_reading()


if __name__ == "__main__":
    main()
