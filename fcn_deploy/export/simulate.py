"""fp16 on a machine without it: a simulation that rounds where a device would.

ONNX Runtime's CPU provider computes fp16 graphs in fp32, so its answers say nothing about fp16. Here
weights and the output of every layer are rounded to half precision, and what overflows becomes
infinite, as on a device. Sums inside a convolution stay in fp32, as tensor cores keep them. It is a
simulation: which kernels a device chooses is known only there.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.model.deploy import DeployModel, Rewrites
from fcn_deploy.model.fcn8s import FCN8s, Upscore
from fcn_deploy.runtimes.base import Segmentation, check_frames
from fcn_deploy.spec import ModelSpec


class SimulatedFp16:
    """Answers as :class:`~fcn_deploy.runtimes.base.Runtime` does, so that ``evaluate`` takes it.

    Args:
        model: the network, in float32; it is copied.
        spec: its description.
    """

    backend = "pytorch, fp16 simulated"

    def __init__(self, model: FCN8s, spec: ModelSpec) -> None:
        self.spec = spec
        # The resize that stands for upscore8 is no layer, so it would leave its logits unrounded.
        layers_only = Rewrites(resize_upscore8=False)
        self._deploy = DeployModel(round_layers(model), spec, ("labels",), layers_only).eval()
        # What the first convolution reads is rounded too; the mean is subtracted in fp32.
        self._deploy.model.conv1_1.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))

    @torch.inference_mode()
    def infer(self, images: NDArray[np.uint8]) -> Segmentation:
        """Labels of uint8 ``[N, H, W, 3]`` frames. Raises SourceError as every runtime does."""
        (labels,) = self._deploy(torch.from_numpy(check_frames(images, self.spec)))
        return Segmentation(labels=labels.numpy(), spec=self.spec)


def rounded(x: Tensor) -> Tensor:
    """``x`` at half precision, still stored as float32; beyond 65504 it is infinite."""
    return x.half().float()


def round_layers(model: FCN8s) -> FCN8s:
    """A copy with fp16 weights whose layers, sums of skips included, give fp16 numbers."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(rounded(weight))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | Upscore):
            module.register_forward_hook(lambda _, __, out: rounded(out))
    fuse = model.fuse
    setattr(model, "fuse", lambda *maps: rounded(fuse(*maps)))  # noqa: B010 - mypy knows it as a method
    return model
