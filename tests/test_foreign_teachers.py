"""A network that an encoder does not compute still teaches: its hidden states, each utterance alone, and no weights."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import BertConfig, Data2VecAudioConfig, HubertConfig, UniSpeechSatConfig

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.run_folder import RunFolder
from checkpoints.saving import save_encoder
from checkpoints.teachers import load_encoder, load_teacher
from distillation.factory import check_sources
from distillation.sources.teacher import FrozenNetwork, TeacherSource
from distillation.stages import load_recipe
from distillation.views import Seen
from speech_data.batching import Batch
from speech_data.corpus import Utterance
from supernet.encoder_config import EncoderConfig
from supernet.model import Supernet, encoder_config
from tests.encoders import TOLERANCE, error_of, make_encoder
from tests.shell import Shell
from tests.test_representations import SHAPE, states_by_transformers, write_model
from tests.training_cases import SPACE, make_teacher, make_wave, write_case

LENGTHS = (4000, 6400, 2500)
KINDS = {
    "data2vec": Data2VecAudioConfig(**SHAPE),
    "unispeech": UniSpeechSatConfig(**SHAPE),
    "distilled": HubertConfig(**SHAPE, feat_proj_layer_norm=False),
}
STUDENT = encoder_config(SPACE.backbone, SPACE.container)


def make_batch() -> Batch:
    """Tones of these lengths; what lies beyond them is not silence, so that hearing it shows."""
    wave = np.full((len(LENGTHS), max(LENGTHS)), 0.7, np.float32)
    for row, (i, length) in zip(wave, enumerate(LENGTHS), strict=True):
        row[:length] = make_wave(length, i)
    utterances = tuple(Utterance(f"{i}", None, length) for i, length in enumerate(LENGTHS))
    return Batch(wave, wave, np.array(LENGTHS), utterances, np.zeros(len(LENGTHS), np.int64))


def hear(source: TeacherSource, batch: Any, wave: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
    """The layers of its only tap."""
    ((_, layers),) = source(batch, Seen(wave, wave, lengths)).taps.items()
    return layers


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_the_hidden_states_of_transformers(tmp_path: Path, kind: str, normalize: bool) -> None:
    model: Any = write_model(tmp_path / kind, KINDS[kind], normalize)
    teacher = load_teacher(tmp_path / kind)
    assert isinstance(teacher.network, FrozenNetwork)
    assert teacher.name == kind
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    source = TeacherSource(teacher.network, ["hidden"], "none")
    assert source.dims == {"hidden": 32}
    batch = make_batch()
    targets = hear(source, batch, torch.from_numpy(batch.wave), torch.tensor(LENGTHS))
    assert [x.shape for x in targets] == [(3, 19, 32)] * 2
    for i, (length, count) in enumerate(zip(LENGTHS, (12, 19, 7), strict=True)):
        wave = torch.from_numpy(batch.wave[i, :length])
        wanted = states_by_transformers(model, wave, normalize)[1:]
        assert error_of([x[i : i + 1, :count] for x in targets], wanted) <= 10 * TOLERANCE
        assert not any(x[i, count:].any() for x in targets)
        assert error_of(hear(source, batch, wave[None]), wanted) <= 10 * TOLERANCE


def test_a_prefix_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "x", KINDS["data2vec"], False)
    path = tmp_path / "x" / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    path.write_bytes(safetensors.torch.save({f"module.{n}": w for n, w in weights.items()}, {"format": "pt"}))
    with pytest.raises(TeacherError) as caught:
        load_teacher(tmp_path / "x")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("x: the weights do not fit config.json:")
    assert lines[1] == "  its names begin with 'module.', which transformers does not expect: take it off"
    assert lines[2].startswith("  missing ")


def test_padding_does_not_count_in_statistics(tmp_path: Path) -> None:
    write_model(tmp_path, KINDS["data2vec"])
    source = TeacherSource(load_teacher(tmp_path).network, ["hidden"], "channel")
    batch = make_batch()
    wave = torch.from_numpy(batch.wave)
    source.calibrate(batch, Seen(wave, wave, torch.tensor(LENGTHS)))
    targets = hear(source, batch, wave, torch.tensor(LENGTHS))
    for x in targets:
        frames = torch.cat([x[i, :count] for i, count in enumerate((12, 19, 7))])
        torch.testing.assert_close(frames.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
        torch.testing.assert_close(frames.std(0, correction=0), torch.ones(32), atol=1e-3, rtol=0)


# What it does not give


def test_it_lends_no_weights(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    write_model(folder, KINDS["data2vec"])
    with pytest.raises(TeacherError) as caught:
        _ = load_teacher(folder).encoder
    assert str(caught.value) == (
        f"other can teach, but lends no weights: {folder}: model_type is 'data2vec-audio'; an encoder is one of "
        "hubert, wav2vec2, wavlm"
    )
    with pytest.raises(TeacherError, match="model_type is 'data2vec-audio'"):
        load_encoder(folder)


def test_other_taps_are_refused_before_anything_is_spent(tmp_path: Path) -> None:
    write_model(tmp_path, KINDS["data2vec"])
    network = load_teacher(tmp_path).network
    with pytest.raises(ValueError, match="this teacher gives hidden alone") as caught:
        check_sources(load_recipe("lighthubert"), network, STUDENT)
    assert str(caught.value) == (
        "this teacher gives hidden alone, and the recipe wants stage-1.objective.0.tap=ffn, "
        "stage-2.objective.0.tap=ffn; take --config two-stage or demo, or --set each of these to hidden"
    )
    for recipe in ("two-stage", "demo", "hubert"):
        check_sources(load_recipe(recipe), network, STUDENT)
    places = [part.removesuffix("=ffn") for part in str(caught.value).split("wants ")[1].split(";")[0].split(", ")]
    check_sources(load_recipe("lighthubert", [f"{place}=hidden" for place in places]), network, STUDENT)
    check_sources(load_recipe("lighthubert"), make_teacher(), STUDENT)  # an encoder gives them
    with pytest.raises(ValueError, match="this network gives hidden of whole waveforms, not ffn"):
        hear(TeacherSource(network, ["ffn"], "none"), make_batch(), torch.zeros(1, 4000))


def test_frames_at_another_rate_are_refused() -> None:
    two_stage = load_recipe("two-stage")
    message = "the teacher's frames are 40 samples, 80 apart, and those of this space 400, 320 apart; take a space"
    with pytest.raises(ValueError, match=message):
        check_sources(two_stage, make_encoder(), STUDENT)
    check_sources(load_recipe("hubert"), make_encoder(), STUDENT)  # it only starts from the teacher

    def states_of(wave: Tensor) -> list[Tensor]:
        return [torch.zeros(1, wave.shape[1] // 320, 8)] * 2

    network = FrozenNetwork(torch.nn.Linear(1, 1), states_of, 8, EncoderConfig((8,) * 7, 8, (1,), (8,)))
    with pytest.raises(ValueError, match="the teacher makes 20 frames of 6400 samples, and 19 are wanted"):
        hear(TeacherSource(network, ["hidden"], "none"), make_batch(), torch.zeros(1, 6400))


def test_what_makes_no_frames_cannot_teach(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    write_model(tmp_path / "bert", BertConfig(**small, vocab_size=9))
    with pytest.raises(TeacherError, match=r"bert: BertModel does not turn a waveform into frames .*; what can teach:"):
        load_teacher(tmp_path / "bert")
    (tmp_path / "bert/config.json").write_text('{"model_type": "kaldi"}')
    with pytest.raises(TeacherError, match=r"model_type is 'kaldi', which transformers [\d.]+ does not have; what can"):
        load_teacher(tmp_path / "bert")


# From the command line


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, str]:
    """A shell, and options that name a data2vec as the teacher."""
    folder = tmp_path_factory.mktemp("foreign")
    options = write_case(folder)
    write_model(folder / "data2vec", KINDS["data2vec"])
    options[options.index("--teacher") + 1] = str(folder / "data2vec")
    return Shell(folder), shlex.join(options)


def test_it_trains_a_supernet_that_is_searched_and_exported(case: tuple[Shell, str]) -> None:
    nestling, options = case
    said = nestling(f"train supernet --run run {options} --set stage-1.steps=12")
    assert said.code == 0, said.err
    run = RunFolder.open(nestling.folder / "run")
    losses = [row["losses"]["largest"] for row in run.metrics() if row.get("stage") == "stage-1"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert run.supernet_record.teacher == "data2vec"
    for command in ("search subnet --run run --budget 90% --trials 4 --utterances 2", "report --run run"):
        assert (said := nestling(command)).code == 0, said.err
    said = nestling("export subnet --run run --out encoder")
    assert said.code == 0, said.err
    assert load_encoder(nestling.folder / "encoder").config.head_dim == 16


def test_the_container_starts_from_fresh_weights(case: tuple[Shell, str]) -> None:
    from distillation.trainer import generator
    from nestling.workflows.jobs import describe_job
    from nestling.workflows.training import build_trainer
    from speech_data.folder import open_folder

    nestling, _ = case
    folder = nestling.folder
    corpus = open_folder(str(folder / "audio"), on_progress=lambda *_: None)

    def container(teacher: str) -> dict[str, Tensor]:
        names = [str(folder / name) for name in ("handful.yaml", teacher, "audio", "recipe.yaml")]
        job = describe_job("train supernet", *names, None, "cpu", "fp32", None)
        trainer, _ = build_trainer(RunFolder(folder / "none"), job, corpus, lambda _: None)
        return trainer.supernet.state_dict()

    fresh = Supernet(SPACE, generator(0, "weights")).state_dict()
    assert all(torch.equal(weight, fresh[name]) for name, weight in container("data2vec").items())
    assert not all(torch.equal(weight, fresh[name]) for name, weight in container("teacher").items())


def test_in_half_precision_and_dry(case: tuple[Shell, str]) -> None:
    nestling, options = case
    half = options.replace("--precision fp32", "--precision bf16")
    assert (said := nestling(f"train supernet --run half {half}")).code == 0, said.err
    assert (said := nestling(f"train supernet --run dry --dry-run {options}")).code == 0, said.err
    tap = "--set stage-2.sources.teacher.tap=ffn"
    for dry in ("", "--dry-run"):
        said = nestling(f"train supernet --run ffn {options} {tap} {dry}")
        assert said.code == 2
        assert "this teacher gives hidden alone, and the recipe wants stage-2.objective.0.tap=ffn" in said.err
        assert "Traceback" not in said.err
    assert not (nestling.folder / "ffn").exists()


def test_it_cannot_start_a_teacher(case: tuple[Shell, str]) -> None:
    nestling, options = case
    recipe = nestling.folder / "signal.yaml"
    stage = {
        "name": "a",
        "steps": 1,
        "sources": {"s": {"kind": "signal"}},
        "objective": [{"source": "s", "matching": "front_end", "distance": "mse"}],
    }
    recipe.write_text(json.dumps({"stages": [stage]}))
    words = shlex.split(options)
    space, audio = (words[words.index(name) + 1] for name in ("--space", "--audio"))
    init = nestling.folder / "data2vec"
    said = nestling(f"train teacher --run t --space {space} --audio {audio} --config {recipe} --init {init}")
    assert said.code == 2
    assert "data2vec can teach, but lends no weights:" in said.err
    assert not (nestling.folder / "t").exists()
    save_encoder(make_teacher(), nestling.folder / "own")
    said = nestling(
        f"train teacher --run t --space {space} --audio {audio} --config {recipe} --init {nestling.folder / 'own'}"
    )
    assert said.code == 0, said.err
