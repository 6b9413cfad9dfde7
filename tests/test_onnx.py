"""An ONNX file computes what the encoder computes, whatever the batch and the lengths."""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

import checkpoints.runtimes.onnx_export
from checkpoints.export import write_encoder
from checkpoints.manifest import extend_manifest, list_manifest
from checkpoints.proof import ONNX, ProofError, measure_error, prove_outputs
from checkpoints.runtimes.onnx_export import (
    COUNT_RULE,
    OPSET,
    RULE,
    OnnxError,
    OnnxFacts,
    OnnxRunner,
    open_onnx,
    write_onnx,
)
from checkpoints.runtimes.quantize import write_int8
from supernet.encoder import Encoder
from supernet.model import Supernet
from tests.encoders import make_encoder, randomize
from tests.spaces import NAMES, small

TOLERANCE = 1e-5
"""Relative RMS error: both sides add the same fp32 numbers, in another order. Weights at unit scale amplify it."""

OPTIONS: dict[str, dict[str, Any]] = {
    "post-norm": {"heads": (4, 3), "ffn_dims": (48, 20), "conv_bias": True},
    "gates": {
        "gate_width": 32,
        "heads": (4,),
        "ffn_dims": (48,),
        "norm_first": True,
        "normalize_waveform": False,
        "pos_conv_kernel": 7,
    },
    "group-norm": {"conv_norm": "group", "heads": (4,), "ffn_dims": (48,)},
}


@pytest.fixture(scope="module", params=OPTIONS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Encoder, Path, OnnxFacts]:
    encoder = make_encoder(**OPTIONS[request.param]).eval()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return encoder, path, write_onnx(encoder, path)


def make_waves(*lengths: int) -> tuple[Tensor, Tensor]:
    """With an offset, zero where padded."""
    generator = torch.Generator().manual_seed(len(lengths))
    waves = [0.3 * torch.randn(length, generator=generator) + 0.1 for length in lengths]
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor(lengths)


@torch.no_grad()
def error_of(run: OnnxRunner, encoder: Encoder, wave: Tensor, lengths: Tensor) -> float:
    """The largest relative RMS error of any output of any utterance."""
    trace = encoder(wave, lengths)
    wanted, got = [*trace.hidden, trace.last], run(wave.numpy(), lengths.numpy())
    assert [x.shape for x in got] == [x.shape for x in wanted]
    return max(
        ((torch.from_numpy(x[i, :num]) - y[i, :num]).norm() / y[i, :num].norm()).item()
        for x, y in zip(got, wanted, strict=True)
        for i, num in enumerate(encoder.config.count_frames(lengths).tolist())
    )


def test_any_batch_and_duration(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    encoder, path, facts = exported
    run, least = open_onnx(path), int(facts.metadata["min_samples"])
    batches: list[tuple[int, ...]] = [(least,), (4001,), (70_000,), (3000, 3000, 3000)]  # 1 to 874 frames
    if encoder.config.conv_norm == "layer":
        batches.append((9000, least, 4321))
    for lengths in batches:
        assert error_of(run, encoder, *make_waves(*lengths)) <= TOLERANCE, lengths


def test_a_length_that_cannot_be_is_refused_by_its_rule(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    """By our reader before it runs, and by the graph itself, in the only words that ONNX Runtime has: a node's name."""
    encoder, path, facts = exported
    run, least = open_onnx(path), int(facts.metadata["min_samples"])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    bare = onnxruntime.InferenceSession(path, options)
    for samples, *lengths in (
        (least - 1, least - 1),
        (3000, 3000, 0),
        (3000, least - 1, 3000),
        (3000, 3001),
        (3000, *[3000] * 99, 3001),  # each row of many could be the one that the wrong length stands for
        (0, 0),
    ):
        wave = np.full((len(lengths), samples), 0.1, np.float32)
        said = []
        for reader in (run, lambda wave, lengths: bare.run(None, {"input_values": wave, "lengths": lengths})):
            try:
                reader(wave, np.array(lengths))
                said.append("nothing")
            except Exception as error:
                said.append(str(error))
        beyond = max(lengths) > samples
        rule = f"must be at most {samples}, " if beyond else f"must have {least} samples or more to make a frame, got "
        assert rule + ("the" if beyond else f"{min(lengths)};") in said[0]
        assert f"each_of_lengths_must_be_at_least_{least}_and_at_most_the_samples_given" in said[1]
    assert error_of(run, encoder, *make_waves(least)) <= TOLERANCE


def test_lengths_are_one_for_each_row(exported: tuple[Encoder, Path, OnnxFacts], tmp_path: Path) -> None:
    """Fewer or more are refused by our reader and by the graph, fp32 and int8; nothing is broadcast."""
    encoder, path, _ = exported
    write_int8(path, tmp_path / "int8.onnx")
    run, options = open_onnx(path), onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for file in (path, tmp_path / "int8.onnx"):
        bare = onnxruntime.InferenceSession(file, options)
        for rows, count in ((3, 1), (3, 2), (3, 4), (1, 2), (1, 3), (3, 0), (0, 1)):
            wave, lengths = np.full((rows, 3000), 0.1, np.float32), np.full(count, 3000)
            with pytest.raises(OnnxError, match=rf"one for each item, \[{rows}\] of them, got \[{count}\]"):
                run(wave, lengths)
            with pytest.raises(
                Exception, match="lengths_must_be_one_for_each_row" if rows and count else "ONNXRuntimeE"
            ):
                bare.run(None, {"input_values": wave, "lengths": lengths})
        for rows in (1, 2, 5):
            wave, lengths = np.full((rows, 3000), 0.1, np.float32), np.full(rows, 3000)
            assert len(bare.run(["last_hidden_state"], {"input_values": wave, "lengths": lengths})[0]) == rows
        for count in (0, 1, 3):
            with pytest.raises(Exception, match="ONNXRuntimeError"):
                bare.run(None, {"input_values": np.zeros((1, 0), np.float32), "lengths": np.full(count, 40)})
    assert error_of(run, encoder, *make_waves(4000, 4000)) <= TOLERANCE


def test_names_and_metadata(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    encoder, path, facts = exported
    config = encoder.config
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert facts.opset == OPSET
    assert facts.inputs == ("input_values", "lengths")
    states = [f"hidden_states.{i}" for i in range(len(config.heads) + 1)]
    assert facts.outputs == ("last_hidden_state", "frame_lengths", *states)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {
        "input_values": ["batch", "samples"],
        "lengths": ["batch"],
        "frame_lengths": ["batch"],
        **{name: ["batch", "frames", config.embed_dim] for name in ("last_hidden_state", *states)},
    }
    assert facts.metadata == {
        "nestling.format": "1",
        "precision": "fp32",
        "parameters": str(sum(p.numel() for p in encoder.parameters())),
        "opset": "20",
        "sample_rate_hz": "16000",
        "frame_rate_hz": "200",
        "min_samples": "40",
        "normalizes_waveform": str(config.normalize_waveform).lower(),
        "padding": "changes no valid frame"
        if config.conv_norm == "layer"
        else "changes valid frames: batch equal lengths only",
        "width": "32",
        "layers": str(len(config.heads)),
    }
    assert facts.size_bytes == path.stat().st_size
    assert b"site-packages" not in path.read_bytes()
    assert b"onnx_export" not in path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    # What ONNX Runtime says of a failure is a node's name: these two have a rule for one, and no other node has it.
    rules = {node.op_type: node.name for node in model.graph.node if node.name in (COUNT_RULE, RULE.format(40))}
    assert rules == {"Concat": COUNT_RULE, "Gather": RULE.format(40)}
    assert sum(node.name in rules.values() for node in model.graph.node) == 2
    run = open_onnx(path)
    assert (run.params, run.min_samples) == (sum(p.numel() for p in encoder.parameters()), 40)


def test_lengths_are_counted_in_the_graph(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    import onnxruntime

    encoder, path, facts = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    lengths = torch.arange(int(facts.metadata["min_samples"]), 700, 7)
    wave = np.zeros((len(lengths), 700), np.float32)
    (got,) = session.run(["frame_lengths"], {"input_values": wave, "lengths": lengths.numpy()})
    assert got.tolist() == encoder.config.count_frames(lengths).tolist()


def test_the_encoder_is_left_as_it_was(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    encoder, path, _ = exported
    fresh = make_encoder(**{f: getattr(encoder.config, f) for f in encoder.config.to_dict()})
    assert encoder.state_dict().keys() == fresh.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), fresh.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert measure_error(path, encoder) <= TOLERANCE


def test_padding_is_ignored_and_lengths_matter(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    encoder, path, _ = exported
    run = open_onnx(path)
    wave, lengths = make_waves(4000, 2700)
    num = int(encoder.config.count_frames(lengths)[1])
    clean, alone = run(wave.numpy(), lengths.numpy()), run(wave[1:, :2700].numpy(), lengths[1:].numpy())
    wave[1, 2700:] = 5.0
    for a, b in zip(run(wave.numpy(), lengths.numpy()), alone, strict=True):
        ignored = bool(np.abs(a[1, :num] - b[0]).max() < 1e-4)  # some numbers are 3, and products of other sizes round
        assert ignored == (encoder.config.conv_norm == "layer"), "what the metadata says of padding"
    all_valid = run(wave.numpy(), np.array([4000, 4000]))
    for a, b in zip(all_valid, clean, strict=True):
        assert np.abs(a[1, :num] - b[1, :num]).max() > 0.1
    shorter = run(wave.numpy(), np.array([4000, 2600]))
    assert np.abs(shorter[-1][1, : num - 10] - clean[-1][1, : num - 10]).max() > 1e-3


def test_every_form_becomes_int8(exported: tuple[Encoder, Path, OnnxFacts], tmp_path: Path) -> None:
    encoder, path, facts = exported
    int8 = write_int8(path, tmp_path / "int8.onnx")
    assert int8.outputs == facts.outputs
    run = open_onnx(tmp_path / "int8.onnx")
    for lengths in ((40,), (4001,), (3000, 3000, 3000)):
        assert 0.001 < error_of(run, encoder, *make_waves(*lengths)) < 0.1


def test_a_wrong_number_in_any_weight_is_seen(exported: tuple[Encoder, Path, OnnxFacts], tmp_path: Path) -> None:
    encoder, path, _ = exported
    wave, lengths = make_waves(3000, 3000)
    weights = onnx.load(path).graph.initializer
    names = [w.name for w in weights if w.data_type == onnx.TensorProto.FLOAT and numpy_helper.to_array(w).size > 1]
    ineffective = [name for name in names if name.endswith("k_proj.bias")]
    assert len(ineffective) == len(encoder.config.heads)
    assert len(names) > 25
    for name in set(names) - set(ineffective):
        model = onnx.load(path)
        (weight,) = [w for w in model.graph.initializer if w.name == name]
        numbers = numpy_helper.to_array(weight).copy()
        numbers.flat[(numbers.size // 2 + 7) % numbers.size] += 0.05  # of the position bias: one frame ahead
        weight.CopyFrom(numpy_helper.from_array(numbers, name))
        onnx.save(model, tmp_path / "wrong.onnx")
        assert error_of(open_onnx(tmp_path / "wrong.onnx"), encoder, wave, lengths) > 3 * TOLERANCE, name


def test_the_proof_of_a_folder_includes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    supernet = Supernet(small("tiny"), torch.Generator())
    randomize(supernet.container)
    subnet = supernet.space.smallest()
    encoder = supernet.extract(subnet)
    write_encoder(encoder, tmp_path)
    assert prove_outputs(tmp_path, supernet, subnet).keys() == {"nestling", "transformers"}
    capfd.readouterr()
    with caplog.at_level(logging.WARNING):
        write_onnx(encoder, tmp_path / ONNX)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert ONNX in list_manifest(tmp_path)
    errors = prove_outputs(tmp_path, supernet, subnet)
    assert errors.keys() == {"nestling", "transformers", "onnxruntime"}
    assert 0 < errors["onnxruntime"] <= TOLERANCE
    model = onnx.load(tmp_path / ONNX)
    weight = max(model.graph.initializer, key=lambda w: len(w.raw_data))
    weight.CopyFrom(numpy_helper.from_array(1.001 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / ONNX)
    extend_manifest(tmp_path, [ONNX])
    with pytest.raises(ProofError, match="opened with onnxruntime, it does not compute what the supernet computes"):
        prove_outputs(tmp_path, supernet, subnet)
    (tmp_path / ONNX).write_bytes((tmp_path / ONNX).read_bytes()[:-1000])
    extend_manifest(tmp_path, [ONNX])
    with pytest.raises(ProofError, match="cannot be opened by ONNX Runtime"):
        prove_outputs(tmp_path, supernet, subnet)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, path = make_encoder(), tmp_path / "model.onnx"
    monkeypatch.setattr(checkpoints.runtimes.onnx_export, "MAX_BYTES", 1000)
    num_bytes = 4 * sum(p.numel() for p in encoder.parameters())
    with pytest.raises(OnnxError, match=f"holds less than 2 GiB, but this encoder has {num_bytes:,} bytes of weights"):
        write_onnx(encoder, path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(OnnxError, match=r"needs onnx and onnxscript: pip install 'nestling\[onnx\]'"):
        write_onnx(encoder, path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OnnxError, match=r"there is no file .*nowhere\.onnx"):
        open_onnx(tmp_path / "nowhere.onnx")
    (tmp_path / "noise.onnx").write_bytes(bytes(range(200)))
    with pytest.raises(OnnxError, match=r"noise\.onnx cannot be opened by ONNX Runtime"):
        open_onnx(tmp_path / "noise.onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["y"])], "g", [value], [other])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10),
        tmp_path / "other.onnx",
    )
    with pytest.raises(OnnxError, match=r"other\.onnx is not an encoder that Nestling wrote"):
        open_onnx(tmp_path / "other.onnx")
    for metadata, what in (
        ({"nestling.format": "1"}, "parameters it has"),
        ({"nestling.format": "1", "parameters": "many", "min_samples": "400"}, "parameters it has"),
        ({"nestling.format": "1", "parameters": "7"}, "samples it needs"),
    ):
        model = onnx.load(tmp_path / "other.onnx")
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / "older.onnx")
        with pytest.raises(OnnxError, match=rf"older\.onnx does not say how many {what}; export it again$"):
            open_onnx(tmp_path / "older.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OnnxError, match=r"needs onnxruntime: pip install 'nestling\[onnx\]'"):
        open_onnx(tmp_path / "other.onnx")
    with pytest.raises(ProofError, match="needs onnxruntime"):
        measure_error(tmp_path / "other.onnx", make_encoder())


def test_what_cannot_be_run(exported: tuple[Encoder, Path, OnnxFacts]) -> None:
    _, path, _ = exported
    run = open_onnx(path)
    wave, lengths = make_waves(3000)
    for waves, counts, rule in (
        (wave.double(), lengths, "cannot be run by ONNX Runtime"),
        (wave[0], lengths, r"one for each item, \[\] of them, got \[1\]"),
        (wave, lengths.int(), "cannot be run by ONNX Runtime"),
    ):
        with pytest.raises(OnnxError, match=rule):
            run(waves.numpy(), counts.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_random_subnets_equal_the_supernet(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    for i in range(5):
        backbone = {"norm_first": i == 1, "conv_bias": i == 2, "normalize_waveform": i != 3}
        supernet = Supernet(small(name, **backbone), torch.Generator())
        randomize(supernet.container, i)
        subnet = supernet.space.sample(rng)
        write_onnx(supernet.extract(subnet), tmp_path / "model.onnx")
        run = open_onnx(tmp_path / "model.onnx")
        together = supernet.space.backbone.conv_norm == "layer"
        wave, lengths = make_waves(6000, 4001, 9000) if together else make_waves(6001, 6001)
        with torch.no_grad():
            trace = supernet(wave, lengths, subnet)
        for x, y in zip(run(wave.numpy(), lengths.numpy()), [*trace.hidden, trace.last], strict=True):
            for k, num in enumerate(supernet.container.config.count_frames(lengths).tolist()):
                error = (torch.from_numpy(x[k, :num]) - y[k, :num]).norm() / y[k, :num].norm()
                assert error <= TOLERANCE, (i, subnet)
