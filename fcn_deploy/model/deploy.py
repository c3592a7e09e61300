"""DeployModel: uint8 frames in, uint8 labels out, around any FCN8s.

Everything that has to be the same in training and on the device is part of the graph: colour
order, mean, scale, padding, upsampling, crop and argmax. The device does not implement any of it.

Parts of the network are rewritten with other operators that give the same numbers in less time.
Each rewrite can be switched off, and the tests compare each with the plain module;
``docs/explanation/deploy-graph.md`` has the proofs and the times.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.model.fcn8s import FCN8s, crop_like
from fcn_deploy.spec import ModelSpec

_MARGIN = 4
"""The output of a stride-8 transposed convolution without padding is the resize by 8, shifted by 4 pixels."""


@dataclass(frozen=True)
class Rewrites:
    """Which equal but faster forms the deploy graph uses."""

    fold_input: bool = True
    """Colour swap and scale go into the weights of conv1_1; only the mean stays an operator."""
    resize_upscore8: bool = True
    """A fixed bilinear transposed convolution becomes a resize of the cells that are kept.

    Replicated edges differ from the transposed convolution's zeros only within 4 pixels of the
    border, and the crop at 31 keeps at least 27 pixels away from it.
    """
    crop_labels: bool = True
    """The final crop cuts the labels, one byte a pixel, instead of the logits of every class."""


NO_REWRITES = Rewrites(fold_input=False, resize_upscore8=False, crop_labels=False)


class DeployModel(nn.Module):
    """The deploy graph as a module.

    Args:
        model: any FCN8s; it is copied, not changed.
        spec: colour order, mean and scale.
        outputs: ``labels`` and on request ``confidence`` and ``logits``; None uses the spec's.
        rewrites: which faster forms to use.
    """

    def __init__(
        self,
        model: FCN8s,
        spec: ModelSpec,
        outputs: tuple[str, ...] | None = None,
        rewrites: Rewrites = Rewrites(),
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self.outputs = spec.outputs if outputs is None else outputs
        self.rewrites = rewrites
        self.swap = spec.color_order == "rgb"
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        if rewrites.fold_input:
            self._fold_input(std)
            mean = mean.flip(0) if self.swap else mean
        self.register_buffer("mean", mean.reshape(3, 1, 1))
        self.register_buffer("std", std.reshape(3, 1, 1))

        variant = self.model.variant
        self.resize_cells = rewrites.resize_upscore8 and not variant.resize and not model.learned_upscore
        self.offset = variant.crops[2]
        """Where the frame starts in the logits that are not cropped yet."""
        if self.resize_cells:
            self.first_cell = (self.offset - _MARGIN) // 8 - 1  # the first that the frame needs
            self.offset -= _MARGIN + 8 * self.first_cell

    @torch.no_grad()
    def _fold_input(self, std: Tensor) -> None:
        """The mean is not folded: the padding is zero after it is subtracted, not before."""
        weight = self.model.conv1_1.weight
        weight.div_(std.reshape(1, 3, 1, 1))
        if self.swap:
            weight.copy_(weight.flip(1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Label frames.

        Args:
            image: uint8 ``[N, H, W, 3]`` in the spec's colour order.

        Returns:
            One tensor for each of ``outputs``: labels uint8 ``[N, H, W]``, confidence float32
            ``[N, H, W]``, logits float32 ``[N, classes, H, W]``.
        """
        frames = self.normalise(image)
        scores = self.model.fuse(*self.model.trunk(frames))
        logits = self.upscore(scores, frames)
        late = self.rewrites.crop_labels and "logits" not in self.outputs
        if not late:
            logits = crop_like(logits, frames, self.offset)
        results = {"labels": logits.argmax(1)}
        if "confidence" in self.outputs:
            results["confidence"] = F.softmax(logits, dim=1).amax(1)
        if late:
            results = {name: crop_like(result, frames, self.offset) for name, result in results.items()}
        # TensorRT makes uint8 only from float, not from the integers of argmax.
        results["labels"] = results["labels"].float().to(torch.uint8)
        results["logits"] = logits
        return tuple(results[name] for name in self.outputs)

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 ``[N, H, W, 3]`` -> float ``[N, 3, H, W]``; Cast comes first, as TensorRT wants."""
        x = image.float().permute(0, 3, 1, 2)
        if self.rewrites.fold_input:
            return x - cast(Tensor, self.mean)
        if self.swap:
            x = x.flip(1)
        return (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def upscore(self, scores: Tensor, frames: Tensor) -> Tensor:
        """Logits that cover the frame from :attr:`offset` on."""
        if not self.resize_cells:
            return cast(Tensor, self.model.upscore8(scores))
        # Interpolating the last pixel reads one more cell, so round up and add one.
        height, width = frames.shape[-2:]
        rows = (height + self.offset + 7) // 8 + 1
        columns = (width + self.offset + 7) // 8 + 1
        first = self.first_cell
        cells = scores[..., first : first + rows, first : first + columns]
        return F.interpolate(cells, scale_factor=8.0, mode="bilinear", align_corners=False)


def reference_logits(model: FCN8s, spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What every artefact is compared with: the plain module behind numpy preprocessing.

    Args:
        model: the network, in float32.
        spec: colour order, mean and scale.
        images: uint8 ``[N, H, W, 3]`` in the spec's colour order.

    Returns:
        float32 ``[N, classes, H, W]``.
    """
    bgr = images[..., ::-1] if spec.color_order == "rgb" else images
    normalised = (bgr.astype(np.float32) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    frames = torch.from_numpy(np.ascontiguousarray(normalised.transpose(0, 3, 1, 2)))
    training = model.training
    with torch.inference_mode():
        logits = model.eval()(frames)
    model.train(training)
    return cast("NDArray[np.float32]", logits.numpy())


def reference_labels(model: FCN8s, spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The labels of :func:`reference_logits`, uint8 ``[N, H, W]``."""
    labels: NDArray[np.uint8] = reference_logits(model, spec, images).argmax(1).astype(np.uint8)
    return labels
