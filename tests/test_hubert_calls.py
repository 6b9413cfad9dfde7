"""An export behind our own class is called, trained and saved as people do it with a HubertModel."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, HubertModel

import checkpoints.export
from checkpoints.export import write_encoder
from supernet.encoder import Encoder
from tests.encoders import TOLERANCE, error_of, make_encoder, make_model

HUBERT = {"conv_kernels": (10, 3, 3, 3, 3, 2, 2), "conv_strides": (5, 2, 2, 2, 2, 2, 2), "conv_dims": (8,) * 7}
DROPOUTS = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
WAVE = 0.3 * torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) + 0.1
MASK = torch.ones(2, 5000, dtype=torch.int64)
MASK[1, 3000:] = 0
FRAMES = torch.zeros(2, 15, dtype=torch.bool)
FRAMES[:, 4:7] = True


def write_pair(encoder: Encoder, folder: Path) -> tuple[Path, Path]:
    """The same network as a HubertModel and behind our class."""
    write_encoder(encoder, folder / "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.export, "hugging_face_config", lambda _: None)
        write_encoder(encoder, folder / "ours")
    return folder / "plain", folder / "ours"


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    encoder = make_encoder(normalize_waveform=False, norm_first=request.param, **HUBERT)
    return write_pair(encoder, tmp_path_factory.mktemp("pair"))


@pytest.fixture
def pair(folders: tuple[Path, Path]) -> tuple[Any, Any]:
    plain = HubertModel.from_pretrained(folders[0], attn_implementation="eager")
    return plain, AutoModel.from_pretrained(folders[1], trust_remote_code=True)


def numbers_of(answer: Any) -> list[Tensor]:
    """Every tensor of an answer, in order."""
    if isinstance(answer, Tensor):
        return [answer]
    values = answer.values() if hasattr(answer, "values") else answer if isinstance(answer, tuple) else ()
    return [tensor for value in values for tensor in numbers_of(value)]


def call_as_configured(model: Any, **asked: bool) -> Any:
    """What a model answers to a wave alone when its configuration asks for more."""
    model.set_attn_implementation("eager")  # transformers has no attentions of the other, in either class
    for name, value in asked.items():
        setattr(model.config, name, value)
    return model(WAVE)


CALLS: dict[str, Callable[[Any], Any]] = {
    "output_attentions": lambda m: m(WAVE, output_attentions=True),
    "masked attentions": lambda m: m(WAVE, attention_mask=MASK, output_attentions=True).attentions,
    "no attentions": lambda m: m(WAVE, output_attentions=False, output_hidden_states=True),
    "as heads pass it on": lambda m: m(
        WAVE, attention_mask=None, output_attentions=None, output_hidden_states=None, return_dict=None
    ),
    "what heads get of a trainer": lambda m: m(WAVE, num_items_in_batch=2),
    "hidden states by the configuration": lambda m: call_as_configured(m, output_hidden_states=True),
    "attentions by the configuration": lambda m: call_as_configured(m, output_attentions=True),
    "in order": lambda m: m(WAVE, None, FRAMES, output_hidden_states=True),
    "all in a tuple": lambda m: m(WAVE, output_attentions=True, output_hidden_states=True, return_dict=False),
    "attentions in a tuple": lambda m: m(WAVE, output_attentions=True, return_dict=False),
    "frames of a number": lambda m: int(m._get_feat_extract_output_lengths(5000)),
    "frames of lengths": lambda m: m._get_feat_extract_output_lengths(torch.tensor([400, 719, 720, 5000])),
    "mask of frames": lambda m: m._get_feature_vector_attention_mask(15, MASK),
    "kernels": lambda m: (list(m.config.conv_kernel), list(m.config.conv_stride), list(m.config.conv_dim)),
    "ratio": lambda m: m.config.inputs_to_logits_ratio,
    "probabilities": lambda m: [getattr(m.config, name) for name in DROPOUTS],
    "width": lambda m: m.feature_projection.projection.out_features,
    "layers": lambda m: len(m.encoder.layers),
    "frozen": lambda m: (m.feature_extractor._freeze_parameters(), count_frozen(m))[1],
}


def count_frozen(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_answered_as_a_hubert_does(pair: tuple[Any, Any], name: str) -> None:
    plain, ours = pair
    with torch.no_grad():
        wanted, refused = CALLS[name](plain), None
        try:
            got = CALLS[name](ours)
        except Exception as error:
            got, refused = None, repr(error)
    assert refused is None
    assert type(got) is type(wanted)
    tensors = numbers_of(wanted)
    if not tensors or tensors[0].dtype in (torch.bool, torch.int64):
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(wanted)) if tensors else got == wanted
        return
    if name == "masked attentions":  # of frames that are no audio, all attention is nonsense
        tensors, got = ([x[1, :, :8] for x in numbers_of(answer)] for answer in (tensors and wanted, got))
    else:
        assert not hasattr(wanted, "keys") or wanted.keys() == got.keys()
        got = numbers_of(got)
    assert error_of(got, tensors) <= 10 * TOLERANCE


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_both_implementations_of_attention_can_be_asked_for(folders: tuple[Path, Path], implementation: str) -> None:
    assert AutoModel.from_pretrained(folders[1], trust_remote_code=True)._supports_sdpa
    model = AutoModel.from_pretrained(folders[1], trust_remote_code=True, attn_implementation=implementation)
    assert model.config._attn_implementation == implementation
    with torch.no_grad():
        answer = model(WAVE, output_attentions=True)
    assert [x.shape for x in answer.attentions] == [(2, 4, 15, 15)] * 2
    assert all(torch.allclose(x.sum(-1), torch.ones(())) for x in answer.attentions)


def test_attention_has_wavlms_gates_in_it(tmp_path: Path) -> None:
    """A WavLMModel answers with the mean of its heads."""
    encoder = make_encoder(normalize_waveform=False, gate_width=32, num_buckets=20, max_distance=40, **HUBERT)
    _, folder = write_pair(encoder, tmp_path)
    ours = AutoModel.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = make_model(encoder, "wavlm")(WAVE, output_attentions=True).attentions
        assert "output_attentions" in type(ours).forward.__annotations__
        got = ours(WAVE, output_attentions=True).attentions
    assert error_of([x.mean(1) for x in got], [x[:, 0] for x in wanted]) <= 10 * TOLERANCE


# Training


def test_dropout_is_a_huberts_to_the_bit_of_its_masks(pair: tuple[Any, Any]) -> None:
    """Drawn from the same seed: what is left out, and where, and how much the rest is raised."""
    _, ours = pair
    still = ours(WAVE).last_hidden_state
    for name in (*DROPOUTS, "all"):
        outputs = []
        for model in pair:
            for each in DROPOUTS:
                setattr(model.config, each, 0.3 if name in (each, "all") else 0.0)
            model.config.apply_spec_augment = False
            again = type(model)(model.config)  # a HubertModel reads most of them when it is made
            again.load_state_dict(model.state_dict())
            torch.manual_seed(3)
            outputs.append(again.train()(WAVE, attention_mask=MASK).last_hidden_state[0])
        assert error_of(outputs[1:], outputs[:1]) <= 10 * TOLERANCE, name
    assert torch.equal(ours.eval()(WAVE).last_hidden_state, still)
    for each in DROPOUTS:
        setattr(ours.config, each, 0.0)
    assert error_of([ours.train()(WAVE).last_hidden_state], [still]) <= TOLERANCE


@pytest.mark.parametrize("return_dict", [False, True])
def test_a_layer_that_is_left_out_has_no_attention(pair: tuple[Any, Any], return_dict: bool) -> None:
    """None in its place: the i-th attention is of layer i, and the layer gives what it gets."""
    _, ours = pair
    ours.config.layerdrop, found = 0.5, set()
    for seed in range(12):
        torch.manual_seed(seed)
        out = ours.train()(WAVE, output_attentions=True, output_hidden_states=True, return_dict=return_dict)
        hidden, attentions = (out.hidden_states, out.attentions) if return_dict else out[1:]
        assert (len(hidden), len(attentions)) == (3, 2)
        dropped = tuple(torch.equal(hidden[i], hidden[i + 1]) for i in range(2))
        assert tuple(attention is None for attention in attentions) == dropped
        assert all(x is None or x.shape == (2, 4, 15, 15) for x in attentions)
        found.add(dropped)
    assert len(found) == 4


def test_the_configuration_keeps_dropout(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folders[1], trust_remote_code=True)
    model.config.hidden_dropout, model.config.layerdrop = 0.25, 0.0
    model.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    found = [getattr(again.config, name, None) for name in DROPOUTS]
    assert found == [0.25, 0.1, 0.1, 0.0, 0.0]
    with torch.no_grad():
        assert torch.equal(again(WAVE).last_hidden_state, model(WAVE).last_hidden_state)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_computes_layers_again(pair: tuple[Any, Any], reentrant: bool) -> None:
    _, ours = pair
    assert ours.supports_gradient_checkpointing
    ours.train()
    runs: list[int] = []
    ours.nestling.encoder.layers[1].feed_forward.register_forward_hook(lambda *_: runs.append(1))

    def learn() -> tuple[Tensor, dict[str, Tensor], int]:
        ours.zero_grad()
        runs.clear()
        torch.manual_seed(0)
        out = ours(WAVE, attention_mask=MASK, output_hidden_states=True, output_attentions=True)
        assert len(out.hidden_states) == len(out.attentions) + 1 == 3
        loss = out.last_hidden_state.square().mean() + out.hidden_states[1].mean()
        loss.backward()
        assert len(out.attentions) == 2
        return loss.detach(), {n: w.grad.clone() for n, w in ours.named_parameters() if w.grad is not None}, len(runs)

    ours.config.layerdrop = 0.0  # not of the layer that is counted
    loss, gradients, once = learn()
    ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    assert ours.encoder.gradient_checkpointing
    same_loss, same_gradients, twice = learn()
    assert (once, twice) == (1, 2)
    assert torch.equal(loss, same_loss)
    assert gradients.keys() == same_gradients.keys()
    assert len(gradients) == len(list(ours.parameters())) - 1  # nothing is masked
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, same_gradients[name], atol=1e-5 * largest), name
    ours.eval()
    with torch.no_grad():
        ours(WAVE)
    ours.gradient_checkpointing_disable()
    assert learn()[2] == 1


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
def test_attentions_keep_their_gradients_under_checkpointing(pair: tuple[Any, Any], reentrant: bool) -> None:
    """In every weight."""
    _, ours = pair
    ours.train()
    ours.config.layerdrop = 0.0

    def learn() -> dict[str, Tensor]:
        ours.zero_grad()
        torch.manual_seed(0)
        out = ours(WAVE, output_attentions=True)
        (out.last_hidden_state.square().mean() + sum(x.square().sum() for x in out.attentions)).backward()
        return {name: w.grad.clone() for name, w in ours.named_parameters() if w.grad is not None}

    wanted = learn()
    ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    got = learn()
    assert got.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert torch.allclose(got[name], gradient, atol=1e-5 * largest), name


def test_a_head_learns_on_a_frozen_front_end(pair: tuple[Any, Any]) -> None:
    """As recipes for CTC do it: frozen front-end, lengths of frames by the model, gradients of all the rest."""
    _, ours = pair
    head, missing = torch.nn.Linear(32, 5), "no freeze_feature_encoder"
    getattr(ours, "freeze_feature_encoder", lambda: missing)()
    assert count_frozen(ours) == sum(w.numel() for w in ours.nestling.feature_extractor.parameters())
    before = {name: weight.clone() for name, weight in ours.named_parameters()}
    optimizer = torch.optim.Adam([w for w in [*ours.parameters(), *head.parameters()] if w.requires_grad], lr=0.01)
    lengths = ours._get_feat_extract_output_lengths(MASK.sum(-1))
    targets = torch.tensor([[1, 2, 3], [4, 1, 2]])
    losses = []
    torch.manual_seed(0)
    for _ in range(12):
        states = ours.train()(WAVE, attention_mask=MASK).last_hidden_state
        scores = head(states).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(scores, targets, lengths, torch.tensor([3, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    stayed = {name for name, weight in ours.named_parameters() if torch.equal(weight, before[name])}
    assert stayed - {"nestling.masked_spec_embed"} == {name for name in before if ".feature_extractor." in name}


# Too little audio


def said_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("strides", ["hubert", "other"])
def test_too_little_audio_is_refused_by_its_rule(tmp_path: Path, strides: str) -> None:
    encoder = make_encoder(**(HUBERT if strides == "hubert" else {})).eval()
    least = 400 if strides == "hubert" else 40
    _, folder = write_pair(encoder, tmp_path)
    ours = AutoModel.from_pretrained(folder, trust_remote_code=True)

    def mask(*lengths: int) -> Tensor:
        return (torch.arange(5000) < torch.tensor(lengths)[:, None]).long()

    rule = f"must have {least} samples or more to make a frame, got {{}};"
    for short in (1, least - 1):
        assert rule.format(short) in said_of(lambda n=short: encoder(torch.ones(1, n)))
        assert rule.format(short) in said_of(lambda n=short: ours(torch.ones(1, n)))
    for short in (0, least - 1):
        assert rule.format(short) in said_of(lambda n=short: encoder(WAVE, torch.tensor([5000, n])))
        assert rule.format(short) in said_of(lambda n=short: ours(WAVE, attention_mask=mask(n, 5000)))
    beyond = "lengths must be at most 5000, the samples of the batch, got 5001"
    assert beyond in said_of(lambda: encoder(WAVE, torch.tensor([5000, 5001])))
    for count in (0, 1, 3):  # one would be broadcast
        wanted = f"lengths must be one for each item, [2] of them, got [{count}]"
        assert wanted in said_of(lambda n=count: encoder(WAVE, torch.full((n,), 5000)))
    assert "padded on the right" in said_of(lambda: ours(WAVE, attention_mask=mask(4000, 5000).flip(-1)))
    with torch.no_grad():  # the least is enough
        assert encoder(torch.ones(1, least)).last.shape == (1, 1, 32)
        assert ours(WAVE, attention_mask=mask(5000, least)).last_hidden_state.isfinite().all()
