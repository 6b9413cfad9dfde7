"""Which split something is in, by a hash: the same on every machine, whatever else there is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


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
