"""The synthetic street clip: a drive along a made-up street, with the label of each pixel.

Numpy only, deterministic, in CamVid's classes: input with ground truth on any machine, for the
demo, the tests and a few more training frames. A frame is a pure function of the seed, its index
and its size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.frames import Frame
from fcn_deploy.data.street import scenery
from fcn_deploy.data.street.canvas import Camera, Canvas, Floats, rgb
from fcn_deploy.data.street.things import paint_thing
from fcn_deploy.data.street.world import FPS, SPEED, World, make_world
from fcn_deploy.errors import UsageError


class SyntheticStreet:
    """A clip of the synthetic street: iterable, and every frame at hand by its index.

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
        picture, labels = render(self.seed, index, self.height, self.width)
        if self.color_order == "bgr":
            picture = np.ascontiguousarray(picture[..., ::-1])
        return Frame(picture, f"{index:06d}.png", index, labels)


def render(seed: int, index: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One frame: picture R, G, B uint8 ``[H, W, 3]``, labels uint8 ``[H, W]`` (0 to 11)."""
    world = make_world(seed)
    seconds = index / FPS
    camera = _camera(world, seconds, height, width)
    canvas = Canvas(camera, scenery.SKIES[world.mood.sky][1], 420.0)
    camera_z = world.start + SPEED * seconds
    scenery.paint_sky(canvas, world.mood, seconds)
    scenery.paint_ground(canvas, world, camera_z)
    _paint_lots(canvas, world, camera_z)
    _paint_things(canvas, world, camera_z, seconds)
    rng = np.random.default_rng([seed, index, height, width])
    return _develop(canvas.image, world, seconds, rng), canvas.labels


def _camera(world: World, seconds: float, height: int, width: int) -> Camera:
    return Camera(
        height,
        width,
        x=world.lane + 0.25 * float(np.sin(0.5 * seconds + world.start)),
        yaw=0.05 * float(np.sin(0.37 * seconds + 2 * world.start)),
        pitch=0.004 * float(np.sin(7.1 * seconds)) + 0.02 * float(np.sin(world.start)),
    )


def _paint_lots(canvas: Canvas, world: World, camera_z: float) -> None:
    placed = [(scenery.nearest_copy(lot.start, camera_z, 45), lot) for lot in world.lots]
    for z, lot in sorted(placed, key=lambda item: -item[0]):
        if z < scenery.FAR and z + lot.length > 0:
            scenery.paint_lot(canvas, world, lot, z)


def _paint_things(canvas: Canvas, world: World, camera_z: float, seconds: float) -> None:
    reach = world.property_line + 6
    placed = []
    for thing in world.things:
        x = thing.x + thing.across * seconds
        if thing.across:
            x = (x + reach) % (2 * reach) - reach
        z = scenery.nearest_copy(thing.z + thing.ahead * seconds, camera_z, 14)
        if thing.kind == "leader":
            z = thing.z + 3 * float(np.sin(0.3 * seconds + thing.z))
        if z < 110 and _in_view(canvas.camera, x, z):
            placed.append((z, x, thing))
    for z, x, thing in sorted(placed, key=lambda item: -item[0]):
        paint_thing(canvas, thing, x, z, seconds)


def _in_view(camera: Camera, x: float, z: float) -> bool:
    """Whether a thing of at most 5 metres about ``x`` can touch the frame; near ones always may."""
    if z < 6:
        return True
    (left, _), (right, _) = camera.project([(x - 5, 0, z), (x + 5, 0, z)])
    return right > 0 and left < camera.width


def _develop(image: Floats, world: World, seconds: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """From daylight to what a dash camera delivers: exposure, tint, vignette, blur and noise."""
    height, width, _ = image.shape
    mood = world.mood
    gain = mood.gain * (1 + 0.04 * np.sin(1.3 * seconds + world.start))
    tint = rgb(1 + 0.04 * mood.warmth, 1, 1 - 0.04 * mood.warmth) * np.float32(gain)
    across = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    down = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
    vignette = 1 - 0.25 * (across[None, :] ** 2 + down[:, None] ** 2)
    image = _soften(image) * (vignette[..., None] * tint)
    image = 100 + (image - 100) * np.float32(mood.contrast)
    noise = rng.standard_normal((height, width, 1), np.float32) * np.float32(mood.noise)
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)


def _soften(image: Floats) -> Floats:
    """A blur of about a pixel along both axes, as lens and demosaicing make."""
    for axis in (0, 1):
        source = np.moveaxis(image, axis, 0)
        softened = source * np.float32(0.6)
        softened[1:] += 0.2 * source[:-1]
        softened[:-1] += 0.2 * source[1:]
        softened[:1] += 0.2 * source[:1]
        softened[-1:] += 0.2 * source[-1:]
        image = np.moveaxis(softened, 0, axis)
    return image
