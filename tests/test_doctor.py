"""What a machine is found to have, and what is said of what it lacks."""

from collections import namedtuple

import pytest
import torch

from nestling.workflows import doctor
from tests.shell import Shell

GOOD = {
    "torch.get_num_threads": lambda: 4,
    "nestling.workflows.doctor.count_cores": lambda: 4,
    "nestling.workflows.doctor.find_spec": lambda _: True,
    "nestling.workflows.doctor.is_bf16_fast": lambda _: True,
    "shutil.which": lambda name: None if name == "nvidia-smi" else f"/usr/bin/{name}",
    "shutil.disk_usage": lambda _: namedtuple("Usage", "free")(10**11),
}
BAD = [
    ("threads", "torch.get_num_threads", lambda: 1, "torch computes on 1 of 4 cores; "),
    ("threads", "torch.get_num_threads", lambda: 9, "more threads than cores get in each other's way; set OMP_NUM_"),
    (
        "extra onnx",
        "nestling.workflows.doctor.find_spec",
        lambda n: None if n == "onnxscript" else n,
        "pip install 'nestling[onnx]'",
    ),
    (
        "extra demo",
        "nestling.workflows.doctor.find_spec",
        lambda n: None if n[0] == "e" else n,
        "pip install 'nestling[demo]'",
    ),
    (
        "extra recorded",
        "nestling.workflows.doctor.find_spec",
        lambda n: None if n == "av" else n,
        "pip install 'nestling[recorded]'",
    ),
    (
        "espeak-ng",
        "nestling.workflows.doctor.find_spec",
        lambda n: None if n[0] == "e" else n,
        'pip install "nestling[demo]"',
    ),
    ("flite", "shutil.which", lambda _: None, "apt-get install flite"),
    ("gpu", "shutil.which", lambda name: name, "install torch's build for CUDA"),
    ("cache", "shutil.disk_usage", lambda _: namedtuple("Usage", "free")(10**9), "little is free; set NESTLING_CACHE"),
    ("runs", "shutil.disk_usage", lambda _: namedtuple("Usage", "free")(10**9), "little is free; give --run"),
    ("runs", "os.access", lambda *_: False, "may not be written; give --run"),
]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A shell on a machine that has everything but a GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name, value in GOOD.items():
        monkeypatch.setattr(name, value)
    return Shell(tmp_path)


def test_where_nothing_is_amiss_there_is_nothing_to_do(machine):
    facts = machine.done("doctor --format json").json
    assert facts["problems"] == {}
    assert facts["torch"] == {"version": torch.__version__, "build": doctor._examine_torch().value["build"]}
    assert facts["threads"] == {"torch": 4, "cores": 4}
    assert facts["runs"] == {"folder": str(machine.folder / "runs"), "free_bytes": 10**11}
    said = machine.done("doctor")
    assert said.out.endswith("Nothing is in the way.\n")
    assert "→" not in said.out
    assert said.err == ""


@pytest.mark.parametrize(("name", "place", "value", "remedy"), BAD)
def test_each_problem_says_what_to_do(machine, monkeypatch, name, place, value, remedy):
    monkeypatch.setattr(place, value)
    problems = machine.done("doctor --format json").json["problems"]
    assert remedy in problems[name]
    assert f"→ {problems[name]}" in " ".join(machine.done("doctor").out.split())


def test_a_gpu_is_named(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    assert machine.done("doctor --format json").json["gpu"] == ["H100"]
    assert "H100 (--device cuda:0)" in machine.done("doctor").out
