"""What a score depends on besides the encoder: the code of its task, and the audio."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from speech_tasks.store import Clip

_PACKAGES = ("search_spaces", "speech_data", "speech_tasks")


class Reader(Protocol):
    """A task, or anything else that asks for hidden states of clips it names."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def clips(self) -> Sequence[Clip]:
        """Everything whose hidden states it will ask for."""


def fingerprint_task(task: Reader) -> str:
    """A short hash of a task's code and of every clip it reads.

    So a stored score is taken for that of today's code and audio only if it is. Docstrings and comments do not count.
    """
    clips = sorted({clip.key for clip in task.clips})
    return hashlib.sha256(json.dumps([task.name, hash_code(type(task).__module__), clips]).encode()).hexdigest()[:16]


def name_audio(task: Reader) -> tuple[str, ...]:
    """Name and hash of every corpus that a task reads."""
    corpora = {clip.corpus.name: clip.corpus.hash for clip in task.clips}
    return tuple(f"{name} {content}" for name, content in corpora.items())


@cache
def hash_code(module: str) -> str:
    """A hash of what a module and all that it imports from the lower packages do."""
    trees: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name)
        if name in trees or spec is None or spec.origin is None:
            continue
        tree = _Silent().visit(ast.parse(Path(spec.origin).read_text("utf-8")))
        trees[name] = ast.dump(tree)
        waiting += [name for name in _imports(tree) if name.partition(".")[0] in _PACKAGES]
    return hashlib.sha256(json.dumps(sorted(trees.items())).encode()).hexdigest()[:16]


class _Silent(ast.NodeTransformer):
    """Takes out docstrings."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Strings that stand alone do nothing."""
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _imports(tree: ast.Module) -> list[str]:
    """Every module imported anywhere."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            names.append(module)
            if module in _PACKAGES:  # what is imported from a package is a module
                names += [f"{module}.{alias.name}" for alias in node.names]
    return names
