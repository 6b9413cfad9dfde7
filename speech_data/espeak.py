"""espeak-ng through ctypes: text to a waveform with the times of its phones and words.

The library is GPL and therefore not a dependency but an extra: `pip install "nestling[demo]"`.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import FailedError, NestlingError
from search_spaces.fresh_process import run_fresh
from search_spaces.strict_json import parse_json

INSTALL_HINT = 'the synthesised corpus needs espeak-ng; run: pip install "nestling[demo]"'
READING_HINT = 'reading the phones of a text needs espeak-ng; run: pip install "nestling[demo]"'

SILENCE = "sil"

# Each group: the class, then the mnemonics in it.
_CLASSES = """
    aa A: A@ aa | ae a | ah V | ao O: O@ o@ O | aw aU aU@ | ax @ @2 @5 a# | ay aI aI2 aI3 aI@ |
    eh E E2 e@ ER | er 3: 3 VR IR | ey eI | ih I I2 I# i@ i@3 | iy i: i | oh 0 02 O2 |
    ow oU | oy OI | uh U U@ | uw u: u |
    b b | ch tS | d d d# d[ | dh D | f f | g g | hh h | jh dZ | k k x | l l @L l/ | m m m- | n n n- | ng N |
    p p | r r r- | s s | sh S | t t t# t2 t[ ? | th T | v v | w w w# | y j ; | z z z# | zh Z |
    sil _ _: _| _!
"""
PHONE_CLASSES: dict[str, str] = {
    mnemonic: group.split()[0] for group in _CLASSES.split(" |") for mnemonic in group.split()[1:]
}
"""Mnemonic of espeak without its stress mark -> phone class, in ARPAbet-like letters; length is not kept."""

_EVENT_END, _EVENT_WORD, _EVENT_PHONE = 0, 1, 7
_SYNCHRONOUS, _PHONE_EVENTS, _DO_NOT_EXIT = 2, 0x1, 0x8000
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_UTF8 = 1
_SEPARATOR = "_"


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of the first character, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Speech:
    """What espeak said."""

    wave: NDArray[np.int16]
    """(num_samples,) at `Espeak.sample_rate_hz`."""
    phones: tuple[tuple[str, int], ...]
    """(phone class, its first sample)."""
    words: tuple[tuple[int, int], ...]
    """(position in the text of the first character, first sample); function words may share one."""


class Espeak:
    """The synthesiser. The library has one state for each process, which every utterance changes.

    So the same text may sound different the second time: what must be repeatable starts in a fresh process.

    Raises:
        NestlingError: espeakng-loader is not installed.
        FailedError: The library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader as loader  # noqa: PLC0415 - an extra; a statement, so that its release counts
        except ImportError as error:
            raise NestlingError(INSTALL_HINT) from error
        self._library = ctypes.CDLL(loader.get_library_path())
        self._library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        data = str(loader.get_data_path())
        self.sample_rate_hz = int(
            self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _PHONE_EVENTS | _DO_NOT_EXIT)
        )
        if self.sample_rate_hz <= 0:
            raise FailedError(f"espeak-ng does not start with the data in {data}; is that path over 150 characters?")
        self._pieces: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, int, int, str]] = []
        self._callback = _Callback(self._collect)  # kept alive: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, *, rate: int, pitch: int, pitch_range: int, seed: int) -> Speech:
        """Speech for a text.

        Args:
            text: Words; no digits, so that words and word events agree.
            voice: File of the voice and variant, such as `gmw/en-US+m3`.
            rate: Words a minute, 80 to 450.
            pitch: 0 to 100, 50 is the voice's own.
            pitch_range: 0 (monotone) to 100.
            seed: Of the breath noise, 1 to 2**31 - 1; otherwise espeak takes it from the clock.

        Raises:
            NestlingError: There is no such voice.
            FailedError: Nothing was spoken, or a phone is not among `PHONE_CLASSES`.
        """
        self._pieces, self._events = [], []
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise NestlingError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_PITCH_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._pieces:
            raise FailedError(f"espeak-ng said nothing for {text!r}")
        phones = [(name, sample) for kind, _, sample, name in self._events if kind == _EVENT_PHONE]
        return Speech(
            wave=np.concatenate(self._pieces),
            phones=tuple((phone_class(name), sample) for name, sample in phones),
            words=tuple((where, sample) for kind, where, sample, _ in self._events if kind == _EVENT_WORD),
        )

    def read(self, text: str, voice: str) -> tuple[str, ...]:
        """The phone classes that a voice would say for a text, silence left out.

        Unlike speech, they do not depend on what the library did before.

        Raises:
            NestlingError: There is no such voice.
            FailedError: A phone is not among `PHONE_CLASSES`.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise NestlingError(f"espeak-ng has no voice {voice!r}")
        read_clause = self._library.espeak_TextToPhonemes
        read_clause.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
        read_clause.restype = ctypes.c_char_p
        buffer = ctypes.create_string_buffer(text.encode())
        rest = ctypes.c_void_p(ctypes.addressof(buffer))
        mnemonics: list[str] = []
        while rest.value:  # a clause at a time
            clause = read_clause(ctypes.byref(rest), _UTF8, ord(_SEPARATOR) << 8)
            mnemonics += clause.decode().replace(" ", _SEPARATOR).split(_SEPARATOR)
        classes = (phone_class(mnemonic) for mnemonic in mnemonics if mnemonic.strip("',%=|"))
        return tuple(name for name in classes if name != SILENCE)

    def _collect(self, wave: Any, num_samples: int, events: Any) -> int:
        """Called back with one buffer: copies its samples and events; returning 0 asks for more."""
        if wave and num_samples > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        i = 0
        while events[i].type != _EVENT_END:
            event = events[i]
            name = event.id.string.decode() if event.type == _EVENT_PHONE else ""
            self._events.append((event.type, event.text_position - 1, event.sample, name))
            i += 1
        return 0


def phone_class(mnemonic: str) -> str:
    """The class of espeak's mnemonic, stress marks aside.

    Raises:
        FailedError: The mnemonic is not among `PHONE_CLASSES`.
    """
    bare = mnemonic.lstrip("',%=")
    if bare not in PHONE_CLASSES:
        raise FailedError(f"espeak-ng's phone {mnemonic!r} has no class; add it to PHONE_CLASSES")
    return PHONE_CLASSES[bare]


def phonemize(texts: Sequence[str], voice: str = "gmw/en-US") -> list[tuple[str, ...]]:
    """The phone classes of texts as espeak reads them, silence left out.

    They are read in a process of their own, since the library has one state for each.

    Args:
        texts: English.
        voice: File of the voice whose accent it is.

    Raises:
        NestlingError: espeakng-loader is not installed.
        FailedError: The process failed, or a phone is not among `PHONE_CLASSES`.
    """
    if find_spec("espeakng_loader") is None:
        raise NestlingError(READING_HINT)
    try:
        said = run_fresh("speech_data.espeak:read_texts", given=json.dumps({"texts": list(texts), "voice": voice}))
        found = parse_json(said, list[tuple[str, ...]], "what it said")
        if len(found) != len(texts):
            raise NestlingError(f"{len(found)} texts came back of {len(texts)}")
    except NestlingError as error:
        raise FailedError(f"espeak-ng cannot read the texts: {error}") from error
    return found


def read_texts() -> None:
    """What the process of `phonemize` does: texts from standard input, their phones to standard output."""
    job = json.load(sys.stdin)
    espeak = Espeak()
    json.dump([espeak.read(text, job["voice"]) for text in job["texts"]], sys.stdout)
