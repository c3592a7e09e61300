"""Cars, people, riders, poles, signs: what stands or moves between the property lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fcn_deploy.data.street.canvas import Canvas, Color, Floats, Point, rgb
from fcn_deploy.data.street.scenery import (
    BICYCLIST,
    CAR,
    PEDESTRIAN,
    POLE,
    SIGN,
    UNLABELLED,
    paint_railing,
    paint_tree,
    pick,
)
from fcn_deploy.data.street.world import RAILING, Thing, Traits

PAINTS: tuple[Color, ...] = (
    *((36, 38, 42), (34, 44, 74), (148, 150, 154), (96, 98, 104), (108, 42, 40), (196, 196, 194)),
    *((40, 66, 58), (74, 90, 120), (116, 98, 70), (60, 60, 64)),
)
CLOTHES: tuple[Color, ...] = (
    *((34, 34, 40), (52, 50, 52), (30, 38, 62), (92, 40, 36), (88, 84, 78), (44, 56, 44), (140, 136, 130)),
    *((40, 36, 34), (66, 60, 54)),
)
SKIN: tuple[Color, ...] = ((170, 128, 106), (128, 92, 74), (92, 64, 50), (188, 148, 124))
GLASS: Color = (44, 50, 56)
TYRE: Color = (24, 24, 26)
METAL: Color = (92, 94, 96)
WHITE: Color = (208, 208, 203)

Place = tuple[float, float]
"""Metres right of and above a thing's foot."""

_RING = tuple((math.cos(turn), math.sin(turn)) for turn in (k * math.pi / 6 for k in range(12)))


def paint_thing(canvas: Canvas, thing: Thing, x: float, z: float, seconds: float) -> None:
    """Anything but the ground and what lies beyond the pavements."""
    traits = thing.traits
    side = 1 if x > 0 else -1
    if thing.kind in ("car", "leader"):
        parked_or_leading = thing.ahead == 0
        paint_vehicle(canvas, x, z, traits, oncoming=x > 0 if parked_or_leading else thing.ahead < 0)
    elif thing.kind == "person":
        paint_person(canvas, x, z, traits, seconds)
    elif thing.kind == "rider":
        paint_rider(canvas, x, z, traits, seconds, sideways=thing.across)
    elif thing.kind == "lamp":
        _lamp(Upright(canvas, x, z, POLE), side)
    elif thing.kind == "sign":
        _sign(canvas, x, z, traits)
    elif thing.kind == "light":
        _traffic_light(canvas, x, z)
    elif thing.kind == "bollard":
        Upright(canvas, x, z, POLE).post(1.0, 0.14, (58, 56, 54))
    elif thing.kind == "tree":
        paint_tree(canvas, x + side * 0.5, z, traits, 0.9)
    elif thing.kind == "railing":
        paint_railing(canvas, x - side * 0.1, z, RAILING, 1.1)
    elif thing.kind == "bin":
        _bin(canvas, x, z)


@dataclass(frozen=True)
class Upright:
    """Draws one class in the upright plane through a thing's foot that faces the camera."""

    canvas: Canvas
    x: float
    z: float
    label: int

    def polygon(self, corners: Sequence[Place], color: Color) -> None:
        self.canvas.face([(self.x + a, b, self.z) for a, b in corners], color, self.label)

    def box(self, left: float, right: float, low: float, high: float, color: Color) -> None:
        self.canvas.upright(self.x + left, self.x + right, low, high, self.z, color, self.label)

    def disc(self, center: Place, radius: float, color: Color) -> None:
        self.polygon([(center[0] + radius * a, center[1] + radius * b) for a, b in _RING], color)

    def limb(self, start: Place, end: Place, thick: float, color: Color) -> None:
        """A straight bar, at least a pixel wide."""
        (x0, y0), (x1, y1) = start, end
        length = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
        half = max(thick, self.z / self.canvas.camera.focal) / 2
        nx, ny = -(y1 - y0) / length * half, (x1 - x0) / length * half
        self.polygon([(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)], color)

    def post(self, height: float, thick: float, color: Color) -> None:
        """A bar that stands on the ground, at least a pixel wide."""
        half = max(thick, 1.1 * self.z / self.canvas.camera.focal) / 2
        self.box(-half, half, 0, height, color)

    def shadow(self, reach: float) -> None:
        """A dark patch around the foot."""
        around = ((-1, -0.7), (1, -0.7), (1, 1), (-1, 1))
        self.canvas.shade([(self.x + reach * a, 0, self.z + reach * b) for a, b in around], 0.6)


def _tint(color: Floats, factor: float, lift: float = 0.0) -> Color:
    r, g, b = (float(value) * factor + lift for value in color)
    return r, g, b


# --- vehicles


@dataclass(frozen=True)
class Vehicle:
    """One vehicle where it stands; distances along it count from its near end."""

    x: float
    """Its middle."""
    z: float
    """Its near end."""
    length: float
    width: float
    height: float
    waist: float
    """Metres up to the window sills."""
    cabin: tuple[float, float, float, float]
    """Where the windows begin, where the roof begins and ends, where the windows end."""
    paint: Floats
    oncoming: bool

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2


def _vehicle(x: float, z: float, traits: Traits, oncoming: bool) -> Vehicle:
    """A car, a van or a bus, as the traits say."""
    paint = pick(PAINTS, traits[0])
    if traits[1] > 0.965:
        ends = (0.0, 0.05, 9.4, 9.45)
        return Vehicle(x, z, 9.5, 2.5, 3.1 + traits[2], 1.25, ends, paint, oncoming)
    if traits[1] > 0.86:
        ends = (0.9, 1.6, 4.7, 4.8) if oncoming else (0.02, 0.1, 3.3, 4.0)
        return Vehicle(x, z, 4.8, 1.9, 2.0 + 0.3 * traits[2], 1.1, ends, paint, oncoming)
    length = 3.7 + 0.8 * traits[2]
    bonnet, boot = 1.05 + 0.2 * traits[2], 0.05 if traits[4] > 0.4 else 0.6
    front, back = (bonnet, bonnet + 0.75), (boot, boot + 0.5)
    near, far = (front, back) if oncoming else (back, front)
    ends = (*near, length - far[1], length - far[0])
    width, height = 1.7 + 0.1 * traits[3], 1.4 + 0.16 * traits[3]
    return Vehicle(x, z, length, width, height, 0.88, ends, paint, oncoming)


def paint_vehicle(canvas: Canvas, x: float, z: float, traits: Traits, oncoming: bool) -> None:
    """A car, van or bus whose near end is ``z`` metres ahead."""
    car = _vehicle(x, z, traits, oncoming)
    left, right, far = car.left - 0.12, car.right + 0.12, z + car.length
    canvas.shade([(left, 0, z - 0.1), (right, 0, z - 0.1), (right, 0, far), (left, 0, far)], 0.4)
    left, right, sill = car.left, car.right, car.waist
    deck = [(left, sill, z), (right, sill, z), (right, sill, far), (left, sill, far)]
    canvas.face(deck, _tint(car.paint, 1.1, 26), CAR)
    detailed = canvas.camera.pixels(car.height, z) > 12
    side = left if x > canvas.camera.x else right
    _paint_flank(canvas, car, side)
    if detailed:
        _paint_side_windows(canvas, car, side)
        _paint_wheels(canvas, car, side)
    _paint_screen(canvas, car)
    _paint_near_end(canvas, car, detailed)


def _inner(car: Vehicle, side: float) -> float:
    """The side's place at roof height: cabins lean inwards."""
    return side + math.copysign(0.12, car.x - side)


def _paint_flank(canvas: Canvas, car: Vehicle, side: float) -> None:
    low, waist, z, far = 0.24, car.waist, car.z, car.z + car.length
    flank = [(side, low, z), (side, waist, z), (side, waist, far), (side, low, far)]
    canvas.face(flank, _tint(car.paint, 0.78), CAR)
    start, roof_start, roof_end, end = (z + at for at in car.cabin)
    inner, high = _inner(car, side), car.height
    cabin = [(side, waist, start), (inner, high, roof_start), (inner, high, roof_end), (side, waist, end)]
    canvas.face(cabin, _tint(car.paint, 0.85, 6), CAR)


def _paint_side_windows(canvas: Canvas, car: Vehicle, side: float) -> None:
    """Two panes with a pillar between them; the outer edges follow the screens' slope."""
    start, roof_start, roof_end, end = (car.z + at for at in car.cabin)
    inner = _inner(car, side)
    sill, top = car.waist + 0.05, car.height - 0.1 - (0.12 * car.height if car.height > 2.6 else 0)
    pane = (end - start - 0.3) / 2
    for k in range(2):
        front, back = start + 0.22 + pane * k, start + 0.12 + pane * (k + 1)
        lean_front = roof_start - start if k == 0 else 0
        lean_back = end - roof_end if k == 1 else 0
        window = [(side, sill, front), (inner, top, front + lean_front), (inner, top, back - lean_back)]
        canvas.face([*window, (side, sill, back)], GLASS, CAR)


def _paint_wheels(canvas: Canvas, car: Vehicle, side: float) -> None:
    radius = 0.46 if car.height > 2.6 else 0.31
    for share in (0.19, 0.81):
        center = car.z + car.length * share
        for size, color in ((radius, TYRE), (radius * 0.55, (104, 106, 108))):
            ring: list[Point] = [(side, radius + size * b, center + size * a) for a, b in _RING]
            canvas.face(ring, color, CAR)


def _paint_screen(canvas: Canvas, car: Vehicle) -> None:
    """The sloping window at the near end, in its frame."""
    left, right, waist, high = car.left, car.right, car.waist, car.height
    base, roof = car.z + car.cabin[0], car.z + car.cabin[1]
    frame = [(left, waist, base), (right, waist, base), (right - 0.12, high, roof), (left + 0.12, high, roof)]
    canvas.face(frame, _tint(car.paint, 0.8), CAR)
    low, top = waist + 0.06, high - (0.1 if high < 2.6 else 0.9)
    lean = (top - waist) / (high - waist)
    edge, depth = 0.1 + 0.12 * lean, base + (roof - base) * lean
    sill = [(left + 0.12, low, base), (right - 0.12, low, base)]
    glass = [*sill, (right - edge, top, depth), (left + edge, top, depth)]
    canvas.face(glass, (58, 66, 74) if car.oncoming else GLASS, CAR)


def _paint_near_end(canvas: Canvas, car: Vehicle, detailed: bool) -> None:
    """Front or back: tyres, body, bumper, lights and number plate."""
    end, half = Upright(canvas, car.x, car.z, CAR), car.width / 2
    for middle in (-0.36 * car.width, 0.36 * car.width):
        end.box(middle - 0.11, middle + 0.11, 0, 0.4, TYRE)
    end.box(-half, half, 0.26, car.waist, _tint(car.paint, 0.95))
    if not detailed:
        return
    end.box(-half, half, 0.26, 0.5, _tint(car.paint, 0.55, 8))
    light, plate = ((214, 214, 204), WHITE) if car.oncoming else ((150, 30, 26), (190, 168, 70))
    for left in (0.04 - half, half - 0.36):
        end.box(left, left + 0.32, car.waist - 0.26, car.waist - 0.08, light)
    end.box(-0.27, 0.27, 0.42, 0.54, plate)


# --- people


def paint_person(canvas: Canvas, x: float, z: float, traits: Traits, seconds: float) -> None:
    """A walking figure that faces the camera or turns its back."""
    figure = Upright(canvas, x, z, PEDESTRIAN)
    tall = 1.55 + 0.32 * traits[0]
    coat, trousers = _tint(pick(CLOTHES, traits[1]), 0.9), _tint(pick(CLOTHES, traits[2]), 0.75)
    if canvas.camera.pixels(tall, z) < 22:
        figure.box(-0.19, 0.19, 0, 0.5 * tall, trousers)
        figure.box(-0.26, 0.26, 0.48 * tall, 0.84 * tall, coat)
        figure.box(-0.11, 0.11, 0.84 * tall, tall, (64, 50, 42))
        return
    figure.shadow(0.3)
    stride = 0.17 * tall * math.sin(seconds * 6 + traits[3] * 40)
    for sign in (-1, 1):
        figure.limb((0.08 * sign, 0.52 * tall), (0.07 * sign + 0.6 * sign * stride, 0.03), 0.16, trousers)
    for sign in (-1, 1):
        hand = (0.28 * sign - 0.4 * sign * stride, 0.46 * tall)
        figure.limb((0.2 * sign, 0.8 * tall), hand, 0.12, coat)
    hip, chest, neck = 0.19, 0.23 + 0.04 * traits[4], 0.09
    right = [(hip, 0.44 * tall), (chest, 0.8 * tall), (neck, 0.85 * tall)]
    figure.polygon([*right, *((-a, b) for a, b in reversed(right))], coat)
    figure.disc((0, 0.92 * tall), 0.125, _tint(pick(SKIN, traits[5]), 0.8))
    figure.disc((0, 0.955 * tall), 0.11, (44, 36, 30))


def paint_rider(canvas: Canvas, x: float, z: float, traits: Traits, seconds: float, sideways: float) -> None:
    """A bicycle and its rider, seen from an end, or from the side when it crosses."""
    figure = Upright(canvas, x, z, BICYCLIST)
    figure.shadow(0.4)
    facing = math.copysign(1, sideways) if sideways else 0.0
    coat, trousers = _tint(pick(CLOTHES, traits[1]), 0.95), _tint(pick(CLOTHES, traits[2]), 0.7)
    if facing:
        _bicycle(figure, facing)
    else:
        figure.box(-0.035, 0.035, 0, 0.68, TYRE)
        figure.limb((-0.28, 1.0), (0.28, 1.0), 0.05, METAL)
    for sign in (-1, 1):
        turn = seconds * 7 + traits[3] * 40 + (math.pi if sign > 0 else 0)
        foot = (0.1 * sign + 0.17 * math.cos(turn) * abs(facing), 0.3 + 0.17 * math.sin(turn))
        figure.limb((0.1 * sign - 0.2 * facing, 0.95), foot, 0.15, trousers)
    figure.limb((-0.2 * facing, 0.9), (0.15 * facing, 1.42), 0.42 - 0.1 * abs(facing), coat)
    if facing:
        figure.limb((0.1 * facing, 1.35), (0.42 * facing, 1.02), 0.1, coat)
    else:
        for sign in (-1, 1):
            figure.limb((0.2 * sign, 1.38), (0.27 * sign, 1.0), 0.11, coat)
    figure.disc((0.2375 * facing, 1.6), 0.125, _tint(pick(SKIN, traits[5]), 0.8))
    figure.disc((0.2375 * facing, 1.65), 0.115, _tint(pick(PAINTS, traits[6]), 0.9))


def _bicycle(figure: Upright, facing: float) -> None:
    back, front = (-0.52 * facing, 0.34), (0.52 * facing, 0.34)
    pedals, saddle, bar = (-0.05 * facing, 0.32), (-0.2 * facing, 0.85), (0.38 * facing, 0.95)
    for center in (back, front):
        rim = [(center[0] + 0.32 * a, center[1] + 0.32 * b) for a, b in _RING]
        for start, end in zip(rim, (*rim[1:], rim[0]), strict=True):
            figure.limb(start, end, 0.045, TYRE)
    path = (saddle, back, pedals, saddle, bar, pedals, bar, front)
    for start, end in pairwise(path):
        figure.limb(start, end, 0.045, (84, 40, 40))


# --- street furniture


def _lamp(pole: Upright, side: int) -> None:
    pole.post(7.5, 0.16, METAL)
    pole.limb((0, 7.4), (-side * 1.3, 7.7), 0.1, METAL)
    pole.box(-side * 1.5 - 0.3, -side * 1.5 + 0.3, 7.58, 7.78, (150, 150, 146))


def _sign(canvas: Canvas, x: float, z: float, traits: Traits) -> None:
    """A post with one of four signs: prohibition, warning, order, or a board with text."""
    top = 2.3 + 0.6 * traits[1]
    Upright(canvas, x, z, POLE).post(top + 0.3, 0.1, METAL)
    sign = Upright(canvas, x, z, SIGN)
    if traits[0] < 0.35:
        sign.disc((0, top), 0.36, (150, 36, 36))
        sign.disc((0, top), 0.26, WHITE)
    elif traits[0] < 0.55:
        sign.polygon([(-0.42, top - 0.3), (0.42, top - 0.3), (0, top + 0.45)], (156, 40, 38))
        sign.polygon([(-0.26, top - 0.21), (0.26, top - 0.21), (0, top + 0.25)], WHITE)
    elif traits[0] < 0.75:
        sign.disc((0, top), 0.36, (44, 76, 140))
        sign.limb((-0.15, top), (0.15, top), 0.1, WHITE)
    else:
        sign.box(-0.5, 0.5, top - 0.45, top + 0.5, (40, 70, 120) if traits[2] < 0.5 else (180, 166, 84))
        for y in (top - 0.2, top + 0.05, top + 0.3):
            sign.limb((-0.35, y), (0.3, y), 0.07, WHITE)


def _traffic_light(canvas: Canvas, x: float, z: float) -> None:
    Upright(canvas, x, z, POLE).post(2.6, 0.13, METAL)
    head = Upright(canvas, x, z, SIGN)
    head.box(-0.2, 0.2, 2.2, 3.2, (30, 31, 32))
    for y, color in ((3.02, (70, 26, 24)), (2.7, (70, 54, 24)), (2.38, (60, 190, 120))):
        head.disc((0, y), 0.11, color)


def _bin(canvas: Canvas, x: float, z: float) -> None:
    """A litter bin: one of the things that CamVid's eleven classes leave out."""
    half, tall, far, color = 0.275, 1.1, z + 0.6, (46, 52, 48)
    side = x - half if x > canvas.camera.x else x + half
    canvas.face(
        [(side, 0, z), (side, tall, z), (side, tall, far), (side, 0, far)],
        _tint(rgb(*color), 0.8),
        UNLABELLED,
    )
    Upright(canvas, x, z, UNLABELLED).box(-half, half, 0, tall, color)
