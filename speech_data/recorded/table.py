"""The recorded corpora that have a name: packages of Debian, what they hold, and under which licences. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest


@dataclass(frozen=True)
class Package:
    """One version of a package, and what is wanted of it."""

    name: str
    version: str
    num_bytes: int
    """Of the .deb."""
    sha256: str
    """Of the .deb."""
    contents: str
    """Of what is wanted, by `packages.hash_contents`: a distribution that builds the package anew keeps it."""
    home: str
    """A folder in the package."""
    wanted: tuple[str, ...]
    """Patterns of the files that are wanted, below `home`; a star stands for any characters, slashes too."""


@dataclass(frozen=True)
class NamedCorpus:
    """A recorded corpus, as that version has it."""

    name: str
    about: str
    packages: tuple[Package, ...]
    licences: Mapping[str, str]
    """Licence -> the languages that are under it; none stands for all."""
    languages: tuple[str, ...]
    num_recordings: int
    hours: float
    num_speakers: int
    """As far as is known: where nobody says who speaks, a language counts as one speaker."""
    num_phones: int = 0
    """With their times."""
    teaches: tuple[str, ...] | None = None
    """Languages that encoders may learn from; None is all of them. Others are for evaluation alone."""
    module: str | None = None
    """What decodes it, beyond libsndfile."""

    @property
    def num_bytes(self) -> int:
        """Of all packages, to be downloaded."""
        return sum(package.num_bytes for package in self.packages)

    @property
    def held_out(self) -> tuple[str, ...]:
        """Languages that no encoder learns from."""
        return tuple(language for language in self.languages if not self.may_teach(language))

    def may_teach(self, language: str | None) -> bool:
        """Whether encoders may learn from what is said in a language."""
        return self.teaches is None or language in self.teaches


LANGUAGES = ("en", "fr", "es", "it", "ru")
"""Of the prompts of Asterisk."""
_PROMPTS = (
    Package(
        "asterisk-core-sounds-en-g722",
        "1.6.1-1",
        10_565_860,
        "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806",
        "eaee88965b0dfaa39c6ad56dec468d564c8a89f059d2bb393968e846a3792580",
        "usr/share/asterisk/sounds",
        ("*.g722",),
    ),
    Package(
        "asterisk-core-sounds-en",
        "1.6.1-1",
        22_844,
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50",
        "5f5b0e393a1e41e903c3eca9ccff989d5f0f0bbdefbc1ec42b10669bc76dae59",
        "usr/share/doc/asterisk-core-sounds-en",
        ("core-sounds-en.txt.gz",),
    ),
    Package(
        "asterisk-core-sounds-fr-g722",
        "1.6.1-1",
        10_822_860,
        "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0",
        "25da2c52015cb4c4e73cbdd5b61acf2c4df143f6a9e6808251eb3b8c5520fb46",
        "usr/share/asterisk/sounds",
        ("*.g722",),
    ),
    Package(
        "asterisk-core-sounds-fr",
        "1.6.1-1",
        23_152,
        "04c82c78c570c43a7136cbc5e2488d0c470b775468dff9fbce4a131b18cf1056",
        "b22cb11131655cdc35ef344f3eb55fecb8f0d9ff6ed1179ccf02942719bb1813",
        "usr/share/doc/asterisk-core-sounds-fr",
        ("core-sounds-fr.txt.gz",),
    ),
    Package(
        "asterisk-core-sounds-es-g722",
        "1.6.1-1",
        13_048_380,
        "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8",
        "da6a4851aa0b45fac9fdfcce85e2c79d0979d490e0f58d418432183d76aec75a",
        "usr/share/asterisk/sounds",
        ("*.g722",),
    ),
    Package(
        "asterisk-core-sounds-es",
        "1.6.1-1",
        22_012,
        "9afdab7f559f036649fb406e625899306ca1004df8ebe39c30bfbd5912d66f74",
        "5c89e1a14902c190cda0ec5e7f61656822c4954c0b8ef7254db595340a0935bd",
        "usr/share/doc/asterisk-core-sounds-es",
        ("core-sounds-es.txt.gz",),
    ),
    Package(
        "asterisk-core-sounds-it-g722",
        "1.6.1-1",
        10_087_176,
        "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016",
        "bb92f34777e0fd661c39743efd37baa1f69c42cb6cef1cc721e31541c0ea2fbd",
        "usr/share/asterisk/sounds",
        ("*.g722",),
    ),
    Package(
        "asterisk-core-sounds-it",
        "1.6.1-1",
        23_972,
        "3884d9457e12f21caa018c18f0d587df5d53ebea14b673d8453a134c5941ab3b",
        "937ddbaff30f7f447a6b170cc4e5198754e4445a0713957cc5dd6ebda5e4db20",
        "usr/share/doc/asterisk-core-sounds-it",
        ("core-sounds-it.txt.gz",),
    ),
    Package(
        "asterisk-core-sounds-ru-g722",
        "1.6.1-1",
        10_579_440,
        "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b",
        "38476557881441021c451b2e29c8ad00ecece13ea86accc05ceb49acb5b1ace9",
        "usr/share/asterisk/sounds",
        ("*.g722",),
    ),
    Package(
        "asterisk-core-sounds-ru",
        "1.6.1-1",
        25_592,
        "28a61616bb0cd3345a7ea532dec4df9f071e5d0fa9f8c1a563ea9669002f39ab",
        "1b9afb0c7f146877950325158f23120b8b35e1d7f667068387b9578706b74c89",
        "usr/share/doc/asterisk-core-sounds-ru",
        ("core-sounds-ru.txt.gz",),
    ),
)

CORPORA: dict[str, NamedCorpus] = {
    corpus.name: corpus
    for corpus in (
        NamedCorpus(
            name="festvox-ru",
            about="sentences read by a man, with timed phones",
            packages=(
                Package(
                    "festvox-ru",
                    "0.5+dfsg-6",
                    178_728_512,
                    "21ef3f0f2978ecf2e2eddb367cb0ff4a72572196d28dc69feb84f4177af5e6c4",
                    "7b8fe7faea59565feb2ce0596ef50cd974be5a7a5975a8c8ac11aaf64bf801dd",
                    "usr/share/festival/voices/russian/msu_ru_nsh_clunits",
                    (
                        "wav/*.wav",
                        "lab/*.lab",
                        "etc/txt.done.data",
                    ),
                ),
            ),
            licences={"BSD-like": ""},
            languages=("ru",),
            num_recordings=620,
            hours=1.66,
            num_speakers=1,
            num_phones=53_987,
        ),
        NamedCorpus(
            name="asterisk",
            about="prompts of a telephone exchange, as they are spoken",
            packages=_PROMPTS,
            licences={"CC BY-SA 3.0": "en fr es", "CC BY 3.0": "it ru"},
            languages=LANGUAGES,
            num_recordings=2_745,
            hours=2.08,
            num_speakers=5,
            teaches=("it", "ru"),
            module="av",
        ),
        NamedCorpus(
            name="tuxpaint",
            about="descriptions of pictures, in a few words",
            packages=(
                Package(
                    "tuxpaint-stamps-default",
                    "2022.06.04-1",
                    160_880_444,
                    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
                    "e32bdeb270ba98a47a8b70534b5a9d43b3d5e6c24a37d73c4759e579b7ab042a",
                    "usr/share/tuxpaint/stamps",
                    (
                        "*_desc*.ogg",
                        "*_desc*.wav",
                        "*.txt",
                    ),
                ),
            ),
            licences={"GPL-2": ""},
            languages=(
                "be",
                "bg",
                "ca",
                "da",
                "el",
                "en",
                "es",
                "fr",
                "lt",
                "ml",
                "nl",
                "pt_BR",
                "ro",
                "ru",
            ),
            num_recordings=6_333,
            hours=2.59,
            num_speakers=14,
            teaches=(),
        ),
        NamedCorpus(
            name="ktuberling",
            about="things, called by their names; nobody wrote the words down",
            packages=(
                Package(
                    "ktuberling-data",
                    "4:22.12.3-1",
                    46_661_752,
                    "fba44c875bfa31ea488dadd9263e87a4dcaea0bd47d28817f6c0dc6d2af970ed",
                    "c1047903dd4ef6e85058ba46df7d648f1b7f373d5898100c03fdb5db22b8b8e2",
                    "usr/share/ktuberling/sounds",
                    (
                        "*.ogg",
                        "*.opus",
                        "*.wav",
                        "*.soundtheme",
                    ),
                ),
            ),
            licences={"GPL-2+": ""},
            languages=(
                "ca",
                "da",
                "de",
                "el",
                "en",
                "es",
                "fi",
                "fr",
                "ga",
                "gl",
                "it",
                "lt",
                "nds",
                "nl",
                "nn",
                "pt",
                "ro",
                "ru",
                "sl",
                "sr",
                "sv",
                "uk",
                "wa",
            ),
            num_recordings=1_820,
            hours=0.52,
            num_speakers=23,
        ),
        NamedCorpus(
            name="klettres",
            about="letters and syllables",
            packages=(
                Package(
                    "klettres-data",
                    "4:22.12.3-1",
                    39_529_084,
                    "1186d257a19e84230856baea0b0b1ded8be9195080fcdb2588970b5cd937f5a8",
                    "d8cdf39f3f02a33920b33487fbc50a8df3a6a34307aa405d767f1f5668c65c2e",
                    "usr/share/klettres",
                    (
                        "*.ogg",
                        "*/sounds.xml",
                    ),
                ),
            ),
            licences={"GPL-2+": ""},
            languages=(
                "ar",
                "cs",
                "da",
                "de",
                "en",
                "en_GB",
                "es",
                "fr",
                "he",
                "hu",
                "it",
                "lt",
                "ml",
                "nb",
                "nds",
                "nl",
                "pt_BR",
                "ru",
                "tn",
                "uk",
            ),
            num_recordings=1_834,
            hours=0.85,
            num_speakers=20,
        ),
    )
}
"""What `nestling data` lists, by name."""


def find_corpus(name: str) -> NamedCorpus:
    """The corpus of a name.

    Raises:
        NestlingError: There is none.
    """
    if name not in CORPORA:
        raise NestlingError(f"no recorded corpus is called {name}: {suggest(name, CORPORA)}")
    return CORPORA[name]
