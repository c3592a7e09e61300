"""Pictures: sizes, colour order, exact mixing, and odd inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcn_deploy.classes import CAMVID_CLASSES, CAMVID_PALETTE
from fcn_deploy.draw import Overlay, colorize, confusion_picture, heat_map, overlay, strip
from fcn_deploy.errors import SourceError, UsageError
from fcn_deploy.spec import Architecture, ModelSpec

SPEC = ModelSpec(classes=CAMVID_CLASSES, palette=CAMVID_PALETTE, architecture=Architecture("fcn8s-lite"))
RGB_SPEC = SPEC.replace(color_order="rgb")


@st.composite
def frames_with_labels(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return draw(hnp.arrays(np.uint8, (*shape, 3))), draw(hnp.arrays(np.uint8, shape))


def by_hand(image, labels, spec, alpha):
    """The same mix in floats, a pixel at a time."""
    mixed = np.empty(image.shape)
    for place in np.ndindex(labels.shape):
        color = spec.palette[labels[place]] if labels[place] < spec.num_classes else (0, 0, 0)
        ordered = color[::-1] if spec.color_order == "bgr" else color
        mixed[place] = (1 - alpha) * image[place] + alpha * np.array(ordered)
    return mixed


def test_colorize_takes_the_palettes_colours_and_black_beyond_it():
    labels = np.array([[0, 10, 11, 255]], np.uint8)
    expected = [[CAMVID_PALETTE[0], CAMVID_PALETTE[10], (0, 0, 0), (0, 0, 0)]]
    drawn = colorize(labels, CAMVID_PALETTE)
    assert drawn.dtype == np.uint8
    assert drawn.tolist() == np.array(expected).tolist()


@given(frames_with_labels(), st.floats(0, 1), st.sampled_from([SPEC, RGB_SPEC]))
def test_an_overlay_is_the_weighted_mean_in_the_frames_colour_order(pair, alpha, spec):
    image, labels = pair
    before = image.copy(), labels.copy()
    drawn = overlay(image, labels, spec, alpha=alpha)
    assert drawn.dtype == np.uint8
    assert drawn.shape == image.shape
    assert np.abs(drawn - by_hand(image, labels, spec, alpha)).max() <= 1
    assert (image == before[0]).all() and (labels == before[1]).all()


@given(frames_with_labels(), st.sampled_from([SPEC, RGB_SPEC]))
def test_alpha_0_is_the_frame_and_alpha_1_are_the_colours(pair, spec):
    image, labels = pair
    assert (overlay(image, labels, spec, alpha=0) == image).all()
    colors = colorize(labels, spec.palette)
    ordered = colors[..., ::-1] if spec.color_order == "bgr" else colors
    assert (overlay(image, labels, spec, alpha=1) == ordered).all()


@given(frames_with_labels())
def test_views_are_drawn_as_their_copies(pair):
    image, labels = pair
    for view in (lambda a: a[:, ::-1], lambda a: a[::2, ::2], lambda a: a.swapaxes(0, 1)):
        copies = np.ascontiguousarray(view(image)), np.ascontiguousarray(view(labels))
        assert (overlay(view(image), view(labels), SPEC) == overlay(*copies, SPEC)).all()
    flipped = image[..., ::-1]
    assert (overlay(flipped, labels, SPEC) == overlay(flipped.copy(), labels, SPEC)).all()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 700)), min_size=1, max_size=3),
    st.floats(0, 1),
    st.sampled_from([SPEC, RGB_SPEC]),
    st.integers(0, 2**32 - 1),
)
def test_one_overlay_draws_frames_of_any_size_one_after_the_other(sizes, alpha, spec, seed):
    """Also frames of more pixels than are mixed at a time, and of an odd number of them."""
    rng = np.random.default_rng(seed)
    draw = Overlay(alpha, legend=False)
    for size in sizes:
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        labels = rng.integers(0, 256, size, dtype=np.uint8)
        colors = colorize(labels, spec.palette)
        ordered = colors[..., ::-1] if spec.color_order == "bgr" else colors
        plain = (1 - alpha) * image + alpha * ordered
        assert np.abs(draw(image, labels, spec) - plain).max() <= 1


def test_one_overlay_heeds_a_change_of_classes_and_order():
    """Tables and legends are kept, each for its own classes."""
    image, labels = np.full((300, 300, 3), 90, np.uint8), np.zeros((300, 300), np.uint8)
    other = ModelSpec(
        classes=("a", "b"), palette=((255, 0, 0), (0, 0, 255)), architecture=Architecture("fcn8s-lite")
    )
    draw = Overlay()
    for spec in (SPEC, other, RGB_SPEC, SPEC, other.replace(color_order="rgb"), other):
        assert (draw(image, labels, spec) == overlay(image, labels, spec)).all()


def test_one_pixel():
    drawn = overlay(np.full((1, 1, 3), 100, np.uint8), np.array([[3]], np.uint8), RGB_SPEC)
    assert drawn.tolist() == [[[105, 86, 116]]]


def test_the_legend_is_drawn_where_there_is_room_and_in_a_corner_only():
    image, labels = np.full((400, 500, 3), 90, np.uint8), np.full((400, 500), 3, np.uint8)
    plain, drawn = (overlay(image, labels, SPEC, legend=legend) for legend in (False, True))
    rows, columns = np.nonzero((plain != drawn).any(-1))
    assert rows.size
    assert rows.min() > 400 * 0.3 and columns.max() < 500 / 2
    assert rows.max() < 400 and columns.min() >= 4


@pytest.mark.parametrize("size", [(1, 1), (40, 500), (400, 40), (24, 24)])
def test_no_legend_where_it_would_hide_the_frame(size):
    image, labels = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    assert (overlay(image, labels, SPEC) == overlay(image, labels, SPEC, legend=False)).all()


def test_the_legend_shows_the_colours_in_the_frames_order():
    classes, palette = ("a", "b"), ((255, 0, 0), (0, 0, 255))
    spec = ModelSpec(
        classes=classes, palette=palette, architecture=Architecture("fcn8s-lite"), color_order="rgb"
    )
    image, labels = np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200), np.uint8)
    in_rgb = overlay(image, labels, spec, alpha=0)
    in_bgr = overlay(image, labels, spec.replace(color_order="bgr"), alpha=0)
    assert (in_rgb == in_bgr[..., ::-1]).all()
    reds = (in_rgb[..., 0] > 150) & (in_rgb[..., 2] < 50)
    blues = (in_rgb[..., 2] > 150) & (in_rgb[..., 0] < 50)
    assert reds.any() and blues.any()
    assert np.nonzero(reds)[0].mean() < np.nonzero(blues)[0].mean()  # in the order of the classes


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8)),
        (np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.int64)),
    ],
)
def test_frames_and_labels_that_do_not_fit_are_refused(image, labels):
    with pytest.raises(SourceError, match="a frame must be uint8"):
        overlay(image, labels, SPEC)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(UsageError, match="alpha must be from 0 to 1"):
        overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), SPEC, alpha=alpha)


def test_a_heat_map_runs_from_dark_to_bright():
    drawn = heat_map(np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 100))
    assert drawn.shape == (1, 100, 3) and drawn.dtype == np.uint8
    assert drawn[0, 0].tolist() == [0, 0, 4] and drawn[0, -1].tolist() == [252, 255, 164]
    brightness = drawn[0].astype(int) @ [299, 587, 114]
    assert (np.diff(brightness) >= 0).all()


def test_a_heat_map_of_confidence_a_rounding_beyond_its_ends_does_not_wrap():
    beyond = heat_map(np.array([[-1e-3, 1 + 1e-3]], np.float32))
    assert (beyond == heat_map(np.array([[0, 1]], np.float32))).all()


@pytest.mark.parametrize("classes", [CAMVID_CLASSES, ("a", "b"), ("x" * 60, "Fußgänger"), ("", " ")])
def test_a_confusion_picture_has_a_cell_for_each_pair(classes):
    count = len(classes)
    empty = confusion_picture(np.zeros((count, count), np.int64), classes)
    full = confusion_picture(np.eye(count, dtype=np.int64) * 7, classes)
    assert empty.dtype == np.uint8
    assert empty.shape == full.shape and empty.shape[2] == 3
    rows, columns = np.nonzero((empty != full).any(-1))
    assert len(np.unique(rows // 46)) >= count and len(np.unique(columns // 46)) >= count


def test_a_confusion_picture_shows_shares_of_the_truth():
    few = np.array([[1, 3], [0, 2]], np.int64)
    assert (confusion_picture(few, "ab") == confusion_picture(few * 10**12, "ab")).all()
    assert (confusion_picture(few, "ab") != confusion_picture(few.T, "ab")).any()


def test_long_class_names_are_not_cut_off():
    short, long = (confusion_picture(np.eye(2, dtype=np.int64), (name, "b")) for name in ("a", "a" * 60))
    assert long.shape[0] > short.shape[0] + 200 and long.shape[1] > short.shape[1] + 200
    assert (long[:, :7] == 255).all()


def test_a_strip_stacks_rows_of_any_size_below_their_captions():
    red, blue = np.zeros((30, 200, 3), np.uint8), np.zeros((10, 40, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    drawn = strip([("first", [red, red]), ("second", [blue])])
    assert drawn.shape == (30 + 22 + 10 + 22, 400, 3)
    assert (drawn[22:52] == (255, 0, 0)).all()
    assert (drawn[74:, :40] == (0, 0, 255)).all() and (drawn[74:, 40:] == 255).all()
    assert (drawn[:22] < 128).any() and (drawn[52:74] < 128).any()


def test_a_caption_does_not_widen_tiny_frames():
    drawn = strip([("a caption that is much wider than one pixel", [np.zeros((1, 1, 3), np.uint8)])])
    assert drawn.shape == (23, 1, 3)


@pytest.mark.parametrize("rows", [[], [("no pictures", [])]])
def test_a_strip_of_nothing_is_refused(rows):
    with pytest.raises(SourceError, match="no frames to draw"):
        strip(rows)
