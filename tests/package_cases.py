"""Small packages of Debian, laid out as the real ones are, and a machine that has nothing else."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from speech_data.recorded.packages import hash_contents, unpack
from speech_data.recorded.table import CORPORA

COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def make_tar(files, *more):
    """A tar archive of files by name, and of further members with what they hold."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member, data in more:
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def make_ar(members):
    """An `ar` archive."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        parts += [
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode(),
            data,
            b"\n"[: len(data) % 2],
        ]
    return b"".join(parts)


def make_deb(path, name, version, files, *more, suffix=".xz", data=None):
    """A package; `data` takes the place of what is made of the files."""
    control = make_tar({"control": f"Package: {name}\nVersion: {version}\nDescription: small\n".encode()})
    tar = make_tar({**files, f"usr/share/doc/{name}/copyright": f"{name}: free".encode()}, *more)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": gzip.compress(control),
        f"data.tar{suffix}": data if data is not None else COMPRESS[suffix](tar),
    }
    path.write_bytes(make_ar(members))
    return path


@cache  # an Ogg file is another whenever it is written: it has a random number
def sound(seed, seconds=0.3, rate=16_000, kind="WAV", **rest):
    """A sound file of noise, as bytes."""
    content = io.BytesIO()
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    soundfile.write(content, wave, rate, format=kind, **rest)
    return content.getvalue()


def ogg(seed):
    return sound(seed, rate=44_100, kind="OGG")


def g722(seed, seconds=0.3):
    """Any bytes are G.722, two samples each."""
    return np.random.default_rng(seed).integers(0, 256, round(8000 * seconds), np.uint8).tobytes()


VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
STAMPS, SOUNDS = "usr/share/tuxpaint/stamps", "usr/share/ktuberling/sounds"
LETTERS, PROMPTS = "usr/share/klettres", "usr/share/asterisk/sounds"
NUM_SENTENCES = 40


def look_alikes():
    """Files of each package, by its name."""
    lab = "#\n0.05 125 pau\n0.15 125 d\n0.2 125 aa\n0.25 125 pau\n0.28 125 pau\n"
    texts = [f'( ru_{i:04} "Предложение н+омер {i}, и точка." )' for i in range(NUM_SENTENCES)]
    packages = {
        "festvox-ru": {
            f"{VOICE}/etc/txt.done.data": ("\n".join(texts) + "\n").encode(),
            f"{VOICE}/mcep/ru_0000.mcep": b"not wanted",
            **{f"{VOICE}/wav/ru_{i:04}.wav": sound(i) for i in range(NUM_SENTENCES)},
            **{f"{VOICE}/lab/ru_{i:04}.lab": lab.encode() for i in range(NUM_SENTENCES)},
        },
        "tuxpaint-stamps-default": {
            f"{STAMPS}/animals/cat.png": b"not wanted",
            **{
                f"{STAMPS}/animals/cat{i}.txt": f"A cat, {i}.\nes.utf8=Un gato, {i}.\nfr.utf8= Un chat, {i}.\n".encode()
                for i in range(20)
            },
            **{f"{STAMPS}/animals/cat{i}_desc_es.ogg": ogg(100 + i) for i in range(20)},
            **{f"{STAMPS}/animals/cat{i}_desc_fr.ogg": ogg(200 + i) for i in range(20)},
            f"{STAMPS}/animals/cat0_desc.ogg": ogg(300),
            f"{STAMPS}/animals/cat1_desc_pt_BR.wav": sound(301),
            f"{STAMPS}/animals/dog_desc_es.ogg": ogg(100),  # the same recording, of what nobody wrote down
            f"{STAMPS}/animals/cat0.ogg": ogg(302),  # a miaow
        },
        "ktuberling-data": {
            f"{SOUNDS}/pt.soundtheme": b'<sound name="ball" file="pt/bola.wav" /> <!-- name="x" file="pt/x.opus" -->',
            f"{SOUNDS}/id.soundtheme": b'<sound name="ball" file="id/gone.wav" />',
            f"{SOUNDS}/sr@latin.soundtheme": b'<sound name="ball" file="sr@latin/lopta.ogg" />',
            f"{SOUNDS}/pt/bola.wav": sound(400, rate=22_050),
            f"{SOUNDS}/pt/x.opus": sound(401, rate=48_000, kind="OGG", subtype="OPUS"),
            f"{SOUNDS}/sr@latin/lopta.ogg": ogg(402),
        },
        "klettres-data": {
            f"{LETTERS}/es/sounds.xml": '<sound name="&amp;" file="es/alpha/et.ogg" />\n'
            '<sound name="Ñ" file="es/alpha/n.ogg" />'.encode(),
            f"{LETTERS}/es/alpha/et.ogg": ogg(500),
            f"{LETTERS}/es/alpha/n.ogg": ogg(501),
            f"{LETTERS}/es/alpha/other.ogg": ogg(502),
        },
    }
    for i, (language, voice) in enumerate(VOICES.items()):
        said = {f"digits/{k}": f"{language} {k}. (firmly)" for k in range(12)}
        said |= {"beep": "[a tone]" if language == "en" else "", "letters/A": "[!] a"}
        prompts = "; Prompts\n\n" + "".join(f"{name}: {text}\n" for name, text in said.items())
        text = f"asterisk-core-sounds-{language}"
        packages[text] = {f"usr/share/doc/{text}/core-sounds-{language}.txt.gz": gzip.compress(prompts.encode())}
        names = [name.replace("/A", "/a") for name in said]
        packages[f"{text}-g722"] = {
            f"{PROMPTS}/{voice}/{name}.g722": g722(1000 * i + k) for k, name in enumerate(names)
        }
    return packages


VOICES = {
    "en": "en_US_f_Allison",
    "fr": "fr_CA_f_June",
    "es": "es_MX_f_Allison",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}


def make_debs(folder: Path, name: str, *, version: str = "", suffix: str = ".xz") -> list[Path]:
    """The packages of a corpus; in another version, if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    files = look_alikes()
    return [
        make_deb(
            folder / f"{p.name}_{version or '1'}_all.deb", p.name, version or p.version, files[p.name], suffix=suffix
        )
        for p in CORPORA[name].packages
    ]


def know(monkeypatch, folder: Path, name: str, num_recordings: int) -> None:
    """Makes the small packages those that are known: by what they hold, whatever their compression."""
    packages = []
    for package, deb in zip(CORPORA[name].packages, make_debs(folder / "known", name), strict=True):
        goal = folder / "known" / f"{package.name}-files"
        packages.append(replace(package, sha256="", contents=hash_contents(goal, unpack(deb, package, goal))))
    known = replace(CORPORA[name], packages=tuple(packages), num_recordings=num_recordings)
    monkeypatch.setitem(CORPORA, name, known)
