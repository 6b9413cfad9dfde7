"""Whatever the project writes is there whole, the old or the new, also when the disk refuses."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from checkpoints.manifest import write_manifest
from checkpoints.representations import open_representation
from checkpoints.run_folder import RunFolder
from checkpoints.runtimes.s3prl_upstream import write_s3prl
from checkpoints.saving import write_model
from nestling.reports.page import write_page
from nestling.workflows.evaluation import FORMAT, Ledger
from nestling.workflows.search_result import save_result
from search_spaces.errors import NestlingError
from speech_tasks.curve import Point, save_curve
from tests.training_cases import make_teacher

SCORED = open_representation("mfcc")
POINT = Point("x" * 100, "subnet", 1, 0.5, 0.1, 1)
WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a run's record": ("metrics.jsonl", lambda folder: RunFolder(folder).cut_metrics(1)),
    "result of a search": ("result.json", lambda folder: save_result(folder, {"x": "x" * 100})),
    "curve": ("curve.json", lambda folder: save_curve(folder, [POINT])),
    "page": ("report.html", lambda folder: write_page("x" * 100, folder / "report.html")),
    "scores": ("evaluation.json", lambda folder: Ledger(folder).update(SCORED, "test", lambda _: None)),
    "manifest": ("SHA256SUMS", write_manifest),
    "weights": ("model.safetensors", lambda folder: write_model(folder, {}, {"x": torch.zeros(100)}, {})),
    "configuration": ("config.json", lambda folder: write_model(folder, {"x": "x" * 100}, {}, {})),
    "code": ("expert.py", lambda folder: write_s3prl(make_teacher(), folder)),
}
OLD = {
    "metrics.jsonl": "".join(
        f'{{"step": {step}, "stage": "one", "learning_rate": 0.1, "losses": {{"largest": 1.0}}}}\n' for step in range(2)
    ),
    "evaluation.json": f'{{"format": {FORMAT}, "encoders": []}}',
}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Lets no file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS.keys())
def test_a_disk_that_refuses_leaves_the_old_file(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    (tmp_path / "model.safetensors").touch()
    old = OLD.get(name, "old")
    (tmp_path / name).write_text(old)
    error: Exception | None = None
    with full_disk(50):
        try:
            write(tmp_path)
        except Exception as refusal:
            error = refusal
    assert (tmp_path / name).read_text() == old
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".writing", ".result"))]
    assert isinstance(error, NestlingError), error
    assert error.exit_code == 1
    assert f"could not write {tmp_path / name}: File too large; free space or check permissions" in str(error)
    write(tmp_path)
    assert (tmp_path / name).read_bytes() != old.encode()
