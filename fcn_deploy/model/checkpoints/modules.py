"""Pickled data -> dictionaries, lists and tensors; a whole pickled module -> its state_dict.

Calls were only written down (:mod:`fcn_deploy.model.checkpoints.unpickling`). Those that rebuild a tensor are
read here, from arguments that are checked; of all others only what they hold is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.archives import Archive, Storage, storage_of
from fcn_deploy.model.checkpoints.unpickling import Call, MalformedPickle, Name, Persistent, printable

_DEEPEST = 64
"""Levels of nesting that are followed."""
_MOST_PARTS = 100_000
"""Modules and tensors in one network; a hostile file can name one module in many places."""
_WRAPPINGS = 3
"""A parameter, of a tensor with attributes of its own, that is rebuilt."""
_REBUILT = {f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")}
_PARAMETERS = {f"torch._utils._rebuild_parameter{end}" for end in ("", "_with_state")}
_WITH_TYPE = "torch._tensor._rebuild_from_type_v2"
"""Calls what its first argument names with its third; for tensors that have attributes of their own."""
_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


class PickledModule(dict[str, Tensor]):
    """The state_dict of a module that was pickled whole."""

    def __init__(self, class_name: str, state: Mapping[str, Tensor]) -> None:
        super().__init__(state)
        self.class_name = class_name


def is_module(value: object) -> TypeGuard[Call]:
    """Whether a call would have made a torch.nn.Module: its state has the fields of one."""
    return type(value) is Call and {"_modules", "_parameters", "_buffers"} <= set(_pairs(value.state))


def plain(path: Path, archive: Archive) -> object:
    """What a checkpoint holds as dictionaries, lists and tensors; modules as :class:`PickledModule`.

    Anything else that would have been called or made is None.

    Raises:
        MalformedPickle: a tensor reaches outside its storage.
        ModelError: a module holds a weight that is no plain tensor.
    """
    return _Reader(path, archive).plain(archive.pickled.value)


class _Reader:
    def __init__(self, path: Path, archive: Archive) -> None:
        self._path = path
        self._archive = archive
        self._bytes: dict[str, Tensor] = {}
        self._done: dict[int, object] = {}
        """By id, so that what a file names often is read once."""

    def plain(self, value: object, depth: int = 0) -> object:
        if not isinstance(value, (Call, dict, list, tuple)):
            return None if isinstance(value, (Name, Persistent)) else value
        if id(value) not in self._done and depth < _DEEPEST:
            self._done[id(value)] = None  # what holds itself ends here
            self._done[id(value)] = self._convert(value, depth)
        return self._done.get(id(value))

    def _convert(self, value: Any, depth: int) -> object:
        if is_module(value):
            return PickledModule(*self._module(value))
        if isinstance(value, (list, tuple)):
            return [self.plain(item, depth + 1) for item in value]
        if (tensor := self._tensor(value)) is not None:
            return tensor
        if pairs := _pairs(value):
            return {key: self.plain(below, depth + 1) for key, below in pairs.items()}
        if isinstance(value, Call):
            return [self.plain(item, depth + 1) for item in value.items] or None
        return {}

    def _module(self, module: Call) -> tuple[str, dict[str, Tensor]]:
        name, parts = _class_name(module), 0
        state: dict[str, Tensor] = {}
        for prefix, owner in _modules(module):
            own = _own(owner)
            parts += 1 + len(own)
            if parts > _MOST_PARTS:
                raise MalformedPickle(f"a module in it has more than {_MOST_PARTS} parts")
            for key, value in own.items():
                tensor = self._tensor(value)
                if tensor is None:
                    raise ModelError(
                        f"{self._path} holds a whole `{printable(name)}` whose {printable(prefix + key)} is "
                        "no plain tensor (it may be quantised or sparse); save its weights as float32 where "
                        'it was made: torch.save(model.float().state_dict(), "weights.pth")'
                    )
                state[f"{prefix}{key}"] = tensor
        return name, state

    # Tensors

    def _tensor(self, value: object) -> Tensor | None:
        """The tensor that a call would have rebuilt; None where it would have made something else."""
        for _ in range(_WRAPPINGS):
            if not isinstance(value, Call) or not isinstance(value.of, Name) or type(value.args) is not tuple:
                return None
            function, args = value.of.path, value.args
            if function in _REBUILT:
                return self._rebuilt(args)
            if function in _PARAMETERS and args:
                value = args[0]
            elif function == _WITH_TYPE and len(args) == 4:
                value = Call(args[0], args[2])
        return None

    def _rebuilt(self, args: tuple[Any, ...]) -> Tensor | None:
        """``(storage, offset, size, stride, requires_grad, hooks, [dtype,] [metadata])``."""
        if len(args) < 4 or not isinstance(args[0], Persistent):
            raise MalformedPickle("it rebuilds a tensor from something that is no storage")
        storage, (offset, size, stride) = storage_of(args[0]), args[1:4]
        dtype = _DTYPES.get(
            args[6].path if len(args) > 6 and isinstance(args[6], Name) else str(storage.dtype)
        )
        if dtype is None:
            return None
        whole = self._elements(storage, dtype)
        numbers = (offset, *size, *stride) if type(size) is type(stride) is tuple else (None,)
        if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
            raise MalformedPickle("it rebuilds a tensor with sizes that are no numbers")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (last >= len(whole) or math.prod(size) > len(whole)):
            raise MalformedPickle("a tensor in it reaches outside its storage")
        if not math.prod(size):
            return whole.new_empty(size)
        return whole.as_strided(size, stride, whole.storage_offset() + offset)

    def _elements(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        """A storage as a tensor of one axis."""
        if storage.key not in self._bytes:
            data = self._archive.read(storage.key) if storage.root_count else b""
            empty = torch.empty(0, dtype=torch.uint8)
            self._bytes[storage.key] = torch.frombuffer(data, dtype=torch.uint8) if data else empty
        start, count = (n * storage.dtype.itemsize for n in (storage.start, storage.count))
        if start % dtype.itemsize or count % dtype.itemsize:
            raise MalformedPickle("a storage in it holds no whole number of elements")
        return self._bytes[storage.key][start : start + count].view(dtype)


def _modules(module: Call, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Call]]:
    """A module and all below it, with the prefix of their keys, in the order of nn.Module.state_dict."""
    yield prefix, module
    for name, child in _pairs(_pairs(module.state)["_modules"]).items():
        if child is None:
            continue
        if not is_module(child) or depth == _DEEPEST:
            raise MalformedPickle("a module in it holds what is no module")
        yield from _modules(child, f"{prefix}{name}.", depth + 1)


def _own(module: Call) -> dict[str, object]:
    """Parameters and persistent buffers of a module itself, by name."""
    state = _pairs(module.state)
    passing = _listed(state.get("_non_persistent_buffers_set"))
    named = {**_pairs(state["_parameters"]), **_pairs(state["_buffers"])}
    return {str(name): value for name, value in named.items() if value is not None and name not in passing}


def _listed(value: object) -> list[Any]:
    """The items of a list, or of a call that would have made a set or dictionary of one."""
    if isinstance(value, Call) and type(value.args) is tuple and len(value.args) == 1:
        value = value.args[0]
    return value if isinstance(value, list) else []


def _pairs(value: object) -> Mapping[Any, object]:
    """Keys and values of a dictionary, or of a call that would have made one."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Call):
        return {}
    if not value.pairs and value.of == Name("collections.OrderedDict"):  # of Python 2: a list of pairs
        two = (item for item in _listed(value) if isinstance(item, (list, tuple)) and len(item) == 2)
        return {key: below for key, below in two if isinstance(key, str)}
    return value.pairs


def _class_name(module: Call) -> str:
    """Of a module, or of what DataParallel wraps."""
    name = module.of.path if isinstance(module.of, Name) else "module"
    if name.startswith("torch.nn.parallel."):
        inner = _pairs(_pairs(module.state)["_modules"]).get("module")
        if is_module(inner) and isinstance(inner.of, Name):
            return inner.of.path
    return name
