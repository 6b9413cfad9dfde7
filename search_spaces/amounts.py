"""Counts as they are written: four ways, each for its place.

Tables and messages have every digit, by Python's own `{count:,}`: `343,081,728`. What a budget says is read back, and a
comma parts two budgets: `format_count`, `format_bytes`. Where room is short: `short_count`; in a column:
`aligned_count`.
"""

from __future__ import annotations


def format_count(count: int) -> str:
    """`25M`, `24.5M`, or every digit where a suffix would lose some: `24_513_007`, for a comma would end the budget."""
    return _format(count, {"G": 10**9, "M": 10**6, "k": 10**3}, "")


def format_bytes(count: int) -> str:
    """`50MB`, `12MiB`, `1_234_567B`; as `format_count`."""
    return _format(count, {"GB": 10**9, "MB": 10**6, "GiB": 2**30, "MiB": 2**20, "kB": 10**3, "KiB": 2**10}, "B")


def short_count(count: float) -> str:
    """At most four digits and a suffix: `24.93M`, `1.5G`."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.4g}{suffix}"
    return f"{count:.4g}"


def aligned_count(count: int) -> str:
    """From a thousand on exactly four digits, so that a column lines up: `1.500G`, `999`."""
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:#.4g}".rstrip(".") + suffix
    return str(count)


def _format(count: int, units: dict[str, int], no_unit: str) -> str:
    for unit, scale in units.items():
        if scale <= count < 1000 * scale and count * 100 % scale == 0:
            whole, hundredths = divmod(count * 100 // scale, 100)
            return f"{whole}.{hundredths:02}".rstrip("0").rstrip(".") + unit
    return f"{count:_}{no_unit}"
