"""Encoders compute the same in every runtime, and what cannot be opened says why."""

from __future__ import annotations

import re
import resource
import subprocess
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import HubertConfig, WavLMConfig

from checkpoints.export import write_encoder
from checkpoints.formats.hugging_face import TeacherError
from checkpoints.manifest import extend_manifest
from checkpoints.runtimes import opening as runtimes
from checkpoints.runtimes.onnx_session import open_session
from checkpoints.runtimes.opening import INSTALL_HINT, RUNTIMES, Subject, find_subjects, open_torch, parse_runtimes
from checkpoints.runtimes.peak_memory import measure_memory
from checkpoints.saving import save_encoder
from tests.encoders import TOLERANCE, error_of
from tests.onnx_cases import run_by_hand, write_onnx
from tests.test_representations import OURS, SHAPE, make_encoder_like, make_waves, states_by_transformers, write_model

PLAIN = replace(OURS, heads=(4, 4), ffn_dims=(48, 48))


@pytest.fixture
def ours(tmp_path):
    """An export of a shape that no HubertModel has, with both ONNX files."""
    write_encoder(make_encoder_like(OURS), tmp_path / "ours")
    write_onnx(tmp_path / "ours/model.onnx")
    write_onnx(tmp_path / "ours/model.int8.onnx")
    return tmp_path / "ours"


def open_all(subject):
    return {c.runtime: c for c in subject.open()}


# What they compute


@pytest.mark.parametrize("config", [OURS, PLAIN, replace(PLAIN, conv_norm="group", normalize_waveform=False)])
def test_torch_and_transformers_compute_what_the_encoder_does(tmp_path, config):
    encoder = make_encoder_like(config)
    write_encoder(encoder, tmp_path)
    opened = open_all(Subject("ours", "ours", tmp_path, ("torch", "transformers")))
    wave = make_waves()[0][None]
    with torch.no_grad():
        wanted = encoder(wave, None, ("front_end",))
    for contestant in opened.values():
        assert error_of([contestant.open(1)(wave)], [wanted.last]) <= TOLERANCE
    assert error_of([opened["torch"].front_end(wave)], [wanted.front_end]) <= TOLERANCE
    assert opened["transformers"].front_end is None


@pytest.mark.parametrize("normalize", [False, True])
def test_torch_is_transformers_where_the_network_is_not_ours(tmp_path, normalize):
    model = write_model(tmp_path, HubertConfig(**SHAPE, feat_proj_layer_norm=False), normalize)
    wave = make_waves()[0]
    run, front_end = open_torch(tmp_path)
    wanted = states_by_transformers(model, wave, normalize)[-1]
    assert error_of([run(wave[None])], [wanted]) <= TOLERANCE
    assert front_end is None


def test_onnx_computes_what_the_file_says(ours):
    opened = open_all(Subject("ours", "ours", ours, ("onnx", "onnx-int8")))
    for wave in make_waves():
        wanted = run_by_hand(wave[None].numpy())
        for contestant in opened.values():
            got = contestant.open(1)(wave[None])
            assert got.shape == wanted.shape
            assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
            assert contestant.front_end is None


def test_each_onnx_runtime_runs_its_own_file(ours):
    (ours / "model.int8.onnx").write_bytes(b"")
    extend_manifest(ours, ["model.int8.onnx"])
    opened = open_all(Subject("ours", "ours", ours, ("onnx", "onnx-int8")))
    opened["onnx"].open(1)
    with pytest.raises(ValueError, match=r"model\.int8\.onnx cannot be opened by ONNX Runtime"):
        opened["onnx-int8"].open(1)


def test_onnx_runtime_gets_the_threads(ours, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def listen(path, options, providers):
        seen.append((path.name, options.intra_op_num_threads, options.inter_op_num_threads, providers))
        return real(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", listen)
    opened = open_all(Subject("ours", "ours", ours, ("onnx", "onnx-int8")))
    assert seen == []
    opened["onnx"].open(1)
    opened["onnx-int8"].open(2)
    assert seen == [("model.onnx", 1, 1, ["CPUExecutionProvider"]), ("model.int8.onnx", 2, 1, ["CPUExecutionProvider"])]


# What is found


def test_a_folder_runs_in_torch_and_what_onnx_files_it_has(ours, tmp_path):
    write_encoder(make_encoder_like(OURS), tmp_path / "bare")
    write_onnx(tmp_path / "files/model.int8.onnx")
    found = find_subjects([str(ours), str(tmp_path / "bare"), "demo", str(tmp_path / "files")], None)
    assert [(s.name, s.runtimes) for s in found] == [
        ("ours", ("torch", "onnx", "onnx-int8")),
        ("bare", ("torch",)),
        ("demo", ("torch",)),
        ("files", ("onnx-int8",)),
    ]
    assert [c.encoder for s in found[:2] for c in s.open()] == ["ours"] * 3 + ["bare"]


def test_encoders_of_one_name_are_told_apart(ours, tmp_path):
    save_encoder(make_encoder_like(PLAIN), tmp_path / "b/ours")
    found = find_subjects([str(ours), "demo", str(tmp_path / "b/ours")], ["torch"])
    assert [s.name for s in found] == [str(ours), "demo", str(tmp_path / "b/ours")]


@pytest.mark.parametrize(
    ("runtime", "file", "kind"), [("onnx", "model.onnx", "onnx"), ("onnx-int8", "model.int8.onnx", "int8")]
)
def test_a_file_that_is_missed_says_how_to_write_it(ours, runtime, file, kind):
    (ours / file).unlink()
    wanted = f"{ours} has no {file}, which the runtime {runtime} wants; `nestling export subnet --to {kind}` writes it"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        find_subjects([str(ours)], ["torch", runtime])


def test_without_onnx_runtime_the_rest_goes_on(ours, monkeypatch):
    monkeypatch.setattr(runtimes, "runtime_version", lambda: None)
    said = []
    (found,) = find_subjects([str(ours)], None, said.append)
    assert found.runtimes == ("torch",)
    assert said == [f"ONNX files are left out: {INSTALL_HINT}"]
    with pytest.raises(ValueError, match=r"pip install 'nestling\[onnx\]'"):
        find_subjects([str(ours)], ["torch", "onnx"])
    find_subjects([str(ours)], ["torch"], said.append)
    find_subjects(["demo"], None, said.append)
    assert len(said) == 1


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(TeacherError, match="there is no folder no/such/folder"):
        find_subjects(["no/such/folder"], None)
    (found,) = find_subjects([str(tmp_path)], None)
    with pytest.raises(TeacherError, match=r"has no config\.json"):
        found.open()


def test_names_of_runtimes():
    assert parse_runtimes("onnx, torch,onnx") == ("onnx", "torch")
    assert parse_runtimes(",".join(RUNTIMES)) == RUNTIMES
    wanted = "--runtime torch,onnx-int4: no runtime `onnx-int4`; did you mean `onnx-int8`? "
    wanted += "there are torch, transformers, onnx, onnx-int8"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        parse_runtimes("torch,onnx-int4")
    with pytest.raises(ValueError, match="no runtime ``; there are torch"):
        parse_runtimes("torch,")


def test_an_onnx_file_of_something_else_is_refused(tmp_path):
    write_onnx(tmp_path / "model.onnx", inputs=("audio", "lengths"))
    wanted = f"{tmp_path}/model.onnx takes audio, lengths and gives last_hidden_state, frame_lengths; "
    wanted += "an encoder takes input_values and lengths and gives last_hidden_state"
    with pytest.raises(ValueError, match=f"^{re.escape(wanted)}$"):
        open_session(tmp_path / "model.onnx", 1)


# Memory


def test_memory_has_the_weights_of_torch(tmp_path):
    write_encoder(make_encoder_like(OURS), tmp_path / "small")
    big = make_encoder_like(replace(OURS, heads=(2,) * 6, ffn_dims=(65_000,) * 6))  # 25 M more
    write_encoder(big, tmp_path / "big")
    more = 4 * sum(p.numel() for p in big.parameters())
    assert more > 99e6
    small, large = (measure_memory(tmp_path / name, "torch", 0.5, 1) for name in ("small", "big"))
    assert 0.9 * more < large.encoder_bytes - small.encoder_bytes < 5 * more
    assert abs(large.import_bytes - small.import_bytes) < 0.1 * more
    assert large.to_dict() == {
        "import_bytes": large.import_bytes,
        "peak_bytes": large.import_bytes + large.encoder_bytes,
        "encoder_bytes": large.encoder_bytes,
    }


def test_memory_of_onnx_runtime_is_its_own(tmp_path):
    """It has the weights, and neither torch nor what this process holds."""
    write_onnx(tmp_path / "small/model.onnx")
    write_onnx(tmp_path / "big/model.onnx", num_spare=25_000_000)
    small, large = (measure_memory(tmp_path / name, "onnx", 0.5, 1) for name in ("small", "big"))
    assert large.encoder_bytes - small.encoder_bytes > 0.9 * 100e6
    assert small.peak_bytes < 150e6 < 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_of_transformers(tmp_path):
    write_model(tmp_path, WavLMConfig(**SHAPE, num_buckets=20))
    found = measure_memory(tmp_path, "transformers", 0.1, 1)
    assert 0 < found.encoder_bytes < 100e6 < found.import_bytes


def test_memory_that_cannot_be_measured_says_why(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="alone in a process") as caught:
        measure_memory(tmp_path, "onnx", 0.5, 1)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(
        f"{tmp_path} in onnx, alone in a process with 0.5 s of audio: checkpoints.runtimes.onnx_session.OnnxError: "
    )
    assert "model.onnx cannot be opened by ONNX Runtime" in line

    killed = subprocess.CompletedProcess([], -9, "", "a warning")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(ValueError, match="killed by signal 9, which the system does when memory is short"):
        measure_memory(tmp_path, "onnx", 0.5, 1)
