"""Codes beside a run: written whole, found again, and never taken for what they are not."""

from pathlib import Path

import pytest
import torch

from checkpoints.run_config import RunError
from checkpoints.target_files import TargetFiles


def test_what_is_kept_is_found_under_its_name(tmp_path: Path) -> None:
    files = TargetFiles(tmp_path / "codes")
    assert files.get("stage-1/codes") is None
    assert not files.folder.exists()
    codes = {"a/b.wav": torch.tensor([1, 2], dtype=torch.int16), "ü": torch.tensor([], dtype=torch.int16)}
    files["stage-1/codes"] = codes
    files["../stage 2/x"] = {}
    assert {path.name for path in files.folder.iterdir()} == {
        "stage-1%2Fcodes.safetensors",
        "..%2Fstage%202%2Fx.safetensors",
    }
    found = TargetFiles(tmp_path / "codes").get("stage-1/codes")
    assert found is not None
    assert found.keys() == codes.keys()
    assert all(torch.equal(found[name], row) and found[name].dtype == row.dtype for name, row in codes.items())
    files["stage-1/codes"] = {"a": torch.tensor([3])}
    assert files.get("stage-1/codes") == {"a": torch.tensor([3])}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    files = TargetFiles(tmp_path)
    files["one/codes"] = {"a": torch.arange(9)}
    path = tmp_path / "one%2Fcodes.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"one%2Fcodes\.safetensors is damaged: "):
        files.get("one/codes")
