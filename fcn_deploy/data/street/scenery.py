"""Sky, ground, buildings, gardens and trees: what lies on and beyond the pavements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.street.canvas import CAMERA_HEIGHT, Canvas, Color, Floats, Texture, clouds, grain, rgb
from fcn_deploy.data.street.world import LOOP, Lot, Mood, Traits, World

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, UNLABELLED = range(12)

FAR = 170.0
"""Metres up to which the street is drawn; a skyline stands behind."""

SKIES: dict[str, tuple[Color, Color, Color]] = {
    "bright": ((228, 238, 248), (246, 248, 250), (255, 255, 255)),
    "blue": ((150, 190, 232), (226, 236, 244), (250, 250, 250)),
    "grey": ((120, 130, 140), (186, 194, 198), (222, 226, 226)),
}
"""Overhead, at the horizon, and of the clouds."""

WALLS: tuple[Color, ...] = (
    *((118, 94, 80), (158, 142, 116), (196, 192, 184), (124, 120, 112), (102, 90, 80), (142, 118, 94)),
    *((176, 168, 152), (90, 86, 82), (206, 204, 198)),
)
ROOFS: tuple[Color, ...] = ((78, 76, 80), (104, 74, 62), (90, 84, 78))
SHOP_FRONTS: tuple[Color, ...] = ((36, 60, 96), (120, 36, 34), (40, 70, 52), (170, 160, 140), (44, 42, 44))

_ASPHALT, _WHEELS, _DASH, _LINE, _SLABS, _JOINT, _KERB, _GRASS = range(8)
PAVINGS = np.array(
    [
        *[(98, 100, 105), (91, 93, 98), (196, 196, 192), (168, 150, 84)],
        *[(128, 124, 119), (102, 99, 95), (150, 148, 142), (92, 106, 60)],
    ],
    np.float32,
)
"""Colour of asphalt, wheel tracks, centre dashes, yellow lines, slabs, joints, kerb, grass."""
ROUGHNESS = np.array([5, 5, 3, 3, 5, 5, 3, 12], np.float32)
PAVING_LABELS = np.array([ROAD] * 4 + [PAVEMENT] * 3 + [TREE], np.uint8)


def pick(choices: tuple[Color, ...], trait: float) -> Floats:
    """One of some colours by a number from 0 to 1."""
    return np.array(choices[int(trait * len(choices)) % len(choices)], np.float32)


def nearest_copy(z: float, camera_z: float, behind: float) -> float:
    """Distance ahead of the first copy of a place on the loop that is not ``behind`` by more."""
    return float((z - camera_z + behind) % LOOP - behind)


def paint_sky(canvas: Canvas, mood: Mood, seconds: float) -> None:
    """Gradient and drifting clouds, down to the horizon, with a skyline of roofs and trees."""
    camera = canvas.camera
    up = camera.rays_up()
    up = up[up > -0.02][:, None]  # a little below the horizon: the ground begins at FAR
    overhead, horizon, cloud = (rgb(*color) / np.float32(mood.gain) for color in SKIES[mood.sky])
    stretch = np.float32(70) / (np.maximum(up, np.float32(0)) + np.float32(0.25))
    noise = clouds(camera.rays_across()[None, :] * stretch + np.float32(seconds * 2), stretch * 2)
    cover = np.clip(noise * 0.45 + (0.1 if mood.sky == "blue" else 0.4), 0, 0.95)[..., None]
    clear = (horizon + (overhead - horizon) * np.clip(up * 1.8, 0, 1))[:, None, :]
    canvas.image[: len(up)] = clear + (cloud - clear) * cover
    canvas.labels[: len(up)] = SKY
    _paint_skyline(canvas, np.array(SKIES[mood.sky][1], np.float32))


def _paint_skyline(canvas: Canvas, haze: Floats) -> None:
    camera = canvas.camera
    bearing = camera.rays_across() + np.float32(camera.yaw)
    trees = 0.028 + 0.012 * clouds(bearing * 180, bearing * 0 + 33)
    block = np.floor(bearing * 14)
    houses = np.where(grain(block, block * 0 + 5) > 0.2, 0.02 + 0.02 * np.abs(grain(block, block * 0 + 9)), 0)
    top = np.maximum(trees, houses)
    up = camera.rays_up()
    first = int(np.searchsorted(-up, -float(top.max())))
    rows, columns = np.nonzero((up[first:, None] < top[None, :]) & (up[first:, None] > -0.02))
    rows += first
    leafy = trees[columns] >= houses[columns]
    dark = np.where(leafy[:, None], rgb(88, 92, 84), rgb(118, 108, 100))
    speckle = 7 * grain(columns.astype(np.float32), rows.astype(np.float32))
    canvas.image[rows, columns] = (dark + speckle[:, None]) * 0.7 + haze * 0.3
    canvas.labels[rows, columns] = np.where(leafy, np.uint8(TREE), np.uint8(BUILDING))


def paint_ground(canvas: Canvas, world: World, camera_z: float) -> None:
    """Road with its marks, kerbs, pavements, and grass or paving beyond, with shadows."""
    camera = canvas.camera
    up = camera.rays_up()
    first = int(np.searchsorted(-up, CAMERA_HEIGHT / FAR))
    if first >= camera.height:
        return
    depth = (-CAMERA_HEIGHT / up[first:])[:, None]
    x = camera.rays_across()[None, :] * depth + np.float32(camera.x)
    z = np.float32(camera_z) + depth
    lots = _lot_rows(world, z[:, 0])
    surface = _surfaces(world, lots, x, z, depth)
    fine = np.clip(14 / depth, 0.15, 1)
    speckle = (0.45 * grain(x * 40, z * 40) + 0.3 * grain(x * 12, z * 12)) * fine + 0.5 * clouds(x * 6, z * 3)
    roughness = ROUGHNESS[surface] * speckle
    color = PAVINGS[surface] + roughness[..., None]
    color *= _ground_shadow(world, lots["height"], x, z)[..., None]
    canvas.image[first:] = canvas.faded(color, depth)
    canvas.labels[first:] = PAVING_LABELS[surface]


def _lot_rows(world: World, z: Floats) -> dict[str, NDArray[Any]]:
    """For both sides and each row of ground: what kind of lot lies there, ``[2, rows]``."""
    kinds, heights = [], []
    for side in (-1, 1):
        lots = [lot for lot in world.lots if lot.side == side]
        found = np.searchsorted([lot.start for lot in lots], z % np.float32(LOOP), side="right") - 1
        kinds.append(np.array([lot.kind for lot in lots])[found])
        heights.append(np.array([lot.height for lot in lots], np.float32)[found])
    kind = np.array(kinds)
    return {
        "junction": kind == "junction",
        "green": (kind == "trees") | (kind == "house"),
        "height": np.where(kind == "junction", 0, np.array(heights)),
    }


def _surfaces(
    world: World, lots: dict[str, NDArray[Any]], x: Floats, z: Floats, depth: Floats
) -> NDArray[np.uint8]:
    """Which of the surfaces of :data:`PAVINGS` lies where, ``[rows, columns]``."""
    across = np.abs(x)
    left = x < 0

    def at(kind: str) -> NDArray[np.bool_]:
        beside: NDArray[np.bool_] = np.where(left, lots[kind][0][:, None], lots[kind][1][:, None])
        return beside

    wide = np.maximum(0.07, depth / 960)
    from_kerb = world.road - across
    road = (from_kerb >= 0) | at("junction")
    wheels = np.abs(np.abs(across - world.road * 0.38) - 0.75) < 0.28
    dashes = (across < wide) & (z % 6 < 3.6)
    lines = (np.abs(from_kerb - 0.35) < wide * 0.8) | (np.abs(from_kerb - 0.6) < wide * 0.8)
    lines &= np.floor(z / 40) % 3 < 2
    joints = ((z % 0.9 < 0.05) | (across % 0.9 < 0.05)) & (depth < 16)
    on_road = np.where(dashes, _DASH, np.where(lines, _LINE, np.where(wheels, _WHEELS, _ASPHALT)))
    beyond = np.where(at("green") & (across > world.property_line), _GRASS, np.where(joints, _JOINT, _SLABS))
    off_road = np.where(from_kerb > -0.16, _KERB, beyond)
    return np.where(road, on_road, off_road).astype(np.uint8)


def _ground_shadow(world: World, heights: NDArray[Any], x: Floats, z: Floats) -> Floats:
    """Factors by pixel: the shadow of the buildings on the sunny side."""
    if world.mood.sun == 0:
        return np.ones_like(x)
    height = np.asarray(heights[(world.mood.sun + 1) // 2], np.float32)[:, None]
    reach = world.property_line - 0.75 * height
    dapple = 0.5 * clouds(x * 8 + 40, z * 8)
    return np.where(x * world.mood.sun > reach + dapple, np.float32(0.55), np.float32(1.0))


def paint_lot(canvas: Canvas, world: World, lot: Lot, z: float) -> None:
    """One stretch beyond the pavement; ``z`` is the distance to its near end."""
    line = lot.side * world.property_line
    light = 0.62 if lot.side == world.mood.sun else 1.0
    if lot.kind in ("terrace", "shops"):
        _building(canvas, lot, line, z, z + lot.length, light)
    elif lot.kind == "house":
        back = line + lot.side * (3 + 4 * lot.traits[4])
        _building(canvas, lot, back, z + 1.5, z + lot.length - 1.5, light)
        _garden(canvas, lot, line, z, light)
    elif lot.kind == "trees":
        _grove(canvas, lot, line, z, light)
    else:
        far = lot.side * (world.property_line + 22)
        _building(canvas, lot, far, z - 14, z + lot.length + 14, light)


def _building(canvas: Canvas, lot: Lot, x: float, near: float, far: float, light: float) -> None:
    """Walls to the street and to the camera, and a roof."""
    if far <= near:
        return
    outward = (float(lot.side), 0.0, 0.0)
    wall = facade(lot, light)
    length = far - near
    pitched = lot.height < 9.5
    if pitched:
        _roof(canvas, lot, x, near, far, light)
    if near > 0:
        canvas.panel((x, 0, near), outward, (0, 1, 0), (11, lot.height), _gable(lot, light * 0.8), BUILDING)
    canvas.panel((x, 0, near), (0, 0, 1), (0, 1, 0), (length, lot.height), wall, BUILDING)


def _roof(canvas: Canvas, lot: Lot, x: float, near: float, far: float, light: float) -> None:
    tiles = pick(ROOFS, lot.traits[5]) * np.float32(light * 1.05)
    rise, depth = 2.0 + 1.6 * lot.traits[6], 5.5
    slope = np.hypot(rise, depth)
    shade = _color(pick(WALLS, lot.traits[0]) * light * 0.8)
    ridge = (x + lot.side * depth, lot.height + rise, near)
    chimney_x = x + lot.side * 2.2
    for z in (far - 0.9, near + 0.2):
        bottom, top = lot.height, lot.height + rise + 0.6
        left, right = sorted((chimney_x, chimney_x + lot.side))
        canvas.upright(left, right, bottom, top, z, shade, BUILDING)
        side = [(chimney_x, y, z + back) for y, back in ((bottom, 0), (bottom, 0.8), (top, 0.8), (top, 0))]
        canvas.face(side, _color(1.1 * np.array(shade)), BUILDING)
    canvas.face([(x, lot.height, near), ridge, (x + lot.side * 2 * depth, lot.height, near)], shade, BUILDING)

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        rows = np.where(t % 0.35 < 0.07, np.float32(0.88), np.float32(1))
        return tiles * (rows * (1 + 0.06 * grain(s * 5, t * 5)))[:, None], None

    up = (lot.side * depth / slope, rise / slope, 0.0)
    canvas.panel((x, lot.height, near), (0, 0, 1), up, (far - near, slope), texture, BUILDING)


def _color(values: NDArray[Any]) -> Color:
    r, g, b = values.tolist()
    return r, g, b


def facade(lot: Lot, light: float) -> Texture:
    """A wall with rows of windows, and a shop front or doors on the ground floor."""
    traits = lot.traits
    wall = pick(WALLS, traits[0])
    front = pick(SHOP_FRONTS, traits[1])
    bay, storey = 2.1 + 1.6 * traits[2], 2.7 + 0.7 * traits[3]
    wide, tall = 0.22 + 0.16 * traits[5], 0.24 + 0.14 * traits[6]
    trim = rgb(206, 204, 196) if traits[7] > 0.4 else wall * np.float32(0.6)
    salt = float(traits[0] * 400)

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        course = grain(s * 4 + salt, t * 13) * 0.05 + clouds(s * 5 + salt, t * 5) * 0.05
        color = wall * (1 + course)[:, None]
        floor, place = np.floor(t / storey), np.floor(s / bay)
        fx, fy = np.abs(s / bay - place - 0.5), np.abs(t / storey - floor - 0.55)
        upper = (floor >= (1 if lot.kind == "shops" else 0)) & (t < lot.height - 0.5)
        color[upper & (fx < wide + 0.05) & (fy < tall + 0.04)] = trim
        glass = upper & (fx < wide) & (fy < tall)
        tone = 46 + 16 * grain(place + salt, floor) + 40 * np.clip(t / 14, 0, 1) + 6 * grain(s * 2, t * 2)
        color[glass] = (tone[:, None] * rgb(0.94, 1.0, 1.08))[glass]
        bars = glass & ((fx < 0.025) | (np.abs(fy - tall * 0.3) < 0.02))
        color[bars] = trim
        if lot.kind == "shops":
            _shop_front(color, s, t, front, salt)
        else:
            door = (floor == 0) & (np.abs(s % (2 * bay) - 0.5 * bay) < 0.55) & (t < 2.1)
            color[door] = front * np.float32(0.8)
        color[(t > lot.height - 0.35) & (t < lot.height - 0.1)] *= 0.7
        return color * np.float32(light), None

    return texture


def _shop_front(color: Floats, s: Floats, t: Floats, front: Floats, salt: float) -> None:
    """Display windows under a painted board, in place."""
    shop = np.floor(s / 5.5)
    color[t < 3.2] = front
    glass = (t > 0.5) & (t < 2.5) & (s % 1.8 > 0.12)
    goods = 44 + 26 * clouds(s * 22 + salt, t * 22) + 10 * grain(shop + salt, shop)
    color[glass] = (goods[:, None] * rgb(1.06, 1.0, 0.92))[glass]
    along = s % 5.5
    letters = (t > 2.72) & (t < 3.05) & (along > 1.2) & (along < 4.2) & (grain(s * 5 + salt, t * 0) > -0.2)
    color[letters] = (200, 196, 180)


def _gable(lot: Lot, light: float) -> Texture:
    wall = pick(WALLS, lot.traits[0]) * np.float32(light)

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        course = grain(s * 4, t * 13) * 0.05 + clouds(s * 4 + 90, t * 4) * 0.06
        return wall * (1 + course)[:, None], None

    return texture


def _garden(canvas: Canvas, lot: Lot, line: float, z: float, light: float) -> None:
    """A tree, and a hedge or a fence at the property line."""
    x = line + lot.side * 2.0
    if lot.traits[5] > 0.35:
        paint_tree(canvas, x, z + lot.length * (0.3 + 0.4 * lot.traits[6]), lot.traits, light)
    if lot.traits[7] < 0.55:
        paint_hedge(canvas, line, z, lot.length - 1.5, 0.8 + 1.1 * lot.traits[2], light)
    else:
        paint_boards(canvas, line, z, lot.length - 1.5, 1.0 + 0.8 * lot.traits[2], light)


def _grove(canvas: Canvas, lot: Lot, line: float, z: float, light: float) -> None:
    """A dense row of trees with single ones before it, behind railings or a hedge."""
    paint_hedge(canvas, line + lot.side * 9, z, lot.length, lot.height * 0.75, light * 0.8)
    for k in reversed(range(int(lot.length / 5))):
        traits = np.roll(lot.traits, k)
        paint_tree(canvas, line + lot.side * (1.2 + 5 * traits[0]), z + 2 + 5 * k, traits, light)
    if lot.traits[3] < 0.4:
        paint_railing(canvas, line, z, lot.length, 1.2)
    elif lot.traits[3] < 0.7:
        paint_boards(canvas, line, z, lot.length, 1.5, light)


def paint_hedge(canvas: Canvas, x: float, z: float, length: float, height: float, light: float) -> None:
    """A leafy wall along the street with a ragged top."""

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        leaves = 0.2 * grain(s * 9, t * 9) + 0.16 * clouds(s * 8, t * 8)
        rim = height * (0.85 + 0.07 * clouds(s * 6, t * 6)) - t
        tone = (0.75 + 0.35 * t / height + leaves) * np.float32(light)
        return tone[:, None] * rgb(80, 84, 60), (rim > 0).astype(np.float32)

    canvas.panel((x, 0, z), (0, 0, 1), (0, 1, 0), (length, height), texture, TREE)


def paint_boards(canvas: Canvas, x: float, z: float, length: float, height: float, light: float) -> None:
    """A wooden fence along the street."""

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        tone = (1 + 0.12 * grain(s * 7, t * 0) + 0.05 * grain(s * 30, t * 4)) * np.float32(light)
        tone = np.where((s % 0.28 < 0.03) | (np.abs(t - height * 0.92) < 0.04), tone * 0.6, tone)
        return tone[:, None] * rgb(96, 80, 64), None

    canvas.panel((x, 0, z), (0, 0, 1), (0, 1, 0), (length, height), texture, FENCE)


def paint_railing(canvas: Canvas, x: float, z: float, length: float, height: float) -> None:
    """Metal bars that let the view through; the whole railing is labelled, as annotators do."""

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        bars = (s % 0.16 < 0.05) | (np.abs(t - height + 0.05) < 0.05) | (np.abs(t - 0.12) < 0.04)
        tone = rgb(52, 54, 54) + 0 * s[:, None]
        return tone, np.where(bars, np.float32(0.95), np.float32(0.3))

    canvas.panel((x, 0, z), (0, 0, 1), (0, 1, 0), (length, height), texture, FENCE)


def paint_tree(canvas: Canvas, x: float, z: float, traits: Traits, light: float) -> None:
    """A trunk and a crown that faces the camera: bare, leafy or evergreen."""
    height = 4.5 + 5.5 * traits[1]
    wide = height * (0.45 + 0.3 * traits[2])
    kind = ("bare", "bare", "leafy", "evergreen")[int(traits[3] * 3.99)]
    bottom = height * (0.08 if kind == "evergreen" else 0.28)
    trunk = max(0.12 + 0.16 * traits[4], z / canvas.camera.focal)
    bark = _color(np.array([78.0, 70.0, 60.0]) * light)
    foot, fork = [(x - trunk, 0, z), (x + trunk, 0, z)], height * 0.7
    canvas.face([*foot, (x + trunk * 0.6, fork, z), (x - trunk * 0.6, fork, z)], bark, TREE)
    crown = _crown(kind, wide, height - bottom, traits, light)
    canvas.panel((x - wide / 2, bottom, z), (1, 0, 0), (0, 1, 0), (wide, height - bottom), crown, TREE)


LEAVES: dict[str, Color] = {"bare": (104, 96, 88), "leafy": (94, 98, 68), "evergreen": (58, 66, 52)}


def _crown(kind: str, wide: float, tall: float, traits: Traits, light: float) -> Texture:
    base = np.array(LEAVES[kind], np.float32) * np.float32(light)
    salt = float(traits[5] * 500)

    def texture(s: Floats, t: Floats) -> tuple[Floats, Floats | None]:
        p, q = (s / wide - 0.5) * 2, t / tall
        reach = 1 - 1.04 * q if kind == "evergreen" else np.sqrt(np.maximum(1 - (2.16 * q - 1) ** 2, 0))
        lumps = clouds(s * 9 + salt, t * 9)
        edge = reach * (0.82 + 0.22 * lumps) - np.abs(p)
        fine = grain(s * 20 + salt, t * 20)
        opacity = (edge > 0).astype(np.float32)
        if kind == "bare":
            twigs = np.clip(0.5 + 0.45 * fine - 0.6 * np.abs(p) + 0.3 * np.abs(lumps), 0.08, 0.9)
            opacity *= twigs
        tone = 0.8 + 0.3 * q + 0.2 * lumps + 0.2 * fine
        return base * tone[:, None], opacity

    return texture
