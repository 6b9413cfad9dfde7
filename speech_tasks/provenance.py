"""What a score depends on besides the encoder: the code of its task, and the audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from search_spaces.identity import fingerprint, hash_code
from speech_tasks.feature_store import Clip


class Reader(Protocol):
    """A task, or anything else that asks for hidden states of clips it names."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def clips(self) -> Sequence[Clip]:
        """Everything whose hidden states it will ask for."""


def fingerprint_task(task: Reader) -> str:
    """A short hash of a task's code, with the libraries it computes with, and of every clip it reads.

    So a stored score is taken for that of today's code and audio only if it is.
    """
    clips = sorted({clip.key for clip in task.clips})
    return fingerprint(task.name, hash_code(type(task).__module__), clips)


def name_audio(task: Reader) -> tuple[str, ...]:
    """Name and hash of every corpus that a task reads."""
    corpora = {clip.corpus.name: clip.corpus.hash for clip in task.clips}
    return tuple(f"{name} {content}" for name, content in corpora.items())
