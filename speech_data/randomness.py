"""Randomness by name: the same key draws the same numbers on every machine, rank and resumed run."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """A generator for a key, such as `generator(seed, "crop", epoch)`; other keys draw independently."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
