"""The CUDA driver: GPUs, memory, streams, events and graphs, through cuda-python or pycuda."""

from fcn_deploy.runtimes.cuda.arrays import DeviceArray, DeviceFrames, DeviceSegmentation, device_frames
from fcn_deploy.runtimes.cuda.device import Device, open_device
from fcn_deploy.runtimes.cuda.driver import BINDINGS, DeviceLost, binding_problem
from fcn_deploy.runtimes.cuda.gpus import (
    Gpu,
    describe_gpu,
    describe_gpus,
    driver_cuda,
    free_memory,
    gpu_problem,
)
from fcn_deploy.runtimes.cuda.streams import Event, Graph, Stream

__all__ = [
    "BINDINGS",
    "Device",
    "DeviceArray",
    "DeviceFrames",
    "DeviceLost",
    "DeviceSegmentation",
    "Event",
    "Gpu",
    "Graph",
    "Stream",
    "binding_problem",
    "describe_gpu",
    "describe_gpus",
    "device_frames",
    "driver_cuda",
    "free_memory",
    "gpu_problem",
    "open_device",
]
