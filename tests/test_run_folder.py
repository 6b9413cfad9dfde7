"""A run survives kills, damage, full disks and a second process."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import checkpoints.supernet_files
import checkpoints.versions
from checkpoints.run_config import RunConfig, RunError, check_format
from checkpoints.run_folder import RunFolder, newest_run
from checkpoints.supernet_files import SupernetRecord
from checkpoints.training_states import list_states
from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import write_file
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import dump_yaml, load_yaml, parse_config, parse_yaml
from supernet.model import Supernet
from tests.kill_driver import SAVES, state_at
from tests.spaces import small
from tests.test_whole_files import full_disk
from tests.training_cases import RECIPE


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "a", {"space": "tiny"}, seed=3)


def never(text: str) -> None:
    pytest.fail(f"said {text!r}")


# Creating and finding


def test_config_is_resolved_and_says_what_it_was_made_with(run: RunFolder) -> None:
    assert load_yaml(run.config_path).items() >= {"format": 2, "seed": 3, "space": "tiny"}.items()
    made_with = load_yaml(run.config_path)["made_with"]
    assert made_with["torch"] == torch.__version__
    assert made_with.keys() == {"nestling", "python", "torch", "numpy", "commit"}


TRAPS = [
    "1e-4",
    "08",
    "-.5",
    "12:30",
    "no",
    "true",
    "null",
    "~",
    "",
    "0x1f",
    "1_000",
    "2024-01-01",
    "é",
    "a: b",
    "\n",
]


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 1e-5, "big": 3e20, "count": 7, "on": True, "none": None},
        {"texts": TRAPS, **{f"key {text}": text for text in TRAPS}},
        {"nested": [{"a": [1, [2.5]]}, {}], "shared": (shared := [1, 2]), "again": shared},
    ],
)
def test_yaml_is_read_back_unchanged(values: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(values)) == json.loads(json.dumps(values))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("format: 3", "`format` is 3, of a newer Nestling; this one reads up to 2: update it, or start anew"),
        ("format: 0", "`format` should be a number from 1 to 2, got 0"),
        ("format: two", "`format` should be a number from 1 to 2, got 'two'"),
        ("format: true", "`format` should be a number from 1 to 2, got True"),
    ],
)
def test_a_folder_of_another_format_is_refused_by_name(run: RunFolder, number: str, message: str) -> None:
    run.config_path.write_text(run.config_path.read_text().replace("format: 2", number))
    with pytest.raises(RunError, match=rf"config\.yaml: {re.escape(message)}"):
        RunFolder.open(run.path)


def test_a_number_of_a_format_is_from_1_to_the_newest() -> None:
    for number in (1, 2, 3):
        check_format({"format": number}, 3)
    check_format({}, 1)  # of the first
    check_format({"format": 9, "schema_version": 1}, 1, "schema_version")
    for number in (True, 0, -1, 1.0, "1", None):
        with pytest.raises(NestlingError) as caught:
            check_format({"version": number}, 3, "version")
        assert str(caught.value) == f"`version` should be a number from 1 to 3, got {number!r}"


CONFIG = {
    "command": "train supernet --audio x",
    "teacher": None,
    "audio": "x",
    "device": "cpu",
    "precision": "fp32",
    "space": SearchSpace.load("tiny").to_dict(),
    "recipe": parse_yaml(RECIPE),
    "data": "abc",
    "hours": 1.5,
}


def test_a_configuration_is_told_without_what_it_was_made_with(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a", CONFIG, seed=3)
    assert run.config == {"format": 2, "seed": 3, **CONFIG}
    assert list(run.config) == ["format", "seed", *CONFIG]
    assert run.made_with == checkpoints.versions.made_with()


def test_four_faults_of_a_configuration_are_told(run: RunFolder) -> None:
    with pytest.raises(NestlingError) as caught:
        _ = run.config
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{run.config_path}:"
    assert lines == [
        "  missing key `command`",
        "  missing key `teacher`",
        "  missing key `audio`",
        "  missing key `device`",
    ]
    assert last == "  and 5 more"


def test_a_configuration_of_an_older_nestling_is_of_format_1() -> None:
    older = {"seed": 0, "made_with": {}, **CONFIG}
    assert parse_config(RunConfig, older).format == 1
    with pytest.raises(NestlingError) as caught:
        parse_config(RunConfig, older | {"device": "gpu"}, "config.yaml")
    assert str(caught.value) == "config.yaml: device 'gpu' is none that PyTorch knows"


def test_what_changes_when_a_run_goes_on_is_added_to_its_history(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a", CONFIG, seed=3)
    changes = [{"step": step, "command": "train supernet --resume", "changes": {"x": [1, 2]}} for step in (4, 9)]
    run.amend({"audio": "y"}, changes[0])
    run.amend({"device": "cuda"}, changes[1])
    assert run.config == {"format": 2, "seed": 3, **CONFIG, "audio": "y", "device": "cuda", "history": changes}
    assert run.made_with["torch"] == torch.__version__


def test_a_run_without_a_checkpoint_can_be_discarded(run: RunFolder) -> None:
    assert run.discard() is True
    assert not run.path.exists()
    assert run.discard() is True  # what cannot be deleted is no reason to fail
    run = RunFolder.create(run.path, {}, seed=0)
    for step in (0, 1):
        run.save_state(state_at(step))
        assert run.discard() is False
    assert run.load_state(never)


def test_only_its_own_traces_may_lie_where_a_run_begins(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    run.check_free()
    assert not run.path.exists()
    run.path.mkdir()
    run.lock_path.touch()
    run.check_free()

    def write(file: Any) -> None:
        run.check_free()  # with a file of another writer, who is not done
        file.write(b"x")

    write_file(run.lock_path, write)
    (run.path / "notes").touch()
    with pytest.raises(RunError) as caught:
        run.check_free()
    assert str(caught.value) == f"{run.path} is not empty (notes …) and not a run; name another folder"
    (tmp_path / "file").touch()
    with pytest.raises(NestlingError, match="--run"):
        RunFolder(tmp_path / "file").check_free()


def test_create_keeps_its_hands_off_other_folders(run: RunFolder, tmp_path: Path) -> None:
    assert run.search_path.is_dir()
    with pytest.raises(RunError, match=r"already holds a run; .*, or name another folder"):
        RunFolder.create(run.path, {}, seed=0)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(RunError, match=r"is not empty \(chapter\.tex …\) and not a run"):
        RunFolder.create(tmp_path / "thesis", {}, seed=0)
    assert os.listdir(tmp_path / "thesis") == ["chapter.tex"]  # noqa: PTH208
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".writing-0a1b2c3d").touch()  # left by a kill
    RunFolder.create(tmp_path / "empty", {}, seed=0)


def test_open_takes_the_newest(run: RunFolder) -> None:
    root = run.path.parent
    other = RunFolder.create(root / "b", {}, seed=0)
    (root / "not a run").mkdir()
    os.utime(run.config_path, (1, 1))
    assert newest_run(root).path == other.path
    os.utime(other.config_path, (2, 2))
    run.append_metrics({"step": 0})
    assert RunFolder.open(None, root).path == run.path
    other.search_path.rmdir()  # as a kill right after the config was written leaves it
    assert RunFolder.open(str(other.path)).path == other.path
    assert other.search_path.is_dir()


def test_open_without_a_run(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "runs" / "a")
    with pytest.raises(RunError, match=r"^there is no run under runs; train one first"):
        RunFolder.open(None)
    with pytest.raises(RunError, match=r"there is no run at .*nowhere; train one first"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"runs is not a run: it has no config\.yaml"):
        RunFolder.open(run.path.parent)


def test_commit_is_that_of_this_code_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "code.py").touch()
    monkeypatch.setattr(checkpoints.versions, "__file__", str(tmp_path / "code.py"))
    assert checkpoints.versions.git_commit() is None  # inside a checkout, but not of it
    subprocess.run([*git, "add", "code.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert checkpoints.versions.git_commit() == head
    (tmp_path / "code.py").write_text("changed")
    assert checkpoints.versions.git_commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert checkpoints.versions.git_commit() is None


# The record


def row_of(step: int) -> dict[str, Any]:
    return {"step": step, "stage": "one", "learning_rate": 1e-3, "losses": {"largest": 0.1 * step}}


def test_record_grows_by_rows(run: RunFolder) -> None:
    assert run.metrics() == []
    rows = [row_of(step) for step in range(5)]
    for row in rows:
        run.append_metrics(row)
    assert run.metrics() == rows
    for row in ({"loss": 1.0}, {"step": "1"}):
        with pytest.raises(ValueError, match="needs a whole number under `step`"):
            run.append_metrics(row)
    with pytest.raises(ValueError, match="Out of range float"):
        run.append_metrics(row_of(5) | {"learning_rate": float("nan")})
    assert run.metrics() == rows


@pytest.mark.parametrize("torn", ["", '{"step": 5, "lo', '{"step": 5}', "null\n", "\0\0\0"])
def test_resuming_cuts_the_record(run: RunFolder, torn: str) -> None:
    lines = [json.dumps(row_of(step)).replace(",", "  ,") + "\n" for step in range(5)]
    run.metrics_path.write_text("".join(lines) + torn)
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3, 4]
    run.cut_metrics(3)
    assert run.metrics_path.read_text() == "".join(lines[:3])
    run.append_metrics(row_of(3))
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
    run.cut_metrics(0)
    assert run.metrics() == []


def test_a_bad_line_inside_the_record_is_named(run: RunFolder) -> None:
    whole = json.dumps(row_of(0))
    for damaged, message in {
        '{"step":': "not JSON (Expecting value",
        "null": "should be an object, got None",
        whole.replace("largest", "greatest"): "missing key `losses.largest`",
        whole.replace("0.001", "NaN"): "`learning_rate` is NaN, which is no finite number",
    }.items():
        run.metrics_path.write_text(f"{whole}\n{damaged}\n{whole}\n")
        with pytest.raises(NestlingError, match=rf"metrics\.jsonl, line 2: {re.escape(message)}"):
            run.cut_metrics(1)
        assert len(run.metrics_path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"losses": {"largest": 0.5, "random": 0.6}}, ""),
        ({"stage": None, "learning_rate": None, "losses": None, "before": "one", "phone_error": 0.5}, ""),
        ({"before": "one", "phone_error": 0.0}, ""),
        ({"before": "one"}, "missing key `phone_error` beside `before`"),
        ({"before": "one", "losses": None, "stage": None}, "missing key `phone_error` beside `before`"),
        ({"stage": None}, "a step needs `stage` and `learning_rate`, a probe `before` and `phone_error`"),
        ({"learning_rate": None}, "a step needs `stage` and `learning_rate`, a probe `before` and `phone_error`"),
        ({"losses": None}, "missing key `losses.largest`"),
        ({"losses": {"random": 0.5}}, "missing key `losses.largest`"),
    ],
)
def test_a_row_is_a_step_or_a_probe(run: RunFolder, changes: dict[str, Any], message: str) -> None:
    row = row_of(1) | changes
    run.append_metrics(row)
    if not message:
        assert run.metrics() == [row]
        return
    with pytest.raises(NestlingError) as caught:
        run.metrics()
    assert str(caught.value) == f"{run.metrics_path}, line 1: {message}"


def test_four_faults_of_a_row_are_told(run: RunFolder) -> None:
    run.append_metrics({"step": 1, "stage": 1, "losses": 1, "learning_rate": "", "before": 1, "phone_error": ""})
    with pytest.raises(NestlingError) as caught:
        run.metrics()
    assert len(str(caught.value).splitlines()) == 6
    assert str(caught.value).endswith("\n  and 1 more")


# Checkpoints


def test_the_last_two_states_are_kept(run: RunFolder) -> None:
    assert run.load_state(never) is None
    for step in (1, 2, 3, 10, 9_000):
        run.save_state(state_at(step))
        state = run.load_state(never)
        assert state is not None
        assert state["step"] == step
    assert sorted(path.name for path in run.state_path.iterdir()) == [
        "step-00000010.pt",
        "step-00000010.sha256",
        "step-00009000.pt",
        "step-00009000.sha256",
    ]
    subprocess.run("sha256sum --check --strict *.sha256", shell=True, check=True, cwd=run.state_path)


def damage(path: Path, change: Callable[[bytearray], object]) -> bytes:
    before = path.read_bytes()
    data = bytearray(before)
    change(data)
    path.write_bytes(data)
    return before


def flip(bit: int) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        data[bit // 8] ^= 1 << bit % 8

    return change


def truncate(size: int) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        del data[size:]

    return change


@pytest.mark.parametrize("suffix", [".pt", ".sha256"])
@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_every_damage_is_found_and_the_last_good_state_loads(run: RunFolder, suffix: str, kind: str) -> None:
    run.save_state(state_at(1))
    run.save_state(state_at(2))
    path = run.state_path / f"step-00000002{suffix}"
    size = path.stat().st_size
    rng = random.Random(0)
    for _ in range(100):
        change = flip(rng.randrange(8 * size)) if kind == "flip" else truncate(rng.randrange(size))
        before = damage(path, change)
        said: list[str] = []
        state = run.load_state(said.append)
        assert state is not None
        assert state["step"] == 1
        assert said == ["checkpoint step-00000002.pt is damaged (it fails its SHA-256); going back to step-00000001.pt"]
        path.write_bytes(before)
    assert (run.load_state(never) or {})["step"] == 2


def test_no_good_state_is_an_error(run: RunFolder) -> None:
    for step in (1, 2):
        run.save_state(state_at(step))
        damage(run.state_path / f"step-0000000{step}.pt", flip(999))
    with pytest.raises(RunError) as caught:
        run.load_state(never)
    assert "no checkpoint in " in str(caught.value)
    assert "(step-00000002.pt: it fails its SHA-256; step-00000001.pt: it fails its SHA-256); start again" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ([1], "it holds a list"),
        ({k: v for k, v in state_at(2).items() if k != "heads"}, "it has no `heads`"),
        (state_at(2) | {"step": True}, "`step` is a bool, not a int"),
        (state_at(2) | {"step": 2.0}, "`step` is a float, not a int"),
        (state_at(2) | {"recipe": None}, "`recipe` is a NoneType, not a dict"),
        (Path("x"), "it is no checkpoint, UnpicklingError"),
    ],
)
def test_a_checkpoint_with_a_digest_of_its_own_may_hold_anything(run: RunFolder, state: Any, problem: str) -> None:
    run.save_state(state_at(1))
    path = run.state_path / "step-00000002.pt"
    digest = write_file(path, lambda file: torch.save(state, file))
    path.with_suffix(".sha256").write_text(f"{digest}  {path.name}\n")
    said: list[str] = []
    assert (run.load_state(said.append) or {})["step"] == 1
    assert said == [f"checkpoint step-00000002.pt is damaged ({problem}); going back to step-00000001.pt"]


def test_going_on_after_damage_drops_the_damaged_state(run: RunFolder) -> None:
    for step in (100, 200):
        run.save_state(state_at(step))
    damage(run.state_path / "step-00000200.pt", flip(999))
    run.save_state(state_at(150))  # resumed from 100
    assert [path.name for path in list_states(run.state_path)] == ["step-00000100.pt", "step-00000150.pt"]
    assert (run.load_state(never) or {})["step"] == 150


def test_kills_at_every_point_of_a_save_lose_nothing(tmp_path: Path) -> None:
    driver = Path(__file__).with_name("kill_driver.py")
    root = Path(__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, driver, tmp_path], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    kills = [row for row in rows if row["killed"]]
    for row in rows:  # what was finished is there, or what came after it
        assert row["loaded"] in (row["done"], row["done"] + 1), row
    assert all(row["done"] == SAVES for row in rows if not row["killed"])
    # Two files for a state, three for a supernet: each is forced to disk, renamed, its folder forced to disk.
    points = Counter(row["at"] for row in kills)
    assert points["fsync"] == SAVES * 10
    assert points["replace"] == SAVES * 5
    assert points["write"] >= SAVES * 5


def test_a_full_disk_is_told_by_the_record_and_earlier_rows_stay(run: RunFolder) -> None:
    run.append_metrics({"step": 1})
    with full_disk(run.metrics_path.stat().st_size + 5), pytest.raises((FailedError, OSError)) as caught:
        run.append_metrics({"step": 2})
    assert str(caught.value) == f"could not write {run.metrics_path}: File too large; free space or check permissions"
    assert run.metrics_path.read_text().startswith('{"step": 1}\n')


def test_a_full_disk_leaves_the_earlier_state(run: RunFolder) -> None:
    run.save_state(state_at(1))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(FailedError, match=r"could not write .*step-00000002\.pt: File too large; free space or"):
            run.save_state({"step": 2, "weight": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run.load_state(never) or {})["step"] == 1
    assert {path.name for path in run.state_path.iterdir()} == {"step-00000001.pt", "step-00000001.sha256"}


# The supernet


def test_supernet_round_trip(run: RunFolder) -> None:
    with pytest.raises(RunError, match="has no supernet yet"):
        run.load_supernet()
    space = small("tiny")
    for seed in (1, 2):
        supernet = Supernet(space, torch.Generator().manual_seed(seed))
        supernet.residual_order.copy_(supernet.residual_order.flip(0))
        record = SupernetRecord("demo", "mit", f"hash {seed}")
        run.save_supernet(supernet, record)
        loaded = run.load_supernet()
        assert loaded.space == space
        assert loaded.space.hash == space.hash
        for name, weight in supernet.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
        assert run.supernet_record == record
    assert "replaces" not in json.loads(run.supernet_record_path.read_text())


@pytest.mark.parametrize(("writes", "seed"), [(1, 1), (2, 2)])
def test_a_supernet_is_described_at_every_moment(
    run: RunFolder, writes: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is saved in three writes; the second renames the weights into place."""
    space, done = small("tiny"), []
    record = SupernetRecord("demo", "mit", "hash 1", "abc", "def")

    def write(path: Path, data: Any) -> str:
        if len(done) == writes:
            raise FailedError("the disk is full")
        done.append(path.name)
        return write_file(path, data)

    run.save_supernet(Supernet(space, torch.Generator().manual_seed(1)), record)
    monkeypatch.setattr(checkpoints.supernet_files, "write_file", write)
    with pytest.raises(FailedError):
        run.save_supernet(Supernet(space, torch.Generator().manual_seed(2)), SupernetRecord("other"))
    assert done == ["supernet.json", "supernet.safetensors"][:writes]
    assert run.supernet_record == (record if seed == 1 else SupernetRecord("other"))
    wanted = Supernet(space, torch.Generator().manual_seed(seed)).state_dict()
    assert all(torch.equal(wanted[name], weight) for name, weight in run.load_supernet().state_dict().items())


def test_the_first_supernet_replaces_none(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(checkpoints.supernet_files, "write_file", lambda _, data: kept.append(data))
    run.save_supernet(Supernet(small("tiny"), torch.Generator()), SupernetRecord())
    assert json.loads(kept[0])["replaces"] is None


def test_weights_that_are_not_of_the_space_beside_them(run: RunFolder) -> None:
    run.save_supernet(Supernet(small("tiny"), torch.Generator()), SupernetRecord())
    record = json.loads(run.supernet_record_path.read_text())
    other = SearchSpace.load("tiny")
    run.supernet_record_path.write_text(
        json.dumps(record | {"space": other.to_dict(), "space_hash": other.hash}), "utf-8"
    )
    with pytest.raises(RunError) as caught:
        run.load_supernet()
    assert str(caught.value) == (
        f"{run.supernet_path} does not hold the weights of `space` in {run.supernet_record_path}"
    )


def test_four_faults_of_a_supernets_record_are_told(run: RunFolder) -> None:
    run.save_supernet(Supernet(small("tiny"), torch.Generator()), SupernetRecord())
    run.supernet_record_path.write_text("{}")
    with pytest.raises(NestlingError) as caught:
        run.load_supernet()
    keys = ("schema_version", "sha256", "space", "space_hash")
    lines = [f"{run.supernet_record_path}:", *(f"  missing key `{key}`" for key in keys), "  and 3 more"]
    assert str(caught.value).splitlines() == lines


def test_a_damaged_supernet_is_refused(run: RunFolder) -> None:
    run.save_supernet(Supernet(small("tiny"), torch.Generator()), SupernetRecord())
    rng = random.Random(0)
    for _ in range(20):
        before = damage(run.supernet_path, flip(rng.randrange(8 * run.supernet_path.stat().st_size)))
        with pytest.raises(RunError, match=r"is damaged: it fails the SHA-256 of supernet\.json"):
            run.load_supernet()
        run.supernet_path.write_bytes(before)
    damage(run.supernet_path, flip(99))
    run.save_supernet(Supernet(small("tiny"), torch.Generator()), SupernetRecord())  # and can be replaced
    run.load_supernet()
    record = json.loads(run.supernet_record_path.read_text())
    for text, message in (
        ("", "not JSON"),
        ("[]", r"should be an object, got \[\]"),
        ("{", "not JSON"),
        ('{"schema_version": 1, "replaces": 3}', "missing key `sha256`"),
        (json.dumps(record | {"space_hash": "0"}), "space is not the one that space_hash names"),
    ):
        run.supernet_record_path.write_text(text)
        with pytest.raises(NestlingError, match=rf"(?s)supernet\.json:.*{message}"):
            run.load_supernet()
    run.supernet_record_path.write_text(json.dumps(record | {"schema_version": 2}))
    with pytest.raises(
        RunError, match=r"supernet\.json: `schema_version` is 2, of a newer Nestling; this one reads up to 1"
    ):
        run.load_supernet()


# The lock

HOLD = """
import sys, time
from pathlib import Path
from checkpoints.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_a_run(run: RunFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    with holder:
        assert holder.stdout.readline() == "locked\n"
        start = time.monotonic()
        with pytest.raises(RunError) as caught, run.lock():
            pass
        assert time.monotonic() - start < 1
        owner = f"process {holder.pid} on {socket.gethostname()}"
        assert str(caught.value) == f"{run.path} is being written by {owner}; wait for it or stop it"
        holder.kill()
    assert run.lock_path.read_text() == owner  # it had no time to give the lock back
    with run.lock():
        assert run.lock_path.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(RunError, match="is being written by process"), run.lock():
            pass
    assert run.lock_path.read_text() == ""
    with run.lock():
        pass


def test_a_run_that_is_deleted_while_it_is_written(run: RunFolder) -> None:
    said = ""
    try:
        with run.lock():
            shutil.rmtree(run.path)
            RunFolder.create(run.path, {}, seed=0)  # and somebody else begins one of that name
    except FailedError as error:
        said = str(error)
    assert said == f"{run.path} was deleted while it was written, and what this command wrote with it"


def test_a_lock_that_nobody_gave_back_is_taken_over(run: RunFolder) -> None:
    run.lock_path.write_text("process 12 on elsewhere")  # a container that was killed; its name never comes again
    said: list[str] = []
    with run.lock(said.append):
        assert run.lock_path.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert said == [f"{run.path} was last written by process 12 on elsewhere, which was killed at it"]
    with run.lock(never):
        pass


def test_a_lock_that_holds_anything_is_taken_over(run: RunFolder) -> None:
    run.lock_path.write_bytes(b"\xff\x00")
    said: list[str] = []
    try:
        with run.lock(said.append):
            said.append("held")
    except ValueError as error:
        said.append(repr(error))
    assert said[-1] == "held"
    assert run.lock_path.read_bytes() == b""
