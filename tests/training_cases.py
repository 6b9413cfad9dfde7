"""All that a training run of a second needs, as a user would give it: audio, a teacher, a space, a recipe."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from checkpoints.saving import save_encoder
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import dump_yaml
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone
from speech_data.corpus import Utterance
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig
from supernet.initialization import initialize

SPACE = SearchSpace(
    name="handful",
    conv_dims=((4, 8),) * 7,
    embed_dim=(16, 32),
    heads=(1, 2),
    ffn_dim=(16, 48),
    depth={1: ((0,), (1,)), 2: ((0, 1),)},
    backbone=Backbone(head_dim=16, pos_conv_kernel=16),
)
RECIPE = """
save_every: 2
stages:
  - name: stage-1
    steps: 5
    batch_size: 3
    crop_seconds: 0.4
    view: {mask_share: 0.3, mask_length: 3}
    sources:
      teacher: {kind: teacher}
    objective:
      - {source: teacher, matching: layers, distance: l1}
    dropout: 0.1
  - name: stage-2
    subnets: sandwich
    reorder: true
    steps: 5
    batch_size: 3
    crop_seconds: 0.4
    view: {mask_share: 0.3, mask_length: 3}
    sources:
      teacher: {kind: teacher}
      codes: {kind: codes, num_codes: 4, layer: 1}
    objective:
      - {source: teacher, matching: layers, distance: l1}
      - {source: codes, matching: codes, distance: cross_entropy}
"""


def make_teacher(seed: int = 0) -> Encoder:
    """A random encoder of the container's size that tells frames apart."""
    config = EncoderConfig((8,) * 7, 32, (2, 2), (48, 48), head_dim=16, pos_conv_kernel=16)
    encoder = Encoder(config)
    generator = torch.Generator().manual_seed(seed)
    initialize(encoder, generator)
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator)
    return encoder


def make_wave(num_samples: int, seed: int) -> np.ndarray:
    """A tone that wanders and swells, over noise."""
    rng = np.random.default_rng(seed)
    times = np.arange(num_samples) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * rng.uniform(200, 2000) * times * (1 + times)) * np.sin(7 * times)
    return (0.3 * tone + 0.02 * rng.standard_normal(num_samples)).astype(np.float32)


class Tones:
    """A corpus that is made up as it is read."""

    name, hash = "tones", "0"

    def utterances(self, split: str) -> list[Utterance]:
        first = {"train": 0, "search": 4}[split]
        return [Utterance(f"{i}", None, 4000 + 1300 * i) for i in range(first, first + 4)]

    def read(self, utterance: Utterance) -> np.ndarray:
        return make_wave(utterance.num_samples, int(utterance.id))


def write_audio(folder: Path, count: int = 12) -> Path:
    """Files of 0.3 to 0.7 s; crops of 0.4 s need padding now and then."""
    folder.mkdir()
    for i in range(count):
        wave = make_wave(4800 + 550 * i, i)
        soundfile.write(folder / f"take-{i:02}.wav", wave, SAMPLE_RATE_HZ)
    return folder


def write_case(folder: Path) -> list[str]:
    """Writes everything to `folder`; returns the options of `nestling train supernet` but for --run."""
    (folder / "handful.yaml").write_text(dump_yaml(SPACE.to_dict()))
    (folder / "recipe.yaml").write_text(RECIPE)
    save_encoder(make_teacher(), folder / "teacher")
    write_audio(folder / "audio")
    return [
        *("--space", str(folder / "handful.yaml")),
        *("--config", str(folder / "recipe.yaml")),
        *("--teacher", str(folder / "teacher")),
        *("--audio", str(folder / "audio")),
        *("--precision", "fp32"),
    ]
