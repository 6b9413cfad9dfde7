"""Two scores are the same if all that decided them is: content, code, libraries, audio. Nothing else counts."""

from __future__ import annotations

import hashlib
import importlib
import re
import runpy
import struct
import sys
from importlib import metadata
from pathlib import Path

import onnx
import pytest
import torch

from checkpoints.export import write_encoder
from checkpoints.representations import open_representation
from search_spaces.identity import find_release, fingerprint, hash_code
from speech_tasks.phones import Phones
from speech_tasks.provenance import fingerprint_task
from speech_tasks.task import Material
from supernet.encoder import Encoder
from supernet.weights import hash_weights
from tests.code_cases import changed, forget_code, installed_elsewhere
from tests.encoders import randomize
from tests.evaluation_cases import LoudnessTask
from tests.onnx_cases import write_onnx
from tests.speech_cases import FakeCorpus, utterance
from tests.test_representations import KINDS, OURS, write_model

# The code that computes the frames

CHANGES = {
    "nothing": ("supernet/encoder.py", "import", "import"),
    "words": ("speech_data/features.py", '"""', '"""Other words. '),
    "line endings": ("speech_data/features.py", "\n", "\r\n"),
    "mel": ("speech_data/features.py", "import numpy as np", "import numpy as np\n\nSHIFT = 1"),
    "encoder": ("supernet/blocks.py", "import math", "import math\n\nSHIFT = 1"),
    "networks of others": (
        "checkpoints/formats/transformers_models.py",
        "import warnings",
        "import warnings\n\nSHIFT = 1",
    ),
    "session": ("checkpoints/runtimes/onnx_session.py", 'OUTPUT = "', 'SHIFT = 1\nOUTPUT = "'),
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One of every kind that can be evaluated."""
    folder = tmp_path_factory.mktemp("encoders")
    encoder = Encoder(OURS)
    randomize(encoder)
    write_encoder(encoder, folder / "ours")
    write_small_onnx(folder / "model.onnx")
    write_model(folder / "others", KINDS["data2vec"])
    return {
        "log-mel": "log-mel",
        "encoder": str(folder / "ours"),
        "onnx": str(folder / "model.onnx"),
        "others": str(folder / "others"),
    }


def write_small_onnx(path: Path) -> None:
    """As an export's, as far as it is looked at when it is opened."""
    write_onnx(path)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"nestling.format": "1", "parameters": "10", "min_samples": "400"})
    onnx.save(model, path)


@pytest.fixture(scope="module")
def after_changes(encoders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Fingerprints of all encoders where the code is installed elsewhere, after each change of it."""
    folder, found = tmp_path_factory.mktemp("code"), {}
    with installed_elsewhere(folder):
        for change, (file, old, new) in CHANGES.items():
            with changed(folder / file, old, new, -1 if old == "\n" else 1):
                found[change] = open_all(encoders)
    return found


def open_all(encoders: dict[str, str]) -> dict[str, str]:
    """Their fingerprints."""
    return {kind: open_representation(source).fingerprint for kind, source in encoders.items()}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("words", set()),
        ("line endings", set()),
        ("mel", {"log-mel"}),
        ("encoder", {"encoder", "onnx", "others"}),
        ("networks of others", {"others"}),
        ("session", {"onnx"}),
    ],
)
def test_another_code_is_another_encoder(
    after_changes: dict[str, dict[str, str]], change: str, wanted: set[str]
) -> None:
    before, after = after_changes["nothing"], after_changes[change]
    assert {kind for kind in before if before[kind] != after[kind]} == wanted


def test_where_the_code_is_does_not_count(encoders: dict[str, str], after_changes: dict[str, dict[str, str]]) -> None:
    assert open_all(encoders) == after_changes["nothing"]


CODE = """import math


def double(x: float, *, times=2):
    return [x * times, "a"]
"""
OTHER_CODE = {
    "an operator": ("x * times", "x + times"),
    "a name": ("x * times", "x * double"),
    "a constant": ("times=2", "times=3"),
    "a type of constant": ("times=2", "times=2.0"),
    "bytes for text": ('"a"', 'b"a"'),
    "a default": ("times=2", "times"),
    "an import": ("import math", "import cmath"),
}
SAME_CODE = {
    "a remark": ("    return", "    # more\n    return"),
    "a docstring": ("    return", '    """Doubles."""\n    return'),
    "layout": ("x * times, ", "(x\n            * times),"),
    "quotes": ('"a"', "'a'"),
}


@pytest.mark.parametrize("name", [*OTHER_CODE, *SAME_CODE])
def test_what_a_module_does_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In a file of one's own that is no package, too."""

    def hash_of(text: str) -> str:
        (tmp_path / "own_module.py").write_text(text)
        forget_code()
        try:
            return hash_code("own_module")
        except ValueError as error:
            return str(error)

    monkeypatch.syspath_prepend(tmp_path)
    old, new = (OTHER_CODE | SAME_CODE)[name]
    assert old in CODE
    before = hash_of(CODE)
    assert (hash_of(CODE.replace(old, new)) == before) == (name in SAME_CODE)
    assert re.fullmatch("[0-9a-f]{16}", before)


def test_a_task_in_a_script_is_of_the_scripts_code(tmp_path: Path) -> None:
    script = """
from speech_tasks.provenance import fingerprint_task
from tests.evaluation_cases import LoudnessTask
from tests.speech_cases import FakeCorpus, utterance

class Mine(LoudnessTask):
    shift = 1

try:
    found = fingerprint_task(Mine("mine", FakeCorpus({"test": [utterance("a", 4000)]}), "x"))
except ValueError as error:
    found = str(error)
"""

    def print_of(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        forget_code()
        return str(runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")["found"])

    before = print_of(script)
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert print_of(script.replace("shift = 1", "shift = 2")) != before == print_of(script + "\n# more")
    forget_code()


def test_a_fingerprint_is_of_values_in_whatever_order_their_keys_come() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})


def test_code_that_is_in_no_file_is_named() -> None:
    for module in ("search_spaces.nothing", "nothing", "sys", "json.nothing.more"):
        with pytest.raises(ValueError, match=f"the code of {module} is in no file"):
            hash_code(module)


# The libraries that compute with it


@pytest.mark.parametrize(
    ("library", "wanted"),
    [
        ("torch", {"log-mel", "encoder", "onnx", "others"}),
        ("onnxruntime", {"onnx"}),
        ("transformers", {"others"}),
        ("rich", set()),
    ],
)
def test_a_feature_release_counts_and_a_patch_does_not(
    encoders: dict[str, str], monkeypatch: pytest.MonkeyPatch, library: str, wanted: set[str]
) -> None:
    def kinds_changed_by(version: str) -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(importlib.import_module(library), "__version__", version, raising=False)
            return {kind for kind, found in open_all(encoders).items() if found != now[kind]}

    now = open_all(encoders)
    release = ".".join(metadata.version(library).split("+")[0].split(".")[:2])
    assert kinds_changed_by(f"{release}.99+cu129") == set()
    assert kinds_changed_by("99.1.0") == wanted


def test_releases_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, distribution in (("rapidfuzz", "rapidfuzz"), ("sklearn", "scikit-learn")):
        monkeypatch.delitem(sys.modules, name, raising=False)
        assert find_release(name) == ".".join(metadata.version(distribution).split(".")[:2])
    assert find_release("nothing_of_that_name") is None


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("search_spaces.strict_yaml", ("json", "yaml", "pydantic")),
        ("speech_data.corpus", ("platformdirs",)),
        ("checkpoints.teachers", ("huggingface_hub",)),
    ],
)
def test_libraries_that_compute_nothing_do_not_count(
    monkeypatch: pytest.MonkeyPatch, module: str, libraries: tuple[str, ...]
) -> None:
    before = hash_code(module)
    for library in libraries:
        monkeypatch.setattr(f"{library}.__version__", "99.1")
    assert hash_code(module) == before


def test_a_task_is_of_the_libraries_it_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    task = LoudnessTask("keywords", FakeCorpus({"test": [utterance("a", 4000)]}, name="some", hash="1"), "KS accuracy")
    before = fingerprint_task(task)
    monkeypatch.setattr("numpy.__version__", "99.1.0")
    assert fingerprint_task(task) != before


def test_phones_that_espeak_reads_are_of_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of LibriSpeech, say, where no phones came with the text; another release reads otherwise."""
    corpus = FakeCorpus({split: [utterance(split, 4000, text="one")] for split in ("train", "search", "test")})
    task = Phones(Material(corpus))
    before = fingerprint_task(task)
    monkeypatch.setattr(importlib.import_module("espeakng_loader"), "__version__", "99.1.0", raising=False)
    assert fingerprint_task(task) != before


def test_weights_are_hashed_to_the_bit_in_whatever_order_they_come() -> None:
    kept = {"b": torch.tensor([[1.0], [2.0]]), "a": torch.tensor([3, 4], dtype=torch.int16)}
    wanted = b"a torch.int16 [2]\n\x03\x00\x04\x00b torch.float32 [2, 1]\n" + struct.pack("<2f", 1, 2)
    assert hash_weights(kept) == hashlib.sha256(wanted).hexdigest()[:16]
    assert hash_weights(dict(reversed(kept.items()))) == hash_weights(kept)
    turned = {**kept, "b": torch.tensor([[1.0, 2.0]]).T.requires_grad_()}  # another order in memory
    assert hash_weights(turned) == hash_weights(kept)
