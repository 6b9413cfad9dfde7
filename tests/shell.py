"""Commands as a person types them, in this process."""

import json
import os
import shlex
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from unittest import mock

import cli


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Shell:
    """Runs commands in a folder, in this process."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, command, *options):
        out, err = StringIO(), StringIO()
        arguments = ["nestling", *shlex.split(command), *options]
        with (
            chdir(self.folder),
            mock.patch.object(sys, "argv", arguments),
            mock.patch.dict(os.environ, COLUMNS="200"),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                cli.main()
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
        return Said(code, out.getvalue(), err.getvalue())

    def done(self, command, *options):
        """As a call, of a command that must not fail."""
        said = self(command, *options)
        assert said.code == 0, said.err
        return said
