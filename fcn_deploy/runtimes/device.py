"""Runtimes that also take frames that are already on their device."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

from fcn_deploy.runtimes.base import Runtime
from fcn_deploy.runtimes.cuda import DeviceSegmentation


class DeviceRuntime(Runtime):
    """A runtime that also takes frames in device memory."""

    @abstractmethod
    def _infer_device(self, images: Any) -> DeviceSegmentation:
        """As :meth:`~fcn_deploy.runtimes.segmenter.Segmenter.infer_device`; frames are not checked yet."""

    @final
    def infer_device(self, images: Any) -> DeviceSegmentation:
        """As :meth:`~fcn_deploy.runtimes.segmenter.Segmenter.infer_device`."""
        self._require_open()
        with self._mapped_errors("frames on the device"):
            return self._infer_device(images)
