"""Brings a recorded corpus into the cache: from files that are there, or by the machine's own package manager."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import explaining, hash_file, replacing_folder, write_file
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.folder import examine_all
from speech_data.recorded.corpus import RECORDINGS, SEAL, SOUNDS, Facts, KnownSound, Origin, folder_of, read_facts
from speech_data.recorded.layouts import LAYOUTS, Recording
from speech_data.recorded.packages import LICENCES, copy_unpacked, hash_contents, read_control, unpack, write_new
from speech_data.recorded.table import NamedCorpus, Package, find_corpus
from speech_data.recordings import tile
from speech_data.sound_files import Sound

LEAST_SHARE = 0.9
"""Of the recordings that are known: another version of a package that has fewer is not understood."""
_SECONDS_BETWEEN_LOOKS = 0.2
_SAID = 300
"""Characters of what a program says that are repeated."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and how much there is."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Found:
    """A package on this disk."""

    package: Package
    path: Path
    """A .deb, or the folder that it was unpacked into."""
    version: str | None = None


def fetch_recorded(
    name: str, source: Path | None = None, on_progress: Progress = lambda *_: None, say: Say = lambda _: None
) -> Facts:
    """A recorded corpus in the cache: what is there, or else what a person names, or what apt-get downloads.

    It appears there whole; an attempt that was broken off is cleared away by the next.

    Args:
        name: Of `table.CORPORA`.
        source: A .deb; a folder of them; or one that they were unpacked or installed into, such as `/`.
        on_progress: Called as it goes on.
        say: Called with what a person should know.

    Raises:
        NestlingError: There is no such corpus, a package is missing, damaged or none that is known, or a library that
            decodes it is not installed.
        FailedError: The disk or the network refused.
    """
    corpus = find_corpus(name)
    if (facts := read_facts(name)) is not None:
        return facts
    if corpus.module and find_spec(corpus.module) is None:
        raise NestlingError(f"{name} takes PyAV to decode: pip install 'nestling[recorded]'")
    found = _find_packages(corpus, source) if source else None
    folder = folder_of(name)
    with replacing_folder(folder, SEAL) as made:
        made.mkdir()
        downloads = made / "downloads"
        if found is None:
            downloads.mkdir()
            found = _download(corpus, downloads, partial(on_progress, f"download {name} (MB)"))
        origins = [_unpack(item, made, partial(on_progress, f"unpack {item.package.name} (MB)")) for item in found]
        shutil.rmtree(downloads, ignore_errors=True)
        recordings = list(LAYOUTS[name](made))
        recordings = _decode_g722(made, recordings, partial(on_progress, f"decode {name}"))
        facts = _keep(corpus, made, recordings, origins, partial(on_progress, f"check {name}"))
        _compare(corpus, facts, say)
        write_file(made / SEAL, json.dumps(asdict(facts), indent=1, ensure_ascii=False) + "\n")
    return facts


# Packages


def _find_packages(corpus: NamedCorpus, source: Path) -> list[_Found]:
    """The packages of a corpus that a person named."""
    if source.is_file():
        if len(corpus.packages) > 1:
            raise NestlingError(f"{corpus.name} is in {len(corpus.packages)} packages: name the folder they are in")
        return [_identify(source, corpus.packages[0])]
    if not source.is_dir():
        raise NestlingError(f"--from {source} does not exist; {_remedy(corpus.packages)}")
    debs = {package: sorted(source.glob(f"{package.name}_*.deb")) for package in corpus.packages}
    if any(debs.values()):
        if missing := [package for package, files in debs.items() if not files]:
            names = ", ".join(f"{package.name} {package.version}" for package in missing)
            raise NestlingError(f"{source} has some packages of {corpus.name} and lacks {names}; put those there, too")
        named = [[_identify(file, package) for file in files] for package, files in debs.items()]
        return [max(items, key=lambda item: item.version == item.package.version) for items in named]
    if missing := [package for package in corpus.packages if not (source / package.home).is_dir()]:
        raise NestlingError(
            f"{source} holds neither .deb files of {corpus.name} nor what they unpack to ({missing[0].home}); "
            f"{_remedy(corpus.packages)}"
        )
    return [_Found(package, source) for package in corpus.packages]


def _identify(deb: Path, package: Package) -> _Found:
    """What a .deb says that it is."""
    said = read_control(deb)
    if said.get("Package") != package.name:
        raise NestlingError(f"{deb} is {said.get('Package', 'no package with a name')}, not {package.name}")
    return _Found(package, deb, said.get("Version"))


def _download(corpus: NamedCorpus, folder: Path, on_progress: Callable[[int, int], None]) -> list[_Found]:
    """The packages by way of apt-get, which knows the machine's sources and checks what they signed."""
    if shutil.which("apt-get") is None:
        raise NestlingError(f"{corpus.name} is downloaded by apt-get, which is not here; {_remedy(corpus.packages)}")
    found = []
    for package in corpus.packages:
        before = sum(path.stat().st_size for path in folder.iterdir())

        def look(before: int = before) -> None:
            sizes = []
            for path in folder.rglob("*"):
                with suppress(OSError):  # renamed meanwhile
                    sizes.append(path.stat().st_size * path.is_file())
            on_progress(max(before, sum(sizes)) // 10**6, corpus.num_bytes // 10**6)

        said = _run_apt(f"{package.name}={package.version}", folder, look)
        if "was not found" in said:  # this distribution has another version
            said = _run_apt(package.name, folder, look)
        if not (debs := sorted(folder.glob(f"{package.name}_*.deb"))):
            raise _explain(package, said, corpus)
        found.append(_identify(debs[0], package))
    return found


def _run_apt(asked: str, folder: Path, look: Callable[[], None]) -> str:
    """What apt-get complains of; nothing where all is well."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            ["apt-get", "-qq", "download", asked],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=complaints,
            stderr=complaints,
            env={**os.environ, "LC_ALL": "C"},
        )
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_BETWEEN_LOOKS)
                look()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        complaints.seek(0)
        lines = complaints.read().decode("utf-8", "replace").splitlines()
    return " ".join(line for line in lines if line.startswith("E:")) if process.returncode else ""


def _explain(package: Package, said: str, corpus: NamedCorpus) -> NestlingError:
    remedy = f"run `apt-get update`, or {_remedy(corpus.packages)}"
    if "Unable to locate" in said or "find a source" in said or "No packages found" in said:
        return NestlingError(f"apt-get knows no package {package.name}; {remedy}")
    said = said[:_SAID] or "it does not say why"
    return FailedError(f"apt-get could not download {package.name} ({said}); check the connection, {remedy}")


def _remedy(packages: Sequence[Package]) -> str:
    """Which files will do."""
    names = [f"{package.name} {package.version}" for package in packages]
    if len(names) == 1:
        return f"name a .deb with --from; known is {names[0]}, in builds of Debian and of others"
    return f"name a folder of .deb files with --from; known are {', '.join(names)}"


def _unpack(item: _Found, folder: Path, on_progress: Callable[[int, int], None]) -> Origin:
    """Unpacks a package, and tells whether it is the known one: by the hash of the .deb, or of what it holds."""
    package, sha256 = item.package, None
    if item.path.is_file():
        sha256 = hash_file(item.path)
        names = unpack(item.path, package, folder, on_progress)
    else:
        names = copy_unpacked(item.path, package, folder)
    known = sha256 == package.sha256 or hash_contents(folder, names) == package.contents
    return Origin(package.name, item.version, sha256, known)


def _compare(corpus: NamedCorpus, facts: Facts, say: Say) -> None:
    """Tells of another version, and refuses one that lacks what the known one has."""
    others = [origin for origin in facts.origins if not origin.known]
    if not others:
        return
    versions = {package.name: package.version for package in corpus.packages}
    told = ", ".join(f"{origin.package} {origin.version or 'as it was unpacked'}" for origin in others)
    known = ", ".join(f"{origin.package} {versions[origin.package]}" for origin in others)
    count = f"{facts.num_recordings:,} recordings where {corpus.num_recordings:,} are known"
    if facts.num_recordings < LEAST_SHARE * corpus.num_recordings:
        raise NestlingError(
            f"{told}: {count}; it is damaged or not laid out as {known} is, of which a .deb can be named with --from"
        )
    say(f"{told} is not {known}: {count}; scores on the one say nothing of the other")


# Recordings


def _decode_g722(
    folder: Path, recordings: Sequence[Recording], on_progress: Callable[[int, int], None]
) -> list[Recording]:
    """Telephone prompts as flac, without a loss; libsndfile reads no G.722."""
    decoded = []
    for i, recording in enumerate(recordings, start=1):
        file = folder / recording.file
        if file.suffix == ".g722":
            flac = file.with_suffix(".flac")
            content = io.BytesIO()
            soundfile.write(content, _read_g722(file), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
            with explaining(flac):
                write_new(io.BytesIO(content.getbuffer()), flac)
            file = flac
            on_progress(i, len(recordings))
        decoded.append(replace(recording, file=file.relative_to(folder).as_posix()))
    return decoded


def _read_g722(file: Path) -> Any:
    """Samples, (n,), int16, at 16 kHz; none if there is nothing to decode."""
    import av  # noqa: PLC0415 - an extra

    try:
        with av.open(str(file), format="g722") as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.FFmpegError:
        frames = []
    return np.concatenate(frames) if frames else np.zeros(0, np.int16)


def _keep(
    corpus: NamedCorpus,
    folder: Path,
    recordings: Sequence[Recording],
    origins: Sequence[Origin],
    on_progress: Callable[[int, int], None],
) -> Facts:
    """Writes the list of what can be used, once each, and removes all other files."""
    sounds = examine_all({folder / recording.file for recording in recordings}, on_progress)
    usable = [recording.file for recording in recordings if isinstance(sounds[folder / recording.file], Sound)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        heard = dict(zip(usable, pool.map(_hash_samples, (folder / file for file in usable)), strict=True))
    first: dict[str, str] = {}
    hours: dict[str, float] = defaultdict(float)
    lines, skipped, num_phones = [], [], 0
    kept: dict[str, dict[str, Any]] = {}
    for recording in recordings:
        sound = sounds[folder / recording.file]
        if isinstance(sound, str):
            skipped.append((recording.file, sound))
        elif (same := first.setdefault(heard[recording.file], recording.file)) != recording.file:
            skipped.append((recording.file, f"holds the same audio as {same}"))
        else:
            line = _describe(recording, sound)
            num_phones += len(line.get("phones", ()))
            hours[recording.language] += sound.num_frames / sound.rate_hz / 3600
            lines.append(line)
            num_bytes = (folder / recording.file).stat().st_size
            kept[recording.file] = asdict(KnownSound(**asdict(sound), num_bytes=num_bytes))
    if not lines:
        raise NestlingError(f"there is no recording of {corpus.name} in what was unpacked; {_remedy(corpus.packages)}")
    texts = {
        RECORDINGS: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        SOUNDS: json.dumps(kept, ensure_ascii=False, indent=0) + "\n",
    }
    files = {name: write_file(folder / name, text) for name, text in texts.items()}
    _clear(folder, {*files, *kept})
    return Facts(
        name=corpus.name,
        origins=tuple(origins),
        files=files,
        num_recordings=len(lines),
        seconds=3600 * sum(hours.values()),
        languages=dict(sorted(hours.items())),
        num_speakers=len({line["speaker"] for line in lines}),
        num_phones=num_phones,
        num_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        skipped=tuple(skipped),
    )


def _hash_samples(file: Path) -> str:
    """Of what is heard. An Ogg file has a random number, so copies that were made apart differ in their bytes."""
    samples, _ = soundfile.read(file, dtype="float32")
    return hashlib.sha256(np.round(32767 * samples).astype("<i4").tobytes()).hexdigest()


def _describe(recording: Recording, sound: Sound) -> dict[str, Any]:
    """A line of a manifest."""
    labels = {
        "text": recording.text,
        "speaker": recording.speaker,
        "language": recording.language,
        "intent": recording.intent,
        "phones": tile(list(recording.phones), sound.num_frames / sound.rate_hz) if recording.phones else None,
    }
    return {"audio_filepath": recording.file, **{key: value for key, value in labels.items() if value is not None}}


def _clear(folder: Path, kept: set[str]) -> None:
    """Removes what is neither kept nor a licence, and folders that hold nothing."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder)
        if path.is_dir():
            with suppress(OSError):
                path.rmdir()
        elif name.parts[0] != LICENCES and name.as_posix() not in kept:
            path.unlink()
