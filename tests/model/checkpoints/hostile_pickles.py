"""Pickles that run code when they are unpickled, one for each opcode that can call or set something.

They are put together by hand, because no pickler writes most of them. Each makes a folder, the canary.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

MODULE = "hostile_classes"
"""Where unpickling finds the classes below; a test puts them into sys.modules."""
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
SYSTEM = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def named(path: str) -> bytes:
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def program(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def called(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def zip_file(path: Path, body: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A pickle in the container that torch.save writes today."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def legacy_file(path: Path, body: bytes, storages: dict[str, bytes] | None = None, itemsize: int = 4) -> Path:
    """A pickle in the container that torch.save wrote before 1.6."""
    held = storages or {}
    data = b"".join(struct.pack("<q", len(one) // itemsize) + one for one in held.values())
    path.write_bytes(MAGIC + SYSTEM + body + pickle.dumps(list(held), 2) + data)
    return path


CONTAINERS: dict[str, Callable[..., Path]] = {"zip": zip_file, "legacy": legacy_file}


def tensor(
    count: bytes, offset: bytes, size: bytes, stride: bytes, kind: str = "FloatStorage", key: str = "0"
) -> bytes:
    """The opcodes of a tensor on a storage, with whatever numbers."""
    storage = b"(" + text("storage") + named(f"torch.{kind}") + text(key) + text("cpu") + count + b"tQ"
    return called(named("torch._utils._rebuild_tensor_v2"), storage, offset, size, stride, b"\x89", b"N")


def module_with(weight: bytes, more: bytes = b"", name: str = "train.Net", modules: bytes = b"}") -> bytes:
    """The opcodes of a torch.nn.Module with one parameter; ``more``: keys and values of its other fields."""
    parameters = text("_parameters") + b"}" + text("weight") + weight + b"s"
    fields = parameters + text("_buffers") + b"}" + text("_modules") + modules
    return named(name) + b")\x81}(" + fields + more + b"ub"


def hostile_classes(canary: Path) -> ModuleType:
    """Classes that make the canary in the method that one opcode calls."""

    def spring(*_: Any, **__: Any) -> None:
        if not canary.exists():
            os.mkdir(canary)

    def new(cls: type, *_: Any, **__: Any) -> object:
        spring()
        return object.__new__(cls)

    def hashed(_: object) -> int:
        spring()
        return 1

    def class_with(**methods: Any) -> type:
        return type("Hostile", (), methods)

    module = ModuleType(MODULE)
    module.New = class_with(__new__=new)
    module.SetState = class_with(__setstate__=spring)
    module.SetAttribute = class_with(__setattr__=spring)
    module.Append = class_with(append=spring, extend=spring)
    module.SetItem = class_with(__setitem__=spring)
    module.Add = class_with(add=spring)
    module.Hash = class_with(__hash__=hashed)
    module.Array = type("Array", (np.ndarray,), {"__array_finalize__": spring})
    return module


def hostile(canary: Path, code: Path) -> dict[str, bytes]:
    """By what they use: whole pickles, each of which makes the canary when Python unpickles it.

    Args:
        canary: the folder.
        code: a file of Python, which makes the canary where it is run; ``nested.pth`` beside it holds the
            pickle of "REDUCE".
    """
    path, call = text(str(canary)), f"__import__('os').mkdir({str(canary)!r})"
    instance = {name: named(f"{MODULE}.{name}") + b")\x81" for name in ("SetState", "SetAttribute", "Append")}
    instance |= {name: named(f"{MODULE}.{name}") + b")\x81" for name in ("SetItem", "Add", "Hash")}
    mkdir, load = named("os.mkdir"), named("torch.load")
    nested = program(called(mkdir, path))
    file = text(str(code.with_name("nested.pth")))
    partial = called(named("functools.partial"), load) + (
        b"(" + load + b"(" + file + b"t}(" + text("weights_only") + b"\x89uNtb"
    )
    return {
        "REDUCE": nested,
        "REDUCE, protocol 0": f"cos\nmkdir\n(V{canary}\ntR.".encode(),
        "STACK_GLOBAL": program(text("os") + text("mkdir") + b"\x93" + path + b"\x85R", 4),
        "STACK_GLOBAL, dotted": program(text("shutil") + text("os.mkdir") + b"\x93" + path + b"\x85R", 4),
        "GLOBAL of posix": program(called(named(f"{os.mkdir.__module__}.mkdir"), path)),
        "memo": program(mkdir + b"q\x000" + b"h\x00" + path + b"\x85R"),
        "MEMOIZE": program(mkdir + b"\x940" + b"h\x00" + path + b"\x85R", 4),
        "DUP": program(mkdir + b"2" + path + b"\x85R\x86"),
        "INST": program(b"(" + path + b"ios\nmkdir\n"),
        "OBJ": program(b"(" + mkdir + path + b"o"),
        "NEWOBJ": program(named(f"{MODULE}.New") + b")\x81"),
        "NEWOBJ_EX": program(named(f"{MODULE}.New") + b")}\x92", 4),
        "BUILD, __setstate__": program(instance["SetState"] + b"}b"),
        "BUILD, slots": program(instance["SetAttribute"] + b"N}" + text("x") + b"Ns\x86b"),
        "BUILD, __class__": program(instance["SetAttribute"] + b"N}" + text("__class__") + mkdir + b"s\x86b"),
        "BUILD, __dict__": program(instance["SetAttribute"] + b"N}" + text("__dict__") + b"}s\x86b"),
        "APPEND": program(instance["Append"] + b"Na"),
        "APPENDS": program(instance["Append"] + b"(NNe"),
        "SETITEM": program(instance["SetItem"] + b"NNs"),
        "SETITEMS": program(instance["SetItem"] + b"(NNu"),
        "ADDITEMS": program(instance["Add"] + b"(N\x90", 4),
        "a key that is hashed": program(b"}" + instance["Hash"] + b"Ns"),
        "DICT": program(b"(" + instance["Hash"] + b"Nd"),
        "FROZENSET": program(b"(" + instance["Hash"] + b"\x91", 4),
        "a set of what is hashed": program(b"\x8f(" + instance["Hash"] + b"\x90", 4),
        "OrderedDict of what is hashed": program(
            called(named("collections.OrderedDict"), b"]]" + instance["Hash"] + b"aNaa")
        ),
        "builtins.eval": program(called(named("builtins.eval"), text(call))),
        "builtins.exec": program(called(named("builtins.exec"), text(call))),
        "builtins of Python 2": program(called(named("__builtin__.eval"), text(call))),
        "getattr of an import": program(
            called(
                called(
                    named("builtins.getattr"), called(named("builtins.__import__"), text("os")), text("mkdir")
                ),
                path,
            )
        ),
        "operator.attrgetter": program(
            called(
                called(
                    called(named("operator.attrgetter"), text("mkdir")),
                    called(named("importlib.import_module"), text("os")),
                ),
                path,
            )
        ),
        "map": program(
            called(named("builtins.list"), called(named("builtins.map"), mkdir, b"(" + path + b"l"))
        ),
        "pickle.loads": program(called(named("pickle.loads"), pickle.dumps(nested, 3)[2:-1])),
        "torch.hub": program(called(named("torch.hub._import_module"), text("x"), text(str(code)))),
        "torch.load": program(partial + b")R"),
        "runpy": program(called(named("runpy.run_path"), text(str(code)))),
        "numpy _reconstruct": program(
            called(
                named("numpy._core.multiarray._reconstruct"),
                named(f"{MODULE}.Array"),
                b"K\x00\x85",
                b"C\x01b",
            ),
            3,
        ),
        "EXT1": program(b"\x82\xf0" + path + b"\x85R"),
        "EXT2": program(b"\x83" + struct.pack("<H", 0xF0) + path + b"\x85R"),
        "EXT4": program(b"\x84" + struct.pack("<i", 0xF0) + path + b"\x85R"),
    }


EXTENSION = ("os", "mkdir", 0xF0)
"""What the opcodes EXT1, EXT2 and EXT4 above name, in the registry of copyreg."""
