"""Any checkpoint file -> its state_dict and metadata, without running code from it.

A checkpoint is untrusted input: pickles are read with ``weights_only=True``, which runs no code,
and safetensors hold none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fcn_deploy.errors import ModelError

_WRAPPERS = ("model_state_dict", "state_dict", "model")
"""Keys under which a checkpoint may hold its state_dict; the first one found is used."""
_AVERAGE = re.compile(r"ema|avg|average|shadow", re.IGNORECASE)
"""In the names of weights that were averaged over the steps of training."""
_DEPTH = 4
"""How many levels of a checkpoint are searched for other weights."""


@dataclass(frozen=True)
class StoredWeights:
    """What a checkpoint file holds."""

    path: Path
    state: dict[str, Tensor]
    """Tensors by name, floating point ones as float32, without the prefix of DataParallel."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Of safetensors; a pickle has none."""
    assumptions: tuple[str, ...] = ()
    """Which set of weights was used, where the file holds several."""


def read(path: Path, key: str | None = None) -> StoredWeights:
    """The weights of a file.

    Raises:
        ModelError: it is damaged, or holds no state_dict, or more than tensors.
    """
    metadata: dict[str, str] = {}
    assumptions: tuple[str, ...] = ()
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, assumptions = _unwrap(path, _unpickle(path))
    state = {key: v.float() if v.is_floating_point() else v for key, v in _bare(state).items()}
    return StoredWeights(path, state, metadata, assumptions)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as exc:
        raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises many classes for damaged or unsafe files
        if _is_pickle(path) and ("weights_only" in str(exc) or "Weights only" in str(exc)):
            raise ModelError(
                f"{path} holds more than tensors and was not loaded, because a pickle can run any "
                "code; save its state_dict() alone, or as safetensors, and use that"
            ) from exc
        raise ModelError(
            f"{path} is not a complete PyTorch checkpoint ({type(exc).__name__}); copy it again"
        ) from exc


def _is_pickle(path: Path) -> bool:
    """Whether it begins like a zip archive of torch or like a pickle; a saved web page does not."""
    with open(path, "rb") as stream:
        return stream.read(2).startswith((b"PK", b"\x80"))


def _unwrap(path: Path, loaded: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state_dict, bare or one level deep, and which one it is where there are several."""
    wrappers = _WRAPPERS if isinstance(loaded, Mapping) else ()
    key = next((name for name in wrappers if isinstance(loaded.get(name), Mapping)), None)
    taken = loaded if key is None else loaded[key]
    if not _is_state_dict(taken):
        raise ModelError(
            f"{path} does not hold a state_dict: expected tensors by name, bare or under one of "
            f"{', '.join(_WRAPPERS)}, found {_describe(taken)}"
        )
    if key is None:
        return dict(taken), ()
    others = [repr(place) for place in _other_weights(loaded, taken, {id(taken)})]
    return dict(taken), (_choice(key, others),) if others else ()


def _choice(taken: str, others: list[str]) -> str:
    """A sentence that says which of several sets of weights was used."""
    if len(others) == 1:
        unused = f"{others[0]} holds another set of weights, which was not used"
    else:
        unused = f"{', '.join(others[:-1])} and {others[-1]} hold other sets of weights, which were not used"
    return f"took the weights under {taken!r}; {unused}"


def _is_state_dict(found: object) -> bool:
    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    )


def _other_weights(
    loaded: object, taken: Mapping[str, Tensor], seen: set[int], above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Where a checkpoint holds other weights of the same network: ``ema.shadow``. Optimizers have none.

    They have the same keys; or, under a name that says that they are averages, the same shapes.

    Args:
        seen: ids of what is left out. Each object is looked at once: a hostile file may hold it often.
        above: names from the top down to ``loaded``.
    """
    for name, value in _items(loaded):
        if name.startswith("optim") or id(value) in seen:
            continue
        seen.add(id(value))
        place = ".".join((*above, name))
        tensors = {key: below for key, below in _items(value) if isinstance(below, Tensor)}
        if _same_keys(tensors, taken) or (_AVERAGE.search(place) and _same_shapes(tensors, taken)):
            yield place
        elif len(above) + 1 < _DEPTH:
            yield from _other_weights(value, taken, seen, (*above, name))


def _items(value: object) -> Iterable[tuple[str, object]]:
    """Names and values of a mapping, positions and values of a list; nothing of anything else."""
    if isinstance(value, Mapping):
        return ((str(key), below) for key, below in value.items())
    return ((str(i), below) for i, below in enumerate(value)) if isinstance(value, (list, tuple)) else ()


def _same_keys(found: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> bool:
    """Whether most keys and their shapes are the same."""
    other = _bare(found)
    same = sum(key in other and other[key].shape == value.shape for key, value in _bare(taken).items())
    return same > len(taken) / 2


def _same_shapes(found: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> bool:
    """Whether most shapes are the same, whatever the keys."""
    common = Counter(value.shape for value in found.values()) & Counter(v.shape for v in taken.values())
    return common.total() > len(taken) / 2


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in state.items()}


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, list(loaded)[:5])) or '(none)'}"
    return f"a {type(loaded).__name__}"
