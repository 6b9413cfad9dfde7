"""Commands as a person types them, in this process."""

import json
import os
import shlex
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
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


class _File(TextIOWrapper):
    """A file in memory, as strict as `> file` is in a locale."""

    def __init__(self, encoding):
        super().__init__(BytesIO(), encoding)

    def getvalue(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


class Shell:
    """Runs commands in a folder, in this process; what they write goes to files of an encoding, if one is given."""

    def __init__(self, folder, encoding=None):
        self.folder, self.encoding = folder, encoding

    def __call__(self, command, *options):
        out, err = (_File(self.encoding) if self.encoding else StringIO() for _ in range(2))
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
