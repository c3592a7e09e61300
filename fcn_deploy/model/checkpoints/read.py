"""Reading a checkpoint file without running code.

A checkpoint is untrusted input: pickles are read with ``weights_only=True``, which runs no code,
and safetensors hold none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fcn_deploy.errors import ModelError

_WRAPPERS = ("model_state_dict", "state_dict", "model")


SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The bare tensors of a file and its metadata. Raises ModelError where it is damaged."""
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, framework="pt") as opened:
                state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                metadata = opened.metadata() or {}
        except (safetensors.SafetensorError, OSError) as exc:
            raise ModelError(f"{path} is not a complete safetensors file ({exc}); copy it again") from exc
    else:
        state, metadata = _unwrap(path, _unpickle(path)), {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }, metadata


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
    """Whether it begins as torch's zip archives or as pickles do; a saved web page does not."""
    with open(path, "rb") as stream:
        return stream.read(2).startswith((b"PK", b"\x80"))


def _unwrap(path: Path, loaded: Any) -> dict[str, Tensor]:
    """The state_dict, bare or one level deep."""
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if (
        not isinstance(loaded, Mapping)
        or not loaded
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items())
    ):
        raise ModelError(
            f"{path} does not hold a state_dict: expected tensors by name, bare or under one of "
            f"{', '.join(_WRAPPERS)}, found {_describe(loaded)}"
        )
    return dict(loaded)


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, list(loaded)[:5])) or '(none)'}"
    return f"a {type(loaded).__name__}"
