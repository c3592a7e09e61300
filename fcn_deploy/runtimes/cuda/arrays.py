"""Arrays in device memory: frames that are read without a copy, and results that stay on the GPU.

Frames come from any library that offers the CUDA Array Interface (PyTorch, CuPy, Numba,
PyNvVideoCodec) or DLPack; results offer the CUDA Array Interface. Nothing here copies data, and none
of those libraries is imported.

Sources: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html (version 3) and
https://dmlc.github.io/dlpack/latest/ (unversioned capsules).
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from fcn_deploy.errors import SourceError
from fcn_deploy.spec import ModelSpec

ALIGNMENT = 256
"""Bytes: engines may assume it of every address, and the driver aligns every allocation to it."""

_DLPACK_CUDA = 2
"""kDLCUDA."""

_DLPACK_UINT8 = (1, 8, 1)
"""kDLUInt, bits, lanes."""


@dataclass(frozen=True)
class DeviceFrames:
    """uint8 frames in device memory, contiguous and aligned."""

    address: int
    shape: tuple[int, ...]
    """``[N, H, W, 3]``, a batch axis being added to a single frame; not checked."""
    stream: int | None
    """CUstream whose work has to be done before they are read; None where they are ready."""
    owner: Any
    """Keeps the memory alive."""


def device_frames(images: Any, index: int, stream: int) -> DeviceFrames:
    """Frames on the GPU as they are. Their shape is not checked, only given a batch axis.

    Args:
        images: an object with ``__cuda_array_interface__`` or ``__dlpack__``, uint8 ``[H, W, 3]`` or
            ``[N, H, W, 3]``, contiguous, on the runtime's own GPU.
        index: number of the runtime's GPU.
        stream: handle of the stream that will read them; DLPack's producers make it wait.

    Raises:
        SourceError: another type, dtype, layout or device; says what was expected.
    """
    if hasattr(images, "__cuda_array_interface__"):
        found = _from_interface(images)
    elif hasattr(images, "__dlpack__"):
        found = _from_dlpack(images, index, stream)
    else:
        raise SourceError(
            "frames on the device need __cuda_array_interface__ or __dlpack__, which "
            f"{type(images).__name__} does not have; pass frames in host memory to infer()"
        )
    single = len(found.shape) == 3 and found.shape[-1] == 3
    if found.address % ALIGNMENT:
        raise SourceError(
            f"frames on the device must begin at a multiple of {ALIGNMENT} bytes, as whole allocations do; "
            "copy the part of a larger array first: .clone() (PyTorch) or .copy() (CuPy)"
        )
    return dataclasses.replace(found, shape=(1, *found.shape)) if single else found


@final
class DeviceArray:
    """A C-contiguous array in device memory that other libraries read without a copy.

    ``torch.as_tensor(array, device="cuda")`` and ``cupy.asarray(array)`` share its memory and keep
    this object alive. The memory is reused once the last such reference is gone.

    Args:
        address: of its first element.
        shape: of the array.
        dtype: of its elements, as numpy takes it.
        owner: kept alive as long as this array.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: Any, owner: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._address = address
        self._owner = owner

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; ``stream`` is None because the values are there already."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "strides": None,
            "version": 3,
            "stream": None,
        }


@final
@dataclass(frozen=True)
class DeviceSegmentation:
    """The result of :meth:`Segmenter.infer_device`: shapes and dtypes as in a Segmentation."""

    labels: DeviceArray
    spec: ModelSpec
    confidence: DeviceArray | None = None
    logits: DeviceArray | None = None


def _from_interface(images: Any) -> DeviceFrames:
    """Read a CUDA Array Interface of version 2 or 3."""
    interface = images.__cuda_array_interface__
    shape, typestr = tuple(interface["shape"]), interface["typestr"]
    _require_uint8(typestr.lstrip("|<>=") == "u1", typestr)
    strides = interface.get("strides")
    _require_contiguous(strides is None or _is_contiguous(shape, strides), shape, strides)
    if interface.get("mask") is not None:
        raise SourceError("frames with a mask cannot be labelled; pass the plain array")
    # None means that there is nothing to wait for; 0 is not allowed, 1 and 2 are the default streams.
    return DeviceFrames(int(interface["data"][0]), shape, interface.get("stream"), images)


class DlTensor(ctypes.Structure):
    """DLTensor of dlpack.h, the first member of a DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(images: Any, index: int, stream: int) -> DeviceFrames:
    """Read a DLPack capsule. It is kept and not marked as used, so its own destructor frees it."""
    device = tuple(map(int, images.__dlpack_device__()))
    if device != (_DLPACK_CUDA, index):
        raise SourceError(
            f"frames must lie on cuda:{index}, where the engine runs, and these lie on DLPack's device "
            f"{device}; move them there, or pass frames in host memory to infer()"
        )
    capsule = images.__dlpack__(stream=stream)
    tensor = _tensor_in(capsule)
    dtype = (tensor.code, tensor.bits, tensor.lanes)
    _require_uint8(dtype == _DLPACK_UINT8, dtype)
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    _require_contiguous(strides is None or _is_contiguous(shape, strides), shape, strides)
    return DeviceFrames((tensor.data or 0) + tensor.byte_offset, shape, None, capsule)


def _tensor_in(capsule: Any) -> DlTensor:
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return DlTensor.from_address(pointer_of(capsule, b"dltensor"))


def _is_contiguous(shape: tuple[int, ...], strides: Any) -> bool:
    """Whether strides of uint8 elements are those of a C-contiguous array; those of axes of length 1 may
    be anything."""
    return all(
        n == 1 or stride == math.prod(shape[axis + 1 :])
        for axis, (n, stride) in enumerate(zip(shape, strides, strict=True))
    )


def _require_uint8(ok: bool, found: object) -> None:
    if not ok:
        raise SourceError(f"frames must be uint8, not {found}; normalising is part of the model")


def _require_contiguous(ok: bool, shape: tuple[int, ...], strides: object) -> None:
    if not ok:
        raise SourceError(
            f"frames of shape {shape} must be contiguous on the device, and have strides {strides}; "
            "call .contiguous() (PyTorch) or cupy.ascontiguousarray first"
        )
