"""How a network's frames are made of a batch, for tasks: none may depend on what else is in the batch.

B batch, S samples, T frames, d channels of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.costs import count_frames
from search_spaces.errors import NestlingError
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone
from speech_tasks.feature_store import Encode
from supernet.encoder import Encoder


def encode_with(encoder: Encoder) -> Encode:
    """All hidden states of an encoder; each utterance is heard alone where a norm would average over padding."""

    def states_of(wave: Tensor, lengths: Tensor | None = None) -> Sequence[Tensor]:
        return encoder(wave, lengths).hidden  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
        if encoder.config.conv_norm == "group":
            return encode_alone(states_of, wave, lengths)
        return states_of(wave, lengths)

    return encode


def encode_alone(states_of: Callable[[Tensor], Sequence[Tensor]], wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """Encodes each utterance of a batch by itself, so that no padding reaches the network.

    A group norm averages over padding, masked or not; so do stacked positional convolutions and some attention.

    Args:
        states_of: One utterance (1, S) -> its hidden states, (1, T, d).
        wave: (B, S).
        lengths: Valid samples, (B,); None when all are.

    Returns:
        Hidden states, each (B, T, d), zero where padded.

    Raises:
        NestlingError: An utterance is too short for a frame, or the network does not make one every 20 ms.
    """
    num_samples = wave.shape[1]
    rows: list[list[Tensor]] = []
    for i, length in enumerate([num_samples] * len(wave) if lengths is None else lengths.tolist()):
        if (expected := count_frames(Backbone(), length)) < 1:
            raise NestlingError(f"an utterance of {length} samples gives no frame; encoders want 400 samples or more")
        states = [x[0] for x in states_of(wave[i : i + 1, :length])]
        if found := {len(x) for x in states} - {expected}:
            raise NestlingError(
                f"the encoder makes {min(found)} frames of {length / SAMPLE_RATE_HZ:g} s; tasks want one every 20 ms, "
                f"{expected}"
            )
        rows.append(states)
    num_frames = count_frames(Backbone(), num_samples)
    padded = [[F.pad(x, (0, 0, 0, num_frames - len(x))) for x in states] for states in rows]
    return [torch.stack(state) for state in zip(*padded, strict=True)]
