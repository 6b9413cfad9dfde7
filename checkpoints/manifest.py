"""SHA256SUMS: what a folder holds, so that a flipped bit, a cut file or a stray one is noticed before it is used.

`sha256sum -c SHA256SUMS` checks it too. Model cards (README.md and those kept beside it) are for people to edit and are
not listed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from search_spaces.errors import NestlingError
from search_spaces.files import hash_file, write_file

MANIFEST = "SHA256SUMS"
MAX_BYTES = 1 << 20
"""Of a manifest: ten thousand files."""
CARD, KEPT_CARD = "README.md", "README.md.previous"
"""The model card, and where one goes that somebody has edited when the folder is written again."""


class ManifestError(NestlingError):
    """A folder is not what its manifest lists."""


def is_card(name: str) -> bool:
    """Whether a file is a model card or one that was kept: README.md.previous, README.md.previous-2 and so on."""
    return name == CARD or re.fullmatch(re.escape(KEPT_CARD) + r"(-\d+)?", name) is not None


def write_manifest(folder: Path) -> None:
    """Lists every file of a folder but the model card and hidden ones; folders in it are left out."""
    write_file(folder / MANIFEST, _format(_hash_files(folder)))


def extend_manifest(folder: Path, names: Collection[str]) -> None:
    """Lists files that were added to a folder, or changed, and leaves the other lines; no manifest, no change."""
    path = folder / MANIFEST
    if path.is_file():
        hashes = _read(path) | {name: hash_file(folder / name) for name in names}
        write_file(path, _format(dict(sorted(hashes.items()))))


def list_manifest(folder: Path) -> list[str]:
    """The files that a folder should hold, by its manifest; none where there is no manifest."""
    path = folder / MANIFEST
    return [name for name in _read(path) if Path(name).name == name] if path.is_file() else []


def check_file(path: Path) -> None:
    """Compares one file with the manifest beside it; passes where there is none, or it lists no such file.

    Raises:
        ManifestError: It differs.
    """
    listed = _read(path.parent / MANIFEST).get(path.name) if (path.parent / MANIFEST).is_file() else None
    if listed not in (None, hash_file(path)):
        raise ManifestError(f"{path} is not what {MANIFEST} beside it lists; get the file again, or delete {MANIFEST}")


def check_manifest(folder: Path) -> None:
    """Compares a folder with its manifest, byte for byte; one without a manifest passes.

    Raises:
        ManifestError: A file differs, is missing, or is not listed, or the manifest itself is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return
    listed, text = _read(path), path.read_bytes()
    found = _hash_files(folder)
    if text == _format(found):
        return
    problems = [f"{name} differs" for name in found if name in listed and listed[name] != found[name]]
    problems += [f"{ascii(name)[1:-1][:80]} is missing" for name in listed if name not in found]
    problems += [f"{name} is not listed" for name in found if name not in listed]
    problems = problems or [f"{MANIFEST} itself is damaged"]
    more = [f"and {len(problems) - 3} more"] if len(problems) > 3 else []
    raise ManifestError(
        f"{folder} is not what its {MANIFEST} lists: {', '.join([*problems[:3], *more])}. Get the folder again; "
        f"or, if the change is meant, delete {MANIFEST}"
    )


def _read(path: Path) -> dict[str, str]:
    """File -> SHA-256, of the lines that have both.

    Raises:
        ManifestError: It is too large to be one.
    """
    if not path.is_file():
        raise ManifestError(f"{path} is no manifest, not even a file; get the folder again, or delete that")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ManifestError(
            f"{path} is no manifest: {size:,} bytes, and at most {MAX_BYTES:,} are read. Get the folder again, or "
            "delete that file"
        )
    lines = [line.split("  ", 1) for line in path.read_text("utf-8", errors="replace").splitlines()]
    return {name: digest for digest, name in (line for line in lines if len(line) == 2)}


def _hash_files(folder: Path) -> dict[str, str]:
    """File -> SHA-256."""
    paths = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return {path.name: hash_file(path) for path in paths if path.name != MANIFEST and not is_card(path.name)}


def _format(hashes: dict[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode()
