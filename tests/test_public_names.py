"""What `import nestling` offers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nestling


@pytest.mark.parametrize("name", nestling.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    value = getattr(nestling, name)
    assert not callable(value) or value.__doc__


def test_names_are_the_same_for_type_checkers():
    tree = ast.parse(Path(nestling.__file__).read_text("utf-8"))
    shown = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == nestling._PLACES


def test_importing_costs_nothing():
    heavy = ("torch", "numpy", "rich", "pydantic", "jinja2")
    code = f"import sys, nestling; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_said():
    with pytest.raises(AttributeError, match="module 'nestling' has no attribute 'serach'"):
        nestling.serach  # noqa: B018
