"""The demo teacher beside MFCC and its untrained self: `python benchmarks/teacher.py > benchmarks/teacher.md`."""

from __future__ import annotations

from datetime import date

import torch

from checkpoints.run_folder import made_with
from checkpoints.teachers import load_teacher
from speech_data.synthesis import FULL, synthesised_corpus
from speech_tasks.phone_probe import PhoneProbe, hidden_states, stacked_mfcc
from supernet.encoder import Encoder, initialize


def main() -> None:
    corpus = synthesised_corpus(FULL, allow_test=True)
    probe = PhoneProbe(corpus, "test", num_train=400, num_tuning=150)
    teacher = load_teacher("demo").encoder
    untrained = Encoder(teacher.config)
    initialize(untrained, torch.Generator().manual_seed(0))
    print(f"# The demo teacher\n\n{date.today()}, `python benchmarks/teacher.py`, {made_with()}, data {corpus.hash}\n")
    print(
        "Frame phone error of a linear probe: 400 training utterances, the layer picked on 150 of `dev`, all of `test`;"
    )
    print("unseen voices and sentences, noise and rooms. Synthesised speech: a sanity figure, never SUPERB.\n")
    print("| features | phone error | layer | every layer, on `dev` |\n|---|---:|---:|---|")
    rows = {
        "MFCC and deltas, ±4 frames": stacked_mfcc,
        "the teacher untrained": hidden_states(untrained),
        "the teacher": hidden_states(teacher),
    }
    for name, encode in rows.items():
        score = probe.score(encode)
        layers = " ".join(f"{100 * error:.1f}" for error in score.tuning_errors)
        print(f"| {name} | {100 * score.error:.1f} % ± {100 * score.half_interval:.1f} | {score.layer} | {layers} |")


if __name__ == "__main__":
    main()
