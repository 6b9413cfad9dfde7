"""Where an export goes: over an earlier one, through a link, into a mount point; and never over what is not its own.

What is written is proven in `test_export.py`; here nothing is, which takes an export a few milliseconds.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import checkpoints.export
from checkpoints.export import check_folder, export_subnet
from checkpoints.manifest import check_manifest
from checkpoints.run_folder import RunFolder
from checkpoints.supernet_files import SupernetRecord
from nestling.reports.model_card import ExportRecord, model_card
from nestling.workflows.jobs import describe_job
from search_spaces.budget import Budget
from search_spaces.errors import NestlingError
from search_spaces.subnet import Subnet
from supernet.model import Supernet
from tests.kill_driver import in_fork
from tests.shell import Shell
from tests.spaces import small

SUPERNET = Supernet(small("tiny"), torch.Generator().manual_seed(0))
ONE, OTHER = SUPERNET.space.smallest(), SUPERNET.space.container


@pytest.fixture(autouse=True)
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.export, "prove_params", lambda *_: None)
    monkeypatch.setattr(checkpoints.export, "prove_outputs", lambda *_: {"nobody": 0.0})


def export(folder: Path, subnet: Subnet = ONE) -> checkpoints.export.ExportReport:
    return export_subnet(SUPERNET, subnet, folder, budget=Budget(), card=model_card(ExportRecord()))


def refusal(folder: Path, subnet: Subnet) -> str:
    """What was said when a subnet was not exported."""
    try:
        export(folder, subnet)
    except NestlingError as error:
        return str(error)
    return ""


def exported(folder: Path) -> str:
    """The id of the subnet that a folder holds, whole; or what is wrong with it."""
    try:
        check_manifest(folder)
        return str(json.loads((folder / "subnet.json").read_text())["id"])
    except (NestlingError, OSError) as error:
        return str(error)


def test_an_export_that_cannot_be_put_in_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "x", Path.rename
    export(folder)

    def refuse(self: Path, target: Path) -> Path:
        if target == folder and self.parent.name != "replaced" and self.name != "replaced":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr("search_spaces.files._exchange", lambda *_: False)
    with pytest.raises(NestlingError, match=r"x was not written: .*Input/output error"):
        export(folder, OTHER)
    assert exported(folder) == ONE.id
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_kill_at_any_point_leaves_the_earlier_export_or_the_new_one(tmp_path: Path) -> None:
    driver, root = Path(__file__).with_name("kill_export_driver.py"), Path(__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, driver, tmp_path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row for row in rows if row["holds"] not in ("earlier", "new")] == []
    assert {row["holds"] for row in rows} == {"earlier", "new"}
    assert rows[-1] == {"killed": None, "holds": "new"}
    last = rows[-2]["killed"]
    assert len(rows) > 20, last  # every file is forced to disk and renamed
    # Each began where the last was killed: one cleared away what that had left.
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208


def test_a_file_of_like_name_is_somebody_elses(tmp_path: Path) -> None:
    export(tmp_path / "x")
    (tmp_path / "x" / ".writing-notes.md").touch()
    assert refusal(tmp_path / "x", OTHER).endswith(
        "x holds .writing-notes.md, which is no part of an export; name another folder"
    )
    assert exported(tmp_path / "x") == ONE.id
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".writing-notes.md").touch()
    with pytest.raises(NestlingError, match=r"run is not empty \(\.writing-notes\.md …\) and not a run"):
        RunFolder(tmp_path / "run").check_free()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for subnet in (ONE, OTHER):
        export(tmp_path / "link", subnet)
        assert (tmp_path / "link").is_symlink()
        assert exported(tmp_path / "real") == subnet.id
    (tmp_path / "new").symlink_to("not-there-yet")
    export(tmp_path / "new")
    assert exported(tmp_path / "not-there-yet") == ONE.id


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_a_mount_point_is_exported_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    place, real = tmp_path / "volume", os.rename

    def refuse(one: Path, other: Path) -> bool:
        if place in (Path(one), Path(other)):
            raise OSError(number, os.strerror(number))
        real(one, other)
        return True

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr("search_spaces.files._exchange", refuse)
    place.mkdir()
    identity = place.stat().st_ino
    for subnet in (ONE, OTHER):
        assert refusal(place, subnet) == ""
        assert exported(place) == subnet.id
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []
    assert place.stat().st_ino == identity


@pytest.mark.parametrize("number", [4, 9, 11])  # of 8 moves that take the earlier export away, and 8 for the new one
def test_a_kill_in_a_mount_point_leaves_room_for_the_next_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Path) -> bool:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr("search_spaces.files._exchange", refuse)
    place, real, count = tmp_path / "volume", Path.rename, 0
    place.mkdir()
    export(place, ONE)

    def rename(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, target)

    def work() -> None:
        monkeypatch.setattr(Path, "rename", rename)
        export(place, OTHER)

    assert in_fork(work)
    assert exported(place) not in (ONE.id, OTHER.id)
    assert refusal(place, OTHER) == ""
    assert exported(place) == OTHER.id
    assert [path.name for path in place.iterdir() if path.name.startswith(".")] == []


def test_an_edited_model_card_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    card = folder / "README.md"
    report = export(folder)
    assert getattr(export(folder), "kept_card", None) is None  # nobody has edited it
    for name, text in (("README.md.previous", "by hand"), ("README.md.previous-2", "by hand, again")):
        card.write_text(text)
        report = export(folder)
        kept = folder / name
        assert kept.is_file(), os.listdir(folder)  # noqa: PTH208
        assert kept.read_text() == text
        assert report.kept_card == name
        assert card.read_text().startswith("---\n")
    assert exported(export(folder, OTHER).folder) == OTHER.id
    assert sorted(path.name for path in folder.glob("README*")) == [
        "README.md",
        "README.md.previous",
        "README.md.previous-2",
    ]
    (folder / "README.md.previous").unlink()  # as anybody may
    values = json.loads((folder / "subnet.json").read_text())
    del values["card_sha256"]  # as exports of old
    (folder / "subnet.json").write_text(json.dumps(values))
    assert export(folder).kept_card == "README.md.previous"
    (folder / "subnet.json").write_text("[]")  # damaged: it does not say either
    assert export(folder).kept_card == "README.md.previous-3"


@pytest.mark.parametrize(
    ("kind", "names", "holds"),
    [
        ("an export", ["config.json"], "config.json"),  # of any model, without what tells an export from others
        ("an export", ["config.json", "subnet.json", "README.md", "README.md.previous"], None),
        ("a teacher", ["config.json", "README.md"], "README.md"),
        ("a teacher", ["config.json", "README.md", "SHA256SUMS"], None),  # somebody's own, which stays
        ("a teacher", ["config.json", "notes.md", "SHA256SUMS"], "notes.md"),
        ("a teacher", ["config.json", "SHA256SUMS"], None),
    ],
)
def test_only_its_own_kind_is_replaced(tmp_path: Path, kind: str, names: list[str], holds: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    if holds is None:
        check_folder(tmp_path, kind=kind)
    else:
        with pytest.raises(NestlingError) as caught:
            check_folder(tmp_path, kind=kind)
        assert str(caught.value) == f"{tmp_path} holds {holds}, which is no part of {kind}; name another folder"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """With a run, runs/a, and the smallest of its subnets, s.json."""
    job = describe_job("x", "tiny", "demo", "demo", "two-stage", (), "cpu", "fp32", None)
    job |= {"space": SUPERNET.space.to_dict(), "data": "", "hours": 0.0}
    run = RunFolder.create(tmp_path / "runs" / "a", job, seed=0)
    run.save_supernet(SUPERNET, SupernetRecord())
    (tmp_path / "s.json").write_text(json.dumps(ONE.to_dict()))
    (tmp_path / "empty").mkdir()
    return Shell(tmp_path)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "empty is where you are, and an export replaces its folder; name another"),
        (".", "empty is where you are, and an export replaces its folder; name another"),
        ("../empty/", "empty is where you are, and an export replaces its folder; name another"),
        ("..", "is where you are, and an export replaces its folder; name another"),
        ("../runs", "../runs is or contains the run ../runs/a, and an export replaces its folder; name another"),
        ("../runs/a", "../runs/a is or contains the run ../runs/a, and an export replaces its folder; name another"),
        ("../runs/a/search", "search belongs to the run ../runs/a, and an export replaces its folder; name another"),
        ("../runs/a/state", "state belongs to the run ../runs/a, and an export replaces its folder; name another"),
        ("../s.json", "--out ../s.json is a file, and a folder is to be written; name another place"),
        ("../s.json/x", "--out ../s.json/x cannot be written: Not a directory; name another place"),
        ("/proc/none/x", "--out /proc/none/x cannot be written: "),
    ],
)
def test_folders_that_are_not_for_exports(shell: Shell, out: str, message: str) -> None:
    before = sorted(shell.folder.rglob("*"))
    said = Shell(shell.folder / "empty")("export subnet --run ../runs/a --subnet ../s.json --out", out)
    assert said.code == 2, said.out
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(shell.folder.rglob("*")) == before


def test_the_command_says_that_a_card_was_kept(shell: Shell) -> None:
    command = "export subnet --run runs/a --subnet s.json --out x"
    said = shell.done(command)
    assert said.err == f"exporting {ONE.id} of runs/a; what is written is opened again and compared\n"
    (shell.folder / "x" / "README.md").write_text("by hand")
    said = shell.done(command)
    assert "the model card in x was not as an export had left it; it is kept as README.md.previous" in said.err
    assert (shell.folder / "x" / "README.md.previous").read_text() == "by hand"
