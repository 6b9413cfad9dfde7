"""What it changes that a Whisper hears an utterance at its own length instead of filled up to 30 s.

    python benchmarks/whisper_length.py FOLDER … [--probe]

For each layer: how far the states of an utterance are from those that it has with silence up to 30 s behind it, as a
share of the latter's deviation from the mean frame, over all frames and over the last 0.5 s. With --probe: the share of
frames whose phone a linear map reads wrong off the best layer. `docs/decisions/0030` has the results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.formats.whisper import open_whisper
from nestling.workflows.audio import open_audio
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.batching import draw_utterances
from speech_tasks.encoding import encode_alone
from speech_tasks.phone_probe import PhoneProbe

States = Callable[[Tensor], Sequence[Tensor]]
NUM_UTTERANCES = 10
WHOLE = 30 * SAMPLE_RATE_HZ + 240
SILENCES = {"own length": 0, "0.5 s behind": SAMPLE_RATE_HZ // 2, "1 s behind": SAMPLE_RATE_HZ}
END = 25
"""Frames in 0.5 s."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--probe", action="store_true")
    options = parser.parse_args()
    corpus = open_audio("demo")
    utterances = draw_utterances(corpus, "dev", NUM_UTTERANCES)
    waves = [torch.from_numpy(np.array(corpus.read(utterance)))[None] for utterance in utterances]
    seconds = [wave.shape[1] / SAMPLE_RATE_HZ for wave in waves]
    print(f"{len(waves)} utterances of {corpus.name}, {min(seconds):.1f} to {max(seconds):.1f} s")
    probe = PhoneProbe(corpus, "dev", num_train=120, num_tuning=60, num_scored=100) if options.probe else None
    for folder in options.folders:
        states_of = open_whisper(folder)[0].states_of
        for name, silence in SILENCES.items():
            whole, end = compare(states_of, waves, silence)
            print(f"{folder.name}, {name}: all frames {show(whole)}; the last 0.5 s {show(end)}", flush=True)
        for name, silence in {**SILENCES, "up to 30 s": WHOLE}.items() if probe else ():
            found = probe.score(partial(encode, states_of, silence))
            print(f"{folder.name}, {name}: {found}", flush=True)


@torch.no_grad()
def encode(states_of: States, silence: int, wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
    """States of a batch, each utterance alone with silence behind it, `WHOLE` samples at most."""

    def padded(alone: Tensor) -> list[Tensor]:
        num_frames = (alone.shape[1] - 400) // 320 + 1
        behind = min(silence, WHOLE - alone.shape[1])
        return [x[:, :num_frames] for x in states_of(F.pad(alone, (0, behind)))]

    return encode_alone(padded, wave, lengths)


@torch.no_grad()
def compare(states_of: States, waves: Sequence[Tensor], silence: int) -> tuple[list[float], list[float]]:
    """Mean relative difference of each state, over all frames and over the last `END` of each utterance."""
    whole, end = [], []
    for wave in waves:
        heard = states_of(F.pad(wave, (0, silence)))
        wanted = states_of(F.pad(wave, (0, WHOLE - wave.shape[1])))
        num_frames = (wave.shape[1] - 400) // 320 + 1
        rows = []
        for ours, theirs in zip(heard, wanted, strict=True):
            x, y = ours[0, :num_frames], theirs[0, :num_frames]
            rows.append((x - y).norm(dim=1) / (y - y.mean(0)).square().sum(1).mean().sqrt())
        whole.append([row.mean() for row in rows])
        end.append([row[-END:].mean() for row in rows])
    return torch.tensor(whole).mean(0).tolist(), torch.tensor(end).mean(0).tolist()


def show(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:.1f}" for share in shares) + " %"


if __name__ == "__main__":
    main()
