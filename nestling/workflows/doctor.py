"""Looks at what a machine has for Nestling: builds, threads, number formats, extras, synthesisers, disks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from checkpoints.runtimes.onnx_session import INSTALL, PACKAGES
from nas.measurement import count_cores, name_processor
from nestling.workflows.jobs import is_bf16_fast
from speech_data import espeak, flite
from speech_data.corpus import cache_folder
from speech_data.recorded.corpus import SEAL, folder_of
from speech_data.recorded.table import CORPORA

EXTRAS = {"onnx": PACKAGES, "demo": ("espeakng_loader",), "recorded": ("av",)}
"""What pyproject.toml calls them -> the modules that they bring."""
LITTLE_BYTES = 5 * 10**9
"""Free space below which a disk is told of: corpora take 3 GB, a run of HuBERT's size 2 GB."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    value: Any
    """What was found, as plain JSON."""
    said: str
    """The same in words."""
    remedy: str = ""
    """What to do about it; empty where all is well."""


def examine(folder: Path = Path()) -> list[Finding]:
    """All that a machine has or lacks.

    Args:
        folder: Where runs would go.
    """
    return [
        _tell("nestling", importlib.metadata.version("nestling")),
        _tell("python", platform.python_version()),
        _tell("machine", f"{name_processor()}, {platform.system()} {platform.machine()}"),
        _examine_torch(),
        _examine_threads(),
        _examine_bf16(),
        _examine_gpu(),
        *(_examine_extra(name, modules) for name, modules in EXTRAS.items()),
        _examine_synthesiser("espeak-ng", find_spec("espeakng_loader") is not None, espeak.INSTALL_HINT),
        _examine_synthesiser("flite", shutil.which("flite") is not None, flite.INSTALL_HINT),
        _examine_recorded(),
        _examine_disk("cache", cache_folder(), "set NESTLING_CACHE to a folder on a disk that has more"),
        _examine_disk("runs", (folder / "runs").absolute(), "give --run a folder on a disk that has more"),
    ]


def describe_findings(findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values; `problems` has what to do, by name."""
    values = {finding.name: finding.value for finding in findings}
    return {**values, "problems": {finding.name: finding.remedy for finding in findings if finding.remedy}}


def _tell(name: str, text: str) -> Finding:
    return Finding(name, text, text)


def _examine_torch() -> Finding:
    built = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip}
    build = next((f"{name} {version}" for name, version in built.items() if version), "CPU")
    return Finding("torch", {"version": torch.__version__, "build": build}, f"{torch.__version__}, built for {build}")


def _examine_threads() -> Finding:
    threads, cores = torch.get_num_threads(), count_cores()
    asked = os.environ.get("OMP_NUM_THREADS")
    remedy = ""
    if threads < cores:
        remedy = f"torch computes on {threads} of {cores} cores; " + (
            f"unset OMP_NUM_THREADS, which is {asked}" if asked else "set OMP_NUM_THREADS to use all"
        )
    elif threads > cores:
        remedy = f"more threads than cores get in each other's way; set OMP_NUM_THREADS={cores}"
    return Finding("threads", {"torch": threads, "cores": cores}, f"{threads} on {cores} cores", remedy)


def _examine_bf16() -> Finding:
    cpu, gpu = is_bf16_fast("cpu"), is_bf16_fast("cuda")
    said = "fast on this CPU" if cpu else "works on this CPU and is slow; --precision auto takes fp32 there"
    return Finding("bf16", {"fast_on_cpu": cpu, "fast_on_gpu": gpu}, said + ", and fast on the GPU" * gpu)


def _examine_gpu() -> Finding:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    remedy = ""
    if not names and shutil.which("nvidia-smi"):
        remedy = "there is NVIDIA's driver, and this torch does not use it; install torch's build for CUDA"
    said = ", ".join(f"{name} (--device cuda:{i})" for i, name in enumerate(names))
    return Finding("gpu", names, said or "none; --device cpu is the default", remedy)


def _examine_extra(name: str, modules: Sequence[str]) -> Finding:
    missing = [module for module in modules if find_spec(module) is None]
    remedy = (INSTALL if name == "onnx" else f"pip install 'nestling[{name}]'") if missing else ""
    return Finding(f"extra {name}", not missing, f"lacks {', '.join(missing)}" if missing else "installed", remedy)


def _examine_synthesiser(name: str, found: bool, hint: str) -> Finding:
    return Finding(name, found, "found" if found else "not found", "" if found else hint)


def _examine_recorded() -> Finding:
    names = [name for name in CORPORA if (folder_of(name) / SEAL).exists()]
    return Finding("recorded", names, ", ".join(names) or "none in the cache; `nestling data list` has their names")


def _examine_disk(name: str, folder: Path, remedy: str) -> Finding:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        problem = f"{place} may not be written; " + remedy
    else:
        problem = f"little is free; {remedy}" if free < LITTLE_BYTES else ""
    return Finding(name, {"folder": str(folder), "free_bytes": free}, f"{folder}, {free / 1e9:.0f} GB free", problem)
