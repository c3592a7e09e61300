"""The synthetic street: pure, exact to the pixel, of any size, and of CamVid's proportions."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from fcn_deploy.data.street import SyntheticStreet, render
from fcn_deploy.data.street.canvas import CAMERA_HEIGHT, Camera, Canvas
from fcn_deploy.data.street.scenery import CAR, ROAD, SKY, nearest_copy
from fcn_deploy.data.street.world import LOOP, make_world
from fcn_deploy.errors import UsageError

CAMVID_SHARES = (0.168, 0.233, 0.010, 0.317, 0.045, 0.097, 0.012, 0.011, 0.059, 0.006, 0.003)
"""Of CamVid's training pixels, by class id."""


def plain_canvas(height: int = 40, width: int = 60) -> Canvas:
    """A canvas of zeros and label 11, without haze."""
    return Canvas(Camera(height, width), (0, 0, 0), 1e12)


@pytest.fixture(scope="module")
def scenes():
    """Pictures and labels of sixteen streets."""
    return [render(seed, 31 * seed % 200, 120, 160) for seed in range(16)]


class TestClip:
    def test_frames_have_the_stated_shapes_and_class_ids(self):
        clip = SyntheticStreet(frames=3, height=45, width=60)
        frames = list(clip)
        assert len(clip) == len(frames) == 3
        for index, frame in enumerate(frames):
            assert (frame.index, frame.name) == (index, f"{index:06d}.png")
            assert frame.image.shape == (45, 60, 3) and frame.image.dtype == np.uint8
            assert frame.labels.shape == (45, 60) and frame.labels.dtype == np.uint8
            assert frame.labels.max() <= 11
            assert frame.image.flags.c_contiguous

    @settings(max_examples=25)
    @given(
        height=st.integers(1, 70),
        width=st.integers(1, 70),
        seed=st.integers(0, 40),
        index=st.integers(0, 10**6),
    )
    def test_any_size_seed_and_index(self, height, width, seed, index):
        picture, labels = render(seed, index, height, width)
        assert picture.shape == (height, width, 3) and labels.shape == (height, width)
        assert labels.max() <= 11

    @pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (2, 3), (300, 20)])
    def test_odd_shapes(self, size):
        frame = SyntheticStreet(1, *size)[0]
        assert frame.image.shape[:2] == frame.labels.shape == size

    def test_a_frame_is_a_pure_function_of_seed_index_and_size(self):
        forwards = list(SyntheticStreet(4, 48, 64, seed=5))
        clip = SyntheticStreet(100, 48, 64, seed=5)
        for index in (3, 1, 0, 2):
            assert np.array_equal(clip[index].image, forwards[index].image)
            assert np.array_equal(clip[index].labels, forwards[index].labels)

    def test_another_process_draws_the_same(self):
        code = "from fcn_deploy.data.street import render; import hashlib; p, l = render(2, 9, 50, 70);"
        code += "print(hashlib.sha256(p.tobytes() + l.tobytes()).hexdigest())"
        told = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hash_seed in ("1", "2")
        }
        assert len(told) == 1

    def test_seeds_and_indices_give_different_frames(self):
        pictures = [render(seed, index, 40, 60)[0].tobytes() for seed in (0, 1, 2) for index in (0, 1, 50)]
        assert len(set(pictures)) == 9

    def test_colour_order(self):
        bgr, rgb = (SyntheticStreet(1, 30, 40, color_order=order)[0] for order in ("bgr", "rgb"))
        assert np.array_equal(bgr.image, rgb.image[..., ::-1])
        assert np.array_equal(bgr.labels, rgb.labels)

    @pytest.mark.parametrize(
        "wrong",
        [{"frames": 0}, {"height": 0}, {"width": -1}, {"seed": -1}, {"color_order": "grb"}],
    )
    def test_arguments_out_of_range(self, wrong):
        with pytest.raises(UsageError, match="must be"):
            SyntheticStreet(**wrong)

    @pytest.mark.parametrize("index", [-1, 3])
    def test_index_outside_the_clip(self, index):
        with pytest.raises(IndexError, match="clip of 3"):
            SyntheticStreet(3, 8, 8)[index]


class TestScene:
    def test_shares_of_the_classes_resemble_camvid(self, scenes):
        counts = np.bincount(np.concatenate([labels.ravel() for _, labels in scenes]), minlength=12)
        shares = counts / counts.sum()
        for class_id, real in enumerate(CAMVID_SHARES):
            assert real / 4 < shares[class_id] < real * 4, class_id
        assert 0 < shares[11] < 0.05

    def test_it_is_a_street(self, scenes):
        for _, labels in scenes:
            ground, above = labels[70:], labels[:30]
            assert (ground == ROAD).mean() > 0.35
            assert not (above == ROAD).any()
            assert not (labels[75:] == SKY).any()

    def test_the_sky_is_bright_and_things_differ_from_the_road(self, scenes):
        for picture, labels in scenes:
            if (labels == SKY).any():
                assert picture[labels == SKY].mean() > picture[labels == ROAD].mean() + 20

    def test_the_camera_moves_smoothly(self):
        labels = [render(4, index, 60, 80)[1] for index in (10, 11, 60)]
        assert 0.85 < np.mean(labels[0] == labels[1]) < 1
        assert np.mean(labels[0] == labels[2]) < np.mean(labels[0] == labels[1])

    def test_sizes_show_the_same_scene(self):
        small, large = render(3, 7, 60, 80)[1], render(3, 7, 180, 240)[1]
        assert np.mean(small == large[1::3, 1::3]) > 0.93

    def test_lots_lie_end_to_end_around_the_loop(self):
        for seed in range(8):
            for side in (-1, 1):
                lots = [lot for lot in make_world(seed).lots if lot.side == side]
                ends = [lot.start + lot.length for lot in lots]
                assert lots[0].start == 0
                assert ends[:-1] == pytest.approx([lot.start for lot in lots[1:]])
                assert ends[-1] == pytest.approx(LOOP)

    @given(z=st.floats(-2000, 2000), camera=st.floats(0, 5000), behind=st.floats(0, 100))
    def test_the_nearest_copy_of_a_place_lies_ahead(self, z, camera, behind):
        found = nearest_copy(z, camera, behind)
        assert -behind - 1e-6 <= found <= LOOP - behind + 1e-6
        turns = (found - (z - camera)) / LOOP
        assert turns == pytest.approx(round(turns), abs=1e-6)

    @pytest.mark.camvid
    def test_brightness_by_class_resembles_camvid(self, scenes, camvid):
        real = [
            (np.asarray(Image.open(path)), np.asarray(Image.open(camvid / "trainannot" / path.name)))
            for path in sorted((camvid / "train").glob("*.png"))[::24]
        ]
        for class_id in (0, 1, 3, 4, 5, 8):  # the classes with pixels enough
            theirs, ours = (
                np.concatenate([picture[labels == class_id] for picture, labels in source]).mean()
                for source in (real, scenes)
            )
            assert abs(theirs - ours) < 45, class_id


coordinate = st.floats(-6, 6)
corner = st.tuples(coordinate, st.floats(-4, 6), st.floats(3, 20))


class TestCanvas:
    @given(corners=st.tuples(corner, corner, corner))
    def test_a_face_covers_the_pixels_whose_centre_is_inside(self, corners):
        """Against an independent rule: the signs of three cross products."""
        canvas = plain_canvas()
        canvas.face(corners, (9, 8, 7), CAR)
        points = np.array(canvas.camera.project(corners))
        x, y = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
        areas = []
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            length = np.hypot(x1 - x0, y1 - y0)
            assume(length > 1e-3)
            areas.append(((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
        inside = np.all(np.array(areas) > 0, axis=0) | np.all(np.array(areas) < 0, axis=0)
        clear = np.all(np.abs(areas) > 1e-6, axis=0)
        assert np.array_equal((canvas.labels == CAR)[clear], inside[clear])

    @given(corners=st.lists(st.tuples(coordinate, coordinate, st.floats(-5, 20)), min_size=3, max_size=6))
    def test_picture_and_labels_change_in_the_same_pixels(self, corners):
        canvas = plain_canvas()
        canvas.face(corners, (9, 8, 7), CAR)
        assert np.array_equal(canvas.labels == CAR, canvas.image[..., 0] > 0)

    @given(left=coordinate, right=coordinate, low=coordinate, high=coordinate, z=st.floats(-2, 30))
    def test_upright_paints_what_a_face_does(self, left, right, low, high, z):
        (left, right), (low, high) = sorted((left, right)), sorted((low, high))
        quick, plain = plain_canvas(), plain_canvas()
        quick.upright(left, right, low, high, z, (9, 8, 7), CAR)
        plain.face([(left, low, z), (right, low, z), (right, high, z), (left, high, z)], (9, 8, 7), CAR)
        assert np.array_equal(quick.labels, plain.labels)
        assert np.allclose(quick.image, plain.image)

    @given(x=coordinate, z=st.floats(-4, 12), length=st.floats(0.5, 30))
    def test_a_panel_along_the_street_covers_what_a_face_does(self, x, z, length):
        panel, face = plain_canvas(), plain_canvas()
        grey = lambda s, t: (np.full((len(s), 3), 5, np.float32), None)  # noqa: E731
        panel.panel((x, 0, z), (0, 0, 1), (0, 1, 0), (length, 3), grey, CAR)
        far = z + length
        face.face([(x, 0, z), (x, 0, far), (x, 3, far), (x, 3, z)], (5, 5, 5), CAR)
        assert np.array_equal(panel.labels, face.labels)

    def test_a_texture_is_told_metres_on_the_panel(self):
        canvas = plain_canvas()
        canvas.panel(
            (-1, 1, 8), (1, 0, 0), (0, 1, 0), (4, 2), lambda s, t: (np.stack([s, t, s], 1), None), CAR
        )
        rows, columns = np.nonzero(canvas.labels == CAR)
        x = (columns + 0.5 - canvas.camera.center) / canvas.camera.focal * 8
        y = (canvas.camera.horizon - rows - 0.5) / canvas.camera.focal * 8 + CAMERA_HEIGHT
        assert len(rows) > 100
        assert np.allclose(canvas.image[rows, columns, 0], x + 1, atol=1e-4)
        assert np.allclose(canvas.image[rows, columns, 1], y - 1, atol=1e-4)

    def test_transparent_pixels_keep_picture_and_label(self):
        canvas = plain_canvas()

        def left_half(s, t):
            return np.full((len(s), 3), 100, np.float32), np.where(s < 2, 0.5, 0).astype(np.float32)

        canvas.panel((-2, 0, 8), (1, 0, 0), (0, 1, 0), (4, 2), left_half, CAR)
        painted = canvas.labels == CAR
        assert painted.any() and np.nonzero(painted)[1].max() < 30
        assert set(np.unique(canvas.image)) == {0, 50}
        assert np.array_equal(painted, canvas.image[..., 0] == 50)

    def test_shade_darkens_and_leaves_labels(self):
        canvas = plain_canvas()
        canvas.image[:] = 100
        canvas.shade([(-1, 0, 5), (1, 0, 5), (1, 0, 9), (-1, 0, 9)], 0.4)
        assert set(np.unique(canvas.image.round(3))) == {40, 100}
        assert (canvas.labels == 11).all()

    def test_what_is_behind_the_camera_is_not_painted(self):
        canvas = plain_canvas()
        canvas.face([(-9, 0, -5), (9, 0, -5), (9, 9, -5), (-9, 9, -5)], (9, 8, 7), CAR)
        assert (canvas.labels == 11).all()

    def test_haze_takes_far_colours(self):
        shades = []
        for z in (2, 50, 5000):
            canvas = Canvas(Camera(40, 60), (200, 200, 200), 100)
            canvas.upright(-z, z, -z, z, z, (0, 0, 0), CAR)
            shades.append(canvas.image[20, 30, 0])
        assert shades[0] < 10 < shades[1] < 150 < shades[2] <= 200
