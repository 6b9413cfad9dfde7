"""Closed-form costs against PyTorch, published numbers and themselves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from search_spaces.costs import (
    PARAMS,
    Cost,
    breakdown,
    count_bytes,
    count_frames,
    count_macs,
    count_params,
    totals_of_arrays,
)
from search_spaces.space import SearchSpace
from search_spaces.subnet import Backbone, Layer, Subnet

HUBERT = Backbone(conv_norm="group", normalize_waveform=False)
LARGE = Backbone(conv_bias=True, norm_first=True)
WAVLM = replace(HUBERT, gate_width=768)


def uniform(width: int, heads: int, ffn_dim: int, num_layers: int, conv_dim: int = 512) -> Subnet:
    layers = (Layer(heads, ffn_dim),) * num_layers
    return Subnet((conv_dim,) * 7, width, layers, tuple(range(num_layers)))


HUBERT_BASE = uniform(768, 12, 3072, 12)


@pytest.mark.parametrize(
    ("backbone", "subnet", "params"),
    [
        (HUBERT, HUBERT_BASE, 94_371_712),
        (WAVLM, HUBERT_BASE, 94_381_936),
        (Backbone(), HUBERT_BASE, 94_377_856),
        (LARGE, uniform(1024, 16, 4096, 24), 315_438_720),
        (Backbone(), uniform(640, 10, 2560, 12), 66_897_664),
        (Backbone(), uniform(512, 8, 1792, 12), 41_249_408),
        (Backbone(), uniform(384, 6, 1536, 12), 26_879_488),
        (Backbone(), uniform(256, 4, 768, 10), 11_448_704),
    ],
)
def test_published_shapes_have_their_parameters(backbone, subnet, params):
    assert count_params(backbone, subnet) == params
    assert count_bytes(backbone, subnet) == 4 * params


def test_hubert_base_has_its_macs():
    assert count_macs(HUBERT, HUBERT_BASE, 1) == 6_911_374_336
    assert count_macs(HUBERT, HUBERT_BASE, 10) == 74_066_523_136
    assert count_macs(WAVLM, HUBERT_BASE, 1) == 6_914_987_008


@pytest.mark.parametrize(("num_samples", "frames"), [(0, 0), (399, 0), (400, 1), (16_000, 49), (160_000, 499)])
def test_frames(num_samples, frames):
    assert count_frames(Backbone(), num_samples) == frames


@pytest.mark.parametrize("seconds", [0.0, 0.01, -1.0, 3601.0])
def test_macs_need_a_sensible_duration(seconds):
    with pytest.raises(ValueError, match="need at least one frame and at most 3600 s"):
        count_macs(Backbone(), HUBERT_BASE, seconds)


@pytest.mark.parametrize(
    ("conv_norm", "conv_bias", "norm_first", "pos_conv_kernel"),
    [("group", False, False, 8), ("layer", True, True, 8), ("layer", False, False, 9)],
)
def test_transformers_and_pytorch_agree(conv_norm, conv_bias, norm_first, pos_conv_kernel):
    """For a shape that `HubertModel` can hold. The counter sees eager attention alone."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import HubertConfig, HubertModel

    backbone = Backbone(
        head_dim=8,
        conv_norm=conv_norm,
        conv_bias=conv_bias,
        norm_first=norm_first,
        pos_conv_kernel=pos_conv_kernel,
        pos_conv_groups=4,
    )
    subnet = Subnet((8, 12, 16, 20, 16, 12, 24), 32, (Layer(4, 40),) * 3, (0, 1, 2))
    config = HubertConfig(
        conv_dim=subnet.conv_dims,
        conv_bias=conv_bias,
        feat_extract_norm=conv_norm,
        do_stable_layer_norm=norm_first,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=40,
        num_hidden_layers=3,
        num_conv_pos_embeddings=pos_conv_kernel,
        num_conv_pos_embedding_groups=4,
        attn_implementation="eager",
    )
    model = HubertModel(config).eval()
    assert count_params(backbone, subnet) == sum(p.numel() for p in model.parameters())
    for seconds in (1.0, 1.7):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, round(seconds * 16_000)))
        assert 2 * count_macs(backbone, subnet, seconds) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["tiny", "base", "lighthubert-small"])
@pytest.mark.parametrize("backbone", [HUBERT, LARGE, WAVLM, Backbone(pos_conv_kernel=31)])
def test_the_parts_add_up(name, backbone):
    space = SearchSpace.load(name)
    rng = Random(0)
    for _ in range(20):
        subnet = space.sample(rng)
        parts = breakdown(backbone, subnet, seconds=2.5)
        assert list(parts) == ["front_end", "projection", "pos_conv", "attention", "ffn", "other"]
        assert sum(params for params, _ in parts.values()) == count_params(backbone, subnet)
        assert sum(macs for _, macs in parts.values()) == count_macs(backbone, subnet, 2.5)
        assert parts["other"][1] == 0


def test_norm_placement_costs_nothing():
    assert count_params(LARGE, HUBERT_BASE) == count_params(replace(LARGE, norm_first=False), HUBERT_BASE)


def test_the_front_end_is_most_of_lighthuberts_smallest_subnet():
    backbone, smallest = Backbone(), uniform(256, 4, 768, 10)
    assert round(breakdown(backbone, smallest)["front_end"][1] / count_macs(backbone, smallest, 1), 2) == 0.87


@pytest.mark.parametrize("name", ["tiny", "base", "lighthubert-small"])
@pytest.mark.parametrize("cost", [PARAMS, Cost("size"), Cost("macs", 1.0), Cost("macs", 3600.0)])
def test_arrays_count_as_single_subnets_do(name, cost):
    space = SearchSpace.load(name)
    rng = Random(1)
    subnets = [space.sample(rng) for _ in range(50)] + [space.container]
    num_layers = len(space.container.layers)
    heads, ffn_dim = np.zeros((2, len(subnets), num_layers), dtype=np.int64)
    for n, subnet in enumerate(subnets):
        for k, layer in zip(subnet.kept, subnet.layers, strict=True):
            heads[n, k], ffn_dim[n, k] = layer.heads, layer.ffn_dim
    totals = totals_of_arrays(
        np.array([s.conv_dims for s in subnets]), np.array([s.embed_dim for s in subnets]), heads, ffn_dim
    )
    counts = cost.count_totals(space.backbone, totals)
    assert counts.dtype == np.int64
    assert counts.tolist() == [cost.count(space.backbone, subnet) for subnet in subnets]


def test_importing_spaces_is_light():
    code = "import sys, search_spaces; print([m for m in ('torch', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
