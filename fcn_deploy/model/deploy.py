"""DeployModel: uint8 frames in, uint8 labels out, around any Network.

Everything that has to be the same in training and on the device is part of the graph: colour
order, mean, scale, padding, upsampling, crop and argmax. The device does not implement any of it.

Parts of the network are rewritten with other operators that give the same numbers in less time.
Each rewrite can be switched off, and the tests compare each with the plain module;
``docs/explanation/deploy-graph.md`` has the proofs and the times.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.model.network import Network, Rewrites, dtype_of
from fcn_deploy.spec import ModelSpec

Crop = Callable[[Tensor, int, int, int], Tensor]
"""A result, the row and column where the frame starts in it, the frame's height and width -> the frame."""


def crop_by_slice(result: Tensor, offset: int, height: int, width: int) -> Tensor:
    """The frame as a view."""
    return result[..., offset : offset + height, offset : offset + width]


def crop_by_index(result: Tensor, offset: int, height: int, width: int) -> Tensor:
    """The frame as a copy. For torch.export: a slice asks whether it is the whole, which sizes decide."""
    rows = torch.arange(offset, offset + height, device=result.device)
    columns = torch.arange(offset, offset + width, device=result.device)
    return result.index_select(-2, rows).index_select(-1, columns)


class DeployModel(nn.Module):
    """The deploy graph as a module.

    Args:
        model: any network; it is copied, not changed.
        spec: colour order, mean and scale.
        outputs: ``labels`` and on request ``confidence`` and ``logits``; None uses the spec's.
        rewrites: which faster forms to use.
        crop: how results are cut to the frame.
    """

    def __init__(
        self,
        model: Network,
        spec: ModelSpec,
        outputs: tuple[str, ...] | None = None,
        rewrites: Rewrites = Rewrites(),  # noqa: B008 - frozen
        crop: Crop = crop_by_slice,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self.outputs = spec.outputs if outputs is None else outputs
        self.rewrites = rewrites
        self.crop = crop
        self.swap = spec.color_order != model.channel_order
        """Whether frames come in the reverse of the network's channel order."""
        mean, std = _in_order(spec.mean, model), _in_order(spec.std, model)
        self.folded = rewrites.fold_input and self.model.absorb_preparation(std, self.swap)
        if self.folded and self.swap:
            mean = mean.flip(0)
        self.register_buffer("mean", mean.reshape(3, 1, 1))
        self.register_buffer("std", std.reshape(3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Label frames.

        Args:
            image: uint8 ``[N, H, W, 3]`` in the spec's colour order.

        Returns:
            One tensor for each of ``outputs``: labels uint8 ``[N, H, W]``, confidence float32
            ``[N, H, W]``, logits float32 ``[N, classes, H, W]``.
        """
        height, width = image.shape[1:3]
        frames = self.padded(self.normalise(image)).to(dtype_of(self.model))
        logits, offset = self.model.logits_to_crop(frames, self.rewrites)
        late = self.rewrites.crop_labels and "logits" not in self.outputs
        if not late:
            logits = self.crop(logits, offset, height, width)
        results = {"labels": logits.argmax(1)}
        if "confidence" in self.outputs:
            results["confidence"] = confidence(logits, self.model.threshold)
        if late:
            results = {name: self.crop(result, offset, height, width) for name, result in results.items()}
        # TensorRT makes uint8 only from float, not from the integers of argmax.
        results["labels"] = results["labels"].float().to(torch.uint8)
        results["logits"] = logits
        return tuple(results[name] for name in self.outputs)

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 ``[N, H, W, 3]`` -> float ``[N, 3, H, W]``; Cast comes first, as TensorRT wants."""
        x = image.float().permute(0, 3, 1, 2)
        if self.folded:
            return x - cast(Tensor, self.mean)
        if self.swap:
            x = x.flip(1)
        return (x - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def padded(self, frames: Tensor) -> Tensor:
        """Prepared frames with zeros below and to the right, up to the network's size multiple."""
        multiple = self.model.size_multiple
        if multiple == 1:
            return frames
        height, width = frames.shape[-2:]
        # Written as rows of blocks: so the exporter knows that half of it is a whole number.
        below = multiple * ((height + multiple - 1) // multiple) - height
        right = multiple * ((width + multiple - 1) // multiple) - width
        return F.pad(frames, (0, right, 0, below))


def confidence(logits: Tensor, threshold: float | None) -> Tensor:
    """Probability of the winning class, ``[N, H, W]``.

    Args:
        logits: ``[N, classes, H, W]``.
        threshold: as :attr:`Network.threshold`; there are two channels then, of which the second is the
            network's own.
    """
    if threshold is None:
        return F.softmax(logits, dim=1).amax(1)
    probability = torch.sigmoid(logits[:, 1])
    return torch.where(logits[:, 1] > logits[:, 0], probability, 1 - probability)


def _in_order(values: tuple[float, float, float], model: Network) -> Tensor:
    """The spec's B, G, R in the order that the network reads."""
    return torch.tensor(values if model.channel_order == "bgr" else values[::-1])


def reference_logits(model: Network, spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    """What every artefact is compared with: the plain module behind numpy preprocessing.

    Args:
        model: the network, in float32 or float64.
        spec: colour order, mean and scale.
        images: uint8 ``[N, H, W, 3]`` in the spec's colour order.

    Returns:
        ``[N, classes, H, W]`` in the network's type.
    """
    frames = prepared_frames(model, spec, images).to(dtype_of(model))
    training = model.training
    with torch.inference_mode():
        logits = model.eval()(frames)
    model.train(training)
    height, width = images.shape[1:3]
    return cast("NDArray[np.floating[Any]]", logits[..., :height, :width].numpy())


def prepared_frames(model: Network, spec: ModelSpec, images: NDArray[np.uint8]) -> Tensor:
    """Frames as a network reads them, by numpy: float32 ``[N, 3, H, W]``, padded to its size multiple."""
    bgr = images[..., ::-1] if spec.color_order == "rgb" else images
    normalised = (bgr.astype(np.float32) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    ordered = normalised if model.channel_order == "bgr" else normalised[..., ::-1]
    below, right = (-length % model.size_multiple for length in images.shape[1:3])
    padded = np.pad(ordered, ((0, 0), (0, below), (0, right), (0, 0)))
    return torch.from_numpy(np.ascontiguousarray(padded.transpose(0, 3, 1, 2)))


def reference_labels(model: Network, spec: ModelSpec, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The labels of :func:`reference_logits`, uint8 ``[N, H, W]``."""
    labels: NDArray[np.uint8] = reference_logits(model, spec, images).argmax(1).astype(np.uint8)
    return labels
