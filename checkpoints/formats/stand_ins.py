"""What a checkpoint of others pickles beside its tensors, kept as plain values: no class is imported, nothing runs.

A pickle names the classes and functions that it wants called. Here each name is answered with a class of ours that
keeps what it is given, if its name is known to be one of the configurations that speech checkpoints carry (fairseq's,
omegaconf's, argparse's); any other name refuses the file.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable
from functools import partial
from itertools import count
from math import prod
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import NestlingError

MAX_NESTING = 100
"""Tuples within tuples, and values within values. Python itself crashes on the hash of a tuple nested 500,000 deep."""
MAX_DIMS = 32
"""Of an array of numpy."""
MAX_VALUES = 10_000_000
"""Values that `plain` writes out: lists that hold one another twice would double without end."""

TENSOR_NAMES = frozenset(
    (
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
        *(
            f"torch.{where}{kind}Storage"
            for kind in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
            for where in ("", "cuda.")
        ),
        *(f"torch.{kind}{bits}" for kind in ("float", "int") for bits in (16, 32, 64)),
        *("torch.bfloat16", "torch.bool", "torch.int8", "torch.uint8", "torch.Size", "torch.device"),
        *("collections.OrderedDict", "builtins.set", "_codecs.encode"),  # the last one makes bytes of text
    )
)
"""What torch's own safe reader may call: dense tensors, and little else of what it would."""

INERT_NAMES = frozenset(
    (
        *("argparse.Namespace", "collections.defaultdict", "_operator.getitem"),  # the last one as in Optional[int]
        *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple")),
        *("builtins.type", "numpy.dtype", "numpy.ndarray"),
        *(f"numpy.{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")),
    )
)
INERT_PACKAGES = ("fairseq.", "omegaconf.")
"""What gets a stand-in: these names, and all of these packages."""

_PYTHON_2 = {"__builtin__ unicode": "builtins str", "__builtin__ long": "builtins int"}
"""Names as pickles of protocol 2 have them, even where Python 3 wrote them."""

_OPCODES = re.compile(
    "PROTO|STOP|MARK|GLOBAL|REDUCE|NEWOBJ|BUILD|APPENDS?|SETITEMS?|TUPLE[123]?|EMPTY_(TUPLE|LIST|DICT|SET)|NONE|NEWFALSE|"
    "NEWTRUE|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|SHORT_BINSTRING|BINPERSID|(LONG_)?BIN(GET|PUT)"
)
"""What torch's safe reader understands: enough for all that `torch.save` writes."""


class WeightFileError(NestlingError):
    """A file of weights is truncated, damaged, something else, or refused; the message says which and names it."""


class StandIn:
    """An object of a class that was not imported: the arguments and the state that the file gives it."""

    name: ClassVar[str]
    """Of the class, as the file has it."""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> StandIn:  # noqa: D102
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def make_stand_ins(names: Iterable[str]) -> list[Any]:
    """Pairs for `torch.serialization.add_safe_globals`: what to take for each name that torch does not know."""
    pairs: list[Any] = []
    for name in names:
        if name == "collections.defaultdict":
            pairs.append((_make_dict, name))  # torch fills real dictionaries alone
        elif name in INERT_NAMES or name.startswith(INERT_PACKAGES):
            pairs.append((type(name.rpartition(".")[2], (StandIn,), {"name": name}), name))
    return pairs


def _make_dict(*_: Any) -> dict[Any, Any]:
    return {}


def list_globals(stream: BinaryIO, source: str) -> set[str]:
    """The classes and functions that a pickle names, without running it; leaves `stream` after its end.

    Args:
        stream: At the start of a pickle.
        source: What to blame in an error.

    Raises:
        WeightFileError: It names something that is no part of weights or their configuration, is written otherwise
            than torch does, nests tuples too deeply, or is damaged.
    """
    names: set[str] = set()
    depths: list[int] = []  # how deeply tuples are nested in each value on the stack
    marks: list[int] = []
    memo: dict[Any, int] = {}
    try:
        for op, arg, _ in pickletools.genops(stream):
            if op.name == "PROTO" and arg != 2:
                raise WeightFileError(f"{source} has pickle protocol {arg}; only that of torch.save, 2, is read")
            if not _OPCODES.fullmatch(op.name):
                raise WeightFileError(f"{source} is no checkpoint that torch.save writes: it has the opcode {op.name}")
            if op.name == "GLOBAL":
                names.add(str(arg))
            elif op.name == "MARK":
                marks.append(len(depths))
                continue
            elif op.name.endswith("BINPUT"):
                memo[arg] = depths[-1]
            start = len(depths) - len(op.stack_before)
            if pickletools.markobject in op.stack_before:
                start = marks.pop() - op.stack_before.index(pickletools.markobject)
            if start < 0:
                raise IndexError
            depth = memo[arg] if op.name.endswith("BINGET") else 0
            if op.name.startswith("TUPLE") and (depth := 1 + max(depths[start:], default=0)) > MAX_NESTING:
                raise WeightFileError(f"{source} is refused: it nests tuples more than {MAX_NESTING} deep")
            depths[start:] = [depth] * len(op.stack_after)
    except WeightFileError:
        raise
    except (ValueError, LookupError) as error:
        truncated = "exhausted" in str(error) or "remain" in str(error)  # as pickletools says it
        fault = "truncated: its pickle has no end" if truncated else "damaged: its pickle makes no sense"
        raise WeightFileError(f"{source} is {fault}") from error
    return _check_names(names, source)


def _check_names(names: Iterable[str], source: str) -> set[str]:
    """Dotted names, all of them allowed."""
    dotted = {_PYTHON_2.get(name, name).replace("__builtin__ ", "builtins ").replace(" ", ".") for name in names}
    allowed = TENSOR_NAMES | INERT_NAMES
    refused = sorted(
        name
        for name in dotted
        if not re.fullmatch(r"[A-Za-z0-9_.]{1,200}", name) or not (name in allowed or name.startswith(INERT_PACKAGES))
    )
    if refused:
        shown = ", ".join(ascii(name)[1:-1][:100] for name in refused[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        if all(name.startswith("torch.") for name in refused):
            raise WeightFileError(f"{source} is refused: it holds more than tensors that are dense: {shown}{more}")
        raise WeightFileError(
            f"{source} is refused: it holds more than tensors and their configuration. It names {shown}{more}: that is "
            "code, and nothing in a file is ever run. Ask for a file of weights alone, best in safetensors"
        )
    return dotted


def plain(value: Any, source: str = "a checkpoint") -> Any:
    """A value of a checkpoint with every stand-in written out: dictionaries, lists, words, numbers and tensors.

    Configurations of omegaconf become what they hold, objects their attributes, enumerations their value, numpy's
    scalars numbers and its arrays lists of them, and a class its name.

    Args:
        value: What `read_checkpoint` returned.
        source: What to blame in an error.

    Raises:
        WeightFileError: It is nested too deeply, or without end.
    """
    number = count()

    def write(value: Any, depth: int) -> Any:
        if depth > MAX_NESTING or next(number) > MAX_VALUES:
            raise WeightFileError(f"{source}'s configuration is nested too deeply, or without end")
        again = partial(write, depth=depth + 1)
        if isinstance(value, StandIn):
            return _write_stand_in(value, again)
        if isinstance(value, dict):
            return {key if isinstance(key, str | int) else str(again(key)): again(v) for key, v in value.items()}
        if isinstance(value, list | tuple | set):
            written = [again(v) for v in value]
            return sorted(written, key=repr) if isinstance(value, set) else written
        if value is None or isinstance(value, str | bytes | int | float | Tensor):
            return value
        if isinstance(value, type) and issubclass(value, StandIn):
            return value.name
        return str(value) if isinstance(value, torch.dtype | torch.device) else type(value).__name__

    return write(value, 0)


def _write_stand_in(value: StandIn, write: Any) -> Any:
    if value.name.endswith("multiarray.scalar"):
        kind, data = value.args if len(value.args) == 2 else (None, None)
        return _read_numbers(kind, data, (), value.name)
    if value.name.endswith("multiarray._reconstruct"):
        state = value.state if isinstance(value.state, tuple) and len(value.state) == 5 else (None,) * 5
        _, shape, kind, by_column, data = state
        return write(_read_numbers(kind, data, shape, "numpy.ndarray", by_column is True))  # which counts them
    if isinstance(value.state, dict):
        for key in ("_content", "_val"):  # of omegaconf's containers, and of its nodes
            if key in value.state and value.name.startswith("omegaconf."):
                return write(value.state[key])
        return write(value.state)
    if value.state is None and len(value.args) == 1:
        return write(value.args[0])
    return value.name


def _read_numbers(kind: Any, data: Any, shape: Any, name: str, by_column: bool = False) -> Any:
    """A scalar of numpy as a number, an array as lists of them, from type, bytes and shape; else what it is called."""
    code = kind.args[0] if isinstance(kind, StandIn) and kind.args else None
    if isinstance(data, StandIn) and data.name == "builtins.bytes" and not data.args:
        data = b""  # as pickles of protocol 2 have it
    sizes = shape if isinstance(shape, tuple) and len(shape) <= MAX_DIMS else (None,)
    if not (isinstance(code, str) and re.fullmatch(r"f[248]|[iu][1248]|b1", code) and isinstance(data, bytes)):
        return name
    if not all(type(size) is int and size >= 0 for size in sizes) or len(data) != int(code[1]) * prod(sizes):
        return name
    if not data:
        return []  # of a shape that could still be endless
    order = kind.state[1] if isinstance(kind.state, tuple) and kind.state[1:2] in (("<",), (">",)) else ""
    return np.frombuffer(data, order + code).reshape(sizes, order="F" if by_column else "C").tolist()
