"""Cars, people, riders, poles, signs: what stands or moves between the property lines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fcn_deploy.street.canvas import Canvas, Color, Floats, Point
from fcn_deploy.street.scenery import (
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
from fcn_deploy.street.world import RAILING, Thing, Traits

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


@dataclass(frozen=True)
class Body:
    """The shape of a vehicle; distances along it count from its near end."""

    length: float
    width: float
    height: float
    waist: float
    """Metres up to the window sills."""
    cabin: tuple[float, float, float, float]
    """Where the windows begin, where the roof begins and ends, where the windows end."""


def paint_thing(canvas: Canvas, thing: Thing, x: float, z: float, seconds: float) -> None:
    """Anything but the ground and what lies beyond the pavements."""
    traits = thing.traits
    side = 1 if x > 0 else -1
    if thing.kind in ("car", "leader"):
        paint_vehicle(canvas, x, z, traits, oncoming=thing.ahead < 0 or (thing.ahead == 0 and x > 0))
    elif thing.kind == "person":
        paint_person(canvas, x, z, traits, seconds)
    elif thing.kind == "rider":
        paint_rider(canvas, x, z, traits, seconds, sideways=thing.across)
    elif thing.kind == "lamp":
        _lamp(canvas, x, z, side)
    elif thing.kind == "sign":
        _sign(canvas, x, z, traits)
    elif thing.kind == "light":
        _traffic_light(canvas, x, z)
    elif thing.kind == "bollard":
        _post(canvas, x, z, 1.0, 0.14, (58, 56, 54))
    elif thing.kind == "tree":
        paint_tree(canvas, x + side * 0.5, z, traits, 0.9)
    elif thing.kind == "railing":
        paint_railing(canvas, x - side * 0.1, z, RAILING, 1.1)
    elif thing.kind == "bin":
        _block(canvas, x, z, (0.55, 1.1, 0.6), (46, 52, 48), UNLABELLED)


_RING = tuple((math.cos(turn), math.sin(turn)) for turn in (k * math.pi / 6 for k in range(12)))


def _disc(canvas: Canvas, center: Point, radius: float, color: Color, label: int, plane: str = "front") -> None:
    """A disc that faces the camera, or the side (``plane="side"``)."""
    x, y, z = center
    if plane == "front":
        ring = [(x + radius * a, y + radius * b, z) for a, b in _RING]
    else:
        ring = [(x, y + radius * b, z + radius * a) for a, b in _RING]
    canvas.face(ring, color, label)


def _limb(canvas: Canvas, start: tuple[float, float], end: tuple[float, float], thick: float, z: float, color: Color, label: int) -> None:
    """A straight bar between two points (x, y) of an upright plane."""
    (x0, y0), (x1, y1) = start, end
    length = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
    half = max(thick, z / canvas.camera.focal) / 2
    nx, ny = -(y1 - y0) / length * half, (x1 - x0) / length * half
    canvas.face([(x0 + nx, y0 + ny, z), (x1 + nx, y1 + ny, z), (x1 - nx, y1 - ny, z), (x0 - nx, y0 - ny, z)], color, label)


def _tint(color: Floats, factor: float, lift: float = 0.0) -> Color:
    r, g, b = (float(value) * factor + lift for value in color)
    return r, g, b


# --- vehicles


def _body(traits: Traits, oncoming: bool) -> Body:
    if traits[1] > 0.965:
        return Body(9.5, 2.5, 3.1 + traits[2], 1.25, (0.0, 0.05, 9.4, 9.45))
    if traits[1] > 0.86:
        roof = (0.9, 1.6, 4.7, 4.8) if oncoming else (0.02, 0.1, 3.3, 4.0)
        return Body(4.8, 1.9, 2.0 + 0.3 * traits[2], 1.1, roof)
    length, height = 3.7 + 0.8 * traits[2], 1.4 + 0.16 * traits[3]
    bonnet = 1.05 + 0.2 * traits[2]
    boot = 0.05 if traits[4] > 0.4 else 0.6
    ends = (bonnet, bonnet + 0.75, length - boot - 0.5, length - boot)
    if not oncoming:
        ends = (boot, boot + 0.5, length - bonnet - 0.75, length - bonnet)
    return Body(length, 1.7 + 0.1 * traits[3], height, 0.88, ends)


def paint_vehicle(canvas: Canvas, x: float, z: float, traits: Traits, oncoming: bool) -> None:
    """A car, van or bus whose near end is ``z`` metres ahead."""
    body = _body(traits, oncoming)
    paint = pick(PAINTS, traits[0])
    left, right = x - body.width / 2, x + body.width / 2
    near_side = left if x > canvas.camera.x else right
    ground = [(left - 0.12, 0, z - 0.1), (right + 0.12, 0, z - 0.1)]
    canvas.shade([*ground, (right + 0.12, 0, z + body.length), (left - 0.12, 0, z + body.length)], 0.4)
    detailed = canvas.camera.pixels(body.height, z) > 12
    deck = [(left, body.waist, z), (right, body.waist, z)]
    deck += [(right, body.waist, z + body.length), (left, body.waist, z + body.length)]
    canvas.face(deck, _tint(paint, 1.1, 26), CAR)
    _vehicle_side(canvas, body, near_side, x, z, paint, detailed)
    _vehicle_end(canvas, body, (left, right), z, paint, oncoming, detailed)


def _vehicle_side(canvas: Canvas, body: Body, side: float, middle: float, z: float, paint: Floats, detailed: bool) -> None:
    start, roof_start, roof_end, end = (z + at for at in body.cabin)
    inner = side + 0.12 * math.copysign(1, middle - side)
    low, high, waist = 0.24, body.height, body.waist
    flank = [(side, low, z), (side, waist, z), (side, waist, z + body.length), (side, low, z + body.length)]
    canvas.face(flank, _tint(paint, 0.78), CAR)
    cabin = [(side, waist, start), (inner, high, roof_start), (inner, high, roof_end), (side, waist, end)]
    canvas.face(cabin, _tint(paint, 0.85, 6), CAR)
    if not detailed:
        return
    sill, top = waist + 0.05, high - 0.1 - 0.12 * (high > 2.6) * high
    for k in range(2):
        front, back = start + 0.22 + (end - start - 0.3) * k / 2, start + 0.12 + (end - start - 0.3) * (k + 1) / 2
        lean_front = (roof_start - start) * (k == 0)
        lean_back = (end - roof_end) * (k == 1)
        window = [(side, sill, front), (inner, top, front + lean_front), (inner, top, back - lean_back)]
        canvas.face([*window, (side, sill, back)], GLASS, CAR)
    for at in (0.19, 0.81):
        radius = 0.31 + 0.15 * (high > 2.6)
        hub = (side - 0.01 * math.copysign(1, middle - side), radius, z + body.length * at)
        _disc(canvas, hub, radius, TYRE, CAR, "side")
        _disc(canvas, hub, radius * 0.55, (104, 106, 108), CAR, "side")


def _vehicle_end(canvas: Canvas, body: Body, sides: tuple[float, float], z: float, paint: Floats, oncoming: bool, detailed: bool) -> None:
    left, right = sides
    width, waist, high = body.width, body.waist, body.height
    top_left, top_right = left + 0.12, right - 0.12
    base, roof = z + body.cabin[0], z + body.cabin[1]
    screen = [(left, waist, base), (right, waist, base), (top_right, high, roof), (top_left, high, roof)]
    canvas.face(screen, _tint(paint, 0.8), CAR)
    low, top = waist + 0.06, high - (0.1 if high < 2.6 else 0.9)
    lean = (top - waist) / (high - waist)
    edge, z_top = 0.1 + 0.12 * lean, base + (roof - base) * lean
    glass = [(left + 0.12, low, base), (right - 0.12, low, base), (right - edge, top, z_top), (left + edge, top, z_top)]
    canvas.face(glass, (58, 66, 74) if oncoming else GLASS, CAR)
    for x in (left + 0.14 * width, right - 0.14 * width):
        canvas.upright(x - 0.11, x + 0.11, 0, 0.4, z, TYRE, CAR)
    canvas.upright(left, right, 0.26, waist, z, _tint(paint, 0.95), CAR)
    if not detailed:
        return
    canvas.upright(left, right, 0.26, 0.5, z, _tint(paint, 0.55, 8), CAR)
    light = (214, 214, 204) if oncoming else (150, 30, 26)
    for x in (left + 0.04, right - 0.36):
        canvas.upright(x, x + 0.32, waist - 0.26, waist - 0.08, z, light, CAR)
    middle = (left + right) / 2
    plate = (206, 206, 200) if oncoming else (190, 168, 70)
    canvas.upright(middle - 0.27, middle + 0.27, 0.42, 0.54, z, plate, CAR)


# --- people


def paint_person(canvas: Canvas, x: float, z: float, traits: Traits, seconds: float) -> None:
    """A walking figure that faces the camera or turns its back."""
    tall = 1.55 + 0.32 * traits[0]
    coat, trousers = _tint(pick(CLOTHES, traits[1]), 0.9), _tint(pick(CLOTHES, traits[2]), 0.75)
    stride = 0.17 * tall * math.sin(seconds * 6 + traits[3] * 40)
    if canvas.camera.pixels(tall, z) < 22:
        canvas.upright(x - 0.19, x + 0.19, 0, 0.5 * tall, z, trousers, PEDESTRIAN)
        canvas.upright(x - 0.26, x + 0.26, 0.48 * tall, 0.84 * tall, z, coat, PEDESTRIAN)
        canvas.upright(x - 0.11, x + 0.11, 0.84 * tall, tall, z, (64, 50, 42), PEDESTRIAN)
        return
    _foot_shadow(canvas, x, z, 0.3)
    for sign in (-1, 1):
        foot = (x + 0.07 * sign + 0.6 * sign * stride, 0.03)
        _limb(canvas, (x + 0.08 * sign, 0.52 * tall), foot, 0.16, z, trousers, PEDESTRIAN)
    for sign in (-1, 1):
        hand = (x + 0.28 * sign - 0.4 * sign * stride, 0.46 * tall)
        _limb(canvas, (x + 0.2 * sign, 0.8 * tall), hand, 0.12, z, coat, PEDESTRIAN)
    shoulder, hip = 0.23 + 0.04 * traits[4], 0.19
    torso = [(x - hip, 0.44 * tall), (x + hip, 0.44 * tall), (x + shoulder, 0.8 * tall)]
    torso += [(x + 0.09, 0.85 * tall), (x - 0.09, 0.85 * tall), (x - shoulder, 0.8 * tall)]
    canvas.face([(a, b, z) for a, b in torso], coat, PEDESTRIAN)
    _disc(canvas, (x, 0.92 * tall, z), 0.125, _tint(pick(SKIN, traits[5]), 0.8), PEDESTRIAN)
    _disc(canvas, (x, 0.955 * tall, z), 0.11, (44, 36, 30), PEDESTRIAN)


def _foot_shadow(canvas: Canvas, x: float, z: float, reach: float) -> None:
    around = ((-1, -0.7), (1, -0.7), (1, 1), (-1, 1))
    canvas.shade([(x + reach * a, 0, z + reach * b) for a, b in around], 0.6)


def paint_rider(canvas: Canvas, x: float, z: float, traits: Traits, seconds: float, sideways: float) -> None:
    """A bicycle and its rider, seen from an end, or from the side when it crosses."""
    _foot_shadow(canvas, x, z, 0.4)
    coat, trousers = _tint(pick(CLOTHES, traits[1]), 0.95), _tint(pick(CLOTHES, traits[2]), 0.7)
    pedal = seconds * 7 + traits[3] * 40
    facing = float((sideways > 0) - (sideways < 0))
    if facing:
        _bicycle(canvas, x, z, facing)
    else:
        canvas.upright(x - 0.035, x + 0.035, 0, 0.68, z, TYRE, BICYCLIST)
        _limb(canvas, (x - 0.28, 1.0), (x + 0.28, 1.0), 0.05, z, METAL, BICYCLIST)
    for sign in (-1, 1):
        lift = 0.17 * math.sin(pedal + (math.pi if sign > 0 else 0))
        reach = 0.17 * math.cos(pedal + (math.pi if sign > 0 else 0)) * abs(facing)
        hip, foot = (x + 0.1 * sign - 0.2 * facing, 0.95), (x + 0.1 * sign + reach, 0.3 + lift)
        _limb(canvas, hip, foot, 0.15, z, trousers, BICYCLIST)
    lean = 0.35 * facing
    _limb(canvas, (x - 0.2 * facing, 0.9), (x - 0.2 * facing + lean, 1.42), 0.42 - 0.1 * abs(facing), z, coat, BICYCLIST)
    if facing:
        _limb(canvas, (x + 0.1 * facing, 1.35), (x + 0.42 * facing, 1.02), 0.1, z, coat, BICYCLIST)
    else:
        for sign in (-1, 1):
            _limb(canvas, (x + 0.2 * sign, 1.38), (x + 0.27 * sign, 1.0), 0.11, z, coat, BICYCLIST)
    head = (x - 0.2 * facing + lean * 1.25, 1.6, z)
    _disc(canvas, head, 0.125, _tint(pick(SKIN, traits[5]), 0.8), BICYCLIST)
    _disc(canvas, (head[0], 1.65, z), 0.115, _tint(pick(PAINTS, traits[6]), 0.9), BICYCLIST)


def _bicycle(canvas: Canvas, x: float, z: float, facing: float) -> None:
    back, front = (x - 0.52 * facing, 0.34), (x + 0.52 * facing, 0.34)
    pedals, saddle, bar = (x - 0.05 * facing, 0.32), (x - 0.2 * facing, 0.85), (x + 0.38 * facing, 0.95)
    for center in (back, front):
        rim = [(center[0] + 0.32 * a, center[1] + 0.32 * b) for a, b in _RING]
        for start, end in zip(rim, (*rim[1:], rim[0]), strict=True):
            _limb(canvas, start, end, 0.045, z, TYRE, BICYCLIST)
    for start, end in ((back, pedals), (pedals, saddle), (saddle, bar), (pedals, bar), (bar, front), (back, saddle)):
        _limb(canvas, start, end, 0.045, z, (84, 40, 40), BICYCLIST)


# --- street furniture


def _post(canvas: Canvas, x: float, z: float, height: float, thick: float, color: Color) -> None:
    half = max(thick, 1.1 * z / canvas.camera.focal) / 2
    canvas.upright(x - half, x + half, 0, height, z, color, POLE)


def _lamp(canvas: Canvas, x: float, z: float, side: int) -> None:
    _post(canvas, x, z, 7.5, 0.16, METAL)
    _limb(canvas, (x, 7.4), (x - side * 1.3, 7.7), 0.1, z, METAL, POLE)
    canvas.upright(*sorted((x - side * 1.2, x - side * 1.8)), 7.58, 7.78, z, (150, 150, 146), POLE)


def _sign(canvas: Canvas, x: float, z: float, traits: Traits) -> None:
    top = 2.3 + 0.6 * traits[1]
    _post(canvas, x, z, top + 0.3, 0.1, METAL)
    if traits[0] < 0.35:
        _disc(canvas, (x, top, z), 0.36, (150, 36, 36), SIGN)
        _disc(canvas, (x, top, z), 0.26, (206, 206, 200), SIGN)
    elif traits[0] < 0.55:
        corners = [(x - 0.42, top - 0.3, z), (x + 0.42, top - 0.3, z), (x, top + 0.45, z)]
        canvas.face(corners, (156, 40, 38), SIGN)
        inner = [(x - 0.26, top - 0.21, z), (x + 0.26, top - 0.21, z), (x, top + 0.25, z)]
        canvas.face(inner, (210, 208, 200), SIGN)
    elif traits[0] < 0.75:
        _disc(canvas, (x, top, z), 0.36, (44, 76, 140), SIGN)
        _limb(canvas, (x - 0.15, top), (x + 0.15, top), 0.1, z, (208, 208, 204), SIGN)
    else:
        board = (40, 70, 120) if traits[2] < 0.5 else (180, 166, 84)
        canvas.upright(x - 0.5, x + 0.5, top - 0.45, top + 0.5, z, board, SIGN)
        for y in (top - 0.2, top + 0.05, top + 0.3):
            _limb(canvas, (x - 0.35, y), (x + 0.3, y), 0.07, z, (206, 206, 204), SIGN)


def _traffic_light(canvas: Canvas, x: float, z: float) -> None:
    _post(canvas, x, z, 2.6, 0.13, METAL)
    canvas.upright(x - 0.2, x + 0.2, 2.2, 3.2, z, (30, 31, 32), SIGN)
    for y, color in ((3.02, (70, 26, 24)), (2.7, (70, 54, 24)), (2.38, (60, 190, 120))):
        _disc(canvas, (x, y, z), 0.11, color, SIGN)


def _block(canvas: Canvas, x: float, z: float, size: tuple[float, float, float], color: Color, label: int) -> None:
    """A box; ``size`` is width, height and depth in metres."""
    wide, tall, deep = size
    side = x - wide / 2 if x > canvas.camera.x else x + wide / 2
    flank = [(side, 0, z), (side, tall, z), (side, tall, z + deep), (side, 0, z + deep)]
    canvas.face(flank, _tint(np.float32(color), 0.8), label)
    canvas.upright(x - wide / 2, x + wide / 2, 0, tall, z, color, label)
