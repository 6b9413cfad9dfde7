"""Released supernets, written here in the official layout with random weights, compute what the official code does.

The reference is a plain encoder on weights that index sets cut out of the file's own tensors, by the official rules.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import checkpoints.formats.lighthubert
from checkpoints import load_supernet
from checkpoints.formats.lighthubert import import_supernet
from checkpoints.run_folder import RunFolder
from search_spaces.costs import count_params
from search_spaces.subnet import Layer, Subnet
from supernet.encoder import Encoder
from supernet.model import Supernet, encoder_config
from tests.encoders import TOLERANCE, error_of

WIDTH, HEADS, INNER, DEPTH, TAPS = 768, 12, 3072, 12, 128
KEPT = {10: [0, 1, 2, 3, 4, 5, 6, 8, 9, 10], 11: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 12: list(range(12))}
KERNELS = (10, 3, 3, 3, 3, 2, 2)


def official_tensors() -> dict[str, Tensor]:
    """Every tensor of a released file under its official name, at unit scale over its inputs."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float | None = None, around: float = 0.0) -> Tensor:
        fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 25
        return torch.empty(shape).normal_(around, scale or fan_in**-0.5, generator=generator)

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}.weight": draw(width, scale=0.3, around=1.0), f"{name}.bias": draw(width)}

    tensors = {"mask_emb": draw(WIDTH)}
    for i, kernel in enumerate(KERNELS):
        conv = f"feature_extractor.conv_layers.{i}"
        tensors[f"{conv}.0.weight"] = draw(512, 512 if i else 1, kernel)
        tensors |= norm(f"{conv}.2.1", 512)
    tensors |= norm("layer_norm", 512)
    tensors |= {"post_extract_proj.weight": draw(WIDTH, 512), "post_extract_proj.bias": draw(WIDTH)}
    tensors["encoder.pos_conv.0.bias"] = draw(WIDTH)
    tensors["encoder.pos_conv.0.weight_g"] = draw(1, 1, TAPS, scale=0.3, around=2.0)
    tensors["encoder.pos_conv.0.weight_v"] = draw(WIDTH, WIDTH // 16, TAPS)
    tensors |= norm("encoder.layer_norm", WIDTH)
    for k in range(DEPTH):
        layer = f"encoder.layers.{k}"
        for part in ("q", "k", "v", "out"):
            name = f"{layer}.self_attn.{part}_proj"
            tensors |= {f"{name}.weight": draw(WIDTH, WIDTH), f"{name}.bias": draw(WIDTH)}
        tensors |= {f"{layer}.fc1.weight": draw(INNER, WIDTH), f"{layer}.fc1.bias": draw(INNER)}
        tensors |= {f"{layer}.fc2.weight": draw(WIDTH, INNER), f"{layer}.fc2.bias": draw(WIDTH)}
        tensors |= norm(f"{layer}.self_attn_layer_norm", WIDTH) | norm(f"{layer}.final_layer_norm", WIDTH)
    tensors["layer_pred_heads.11.weight"] = draw(WIDTH, WIDTH)  # predicts the targets
    return tensors | {
        "label_embs_concat": draw(504, 256),
        "final_proj.weight": draw(256, WIDTH),
        "final_proj.bias": draw(256),
    }


def config(kind: str) -> dict[str, Any]:
    if kind == "stage1":
        return {"model": {"_name": "student_hubert", "extractor_mode": "layer_norm"}}
    return {"model": {"_name": "hubert_pruner", "pruner_supernet": f"/data/exp/Supernet_{kind}.yaml".replace("_", "/")}}


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_drawn() -> Iterator[None]:
    """Networks begin as ones: a released file fills them, and drawing 94 M numbers first is most of the time."""

    def start(encoder: Encoder, _: torch.Generator) -> None:
        for parameter in encoder.parameters():
            nn.init.ones_(parameter)

    with pytest.MonkeyPatch.context() as patch:
        for layer in (nn.Linear, nn.Conv1d):
            patch.setattr(layer, "reset_parameters", lambda _: None)
        patch.setattr("supernet.model.initialize", start)
        yield


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return official_tensors()


def read_as(monkeypatch: pytest.MonkeyPatch, values: Any) -> None:
    """What the next file holds, without 380 MB on the disk: `file` is one that is read in earnest."""
    monkeypatch.setattr(checkpoints.formats.lighthubert, "read_checkpoint", lambda _: values)


@pytest.fixture(scope="module")
def file(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("released") / "lighthubert_small.pt"
    torch.save({"cfg": config("small"), "model": tensors}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def supernet(file: Path) -> Supernet:
    return load_supernet(file)


def inner_units(width: int, ffn_dim: int) -> list[int]:
    """Blocks of 768: the first `width` of each, and of the last what is left."""
    units: list[int] = []
    for block in range(INNER // WIDTH):
        units += range(WIDTH * block, WIDTH * block + max(0, min(width, ffn_dim - block * width)))
    return units


def cut(tensors: dict[str, Tensor], subnet: Subnet, blocked: bool = True) -> dict[str, Tensor]:
    """The official slices under the names of `Encoder`."""
    d = subnet.embed_dim
    out = {"masked_spec_embed": tensors["mask_emb"][:d]}
    for i in range(len(KERNELS)):
        theirs, ours = (f"feature_extractor.conv_layers.{i}.{part}" for part in ("{}", "{}"))
        out[ours.format("conv.weight")] = tensors[theirs.format("0.weight")]
        for name in ("weight", "bias"):
            out[ours.format(f"layer_norm.{name}")] = tensors[theirs.format(f"2.1.{name}")]
    for name in ("weight", "bias"):
        out[f"feature_projection.layer_norm.{name}"] = tensors[f"layer_norm.{name}"]
        out[f"feature_projection.projection.{name}"] = tensors[f"post_extract_proj.{name}"][:d]
        out[f"encoder.layer_norm.{name}"] = tensors[f"encoder.layer_norm.{name}"][:d]
    pos, v = "encoder.pos_conv_embed.conv", tensors["encoder.pos_conv.0.weight_v"]
    kernel = tensors["encoder.pos_conv.0.weight_g"] * v / v.norm(dim=(0, 1), keepdim=True)
    kernel = kernel[:d, : d // 16]
    out[f"{pos}.parametrizations.weight.original0"] = kernel.norm(dim=(0, 1), keepdim=True)
    out[f"{pos}.parametrizations.weight.original1"] = kernel
    out[f"{pos}.bias"] = tensors["encoder.pos_conv.0.bias"][:d]
    for i, layer in enumerate(subnet.layers):
        theirs, ours = f"encoder.layers.{KEPT[len(subnet.layers)][i]}", f"encoder.layers.{i}"
        a = 64 * layer.heads
        for p in "qkv":
            out[f"{ours}.attention.{p}_proj.weight"] = tensors[f"{theirs}.self_attn.{p}_proj.weight"][:a, :d]
            out[f"{ours}.attention.{p}_proj.bias"] = tensors[f"{theirs}.self_attn.{p}_proj.bias"][:a]
        out[f"{ours}.attention.out_proj.weight"] = tensors[f"{theirs}.self_attn.out_proj.weight"][:d, :a]
        out[f"{ours}.attention.out_proj.bias"] = tensors[f"{theirs}.self_attn.out_proj.bias"][:d]
        units = inner_units(d, layer.ffn_dim) if blocked else list(range(layer.ffn_dim))
        out[f"{ours}.feed_forward.intermediate_dense.weight"] = tensors[f"{theirs}.fc1.weight"][units][:, :d]
        out[f"{ours}.feed_forward.intermediate_dense.bias"] = tensors[f"{theirs}.fc1.bias"][units]
        out[f"{ours}.feed_forward.output_dense.weight"] = tensors[f"{theirs}.fc2.weight"][:d][:, units]
        out[f"{ours}.feed_forward.output_dense.bias"] = tensors[f"{theirs}.fc2.bias"][:d]
        for mine, other in (("layer_norm", "self_attn_layer_norm"), ("final_layer_norm", "final_layer_norm")):
            for name in ("weight", "bias"):
                out[f"{ours}.{mine}.{name}"] = tensors[f"{theirs}.{other}.{name}"][:d]
    return out


def reference(supernet: Supernet, weights: dict[str, Tensor], subnet: Subnet) -> Encoder:
    encoder = Encoder(encoder_config(supernet.space.backbone, subnet))
    encoder.load_state_dict(weights)
    return encoder


@torch.no_grad()
def difference(supernet: Supernet, subnet: Subnet, wanted: Encoder) -> float:
    wave = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([3000, 2100])
    wave[1, 2100:] = 0
    got, expected = supernet(wave, lengths, subnet), wanted(wave, lengths)
    return error_of([*got.hidden, got.last], [*expected.hidden, expected.last], expected.valid)


def test_an_example_of_inner_units() -> None:
    wanted = [*range(512), *range(768, 1280), *range(1536, 2048), *range(2304, 2560)]
    assert inner_units(512, 1792) == wanted


def uniform(width: int, heads: int, ffn_dim: int, depth: int) -> Subnet:
    return Subnet((512,) * 7, width, (Layer(heads, ffn_dim),) * depth, tuple(KEPT[depth]))


def test_subnets_equal_the_official_slices(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    rng = random.Random(0)
    chosen = [
        uniform(384, 6, 1536, 12),  # what s3prl loads as LightHuBERT-small
        uniform(256, 4, 768, 10),
        uniform(512, 8, 1792, 11),
        *(supernet.space.sample(rng) for _ in range(5)),
    ]
    for subnet in chosen:
        wanted = reference(supernet, cut(tensors, subnet), subnet)
        assert difference(supernet, subnet, wanted) <= 2 * TOLERANCE  # the kernel is normalised twice
        extracted = supernet.extract(subnet)
        assert sum(p.numel() for p in extracted.parameters()) == count_params(supernet.space.backbone, subnet)
        assert difference(supernet, subnet, extracted) <= TOLERANCE


def test_contiguous_inner_units_are_another_network(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    subnet = uniform(384, 6, 1536, 12)
    wrong = reference(supernet, cut(tensors, subnet, blocked=False), subnet)
    assert difference(supernet, subnet, wrong) > 0.1


def test_which_supernet_it_is_shows_in_the_file(tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"base": ("lighthubert-base", 66_897_664), "stage1": ("lighthubert-stage1", 94_377_856)}
    for kind, (name, params) in wanted.items():
        read_as(monkeypatch, {"cfg": config(kind), "model": tensors})
        space = load_supernet("any.pt").space
        assert (space.name, space.slicing) == (name, "lighthubert")
        subnet = uniform(640, 10, 2560, 12) if kind == "base" else space.container
        assert count_params(space.backbone, subnet) == params
        assert subnet in space


def test_wrapped_names_and_a_folded_weight_norm_are_read(
    supernet: Supernet, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pos = "encoder.pos_conv.0"
    gains, kernel = tensors[f"{pos}.weight_g"], tensors[f"{pos}.weight_v"]
    folded = {f"{pos}.weight": gains * kernel / kernel.norm(dim=(0, 1), keepdim=True)}
    kept = {name: weight for name, weight in tensors.items() if name not in (f"{pos}.weight_g", f"{pos}.weight_v")}
    stored = {"cfg": config("small"), "model": {f"module.{name}": weight for name, weight in (kept | folded).items()}}
    read_as(monkeypatch, stored)
    try:
        got: Supernet | str = load_supernet("lighthubert_small.pt")
    except ValueError as error:
        got = str(error)
    assert isinstance(got, Supernet), got
    for name, weight in supernet.container.state_dict().items():
        if "pos_conv_embed.conv.param" not in name:
            assert torch.equal(got.container.state_dict()[name], weight), name
    assert torch.allclose(
        got.container.encoder.pos_conv_embed.conv.weight,
        supernet.container.encoder.pos_conv_embed.conv.weight,
        atol=1e-6,
    )


def test_an_imported_run_has_the_supernet(file: Path, supernet: Supernet, tmp_path: Path) -> None:
    run = import_supernet(file, tmp_path / "lh", audio="demo-small")
    again = RunFolder.open(tmp_path / "lh").load_supernet()
    assert again.space == supernet.space
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), supernet.state_dict().values(), strict=True)
    )
    assert run.config["command"].startswith("import supernet lighthubert_small.pt --run ")
    with pytest.raises(ValueError, match="already holds a run"):
        import_supernet(file, tmp_path / "lh", audio="demo-small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("cfg"), "has no `cfg` and `model`"),
        (lambda v: v["cfg"]["model"].update(_name="hubert"), "cfg.model._name is 'hubert'"),
        (lambda v: v["cfg"]["model"].pop("pruner_supernet"), r"should end in base\.yaml or small\.yaml"),
        (lambda v: v["model"].pop("encoder.layers.3.fc1.bias"), r"missing encoder\.layers\.3\.fc1\.bias"),
        (lambda v: v["model"].update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda v: v.update(model=[1]), "`model` holds something else than tensors by name"),
        (
            lambda v: v.update(model={"encoder.pos_conv.0.weight": 1, "x": torch.zeros(1)}),
            "`model` holds something else than tensors by name",
        ),
        (lambda v: v.update(model={3: torch.zeros(1)}), "not the weights of .*:\n  missing mask_emb"),
        (lambda v: v["model"].update(mask_emb=torch.zeros(512)), r"mask_emb has shape \[512\], not \[768\]"),
        (
            lambda v: v["model"].update(mask_emb=torch.full((768,), torch.nan)),
            "mask_emb has numbers that are not finite",
        ),
    ],
)
def test_other_files_are_refused(
    tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    values = {"cfg": config("small"), "model": dict(tensors)}
    change(values)
    read_as(monkeypatch, values)
    with pytest.raises(ValueError, match=message):
        load_supernet("file.pt")


def test_a_run_that_is_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(ValueError, match=r"is not empty \(notes\.md …\) and not a run"):
        import_supernet(tmp_path / "nowhere.pt", tmp_path, audio="demo-small")
