"""What makes two results the same: the content and the code that they came from.

A fingerprint is of inputs, never of what a machine's rounding made of them: bytes of weights, samples of audio,
settings, the source of the code that takes part, and the feature releases of the libraries it computes with.
So it is the same on any machine and for any number of threads, and another as soon as anything that decides a
result is.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("search_spaces", "speech_data", "supernet", "distillation", "speech_tasks", "nas", "checkpoints")
"""Ours, whose source counts; of other libraries the release does."""
_COMPUTE_NOTHING = ("huggingface_hub", "platformdirs", "pydantic", "yaml")
"""Libraries that decide no number."""
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""By the name they are imported by, where it is another."""


def fingerprint(*parts: object) -> str:
    """A short hash of plain JSON values; keys may come in any order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def hash_code(*modules: str) -> str:
    """A hash of what some modules and all that they import do.

    Docstrings, comments and layout do not count, nor where the code is installed. Libraries count by their feature
    release, `2.13` of `2.13.1+cpu`: a patch release mends, and costs nobody a score.

    Args:
        modules: Full names; `__main__` is the script that runs. Imports of our own packages are followed wherever they
            stand.

    Raises:
        ValueError: There is no such module, or no file of it, as in a notebook.
    """
    sources, libraries = _read_code(modules)
    return fingerprint(sources, {library: find_release(library) for library in libraries})


def find_release(library: str) -> str | None:
    """The feature release of a library by the name it is imported by: `2.13`; None where it is not installed."""
    version = getattr(sys.modules.get(library), "__version__", None)
    try:
        version = version or metadata.version(_DISTRIBUTIONS.get(library, library))
    except metadata.PackageNotFoundError:
        return None
    return ".".join(str(version).partition("+")[0].split(".")[:2])


@cache
def _read_code(modules: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """The hash of each module that takes part, and the libraries that do; read once, as the code itself is."""
    sources: dict[str, str] = {}
    libraries: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in sources else _find(name)
        if path is None:
            continue
        sources[name], found = _parse(path.read_text("utf-8"))
        for imported in found:
            root = imported.partition(".")[0]
            if root in PACKAGES:
                waiting.append(imported)
            elif root not in sys.stdlib_module_names and root not in _COMPUTE_NOTHING:
                libraries.add(root)
    if missing := [module for module in modules if module not in sources]:
        raise ValueError(f"the code of {missing[0]} is in no file; without it no result can be known again")
    return sources, sorted(libraries)


@cache
def _parse(text: str) -> tuple[str, tuple[str, ...]]:
    """The hash of what a module does, and the modules that it imports."""
    tree = ast.parse(text)
    return hashlib.sha256(json.dumps(_plain(tree)).encode()).hexdigest(), tuple(dict.fromkeys(_imports(tree)))


def _find(module: str) -> Path | None:
    """The file of a module, or of the script that runs; None for what only looks like one. Nothing is imported."""
    root, *rest = module.split(".")
    spec = None if root == "__main__" else importlib.util.find_spec(root)
    if root == "__main__":
        files = [Path(getattr(sys.modules[root], "__file__", None) or "")]
    elif spec and spec.submodule_search_locations:
        paths = [Path(place, *rest) for place in spec.submodule_search_locations]
        files = [file for path in paths for file in (path.with_name(f"{path.name}.py"), path / "__init__.py")]
    else:
        files = [Path(spec.origin or "")] if spec and not rest else []
    return next((file for file in files if file.is_file()), None)


def _plain(value: object) -> object:
    """A syntax tree as plain values, the same in every version of Python; strings that stand alone do nothing."""
    match value:
        case ast.Constant():
            return repr(value.value)
        case ast.AST():
            fields = {name: _plain(field) for name, field in ast.iter_fields(value)}
            return [type(value).__name__, {name: field for name, field in fields.items() if field not in (None, [])}]
        case list():
            return [_plain(item) for item in value if not _is_remark(item)]
        case _:
            return value


def _is_remark(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere, and what may be a module of what is imported from one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
