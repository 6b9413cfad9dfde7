"""Recorded corpora: which there are, into the cache, and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nestling.workflows.listening import SILENT, Listener
from search_spaces.errors import NestlingError
from speech_data.recorded.corpus import describe_licences, folder_of, read_facts, remove_recorded
from speech_data.recorded.fetching import fetch_recorded
from speech_data.recorded.table import CORPORA, find_corpus


def describe_corpora(listener: Listener = SILENT) -> list[dict[str, Any]]:
    """All recorded corpora that have a name, as plain values; a damaged one in the cache is told of."""
    described = []
    for name in CORPORA:
        try:
            described.append(describe_corpus(name))
        except NestlingError as error:
            listener.warn(str(error))
    return described


def describe_corpus(name: str) -> dict[str, Any]:
    """What a corpus is, as plain values: as it is in the cache or, where it is not, as it is known.

    Raises:
        NestlingError: There is no such corpus, or it is damaged.
    """
    corpus, facts = find_corpus(name), read_facts(name)
    languages = list(facts.languages if facts else corpus.languages)
    return {
        "name": name,
        "about": corpus.about,
        "licences": {licence: languages.split() for licence, languages in corpus.licences.items()},
        "licence": describe_licences(corpus),
        "fetched": facts is not None,
        "folder": str(folder_of(name)) if facts else None,
        "bytes": facts.num_bytes if facts else None,
        "download_bytes": corpus.num_bytes,
        "recordings": facts.num_recordings if facts else corpus.num_recordings,
        "hours": round(facts.seconds / 3600 if facts else corpus.hours, 3),
        "speakers": facts.num_speakers if facts else corpus.num_speakers,
        "languages": languages,
        "timed_phones": facts.num_phones if facts else corpus.num_phones,
        "evaluation_alone": [language for language in languages if not corpus.may_teach(language)],
        "packages": {origin.package: origin.version for origin in facts.origins}
        if facts
        else {package.name: package.version for package in corpus.packages},
    }


def get_corpus(name: str, source: Path | None = None, listener: Listener = SILENT) -> dict[str, Any]:
    """Brings a corpus into the cache, unless it is there, and describes it.

    Args:
        name: Of the corpus.
        source: A .deb, a folder of them, or one that they were unpacked or installed into; else apt-get downloads them.
        listener: Told how far it is.

    Raises:
        NestlingError: There is no such corpus, or what it comes in is missing or damaged.
        FailedError: The disk or the network refused.
    """
    there = read_facts(name) is not None
    facts = fetch_recorded(name, source, listener.show, listener.warn)
    if there:
        listener.note(f"{name} was in the cache already; `nestling data remove {name}` makes room for another")
    elif facts.skipped:
        file, reason = facts.skipped[0]
        listener.note(f"files left out: {len(facts.skipped):,}, such as {file}: {reason}")
    return describe_corpus(name)


def remove_corpus(name: str) -> dict[str, Any]:
    """Removes a corpus from the cache.

    Raises:
        NestlingError: There is no such corpus, or it is not in the cache.
        FailedError: The disk refused.
    """
    folder = folder_of(find_corpus(name).name)
    return {"name": name, "folder": str(folder), "freed_bytes": remove_recorded(name)}
