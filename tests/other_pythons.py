"""Under other versions of Python, without PyTorch: everything compiles, and what needs no PyTorch works.

Run it in this project's environment: python tests/other_pythons.py 3.12 3.13. What is not found is passed over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIGHT = ("numpy", "pyyaml", "pydantic", "rich", "typer", "platformdirs", "soundfile", "soxr")
"""What spaces, corpora and the command line are made of."""
LEFT_OUT = {
    "torch",
    "transformers",
    "safetensors",
    "optuna",
    "scipy",
    "sklearn",
    "plotly",
    "jinja2",
    "markupsafe",
    "rapidfuzz",
    "fvcore",
    "thop",
}
WITHOUT_TORCH = ("search_spaces", "speech_data", "nestling", "cli")
"""A module of these can be imported, or says which of `LEFT_OUT` it lacks."""
SURELY = {
    "cli",
    "nestling",
    "search_spaces.counting",
    "search_spaces.space",
    "speech_data.batching",
    "speech_data.folder",
}

WHERE = "import sys; print(sys.executable)"
ANSWERS = """
from random import Random
from nestling import Budget, SearchSpace
space = SearchSpace.load("base")
budget = Budget.parse("25M", space)
print(space.count(), space.count(budget), space.largest(budget).id, space.sample(Random(0), budget).id)
"""

IMPORTS = """
import importlib, json, sys
imported, lacking = [], []
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
        imported.append(name)
    except ModuleNotFoundError as error:
        lacking.append(error.name.partition(".")[0])
print(json.dumps([imported, lacking]))
"""


def main() -> None:
    """Tries each version named on the command line, and fails at the first that does not do."""
    ours = run(sys.executable, "-c", ANSWERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        for version in sys.argv[1:]:
            python = find_python(version)
            print(f"Python {version}: {use(python, wheel, folder / version, ours) if python else 'not found'}")


def find_python(version: str) -> Path | None:
    """An interpreter of a version: on the PATH, or installed beside this one."""
    beside = Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python{version}")
    for python in (Path(f"python{version}"), *beside):
        try:
            asked = subprocess.run([python, "-c", WHERE], check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError):  # none, or a shim of a version that is switched off
            continue
        return Path(asked.stdout.strip())
    return None


def use(python: Path, wheel: Path, folder: Path, ours: str) -> str:
    """Uses the wheel in an environment of its own; says what came of it."""
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    pip = (inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", ROOT / "constraints.txt", *LIGHT)
    run(*pip, "--no-deps", "--no-compile", wheel)
    site = Path(run(inside, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    files = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    run(inside, "-W", "error", "-m", "compileall", "-q", *(site / file for file in files))
    names = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files]
    light = [name for name in names if name.partition(".")[0] in WITHOUT_TORCH]
    imported, lacking = json.loads(run(inside, "-W", "error", "-c", IMPORTS, json.dumps(light)))
    assert set(lacking) <= LEFT_OUT, set(lacking) - LEFT_OUT
    assert set(imported) >= SURELY, SURELY - set(imported)
    assert run(inside, "-c", ANSWERS) == ours
    assert "search" in run(folder / "bin" / "nestling", "--help")
    return f"{len(files)} modules compile, {len(imported)} of {len(light)} can be imported without PyTorch"


def run(*command: str | Path) -> str:
    """What a command prints, away from this folder and its modules; its complaints are shown."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    elsewhere = tempfile.gettempdir()
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=elsewhere, env=environment).stdout


if __name__ == "__main__":
    main()
