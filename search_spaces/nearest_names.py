"""What is said of a name that is none of those there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: object, known: Iterable[str], *, brief: bool = False) -> str:
    """The nearest name there is, if one is near, and all of them: `did you mean `tiny`? there are base, tiny`.

    Args:
        name: What was asked for.
        known: What there is, in the order in which it is told.
        brief: Whether the nearest is enough; without one, all are told.
    """
    names = list(known)
    near = get_close_matches(str(name), names, n=1)
    hint = [f"did you mean `{near[0]}`?"] if near else []
    return " ".join(hint if hint and brief else [*hint, f"there are {', '.join(names)}"])
