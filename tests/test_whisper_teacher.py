"""Whisper as a teacher: whole utterances, each heard once, and the frames of crops out of them."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.run_folder import RunFolder
from checkpoints.target_files import TargetFiles
from checkpoints.teachers import load_encoder, load_teacher
from distillation.factory import SourceFactory, check_sources
from distillation.sources.source import Source
from distillation.sources.teacher import FrozenNetwork, TeacherSource
from distillation.stages import load_recipe
from distillation.views import Seen, View
from search_spaces.errors import NestlingError
from speech_data.batching import batch_at, evaluation_batches
from supernet.model import Supernet, encoder_config
from tests.encoders import TOLERANCE, error_of
from tests.shell import Shell
from tests.training_cases import SPACE, Tones, write_case
from tests.whisper_cases import encoder_of, write_ct2, write_whisper

STUDENT = encoder_config(SPACE.backbone, SPACE.container)
RECIPE = load_recipe("two-stage", [f"stage-{i}.sources.teacher.normalization=none" for i in (1, 2)])
HALF = 2e-3
"""Of the RMS: what half precision moves a state by."""


class Corpus(Tones):
    """Utterances of 0.25 to 0.5 s."""

    synthesised = False


class Synthesised(Corpus):
    """The same, but noise is added to it."""

    synthesised = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher") / "small-whisper"
    write_whisper(place)
    (place / "README.md").write_text("---\nlicense: mit\n---\n")
    return place


def open_source(network: FrozenNetwork, corpus: Any, store: Any) -> Source:
    """The teacher as a run has it."""
    made = SourceFactory(corpus, network, 0, states=store)(RECIPE.stages[0], Supernet(SPACE, torch.Generator()), {})
    return made["teacher"]


def crops(corpus: Any, augment: bool = False, step: int = 0) -> Any:
    options = {"seed": 0, "batch_size": 4, "crop_seconds": 0.3}
    return batch_at(corpus, "train", step, augment=augment, **options)


def look(batch: Any, view: View | None = None) -> Seen:
    return (view or View()).draw(batch, SPACE.backbone.grid, torch.device("cpu"))


def layers_of(source: Source, batch: Any, seen: Seen | None = None) -> list[Tensor]:
    ((_, layers),) = source(batch, seen or look(batch)).taps.items()
    return layers


def test_a_crop_has_the_frames_of_its_whole_utterance(folder: Path) -> None:
    network = load_teacher(folder).network
    assert isinstance(network, FrozenNetwork)
    corpus, batch = Corpus(), crops(Corpus())
    assert batch.offsets.any()
    assert (batch.lengths < 4800).any()  # some are padded, some are crops from the middle
    targets = open_source(network, corpus, {})(batch, look(batch))
    layers = targets.taps["hidden"]
    assert [x.shape for x in layers] == [(4, 14, 16)] * 3
    assert all(x.dtype == torch.float32 for x in layers)
    for i, (utterance, offset, length) in enumerate(
        zip(batch.utterances, batch.offsets.tolist(), batch.lengths.tolist(), strict=True)
    ):
        whole = network.hear(torch.from_numpy(corpus.read(utterance))[None])
        first, count = offset // 320, (length - 400) // 320 + 1
        wanted = [x[:, first : first + count] for x in whole]
        assert error_of([x[i : i + 1, :count] for x in layers], wanted) <= HALF
        assert not any(x[i, count:].any() for x in layers)
        assert targets.valid is not None
        assert targets.valid[i].sum() == count
        if offset:
            alone = network.hear(torch.from_numpy(batch.clean[i : i + 1, :length]))
            assert error_of(alone, wanted) > 0.05  # which a crop by itself would not have


def test_each_utterance_is_heard_once_in_a_run_and_not_again_by_the_next(folder: Path, tmp_path: Path) -> None:
    network = load_teacher(folder).network
    assert isinstance(network, FrozenNetwork)
    corpus, store = Corpus(), TargetFiles(tmp_path / "states")
    heard: list[int] = []
    whisper: Any = network.network
    whisper.layer_norm.register_forward_hook(lambda *_: heard.append(1))
    source = open_source(network, corpus, store)
    source.calibrate(crops(corpus), look(crops(corpus)))
    first = [layers_of(source, crops(corpus, step=step)) for step in range(3)]
    assert len(heard) == 4
    resumed, afresh = (open_source(network, corpus, kept) for kept in (TargetFiles(tmp_path / "states"), {}))
    for again in (source, resumed, afresh):
        for step, layers in enumerate(first):
            same = layers_of(again, crops(corpus, step=step))
            assert all(torch.equal(x, y) for x, y in zip(layers, same, strict=True))
    assert len(heard) == 4 + 4  # afresh
    files = list((tmp_path / "states").iterdir())
    assert len(files) == 4
    frames = sum((u.num_samples - 400) // 320 + 1 for u in corpus.utterances("train"))
    assert sum(path.stat().st_size for path in files) < frames * 3 * 16 * 2 + 4 * 200


def test_another_teacher_or_other_audio_has_states_of_its_own(folder: Path, tmp_path: Path) -> None:
    write_whisper(tmp_path / "other", seed=1)
    store: dict[str, Any] = {}
    corpus, changed = Corpus(), Corpus()
    changed.hash = "1"
    for place, audio in ((folder, corpus), (tmp_path / "other", corpus), (folder, changed), (folder, Corpus())):
        network = load_teacher(place).network
        assert isinstance(network, FrozenNetwork)
        layers_of(open_source(network, audio, store), crops(audio))
    assert len(store) == 3 * 4


def test_noise_is_refused_in_time_and_clean_targets_are_taken(folder: Path) -> None:
    network = load_teacher(folder).network
    assert isinstance(network, FrozenNetwork)
    with pytest.raises(NestlingError) as caught:
        check_sources(RECIPE, network, STUDENT, Synthesised())
    assert str(caught.value) == (
        "this teacher hears whole utterances, each once and without noise, and the recipe adds some; "
        "--set stage-1.view.target=clean --set stage-2.view.target=clean"
    )
    clean = load_recipe("two-stage", [f"stage-{i}.view.target=clean" for i in (1, 2)])
    check_sources(clean, network, STUDENT, Synthesised())
    check_sources(RECIPE, network, STUDENT, Corpus())
    corpus = Corpus()
    noisy, plain = crops(corpus, augment=True), crops(corpus)
    source = open_source(network, corpus, {})
    with pytest.raises(NestlingError, match=r"set view\.target of its stage to clean"):
        source(noisy, look(noisy))
    layers = layers_of(source, noisy, look(noisy, View(target="clean")))
    assert all(torch.equal(x, y) for x, y in zip(layers, layers_of(source, plain), strict=True))


def test_a_search_hears_whole_utterances_as_they_are(folder: Path) -> None:
    network = load_teacher(folder).network
    assert isinstance(network, FrozenNetwork)
    (batch,) = evaluation_batches(Corpus(), "search", batch_size=8, augment=True)
    seen = look(batch)
    layers = layers_of(TeacherSource(network, ["hidden"], "none"), batch, seen)
    for i, length in enumerate(batch.lengths.tolist()):
        wanted = network.hear(seen.target[i : i + 1, :length])
        assert error_of([x[i : i + 1, : wanted[0].shape[1]] for x in layers], wanted) <= TOLERANCE


def test_states_beyond_half_precision_are_refused(folder: Path) -> None:
    network = load_teacher(folder).network
    assert isinstance(network, FrozenNetwork)
    whisper: Any = network.network
    whisper.layer_norm.weight.fill_(1e6)
    source = open_source(network, Corpus(), {})
    with pytest.raises(NestlingError, match=r"what the teacher makes of \d is no number, or beyond half precision"):
        source(crops(Corpus()), look(crops(Corpus())))


# What it lends


def test_it_lends_no_weights(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder)
    assert (teacher.name, teacher.license) == ("small-whisper", "mit")
    with pytest.raises(TeacherError) as caught:
        _ = teacher.encoder
    assert str(caught.value) == (
        f"small-whisper can teach, but lends no weights: {folder}: model_type is 'whisper'; an encoder is one of "
        "hubert, wav2vec2, wavlm"
    )
    model = write_whisper(tmp_path / "hf")
    write_ct2(tmp_path / "ct2", encoder_of(model), kind="f4")
    for path in (tmp_path / "ct2", tmp_path / "ct2/model.bin"):
        with pytest.raises(TeacherError, match=r"lends no weights: .* is of CTranslate2; an encoder is one of hubert"):
            _ = load_teacher(path).encoder
        assert load_teacher(path).hash == load_teacher(tmp_path / "hf").hash


def test_a_folder_on_the_hub_that_has_ctranslate2_s_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_ct2(tmp_path / "made", encoder_of(write_whisper(tmp_path / "hf")))

    def download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        place = tmp_path / name
        place.mkdir(exist_ok=True, parents=True)
        for path in made.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, place)
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert isinstance(load_teacher("some/faster-whisper").network, FrozenNetwork)


# From the command line


def test_it_trains_a_supernet_that_is_resumed_searched_and_exported(folder: Path, tmp_path: Path) -> None:
    options = write_case(tmp_path)
    options[options.index("--teacher") + 1] = str(folder)
    nestling, words = Shell(tmp_path), shlex.join(options)
    said = nestling.done(f"train supernet --run run {words} --set stage-1.steps=12 --set save_every=6")
    assert "small-whisper lends no weights, so the supernet starts from fresh ones: " in said.err
    assert re.search(
        r"small-whisper hears whole utterances, each once; its states take up to [\d.e-]+ GB in run/", said.err
    )
    run = RunFolder.open(tmp_path / "run")
    losses = [row["losses"]["largest"] for row in run.metrics() if row.get("stage") == "stage-1"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    record = run.supernet_record
    assert (record.teacher, record.license) == ("small-whisper", "mit")
    assert record.teacher_hash == load_teacher(folder).hash
    assert list((tmp_path / "run/teacher_states").iterdir())
    nestling.done("search subnet --run run --budget 90% --trials 4 --utterances 2")
    nestling.done("report --run run")
    nestling.done("export subnet --run run --out encoder")
    assert load_encoder(tmp_path / "encoder").config.head_dim == 16
    card = (tmp_path / "encoder/README.md").read_text()
    assert "license: mit" in card
    assert "small-whisper" in card
    dry = nestling.done(f"train supernet --run dry --dry-run {words} --precision bf16")
    assert not (tmp_path / "dry").exists()
    assert dry.out
