"""Teachers load exactly as `transformers` would load them, or are refused with the reason."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import pytest
import safetensors.torch
import torch
from transformers import (
    HubertModel,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

import checkpoints.locations
from checkpoints.export import write_encoder
from checkpoints.formats.hugging_face import (
    OtherNetworkError,
    TeacherError,
    bare_names,
    hugging_face_config,
    unfold_weight_norm,
)
from checkpoints.locations import DEMO_TEACHER, Found, find_model, locate
from checkpoints.manifest import MANIFEST, write_manifest
from checkpoints.representations import open_representation
from checkpoints.runtimes.opening import find_subjects
from checkpoints.saving import replace_teacher, save_encoder
from checkpoints.teachers import load_encoder, load_teacher
from distillation.sources.teacher import hash_network
from search_spaces.errors import NestlingError
from supernet.encoder import Encoder
from tests.encoders import GATES, SMALL, TOLERANCE, error_of, make_batch, make_encoder, randomize
from tests.test_representations import OURS

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher of others: nothing lists its files."""
    save_encoder(make_encoder(), tmp_path / "teacher")
    (tmp_path / "teacher" / MANIFEST).unlink()
    return tmp_path / "teacher"


def edit_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


def edit_weights(folder: Path, changes: Tensors, removed: tuple[str, ...] = ()) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors") | changes
    weights = {name: weight for name, weight in weights.items() if name not in removed}
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights))


def assert_same(got: Encoder, wanted: Encoder) -> None:
    assert got.config == wanted.config
    state = got.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    for name, weight in wanted.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], weight), name


@torch.no_grad()
def outputs(encoder: Encoder) -> list[torch.Tensor]:
    trace = encoder(make_batch()[0])
    return [*trace.hidden, trace.last]


# What must load


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
@pytest.mark.parametrize("normalize", [False, True])
def test_round_trip(tmp_path: Path, conv_norm: str, normalize: bool) -> None:
    encoder = make_encoder(conv_norm=conv_norm, norm_first=normalize, normalize_waveform=normalize)
    save_encoder(encoder, tmp_path)
    teacher = load_teacher(tmp_path)
    assert_same(teacher.encoder, encoder)
    assert teacher.path == tmp_path
    assert teacher.name == tmp_path.name
    assert not any(parameter.requires_grad for parameter in teacher.encoder.parameters())


def test_transformers_reads_what_save_encoder_writes(tmp_path: Path) -> None:
    encoder = make_encoder(normalize_waveform=False)
    save_encoder(encoder, tmp_path)
    model, faults = HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(faults.values())
    assert model.dtype == torch.float32
    with torch.no_grad():
        out = model(make_batch()[0], output_hidden_states=True)
    wanted = [*out.hidden_states, out.last_hidden_state]
    assert error_of(outputs(encoder), wanted) <= TOLERANCE
    prepare = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    assert (prepare.do_normalize, prepare.return_attention_mask, prepare.sampling_rate) == (
        False,
        True,
        16000,
    )


def test_halves_are_stored_and_read_back_as_fp32(tmp_path: Path) -> None:
    encoder = make_encoder()
    save_encoder(encoder, tmp_path, torch.float16)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    assert HubertModel.from_pretrained(tmp_path).dtype == torch.float16
    loaded = load_teacher(tmp_path).encoder
    assert_same(loaded, encoder.half().float())


def make_sparse(path: Path, start: bytes = b"") -> None:
    """A file of 2 GB that takes no room on disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(2 << 30)


@contextmanager
def memory_limit() -> Iterator[None]:
    """Lets the process grow by 1 GB and no further."""
    kept = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of the process from Linux")
def test_files_of_gigabytes_beside_a_teacher_are_not_read_whole(folder: Path) -> None:
    def said() -> str | None:
        try:
            with memory_limit():
                return load_teacher(folder).license
        except MemoryError:
            return "out of memory"
        except TeacherError as error:
            return str(error)

    make_sparse(folder / "README.md", b"---\nlicense: mit\n---\n")
    assert said() == "mit"
    make_sparse(folder / "README.md", b"---\nlicense: mit\n")  # a head without an end
    assert said() is None
    make_sparse(folder / MANIFEST)
    assert f"{MANIFEST} is no manifest: 2,147,483,648 bytes, and at most 1,048,576 are read" in str(said())
    (folder / MANIFEST).unlink()
    make_sparse(folder / "model.safetensors", ((2 << 30) - 8).to_bytes(8, "little") + b"{")
    assert "model.safetensors is damaged" in str(said())


def opened(path: Path) -> Encoder | str:
    """The encoder, or what was said instead."""
    try:
        return load_encoder(path)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("rename", "head"),
    [
        ("module.{}", "module.lm_head.weight"),  # DataParallel
        ("_orig_mod.{}", "_orig_mod.lm_head.weight"),  # torch.compile
        ("module._orig_mod.{}", "module._orig_mod.quantizer.codevectors"),
        ("_orig_mod.module.hubert.{}", "_orig_mod.module.lm_head.weight"),
        ("model.{}", "classes.weight"),  # a module that holds the network
        ("teacher.encoder.model.{}", "teacher.scale"),
        ("_fsdp_wrapped_module.hubert._fsdp_wrapped_module.{}", "_fsdp_wrapped_module.projector.bias"),
    ],
)
def test_names_below_other_names_are_found(folder: Path, rename: str, head: str) -> None:
    weights = {name: w.clone() for name, w in safetensors.torch.load_file(folder / "model.safetensors").items()}
    inner = {name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."): w for name, w in weights.items()}
    for names in (weights, inner):
        renamed = {rename.format(name): weight for name, weight in names.items()}
        for beside in ({}, {head: torch.ones(3)}):
            (folder / "model.safetensors").write_bytes(safetensors.torch.save(renamed | beside))
            got = opened(folder)
            assert isinstance(got, Encoder), got
            assert_same(got, make_encoder())
    torch.save(renamed, folder / "weights.pt")
    got = opened(folder / "weights.pt")
    assert isinstance(got, Encoder), got
    assert_same(got, make_encoder())


@pytest.mark.parametrize("changes", [{}, GATES], ids=["hubert", "wavlm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folded_weight_norm_is_computed_as_before(
    tmp_path: Path, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    encoder = make_encoder(**changes)
    conv = encoder.encoder.pos_conv_embed.conv
    with torch.no_grad():
        conv.parametrizations.weight.original0[..., 2] = 0.0  # a tap that was never used, whose norm is 0
    save_encoder(encoder, tmp_path)
    (tmp_path / MANIFEST).unlink()
    name = "encoder.pos_conv_embed.conv"
    weight = conv.weight.detach().clone()
    removed = tuple(f"{name}.parametrizations.weight.original{i}" for i in (0, 1))
    edit_weights(tmp_path, {f"{name}.weight": weight.to(dtype)}, removed)
    got = opened(tmp_path)
    assert isinstance(got, Encoder), got
    assert torch.allclose(got.encoder.pos_conv_embed.conv.weight, weight.to(dtype).float(), rtol=1e-6, atol=0)
    if dtype == torch.float32:
        assert error_of(outputs(got), outputs(encoder)) <= TOLERANCE
    edit_weights(tmp_path, {removed[0]: torch.ones(1, 1, 8)})  # and then there is one too many
    said = opened(tmp_path)
    assert isinstance(said, str)
    assert f"missing {removed[1]}" in said
    assert f"unexpected {name}.weight" in said


def test_names_that_are_of_no_encoder_or_of_two_are_shown(folder: Path) -> None:
    weights, twice = (
        {name: weight.clone() for name, weight in safetensors.torch.load_file(folder / "model.safetensors").items()}
        for _ in range(2)
    )
    for stored, message in (
        (
            {f"student.{name}": w for name, w in weights.items()} | {f"ema.{name}": w for name, w in twice.items()},
            f"{folder} holds several encoders, whose names begin with 'ema.' and 'student.'; keep one of them",
        ),
        (
            weights | {f"module.{name}": weight for name, weight in twice.items()},
            "twice, once under a wrapper's name; keep one of them",
        ),
        (
            {f"net.{i}.kernel": torch.ones(2) for i in range(5)},
            f"{folder} has no tensor of an encoder, such as encoder.layer_norm.bias; its tensors are "
            "net.0.kernel, net.1.kernel, net.2.kernel …",
        ),
        ({}, f"{folder} has no tensor of an encoder, such as encoder.layer_norm.bias; its tensors are none"),
    ):
        (folder / "model.safetensors").write_bytes(safetensors.torch.save(stored))
        got = opened(folder)
        assert isinstance(got, str)
        assert message in got


KERNEL, GAINS = "conv.weight_v", "conv.weight_g"
PRODUCT = torch.arange(1.0, 25.0).reshape(2, 3, 4) * torch.tensor([1.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"conv.weight": PRODUCT[0]},
        {"conv.weight": PRODUCT.long()},
        {"conv.weight": PRODUCT, KERNEL: PRODUCT},
        {"conv.weight": PRODUCT, GAINS: PRODUCT[:1, :1]},
    ],
)
def test_what_is_no_folded_weight_norm_stays(weights: Tensors) -> None:
    assert unfold_weight_norm(weights, "conv", "weight_g", "weight_v") == weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folded_weight_norm_is_taken_apart(dtype: torch.dtype) -> None:
    other = torch.ones(1)
    got = unfold_weight_norm({"conv.weight": PRODUCT.to(dtype), "x": other}, "conv", "weight_g", "weight_v")
    assert got.keys() == {KERNEL, GAINS, "x"}
    assert got[KERNEL].dtype == got[GAINS].dtype == torch.float32
    assert torch.allclose(got[GAINS], PRODUCT.pow(2).sum((0, 1)).sqrt()[None, None])
    assert torch.equal(got[KERNEL][..., 1], torch.ones(2, 3))  # of any direction: its norm is 0
    assert torch.equal(got[KERNEL][..., [0, 2, 3]], PRODUCT[..., [0, 2, 3]])


@pytest.mark.parametrize(
    ("names", "bare"),
    [
        (["encoder.layer_norm.weight", "lm_head.weight"], ["encoder.layer_norm.weight"]),
        (["a.encoder.layer_norm.weight", "a.lm_head.weight", "b"], ["encoder.layer_norm.weight", "lm_head.weight"]),
        (["my_encoder.layer_norm.weight", "x"], ["my_encoder.layer_norm.weight", "x"]),  # no encoder's name ends so
        (
            # A part of another network has an anchor's name, too: what most of them stand below is the encoder.
            ["a.encoder.layer_norm.weight", "a.feature_projection.projection.weight", "b.encoder.layer_norm.weight"],
            ["encoder.layer_norm.weight", "feature_projection.projection.weight"],
        ),
        (["module.x", "a.module.y", "amodule.z"], ["x", "a.y", "amodule.z"]),
    ],
)
def test_names_as_a_bare_model_has_them(names: list[str], bare: list[str]) -> None:
    assert list(bare_names({name: torch.ones(1) for name in names}, "a file")) == bare


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.encoder.layer_norm.weight", "encoder.layer_norm.weight"],
            "a file holds several encoders, whose names begin with '' and 'a.'; keep one of them",
        ),
        (["x", "y", "module.y"], "a file holds y twice, once under a wrapper's name; keep one of them"),
    ],
)
def test_two_of_one_name(names: list[str], message: str) -> None:
    with pytest.raises(TeacherError) as caught:
        bare_names({name: torch.ones(1) for name in names}, "a file")
    assert str(caught.value) == message


def test_no_mask_embedding_where_the_config_has_none(folder: Path) -> None:
    edit_weights(folder, {}, removed=("masked_spec_embed",))
    edit_config(folder, mask_time_prob=0.0, mask_feature_prob=0.0)
    assert not load_encoder(folder).masked_spec_embed.any()


@pytest.mark.parametrize(
    ("files", "normalizes"),
    [
        ({}, False),
        ({"preprocessor_config.json": {"do_normalize": False}}, False),
        ({"preprocessor_config.json": {"do_normalize": True}}, True),
        ({"preprocessor_config.json": {"feature_size": 1}}, True),  # transformers' own default
        (
            {
                "preprocessor_config.json": {"do_normalize": False},
                "processor_config.json": {"feature_extractor": {"do_normalize": True}},
            },
            True,
        ),
    ],
)
def test_normalisation_is_the_preprocessors(folder: Path, files: dict[str, Any], normalizes: bool) -> None:
    (folder / "preprocessor_config.json").unlink()
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    assert load_encoder(folder).config.normalize_waveform == normalizes
    if files:
        assert Wav2Vec2FeatureExtractor.from_pretrained(folder).do_normalize == normalizes


def test_processors_as_transformers_saves_them(folder: Path, tmp_path: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(do_normalize=True), tokenizer).save_pretrained(folder)
    assert load_encoder(folder).config.normalize_waveform


def test_licence_comes_from_the_model_card(folder: Path) -> None:
    assert load_teacher(folder).license is None
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A\nlicense: mit\n")
    assert load_teacher(folder).license == "apache-2.0"


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (b"---\r\nlicense: mit\r\n---\r\n", "mit"),  # as Windows writes it
        (b"---\nauthor: M\xfcller\nlicense: mit\n---\n", "mit"),  # no UTF-8
        (b"---\ntags:\n- a\n---\nlicense: mit\n---\n", None),
        (b"# A\nlicense: mit\n", None),
    ],
)
def test_licences_in_all_kinds_of_cards(folder: Path, card: bytes, found: str | None) -> None:
    (folder / "README.md").write_bytes(card)
    assert load_teacher(folder).license == found


def test_a_file_beside_other_weights_is_what_is_read(folder: Path) -> None:
    other = make_encoder(seed=1)
    torch.save(other.state_dict(), folder / "weights.pt")
    assert_same(load_encoder(folder / "weights.pt"), other)


def test_a_teacher_is_the_same_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert load_teacher(folder).hash == load_teacher(tmp_path / "copy").hash == hash_network(make_encoder())
    edit_weights(tmp_path / "copy", {"masked_spec_embed": torch.zeros(32)})
    assert load_teacher(tmp_path / "copy").hash != load_teacher(folder).hash


def test_a_teacher_takes_the_place_of_another(folder: Path) -> None:
    (folder / "notes.txt").touch()
    replace_teacher(make_encoder(seed=1), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        MANIFEST,
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert_same(load_encoder(folder), make_encoder(seed=1))


def test_a_path_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "x").mkdir(parents=True)
    (tmp_path / "real" / "demo").mkdir()
    (tmp_path / "real" / "me" / "mine").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/x")
    (tmp_path / "way").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source, found in (
        ("x", tmp_path / "real" / "x"),
        ("../way/x", tmp_path / "real" / "x"),
        ("../link", tmp_path / "link"),
        ("~/link", tmp_path / "link"),
        ("me/mine", tmp_path / "real" / "me" / "mine"),
        ("me/yours", "me/yours"),
        ("demo", "demo"),  # whatever is called so
        ("./demo", tmp_path / "real" / "demo"),
        ("~nobody-of-that-name/x", "~nobody-of-that-name/x"),
        ("", ""),
    ):
        assert locate(source, ("demo",)) == str(found)


def test_demo_teacher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.locations, "DEMO_TEACHER", folder)
    teacher = load_teacher("demo")
    assert (teacher.name, teacher.path) == ("demo", folder)
    monkeypatch.setattr(checkpoints.locations, "DEMO_TEACHER", folder / "missing")
    with pytest.raises(TeacherError, match=r"has no demo teacher; name a folder"):
        load_teacher("demo")
    assert Path(checkpoints.locations.__file__).with_name("demo_teacher") == DEMO_TEACHER


def test_hub_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    teacher = load_teacher("facebook/hubert-tiny")
    assert teacher.name == "facebook/hubert-tiny"
    assert "model.safetensors" in asked[0][1]
    assert len(asked) == 1
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    load_teacher("facebook/hubert-tiny")
    assert "pytorch_model.bin" in asked[2][1]


COMMITS = {"main": "a" * 40, "v1": "b" * 40, "a" * 40: "a" * 40, "b" * 40: "b" * 40}


class Hub:
    """One model with two commits, in the layout of the hub's cache; it gives the files that are asked for."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache, self.asked = repository, cache, []

    def snapshot_download(self, name: str, allow_patterns: list[str], revision: str = "main") -> str:
        self.asked.append(revision)
        if revision not in COMMITS:
            raise huggingface_hub.errors.RevisionNotFoundError("a page of advice", response=mock.Mock())
        folder = self.cache / f"models--{name.replace('/', '--')}" / "snapshots" / COMMITS[revision]
        folder.mkdir(parents=True, exist_ok=True)
        for file in (self.repository / COMMITS[revision]).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, folder / file.name)
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Exports of two encoders, with a file that no loading of weights needs."""
    for seed, commit in enumerate(("a" * 40, "b" * 40)):
        encoder = Encoder(OURS)
        randomize(encoder, seed)
        write_encoder(encoder, tmp_path / "repository" / commit)
        (tmp_path / "repository" / commit / "model.onnx").write_bytes(b"a graph")
        write_manifest(tmp_path / "repository" / commit)
    made = Hub(tmp_path / "repository", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


@pytest.mark.parametrize(
    ("source", "commit"), [("me/mine", "a" * 40), ("me/mine@v1", "b" * 40), (f"me/mine@{'b' * 40}", "b" * 40)]
)
def test_a_name_on_the_hub_with_a_revision(hub: Hub, source: str, commit: str) -> None:
    wanted = load_encoder(hub.repository / commit).state_dict()
    teacher = load_teacher(source)
    assert all(torch.equal(weight, wanted[name]) for name, weight in teacher.encoder.state_dict().items())
    assert (teacher.name, teacher.revision) == ("me/mine", commit)
    opened = open_representation(source)
    assert (opened.name, opened.source, opened.revision) == (source, source, commit)
    assert opened.fingerprint == open_representation(str(hub.repository / commit)).fingerprint
    (subject,) = find_subjects([source], None)
    assert (subject.name, subject.runtimes) == (f"me/mine@{commit[:12]}", ("torch", "onnx"))


def test_all_files_of_a_name_are_of_one_commit(hub: Hub) -> None:
    load_teacher("me/mine")
    assert hub.asked == ["main", "a" * 40]  # the second time for what SHA256SUMS lists beside weights


@pytest.mark.parametrize(
    ("place", "revision"),
    [
        (f"snapshots/{'c' * 40}", "c" * 40),
        (f"elsewhere/{'c' * 40}", "v1"),  # as local_dir has it
        (f"snapshots/{'c' * 41}", "v1"),
        (f"snapshots/{'C' * 40}", "v1"),
    ],
)
def test_a_commit_is_known_by_where_the_hub_keeps_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, revision: str
) -> None:
    shutil.copytree(folder, tmp_path / place)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / place))
    assert find_model("me/mine@v1") == Found(tmp_path / place, "me/mine", revision)


def test_weights_in_several_files_on_the_hub_are_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
    asked: list[list[str]] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda _, allow_patterns: asked.append(allow_patterns) or str(folder)
    )
    find_model("me/mine")
    assert len(asked) == 1  # no pickled ones beside them


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.onnx"])
def test_an_export_on_the_hub_is_checked_like_one_on_the_disk(hub: Hub, name: str) -> None:
    path = hub.repository / ("a" * 40) / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=f"is not what its SHA256SUMS lists: {name} differs"):
        load_teacher("me/mine")
    path.unlink()
    shutil.rmtree(hub.cache)
    with pytest.raises(TeacherError, match=f"is not what its SHA256SUMS lists: {name} is missing"):
        load_teacher("me/mine")
    load_teacher("me/mine@v1")


@pytest.mark.usefixtures("hub")
def test_a_revision_that_is_not_there() -> None:
    with pytest.raises(TeacherError) as caught:
        load_teacher("me/mine@v2")
    assert str(caught.value) == (
        "there is no folder me/mine@v2, and the Hugging Face hub gave no model of that name "
        "(RevisionNotFoundError); check the name and the connection"
    )
    with pytest.raises(TeacherError, match=r"^there is no folder"):
        load_teacher("me/mine@../v1")
    for source in ("me/mine@", "@v1", "me/mine@v1@v2", "./me@v1", Path("me/mine@")):
        with pytest.raises(TeacherError) as caught:
            load_teacher(source)
        assert str(caught.value) == f"there is no folder {source}"  # and nobody was asked for it


def test_a_disk_that_keeps_no_files_of_the_hub_is_not_taken_for_a_wrong_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(NestlingError) as caught:
        load_teacher("me/mine")
    assert str(caught.value) == (
        "the files of me/mine could not be kept: No space left on device (/cache/x); free space, or set HF_HOME to a "
        "folder that can be written"
    )
    assert caught.value.exit_code == 1


def test_whatever_goes_wrong_on_the_way_has_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(TeacherError, match=r"gave no model of that name \(ZeroDivisionError\); check the name and"):
        load_teacher("me/mine")


def test_a_manifest_on_the_hub_that_is_refused_is_named(hub: Hub) -> None:
    (hub.repository / ("a" * 40) / "SHA256SUMS").write_bytes(b"x" * (2 << 20))
    with pytest.raises(NestlingError, match="SHA256SUMS is no manifest"):
        load_teacher("me/mine")


def test_loading_needs_no_transformers() -> None:
    code = "import sys, checkpoints.teachers; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What must be refused


def refusal(folder: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert len(message.splitlines()) <= 5
    return message


def test_hub_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def snapshot_download(name: str, **_: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"{name}: a page of advice")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(TeacherError) as caught:
        load_teacher("facebook/hubert-tiny")
    assert str(caught.value) == (
        "there is no folder facebook/hubert-tiny, and the Hugging Face hub gave no model of that name "
        "(LocalEntryNotFoundError); check the name and the connection"
    )
    for name in ("./nowhere", "/no/such/folder", "a/b/c", "", "../x", "~nobody-of-that-name/x"):
        with pytest.raises(TeacherError, match=r"^there is no folder"):
            load_teacher(name or str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "sew"}, "model_type is 'sew'; an encoder is one of hubert, wav2vec2, wavlm"),
        ({"model_type": None}, "model_type is None; an encoder is one of hubert, wav2vec2, wavlm"),
        ({"model_type": ["hubert"]}, "model_type is ['hubert']; an encoder is one of hubert, wav2vec2, wavlm"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm=true is not supported, only false"),
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm=false is not supported, only true"),
        ({"hidden_act": "relu"}, 'hidden_act="relu" is not supported, only "gelu"'),
        ({"feat_extract_activation": "selu"}, 'feat_extract_activation="selu" is not supported, only "gelu"'),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06 is not supported, only 1e-05"),
        ({"adapter_attn_dim": 16}, "adapter_attn_dim=16 is not supported, only null"),
        ({"add_adapter": True}, "add_adapter=true is not supported, only false"),
        ({"quantization_config": {"bits": 4}}, 'quantization_config={"bits": 4} is not supported, only null'),
    ],
)
@pytest.mark.parametrize("model_type", ["hubert", "wav2vec2"])
def test_a_network_that_an_encoder_does_not_compute(
    folder: Path, model_type: str, changes: dict[str, Any], message: str
) -> None:
    edit_config(folder, **{"model_type": model_type, **changes})
    with pytest.raises(OtherNetworkError) as caught:
        load_encoder(folder)
    assert str(caught.value) == f"{folder}: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feat_extract_norm": "batch"}, "feat_extract_norm='batch' is not 'group' or 'layer'"),
        ({"conv_dim": [8, 12]}, "conv_dim, conv_kernel and conv_stride must be equally long"),
        ({"conv_dim": 16}, "conv_dim=16 is not like [512, 512"),
        ({"conv_dim": [8, -12, 16]}, "conv_dim=[8, -12, 16] is not like [512, 512"),
        ({"hidden_size": "32"}, 'hidden_size="32" is not like 768'),
        ({"hidden_size": None}, "hidden_size=null is not like 768"),
        ({"conv_bias": 1}, "conv_bias=1 is not like false"),
        ({"num_attention_heads": 5}, "hidden_size=32 must be a multiple of num_attention_heads=5"),
        ({"num_conv_pos_embedding_groups": 3}, "and of num_conv_pos_embedding_groups=3"),
        ({"model_type": "nestling"}, "config.json lacks conv_dims, conv_kernels, conv_norm"),
        ({"model_type": "wavlm", "num_buckets": 3}, "no attention has gates of width 32 with 3 buckets up to a"),
        ({"model_type": "wavlm", "max_bucket_distance": 80}, "with 320 buckets up to a distance of 80"),
        ({"model_type": "wavlm", "max_bucket_distance": "9"}, 'max_bucket_distance="9" is not like 800'),
    ],
)
def test_a_broken_configuration_is_refused_in_a_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": "32"}, 'embed_dim="32" is not like 1'),
        ({"heads": [4, 0]}, "heads=[4, 0] is not like [1]"),
        ({"conv_norm": None}, 'conv_norm=null is not like "layer"'),
        ({"gate_width": 24}, "no attention has gates of width 24 with 320 buckets up to a distance of 800"),
        ({"gate_width": 33}, "no attention has gates of width 33"),
        ({"heads": [4, 4, 4]}, "no encoder has the shape of config.json: zip()"),
        ({"pos_conv_groups": 3}, "no encoder has the shape of config.json: in_channels must be divisible by groups"),
    ],
)
def test_a_broken_export_is_refused_in_a_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "nestling", **SMALL.to_dict(), **changes}))
    assert message in refusal(folder)


def test_every_fault_of_the_weights_is_named(folder: Path) -> None:
    edit_weights(
        folder,
        {
            "encoder.layers.0.layer_norm.weight": torch.ones(31),
            "encoder.layers.2.layer_norm.weight": torch.ones(32),
            "encoder.layer_norm.bias": torch.zeros(32, dtype=torch.int64),
            "masked_spec_embed": torch.full((32,), torch.nan),
            "lm_head.weight": torch.ones(5, 32),
        },
        removed=("encoder.layers.1.attention.k_proj.bias",),
    )
    with pytest.raises(TeacherError) as caught:
        load_teacher(folder)
    assert str(caught.value).splitlines()[1:] == [
        "  encoder.layer_norm.bias is torch.int64, not dense floating point",
        "  encoder.layers.0.layer_norm.weight has shape [31], not [32]",
        "  masked_spec_embed has numbers that are not finite",
        "  missing encoder.layers.1.attention.k_proj.bias",
        "  and 1 more",
    ]


@pytest.mark.parametrize("name", sorted(Encoder(SMALL).state_dict()))
def test_a_missing_tensor_is_never_replaced(folder: Path, name: str) -> None:
    edit_weights(folder, {}, removed=(name,))
    assert f"missing {name}" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("preprocessor_config.json", {"do_normalize": 1}, "do_normalize=1 of preprocessor_config.json is not true or"),
        (
            "processor_config.json",
            {"feature_extractor": {"do_normalize": "no"}},
            'do_normalize="no" of processor_config.json is not true or false',
        ),
        ("processor_config.json", {"feature_extractor": [1]}, "feature_extractor=[1] of processor_config.json is no o"),
        (
            "processor_config.json",
            {"feature_extractor": {"sampling_rate": 8000}},
            "wants audio at 8000 Hz; only 16000 Hz is supported (sampling_rate of processor_config.json)",
        ),
    ],
)
def test_a_broken_preprocessor_is_refused(folder: Path, name: str, values: dict[str, Any], message: str) -> None:
    (folder / name).write_text(json.dumps(values))
    assert message in refusal(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert refusal(folder) == f"{folder / 'config.json'} is not a file"


def test_broken_folders(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])
    assert f"model.safetensors is truncated: {len(data) - 1:,} bytes are left of {len(data):,}" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "has no weights: model.safetensors or pytorch_model.bin is wanted" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(data)
    assert "pytorch_model.bin is no checkpoint that torch.save writes" in refusal(folder)
    torch.save({"model": {"weight": torch.ones(1)}}, folder / "pytorch_model.bin")
    assert "holds something else than tensors by name" in refusal(folder)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    assert "wants audio at 8000 Hz; only 16000 Hz is supported" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json is not a JSON object" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json; a model in Hugging Face format is wanted" in refusal(folder)


class Gadget:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_code_of_a_file_is_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Gadget(tmp_path / "canary")}, folder / "pytorch_model.bin")
    assert "holds more than tensors" in refusal(folder)
    assert not (tmp_path / "canary").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "canary").exists()  # the gadget works


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": (4, 2)},
        {"ffn_dims": (48, 32)},
        {"head_dim": 16},
        {"embed_dim": 64},
        {**GATES, "gate_width": 64},
        {**GATES, "heads": (3, 3)},
    ],
    ids=str,
)
def test_shapes_that_no_model_has(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = make_encoder(**changes)
    assert hugging_face_config(encoder.config) is None
    with pytest.raises(ValueError, match=r"no HubertModel or WavLMModel has this shape: layers must be alike"):
        save_encoder(encoder, tmp_path)
    assert not list(tmp_path.iterdir())
