"""What people type, as a text: every command with its options, their types, defaults and help.

A change of it is a change for people, and is to be seen as one: the text is `surface.txt`. Write it anew with
`python -m tests.test_surface`, look at what differs, and keep it with the change.
"""

import inspect
import re
from pathlib import Path
from typing import get_type_hints

import typer

import cli

SURFACE = Path(__file__).with_name("surface.txt")


def describe_surface():
    """Commands in the order of help, each option on lines of its own."""
    return "\n".join(_describe(typer.main.get_command(cli.app), "nestling"))


def _describe(command, path):
    types = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    yield path
    yield from (f"  {line}".rstrip() for line in command.help.strip().splitlines())
    for param in command.params:
        names = ", ".join([*param.opts, *param.secondary_opts])
        kind = (
            re.sub(r"<class '(.*)'>", r"\1", str(types.get(param.name, "")))
            .replace("pathlib.", "")
            .replace("typing.", "")
        )
        given = "required" if param.required else f"default {param.default}"
        yield f"  {names}: {', '.join(filter(None, [kind, given, 'hidden' * bool(getattr(param, 'hidden', False))]))}"
        yield f"      {param.help}"
    yield ""
    if hasattr(command, "commands"):
        for name in command.list_commands(None):
            yield from _describe(command.commands[name], f"{path} {name}")


def test_the_surface_is_the_one_that_was_agreed_on():
    assert describe_surface() == SURFACE.read_text("utf-8"), "run `python -m tests.test_surface`, and see what differs"


if __name__ == "__main__":
    SURFACE.write_text(describe_surface(), "utf-8")
