"""Which of the things in a checkpoint are its weights: found at any depth, chosen by a key where stated."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.modules import PickledModule
from fcn_deploy.model.checkpoints.tidying import without_prefix
from fcn_deploy.model.checkpoints.unpickling import printable

_WRAPPERS = (
    *("model_state_dict", "state_dict", "model", "model_state"),
    *("net", "network", "module", "weights", "params"),
)
"""Keys under which checkpoints hold their weights; the first one found is used."""
_AVERAGE = re.compile(r"(?<![a-z])ema(?![a-z])|E(?:ma|MA)|(?i:avg|average|shadow)")
"""In the names of weights that were averaged over the steps of training."""
_MOMENTS = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"}
"""What optimizers keep for each weight."""
_DEPTH = 16
"""How many levels of a checkpoint are searched."""
_SHOWN = 6
"""How many sets of weights a message names."""


@dataclass(frozen=True)
class _Set:
    """Tensors that a checkpoint holds in one place."""

    names: tuple[str, ...]
    """From the top down to it; empty for the checkpoint itself."""
    found: Mapping[str, object] | Sequence[object]
    tensors: Mapping[str, Tensor]
    """By name, or by position in a list."""

    @property
    def place(self) -> str:
        """``ema.shadow``"""
        return ".".join(self.names)

    @property
    def is_state_dict(self) -> bool:
        """Whether it is tensors by name and nothing else."""
        return isinstance(self.found, Mapping) and len(self.tensors) == len(self.found)


def find(path: Path, loaded: Any, key: str | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of a checkpoint.

    Args:
        loaded: dictionaries, lists and tensors.
        key: which set of weights, by the names above it with dots between: ``ema.shadow``. None takes the
            set under the usual names, and else the largest.

    Returns:
        Tensors by name, and sentences that say which set was taken where there are several.

    Raises:
        ModelError: there is none, or none under that key.
    """
    sets = list(_sets(loaded))
    if key is not None:
        taken, said = _chosen(path, sets, key)
    else:
        state_dicts = [found for found in sets if found.is_state_dict]
        if not state_dicts:
            raise ModelError(
                f"{path} does not hold a state_dict: expected tensors by name, bare or under a name such as "
                f"{', '.join(_WRAPPERS[:3])}, found {_describe(loaded)}"
            )
        taken = min(state_dicts, key=_rank)
        said = _choice(taken, sets)
    if isinstance(taken.found, PickledModule):
        name = printable(taken.found.class_name)
        said = (*said, f"a whole `{name}` was saved; its tensors were taken, none of its code")
    return dict(taken.tensors), said


# Every set of tensors in a checkpoint


def _sets(loaded: object) -> Iterator[_Set]:
    """Breadth first. Each object is looked at once: a hostile file may hold it often."""
    seen = {id(loaded)}
    waiting: deque[tuple[tuple[str, ...], object]] = deque([((), loaded)])
    while waiting:
        names, value = waiting.popleft()
        tensors = {name: below for name, below in _items(value) if isinstance(below, Tensor)}
        if isinstance(value, (Mapping, list, tuple)) and _are_weights(tensors):
            yield _Set(names, value, tensors)
        for name, below in _items(value) if len(names) < _DEPTH else ():
            if id(below) not in seen and "optim" not in name.lower():
                seen.add(id(below))
                waiting.append(((*names, name), below))


def _items(value: object) -> Iterable[tuple[str, object]]:
    """Names and values of a mapping, positions and values of a list; nothing of anything else."""
    if isinstance(value, Mapping):
        return ((name, below) for name, below in value.items() if isinstance(name, str))
    return ((str(i), below) for i, below in enumerate(value)) if isinstance(value, (list, tuple)) else ()


def _are_weights(tensors: Mapping[str, Tensor]) -> bool:
    """Whether they may be weights: not numbers only, and not what an optimizer keeps."""
    return any(tensor.ndim for tensor in tensors.values()) and not set(tensors) <= _MOMENTS


# Which one


def _rank(found: _Set) -> tuple[bool, int, int, int, int]:
    """The smallest is taken: no average, under the usual names as near the top as may be, the largest."""
    known = next((i for i, name in enumerate(found.names) if name in _WRAPPERS), None)
    averaged = any(_AVERAGE.search(name) for name in found.names)
    if known is None:
        # The checkpoint itself, where it is nothing but tensors, needs no name.
        return averaged, len(found.names) and _DEPTH, 0, 0, -len(found.tensors)
    return averaged, known, _WRAPPERS.index(found.names[known]), len(found.names), -len(found.tensors)


def _chosen(path: Path, sets: list[_Set], key: str) -> tuple[_Set, tuple[str, ...]]:
    """The set under a key that the user gave."""
    named = [found for found in sets if found.names and isinstance(found.found, Mapping)]
    taken = next((found for found in sets if found.names and found.place == key), None)
    if taken is None:
        places = ", ".join(repr(printable(found.place)) for found in named[:_SHOWN])
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        held = (
            f"it holds them under {places}{more}" if named else "it holds them at its top; leave the key out"
        )
        raise ModelError(f"{path} holds no weights under {key!r}; {held}")
    if not isinstance(taken.found, Mapping):
        raise ModelError(
            f"{path}: {key!r} is a list of tensors without names, so they cannot be told apart; load them "
            "into the network where it was trained, and save its state_dict()"
        )
    others = [name for name in taken.found if name not in taken.tensors]
    left = f"; left out {', '.join(printable(str(name)) for name in others[:_SHOWN])}, which are no tensors"
    return taken, (f"took the weights under {key!r}, as given{left if others else ''}",)


def _choice(taken: _Set, sets: list[_Set]) -> tuple[str, ...]:
    """A sentence that says which of several sets of weights was used; none where there is one only."""
    if any(name in _WRAPPERS for name in taken.names):
        others = [found for found in sets if found is not taken and _same_network(found, taken)]
        taken_as = f"took the weights under {printable(taken.place)!r}"
    else:
        others = [found for found in sets if found is not taken and found.is_state_dict]
        taken_as = f"took the weights under {printable(taken.place)!r}, the largest set"
    places = [repr(printable(found.place)) for found in others[:_SHOWN]]
    if not places:
        return ()
    if len(others) == 1:
        return (f"{taken_as}; {places[0]} holds another set of weights, which was not used",)
    last = f"{len(others) - _SHOWN} more places" if len(others) > _SHOWN else places.pop()
    return (f"{taken_as}; {', '.join(places)} and {last} hold other sets of weights, which were not used",)


def _same_network(found: _Set, taken: _Set) -> bool:
    """Whether a set holds other weights of the network that was taken.

    They have the same keys; or, under a name that says that they are averages, the same shapes.
    """
    averaged = any(_AVERAGE.search(name) for name in found.names)
    return _same_keys(found.tensors, taken.tensors) or (
        averaged and _same_shapes(found.tensors, taken.tensors)
    )


def _same_keys(found: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> bool:
    """Whether most keys and their shapes are the same."""
    other, wanted = without_prefix(found)[0], without_prefix(taken)[0]
    same = sum(key in other and other[key].shape == value.shape for key, value in wanted.items())
    return same > len(taken) / 2


def _same_shapes(found: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> bool:
    """Whether most shapes are the same, whatever the keys."""
    common = Counter(value.shape for value in found.values()) & Counter(v.shape for v in taken.values())
    return common.total() > len(taken) / 2


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        wrapped = next((loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)), loaded)
        names = ", ".join(printable(str(name)) for name in list(wrapped)[:5])
        return f"a dictionary with the keys {names or '(none)'}"
    return f"a {type(loaded).__name__}"
