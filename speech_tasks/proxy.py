"""The proxy of the suite: a mix of quick probes that ranks encoders as the suite does, in seconds.

A probe is a task in small. It fits on `train`, chooses its settings there too, scores `search` and can read no other
split, so it may rank subnets in a search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import NestlingError
from search_spaces.identity import fingerprint, hash_code
from search_spaces.nearest_names import suggest
from search_spaces.subnet import SAMPLE_RATE_HZ
from speech_data.corpus import SpeechCorpus, Utterance, Waveform
from speech_tasks.distance_probes import VoiceProbe, WordProbe
from speech_tasks.feature_store import Clip, Encode, FeatureStore, Rendition
from speech_tasks.label_probes import Errors, FrameProbe, LabelProbe, take_each
from speech_tasks.task import Material

SENTENCES, KEYWORDS, COMMANDS, VOICES = "sentences", "keywords", "commands", "voices"
READ = ("train", "search")
"""The splits that a proxy can read."""

NUM_TRAIN, NUM_SEARCH = 250, 120
"""Sentences that a probe is fitted and scored on."""
NUM_TRAIN_COMMANDS, NUM_SEARCH_COMMANDS = 500, 200
"""Commands with an intent."""
NUM_TRAIN_WORDS, NUM_SEARCH_WORDS = 400, 300
"""Keywords, which are short."""
NUM_SPEAKERS, EACH_TRAIN, EACH_KNOWN, EACH_UNSEEN = 88, 4, 1, 5
"""Voices that are known, and how many clips of each kind of voice are read."""
VOICE_SECONDS = 1.6
"""Of a clip whose speaker is asked for, only the beginning is heard."""


class Probe(Protocol):
    """One question to an encoder."""

    name: str
    scored: Sequence[Clip]
    """Clips of `search`."""

    @property
    def clips(self) -> Sequence[Clip]:
        """Everything whose hidden states it will ask for."""

    def errors(self, store: FeatureStore) -> Errors:
        """How wrong the answers are, a number for each scored clip; their mean is a share."""


def _phones(material: Material, scale: float) -> Probe:
    return FrameProbe("phones", *_draw(material, scale))


def _words(material: Material, scale: float) -> Probe:
    return WordProbe("words", *_draw(material, scale))


def _labels(name: str, num_train: int, num_search: int, material: Material, scale: float) -> Probe:
    return LabelProbe(name, lambda u: u.intent, *_draw(material, scale, num_train, num_search))


def _speakers(material: Material, scale: float) -> Probe:
    train, search, known = _draw_voices(material, scale)
    heard = take_each([clip for clip in search if clip.utterance.speaker in known], _share(EACH_KNOWN, scale, 1))
    return LabelProbe("speakers", lambda u: u.speaker, train, heard)


def _verification(material: Material, scale: float) -> Probe:
    train, search, _ = _draw_voices(material, scale)
    known = {utterance.speaker for utterance in material.corpus.utterances("train")}
    unseen = take_each([clip for clip in search if clip.utterance.speaker not in known], _share(EACH_UNSEEN, scale, 2))
    return VoiceProbe("verification", train, unseen)


PROBES: dict[str, tuple[Callable[[Material, float], Probe], str]] = {
    "phones": (_phones, SENTENCES),
    "words": (_words, SENTENCES),
    "intent": (partial(_labels, "intent", NUM_TRAIN_COMMANDS, NUM_SEARCH_COMMANDS), COMMANDS),
    "keywords": (partial(_labels, "keywords", NUM_TRAIN_WORDS, NUM_SEARCH_WORDS), KEYWORDS),
    "speakers": (_speakers, VOICES),
    "verification": (_verification, VOICES),
}
"""Name of a probe -> the probe, and the material it reads."""
DEFAULT_MIX = ("phones", "keywords", "verification")


@dataclass(frozen=True)
class ProxyScore:
    """What the probes say of one encoder."""

    errors: Mapping[str, Errors]
    """By probe, a number for each clip it scored."""
    spent: Mapping[str, Mapping[str, float]]
    """By probe, CPU seconds of this process by what they were spent on; some hidden states serve several probes."""

    @cached_property
    def by_probe(self) -> dict[str, float]:
        """Points of each probe; 100 is perfect."""
        return {name: 100 - 100 * float(errors.mean()) for name, errors in self.errors.items()}

    @property
    def points(self) -> float:
        """The mean of the probes."""
        return float(np.mean(list(self.by_probe.values())))

    @property
    def seconds(self) -> float:
        """CPU seconds of it all."""
        return sum({part: seconds for parts in self.spent.values() for part, seconds in parts.items()}.values())

    @property
    def per_utterance(self) -> NDArray[np.float64]:
        """The errors of all probes, (N,), scaled so that each probe has the same part in the mean, 1 - points / 100."""
        total = sum(map(len, self.errors.values()))
        return np.concatenate([total / len(self.errors) / len(x) * x for x in self.errors.values()])


class Proxy:
    """Probes with their audio: which clips they read is decided here, and is the same for every encoder.

    Args:
        materials: By name, those that the probes read.
        probes: Of `PROBES`.
        scale: Clips over the usual number; a search scores many subnets and takes fewer.

    Raises:
        NestlingError: There is no such probe, a material is missing, or it lacks the labels of a probe.
    """

    def __init__(
        self, materials: Mapping[str, Material], probes: Sequence[str] = DEFAULT_MIX, *, scale: float = 1.0
    ) -> None:
        self.names = find_probes(probes)
        if missing := [name for name in find_probe_materials(self.names) if name not in materials]:
            raise NestlingError(f"the probes {', '.join(self.names)} read {', '.join(missing)} too; give that material")
        self._probes: dict[str, list[Probe]] = {}
        for name in find_probe_materials(self.names):
            material = materials[name]
            heard = replace(material, corpus=_Heard(material.corpus, material.rendition), rendition="clean", other=None)
            self._probes[name] = [PROBES[p][0](heard, scale) for p in self.names if PROBES[p][1] == name]

    def score(self, encode: Encode) -> ProxyScore:
        """Scores one frozen encoder.

        Raises:
            NestlingError: Its frames are not 20 ms apart, or not finite.
        """
        errors: dict[str, Errors] = {}
        spent: dict[str, dict[str, float]] = {}
        for material, probes in self._probes.items():
            began = time.process_time()
            with FeatureStore(encode, (clip for probe in probes for clip in probe.clips)) as store:
                encoded = time.process_time() - began
                for probe in probes:
                    began = time.process_time()
                    errors[probe.name] = probe.errors(store)
                    spent[probe.name] = {probe.name: time.process_time() - began}
            for sharers, share in share_audio(probes).items():
                for name in sharers:
                    spent[name][f"{material} for {' and '.join(sharers)}"] = share * encoded
        return ProxyScore({name: errors[name] for name in self.names}, {name: spent[name] for name in self.names})

    @cached_property
    def num_scores(self) -> int:
        """How many numbers `ProxyScore.per_utterance` has."""
        return sum(len(probe.scored) for probes in self._probes.values() for probe in probes)

    @cached_property
    def seconds_heard(self) -> float:
        """Audio that an encoder has to hear, in seconds."""
        clips = {clip.key: clip for probes in self._probes.values() for probe in probes for clip in probe.clips}
        return sum(clip.num_samples for clip in clips.values()) / SAMPLE_RATE_HZ

    @cached_property
    def fingerprint(self) -> str:
        """Names all that a score depends on besides the encoder: the probes, their code and their clips."""
        clips = [sorted({c.key for p in probes for c in p.clips}) for probes in self._probes.values()]
        return fingerprint(self.names, hash_code(__name__), clips)


def share_audio(probes: Sequence[Probe]) -> dict[tuple[str, ...], float]:
    """Names of the probes that ask for the same clips -> the share of all the audio that these clips are."""
    clips = {clip.key: clip for probe in probes for clip in probe.clips}
    asked = {probe.name: {clip.key for clip in probe.clips} for probe in probes}
    total = sum(clip.num_samples for clip in clips.values())
    shares: dict[tuple[str, ...], float] = {}
    for key, clip in clips.items():
        sharers = tuple(name for name, keys in asked.items() if key in keys)
        shares[sharers] = shares.get(sharers, 0.0) + clip.num_samples / total
    return shares


def find_probes(names: Sequence[str]) -> tuple[str, ...]:
    """The probes of some names, each once, in the order of `PROBES`.

    Raises:
        NestlingError: There is no such probe, or none is named.
    """
    for name in names:
        if name not in PROBES:
            raise NestlingError(f"no probe `{name}`; {suggest(name, PROBES)}")
    if not names:
        raise NestlingError(f"a proxy is made of one probe or more of {', '.join(PROBES)}; got none")
    return tuple(name for name in PROBES if name in names)


def find_probe_materials(names: Sequence[str]) -> list[str]:
    """The materials that probes read, each once."""
    return list(dict.fromkeys(PROBES[name][1] for name in names))


@dataclass
class _Heard:
    """A corpus as encoders hear it, each rendition computed once and kept; it has no splits but those of a proxy."""

    corpus: SpeechCorpus
    rendition: Rendition
    _waves: dict[str, Waveform] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of the corpus."""
        return self.corpus.name

    @property
    def hash(self) -> str:
        """Of the corpus and the rendition."""
        return f"{self.corpus.hash} {self.rendition}"

    @property
    def synthesised(self) -> bool:
        """As the corpus says."""
        return self.corpus.synthesised

    def utterances(self, split: str) -> Sequence[Utterance]:
        """The utterances of a split."""
        if split not in READ:
            raise ValueError(f"a proxy reads {' and '.join(READ)}; it must not read {split!r}")
        return self.corpus.utterances(split)

    def read(self, utterance: Utterance) -> Waveform:
        """The waveform that encoders hear."""
        if utterance.id not in self._waves:
            self._waves[utterance.id] = Clip(self.corpus, utterance, self.rendition).read()
        return self._waves[utterance.id]


def _draw(
    material: Material, scale: float, num_train: int = NUM_TRAIN, num_search: int = NUM_SEARCH
) -> tuple[list[Clip], list[Clip]]:
    """Clips to fit and to score."""
    train, search = (
        material.clips(split, _share(count, scale, 1))
        for split, count in zip(READ, (num_train, num_search), strict=True)
    )
    return train, search


def _draw_voices(material: Material, scale: float) -> tuple[list[Clip], list[Clip], set[str | None]]:
    """Equally many clips of some voices of `train`, all of `search`, and these voices."""
    clips = {split: [_begin(clip) for clip in material.clips(split)] for split in READ}
    known = set(list(dict.fromkeys(map(_speaker, clips["train"])))[:NUM_SPEAKERS])
    train = [clip for clip in clips["train"] if clip.utterance.speaker in known]
    return take_each(train, _share(EACH_TRAIN, scale, 2)), clips["search"], known


def _begin(clip: Clip) -> Clip:
    return replace(clip, max_samples=round(VOICE_SECONDS * SAMPLE_RATE_HZ))


def _speaker(clip: Clip) -> str | None:
    return clip.utterance.speaker


def _share(count: int, scale: float, least: int) -> int:
    """A share of the usual number of clips."""
    return max(least, round(count * scale))
