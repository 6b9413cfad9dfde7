"""An export as an upstream of s3prl: a folder to drop into s3prl/upstream/, or to open with torch.hub.

Written against s3prl 0.4.18 without s3prl: what it wants of an upstream is in its upstream/example/, nn/upstream.py and
hub.py. Nothing of it is imported, here or in what is written.
"""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path

from checkpoints.manifest import extend_manifest
from checkpoints.runtimes.encoder_code import ENCODER_CODE, write_encoder_code
from search_spaces.errors import NestlingError
from search_spaces.files import write_file
from supernet.encoder import Encoder

EXPERT = Path(__file__).with_name("s3prl_expert.py")
S3PRL_FILES = ("expert.py", "hubconf.py", "encoder.json", *ENCODER_CODE)
"""What is added to an export."""


def write_s3prl(encoder: Encoder, folder: Path) -> None:
    """Adds to an export what makes it an upstream of s3prl: expert.py, hubconf.py, encoder.json and the network's code.

    Args:
        encoder: That was exported.
        folder: The export. Its name names the entry of hubconf.py; see `entry_name`.

    Raises:
        NestlingError: The folder holds no export.
    """
    if not (folder / "model.safetensors").is_file():
        raise NestlingError(f"{folder} has no model.safetensors; export the encoder there first")
    write_encoder_code(folder, EXPERT, "expert.py")
    write_file(folder / "hubconf.py", HUBCONF.format(entry=entry_name(folder)))
    write_file(folder / "encoder.json", json.dumps(encoder.config.to_dict(), indent=2) + "\n")
    extend_manifest(folder, S3PRL_FILES)


def entry_name(folder: Path) -> str:
    """The upstream's name in s3prl and torch.hub: the folder's own, as Python can write it (my-encoder: my_encoder)."""
    name = re.sub(r"\W", "_", folder.absolute().name, flags=re.ASCII)
    return f"upstream_{name}" if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name) else name


HUBCONF = '''\
"""Makes the encoder in this folder an entry of s3prl's hub and of torch.hub. MIT licence, as all of Nestling's code.

In s3prl: put the folder into s3prl/upstream/ as `{entry}`, and into s3prl/hub.py the line
`from s3prl.upstream.{entry}.hubconf import *`.
With torch.hub: `torch.hub.load(folder, "{entry}", source="local")`.
"""

import hashlib
import importlib
import pathlib
import sys
import types

dependencies = ["torch", "safetensors"]
__all__ = ["{entry}"]

# torch.hub runs this file as a script and s3prl imports it from a package. Either way expert.py and the network get a
# package of their own, so that those of two folders are not mixed up.
_folder = str(pathlib.Path(__file__).resolve().parent)
_package = types.ModuleType("nestling_" + hashlib.sha256(_folder.encode()).hexdigest()[:16])
_package.__path__ = [_folder]
sys.modules[_package.__name__] = _package
_UpstreamExpert = importlib.import_module(_package.__name__ + ".expert").UpstreamExpert


def {entry}(ckpt=None, **options):
    """The encoder in this folder, or the one in the folder `ckpt`; `options` are not needed."""
    return _UpstreamExpert(ckpt, **options)
'''
