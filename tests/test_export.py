"""An export stands alone and equals the supernet's subnet, or is not written."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from contextlib import chdir, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
import transformers.dynamic_module_utils
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, HubertModel

import checkpoints
import checkpoints.export
import checkpoints.proof
from checkpoints.export import CODE, TARGETS, ExportError, ExportReport, export_subnet, write_encoder
from checkpoints.manifest import MANIFEST, write_manifest
from checkpoints.proof import _temporary_modules
from checkpoints.teachers import load_teacher
from nestling.reports.model_card import ExportRecord, model_card
from search_spaces.budget import Budget
from search_spaces.costs import count_params
from search_spaces.errors import NestlingError
from search_spaces.strict_yaml import parse_yaml
from search_spaces.subnet import Layer, Subnet
from supernet.encoder import Encoder
from supernet.front_end import normalize_waveform
from supernet.importance import WIDTH, reorder
from supernet.model import Supernet
from tests.encoders import TOLERANCE, error_of, make_batch, randomize
from tests.spaces import THREE_CONVS, small

RECORD = ExportRecord(
    teacher="facebook/hubert-base-ls960",
    license="apache-2.0",
    datasets=("openslr/librispeech_asr", "my audio"),
    language="en",
    scores={"phone error rate, test | 3 voices": "21.3 %"},
)
CARD = model_card(RECORD)
NO_BUDGET = Budget()


def make_supernet(**backbone: Any) -> Supernet:
    """Of `tiny`, small, with three convolutions and up to three layers: each is written and opened alike."""
    space = small("tiny", **THREE_CONVS, **backbone)
    supernet = Supernet(replace(space, depth={2: ((0, 2), (1, 2)), 3: ((0, 1, 2),)}), torch.Generator())
    randomize(supernet.container)
    return supernet


def uneven(supernet: Supernet) -> Subnet:
    """A subnet that no HubertModel can be."""
    subnet = supernet.space.sample(random.Random(5))
    assert len(set(subnet.layers)) > 1
    return subnet


def even(supernet: Supernet) -> Subnet:
    """A subnet that is a HubertModel: width 16 = 4 heads of 4."""
    smallest = supernet.space.smallest()
    return replace(smallest, embed_dim=16, layers=(Layer(4, 24),) * len(smallest.layers))


SHAPES = {"wrapper": uneven, "plain": even}


@pytest.fixture(scope="module", params=SHAPES)
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Supernet, ExportReport]:
    supernet = make_supernet()
    folder = tmp_path_factory.mktemp("exports") / f"my-{request.param}.v1"
    subnet = SHAPES[request.param](supernet)
    budget = Budget.parse("params<=1M, latency<=5ms@1s", supernet.space)
    report = export_subnet(supernet, subnet, folder, budget=budget, card=CARD)
    assert report.plain == (request.param == "plain")
    return supernet, report


def make_waves(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.2 * rng.standard_normal(size) + 0.1).astype(np.float32) for size in sizes]


@torch.no_grad()
def outputs_of(supernet: Supernet, subnet: Subnet, waves: list[np.ndarray]) -> list[list[Tensor]]:
    """Every hidden state and the last output, of each utterance on its own."""
    traces = [supernet(torch.from_numpy(wave)[None], None, subnet) for wave in waves]
    return [[x[0] for x in (*trace.hidden, trace.last)] for trace in traces]


def rms_error_of(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest RMS error of any tensor, relative to its RMS.

    Not of any element: a norm over the four channels that these front-ends may have blows up a few of them.
    """
    assert [x.shape for x in got] == [x.shape for x in wanted]
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(got, wanted, strict=True))


def assert_computes(folder: Path, supernet: Supernet, subnet: Subnet) -> None:
    """The preprocessor and `AutoModel` make of a padded batch what the supernet makes of each utterance."""
    waves = make_waves(6000, 4001, 9000)
    prepare = AutoFeatureExtractor.from_pretrained(folder)
    model, faults = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(faults.values())
    if supernet.space.backbone.conv_norm == "group":
        waves = waves[:1]
    with torch.no_grad():
        inputs = prepare(waves, sampling_rate=16000, padding=True, return_tensors="pt")
        out = model(**inputs, output_hidden_states=True)
    for i, wanted in enumerate(outputs_of(supernet, subnet, waves)):
        got = [x[i, : len(wanted[0])] for x in (*out.hidden_states, out.last_hidden_state)]
        assert rms_error_of(got, wanted) <= TOLERANCE


# What is written


def test_export_computes_what_the_supernet_computes(export: tuple[Supernet, ExportReport]) -> None:
    supernet, report = export
    assert_computes(report.folder, supernet, report.subnet)
    assert report.errors.keys() == {"nestling", "transformers"}
    assert 0 < max(report.errors.values()) <= checkpoints.proof.TOLERANCE


def test_export_holds_what_was_counted(export: tuple[Supernet, ExportReport]) -> None:
    supernet, report = export
    weights = safetensors.torch.load_file(report.folder / "model.safetensors")
    params = count_params(supernet.space.backbone, report.subnet)
    assert sum(weight.numel() for weight in weights.values()) == params == report.params
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert report.size_bytes == 4 * params
    model = AutoModel.from_pretrained(report.folder, trust_remote_code=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == params


def test_export_loads_as_a_teacher(export: tuple[Supernet, ExportReport]) -> None:
    supernet, report = export
    teacher = load_teacher(report.folder)
    wanted = supernet.extract(report.subnet)
    assert teacher.encoder.config == wanted.config
    for name, weight in wanted.state_dict().items():
        assert torch.equal(teacher.encoder.state_dict()[name], weight)
    assert teacher.license == "apache-2.0"


def test_subnet_json(export: tuple[Supernet, ExportReport]) -> None:
    supernet, report = export
    values = json.loads((report.folder / "subnet.json").read_text())
    assert values["schema_version"] == 1
    assert Subnet.from_dict(values["subnet"]).id == report.subnet.id == values["id"]
    assert values["space"] == {"name": supernet.space.name, "hash": supernet.space.hash}
    assert values["costs"]["params"] == report.params
    assert values["budget"] == "params<=1M, latency<=5ms@1s"


def test_manifest(export: tuple[Supernet, ExportReport]) -> None:
    folder = export[1].folder
    listed = dict(reversed(line.split("  ")) for line in (folder / MANIFEST).read_text().splitlines())
    assert listed.keys() == {path.name for path in folder.iterdir()} - {MANIFEST, "README.md"}
    assert {"subnet.json", "model.safetensors"} < listed.keys()
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_model_card(export: tuple[Supernet, ExportReport]) -> None:
    supernet, report = export
    _, head, text = (report.folder / "README.md").read_text().split("---\n", 2)
    values = parse_yaml(head)
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "feature-extraction"
    assert values["base_model"] == "facebook/hubert-base-ls960"
    assert values["license"] == "apache-2.0"
    assert values["datasets"] == ["openslr/librispeech_asr"]
    assert values["language"] == "en"
    for wanted in (
        f"**{report.params:,} parameters**",
        f"| multiply-accumulates, 1 s of audio | {report.macs:,} |",
        "| budget | params<=1M, latency<=5ms@1s (latency is measured, not counted) |",
        f"subnet `{report.subnet.id}` of the space `{supernet.space.name}`",
        "trained on `openslr/librispeech_asr`, `my audio`",
        "bidirectional and does not stream",
        "400 samples at least, and gives 50 frames a second",
        "| phone error rate, test \\| 3 voices | 21.3 % |",
        f"| width | {report.subnet.embed_dim} |",
    ):
        assert wanted in text, wanted
    digest = hashlib.sha256((report.folder / "config.json").read_bytes()).hexdigest()
    assert digest not in text
    if report.plain:
        assert "trust_remote_code" not in text
        assert "The feature extractor sees to that" in text
    else:
        assert f'AutoModel.from_pretrained("{report.folder.name}", trust_remote_code=True)' in text
        assert "so the feature extractor does not" in text
        code = sorted(report.folder.glob("*.py"))
        assert [path.name for path in code] == sorted(CODE)
        for path in code:
            assert f"- `{path.name}` {hashlib.sha256(path.read_bytes()).hexdigest()}" in text


@pytest.mark.parametrize("shape", SHAPES)
def test_gates_are_exported_as_a_wavlm_if_one_has_the_shape(tmp_path: Path, shape: str) -> None:
    space = small("tiny")
    backbone = replace(space.backbone, gate_width=16, num_buckets=20, max_distance=40)
    supernet = Supernet(replace(space, backbone=backbone, embed_dim=(16,)), torch.Generator())
    randomize(supernet.container)
    subnet = SHAPES[shape](supernet)
    report = export_subnet(supernet, subnet, tmp_path / "gated", budget=NO_BUDGET, card=CARD)
    assert report.plain == (shape == "plain")
    model = AutoModel.from_pretrained(report.folder, trust_remote_code=True)
    assert type(model).__name__ == ("WavLMModel" if report.plain else "NestlingModel")
    assert sum(parameter.numel() for parameter in model.parameters()) == report.params
    card = (report.folder / "README.md").read_text()
    assert ("It is a plain `WavLMModel`: no remote code." in card) == report.plain
    assert parse_yaml(card.split("---\n")[1])["tags"][1] == "wavlm"
    assert load_teacher(report.folder).encoder.config == supernet.extract(subnet).config


@pytest.mark.parametrize("name", ["it's", 'say "so"', "`tick`", "two\nlines", "<b>", "\x1b[31m", "back\\slash"])
def test_a_card_shows_names_as_they_are(tmp_path: Path, name: str) -> None:
    supernet = make_supernet()
    record = replace(RECORD, teacher=name, datasets=(name,), commands=(f"nestling export subnet --out {name}",))
    export_subnet(supernet, even(supernet), tmp_path / name, budget=NO_BUDGET, card=model_card(record), to=("s3prl",))
    text = (tmp_path / name / "README.md").read_text("utf-8").split("---\n", 2)[2]
    assert text.replace("\n", "").isprintable()
    assert text.splitlines()[1] == "# " + {"`tick`": r"\`tick\`", "<b>": r"\<b\>", "\x1b[31m": r"\\x1b\[31m"}.get(
        name, name.replace("\\", "\\\\").replace("\n", "\\\\n")
    )
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        assert name in literals(block)


def literals(source: str) -> list[object]:
    """The constants in Python's source; None for what is no Python."""
    try:
        return [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    except SyntaxError:
        return [None]


def test_a_sparse_card(tmp_path: Path) -> None:
    supernet = make_supernet()
    folder = tmp_path / "x"
    export_subnet(
        supernet,
        even(supernet),
        folder,
        budget=NO_BUDGET,
        card=model_card(ExportRecord(teacher="models", datasets=("a b",))),
    )
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    assert parse_yaml(head).keys() == {"library_name", "pipeline_tag", "tags"}
    assert "distilled from `models`" in text
    assert "That licence is not known here" in text
    assert "| budget | none |" in text
    assert "Scores" not in text


OUTSIDE = """
import importlib.abc, json, sys, warnings
import numpy as np

PACKAGES = "search_spaces speech_data supernet distillation speech_tasks nas checkpoints cli".split()

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocker())
for package in PACKAGES:
    try:
        __import__(package)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{package} can be imported")

import torch
from transformers import AutoFeatureExtractor, AutoModel

folder, plain = sys.argv[1], sys.argv[2] == "True"
model, faults = AutoModel.from_pretrained(folder, trust_remote_code=not plain, output_loading_info=True)
prepare = AutoFeatureExtractor.from_pretrained(folder)
wave = np.load(sys.argv[3])
with torch.no_grad():
    out = model(**prepare(wave, sampling_rate=16000, return_tensors="pt"), output_hidden_states=True)
    torch.save([*out.hidden_states, out.last_hidden_state], sys.argv[4])
model.save_pretrained(sys.argv[5])
again = AutoModel.from_pretrained(sys.argv[5], trust_remote_code=not plain)
assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
faults = {kind: sorted(map(str, names)) for kind, names in faults.items()}
print(json.dumps({"type": type(model).__name__, "faults": faults}))
"""


def test_export_needs_no_nestling(export: tuple[Supernet, ExportReport], tmp_path: Path) -> None:
    supernet, report = export
    (wave,) = make_waves(5000)
    np.save(tmp_path / "wave.npy", wave)
    arguments = [report.folder, str(report.plain), "wave.npy", "out.pt", "saved"]
    result = subprocess.run(
        [sys.executable, "-I", "-c", OUTSIDE, *arguments],
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["type"] == ("HubertModel" if report.plain else "NestlingModel")
    assert not any(said["faults"].values())
    got = [x[0] for x in torch.load(tmp_path / "out.pt")]
    assert rms_error_of(got, outputs_of(supernet, report.subnet, [wave])[0]) <= TOLERANCE


def test_wrapper_answers_as_hubert_does(tmp_path: Path) -> None:
    """The same network as a HubertModel and behind the wrapper: same arguments, same outputs."""
    supernet = make_supernet(normalize_waveform=False, norm_first=True)
    encoder = supernet.extract(even(supernet))
    write_encoder(encoder, tmp_path / "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.export, "hugging_face_config", lambda _: None)
        write_encoder(encoder, tmp_path / "wrapper")
    plain = HubertModel.from_pretrained(tmp_path / "plain")
    wrapper = AutoModel.from_pretrained(tmp_path / "wrapper", trust_remote_code=True)
    wave = torch.from_numpy(np.stack([*make_waves(5000, 5000)]))
    mask = torch.ones(2, 5000, dtype=torch.int64)
    mask[1, 3000:] = 0
    assert wrapper.config.hidden_size == plain.config.hidden_size
    assert wrapper.config.num_hidden_layers == plain.config.num_hidden_layers
    for arguments in (
        {},
        {"attention_mask": mask},
        {"attention_mask": mask.bool(), "output_hidden_states": True},
        {"output_hidden_states": True, "return_dict": False},
        {"return_dict": False},
    ):
        with torch.no_grad():
            got, wanted = wrapper(wave, **arguments), plain(wave, **arguments)
        assert type(got) is type(wanted)
        assert len(got) == len(wanted)
        # Two implementations of the front-end round otherwise, and weights at unit scale amplify it.
        assert error_of([got[0]], [wanted[0]]) <= 5 * TOLERANCE
        if "output_hidden_states" in arguments:
            assert type(got[1]) is type(wanted[1]) is tuple
            assert error_of(list(got[1]), list(wanted[1])) <= 5 * TOLERANCE
            assert error_of([got[1][-1]], [got[0]]) > TOLERANCE  # before the last norm
    fresh = AutoModel.from_config(
        AutoConfig.from_pretrained(tmp_path / "wrapper", trust_remote_code=True), trust_remote_code=True
    )
    assert all(parameter.isfinite().all() for parameter in fresh.parameters())
    embedding = fresh.nestling.masked_spec_embed
    assert 0 <= embedding.min() < embedding.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "backbone",
    [
        {"conv_norm": "group"},
        {"norm_first": True, "conv_bias": True},
        {"normalize_waveform": False, "conv_bias": True},
        {"conv_norm": "group", "norm_first": True, "normalize_waveform": False},
    ],
    ids="-".join,
)
def test_every_backbone_exports(tmp_path: Path, shape: str, backbone: dict[str, Any]) -> None:
    supernet = make_supernet(**backbone)
    subnet = SHAPES[shape](supernet)
    report = export_subnet(supernet, subnet, tmp_path / "x", budget=NO_BUDGET, card=CARD)
    assert_computes(report.folder, supernet, subnet)
    prepare = AutoFeatureExtractor.from_pretrained(report.folder)
    normalize = backbone.get("normalize_waveform", True)
    assert prepare.do_normalize == (normalize and report.plain)
    assert prepare.return_attention_mask == (backbone.get("conv_norm") != "group")
    text = (report.folder / "README.md").read_text()
    assert ("Its group norm averages over time" in text) == (backbone.get("conv_norm") == "group")
    assert ("It takes the waveform as it is" in text) == (not normalize)


def test_a_reordered_supernet_exports(tmp_path: Path) -> None:
    supernet = make_supernet()
    groups, width = supernet.space.backbone.pos_conv_groups, supernet.space.container.embed_dim
    reorder(supernet, {WIDTH: torch.rand(groups, width // groups, generator=torch.Generator().manual_seed(0))})
    subnet = uneven(supernet)
    export_subnet(supernet, subnet, tmp_path / "x", budget=NO_BUDGET, card=CARD)
    assert_computes(tmp_path / "x", supernet, subnet)


# What is refused, leaving nothing behind


def refusal(supernet: Supernet, subnet: Subnet, folder: Path, budget: str = "") -> str:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(NestlingError) as caught:
        export_subnet(supernet, subnet, folder, budget=Budget.parse(budget, supernet.space), card=CARD)
    assert sorted(folder.parent.rglob("*")) == before
    return str(caught.value)


def test_what_the_space_or_the_budget_does_not_hold(tmp_path: Path) -> None:
    supernet = make_supernet()
    subnet = uneven(supernet)
    params = count_params(supernet.space.backbone, subnet)
    assert "embed_dim=17 is not in the space" in refusal(supernet, replace(subnet, embed_dim=17), tmp_path / "x")
    message = refusal(supernet, subnet, tmp_path / "x", f"params<={params - 1}, size<=1GB")
    assert f"subnet {subnet.id} does not hold the budget params<={params - 1:_}, size<=1GB" in message
    assert f"it has params {params:,}, size {4 * params:,}" in message
    export_subnet(
        supernet,
        subnet,
        tmp_path / "deep" / "x",
        budget=Budget.parse(f"params<={params}", supernet.space),
        card=CARD,
    )


def test_folders_of_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = make_supernet()
    folder = tmp_path / "x"
    folder.touch()
    assert "x is a file, and a folder is to be written; name another" in refusal(supernet, even(supernet), folder)
    folder.unlink()
    folder.mkdir()
    (folder / "thesis.tex").touch()
    assert "holds thesis.tex, which is no part of an export" in refusal(supernet, even(supernet), folder)
    (folder / "thesis.tex").unlink()
    (folder / "config.json").touch()  # a model, but not ours
    assert "holds config.json, which is no part of an export" in refusal(supernet, even(supernet), folder)
    (folder / "config.json").unlink()
    monkeypatch.chdir(tmp_path)
    for choose in (uneven, even, uneven):  # an empty folder, then earlier exports
        report = export_subnet(supernet, choose(supernet), "x", budget=NO_BUDGET, card=CARD)
        assert (folder / "encoder.py").exists() == (not report.plain)
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
    (folder / "thesis.tex").touch()
    assert "holds thesis.tex" in refusal(supernet, even(supernet), folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wrong_number_in_any_tensor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    supernet = make_supernet(conv_bias=True, normalize_waveform=False)
    subnet = SHAPES[shape](supernet)
    names = [name for name, _ in supernet.extract(subnet).named_parameters()]
    ineffective = [name for name in names if name.endswith(".k_proj.bias") or name == "masked_spec_embed"]
    rng = random.Random(0)
    chosen = rng.sample(sorted(set(names) - set(ineffective)), 12)
    for wrong in chosen:

        def write_wrongly(encoder: Encoder, folder: Path, wrong: str = wrong) -> None:
            weight = dict(encoder.named_parameters())[wrong].detach().flatten()
            weight[len(weight) // 2] += 0.05
            write_encoder(encoder, folder)

        monkeypatch.setattr(checkpoints.export, "write_encoder", write_wrongly)
        message = refusal(supernet, subnet, tmp_path / "x")
        assert "x was not written: opened with nestling, it does not compute what the supernet computes" in message
        assert "allowed 1e-05" in message


@pytest.mark.parametrize("shape", SHAPES)
def test_faults_of_the_written_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    supernet = make_supernet()
    subnet = SHAPES[shape](supernet)

    def spoil(name: str, old: str, new: str) -> str:
        def write(encoder: Encoder, folder: Path) -> None:
            write_encoder(encoder, folder)
            text = (folder / name).read_text()
            assert old in text
            (folder / name).write_text(text.replace(old, new))
            write_manifest(folder)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.export, "write_encoder", write)
            return refusal(supernet, subnet, tmp_path / "x")

    def drop(removed: str, added: dict[str, Tensor]) -> str:
        def write(encoder: Encoder, folder: Path) -> None:
            write_encoder(encoder, folder)
            weights = safetensors.torch.load_file(folder / "model.safetensors")
            weights = {name: weight for name, weight in weights.items() if not name.endswith(removed)} | added
            (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights))
            write_manifest(folder)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.export, "write_encoder", write)
            return refusal(supernet, subnet, tmp_path / "x")

    params, width = count_params(supernet.space.backbone, subnet), subnet.embed_dim
    message = drop("masked_spec_embed", {})
    assert f"the written weights hold {params - width:,} numbers, but {params:,} were counted" in message
    assert "missing masked_spec_embed" in drop("masked_spec_embed", {"other": torch.ones(width)})
    opened = "opened with transformers, it does not compute what the supernet computes"
    if shape == "plain":
        assert opened in spoil("preprocessor_config.json", '"return_attention_mask": true', '"other": true')
        message = spoil("preprocessor_config.json", '"do_normalize": true', '"do_normalize": false')
        assert opened.replace("transformers", "nestling") in message
        assert "it cannot be read back" in spoil("config.json", '"hidden_size": 16', '"hidden_size": 32')
    else:
        assert opened in spoil("front_end.py", "return F.gelu(x)", "return F.relu(x)")
        assert "transformers cannot open it" in spoil("modeling_nestling.py", "NestlingModel", "OtherModel")
        assert "it cannot be read back" in spoil("config.json", '"head_dim"', '"headdim"')


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(encoder: Encoder, folder: Path) -> None:
        write_encoder(encoder, folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.export, "write_encoder", write)
    supernet = make_supernet()
    message = refusal(supernet, even(supernet), tmp_path / "x")
    assert "x was not written: [Errno 28] No space left on device" in message


def test_a_network_that_blows_up_roundings_is_allowed_as_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = make_supernet()
    monkeypatch.setattr(checkpoints.proof, "TOLERANCE", 1e-9)  # as if every network did
    report = export_subnet(supernet, even(supernet), tmp_path / "x", budget=NO_BUDGET, card=CARD)
    assert max(report.errors.values()) > 1e-9
    monkeypatch.setattr(checkpoints.proof, "MAX_TOLERANCE", 1e-9)
    assert "opened with transformers" in refusal(supernet, even(supernet), tmp_path / "y")


def test_errors_that_are_not_numbers_fail_the_proof() -> None:
    wanted = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    error = checkpoints.proof.relative_error
    assert error(wanted, wanted, [5, 3]) == 0
    got = wanted.clone()
    got[2, 1, 3] = torch.nan
    assert error(got, wanted, [5, 3]) == 0  # beyond the valid frames
    assert not error(got, wanted, [5, 4]) <= 1
    assert error(wanted[:2], wanted, [5, 3]) == float("inf")
    got = wanted.clone()
    got[0, 0] *= 1.5
    assert error(got, wanted, [5, 3]) == pytest.approx(0.5)


def test_the_proof_draws_nothing(export: tuple[Supernet, ExportReport], tmp_path: Path, capfd: Any) -> None:
    supernet, report = export
    bars = transformers.utils.logging.is_progress_bar_enabled()
    export_subnet(supernet, report.subnet, tmp_path / "x", budget=NO_BUDGET, card=CARD)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled() == bars


@pytest.mark.parametrize("shape", SHAPES)
def test_every_target_is_written_proven_and_explained(tmp_path: Path, shape: str) -> None:
    supernet = make_supernet()
    subnet = SHAPES[shape](supernet)
    audio = [0.1 * torch.randn(6000, generator=torch.Generator().manual_seed(0))]
    report = export_subnet(
        supernet, subnet, tmp_path / "my-encoder", budget=NO_BUDGET, card=CARD, to=TARGETS, audio=audio
    )
    assert report.errors.keys() == {"nestling", "transformers", "torch.hub", "onnxruntime"}
    assert max(report.errors.values()) <= 1e-5
    assert report.int8_error is not None
    assert 1e-4 < report.int8_error < 0.5
    names = {path.name for path in report.folder.iterdir()}
    assert {"model.onnx", "model.int8.onnx", "expert.py", "hubconf.py", "encoder.json", MANIFEST} < names
    assert report.int8_bytes == (report.folder / "model.int8.onnx").stat().st_size
    card = (report.folder / "README.md").read_text()
    for wanted in (
        f"| model.int8.onnx | {report.int8_bytes:,} bytes |",
        'onnxruntime.InferenceSession("my-encoder/model.onnx")',
        "(opset 20; batch and time are dynamic)",
        f"off by up to {report.int8_error:.1%} of\ntheir RMS (on speech of the run)",
        'torch.hub.load("my-encoder", "my_encoder", source="local")',
    ):
        assert wanted in card, wanted
    run_blocks(card, tmp_path)
    load_teacher(report.folder)
    export_subnet(
        supernet, subnet, report.folder, budget=NO_BUDGET, card=CARD
    )  # replaced, with what it does not ask for
    assert not {"model.onnx", "expert.py"} & {path.name for path in report.folder.iterdir()}


def run_blocks(card: str, folder: Path) -> None:
    """Runs what the card says, on two waveforms of unequal length."""
    rng = np.random.default_rng(0)
    names = {"waveforms": [rng.standard_normal(n).astype(np.float32) for n in (4000, 2700)]}
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 3
    with chdir(folder):
        for block in blocks:
            exec(block, names)
    assert names["last"].shape[0] == len(names["hidden"][0]) == len(names["states"][0]) == 2
    for a, b in zip(names["hidden"], names["states"], strict=True):
        assert a.shape == b.shape


def test_targets_that_do_not_exist(tmp_path: Path) -> None:
    supernet = make_supernet()
    with pytest.raises(ExportError, match=r"--to onx: no such target; did you mean `onnx`\? there are hf, onnx"):
        export_subnet(supernet, even(supernet), tmp_path / "x", budget=NO_BUDGET, card=CARD, to=("onx",))


def test_exports_open_without_remote_code_where_nestling_is_installed(tmp_path: Path) -> None:
    supernet = make_supernet()
    report = export_subnet(supernet, SHAPES["wrapper"](supernet), tmp_path / "x", budget=NO_BUDGET, card=CARD)
    checkpoints.register_auto_model()
    checkpoints.register_auto_model()  # twice does no harm
    model = AutoModel.from_pretrained(report.folder)
    assert type(model).__module__ == "checkpoints.runtimes.modeling_nestling"
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(wave).last_hidden_state, supernet(wave, None, report.subnet).last, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_fifty_random_subnets_each_equal_the_supernet_in_transformers(tmp_path: Path, seed: int) -> None:
    """Two hundred in all, on unequal lengths; the wrapper is what most of them need, and it normalises by itself."""
    supernet = make_supernet()
    checkpoints.register_auto_model()
    rng = random.Random(seed)
    wave, lengths = make_batch()
    mask = (torch.arange(wave.shape[1]) < lengths.unsqueeze(1)).long()
    for _ in range(50):
        subnet = supernet.space.sample(rng)
        write_encoder(supernet.extract(subnet), tmp_path / subnet.id)
        model = AutoModel.from_pretrained(tmp_path / subnet.id)
        heard = normalize_waveform(wave, lengths) if isinstance(model, HubertModel) else wave
        with torch.no_grad():
            inside = supernet(wave, lengths, subnet)
            outside = model(heard, attention_mask=mask, output_hidden_states=True)
        got = [*outside.hidden_states, outside.last_hidden_state]
        assert error_of(got, [*inside.hidden, inside.last], inside.valid) <= TOLERANCE


NO_HOME = """
import sys
from pathlib import Path
from random import Random
import torch
from checkpoints.export import export_subnet
from nestling.reports.model_card import ExportRecord, model_card
from search_spaces.budget import Budget
from supernet.model import Supernet
from tests.spaces import small

supernet = Supernet(small("tiny"), torch.Generator().manual_seed(0))
try:
    report = export_subnet(
        supernet,
        supernet.space.sample(Random(5)),
        Path("x"),
        budget=Budget(),
        card=model_card(ExportRecord()),
        to=["hf", "s3prl"],
    )
    print(sorted(report.errors), report.plain)
except Exception as error:
    print(error)
"""


def test_the_proof_needs_no_home(tmp_path: Path) -> None:
    """As in containers with a user of their own, and on read-only systems."""
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TORCH_HOME"), "/proc/none")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | homes
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "['nestling', 'torch.hub', 'transformers'] False\n", done.stderr


def test_the_proof_leaves_transformers_own_modules_alone(tmp_path: Path) -> None:
    loader = transformers.dynamic_module_utils
    supernet = make_supernet()
    subnet = uneven(supernet)
    for name in "xy":
        export_subnet(supernet, subnet, tmp_path / name, budget=NO_BUDGET, card=CARD)
    model = AutoModel.from_pretrained(tmp_path / "x", trust_remote_code=True)
    before = (loader.HF_MODULES_CACHE, list(sys.path), {n for n in sys.modules if n.startswith("transformers_modules")})
    kept = sorted(Path(loader.HF_MODULES_CACHE).rglob("*.py"))
    export_subnet(supernet, subnet, tmp_path / "z", budget=NO_BUDGET, card=CARD)
    after = (loader.HF_MODULES_CACHE, list(sys.path), {n for n in sys.modules if n.startswith("transformers_modules")})
    assert after == before
    assert sorted(Path(loader.HF_MODULES_CACHE).rglob("*.py")) == kept
    again = AutoModel.from_pretrained(tmp_path / "x", trust_remote_code=True)
    assert type(again) is type(model)


@pytest.mark.parametrize("fails", [False, True])
def test_code_of_a_folder_is_kept_apart(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Whatever becomes of it, what was there before is back, and nothing else."""
    loader = ModuleType("loader")
    loader.__dict__.update(HF_MODULES_CACHE="usual", TRANSFORMERS_DYNAMIC_MODULE_NAME="modules_of_others")
    names = ("modules_of_others", "modules_of_others.x", "modules_of_others_too")
    ours = {name: ModuleType(name) for name in names}
    for name, module in ours.items():
        monkeypatch.setitem(sys.modules, name, module)
    path = list(sys.path)
    with suppress(KeyboardInterrupt), _temporary_modules(loader):
        place = Path(loader.HF_MODULES_CACHE)
        assert place.is_dir()
        assert place.name.startswith("nestling-")
        assert sys.path == [str(place), *path]
        assert [name for name in names if name in sys.modules] == ["modules_of_others_too"]
        for name in ("modules_of_others", "modules_of_others.y"):
            sys.modules[name] = ModuleType(name)
        if fails:
            raise KeyboardInterrupt
    assert loader.HF_MODULES_CACHE == "usual"
    assert not place.exists()
    assert sys.path == path
    assert {name: module for name, module in sys.modules.items() if name.startswith("modules_of_others")} == ours
