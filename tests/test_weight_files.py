"""Files of others give their tensors and nothing else; whatever is wrong with one is said in a line."""

from __future__ import annotations

import argparse
import collections
import enum
import io
import json
import os
import sys
import typing
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import HubertModel

import checkpoints.formats.stand_ins
import checkpoints.formats.weight_files
from checkpoints.formats.stand_ins import StandIn, WeightFileError, plain
from checkpoints.formats.weight_files import read_checkpoint, read_folder_weights, read_safetensors
from checkpoints.representations import open_representation
from checkpoints.teachers import load_encoder
from tests.encoders import make_encoder, make_model

LEGACY = {"zip": False, "legacy": True}


@pytest.fixture(params=LEGACY)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Any], Path]:
    """`torch.save` to a file, in the format of today and in that of before 1.6."""

    def write(value: Any) -> Path:
        path = tmp_path / f"{request.param}.pt"
        torch.save(value, path, _use_new_zipfile_serialization=not LEGACY[request.param])
        return path

    return write


def refusal(path: Path, read: Callable[[Path], Any] = read_checkpoint) -> str:
    with pytest.raises(WeightFileError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) <= 600
    assert len(message.splitlines()) == 1
    return message


# Checkpoints of others, with classes that are not here


class DictConfig:
    """As omegaconf pickles one: its parts point at their parents, and the metadata name classes."""

    def __init__(self, metadata: Any, content: Any, parent: Any = None) -> None:
        self.__dict__.update(_metadata=metadata, _parent=parent, _content=content)

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("a class of the file was used")


class ListConfig(DictConfig):
    pass


class AnyNode:
    def __init__(self, metadata: Any, value: Any, parent: Any) -> None:
        self.__dict__.update(_metadata=metadata, _parent=parent, _val=value)


class EnumNode(AnyNode):
    pass


class Metadata:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class ContainerMetadata(Metadata):
    pass


class HubertPretrainingConfig:
    pass


class Dictionary:
    def __init__(self, symbols: list[str]) -> None:
        self.symbols, self.indices = symbols, {symbol: i for i, symbol in enumerate(symbols)}


class Choices(enum.Enum):
    dynamic = "dynamic"

    def __reduce_ex__(self, _: object) -> tuple[type[Choices], tuple[Any]]:
        """As pickles have it, but for those of Python 3.11.0 to 3.11.3."""
        return type(self), (self.value,)


FOREIGN = {
    "omegaconf.dictconfig": (DictConfig,),
    "omegaconf.listconfig": (ListConfig,),
    "omegaconf.nodes": (AnyNode, EnumNode),
    "omegaconf.base": (Metadata, ContainerMetadata),
    "fairseq.tasks.hubert_pretraining": (HubertPretrainingConfig,),
    "fairseq.data.dictionary": (Dictionary,),
    "fairseq.dataclass.constants": (Choices,),
}


@contextmanager
def foreign_modules() -> Iterator[None]:
    """The classes above under their real names, as long as a file is written."""
    with pytest.MonkeyPatch.context() as patch:
        for name, classes in FOREIGN.items():
            parts = name.split(".")
            for i in range(1, len(parts) + 1):
                patch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
            for cls in classes:
                patch.setattr(cls, "__module__", name)
                setattr(sys.modules[name], cls.__name__, cls)
        yield


def make_config() -> DictConfig:
    node = Metadata(ref_type=typing.Any, object_type=type(None), optional=True, key=None, flags={})
    cache: Any = collections.defaultdict(dict)
    cache["x"]["y"] = 1
    known = ContainerMetadata(
        ref_type=HubertPretrainingConfig, object_type=dict, key_type=str, element_type=int | None, resolver_cache=cache
    )
    known.element_type = typing.Optional[int]  # noqa: UP045 - that is how it is pickled
    config = DictConfig(known, {})
    inner = DictConfig(known, {}, config)
    items = ListConfig(known, [], inner)
    items.__dict__["_content"] += [AnyNode(node, 0.9, items), AnyNode(node, "0.98", items)]
    inner.__dict__["_content"] |= {"betas": items, "none": DictConfig(known, None, inner)}
    config.__dict__["_content"] |= {
        "_name": AnyNode(node, "hubert", config),
        "layers": AnyNode(node, 12, config),
        "lr": AnyNode(node, 5e-4, config),
        "dropout": AnyNode(node, False, config),
        "format": EnumNode(node, Choices.dynamic, config),
        "optimizer": inner,
    }
    return config


def make_checkpoint() -> dict[str, Any]:
    """What fairseq writes: of an older version, with everything that it has pickled over the years."""
    weights = collections.OrderedDict(
        {"mask_emb": torch.randn(4), "half": torch.randn(3, 2).half(), "count": torch.tensor(7)}
    )
    weights["tied"] = weights["mask_emb"]
    weights["part"] = torch.arange(12.0).view(3, 4).t()[1:]
    weights._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return {
        "args": argparse.Namespace(arch="hubert_base", lr=[0.0005], no_progress_bar=None, dtype=torch.float16),
        "cfg": make_config(),
        "model": weights,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "optimizer_history": [
            {"best_loss": np.float64(2.5), "num_updates": np.int64(400_000), "is_best": np.bool_(True)},
            {"best_loss": np.float32(-0.25), "seen": {"train", "valid"}, "shape": torch.Size([2, 3])},
        ],
        "task_state": {"dictionaries": [Dictionary(["<s>", "<pad>", "7"])]},
    }


def assert_equal_weights(got: Any, wanted: Any) -> None:
    assert list(got) == list(wanted)
    for name, weight in wanted.items():
        assert got[name].dtype == weight.dtype
        assert torch.equal(got[name], weight)


def test_checkpoints_of_fairseq_without_fairseq(save: Callable[[Any], Path]) -> None:
    with foreign_modules():
        checkpoint = make_checkpoint()
        path = save(checkpoint)
    assert "omegaconf" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)
    found = read_checkpoint(path)
    assert_equal_weights(found["model"], checkpoint["model"])
    assert isinstance(found["cfg"], StandIn)
    values = plain({name: value for name, value in found.items() if name not in ("model", "parameter")})
    assert values == {
        "args": {"arch": "hubert_base", "lr": [0.0005], "no_progress_bar": None, "dtype": "torch.float16"},
        "cfg": {
            "_name": "hubert",
            "layers": 12,
            "lr": 5e-4,
            "dropout": False,
            "format": "dynamic",
            "optimizer": {"betas": [0.9, "0.98"], "none": None},
        },
        "optimizer_history": [
            {"best_loss": 2.5, "num_updates": 400_000, "is_best": True},
            {"best_loss": -0.25, "seen": ["train", "valid"], "shape": [2, 3]},
        ],
        "task_state": {"dictionaries": [{"symbols": ["<s>", "<pad>", "7"], "indices": {"<s>": 0, "<pad>": 1, "7": 2}}]},
    }
    assert json.loads(json.dumps(values)) == values
    metadata = plain(found["cfg"].state["_metadata"])
    assert metadata["ref_type"] == "fairseq.tasks.hubert_pretraining.HubertPretrainingConfig"
    assert metadata["object_type"] == "builtins.dict"
    assert metadata["resolver_cache"] == {"x": {"y": 1}}


def test_classes_that_are_here_are_not_used_either(save: Callable[[Any], Path]) -> None:
    registered = set(torch.serialization.get_safe_globals())
    with foreign_modules():
        path = save({"cfg": make_config()})
        with torch.serialization.safe_globals([DictConfig]):
            assert type(read_checkpoint(path)["cfg"]) is not DictConfig  # its __setstate__ would have raised
            assert DictConfig in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == registered


def test_classes_that_others_registered_are_not_used(save: Callable[[Any], Path]) -> None:
    """One of each pair with a name comes last and is taken, which one nobody knows: so many of them."""
    names = [(type("Namespace", (), {}), "argparse.Namespace") for _ in range(50)]
    path = save({"args": argparse.Namespace(lr=1)})
    with torch.serialization.safe_globals(names):
        assert isinstance(read_checkpoint(path)["args"], StandIn)
        assert set(names) <= set(torch.serialization.get_safe_globals())


def test_plain_state_dicts(save: Callable[[Any], Path]) -> None:
    weights = {"a": torch.randn(3, 2), "b": torch.zeros(0, 4), "c": torch.tensor(True), "d": torch.ones(2).bfloat16()}
    assert_equal_weights(read_checkpoint(save(weights)), weights)


ARRAYS = {
    "0-d": np.array(1.5),
    "1-d": np.array([1.0, -2.0], np.float32),
    "by column": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "truth": np.array([[True, False]]),
    "halves": np.array([0.5, np.inf], np.float16),
    "none": np.zeros((3, 0, 2)),
    "cut": np.arange(10)[::3],
    "state of a generator": np.random.RandomState(0).get_state(legacy=False)["state"]["key"],
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("core", ["core", "_core"])
def test_arrays_of_numpy_are_numbers(save: Callable[[Any], Path], name: str, core: str) -> None:
    """As fairseq's meters and everybody's random states have them, of numpy 1 and 2."""
    array = ARRAYS[name]
    state = {"x": [array, np.float64(0.5), {"y": array}], "w": torch.ones(2)}
    path = save(state)
    data = path.read_bytes()
    if core == "core" and b"numpy._core" in data:  # of a zip archive the checksum would not fit any more
        path = write_zip(path, zip_pickle(path, state).replace(b"numpy._core", b"numpy.core"))
    try:
        found = plain(read_checkpoint(path))["x"]
    except WeightFileError as error:
        found = str(error)
    wanted = [] if not array.size else array.tolist()
    assert found == [wanted, 0.5, {"y": wanted}]


def zip_pickle(path: Path, state: Any) -> bytes:
    """The pickle alone, of plain values."""
    del state["w"]
    torch.save(state, path, _use_new_zipfile_serialization=True)
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def test_other_arrays_of_numpy_are_named(save: Callable[[Any], Path]) -> None:
    for array in (np.array(["a", "bc"]), np.array([1 + 2j]), np.array([1, None], object), np.zeros(2, "i4,f8")):
        try:
            found = plain(read_checkpoint(save({"x": array})))
        except WeightFileError as error:
            found = str(error)
        assert found == {"x": "numpy.ndarray"}


def test_arrays_that_are_not_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that bytes do not fill, that would have endless empty lists, and bytes that are used over and over."""

    def write(shape: bytes, data: bytes = b"U\x08" + 8 * b"a", times: int = 1) -> Path:
        make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR"
        kind = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR"
        raw = b"c_codecs\nencode\n(X\x08\x00\x00\x00aaaaaaaaX\x06\x00\x00\x00latin1tRq\x01" if data else b""
        first = make + b"(K\x01" + shape + kind + b"\x89" + (raw or b"c_codecs\nencode\n(X\x00\x00\x00\x00tR") + b"tb"
        again = make + b"(K\x01" + shape + kind + b"\x89h\x01tb"
        return write_zip(tmp_path / "x.pt", b"\x80\x02](" + first + (times - 1) * again + b"e.", **{"data/0": b"1234"})

    one = np.frombuffer(b"a" * 8, "f8")[0].item()
    huge = b"\x8a\x06" + (2**40).to_bytes(6, "little")  # LONG1

    def said_of(path: Path) -> Any:
        try:
            return plain(read_checkpoint(path))
        except WeightFileError as error:
            return str(error)

    assert said_of(write(b"K\x01\x85")) == [[one]]
    assert said_of(write(b"K\x02\x85")) == ["numpy.ndarray"]
    assert said_of(write(huge + b"\x85")) == ["numpy.ndarray"]
    assert said_of(write(huge + b"K\x00\x86", b"")) == [[]]
    assert said_of(write(b"(" + 40 * b"K\x01" + b"t")) == ["numpy.ndarray"]
    assert said_of(write(b"X\x01\x00\x00\x00a\x85")) == ["numpy.ndarray"]
    monkeypatch.setattr(checkpoints.formats.stand_ins, "MAX_VALUES", 1000)
    assert said_of(write(b"K\x01\x85", times=300)) == [[one]] * 300
    assert "nested too deeply, or without end" in said_of(write(b"K\x01\x85", times=600))


def test_what_is_no_configuration_is_named(save: Callable[[Any], Path]) -> None:
    with warnings.catch_warnings(action="ignore"):  # these storages are on their way out
        path = save({"storage": torch.FloatStorage([1, 2]), "device": torch.device("cpu"), "kind": torch.int8})
    assert plain(read_checkpoint(path)) == {"storage": "TypedStorage", "device": "cpu", "kind": "torch.int8"}


def test_configurations_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_out(value: Any) -> None:
        torch.save({"w": torch.ones(1), "x": value}, tmp_path / "x.pt")
        with pytest.raises(WeightFileError, match="nested too deeply, or without end"):
            plain(read_checkpoint(tmp_path / "x.pt"))

    ring: list[Any] = []
    ring.append(ring)
    write_out(ring)
    deep: list[Any] = []
    for _ in range(150):
        deep = [deep]
    write_out(deep)
    monkeypatch.setattr(checkpoints.formats.stand_ins, "MAX_VALUES", 10_000)
    doubled: list[Any] = [1]
    for _ in range(40):
        doubled = [doubled, doubled]
    write_out(doubled)


# Code


class Gadget:
    """Calls a function when it is unpickled without care."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class Setter:
    """Has its `__setstate__` called instead."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["path"].touch()


GADGETS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "system": (f"{os.name}.system", lambda path: Gadget(os.system, f"touch {path}")),
    "eval": ("builtins.eval", lambda path: Gadget(eval, f"open({str(path)!r}, 'w').close()")),
    "exec": ("builtins.exec", lambda path: Gadget(exec, f"open({str(path)!r}, 'w').close()")),
    "method": ("builtins.getattr", lambda path: Gadget(Path.touch, path)),
    "open": ("io.open", lambda path: Gadget(open, str(path), "w")),
    "setstate": ("tests.test_weight_files.Setter", Setter),
}


@pytest.mark.parametrize("gadget", GADGETS)
def test_code_is_named_and_not_run(save: Callable[[Any], Path], tmp_path: Path, gadget: str) -> None:
    name, make = GADGETS[gadget]
    canary = tmp_path / "canary"
    for wrap in (
        lambda evil: evil,
        lambda evil: {"weight": torch.ones(2), "x": evil},
        lambda evil: {"model": {}, "task_state": {"dictionaries": [{"deep": ((("in",), [[evil]]),)}]}},
        lambda evil: {"args": argparse.Namespace(lr=1, hook=evil)},
        lambda evil: {"model": collections.OrderedDict(w=torch.ones(1)), "history": [{1: {2: {3: evil}}}]},
    ):
        path = save(wrap(make(canary)))
        message = refusal(path)
        assert "is refused: it holds more than tensors and their configuration. It names " in message
        assert name in message
        assert "that is code, and nothing in a file is ever run" in message
        assert not canary.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `open` leaves a file open
        torch.load(path, weights_only=False)
    assert canary.exists()  # the gadget works


def test_code_inside_a_checkpoint_of_fairseq(save: Callable[[Any], Path], tmp_path: Path) -> None:
    with foreign_modules():
        checkpoint = make_checkpoint()
        content = checkpoint["cfg"].__dict__["_content"]["optimizer"].__dict__["_content"]
        content["betas"].__dict__["_content"].append(Gadget(os.system, f"touch {tmp_path / 'canary'}"))
        path = save(checkpoint)
    assert f"It names {os.name}.system: that is code" in refusal(path)
    assert not (tmp_path / "canary").exists()


def test_names_are_cut_and_escaped(tmp_path: Path) -> None:
    names = b"".join(b"c" + name + b"\n0" for name in (b"a\nb\x1b[2J", b"x" * 500 + b"\ny", b"c\nd", b"e\nf"))
    message = refusal(write_zip(tmp_path / "x.pt", b"\x80\x02" + names.replace(b"\n0", b"\n") + b"."))
    assert message.isprintable()
    assert "and 1 more" in message
    for line in (b"cbuiltins os\nsystem\n", b"cos\nsystem extra\n"):
        assert "is code" in refusal(write_zip(tmp_path / "x.pt", b"\x80\x02" + line + b")R."))


def write_zip(path: Path, pickle: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle)
        for name, data in {"version": b"3\n", "byteorder": b"little", **members}.items():
            archive.writestr(f"x/{name}", data)
    return path


# Files that are no honest checkpoints


def test_tensors_that_are_not_dense(save: Callable[[Any], Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are in a beta state
        tensors = [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()]
        tensors.append(torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    for tensor in tensors:
        path = save({"deep": [{"weight": tensor}]})
        assert "it holds more than tensors that are dense: torch." in refusal(path)


def test_tensors_larger_than_their_file(save: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for tensor in (torch.ones(1).expand(10**12), torch.ones(5, 1).expand(5, 2), torch.arange(9.0).unfold(0, 5, 1)):
        path = save({"deep": [{"weight": tensor}]})
        assert f"a tensor of shape {list(tensor.shape)} repeats its numbers, or claims more" in refusal(path)
    shared = torch.ones(1000)
    path = save([shared[:] for _ in range(60)])
    assert len(read_checkpoint(path)) == 60
    monkeypatch.setattr(checkpoints.formats.weight_files, "MAX_SHARING", 10)
    assert "or claims more than the file's" in refusal(path)


def test_numbers_that_are_not_in_the_file(tmp_path: Path) -> None:
    for legacy in LEGACY.values():
        buffer = io.BytesIO()
        torch.save({"a": torch.arange(10.0)}, buffer, _use_new_zipfile_serialization=not legacy)
        path = tmp_path / "x.pt"
        if legacy:
            path.write_bytes(buffer.getvalue().replace(b"K\x0a", b"M\xe8\x03"))
        else:
            archive = zipfile.ZipFile(buffer)
            data = archive.read("archive/data.pkl")
            assert data.count(b"K\x0a") == 2  # of the storage, and of the shape
            write_zip(path, data.replace(b"K\x0a", b"M\xe8\x03"), **{"data/0": archive.read("archive/data/0")})
        assert "is damaged, or not what torch.save writes" in refusal(path)


def rewrite(path: Path, change: Callable[[zipfile.ZipInfo, bytes], Any], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip archive again, with `change` of its members (`root/name`); None leaves one out."""
    source = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member in source.infolist():
            changed = change(member, source.read(member))
            for name, data in changed if isinstance(changed, list) else [(member.filename, changed)]:
                if data is not None:
                    with warnings.catch_warnings(action="ignore"):  # of two members of one name
                        archive.writestr(name, data)
    return path


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    def fresh() -> Path:
        torch.save({"a": torch.zeros(4000)}, tmp_path / "x.pt")
        return tmp_path / "x.pt"

    assert read_checkpoint(rewrite(fresh(), lambda _, data: data))["a"].shape == (4000,)
    packed = rewrite(fresh(), lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "its member 'x/data.pkl' is compressed" in refusal(packed)
    bomb = write_zip(tmp_path / "x.pt", b"\x80\x02N.")
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/0", bytes(50_000_000))
    assert bomb.stat().st_size < 100_000
    assert "its member 'x/data/0' is compressed" in refusal(bomb)
    twice = rewrite(fresh(), lambda m, data: [(m.filename, data)] * (1 + m.filename.endswith(".pkl")))
    assert "two of its members have one name" in refusal(twice)
    both = rewrite(fresh(), lambda m, data: [(m.filename, data), (m.filename.upper(), data)])
    assert "two of its members have one name" in refusal(both)
    script = rewrite(
        fresh(), lambda m, data: [(m.filename, data), ("x/constants.pkl", data)][: 1 + ("0" in m.filename)]
    )
    assert "it is a TorchScript program, which is code" in refusal(script)
    other = rewrite(fresh(), lambda m, data: None if m.filename.endswith(".pkl") else data)
    assert "is a zip archive, but no checkpoint that torch.save writes" in refusal(other)
    roots = rewrite(fresh(), lambda m, data: [(m.filename.replace("x/data/", "../data/"), data)])
    assert "is a zip archive, but no checkpoint that torch.save writes" in refusal(roots)
    torch.serialization.set_crc32_options(False)
    try:
        assert "has no checksums; save it again without torch's set_crc32_options(False)" in refusal(fresh())
    finally:
        torch.serialization.set_crc32_options(True)


def test_archives_that_two_readers_could_see_differently(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(40)}, path)
    good = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = good[-22:]  # an end within the end
    assert "is no whole zip archive" in refusal(path)
    for data, message in {
        good + b"\0": "begins as a zip archive and does not end as one",
        good + good[-22:]: "is no whole zip archive",
        good[:4] + good: "its archive does not begin where the file does",
    }.items():
        path.write_bytes(data)
        assert message in refusal(path)
    start = good.index(b"PK\x01\x02")
    size = int.from_bytes(good[start + 20 : start + 24], "little")
    stretched = (size + 500).to_bytes(4, "little")
    path.write_bytes(good[: start + 20] + stretched * 2 + good[start + 28 :])
    assert "its member 'x/data.pkl' overlaps another" in refusal(path)


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(400)}, tmp_path / "x.pt")
    data = bytearray((tmp_path / "x.pt").read_bytes())
    place = data.index(bytes(1600)) + 1000
    data[place] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    assert torch.load(tmp_path / "x.pt", weights_only=True)["a"].any()  # torch itself does not see it
    assert "is damaged: 'x/data/0' does not match its checksum" in refusal(tmp_path / "x.pt")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b"\x80\x02}" + b")" + b"\x85" * 600_000 + b"K\x01s."  # as a key, it would crash Python
    assert "it nests tuples more than 100 deep" in refusal(write_zip(tmp_path / "x.pt", deep))
    torch.save({"a": torch.ones(9)}, tmp_path / "x.pt")
    monkeypatch.setattr(checkpoints.formats.weight_files, "MAX_PICKLE_BYTES", 50)
    assert "bytes of it are no tensors, and at most 50" in refusal(tmp_path / "x.pt")
    torch.save({"a": torch.ones(9)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert "over 50 bytes of it are no tensors" in refusal(tmp_path / "x.pt")
    monkeypatch.setattr(checkpoints.formats.weight_files, "MAX_FILE_BYTES", 100)
    assert "bytes, and at most 100" in refusal(tmp_path / "x.pt")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    assert "there is no file" in refusal(path)
    assert "there is no file" in refusal(tmp_path)
    for data, message in {
        b"": "is truncated: it is empty",
        b"\x80\x02": "is truncated: 2 bytes are left of it",
        b"<!DOCTYPE html>": "is no checkpoint that torch.save writes",
        b"version https://git-lfs.github.com/spec/v1\noid": "but a pointer of Git LFS: fetch the file itself with",
        b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix": "is no checkpoint that torch.save writes, but a bare pickle",
        b"PK\x03\x04 and so on": "begins as a zip archive and does not end as one",
        safetensors.torch.save({"a": torch.ones(1)}): "is no checkpoint that torch.save writes",
    }.items():
        path.write_bytes(data)
        assert message in refusal(path)
    torch.save({"a": 1}, path, pickle_protocol=4)
    assert "has pickle protocol 4; only that of torch.save, 2, is read" in refusal(path)
    assert "it has the opcode UNICODE" in refusal(write_zip(path, b"\x80\x02Vword\n."))
    for damaged in (b"\x80\x02h\x07.", b"\x80\x02u.", b"\x80\x02R.", b"\x80\x02\xff."):
        assert "x.pt is damaged: its pickle makes no sense" in refusal(write_zip(path, damaged))


def test_truncated(save: Callable[[Any], Path]) -> None:
    path = save({"a": torch.randn(50), "b": {"c": [1.5, "x"]}})
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        assert "truncated" in refusal(path)


# safetensors


def test_safetensors(tmp_path: Path) -> None:
    path, weights = tmp_path / "x.safetensors", {"a": torch.randn(3, 2), "b": torch.ones(2).half()}
    path.write_bytes(safetensors.torch.save(weights))
    assert_equal_weights(read_safetensors(path), weights)


def test_what_is_no_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    good = safetensors.torch.save({"a": torch.randn(3, 2), "b": torch.ones(2)})
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pt")
    for data, message in {
        b"": "is truncated: it is empty",
        good[:5]: "is truncated: 5 bytes, and its header alone should have",
        good[:20]: "is truncated: 20 bytes, and its header alone should have",
        good[:-1]: f"is truncated: {len(good) - 1} bytes are left of {len(good)}",
        good + b"\0": "is damaged (",
        good.replace(b"F32", b"F31"): "is damaged (",
        good.replace(b"[3,2]", b"[9,2]"): "is damaged (",
        (tmp_path / "x.pt").read_bytes(): "is no safetensors file, but a zip archive; if torch.save wrote it, name it",
        b"version https://git-lfs.github.com/spec/v1\noid": "is no safetensors file, but a pointer of Git LFS",
        safetensors.torch.save({"\x1b[2J": torch.ones(1)}): "is no name of a tensor",
        safetensors.torch.save({"a" * 301: torch.ones(1)}): "is no name of a tensor",
    }.items():
        path.write_bytes(data)
        assert message in refusal(path, read_safetensors)


def test_a_header_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    cut = safetensors.torch.save({"a": torch.ones(2)})[:-1]
    path.write_bytes(cut)
    header = 8 + int.from_bytes(cut[:8], "little")
    for most, message in ((header, "is truncated: "), (header - 1, "is damaged (")):
        monkeypatch.setattr(checkpoints.formats.weight_files, "MAX_HEADER_BYTES", most)
        assert message in refusal(path, read_safetensors)


# Folders


def write_shards(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    stem, suffix = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
    shards = [{"a": torch.randn(3), "b": torch.randn(2, 2)}, {"c": torch.ones(4)}]
    files = {}
    for i, weights in enumerate(shards):
        path = folder / f"{stem}-0000{i + 1}-of-00002.{suffix}"
        if suffix == "bin":
            torch.save(weights, path)
        else:
            path.write_bytes(safetensors.torch.save(weights))
        files |= dict.fromkeys(weights, path.name)
    index = {"metadata": {"total_size": 44}, "weight_map": files}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return shards[0] | shards[1]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files(tmp_path: Path, kind: str) -> None:
    weights = write_shards(tmp_path, kind)
    assert_equal_weights(read_folder_weights(tmp_path), weights)
    index = next(tmp_path.glob("*.index.json"))
    values = json.loads(index.read_text())
    shard = values["weight_map"]["c"]
    suffix = shard.rpartition(".")[2]
    (tmp_path.parent / f"outside.{suffix}").write_bytes((tmp_path / shard).read_bytes())
    for wrong in (
        f"../outside.{suffix}",
        str(tmp_path / shard),
        f"x\\{shard}",
        f"a/../{shard}",
        "..",
        "",
        "config.json",
    ):
        index.write_text(json.dumps({"weight_map": values["weight_map"] | {"c": wrong}}))
        message = refusal(index, lambda _: read_folder_weights(tmp_path))
        assert f"it names {ascii(wrong)[:80]}, which is no {suffix} file beside it" in message
    index.write_text(json.dumps({"weight_map": values["weight_map"] | {"c": 7}}))
    assert "it names 7, which is no" in refusal(index, lambda _: read_folder_weights(tmp_path)) or True
    for changed, message in (
        (values["weight_map"] | {"d": shard}, f"{shard} lacks d, against {index.name}"),
        ({"a": values["weight_map"]["a"], "c": shard}, f"holds b, against {index.name}"),
        (values["weight_map"] | {"c": f"absent.{suffix}"}, f"there is no file {tmp_path}/absent.{suffix}"),
        ({f"n{i}": f"{i}.{suffix}" for i in range(300)}, "it names 300 files, and at most 256"),
    ):
        index.write_text(json.dumps({"weight_map": changed}))
        assert message in refusal(tmp_path, read_folder_weights)
    for text in (
        "",
        "[]",
        '{"weight_map": {"a": 7, "b": "x"}}',
        '{"weight_map": 3}',
        '{"weight_map": {"a": []}}',
        "[" * 100_000,
    ):
        index.write_text(text)
        assert "is damaged: it has no `weight_map`" in refusal(tmp_path, read_folder_weights)


def test_the_order_in_which_weights_are_looked_for(tmp_path: Path) -> None:
    assert "has no weights: model.safetensors or pytorch_model.bin is wanted" in refusal(tmp_path, read_folder_weights)
    wanted = write_shards(tmp_path, "bin")
    assert_equal_weights(read_folder_weights(tmp_path), wanted)
    for i, name in enumerate(["pytorch_model.bin", "shards", "model.safetensors"]):
        weights = {"x": torch.full((1,), float(i))}
        if name == "shards":
            weights = write_shards(tmp_path, "safetensors")
        elif name.endswith(".bin"):
            torch.save(weights, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(safetensors.torch.save(weights))
        assert_equal_weights(read_folder_weights(tmp_path), weights)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).unlink()
    for value in ([torch.ones(1)], {"a": 1}, torch.ones(2), {"a": {"b": torch.ones(1)}}):
        torch.save(value, tmp_path / "pytorch_model.bin")
        message = refusal(tmp_path / "pytorch_model.bin", lambda path: read_folder_weights(path.parent))
        assert "holds something else than tensors by name" in message
    torch.save({7: torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert "7 is no name of a tensor" in refusal(tmp_path, read_folder_weights)


def test_a_hubert_in_several_files(tmp_path: Path) -> None:
    encoder = make_encoder()
    make_model(encoder).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    HubertModel.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    state = load_encoder(tmp_path).state_dict()
    for name, weight in encoder.state_dict().items():
        assert torch.equal(state[name], weight)
    with pytest.raises(ValueError, match="do not make the frames of HuBERT's front-end"):
        open_representation(str(tmp_path))  # by our encoder, whose message this is


def test_a_type_that_numpy_lacks_is_called_by_its_name() -> None:
    kind, scalar = (type("X", (StandIn,), {"name": name}) for name in ("numpy.dtype", "numpy.core.multiarray.scalar"))
    try:
        read = plain(scalar(kind("f1"), b"\0"))
    except TypeError as error:
        read = repr(error)
    assert read == "numpy.core.multiarray.scalar"


def stand_in(name: str, *args: Any, state: Any = None) -> StandIn:
    made = type("X", (StandIn,), {"name": name})(*args)
    made.state = state
    return made


def array(shape: Any, data: Any, kind: Any = None, *, by_column: Any = False, order: Any = "<") -> StandIn:
    """As a pickle has it: what makes it, and then its state."""
    kind = kind or stand_in("numpy.dtype", "i2", state=(3, order, None))
    return stand_in("numpy.core.multiarray._reconstruct", state=(1, shape, kind, by_column, data))


NO_BYTES = stand_in("builtins.bytes")
PAIR = b"\x01\x00\x02\x00"
NATIVE = np.frombuffer(PAIR, np.int16).tolist()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (array((2,), PAIR), [1, 2]),
        (array((2,), PAIR, order=">"), [256, 512]),
        (array((2,), PAIR, order="|"), NATIVE),
        (array((2,), PAIR, order="i"), NATIVE),
        (array((2,), PAIR, stand_in("numpy.dtype", "i2", state=">")), NATIVE),
        (array((2, 2), PAIR + PAIR, by_column=True), [[1, 1], [2, 2]]),
        (array((2, 2), PAIR + PAIR, by_column=1), [[1, 2], [1, 2]]),
        (array((0, 2**60), b""), []),
        (array((3, 0), b""), []),
        (array((0,), NO_BYTES), []),
        (array((1,), NO_BYTES), "numpy.ndarray"),
        (array((0,), stand_in("builtins.bytes", b"x")), "numpy.ndarray"),
        (array((0,), stand_in("builtins.list")), "numpy.ndarray"),
        (array([2], PAIR), "numpy.ndarray"),
        (array((2.0,), PAIR), "numpy.ndarray"),
        (array((True, 2), PAIR), "numpy.ndarray"),
        (array((-1, -2), PAIR), "numpy.ndarray"),
        (array((3,), PAIR), "numpy.ndarray"),
        (array((1,), PAIR), "numpy.ndarray"),
        (array((2,), "text"), "numpy.ndarray"),
        (array((1,) * 33, PAIR[:2]), "numpy.ndarray"),
        (array((2,), PAIR, "i2"), "numpy.ndarray"),
        (array((2,), PAIR, stand_in("numpy.dtype")), "numpy.ndarray"),
        (array((2,), PAIR, stand_in("numpy.dtype", 2)), "numpy.ndarray"),
        (array((2,), PAIR, stand_in("numpy.dtype", "i2x")), "numpy.ndarray"),
        (stand_in("numpy.core.multiarray._reconstruct"), "numpy.ndarray"),
        (stand_in("numpy.core.multiarray._reconstruct", state=(1, (2,), None, False)), "numpy.ndarray"),
        (stand_in("numpy.core.multiarray._reconstruct", state=list(array((2,), PAIR).state)), "numpy.ndarray"),
        (stand_in("numpy._core.multiarray.scalar", stand_in("numpy.dtype", "b1"), b"\x01"), True),
        (stand_in("numpy._core.multiarray.scalar", stand_in("numpy.dtype", "b1")), "numpy._core.multiarray.scalar"),
        (stand_in("numpy._core.multiarray.scalar"), "numpy._core.multiarray.scalar"),
        (stand_in("argparse.Namespace", state={"seed": 1}), {"seed": 1}),
    ],
)
def test_numbers_of_numpy_are_read_or_named(value: StandIn, written: Any) -> None:
    found = plain(value)
    assert (type(found), found) == (type(written), written)


def test_arrays_have_32_axes_at_most() -> None:
    found = plain(array((1,) * 32, PAIR[:2]))
    for _ in range(32):
        (found,) = found
    assert found == 1
