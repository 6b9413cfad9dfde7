"""An export is an upstream of s3prl: in its package, by torch.hub, and where only torch and safetensors are to be had.

s3prl itself cannot be installed here; `read_as_s3prl` and `sum_as_s3prl` do with an upstream what its S3PRLUpstream and
Featurizer do.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModel

from checkpoints.export import export_subnet, write_encoder
from checkpoints.manifest import MANIFEST
from checkpoints.proof import TOLERANCE as PROVEN
from checkpoints.proof import ProofError, prove_outputs
from checkpoints.runtimes.s3prl_expert import UpstreamExpert
from checkpoints.runtimes.s3prl_upstream import S3PRL_FILES, entry_name, write_s3prl
from nestling.reports.model_card import ExportRecord, model_card
from search_spaces.budget import Budget
from supernet.encoder import Encoder
from supernet.model import Supernet
from tests.encoders import TOLERANCE, make_encoder, randomize
from tests.spaces import small
from tests.test_architecture import LAYERS

HUBERT = {"conv_kernels": (10, 3, 3, 3, 3, 2, 2), "conv_strides": (5, 2, 2, 2, 2, 2, 2), "conv_dims": (8,) * 7}
SHAPES = {
    "plain": HUBERT,
    "uneven.v1": {**HUBERT, "heads": (4, 2), "ffn_dims": (48, 16)},
    "group-norm": {**HUBERT, "conv_norm": "group", "normalize_waveform": False},
    "pre-norm": {"norm_first": True},
    "gated": {"gate_width": 32, "heads": (4, 3)},
}
LENGTHS = (4000, 2700, 5213)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {name: make_encoder(seed, **changes) for seed, (name, changes) in enumerate(SHAPES.items())}


@pytest.fixture(scope="module")
def exports(encoders: dict[str, Encoder], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name of the encoder, the folder of its export."""
    root = tmp_path_factory.mktemp("exports")
    for name, encoder in encoders.items():
        write_encoder(encoder, root / name)
        write_s3prl(encoder, root / name)
    return {name: root / name for name in encoders}


@pytest.fixture(params=SHAPES)
def pair(
    request: pytest.FixtureRequest, encoders: dict[str, Encoder], exports: dict[str, Path]
) -> tuple[Encoder, UpstreamExpert]:
    """An encoder, and the expert read from its export."""
    return encoders[request.param], UpstreamExpert(exports[request.param], model_config=None, refresh=False)


def make_waves(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.3 * torch.randn(length, generator=generator) + 0.1 for length in lengths]


@torch.no_grad()
def hidden_of(encoder: Encoder, wave: Tensor) -> list[Tensor]:
    """Every hidden state of one utterance on its own, then the last output: (T, d) each."""
    trace = encoder(wave[None])
    return [x[0] for x in (*trace.hidden, trace.last)]


def rms_error(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return ((got - wanted).norm() / wanted.norm()).item()


# What s3prl does


def read_as_s3prl(expert: torch.nn.Module, wave: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """Hidden states (B, T, d) of a padded batch (B, S), and how many frames of each count, (B,).

    s3prl lengthens batches of less than 50 ms, wants ceil(samples / rate) frames, and repeats the last one or cuts.
    """
    short = max(0, 800 - int(lengths.max()))
    wave = torch.nn.functional.pad(wave, (0, short))
    hidden = expert([row[:length] for row, length in zip(wave, lengths + short, strict=True)])["hidden_states"]
    rate = expert.get_downsample_rates("hidden_states")
    assert isinstance(hidden, (list, tuple))
    assert isinstance(rate, int)
    longest = int(lengths.max()) + short
    num_frames = -(-longest // rate)
    out = []
    for x in hidden:
        assert abs(x.shape[1] - round(longest / rate)) < 5  # or its other Featurizer stops
        assert max(x.shape[1], num_frames) // min(x.shape[1], num_frames) == 1
        filled = torch.cat([x, x[:, -1:].repeat(1, max(0, num_frames - x.shape[1]), 1)], 1)
        out.append(filled[:, : -(-int(lengths.max()) // rate)])
    return out, -(-lengths // rate)


def sum_as_s3prl(hidden: list[Tensor], weights: Tensor) -> Tensor:
    """The weighted sum of all hidden states, which must have one shape."""
    stacked = torch.stack(hidden)
    return (weights.softmax(-1)[:, None] * stacked.view(len(hidden), -1)).sum(0).view(stacked.shape[1:])


# The interface


def test_hidden_states_are_the_encoders(pair: tuple[Encoder, UpstreamExpert]) -> None:
    encoder, expert = pair
    waves = make_waves()
    out = expert(waves)
    states = [*out["hidden_states"], out["last_hidden_state"]]
    assert len(states) == len(encoder.config.heads) + 2
    assert {x.shape for x in states} == {(3, int(encoder.config.count_frames(torch.tensor(5213))), 32)}
    for i, wave in enumerate(waves):
        wanted = hidden_of(encoder, wave)
        for x, y in zip(states, wanted, strict=True):
            assert rms_error(x[i, : len(y)], y) <= TOLERANCE
            assert (x[i, len(y) :] == x[i, len(y) - 1]).all()


def test_s3prl_reads_the_same_of_an_utterance_in_every_batch(pair: tuple[Encoder, UpstreamExpert]) -> None:
    _, expert = pair
    waves = make_waves((4000, 2999, 1600))
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    together, counted = read_as_s3prl(expert, padded, lengths)
    for i, wave in enumerate(waves):
        alone, (num_frames,) = read_as_s3prl(expert, wave[None], lengths[i : i + 1])
        assert num_frames == counted[i]
        assert max(rms_error(a[i, :num_frames], b[0]) for a, b in zip(together, alone, strict=True)) <= TOLERANCE
    weights = torch.zeros(len(together), requires_grad=True)
    features = sum_as_s3prl(together, weights)
    assert rms_error(features, torch.stack(together).mean(0)) <= TOLERANCE
    features[1].sum().backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() > 0


def test_utterances_of_a_few_samples_are_heard(pair: tuple[Encoder, UpstreamExpert]) -> None:
    encoder, expert = pair
    least = expert.min_samples
    assert encoder.config.count_frames(torch.tensor([least - 1, least])).tolist() == [0, 1]
    read_as_s3prl(expert, torch.randn(1, 3), torch.tensor([3]))
    short, long = torch.randn(7), torch.randn(3000)
    out = expert([short, long])["last_hidden_state"]
    silent = torch.cat([short, torch.zeros(least - 7)])
    assert rms_error(out[0, :1], hidden_of(encoder, silent)[-1]) <= TOLERANCE
    assert rms_error(out[1], hidden_of(encoder, long)[-1]) <= TOLERANCE


def test_half_precision_hears_long_utterances_in_any_batch(exports: dict[str, Path]) -> None:
    """Beyond 4.1 s a length is no number of fp16; by `transformers` and as an upstream, alone, masked and padded."""
    folder = exports["uneven.v1"]
    expert = UpstreamExpert(folder)
    wrapper = AutoModel.from_pretrained(folder, trust_remote_code=True)
    short, long = make_waves((66_000, 67_000))
    with torch.no_grad():
        wanted = expert([short])["last_hidden_state"]
        expert.half(), wrapper.half()
        half = [short.half(), long.half()]
        masked = wrapper(half[0][None], attention_mask=torch.ones(1, len(short), dtype=torch.int64)).last_hidden_state
        assert torch.equal(masked, wrapper(half[0][None]).last_hidden_state)
        mask = torch.ones(2, len(long), dtype=torch.int64)
        mask[0, len(short) :] = 0
        padded = torch.nn.utils.rnn.pad_sequence(half, batch_first=True)
        for found in (
            masked,
            wrapper(padded, attention_mask=mask).last_hidden_state,
            expert(half)["last_hidden_state"],
        ):
            assert rms_error(found[:1, : wanted.shape[1]].float(), wanted) <= 0.01  # 0.002 to 0.003 is fp16's own


def test_rate_is_the_front_ends(pair: tuple[Encoder, UpstreamExpert]) -> None:
    encoder, expert = pair
    assert expert.get_downsample_rates("PR") == round(16_000 / encoder.config.frame_rate_hz)
    assert (expert.get_downsample_rates("hidden_states") == 320) == (len(encoder.config.conv_dims) == 7)


def test_gradients_reach_every_weight(pair: tuple[Encoder, UpstreamExpert]) -> None:
    _, expert = pair
    assert expert.training
    out = expert(make_waves())
    (out["last_hidden_state"].square().mean() + out["hidden_states"][-1].square().mean()).backward()
    for name, weight in expert.named_parameters():
        assert weight.requires_grad
        if name != "encoder.masked_spec_embed":  # nothing is masked
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all()
            assert weight.grad.abs().max() > 0 or name.endswith("k_proj.bias"), name  # softmax takes no notice of that


def test_training_and_evaluation_compute_the_same(pair: tuple[Encoder, UpstreamExpert]) -> None:
    _, expert = pair
    waves = make_waves()
    trained = expert.train()(waves)["last_hidden_state"]
    with torch.no_grad():
        evaluated = expert.eval()(waves)["last_hidden_state"]
    assert not expert.encoder.training
    assert rms_error(trained, evaluated) <= TOLERANCE


# What is written


def test_what_is_written_is_listed(exports: dict[str, Path], encoders: dict[str, Encoder]) -> None:
    for name, folder in exports.items():
        added = {path.name for path in folder.iterdir()} - {"config.json", "model.safetensors", MANIFEST}
        assert added - {"preprocessor_config.json", "modeling_nestling.py"} == set(S3PRL_FILES)
        assert json.loads((folder / "encoder.json").read_text()) == encoders[name].config.to_dict()


def test_what_is_written_imports_torch_and_safetensors_alone(exports: dict[str, Path]) -> None:
    names, files = set(), list(exports["plain"].glob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add("." * node.level + str(node.module).partition(".")[0])
    assert names - set(sys.stdlib_module_names) - {f".{file.stem}" for file in files} == {"torch", "safetensors"}


def test_weights_that_do_not_fit_are_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(exports["plain"], tmp_path / "x")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["encoder.layer_norm.bias"]
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"encoder\.layer_norm\.bias\""):
        UpstreamExpert(folder)


def test_wavlm_keeps_its_table_of_distances_in_the_first_layer(
    exports: dict[str, Path], encoders: dict[str, Encoder], tmp_path: Path
) -> None:
    folder = shutil.copytree(exports["gated"], tmp_path / "x")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name.removeprefix("nestling."): weight for name, weight in weights.items()}
    weights["encoder.layers.0.attention.rel_attn_embed.weight"] = weights.pop("encoder.rel_attn_embed.weight")
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    (wave,) = make_waves((3000,))
    wanted = hidden_of(encoders["gated"], wave)[-1]
    assert rms_error(UpstreamExpert(folder / "model.safetensors")([wave])["last_hidden_state"][0], wanted) <= TOLERANCE


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model\.safetensors; export the encoder there first"):
        write_s3prl(make_encoder(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my-encoder", "my_encoder"),
        ("runs/base/encoder.v1", "encoder_v1"),
        ("hubert_25M", "hubert_25M"),
        ("25M", "upstream_25M"),
        ("class", "upstream_class"),
        ("_x", "upstream__x"),
        ("größe", "gr__e"),
    ],
)
def test_the_folder_names_the_entry(folder: str, name: str) -> None:
    assert entry_name(Path(folder)) == name


# Where only torch and safetensors are to be had

ALONE = """
import json, sys
site, folders, package, expected, project = json.loads(sys.argv[1])
sys.path.append(site)  # not as a site: no .pth file of it is read
import torch
from safetensors.torch import load_file



class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in project:
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Blocker())
expected = load_file(expected)
before = set(sys.modules)
experts = {}
for name, (folder, entry) in folders.items():
    experts["torch.hub", name] = torch.hub.load(folder, entry, source="local")
sys.path.insert(0, package)
import s3prl.hub
for name, (_, entry) in folders.items():
    experts["s3prl", name] = getattr(s3prl.hub, entry)(ckpt=None, model_config=None, refresh=False)
    experts["s3prl, ckpt", name] = s3prl.hub.plain(ckpt=folders[name][0])
offered = sorted(name for name, value in vars(s3prl.hub).items() if name[0] != "_")
waves = [expected[f"wave.{i}"] for i in range(3)]
errors = {}
for (how, name), expert in experts.items():
    with torch.no_grad():
        out = expert(waves)
    worst = 0.0
    for i in range(3):
        for k, state in enumerate([*out["hidden_states"], out["last_hidden_state"]]):
            wanted = expected[f"{name}.{i}.{k}"]
            worst = max(worst, ((state[i, : len(wanted)] - wanted).norm() / wanted.norm()).item())
    errors[f"{how}: {name}"] = worst
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
new = sorted(name for name in new if not name.startswith("nestling_"))
print(json.dumps({"errors": errors, "offered": offered, "new": new}))
"""


def test_it_works_alone_in_both_layouts(exports: dict[str, Path], encoders: dict[str, Encoder], tmp_path: Path) -> None:
    """In one process, so that each folder's code and weights must be its own; `spoilt` has other code than the rest."""
    shutil.copytree(exports["plain"], tmp_path / "spoilt")
    code = (exports["plain"] / "blocks.py").read_text("utf-8")
    assert "return self.output_dense(drop(F.gelu(" in code
    (tmp_path / "spoilt/blocks.py").write_text(
        code.replace("self.output_dense(drop(F.gelu(", "self.output_dense(drop(F.relu(")
    )
    (tmp_path / "spoilt/hubconf.py").write_text(
        (exports["plain"] / "hubconf.py").read_text("utf-8").replace("plain", "spoilt")
    )
    folders = {"spoilt": tmp_path / "spoilt", **exports}
    encoders = {"spoilt": encoders["plain"], **encoders}

    upstream = tmp_path / "package/s3prl/upstream"
    for folder in folders.values():
        shutil.copytree(folder, upstream / entry_name(folder), ignore=shutil.ignore_patterns("__pycache__"))
    (upstream.parent / "__init__.py").write_text("")
    (upstream / "__init__.py").write_text("")
    lines = [f"from s3prl.upstream.{entry_name(folder)}.hubconf import *\n" for folder in folders.values()]
    (upstream.parent / "hub.py").write_text("".join(lines))

    waves = make_waves()
    expected = {f"wave.{i}": wave for i, wave in enumerate(waves)}
    for name, encoder in encoders.items():
        for i, wave in enumerate(waves):
            expected |= {f"{name}.{i}.{k}": x.clone() for k, x in enumerate(hidden_of(encoder, wave))}
    safetensors.torch.save_file(expected, tmp_path / "expected.safetensors")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    told = [
        sysconfig.get_path("purelib"),
        {name: (str(folder), entry_name(folder)) for name, folder in folders.items()},
        str(tmp_path / "package"),
        str(tmp_path / "expected.safetensors"),
        [layer.partition(".")[0] for layer in LAYERS],
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-P", "-W", "error", "-c", ALONE, json.dumps(told)],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["new"] == ["s3prl"]
    assert said["offered"] == sorted(entry_name(folder) for folder in folders.values())
    assert len(said["errors"]) == 3 * len(folders)
    for place, error in said["errors"].items():
        sound = "spoilt" not in place or "ckpt" in place  # with `ckpt`, `plain` runs its own code
        assert (error <= TOLERANCE) == sound, f"{place}: {error}"


# Export and proof


def test_an_export_with_an_upstream_can_be_replaced(tmp_path: Path) -> None:
    supernet = Supernet(small("tiny"), torch.Generator())
    subnet, folder = supernet.space.smallest(), tmp_path / "my-encoder"
    export_subnet(supernet, subnet, folder, budget=Budget(), card=model_card(ExportRecord()))
    write_s3prl(supernet.extract(subnet), folder)
    export_subnet(supernet, subnet, folder, budget=Budget(), card=model_card(ExportRecord()))
    assert not (folder / "hubconf.py").exists()


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
def test_export_can_prove_the_upstream(tmp_path: Path, conv_norm: str) -> None:
    supernet = Supernet(small("tiny", conv_norm=conv_norm), torch.Generator())
    randomize(supernet.container)
    subnet = supernet.space.smallest()
    encoder, folder = supernet.extract(subnet), tmp_path / "my-encoder"
    write_encoder(encoder, folder)
    assert "torch.hub" not in prove_outputs(folder, supernet, subnet)
    write_s3prl(encoder, folder)
    before = {path.name for path in folder.iterdir()}
    errors = prove_outputs(folder, supernet, subnet)
    assert errors["torch.hub"] <= PROVEN
    assert {path.name for path in folder.iterdir()} == before

    spoilt = shutil.copytree(folder, tmp_path / "spoilt/my-encoder")
    write_s3prl(Encoder(replace(encoder.config, normalize_waveform=False)), spoilt)
    with pytest.raises(ProofError, match=r"opened with torch\.hub, it does not compute what the supernet computes"):
        prove_outputs(spoilt, supernet, subnet)
    renamed = folder.rename(tmp_path / "other")
    with pytest.raises(ProofError, match=r"torch\.hub cannot open it: .*other"):
        prove_outputs(renamed, supernet, subnet)
