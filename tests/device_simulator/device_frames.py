"""Frames in simulated device memory, offered as PyTorch or CuPy would offer them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from fcn_deploy.runtimes.cuda.arrays import DlTensor
from fcn_deploy.runtimes.cuda.device import open_device


class OnDevice:
    """Frames in simulated device memory, as a library would offer them."""

    def __init__(self, images: np.ndarray, binding: str, *, wait: bool = True) -> None:
        self.device = open_device(0, binding)
        self.stream = self.device.stream()
        pinned = self.device.pinned(images.nbytes)
        pinned.array[:] = images.reshape(-1)
        self.memory = self.device.memory(images.nbytes)
        self.stream.copy_in(self.memory, pinned, images.nbytes)
        if wait:
            self.stream.synchronize()
        self.described = self.__cuda_array_interface__ = {
            "shape": images.shape,
            "typestr": "|u1",
            "data": (self.memory.address, False),
            "strides": None,
            "version": 3,
            "stream": None if wait else self.stream.handle,
        }

    def changed(self, **entries: Any) -> OnDevice:
        self.__cuda_array_interface__ = {**self.described, **entries}
        return self


def fetched(array: Any, binding: str) -> np.ndarray:
    """What another library reads through an array's interface."""
    said = array.__cuda_array_interface__
    assert (said["version"], said["strides"], said["stream"]) == (3, None, None)
    device = open_device(0, binding)
    stream = device.stream()
    size = int(np.prod(said["shape"])) * np.dtype(said["typestr"]).itemsize
    pinned = device.pinned(size)
    with device.current() as driver:
        driver.copy_out(pinned.array, said["data"][0], stream.native)
    stream.synchronize()
    found = pinned.array.copy().view(said["typestr"]).reshape(said["shape"])
    device.close()
    return found


class DlPack:
    """A producer of DLPack capsules over simulated device memory."""

    def __init__(self, given: OnDevice, shape: tuple[int, ...], *, device: tuple[int, int] = (2, 0)) -> None:
        self.given, self.device, self.streams = given, device, []
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.tensor = DlTensor(given.memory.address, *device, len(shape), 1, 8, 1, self.shape, None, 0)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int) -> object:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)
