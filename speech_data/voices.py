"""Who speaks in the synthesised corpus, and how: voices by split, and styles of prosody."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

ACCENTS = (
    "en",
    "en-US",
    "en-GB-scotland",
    "en-029",
    "en-GB-x-gbclan",
    "en-US-nyc",
    "en-GB-x-gbcwmd",
    "en-GB-x-rp",
)
"""British, American, Scottish, Caribbean, Lancastrian, New York, West Midlands and received English."""

VARIANTS: dict[str, str] = {
    "train": """
        Alex, Alicia, Andrea, Diogo, Gene, Henrique, Hugo, Jacky, Lee, Michael, Mike, Nguyen, Reed, adam,
        anika, aunty, benjamin, boris, ed, edward, f1, f4, grandpa, iven, iven3, kaukovalta, klatt3, klatt4,
        klatt5, linda, m4, m5, m6, m8, marcelo, max, michel, miguel, mike2, norbert, pedro, rob, robert,
        victor
    """,
    "search": "Denis, antonio, f3, grandma, m1, sandro, shelby, travis",
    "dev": "Mario, caleb, david, f5, john, klatt2, m2, belinda",
    "test": "Andy, Annie, f2, gustave, ian, m3, m7, pablo, paul, quincy, steph, Mr serious",
}
"""Variants of espeak (formants, breath, roughness) by split. Near twins, such as m4 and m5, are together."""


class Speaker(Protocol):
    """Who speaks: a voice of a synthesiser, with habits and a vocal tract of its own."""

    @property
    def name(self) -> str:
        """What labels call the speaker."""

    @property
    def file(self) -> str:
        """What the synthesiser calls the voice."""

    @property
    def rate(self) -> int:
        """Words a minute."""

    @property
    def pitch(self) -> int:
        """0 to 100, 50 is the voice's own."""

    @property
    def tract(self) -> float:
        """Length of the vocal tract over the voice's own."""


@dataclass(frozen=True)
class Voice:
    """A speaker of espeak: a variant, with an accent and habits of its own."""

    variant: str
    accent: str
    rate: int
    """Words a minute."""
    pitch: int
    """0 to 100, 50 is the variant's own."""
    tract: float = 1.0
    """Length of the vocal tract over the variant's own."""

    @property
    def name(self) -> str:
        """What labels call the speaker."""
        return name_speaker(f"{self.variant}-{self.accent}", self.tract)

    @property
    def file(self) -> str:
        """What espeak calls the voice."""
        return f"gmw/{self.accent}+{self.variant}"


def name_speaker(voice: str, tract: float) -> str:
    """A voice with another vocal tract is another speaker, such as `m4-en@0.93`."""
    return voice if tract == 1 else f"{voice}@{tract:g}"


@dataclass(frozen=True)
class Style:
    """One way of speaking, relative to the voice's own."""

    rate: float
    """Factor on the words a minute."""
    pitch: int
    """Added to the pitch."""
    pitch_range: int
    """0 is monotone, 50 is usual."""


STYLES: dict[str, Style] = {
    "neutral": Style(rate=1.0, pitch=0, pitch_range=50),
    "excited": Style(rate=1.1, pitch=12, pitch_range=90),
    "monotone": Style(rate=1.0, pitch=-4, pitch_range=5),
    "slow": Style(rate=0.78, pitch=-8, pitch_range=35),
}


CROWD_TRACTS = (0.82, 0.93, 1.05, 1.16)
"""Lengths of the vocal tract of the speakers that a variant is in a crowd."""


def crowd(split: str) -> tuple[Voice, ...]:
    """Each variant of a split as four speakers, who differ in accent, habits and vocal tract.

    An interval is over speakers, and twelve say little.
    """
    voices = []
    for i, voice in enumerate(SPEAKERS[split]):
        for j, tract in enumerate(CROWD_TRACTS):
            habits = random.Random(f"{voice.variant} {j}")
            accent = ACCENTS[(i + 2 * j) % len(ACCENTS)]
            voices.append(Voice(voice.variant, accent, habits.randint(165, 205), habits.randint(38, 62), tract))
    return tuple(voices)


def _voices(variants: list[str]) -> tuple[Voice, ...]:
    """Accents take turns; rate and pitch are a habit of the variant."""
    voices = []
    for i, variant in enumerate(variants):
        habits = random.Random(variant)
        voices.append(
            Voice(
                variant,
                ACCENTS[i % len(ACCENTS)],
                rate=habits.randint(165, 205),
                pitch=habits.randint(38, 62),
            )
        )
    return tuple(voices)


SPEAKERS: dict[str, tuple[Voice, ...]] = {
    split: _voices([" ".join(variant.split()) for variant in variants.split(",")])
    for split, variants in VARIANTS.items()
}
"""The speakers of each split. No variant speaks in two splits."""
