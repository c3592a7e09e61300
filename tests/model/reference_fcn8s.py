"""A second implementation of the paper's FCN-8s, the ``same`` and the ``lecture`` family, in numpy alone.

It exists so that the module is not compared with itself. It is written from the layer table, the
authors' Caffe definition and the formulas of each operation, it shares no code and no library with
``fcn_deploy.model``, and it computes in float64. Weights are a plain dict of arrays under the
names of the public checkpoints (``conv1_1.weight`` and so on); channels are read off their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[np.floating]]

BLOCKS = (
    ("conv1_1", "conv1_2"),
    ("conv2_1", "conv2_2"),
    ("conv3_1", "conv3_2", "conv3_3"),
    ("conv4_1", "conv4_2", "conv4_3"),
    ("conv5_1", "conv5_2", "conv5_3"),
)


@dataclass(frozen=True)
class Paper:
    """The numbers of the Caffe definition that no weight tells. Another value is a planted bug."""

    padding: int = 100
    fc6_padding: int = 0
    crops: tuple[int, int, int] = (5, 9, 31)
    scales: tuple[float, float] = (1.0, 1.0)
    ceil_mode: bool = True
    fc_relu: bool = True


FCN8S = Paper()
ATONCE = Paper(scales=(0.01, 0.0001))
SAME = Paper(padding=1, fc6_padding=3, crops=(0, 0, 0))
LECTURE = Paper(padding=1, ceil_mode=False)
NORELU = Paper(padding=1, ceil_mode=False, fc_relu=False)


def logits(frame: Array, weights: Weights, variant: str, *, learned_upscore: bool = False) -> Array:
    """Logits float64 [C, H, W] for a normalised frame [3, H, W] of any size from 1x1.

    ``variant`` is one of the paper's two, which take their upscore kernels from ``weights``, of the
    ``same`` family, which does only where they were learned, or of the ``lecture`` family, whose frame is
    padded with zeros below and to the right.
    """
    if variant == "fcn8s":
        return paper_logits(frame, weights, FCN8S)
    if variant == "fcn8s-atonce":
        return paper_logits(frame, weights, ATONCE)
    if variant == "fcn8s-lecture":
        return lecture_logits(frame, weights, LECTURE)
    if variant == "fcn8s-lecture-norelu":
        return lecture_logits(frame, weights, NORELU)
    assert variant in ("fcn8s-same", "fcn8s-lite"), variant
    return same_logits(frame, weights, learned_upscore=learned_upscore)


def paper_logits(frame: Array, weights: Weights, paper: Paper = FCN8S) -> Array:
    """The paper's network, layer by layer as in the authors' ``deploy.prototxt``."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    pool3, pool4, fc7 = trunk(frame, w, paper)
    scale4, scale3 = paper.scales
    crop4, crop3, crop_frame = paper.crops

    score_fr = conv(fc7, w, "score_fr")
    upscore2 = deconv(score_fr, w["upscore2.weight"], stride=2)
    score_pool4 = conv(pool4 * scale4, w, "score_pool4")
    fuse_pool4 = upscore2 + crop(score_pool4, crop4, like=upscore2)

    upscore_pool4 = deconv(fuse_pool4, w["upscore_pool4.weight"], stride=2)
    score_pool3 = conv(pool3 * scale3, w, "score_pool3")
    fuse_pool3 = upscore_pool4 + crop(score_pool3, crop3, like=upscore_pool4)

    upscore8 = deconv(fuse_pool3, w["upscore8.weight"], stride=8)
    return crop(upscore8, crop_frame, like=frame)


def same_logits(
    frame: Array, weights: Weights, *, learned_upscore: bool = False, geometry: Paper = SAME
) -> Array:
    """The ``same`` family: nothing is padded that a layer does not need, and nothing wasted.

    Each upscore gives a multiple of its input's size, at least that of what it meets (pooling
    rounds up), and is cropped to it from the top left.
    """
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    pool3, pool4, fc7 = trunk(frame, w, geometry)

    def upscore(x: Array, name: str, factor: int, like: Array) -> Array:
        if learned_upscore:
            # The kernel reaches factor/2 beyond the cells it grows on each side.
            grown = deconv(x, w[f"{name}.weight"], stride=factor)
            offset = factor // 2
        else:
            grown, offset = resize_half_pixel(x, factor), 0
        return crop(grown, offset, like=like)

    fused = upscore(conv(fc7, w, "score_fr"), "upscore2", 2, like=pool4) + conv(pool4, w, "score_pool4")
    fused = upscore(fused, "upscore_pool4", 2, like=pool3) + conv(pool3, w, "score_pool3")
    return upscore(fused, "upscore8", 8, like=frame)


def lecture_logits(frame: Array, weights: Weights, numbers: Paper) -> Array:
    """The ``lecture`` family: frames of multiples of 32, so that twice a map is the map before it."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    below, right = (-length % 32 for length in frame.shape[1:])
    pool3, pool4, fc7 = trunk(np.pad(frame, ((0, 0), (0, below), (0, right))), w, numbers)

    def upscore(x: Array, name: str, factor: int) -> Array:
        grown = deconv(x, w[f"{name}.weight"], stride=factor) + w[f"{name}.bias"][:, None, None]
        cut = factor // 2
        return grown[:, cut:-cut, cut:-cut]

    fused = upscore(conv(fc7, w, "score_fr"), "upscore2", 2) + conv(pool4, w, "score_pool4")
    fused = upscore(fused, "upscore_pool4", 2) + conv(pool3, w, "score_pool3")
    return crop(upscore(fused, "upscore8", 8), 0, like=frame)


def trunk(frame: Array, w: Mapping[str, Array], numbers: Paper) -> tuple[Array, Array, Array]:
    """VGG16 as convolutions: pool3, pool4 and fc7 (dropout does nothing outside training)."""
    x, pools = np.asarray(frame, dtype=np.float64), []
    for block in BLOCKS:
        for name in block:
            x = relu(conv(x, w, name, padding=numbers.padding if name == "conv1_1" else 1))
        x = max_pool(x, ceil_mode=numbers.ceil_mode)
        pools.append(x)
    activate = relu if numbers.fc_relu else np.asarray
    fc6 = activate(conv(x, w, "fc6", padding=numbers.fc6_padding))
    return pools[2], pools[3], activate(conv(fc6, w, "fc7"))


def conv(x: Array, w: Mapping[str, Array], name: str, *, padding: int = 0) -> Array:
    """out[o, y, x] = bias[o] + the sum over i, v, u of kernel[o, i, v, u] * in[i, y + v, x + u]."""
    kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    outputs, inputs, kh, kw = kernel.shape
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    assert height >= 1 and width >= 1, f"{name}: {x.shape} is smaller than its kernel"
    seen = np.empty((inputs, kh, kw, height, width))  # what each tap of the kernel looks at
    for v in range(kh):
        for u in range(kw):
            seen[:, v, u] = x[:, v : v + height, u : u + width]
    out = kernel.reshape(outputs, -1) @ seen.reshape(inputs * kh * kw, -1) + bias[:, None]
    return out.reshape(outputs, height, width)


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def max_pool(x: Array, *, ceil_mode: bool = True) -> Array:
    """2x2 windows, 2 apart. Caffe rounds up: the last window may hold one row or column."""

    def along(x: Array, axis: int) -> Array:
        length = x.shape[axis]
        count = -(-length // 2) if ceil_mode else length // 2
        windows = [np.arange(2 * i, min(2 * i + 2, length)) for i in range(count)]
        return np.stack([x.take(window, axis).max(axis) for window in windows], axis)

    return along(along(x, 1), 2)


def deconv(x: Array, kernel: Array, *, stride: int) -> Array:
    """Transposed convolution without padding: each cell scatters its own copy of the kernel.

    ``kernel`` is [in, out, k, k]; out[o, stride * y + v, stride * x + u] gathers
    in[i, y, x] * kernel[i, o, v, u].
    """
    _, outputs, kh, kw = kernel.shape
    _, height, width = x.shape
    out = np.zeros((outputs, stride * (height - 1) + kh, stride * (width - 1) + kw))
    for y in range(height):
        for xx in range(width):
            patch = np.tensordot(x[:, y, xx], kernel, axes=1)
            out[:, stride * y : stride * y + kh, stride * xx : stride * xx + kw] += patch
    return out


def resize_half_pixel(x: Array, factor: int) -> Array:
    """Bilinear, ``factor`` times larger; pixel i covers i..i+1, so its centre is i + 0.5.

    Output centre (i + 0.5) / factor falls between two input centres; beyond the outermost ones the
    edge is repeated.
    """

    def along(x: Array, axis: int) -> Array:
        length = x.shape[axis]
        lines = []
        for i in range(length * factor):
            position = (i + 0.5) / factor - 0.5
            below = int(np.floor(position))
            share = position - below
            first, second = (min(max(j, 0), length - 1) for j in (below, below + 1))
            lines.append((1 - share) * x.take(first, axis) + share * x.take(second, axis))
        return np.stack(lines, axis)

    return along(along(x, 1), 2)


def crop(x: Array, offset: int, *, like: Array) -> Array:
    """``x`` from ``offset`` on, to the height and width of ``like``; it must reach that far."""
    height, width = like.shape[1:]
    out = x[:, offset : offset + height, offset : offset + width]
    assert out.shape[1:] == (height, width), f"{x.shape} from {offset} on does not hold {height}x{width}"
    return out


def bilinear_kernel(size: int) -> Array:
    """The paper's upscore filter [size, size]: a tent around the centre, one at factor apart.

    Centre and factor as in the authors' ``upsample_filt``: factor = (size + 1) // 2.
    """
    factor = (size + 1) // 2
    centre = factor - 1.0 if size % 2 else factor - 0.5
    tent = np.array([1 - abs(i - centre) / factor for i in range(size)])
    return tent[:, None] * tent[None, :]


def crop_offsets(padding: int = 100) -> tuple[int, int, int]:
    """The three crop offsets, from where each layer's cells lie on the frame.

    Cell i of a layer has its centre at ``step * i + start`` in frame coordinates.
    """
    step, start = 1.0, 1.0 - padding  # conv1_1: 3x3; the other 3x3 convolutions keep the grid
    grids = []
    for _ in BLOCKS:
        step, start = 2 * step, start + step / 2  # the centre of two cells
        grids.append((step, start))
    start += 3 * step  # fc6: 7x7 without padding; score_fr is 1x1

    offsets = []
    for factor, target in ((2, grids[3]), (2, grids[2]), (8, (1.0, 0.0))):
        kernel = 2 * factor
        step, start = step / factor, start - step / factor * (kernel - 1) / 2
        # The skips begin before the upscores they meet, the last upscore before the frame.
        offset = abs(start - target[1]) / step
        assert step == target[0] and offset.is_integer(), "the grids of the two meet"
        offsets.append(int(offset))
    return offsets[0], offsets[1], offsets[2]
