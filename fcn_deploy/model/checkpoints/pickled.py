"""A file of torch.save -> dictionaries, lists and tensors, without running code from it.

The pickle is read as data first, and what it says of storages is checked. Then torch reads the file with
``weights_only=True``. What torch refuses, because it is a whole module or of another protocol than torch's
own, is taken from the data. Why so: decision 11 in docs/explanation/decisions.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fcn_deploy.errors import ModelError
from fcn_deploy.model.checkpoints.archives import STORAGE_NAMES, Archive, NotSavedByTorch, opened
from fcn_deploy.model.checkpoints.modules import is_module, plain
from fcn_deploy.model.checkpoints.unpickling import MalformedPickle, printable

_SAFE_TO_SKIP = (
    "argparse.Namespace",
    *(
        f"numpy{core}.multiarray.{name}"
        for core in (".core", "._core")
        for name in ("scalar", "_reconstruct")
    ),
    *(f"numpy{core}.numeric._frombuffer" for core in (".core", "._core")),
    *("numpy.dtype", "numpy.ndarray", "types.SimpleNamespace", "copyreg._reconstructor"),
    *(f"pathlib{local}.{kind}" for local in ("", "._local") for kind in ("PosixPath", "WindowsPath")),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta")),
    *(
        f"builtins.{kind}"
        for kind in ("dict", "float", "frozenset", "int", "list", "object", "slice", "tuple")
    ),
)
"""What training scripts store beside the weights: arguments, metrics, paths, times.

Constructed, none of them runs code of the file: ``Namespace`` and ``SimpleNamespace`` set their own
``__dict__``, numpy's functions copy bytes into a scalar or an array of a dtype, paths and times keep text and
numbers, and ``_reconstructor`` makes an empty object. Still none is constructed: numpy's ``dtype`` takes
offsets from its pickled state and trusts them, and nothing here is needed, so :class:`_Skipped` stands in for
all of them.
"""
_DATA = {
    *("collections.OrderedDict", "collections.Counter", "collections.defaultdict", "_codecs.encode"),
    *("builtins.set", "builtins.bytearray", "builtins.complex"),
    *("torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"),
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    "torch._tensor._rebuild_from_type_v2",
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
    *STORAGE_NAMES,
    *_SAFE_TO_SKIP,
}
"""Names in a pickle that are not worth a refusal. All others are told to the user."""

_LOGS = {"mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr"}
"""mmengine's training checkpoints keep its logs beside the weights, and name a method of them by ``getattr``.
They are read as data, like everything else."""


class _Skipped:
    """Stands in for a class or function that is :data:`_SAFE_TO_SKIP`: takes anything, keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _Skipped:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _no_default(*_: object) -> dict[Any, Any]:
    """Stands in for ``defaultdict``: its factory would only run for a key that is missing."""
    return {}


def load_pickled(path: Path, kind: str) -> Any:
    """What a file of torch.save holds.

    Args:
        kind: what :func:`fcn_deploy.model.checkpoints.containers.container_of` says.

    Returns:
        Dictionaries, lists, tensors and numbers;
        :class:`fcn_deploy.model.checkpoints.modules.PickledModule` for a module that was saved whole.

    Raises:
        ModelError: it is damaged, or names classes that are neither data nor part of a module.
    """
    try:
        with opened(path, kind) as archive:
            loaded = _by_torch(path) if archive.pickled.protocol == 2 else None
            if loaded is not None:
                return loaded
            _require_known_names(path, archive)
            return plain(path, archive)
    except NotSavedByTorch:
        raise ModelError(
            f"{path} is a pickle that torch.save did not write, and was not loaded, because a pickle can run "
            "any code; save the weights with torch.save, or as safetensors, and use that"
        ) from None
    except MalformedPickle as exc:
        raise ModelError(f"{path} is not a complete PyTorch checkpoint ({exc}); copy it again") from exc


def _by_torch(path: Path) -> Any:
    """What torch's own restricted reader makes of a file; None where it refuses it.

    torch keeps its list of allowed names for the whole process. Where another thread empties it meanwhile,
    torch refuses more than it must, and the data that is read already is used.
    """
    allowed: list[Any] = [(_Skipped, name) for name in _SAFE_TO_SKIP]
    try:
        with torch.serialization.safe_globals([*allowed, (_no_default, "collections.defaultdict")]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many classes; what is wrong is told from the pickle
        return None


def _require_known_names(path: Path, archive: Archive) -> None:
    """Refuse a file that names classes, unless it is for a whole module, whose tensors can be taken."""
    foreign = [name for name in archive.pickled.names if name not in _DATA]
    if foreign and set(foreign) == _LOGS:
        return
    if foreign and not any(map(is_module, archive.pickled.calls)):
        raise ModelError(
            f"{path} was not loaded: it holds {_listed(foreign)}, and a pickle that names classes or "
            "functions can run any code; where you trust it, save its weights alone: import torch; "
            f'checkpoint = torch.load("{path.name}", weights_only=False); '
            'torch.save(checkpoint["model"], "weights.pth"), with the key that your training script used'
        )


def _listed(names: Iterable[str]) -> str:
    shown = [f"a `{printable(name)}`" for name in names]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more
