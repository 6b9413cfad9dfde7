"""Which split something is in, by a hash: the same on every machine, whatever else there is."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping

RECORDED_SHARES = {"test": 15, "dev": 10, "search": 10, "train": 65}
"""Of the sentences of recorded corpora that have a name, in percent."""


def place_of(digest: str) -> int:
    """Where a SHA-256 in hex falls, 0 to 99: a share of all in percent."""
    return int(digest[:8], 16) % 100


def place_of_name(name: str) -> int:
    """Where a name or a sentence falls, 0 to 99."""
    return place_of(hashlib.sha256(name.encode()).hexdigest())


def split_at(place: int, shares: Mapping[str, int]) -> str:
    """The split at a place.

    Args:
        place: From `place_of` or `place_of_name`.
        shares: Of each split, in percent and in order; 100 in all.
    """
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")


RECORDED_SHARES = {"test": 15, "dev": 10, "search": 10, "train": 65}
"""Of the sentences of recorded corpora, in percent."""


def split_of_recording(text: str | None, content: str) -> str:
    """The split of a recording of a corpus with a name: one division for all of them, made once.

    Whoever says a sentence, in whichever corpus, says it in one split. What is not written down goes by its samples.

    Args:
        text: What is said.
        content: The SHA-256 of the samples, in hex.
    """
    sentence = normalise(text or "")
    return split_at(place_of_name(sentence) if sentence else place_of(content), RECORDED_SHARES)


def normalise(sentence: str) -> str:
    """Its letters, marks and digits in lower case, with single blanks: what is left when it is said."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold())
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split())
