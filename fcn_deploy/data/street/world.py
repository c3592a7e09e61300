"""What stands and moves along one street: a layout drawn from a seed, on a loop of 400 metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LOOP = 400.0
"""Metres after which the street repeats."""
SPEED = 8.0
"""Metres a second at which the camera drives."""
FPS = 15.0
RAILING = 2.0
"""Metres of one piece of railing: short, so that nearer things are painted over it."""

Traits = NDArray[np.float64]
"""Eight random numbers from 0 to 1 that fix how one thing looks."""


@dataclass(frozen=True)
class Lot:
    """A stretch of one side of the street."""

    kind: str
    """``terrace``, ``shops``, ``house``, ``trees`` or ``junction``."""
    side: int
    """-1 left, 1 right."""
    start: float
    length: float
    height: float
    """Of the building or the trees, in metres."""
    traits: Traits


@dataclass(frozen=True)
class Thing:
    """Something that stands or moves between the two property lines."""

    kind: str
    x: float
    z: float
    traits: Traits
    across: float = 0.0
    """Metres a second to the right."""
    ahead: float = 0.0
    """Metres a second along the street."""


@dataclass(frozen=True)
class Mood:
    """Light and camera of one drive."""

    sky: str
    """``bright``, ``blue`` or ``grey``."""
    sun: int
    """The side whose buildings throw shadows on the road; 0 under clouds."""
    gain: float
    """Exposure of everything but the sky."""
    contrast: float
    """1 leaves tones alone, more spreads them about the mid greys."""
    warmth: float
    """-1 bluish to 1 reddish."""
    noise: float
    """Spread of the sensor's noise."""


@dataclass(frozen=True)
class World:
    road: float
    """Metres from the middle of the road to the kerb."""
    pavement: float
    """Width of the pavement in metres."""
    lane: float
    """Where the camera drives, metres right of the middle (traffic keeps left)."""
    start: float
    mood: Mood
    lots: tuple[Lot, ...]
    things: tuple[Thing, ...]

    @property
    def property_line(self) -> float:
        return self.road + self.pavement


@lru_cache(maxsize=16)
def make_world(seed: int) -> World:
    """The street of one seed; always the same for the same seed."""
    rng = np.random.default_rng([seed, 77])
    road = float(rng.uniform(3.9, 5.3))
    pavement = float(rng.uniform(1.8, 3.2))
    lots = (*_lots(rng, -1), *_lots(rng, 1))
    return World(
        road=road,
        pavement=pavement,
        lane=-road * float(rng.uniform(0.3, 0.42)),
        start=float(rng.uniform(0, LOOP)),
        mood=_mood(rng),
        lots=lots,
        things=(*_furniture(rng, road, pavement), *_traffic(rng, road), *_people(rng, road, pavement)),
    )


def _mood(rng: np.random.Generator) -> Mood:
    sky = str(rng.choice(["bright", "blue", "grey"], p=[0.5, 0.3, 0.2]))
    return Mood(
        sky=sky,
        sun=0 if sky == "grey" else int(rng.choice([-1, 0, 1])),
        gain=float(rng.uniform(0.5, 0.95) if sky == "grey" else rng.uniform(0.75, 1.35)),
        contrast=float(rng.uniform(1.0, 1.3)),
        warmth=float(rng.uniform(-1, 1)),
        noise=float(rng.uniform(1.5, 4.5)),
    )


def _lots(rng: np.random.Generator, side: int) -> list[Lot]:
    """Lots of one side, end to end around the loop."""
    kinds = ["terrace", "shops", "house", "trees", "junction"]
    town = rng.uniform(0, 1)
    shares = np.array([0.15 + 0.4 * town, 0.3 * town, 0.45 * (1 - town), 0.08 + 0.24 * (1 - town), 0.08])
    lots: list[Lot] = []
    at = 0.0
    while at < LOOP:
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        low, high = {"junction": (6, 8), "trees": (12, 30)}.get(kind, (8, 18))
        length = float(rng.uniform(low, high))
        if LOOP - at - length < 8:
            length = LOOP - at
        height = float(rng.uniform(5.2, 7.0) if kind == "house" else rng.uniform(6, 13))
        lots.append(Lot(kind, side, at, length, height, rng.random(8)))
        at += length
    return lots


def _furniture(rng: np.random.Generator, road: float, pavement: float) -> list[Thing]:
    """What stands on the pavements: lamps, signs, lights, trees, railings, bins."""
    things: list[Thing] = []
    for side in (-1, 1):
        kerb, wall = side * (road + 0.35), side * (road + pavement - 0.3)
        density = {"lamp": 26, "sign": 19, "light": 55, "tree": 40, "railing": 75, "bin": 30, "bollard": 40}
        for kind, gap in density.items():
            for z in np.arange(rng.uniform(0, gap), LOOP, gap):
                x = wall if kind == "bin" else kerb
                place, traits = float(z + rng.uniform(-gap / 3, gap / 3)), rng.random(8)
                pieces = 3 + int(5 * traits[0]) if kind == "railing" else 1
                things += [Thing(kind, x, place + RAILING * k, traits) for k in range(pieces)]
    return things


def _traffic(rng: np.random.Generator, road: float) -> list[Thing]:
    """Parked cars at the kerbs, a car ahead, oncoming cars."""
    things: list[Thing] = []
    for side in (-1, 1):
        parked = rng.uniform(0, 0.8) if road > 4.4 else 0.12
        for z in np.arange(rng.uniform(0, 6), LOOP, 6.0):
            if rng.random() < parked:
                small = rng.random(8) * np.array([1, 0.93, 1, 1, 1, 1, 1, 1])  # no parked buses
                things.append(Thing("car", side * (road - 0.95), float(z), small))
    for z in np.arange(rng.uniform(0, 30), LOOP, rng.uniform(22, 60)):
        things.append(Thing("car", road * 0.38, float(z), rng.random(8), ahead=-float(rng.uniform(5, 9))))
    if rng.random() < 0.75:
        things.append(Thing("leader", -road * 0.36, float(rng.uniform(9, 32)), rng.random(8)))
    return things


def _people(rng: np.random.Generator, road: float, pavement: float) -> list[Thing]:
    """Pedestrians on the pavements and across the road, cyclists at the kerb and across."""

    def pace(low: float, high: float) -> float:
        return float(rng.choice([-1, 1]) * rng.uniform(low, high))

    things: list[Thing] = []
    for _ in range(int(rng.integers(30, 110))):
        x = rng.choice([-1, 1]) * (road + rng.uniform(0.5, max(pavement - 0.5, 0.6)))
        ahead, z = pace(0.9, 1.7), float(rng.uniform(0, LOOP))
        things.append(Thing("person", float(x), z, rng.random(8), ahead=ahead))
    for z in np.arange(rng.uniform(10, 60), LOOP, 60):
        across, x = pace(1.0, 1.6), float(rng.uniform(-road, road))
        things.append(Thing("person", x, float(z), rng.random(8), across=across))
    for z in np.arange(rng.uniform(0, 40), LOOP, rng.uniform(30, 55)):
        side = float(rng.choice([-1, 1]))
        ahead = -side * float(rng.uniform(3.5, 5.5))
        things.append(Thing("rider", side * (road - 1.2), float(z), rng.random(8), ahead=ahead))
    for z in np.arange(rng.uniform(20, 80), LOOP, 70):
        across, x = pace(2.5, 4.0), float(rng.uniform(-road, road))
        things.append(Thing("rider", x, float(z), rng.random(8), across=across))
    return things
