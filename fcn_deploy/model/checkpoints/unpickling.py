"""A pickle as plain data: what it asks for, with none of it done.

A pickle is a program for a stack machine, and some of its opcodes import and call whatever they name. This
machine has no such step. Opcodes come from :func:`pickletools.genops`, the disassembler of the standard
library, which only reads; a class or function stays the :class:`Name` that it was written as, and a call
stays a :class:`Call` that says what would have been called. Nothing here imports by a name from the file,
looks up or sets an attribute by such a name, or calls a value from the stack.

Opcodes: Lib/pickletools.py of CPython, which documents each of them.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, cast

_DEEPEST_TUPLE = 100
"""Hashing a tuple recurses in C without a limit: as the key of a dictionary, a tuple that is 300,000 deep
ends the process, in torch's own ``weights_only`` reader too (torch 2.14)."""
_KEYS = (str, int, float, bool, bytes, type(None))
"""Types of dictionary keys that are kept. Hashing these runs no code of others and does not recurse."""
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
"""Modules that protocol 2 writes by their names in Python 2."""


class MalformedPickle(Exception):
    """The bytes are no pickle that torch.save writes; the message says why."""


@dataclass(frozen=True)
class Name:
    """A class or function of the file, by name only: ``models.FCN8s``."""

    path: str


@dataclass(eq=False)
class Call:
    """An object that a pickle asks for, and that was not made."""

    of: object
    """What would have been called: a :class:`Name`, or whatever a hostile file put there."""
    args: object = ()
    state: object = None
    """What BUILD would have set."""
    items: list[object] = field(default_factory=list)
    """What would have been appended to it."""
    pairs: dict[Any, object] = field(default_factory=dict)
    """What would have been set in it by key."""


@dataclass(eq=False)
class Persistent:
    """A reference to something outside the pickle: torch's storages."""

    id: object


@dataclass
class Pickled:
    """One pickle, as data of Python's own types, :class:`Name`, :class:`Call` and :class:`Persistent`."""

    value: object = None
    """Sets are lists, because nothing is hashed but the keys of dictionaries."""
    protocol: int = 0
    names: dict[str, None] = field(default_factory=dict)
    """Every class and function that it names, in order."""
    calls: list[Call] = field(default_factory=list)
    persistent: list[Persistent] = field(default_factory=list)


def parse(stream: io.BytesIO | mmap.mmap) -> Pickled:
    """Read one pickle; the stream is left behind its end.

    Args:
        stream: a BytesIO or mmap, because their ``read(n)`` allocates no more than there is.

    Raises:
        MalformedPickle: it is damaged, or uses opcodes that no checkpoint needs.
    """
    machine = _Machine()
    try:
        for opcode, arg, _ in pickletools.genops(cast(IO[bytes], stream)):
            machine.step(opcode.name, arg)
    except (ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error) as exc:
        raise MalformedPickle(f"its pickle is damaged: {type(exc).__name__}") from exc
    return machine.pickled


def printable(text: str, most: int = 80) -> str:
    """A name from a file, fit to be shown in a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


class _Machine:
    """The stack of a pickle. Each step moves plain data; none acts on it."""

    def __init__(self) -> None:
        self.pickled = Pickled()
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        """Stacks below a MARK."""
        self._memo: dict[int, object] = {}
        self._depths: dict[int, tuple[int, tuple[object, ...]]] = {}
        """By id: how deep a tuple is, and the tuple, so that its id stays its own."""

    def step(self, opcode: str, arg: Any) -> None:
        if opcode in _LITERALS:
            self._stack.append(arg)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _STEPS:
            _STEPS[opcode](self, arg)
        else:  # EXT1, EXT2, EXT4: a registry of this process; buffers: data that is not in the file
            raise MalformedPickle(f"it uses the opcode {opcode}, which torch.save does not write")

    # The stack and the memo

    def _pop(self) -> Any:
        return self._stack.pop()

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _drop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _drop_to_mark(self, _: Any) -> None:
        self._since_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _protocol(self, version: int) -> None:
        self.pickled.protocol = version

    def _frame(self, _: Any) -> None:
        """Says where to read ahead; there is nothing to do."""

    def _stop(self, _: Any) -> None:
        self.pickled.value = self._pop()

    # Containers

    def _tuple(self, items: list[Any]) -> None:
        made = tuple(items)
        depth = 1 + max(
            (self._depths[id(item)][0] for item in made if type(item) is tuple and item), default=0
        )
        if depth > _DEEPEST_TUPLE:
            raise MalformedPickle(f"it nests tuples more than {_DEEPEST_TUPLE} deep")
        self._depths[id(made)] = (depth, made)
        self._stack.append(made)

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._tuple(items[::-1])

    def _tuple_since_mark(self, _: Any) -> None:
        items = self._since_mark()
        self._tuple(items) if items else self._stack.append(())

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Call:
            target = target.items
        if type(target) is not list:
            raise MalformedPickle("it appends to something that is no list")
        target.extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _set_items(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Call:
            target = target.pairs
        if type(target) is not dict or len(items) % 2:
            raise MalformedPickle("it sets keys of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if type(key) in _KEYS else object()] = value

    # What pickle would import, call, or set: written down

    def _name(self, module: str, name: str) -> Name:
        made = Name(f"{_PYTHON_2.get(module, module)}.{name}")
        self.pickled.names[made.path] = None
        return made

    def _global(self, module_and_name: str) -> None:
        module, _, name = module_and_name.partition(" ")
        self._stack.append(self._name(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise MalformedPickle("it names a class by something that is no text")
        self._stack.append(self._name(module, name))

    def _call(self, of: object, args: object) -> None:
        made = Call(of, args)
        self.pickled.calls.append(made)
        self._stack.append(made)

    def _reduce(self, _: Any) -> None:
        args, of = self._pop(), self._pop()
        self._call(of, args)

    def _new_with_names(self, _: Any) -> None:
        self._pop()  # arguments by name
        self._reduce(_)

    def _instance(self, module_and_name: str) -> None:
        args = tuple(self._since_mark())
        self._global(module_and_name)
        self._call(self._pop(), args)

    def _object(self, _: Any) -> None:
        of, *args = self._since_mark()
        self._call(of, tuple(args))

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._stack[-1]
        if type(target) is not Call:
            raise MalformedPickle("it sets the state of something that is no object")
        target.state = state

    def _persistent_text(self, text: str) -> None:
        self._stack.append(text)
        self._persistent(None)

    def _persistent(self, _: Any) -> None:
        found = self._pop()
        # Old files of torch name the class of a module so, together with its source.
        if type(found) is tuple and len(found) > 1 and found[0] == "module" and type(found[1]) is Name:
            self._stack.append(found[1])
            return
        made = Persistent(found)
        self.pickled.persistent.append(made)
        self._stack.append(made)


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""The disassembler has read their value."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._protocol,
    "FRAME": _Machine._frame,
    "STOP": _Machine._stop,
    "MARK": _Machine._mark,
    "POP": _Machine._drop,
    "POP_MARK": _Machine._drop_to_mark,
    "DUP": _Machine._duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    "MEMOIZE": _Machine._memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "TUPLE": _Machine._tuple_since_mark,
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), _Machine._empty_list),
    **dict.fromkeys(("LIST", "FROZENSET"), _Machine._list),
    "EMPTY_DICT": _Machine._empty_dict,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine._appends),
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine._reduce),
    "NEWOBJ_EX": _Machine._new_with_names,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._persistent_text,
    "BINPERSID": _Machine._persistent,
}
