"""Randomness by name: the same key draws the same numbers on every machine, rank and resumed run.

There are two ways from a key to a number, and each has to stay: corpora, batches and scores were drawn by the one,
weights, masks and subnets by the other.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """A generator for a key, such as `generator(seed, "crop", epoch)`; other keys draw independently."""
    return np.random.default_rng(int.from_bytes(_hash(repr(key))[:16], "little"))


def seed_of(*key: int | str) -> int:
    """A 63-bit seed for a key, for generators of other libraries. `("a", "b")` and `("a/b",)` are one key."""
    return int.from_bytes(_hash("/".join(map(str, key)))[:8], "big") >> 1


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
