"""A subnet computed by the supernet is the plain encoder that the written rule describes."""

import gc
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.costs import count_macs, count_params
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from supernet.blocks import deinterleave, drop, interleave
from supernet.encoder import Encoder, Trace
from supernet.importance import WIDTH, reorder, taylor_importance
from supernet.model import Supernet, encoder_config
from supernet.slicing import Axis, axes, layer_at_depth
from supernet.weight_decay import split_by_decay
from tests.spaces import GATED, NAMES, RELEASED, VARIANTS, small

SUBNETS_PER_SPACE = 200
MACS_PER_SPACE = 20
"""Counting what runs takes ten times as long as counting parameters."""
TOLERANCE = 1e-5  # of the RMS: the two sides add the same fp32 numbers in another order


@pytest.fixture(autouse=True)
def no_weights_but_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What layers draw when they are made is drawn over or loaded over, always; thousands are made here."""
    for layer in (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Embedding):
        monkeypatch.setattr(layer, "reset_parameters", lambda _: None)


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Every tensor at unit scale, so that each one matters; attention sharp enough to tell frames apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)
            if name.endswith("bias"):
                parameter.mul_(0.2)
            if "norm.weight" in name:
                parameter.mul_(0.3).add_(1.0)
            if "q_proj.weight" in name or "k_proj.weight" in name:
                parameter.mul_(1.5)


def make(space: SearchSpace, seed: int = 0) -> Supernet:
    supernet = Supernet(space, torch.Generator().manual_seed(seed))
    randomize(supernet, seed)
    return supernet


def subnets(space: SearchSpace, count: int) -> list[Subnet]:
    rng = random.Random(0)
    return [space.smallest(), space.container, *(space.sample(rng) for _ in range(count))]


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two utterances of unequal length, zero where padded."""
    wave = torch.randn(2, 4000, generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([4000, 2700])
    wave[1, 2700:] = 0
    return wave, lengths


def assert_equal(got: Tensor, expected: Tensor, valid: Tensor | None = None, tolerance: float = TOLERANCE) -> None:
    assert got.shape == expected.shape
    if valid is not None:
        got, expected = got[valid], expected[valid]
    rms = expected.square().mean().sqrt()
    error = (got - expected).abs().max() / rms
    assert error <= tolerance, f"differs by {error:.1e} of the RMS {rms:.3g}"


def assert_traces_equal(got: Trace, expected: Trace, tolerance: float = TOLERANCE) -> None:
    assert len(got.hidden) == len(expected.hidden)
    for a, b in zip([*got.hidden, *got.ffn, got.last], [*expected.hidden, *expected.ffn, expected.last], strict=True):
        assert_equal(a, b, expected.valid, tolerance)


def sliced_by_the_rule(  # noqa: PLR0912 - all of the rule in one place
    weights: dict[str, Tensor], space: SearchSpace, subnet: Subnet
) -> dict[str, Tensor]:
    """A subnet's weights from a container's, by index sets written out from the rule; knows nothing of slicing.py.

    Residual channels: the first d / G of each group. Heads, inner units, front-end channels: the first. The i-th
    layer: the container's `kept[i]`. As LightHuBERT's weights were released: residual channels are the first d, inner
    units the first d of each block of D (of the last one: what is left), the positional kernel is cut after its norm.
    """
    groups, head_dim = space.backbone.pos_conv_groups, space.backbone.head_dim
    released, widest = space.slicing == "lighthubert", space.container.embed_dim
    full, part = widest // groups, subnet.embed_dim // groups
    width = torch.tensor([g * full + i for g in range(groups) for i in range(part)])
    if released:
        width = torch.arange(subnet.embed_dim)
    in_group = torch.arange(part)
    conv = [torch.arange(c) for c in subnet.conv_dims]
    out: dict[str, Tensor] = {"masked_spec_embed": weights["masked_spec_embed"][width]}
    for i, channels in enumerate(conv):
        base = f"feature_extractor.conv_layers.{i}"
        kernel = weights[f"{base}.conv.weight"][channels]
        out[f"{base}.conv.weight"] = kernel if i == 0 else kernel[:, conv[i - 1]]
        for name in ("conv.bias", "layer_norm.weight", "layer_norm.bias"):
            if f"{base}.{name}" in weights:
                out[f"{base}.{name}"] = weights[f"{base}.{name}"][channels]
    for name in ("weight", "bias"):
        out[f"feature_projection.layer_norm.{name}"] = weights[f"feature_projection.layer_norm.{name}"][conv[-1]]
        out[f"encoder.layer_norm.{name}"] = weights[f"encoder.layer_norm.{name}"][width]
    projection = weights["feature_projection.projection.weight"]
    out["feature_projection.projection.weight"] = projection[width][:, conv[-1]]
    out["feature_projection.projection.bias"] = weights["feature_projection.projection.bias"][width]
    pos = "encoder.pos_conv_embed.conv"
    out[f"{pos}.bias"] = weights[f"{pos}.bias"][width]
    out[f"{pos}.parametrizations.weight.original0"] = weights[f"{pos}.parametrizations.weight.original0"]
    kernel = weights[f"{pos}.parametrizations.weight.original1"]
    out[f"{pos}.parametrizations.weight.original1"] = kernel[width][:, in_group]
    if released:
        gains = weights[f"{pos}.parametrizations.weight.original0"]
        part_of_normed = (gains * kernel / kernel.pow(2).sum((0, 1), keepdim=True).sqrt())[width][:, in_group]
        out[f"{pos}.parametrizations.weight.original1"] = part_of_normed
        out[f"{pos}.parametrizations.weight.original0"] = part_of_normed.pow(2).sum((0, 1), keepdim=True).sqrt()
    if space.backbone.gate_width:
        out["encoder.rel_attn_embed.weight"] = weights["encoder.rel_attn_embed.weight"]
    for i, (layer, source) in enumerate(zip(subnet.layers, subnet.kept, strict=True)):
        old, new = f"encoder.layers.{source}", f"encoder.layers.{i}"
        inner, units = torch.arange(layer.heads * head_dim), torch.arange(layer.ffn_dim)
        if released:
            places = [(block, i) for block in range(widest) for i in range(subnet.embed_dim)][: layer.ffn_dim]
            units = torch.tensor([block * widest + i for block, i in places])
        if space.backbone.gate_width:
            gate = f"{old}.attention.gru_rel_pos"
            out[f"{new}.attention.gru_rel_pos_const"] = weights[f"{gate}_const"][:, : layer.heads]
            for name in ("weight", "bias"):
                out[f"{new}.attention.gru_rel_pos_linear.{name}"] = weights[f"{gate}_linear.{name}"]
        for p in "qkv":
            out[f"{new}.attention.{p}_proj.weight"] = weights[f"{old}.attention.{p}_proj.weight"][inner][:, width]
            out[f"{new}.attention.{p}_proj.bias"] = weights[f"{old}.attention.{p}_proj.bias"][inner]
        out[f"{new}.attention.out_proj.weight"] = weights[f"{old}.attention.out_proj.weight"][width][:, inner]
        out[f"{new}.attention.out_proj.bias"] = weights[f"{old}.attention.out_proj.bias"][width]
        ffn = "feed_forward"
        out[f"{new}.{ffn}.intermediate_dense.weight"] = weights[f"{old}.{ffn}.intermediate_dense.weight"][units][
            :, width
        ]
        out[f"{new}.{ffn}.intermediate_dense.bias"] = weights[f"{old}.{ffn}.intermediate_dense.bias"][units]
        out[f"{new}.{ffn}.output_dense.weight"] = weights[f"{old}.{ffn}.output_dense.weight"][width][:, units]
        out[f"{new}.{ffn}.output_dense.bias"] = weights[f"{old}.{ffn}.output_dense.bias"][width]
        for norm in ("layer_norm", "final_layer_norm"):
            for name in ("weight", "bias"):
                out[f"{new}.{norm}.{name}"] = weights[f"{old}.{norm}.{name}"][width]
    return out


@pytest.mark.parametrize("name", VARIANTS)
def test_any_subnet_equals_the_written_rule_and_its_extraction(name: str) -> None:
    space = small(name)
    plain = Encoder(encoder_config(space.backbone, space.container))
    randomize(plain, 1)
    weights = plain.state_dict()
    supernet = Supernet(space, torch.Generator().manual_seed(0))
    assert supernet.load_encoder(weights) == []
    wave, lengths = batch()
    taps = ("hidden", "ffn")
    for subnet in subnets(space, SUBNETS_PER_SPACE if name in NAMES else 40):
        expected = Encoder(encoder_config(space.backbone, subnet))
        expected.load_state_dict(sliced_by_the_rule(weights, space, subnet))
        extracted = supernet.extract(subnet)
        with torch.no_grad():
            reference = expected(wave, lengths, taps)
            assert_traces_equal(supernet(wave, lengths, subnet, taps), reference)
            assert_traces_equal(extracted(wave, lengths, taps), reference)
        found, wanted = extracted.state_dict(), expected.state_dict()
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            if "original" in key and name in RELEASED:  # normalised anew, in another order of sums
                assert torch.allclose(found[key], value, rtol=1e-5, atol=1e-7), key
            else:
                assert torch.equal(found[key], value), key


def test_gates_of_a_narrow_stream_read_the_channels_they_read_in_the_container() -> None:
    """Written out from WavLM's formula, on a stream of the container's width with zeros where channels are missing."""
    space = small(GATED)
    subnet = next(s for s in subnets(space, 20) if s.embed_dim < space.container.embed_dim and s.layers[0].heads > 1)
    attention = make(space).extract(subnet).encoder.layers[0].attention
    groups, head_dim, widest = space.backbone.pos_conv_groups, space.backbone.head_dim, space.container.embed_dim
    x = torch.randn(2, 7, subnet.embed_dim, generator=torch.Generator().manual_seed(0))
    part, full = subnet.embed_dim // groups, widest // groups
    whole = torch.zeros(2, 7, widest)
    for channel in range(subnet.embed_dim):
        whole[..., channel // part * full + channel % part] = x[..., channel]
    with torch.no_grad():
        got = attention._gate(x)
        heads = subnet.layers[0].heads
        assert got.shape == (2, heads, 7, 1)
        for head in range(heads):
            eight = attention.gru_rel_pos_linear(whole[..., head * head_dim : (head + 1) * head_dim])
            update, reset = torch.sigmoid(eight[..., :4].sum(-1)), torch.sigmoid(eight[..., 4:].sum(-1))
            gate = update * (reset * attention.gru_rel_pos_const[0, head, 0, 0] - 1.0) + 2.0
            assert torch.allclose(got[:, head, :, 0], gate, atol=1e-6)


@pytest.mark.parametrize(
    "backbone",
    [{"norm_first": True}, {"conv_norm": "group"}, {"conv_bias": True}, {"normalize_waveform": False}],
    ids=str,
)
def test_structural_options_slice_as_well(backbone: dict[str, object]) -> None:
    space = small("tiny", **backbone)
    supernet = make(space)
    wave, _ = batch()
    for subnet in subnets(space, 10):
        with torch.no_grad():
            assert_traces_equal(
                supernet(wave, None, subnet, ("hidden", "ffn")),
                supernet.extract(subnet)(wave, None, ("hidden", "ffn")),
            )


def test_slicing_the_first_channels_instead_is_noticed() -> None:
    """The reference must be able to fail: LightHuBERT's contiguous rule is another function."""
    space = small("tiny")
    supernet = make(space)
    subnet = space.smallest()
    weights = supernet.weights_of(space.container)
    wrong = supernet.extract(subnet)
    kernel = "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    state = supernet.weights_of(subnet)
    state[kernel] = weights[kernel][: subnet.embed_dim, : subnet.embed_dim // 16]
    wrong.load_state_dict(state)
    wave, lengths = batch()
    with torch.no_grad(), pytest.raises(AssertionError, match="differs by"):
        assert_traces_equal(wrong(wave, lengths), supernet(wave, lengths, subnet))


def test_inner_units_taken_from_the_front_are_noticed_under_lighthuberts_rule() -> None:
    space = small(RELEASED[1])
    supernet = make(space)
    subnet = space.smallest()
    wrong = supernet.extract(subnet)
    state, weights = supernet.weights_of(subnet), supernet.weights_of(space.container)
    for i, (layer, source) in enumerate(zip(subnet.layers, subnet.kept, strict=True)):
        old, new = (f"encoder.layers.{k}.feed_forward.output_dense.weight" for k in (source, i))
        state[new] = weights[old][: subnet.embed_dim, : layer.ffn_dim]
    wrong.load_state_dict(state)
    with torch.no_grad(), pytest.raises(AssertionError, match="differs by"):
        assert_traces_equal(wrong(*batch()), supernet(*batch(), subnet))


@pytest.mark.parametrize("name", [*NAMES, GATED])
def test_costs_are_exact(name: str) -> None:
    space = small(name)
    for i, subnet in enumerate(subnets(space, SUBNETS_PER_SPACE)):
        encoder = Encoder(encoder_config(space.backbone, subnet))  # what the supernet extracts is one, see above
        assert count_params(space.backbone, subnet) == sum(p.numel() for p in encoder.parameters())
        if i < MACS_PER_SPACE:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                encoder(torch.ones(1, 8000), None, ("attention",))  # this tap computes attention by plain matmuls
            assert counter.get_total_flops() == 2 * count_macs(space.backbone, subnet, 0.5)


@pytest.mark.parametrize("name", [*NAMES, GATED])
def test_masked_padding_changes_no_valid_frame(name: str) -> None:
    space = small(name)
    supernet = make(space)
    wave, lengths = batch()
    for subnet in subnets(space, 20):
        with torch.no_grad():
            together = supernet(wave, lengths, subnet)
            alone = supernet(wave[1:, : int(lengths[1])], None, subnet)
        assert together.valid is not None
        for a, b in zip(together.hidden, alone.hidden, strict=True):
            # The waveform's mean and variance are sums over other lengths, so they round otherwise.
            assert_equal(a[1][together.valid[1]], b[0], tolerance=5 * TOLERANCE)


def test_padding_would_show_if_it_were_not_masked() -> None:
    space = small("tiny")
    supernet = make(space)
    wave, lengths = batch()
    with torch.no_grad():
        unmasked = supernet(wave, None, space.container).last[1]
        alone = supernet(wave[1:, : int(lengths[1])], None, space.container).last[0]
    with pytest.raises(AssertionError, match="differs by"):
        assert_equal(unmasked[: len(alone)], alone)


def random_importance(space: SearchSpace, seed: int) -> dict[Axis, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    container, groups = space.container, space.backbone.pos_conv_groups

    def scores(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    return {
        WIDTH: scores(groups, container.embed_dim // groups),
        **{Axis("conv", i): scores(c) for i, c in enumerate(container.conv_dims)},
        **{Axis("heads", i): scores(layer.heads) for i, layer in enumerate(container.layers)},
        **{Axis("ffn", i): scores(layer.ffn_dim) for i, layer in enumerate(container.layers)},
    }


@pytest.mark.parametrize("name", NAMES)
def test_reorder_changes_nothing_once_undone(name: str) -> None:
    space = small(name)
    supernet = make(space)
    wave, lengths = batch()
    with torch.no_grad():
        before = supernet(wave, lengths, space.container)
        small_before = supernet(wave, lengths, space.smallest()).last
    for seed in range(3):
        reorder(supernet, random_importance(space, seed))
    with torch.no_grad():
        after = supernet(wave, lengths, space.container)
        small_after = supernet(wave, lengths, space.smallest()).last
    undo = supernet.residual_order.argsort()
    for a, b in zip(after.hidden, before.hidden, strict=True):
        # Every sum over heads, inner units and channels runs in another order, through up to 12 layers.
        assert_equal(a[..., undo], b, before.valid, 5 * TOLERANCE)
    with pytest.raises(AssertionError, match="differs by"):  # and yet a prefix is now another part
        assert_equal(small_after, small_before, before.valid)


@pytest.mark.parametrize("name", [GATED, *RELEASED])
def test_what_cannot_be_sorted_stays(name: str) -> None:
    """Gates tie channels and heads to their places; LightHuBERT's rule ties channels and inner units."""
    space = small(name)
    supernet = make(space)
    with torch.no_grad():
        before = supernet(*batch(), space.container)
    weights = {name: weight.clone() for name, weight in supernet.named_parameters()}
    order = reorder(supernet, random_importance(space, 0))
    assert torch.equal(order, torch.arange(space.container.embed_dim))
    with torch.no_grad():
        assert_traces_equal(supernet(*batch(), space.container), before, 5 * TOLERANCE)
    moved = {name for name, weight in supernet.named_parameters() if not torch.equal(weight, weights[name])}
    kinds = {"q_proj": name != GATED, "intermediate_dense": name == GATED, "feature_extractor": True, "pos_conv": False}
    for kind, may_move in kinds.items():
        assert any(kind in parameter for parameter in moved) == may_move, kind


def test_the_most_important_units_come_first() -> None:
    space = small("tiny")
    supernet = make(space)
    wave, lengths = batch()

    def scores() -> dict[Axis, Tensor]:
        supernet.zero_grad()
        trace = supernet(wave, lengths, space.container, ("hidden",))
        sum(h.square().mean() for h in trace.hidden).backward()
        return taylor_importance(supernet)

    shuffled = scores()
    assert any((score[..., :-1] < score[..., 1:]).any() for score in shuffled.values())
    reorder(supernet, shuffled)
    for axis, score in scores().items():
        assert (score[..., :-1] >= score[..., 1:] * (1 - 1e-3)).all(), axis


def test_a_unit_without_weights_has_no_importance() -> None:
    space = small("tiny")
    supernet = make(space)
    layer = supernet.container.encoder.layers[2].feed_forward
    with torch.no_grad():
        layer.intermediate_dense.weight[5] = 0
        layer.intermediate_dense.bias[5] = 0
        layer.output_dense.weight[:, 5] = 0
    trace = supernet(*batch(), space.container)
    trace.last.square().mean().backward()
    score = taylor_importance(supernet)[Axis("ffn", 2)]
    assert score[5] == 0
    assert (score[:5] > 0).all()


def test_gradients_reach_only_what_a_subnet_uses() -> None:
    space = small("tiny")
    supernet = make(space)
    subnet = space.smallest()
    supernet(*batch(), subnet).last.square().mean().backward()
    for i in range(len(space.container.layers)):
        weight = supernet.container.encoder.layers[i].feed_forward.intermediate_dense.weight
        if i in subnet.kept:
            ffn_dim = subnet.layers[subnet.kept.index(i)].ffn_dim
            assert weight.grad[:ffn_dim, : subnet.embed_dim].abs().sum() > 0
            assert weight.grad[ffn_dim:].abs().sum() == 0
            assert weight.grad[:, subnet.embed_dim :].abs().sum() == 0
        else:
            assert weight.grad is None


def test_gates_learn() -> None:
    space = small(GATED)
    supernet = make(space)
    supernet(*batch(), space.container).last.square().mean().backward()
    gates = {name: p for name, p in supernet.named_parameters() if "gru_rel_pos" in name or "rel_attn_embed" in name}
    assert len(gates) == 3 * len(space.container.layers) + 1
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gates.values())


def test_interleaving_is_undone() -> None:
    x = torch.arange(48.0).expand(2, 48)
    assert interleave(x, 16)[0, :3].tolist() == [0, 3, 6]
    assert torch.equal(deinterleave(interleave(x, 16), 16), x)


def test_a_larger_teacher_fills_the_container_with_its_first_units() -> None:
    teacher_space, space = small("base"), small("tiny")
    teacher = Encoder(encoder_config(teacher_space.backbone, teacher_space.container))
    randomize(teacher, 3)
    supernet = make(space)
    skipped = supernet.load_encoder(teacher.state_dict())
    assert skipped == []
    weight = supernet.extract(space.container).state_dict()["encoder.layers.1.attention.q_proj.weight"]
    source = layer_at_depth(1, len(space.container.layers), len(teacher_space.container.layers))
    width = teacher_space.container.embed_dim
    block, kept = width // 16, space.container.embed_dim // 16
    columns = [g * block + i for g in range(16) for i in range(min(kept, block))]
    expected = teacher.state_dict()[f"encoder.layers.{source}.attention.q_proj.weight"][: weight.shape[0]][:, columns]
    assert torch.equal(weight[: expected.shape[0], : expected.shape[1]], expected)


@pytest.mark.parametrize(("num_layers", "lent"), [(6, [1, 3, 5]), (3, [0, 1, 2]), (2, [0, 0, 1]), (1, [0, 0, 0])])
def test_layers_start_from_those_at_the_same_depth(num_layers: int, lent: list[int]) -> None:
    """As layer-wise terms compare them; it took the first ones."""
    space = replace(small("tiny"), depth={3: ((0, 1, 2),)})
    shape = encoder_config(space.backbone, space.container)
    layers = {"heads": shape.heads[:1] * num_layers, "ffn_dims": shape.ffn_dims[:1] * num_layers}
    teacher = Encoder(replace(shape, **layers))
    randomize(teacher, 3)
    supernet = make(space)
    assert supernet.load_encoder(teacher.state_dict(), teacher.config) == []
    found, wanted = supernet.extract(space.container).state_dict(), teacher.state_dict()
    for layer, source in enumerate(lent):
        name = "encoder.layers.{}.feed_forward.output_dense.weight"
        assert torch.equal(found[name.format(layer)], wanted[name.format(source)])


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        ({"head_dim": 16}, r"encoder\.layers\.\d+\.attention\..*"),
        ({"norm_first": True}, r"encoder\.layers\..*|encoder\.layer_norm\..*"),
        ({"conv_strides": (5, 2, 2, 2, 2, 2, 1)}, r"feature_extractor\..*"),
        ({"pos_conv_groups": 8}, r"encoder\.pos_conv_embed\..*"),
        ({"num_buckets": 4, "max_distance": 9}, None),  # of a position bias that neither has
    ],
)
def test_weights_of_a_part_that_computes_otherwise_are_left_alone(change: dict[str, Any], skipped: str | None) -> None:
    space = small("tiny")
    teacher = Encoder(encoder_config(space.backbone, space.container))
    randomize(teacher, 3)
    supernet = make(space)
    before = {name: weight.clone() for name, weight in supernet.container.named_parameters()}
    names = supernet.load_encoder(teacher.state_dict(), replace(teacher.config, **change))
    assert names == [name for name in before if skipped and re.fullmatch(skipped, name)]
    for name, weight in supernet.container.named_parameters():
        assert torch.equal(weight, before[name]) == (name in names), name


def test_a_residual_stream_that_the_groups_do_not_divide_is_left_alone() -> None:
    space = small("tiny")
    shape = encoder_config(space.backbone, space.container)
    teacher = Encoder(replace(shape, embed_dim=40, pos_conv_groups=8))
    randomize(teacher, 3)
    supernet = make(space)
    before = {name: weight.clone() for name, weight in supernet.container.named_parameters()}
    names = supernet.load_encoder(teacher.state_dict(), teacher.config)
    of_stream = {"width", "grouped", "in_group"}
    assert names == [
        name
        for name in before
        if name.startswith("encoder.pos_conv_embed")
        or of_stream & {axis.kind for axis in axes(name, len(space.conv_dims))}
    ]
    for name, weight in supernet.container.named_parameters():
        assert torch.equal(weight, before[name]) == (name in names), name


@pytest.mark.parametrize(
    "use",
    [
        lambda supernet, subnet: supernet(*batch(), subnet),
        lambda supernet, subnet: supernet.extract(subnet),
        lambda supernet, subnet: supernet.weights_of(subnet),
    ],
    ids=["call", "extract", "weights_of"],
)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"conv_dims": (5,) * 7}, "conv_dims[0]=5 is not in the space; choices are "),  # could be cut
        ({"embed_dim": 1024}, "embed_dim=1024 is not in the space; choices are "),  # could not
        ({"layers": (), "kept": ()}, "0 layers are not in the space; choices are "),
    ],
)
def test_a_subnet_of_another_space_is_refused_by_name(
    use: Callable[[Supernet, Subnet], object], change: dict[str, Any], problem: str
) -> None:
    supernet = make(small("tiny"))
    subnet = replace(supernet.space.container, **change)
    with pytest.raises(Exception, match=re.escape(problem)) as caught:
        use(supernet, subnet)
    assert isinstance(caught.value, NestlingError)


def test_an_unknown_tap_is_refused() -> None:
    supernet = make(small("tiny"))
    with pytest.raises(ValueError, match=r"unknown taps \['hiden'\]; the taps are hidden, ffn"):
        supernet(*batch(), supernet.space.container, ("hiden",))


def test_bf16_computes_the_same_network() -> None:
    """On the real space, whose widths are what kernels for bf16 were seen to get wrong."""
    space = SearchSpace.load("tiny")
    supernet = Supernet(space, torch.Generator().manual_seed(0))
    wave = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    for subnet in subnets(space, 12):
        with torch.no_grad():
            expected = supernet(wave, None, subnet)
            with torch.autocast("cpu", torch.bfloat16):
                got = supernet(wave, None, subnet)
        for a, b in zip(got.hidden, expected.hidden, strict=True):
            error = (a.float() - b).square().mean().sqrt() / b.square().mean().sqrt()
            assert error < 0.05, f"width {subnet.embed_dim}: bf16 is off by {error:.2f} of the RMS"


@pytest.mark.parametrize("name", ["tiny", GATED, RELEASED[0]])
def test_training_computes_what_inference_does(name: str) -> None:
    space = small(name)
    supernet = make(space)
    wave, lengths = batch()
    for subnet in subnets(space, 5):
        with torch.no_grad():
            expected = supernet(wave, lengths, subnet, ("hidden", "ffn"))
        assert_traces_equal(supernet(wave, lengths, subnet, ("hidden", "ffn")), expected)


@pytest.mark.parametrize("name", ["tiny", GATED, RELEASED[0]])
def test_inference_follows_every_change_of_the_weights(name: str) -> None:
    space = small(name)
    supernet = make(space)
    wave, lengths = batch()
    subnet = space.smallest()
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=0.05)
    for change in (
        lambda: randomize(supernet, 7),
        lambda: (supernet(wave, lengths, subnet).last.square().mean().backward(), optimizer.step()),
        lambda: supernet.load_state_dict(make(space, 8).state_dict()),
        lambda: supernet.to(torch.float64).to(torch.float32),
        lambda: reorder(supernet, random_importance(space, 1)),
    ):
        with torch.no_grad():
            supernet(wave, lengths, subnet)
        change()
        with torch.no_grad():
            assert_traces_equal(supernet(wave, lengths, subnet), supernet.extract(subnet)(wave, lengths))


def test_weights_that_take_the_place_of_others_are_those_that_compute() -> None:
    space = small("tiny")
    supernet, other = make(space, 0), make(space, 1)
    wave, lengths = batch()
    supernet(wave, lengths, space.container)
    supernet.load_state_dict(other.state_dict(), assign=True)
    assert_traces_equal(supernet(wave, lengths, space.container), other(wave, lengths, space.container))
    with torch.no_grad():
        assert_traces_equal(supernet.extract(space.smallest())(wave, lengths), other(wave, lengths, space.smallest()))


def gradients(supernet: Supernet, loss: Tensor) -> dict[str, Tensor]:
    """Of every weight that the loss reaches."""
    supernet.zero_grad()
    loss.backward()
    return {name: w.grad.clone() for name, w in supernet.named_parameters() if w.grad is not None}


def assert_gradients_equal(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    largest = max(float(wanted.norm()) for wanted in expected.values())
    for name, wanted in expected.items():  # the keys' biases have none but what rounding leaves
        error = (got[name] - wanted).norm() / wanted.norm().clamp(min=1e-6 * largest)
        assert error <= tolerance, f"the gradient of {name} is off by {error:.1e}"


def energy(trace: Trace) -> Tensor:
    """A loss that every layer has a part in."""
    return torch.stack([x.square().mean() for x in trace.hidden]).sum()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["tiny", GATED, RELEASED[0]])
def test_layers_computed_again_in_backward_have_the_same_gradients(name: str, reentrant: bool) -> None:
    space = small(name)
    supernet = make(space).double()  # so that only a mistake shows: attention of no gradient sums in another order
    wave, lengths = batch()
    calls = []

    def watch(layer: torch.nn.Module, *inputs: object) -> object:
        calls.append(layer)
        return checkpoint(layer, *inputs, use_reentrant=reentrant)

    for subnet in subnets(space, 4):
        plain = gradients(supernet, energy(supernet(wave.double(), lengths, subnet)))
        transformer = supernet.container.encoder
        transformer.gradient_checkpointing, transformer._gradient_checkpointing_func = True, watch
        try:
            trace = supernet(wave.double(), lengths, subnet)
            again = gradients(supernet, energy(trace))
        except (AttributeError, TypeError) as error:
            pytest.fail(f"a layer could not be computed again: {error}")
        finally:
            transformer.gradient_checkpointing = False
        assert len(calls) == len(subnet.layers), "not every layer was computed again"
        calls.clear()
        assert_gradients_equal(again, plain, 1e-6)


def test_subnets_may_run_side_by_side_before_one_backward() -> None:
    """The same one twice, another between, and one inside of another's forward, as threads would have it."""
    space = small("tiny")
    supernet = make(space).double()
    first, second = batch(0)[0].double(), batch(1)[0].double()
    one, other = subnets(space, 3)[-2:]
    apart: dict[str, Tensor] = {}
    for wave, subnet in ((first, one), (second, other), (second, one)):
        for name, grad in gradients(supernet, energy(supernet(wave, None, subnet))).items():
            apart[name] = apart.get(name, 0) + grad
    together = [energy(supernet(wave, None, s)) for wave, s in ((first, one), (second, other), (second, one))]
    assert_gradients_equal(gradients(supernet, torch.stack(together).sum()), apart, 1e-6)


def test_a_forward_does_not_disturb_one_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As two threads would."""
    space = small("tiny")
    supernet = make(space)
    wave, lengths = batch()
    subnet = space.smallest()
    expected = supernet(wave, lengths, subnet).last
    inner = []

    def interrupt(x: Tensor, probability: float) -> Tensor:
        if not inner:
            inner.append(None)
            inner[0] = supernet(wave, lengths, subnet).last
        return drop(x, probability)

    monkeypatch.setattr("supernet.encoder.drop", interrupt)
    try:
        outer = supernet(wave, lengths, subnet).last
    except (AttributeError, TypeError) as error:
        pytest.fail(f"the forward under way lost its weights: {error}")
    assert torch.equal(outer, expected)
    assert torch.equal(inner[0], expected)


def held() -> int:
    """Bytes of the tensors that anything holds."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


@pytest.mark.parametrize("name", ["tiny", RELEASED[0]])
def test_a_supernet_holds_its_weights_and_nothing_else(name: str) -> None:
    space = small(name)
    supernet = make(space)
    wave, _ = batch()
    before = held()
    with torch.no_grad():
        for subnet in subnets(space, 5):
            supernet(wave, None, subnet)
    assert held() == before


def test_no_weights_are_drawn_for_a_subnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be thrown away; so would drawing shapes of them, which takes ten times as long as all else."""
    space = small("tiny")
    supernet = make(space)
    drawn: list[str] = []
    for layer in (torch.nn.Linear, torch.nn.Conv1d):
        monkeypatch.setattr(layer, "reset_parameters", lambda self: drawn.append(type(self).__name__))
    with torch.no_grad():
        supernet(batch()[0], None, space.sample(random.Random(5)))
    assert not drawn


@pytest.mark.parametrize("name", VARIANTS)
def test_weight_decay_is_for_matrices_and_kernels(name: str) -> None:
    supernet = make(small(name))
    decayed, others = split_by_decay(supernet)
    names = {id(weight): name for name, weight in supernet.named_parameters()}
    assert sorted(map(id, [*decayed, *others])) == sorted(names)
    maps = {name.rpartition("container.")[2] for name in map(names.get, map(id, decayed)) if name}
    ends = {"conv.weight", "projection.weight", "_proj.weight", "_dense.weight", "_linear.weight", "weight.original1"}
    assert maps == {
        name for name, _ in supernet.container.named_parameters() if any(name.endswith(end) for end in ends)
    }
