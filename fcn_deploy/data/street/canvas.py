"""A camera, and a canvas that paints flat and textured surfaces with their labels.

Points are camera-relative metres: x to the right, y up from the road, z ahead. Each surface paints
the same pixels of the picture and of the label map, so labels are exact to the pixel; edges are not
anti-aliased. There is no depth buffer: paint far things first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Color = tuple[float, float, float]
"""R, G, B from 0 to 255 in daylight; exposure comes later."""

Point = tuple[float, float, float]
"""x to the right, y up, z ahead, in metres."""

Texture = Callable[[Floats, Floats], "tuple[Floats, Floats | None]"]
"""(metres along, metres up), both ``[K]``, to colours ``[K, 3]`` and opacity ``[K]`` from 0 to 1
(None: opaque). Pixels of no opacity keep their label too."""

NEAR = 0.4
"""Surfaces nearer than this many metres are cut off."""
CAMERA_HEIGHT = 1.35
"""Metres above the road: behind the windscreen of a small car."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks straight ahead."""

    height: int
    width: int
    x: float = 0.0
    """Metres right of the middle of the road."""
    yaw: float = 0.0
    """Small turn to the right, in radians."""
    pitch: float = 0.0
    """Small turn upwards, in radians."""

    @property
    def focal(self) -> float:
        """Focal length in pixels: a view 58 degrees wide at 4:3."""
        return 0.9 * max(self.width, self.height * 4 / 3)

    @property
    def center(self) -> float:
        """Column of the vanishing point."""
        return self.width * 0.5 - self.yaw * self.focal

    @property
    def horizon(self) -> float:
        """Row of the vanishing point."""
        return self.height * 0.47 + self.pitch * self.focal

    def pixels(self, metres: float, z: float) -> float:
        """How large so many metres look at distance ``z``."""
        return self.focal * metres / max(z, NEAR)

    def rays_across(self) -> Floats:
        """x over z of each column, ``[width]``."""
        columns = np.arange(self.width, dtype=np.float32)
        return (columns + np.float32(0.5 - self.center)) / np.float32(self.focal)

    def rays_up(self) -> Floats:
        """y over z of each row, ``[height]``."""
        rows = np.arange(self.height, dtype=np.float32)
        return (np.float32(self.horizon - 0.5) - rows) / np.float32(self.focal)

    def project(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Points in front of the camera to (column, row)."""
        focal, center, horizon, camera_x = self.focal, self.center, self.horizon, self.x
        return [
            (center + focal * (x - camera_x) / z, horizon - focal * (y - CAMERA_HEIGHT) / z)
            for x, y, z in points
        ]


@dataclass(frozen=True)
class Region:
    """The pixels that a surface covers: a box of the frame, and which pixels inside it."""

    rows: slice
    columns: slice
    inside: NDArray[np.bool_]


class Canvas:
    """A picture and its label map, painted together."""

    def __init__(self, camera: Camera, haze: Color, visibility: float) -> None:
        """
        Args:
            camera: where it stands; its size is the canvas's.
            haze: the colour that far things fade into.
            visibility: metres at which 63 % of a colour is haze.
        """
        self.camera = camera
        self.image = np.zeros((camera.height, camera.width, 3), np.float32)
        """R, G, B, float32 ``[H, W, 3]``."""
        self.labels = np.full((camera.height, camera.width), 11, np.uint8)
        self._across = camera.rays_across()
        self._up = camera.rays_up()
        self._haze_color = haze
        self._haze = np.array(haze, np.float32)
        self._visibility = visibility

    def face(self, points: Sequence[Point], color: Color, label: int) -> None:
        """Paint a flat convex polygon in one colour."""
        if region := self._covered(points):
            self.image[region.rows, region.columns][region.inside] = self._paint(color, points[0][2])
            self.labels[region.rows, region.columns][region.inside] = label

    def upright(
        self, left: float, right: float, low: float, high: float, z: float, color: Color, label: int
    ) -> None:
        """Paint a rectangle that faces the camera: what :meth:`face` would do, in less time."""
        if z < NEAR:
            return
        (x0, y0), (x1, y1) = self.camera.project([(left, high, z), (right, low, z)])
        columns, rows = slice(_first(x0), _first(x1)), slice(_first(y0), _first(y1))
        self.image[rows, columns] = self._paint(color, z)
        self.labels[rows, columns] = label

    def shade(self, points: Sequence[Point], factor: float) -> None:
        """Darken a convex polygon by ``factor``; labels stay."""
        if region := self._covered(points):
            view = self.image[region.rows, region.columns]
            np.multiply(view, np.float32(factor), out=view, where=region.inside[..., None])

    def panel(
        self,
        origin: Point,
        along: Point,
        up: Point,
        size: tuple[float, float],
        texture: Texture,
        label: int,
    ) -> None:
        """Paint a textured rectangle.

        Args:
            origin: its corner at (0, 0).
            along: unit vector of its first side.
            up: unit vector of its second side, at right angles to the first.
            size: metres along and up.
            texture: colours and opacity by place.
            label: class id.
        """
        far_side = _moved(origin, along, size[0])
        corners = (origin, far_side, _moved(far_side, up, size[1]), _moved(origin, up, size[1]))
        region = self._covered(corners)
        if region is None or not region.inside.any():
            return
        rows, columns = np.nonzero(region.inside)
        rows, columns = rows + region.rows.start, columns + region.columns.start
        s, t, depth = self._places(rows, columns, origin, along, up)
        colors, opacity = texture(s, t)
        colors = self.faded(colors, depth)
        if opacity is None:
            self.image[rows, columns], self.labels[rows, columns] = colors, label
        else:
            behind = self.image[rows, columns]
            self.image[rows, columns] = behind + (colors - behind) * opacity[:, None]
            drawn = opacity > 0
            self.labels[rows[drawn], columns[drawn]] = label

    def faded(self, colors: Floats, depth: Floats) -> Floats:
        """Colours ``[..., 3]`` as haze leaves them at so many metres, ``[...]``."""
        clear = np.exp(np.float32(-1 / self._visibility) * depth)[..., None]
        faded: Floats = self._haze + (colors - self._haze) * clear
        return faded

    def _paint(self, color: Color, z: float) -> list[float]:
        clear = math.exp(-z / self._visibility)
        return [far + (near - far) * clear for near, far in zip(color, self._haze_color, strict=True)]

    def _covered(self, points: Sequence[Point]) -> Region | None:
        """The pixels whose centre lies inside a convex polygon; None where there are none."""
        outline = self.camera.project(_in_front(points))
        if len(outline) < 3:
            return None
        columns, rows = zip(*outline, strict=True)
        left, right = _first(min(columns)), min(_first(max(columns)), self.camera.width)
        top, bottom = _first(min(rows)), min(_first(max(rows)), self.camera.height)
        if left >= right or top >= bottom:
            return None
        inside = _between_flanks(outline, slice(top, bottom), slice(left, right))
        return Region(slice(top, bottom), slice(left, right), inside)

    def _places(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp], origin: Point, along: Point, up: Point
    ) -> tuple[Floats, Floats, Floats]:
        """Metres along and up a plane, and depth, where the rays of some pixels meet it."""
        a, b = self._across[columns], self._up[rows]
        corner = (origin[0] - self.camera.x, origin[1] - CAMERA_HEIGHT, origin[2])
        normal = _cross(along, up)
        depth = np.float32(_dot(normal, corner)) / _along_rays(normal, a, b)
        s = depth * _along_rays(along, a, b) - np.float32(_dot(along, corner))
        t = depth * _along_rays(up, a, b) - np.float32(_dot(up, corner))
        return s, t, depth


def _along_rays(vector: Point, a: Floats, b: Floats) -> Floats:
    """The dot product of ``vector`` with the rays (a, b, 1)."""
    x, y, z = (np.float32(value) for value in vector)
    return x * a + (y * b + z)


def _dot(a: Point, b: Point) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Point, b: Point) -> Point:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _moved(point: Point, direction: Point, metres: float) -> Point:
    x, y, z = (a + metres * b for a, b in zip(point, direction, strict=True))
    return x, y, z


def _in_front(points: Sequence[Point]) -> Sequence[Point]:
    """A polygon cut at the near plane."""
    if all(z >= NEAR for _, _, z in points):
        return points
    kept: list[Point] = []
    for here, there in zip(points, (*points[1:], points[0]), strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (there[2] >= NEAR):
            share = (NEAR - here[2]) / (there[2] - here[2])
            x, y = (here[axis] + (there[axis] - here[axis]) * share for axis in (0, 1))
            kept.append((x, y, NEAR))
    return kept


def _first(edge: float) -> int:
    """The first pixel of the frame whose centre is not before an edge."""
    return max(math.ceil(edge - 0.5), 0)


def _between_flanks(outline: list[tuple[float, float]], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Scan conversion: which pixel centres of a box lie between a convex polygon's two flanks."""
    count = rows.stop - rows.start
    left, right = np.full(count, np.inf), np.full(count, -np.inf)
    centers = np.arange(rows.start, rows.stop) + 0.5
    for (x0, y0), (x1, y1) in zip(outline, (*outline[1:], outline[0]), strict=True):
        first = max(_first(min(y0, y1)) - rows.start, 0)
        last = min(_first(max(y0, y1)) - rows.start, count)
        if first < last:
            at = x0 + (centers[first:last] - y0) * ((x1 - x0) / (y1 - y0))
            np.minimum(left[first:last], at, out=left[first:last])
            np.maximum(right[first:last], at, out=right[first:last])
    x = np.arange(columns.start, columns.stop) + 0.5
    inside: NDArray[np.bool_] = (x >= left[:, None]) & (x < right[:, None])
    return inside


@lru_cache(maxsize=1)
def _tables() -> tuple[Floats, Floats]:
    """Two periodic 512x512 tables of unit spread: white grain, and clouds (1/f noise)."""
    grain = np.random.default_rng(20240229).standard_normal((512, 512)).astype(np.float32)
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(grain) / frequency**1.4
    spectrum[0, 0] = 0.0
    clouds = np.fft.irfft2(spectrum, s=(512, 512))
    return grain, (clouds / clouds.std()).astype(np.float32)


def rgb(red: float, green: float, blue: float) -> Floats:
    """A colour to calculate with, float32 ``[3]``."""
    return np.array([red, green, blue], np.float32)


def grain(x: Floats, y: Floats) -> Floats:
    """White noise of unit spread, one value a unit square; repeats after 512."""
    return _look_up(_tables()[0], x, y)


def clouds(x: Floats, y: Floats) -> Floats:
    """Smooth noise of unit spread with detail down to a unit; repeats after 512."""
    return _look_up(_tables()[1], x, y)


def _look_up(table: Floats, x: Floats, y: Floats) -> Floats:
    column, row = np.floor(x).astype(np.int32) & 511, np.floor(y).astype(np.int32) & 511
    found: Floats = table.ravel().take(row * 512 + column)
    return found
