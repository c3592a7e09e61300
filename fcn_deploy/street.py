"""The synthetic street clip: a drive along a street, with an exact label for each pixel.

It is there for demos and tests on machines that have no labelled frames. Every frame is a pure
function of seed, index and size, drawn with numpy alone: ground and house fronts by turning each
pixel back into a place in the street, everything that stands in the street as flat figures, far
ones first. Class ids are CamVid's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.datasets import Frame
from fcn_deploy.errors import UsageError

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, UNLABELLED = range(12)

Floats = NDArray[np.float32]
Color = tuple[float, float, float]

EYE = 1.5
"""Height of the camera above the road, in metres; the street below is in metres as well."""
SPEED = 0.5
"""Metres from one frame to the next."""
FAR = 90.0
KERB, FRONT = 4.2, 7.5
"""From the middle of the road to the pavement's edge and to the house fronts."""


@dataclass(frozen=True)
class _Figure:
    """Something that stands in the street: its place, its size and how it is painted."""

    x: float
    z: float
    width: float
    height: float
    paint: Callable[[_Canvas, _Figure, Floats, Floats], None]
    color: Color
    seed: int


class SyntheticStreet:
    """A clip of the synthetic street.

    Args:
        frames: how many.
        height: rows, at least 1.
        width: columns, at least 1.
        seed: another seed is another street.
        color_order: channel order of the images, ``bgr`` or ``rgb``.

    Raises:
        UsageError: a number is out of range.
    """

    def __init__(
        self,
        frames: int = 48,
        height: int = 360,
        width: int = 480,
        seed: int = 0,
        color_order: str = "bgr",
    ) -> None:
        if min(frames, height, width) < 1 or seed < 0:
            raise UsageError(
                f"frames, height and width must be at least 1 and seed at least 0, not {frames}, {height}, "
                f"{width} and {seed}"
            )
        if color_order not in ("bgr", "rgb"):
            raise UsageError(f"color_order must be bgr or rgb, not {color_order!r}")
        self.height, self.width, self.seed, self.color_order = height, width, seed, color_order
        self._frames = frames

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        """Frame ``index``: image uint8 ``[H, W, 3]``, labels uint8 ``[H, W]``."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a clip of {len(self)}")
        canvas = _Canvas(self.height, self.width, self.seed, index)
        _paint_sky(canvas)
        _paint_ground(canvas)
        _paint_fronts(canvas)
        for figure in sorted(_figures(self.seed, index), key=lambda f: -f.z):
            canvas.place(figure)
        image = canvas.develop()
        image = image if self.color_order == "rgb" else image[..., ::-1]
        return Frame(
            image=np.ascontiguousarray(image),
            name=f"street_{self.seed:03d}_{index:05d}",
            index=index,
            labels=canvas.labels,
        )


class _Canvas:
    """An image in the making, float32 R, G, B from 0 to 255, and its labels."""

    def __init__(self, height: int, width: int, seed: int, index: int) -> None:
        self.seed, self.index = seed, index
        self.travelled = index * SPEED
        self.rgb = np.zeros((height, width, 3), np.float32)
        self.labels = np.full((height, width), UNLABELLED, np.uint8)
        self.focal = 0.8 * width
        # A car's nose dips and rises: the horizon moves a little.
        self.horizon = height * (0.46 + 0.004 * np.sin(index * 0.9))
        self.u = (np.arange(width, dtype=np.float32) + 0.5)[None, :] - width / 2
        self.v = (np.arange(height, dtype=np.float32) + 0.5)[:, None] - np.float32(self.horizon)
        self.random = np.random.default_rng((seed, index))

    def fill(self, where: NDArray[np.bool_], color: Floats | Color, label: int) -> None:
        """Paint the pixels of ``where``; ``color`` is one colour, or one a pixel of the canvas."""
        value = np.asarray(color, np.float32)
        self.rgb[where] = value[where] if value.ndim == 3 else value
        self.labels[where] = label

    def place(self, figure: _Figure) -> None:
        """Paint a figure through the box that it covers."""
        scale = self.focal / figure.z
        left = figure.x * scale - figure.width * scale / 2
        bottom = EYE * scale
        columns = np.flatnonzero((self.u[0] >= left) & (self.u[0] <= left + figure.width * scale))
        rows = np.flatnonzero((self.v[:, 0] <= bottom) & (self.v[:, 0] >= bottom - figure.height * scale))
        if len(columns) == 0 or len(rows) == 0:
            return
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        across = (self.u[:, columns] - left) / (figure.width * scale)
        up = (bottom - self.v[rows]) / (figure.height * scale)
        part = _Part(self, box)
        across, up = np.broadcast_arrays(across, up)
        figure.paint(part, figure, across, up)

    def develop(self) -> NDArray[np.uint8]:
        """Light, haze, vignette and sensor noise: uint8 R, G, B."""
        light = 0.82 + 0.16 * np.sin(0.11 * self.index + self.seed)
        height, width = self.labels.shape
        fall = 1 - 0.22 * ((self.u / width * 1.4) ** 2 + (self.v / height) ** 2)
        noise = self.random.normal(0, 5, (height, width, 1)) + self.random.normal(0, 2, (height, width, 3))
        tint = np.array([1.0, 0.99, 0.95 + 0.06 * np.sin(self.seed)], np.float32)
        return np.clip(self.rgb * (light * fall)[..., None] * tint + noise, 0, 255).astype(np.uint8)


class _Part:
    """A box of the canvas that a figure is painted through."""

    def __init__(self, canvas: _Canvas, box: tuple[slice, slice]) -> None:
        self.rgb, self.labels = canvas.rgb[box], canvas.labels[box]

    def fill(self, where: NDArray[np.bool_], color: Floats | Color, label: int) -> None:
        value = np.asarray(color, np.float32)
        self.rgb[where] = value[where] if value.ndim == 3 else value
        self.labels[where] = label


_RANDOM: Floats = np.random.default_rng(20150608).random(1 << 16, np.float32)


def _noise(a: Floats, b: Floats, seed: int) -> Floats:
    """A number from 0 to 1 for each pair of whole numbers, the same every time."""
    place = a.astype(np.int32) * 7919 + b.astype(np.int32) * 31327 + seed * 6113
    return _RANDOM[place & 0xFFFF]


def _smooth(a: Floats, b: Floats, seed: int) -> Floats:
    """Noise that changes gently from one whole number to the next."""
    left, low = np.floor(a), np.floor(b)
    s, t = a - left, b - low
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    bottom = _noise(left, low, seed) * (1 - s) + _noise(left + 1, low, seed) * s
    top = _noise(left, low + 1, seed) * (1 - s) + _noise(left + 1, low + 1, seed) * s
    return bottom * (1 - t) + top * t


def _shade(base: Color, amount: Floats) -> Floats:
    return np.asarray(base, np.float32) * amount[..., None]


def _paint_sky(c: _Canvas) -> None:
    height, width = c.labels.shape
    up = np.clip(-c.v / max(c.horizon, 1.0), 0, 1)
    cloud = _smooth(6 * c.u / width + 0.01 * c.index + 0 * c.v, 9 * up**0.7 + 0 * c.u, c.seed + 5)
    grey = np.broadcast_to(236 - 46 * up, cloud.shape) + 22 * (cloud - 0.5)
    color = np.stack([grey - 14 * up, grey - 4 * up, np.broadcast_to(grey + 8 * up, grey.shape)], -1)
    c.fill(np.ones((height, width), bool), color.astype(np.float32), SKY)


def _paint_ground(c: _Canvas) -> None:
    depth = np.minimum(c.focal * EYE / np.maximum(c.v, 1e-3), 4 * FAR)
    x, z = c.u * depth / c.focal, depth + c.travelled + 0 * c.u
    below = np.broadcast_to(c.v > 0, x.shape)
    grain = 0.9 + 0.14 * _smooth(x * 3, z * 2, c.seed) + 0.06 * _noise(x * 25, z * 25, c.seed)
    c.fill(below, _shade((104, 101, 102), grain), ROAD)
    dash = (np.abs(x) < 0.09) & (z % 6 < 3) | (np.abs(np.abs(x) - KERB + 0.35) < 0.07)
    c.fill(below & dash, _shade((196, 194, 186), grain), ROAD)
    walk = np.abs(x) > KERB
    slab = 1 - 0.1 * ((z % 1.2 < 0.06) | (np.abs(x) % 1.2 < 0.05))
    c.fill(below & walk, _shade((142, 134, 128), grain * slab), PAVEMENT)
    kerb = walk & (np.abs(x) < KERB + 0.18)
    c.fill(below & kerb, _shade((168, 164, 158), grain), PAVEMENT)


def _paint_fronts(c: _Canvas) -> None:
    """House fronts and, in the gaps between them, fences with trees behind."""
    side = np.where(c.u < 0, 0, 1) + 0 * c.v
    depth = FRONT * c.focal / np.maximum(np.abs(c.u), 1e-3) + 0 * c.v
    z, y = depth + c.travelled, EYE - c.v * depth / c.focal
    plot = np.floor(z / 14)
    which = _noise(plot, side, c.seed + 1)
    height = 5 + 9 * _noise(plot, side, c.seed + 2)
    along = z - plot * 14
    seen = (depth < FAR) & (y > 0)
    haze = np.clip(depth / FAR, 0, 1)[..., None] * 0.45

    gap = which < 0.22
    ragged = 3.2 + 2.2 * _smooth(z * 0.9, side * 7.0, c.seed + 3) + 0.8 * _noise(z * 4, y * 4, c.seed)
    leaf = 0.55 + 0.6 * _noise(z * 6, y * 6, c.seed + 4)
    c.fill(seen & gap & (y < ragged), _fade(_shade((70, 84, 52), leaf), haze), TREE)
    plank = 0.8 + 0.25 * (z % 0.3 < 0.22)
    c.fill(seen & gap & (y < 1.5), _fade(_shade((112, 98, 84), plank), haze), FENCE)

    house = seen & ~gap & (y < height) & (along < 13.4)
    tone = _noise(plot, side, c.seed + 6)
    wall = np.stack([120 + 70 * tone, 96 + 74 * tone, 82 + 76 * tone], -1).astype(np.float32)
    brick = 0.9 + 0.12 * _smooth(z * 2, y * 4, c.seed + 7) + 0.05 * (side == 0)
    c.fill(house, _fade(wall * brick[..., None], haze), BUILDING)
    pane = (along % 2.6 > 0.9) & (along % 2.6 < 2.1) & (y % 3.0 > 1.0) & (y % 3.0 < 2.4)
    glass = 52 + 70 * _noise(np.floor(along / 2.6) + plot * 9, np.floor(y / 3.0) + side * 5, c.seed + 8)
    c.fill(house & pane, _fade(np.stack([glass, glass * 1.03, glass * 1.1], -1), haze), BUILDING)
    c.fill(house & (y > height - 0.45), _fade(wall * 0.6, haze), BUILDING)


def _fade(color: Floats, haze: Floats) -> Floats:
    return (color * (1 - haze) + 205 * haze).astype(np.float32)


def _figures(seed: int, index: int) -> Iterator[_Figure]:
    """All that stands or moves between the camera and the far end."""
    travelled = index * SPEED
    for side in (-1, 1):
        for place in range(int(travelled // 7), int((travelled + FAR) // 7) + 1):
            rng = np.random.default_rng((seed, place, side + 1))
            kind = rng.random()
            z = place * 7 + rng.uniform(0, 4) - travelled
            if z < 1.2:
                continue
            grey = float(rng.uniform(0.7, 1.2))
            if kind < 0.3:
                size = rng.uniform(3.0, 5.2)
                yield _Figure(side * 5.6, z, size, size * 1.4, _paint_tree, (66 * grey, 80 * grey, 46), place)
            elif kind < 0.6:
                yield _Figure(side * 4.8, z, 0.16, rng.uniform(4.5, 7), _paint_pole, (92, 92, 90), place)
                if rng.random() < 0.6:
                    warm = (170.0, 60.0, 50.0) if rng.random() < 0.5 else (60.0, 84.0, 150.0)
                    yield _Figure(side * 4.8, z - 0.05, 0.9, 3.1, _paint_sign, warm, place)
            if rng.random() < 0.5:
                color = tuple(float(v) for v in rng.choice(_CARS))
                yield _Figure(side * 3.1, z + 2, 1.9, 1.55, _paint_car, color, place)  # type: ignore[arg-type]
            if rng.random() < 0.45:
                cloth = tuple(float(v) for v in rng.uniform(40, 150, 3))
                walk = side * rng.uniform(4.9, 6.3) + 0.3 * np.sin(index * 0.1 + place)
                yield _Figure(walk, z + 3, 0.62, 1.75, _paint_pedestrian, cloth, place + index)  # type: ignore[arg-type]
    for lane, number in ((-1.7, 3), (1.75, 2)):
        for n in range(number):
            rng = np.random.default_rng((seed, n, 77))
            speed = 1.1 if lane < 0 else -0.12
            z = (rng.uniform(0, FAR) - index * speed) % FAR
            if z > 5:
                color = tuple(float(v) for v in rng.choice(_CARS))
                yield _Figure(lane, z, 1.9, 1.5, _paint_car, color, n)  # type: ignore[arg-type]
    z = (18 + 31.0 * (seed % 5) - index * 0.28) % 60
    if z > 3:
        yield _Figure(2.9, z, 0.75, 1.8, _paint_bicyclist, (58, 70, 96), index)


_CARS = np.array([(46, 48, 54), (150, 150, 152), (120, 36, 34), (40, 60, 104), (200, 198, 192), (60, 74, 60)])


def _paint_tree(p: _Part, f: _Figure, across: Floats, up: Floats) -> None:
    trunk = (np.abs(across - 0.5) < 0.04) & (up < 0.5)
    p.fill(trunk, (70, 60, 50), TREE)
    ragged = 0.3 + 0.13 * _smooth(across * 7, up * 8, f.seed)
    crown = np.hypot((across - 0.5) * 0.9, (up - 0.62) * 1.15) < ragged
    leaf = 0.55 + 0.4 * _smooth(across * 16, up * 18, f.seed + 1) + 0.35 * _noise(across * 60, up * 60, f.seed)
    p.fill(crown, _shade(f.color, leaf * (0.75 + 0.4 * up)), TREE)


def _paint_pole(p: _Part, f: _Figure, across: Floats, up: Floats) -> None:
    p.fill(np.ones_like(across, bool), _shade(f.color, 0.7 + 0.5 * across), POLE)


def _paint_sign(p: _Part, f: _Figure, across: Floats, up: Floats) -> None:
    board = (up > 0.72) & (np.abs(across - 0.5) < 0.48)
    p.fill(board, _shade(f.color, np.full_like(across, 0.95)), SIGN)
    p.fill(board & (up > 0.8) & (up < 0.92) & (np.abs(across - 0.5) < 0.3), (225, 222, 215), SIGN)


def _paint_car(p: _Part, f: _Figure, across: Floats, up: Floats) -> None:
    out = np.abs(across - 0.5) * 2
    body = ((up > 0.13) & (up <= 0.58) & (out < 0.97)) | ((up > 0.58) & (out < 0.86 - 0.55 * (up - 0.58)))
    p.fill((up < 0.06) & (out < 0.95), (58, 57, 58), ROAD)
    p.fill(body, _shade(f.color, 0.72 + 0.42 * up), CAR)
    p.fill((up > 0.6) & (up < 0.93) & (out < 0.74 - 0.5 * (up - 0.58)), (52, 60, 68), CAR)
    p.fill((up <= 0.24) & (out > 0.62) & (out < 0.94), (26, 26, 27), CAR)
    p.fill((np.abs(up - 0.46) < 0.05) & (out > 0.68) & (out < 0.93), (214, 200, 180), CAR)
    p.fill((np.abs(up - 0.3) < 0.045) & (out < 0.28), (206, 204, 190), CAR)


def _paint_pedestrian(p: _Part, f: _Figure, across: Floats, up: Floats) -> None:
    stride = 0.16 + 0.1 * np.sin(f.seed * 0.7)
    legs = (up < 0.48) & (np.abs(np.abs(across - 0.5) - stride * (0.5 - up)) < 0.13)
    body = (up >= 0.45) & (up < 0.84) & (np.abs(across - 0.5) < 0.33)
    head = np.hypot((across - 0.5) * 0.62, (up - 0.92) * 1.75) < 0.12
    p.fill(legs, (44, 46, 56), PEDESTRIAN)
    p.fill(body, _shade(f.color, 0.8 + 0.3 * across), PEDESTRIAN)
    p.fill(head, (172, 132, 110), PEDESTRIAN)


def _paint_bicyclist(p: _Part, f: _Figure, across: Floats, up: Floats) -> None:
    wheel = (up < 0.36) & (np.abs(across - 0.5) < 0.09)
    p.fill(wheel, (38, 38, 40), BICYCLIST)
    p.fill((np.abs(up - 0.5) < 0.03) & (np.abs(across - 0.5) < 0.4), (52, 52, 54), BICYCLIST)
    swing = 0.15 + 0.05 * np.sin(f.seed * 0.8)
    legs = (up > 0.2) & (up < 0.55) & (np.abs(np.abs(across - 0.5) - swing) < 0.09)
    p.fill(legs, (40, 44, 60), BICYCLIST)
    p.fill((up >= 0.5) & (up < 0.84) & (np.abs(across - 0.5) < 0.3), f.color, BICYCLIST)
    p.fill(np.hypot((across - 0.5) * 0.75, (up - 0.91) * 1.8) < 0.13, (150, 116, 98), BICYCLIST)
