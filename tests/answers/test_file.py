"""The answers file: what is read, and what is refused with a sentence that says why."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.answers.file import OriginalAnswers
from fcn_deploy.errors import SourceError, UsageError

FRAMES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
LABELS = np.arange(2 * 4 * 5).reshape(2, 4, 5) % 3
LOGITS = np.linspace(-1, 1, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def written(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path / "answers.npz", **arrays)
    return path / "answers.npz"


@given(
    dtype=st.sampled_from((np.uint8, np.int16, np.int32, np.int64)),
    kind=st.sampled_from((np.float16, np.float32, np.float64)),
    sizes=st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=3),
)
def test_any_sizes_and_number_types_are_read(
    dtype: type, kind: type, sizes: list[tuple[int, int, int]], tmp_path_factory
) -> None:
    arrays: dict[str, object] = {"color_order": "rgb"}
    for place, (count, height, width) in enumerate(sizes):
        arrays[f"frames_{place}"] = np.full((count, height, width, 3), place, np.uint8)
        arrays[f"labels_{place}"] = np.full((count, height, width), place, dtype)
        arrays[f"logits_{place}"] = np.full((count, 5, height, width), place, kind)
    originals = OriginalAnswers(written(tmp_path_factory.mktemp("answers"), **arrays))
    assert len(originals) == sum(count for count, _, _ in sizes)
    expected = [(place, *size[1:]) for place, size in enumerate(sizes) for _ in range(size[0])]
    for found, (place, height, width) in zip(originals, expected, strict=True):
        assert found.name.startswith(f"frames_{place}[")
        assert found.image.shape == (height, width, 3) and (found.image == place).all()
        assert found.labels.dtype == np.uint8 and (found.labels == place).all()
        assert found.logits.dtype == np.float32 and found.logits.shape == (5, height, width)


def test_one_size_needs_no_number_and_texts_are_kept(tmp_path: Path) -> None:
    path = written(
        tmp_path, frames=FRAMES, labels=LABELS, color_order=b"bgr", classes=["a", "b"], note="epoch 30"
    )
    originals = OriginalAnswers(path)
    assert (originals.color_order, originals.classes, originals.note) == ("bgr", ("a", "b"), "epoch 30")
    assert originals[1].name == "frames[1]" and originals[1].logits is None
    assert (originals[1].image == FRAMES[1]).all() and (originals[1].labels == LABELS[1]).all()


REFUSED = {
    "no colour order": ({"color_order": None}, "color_order is missing; add color_order='rgb' or 'bgr'"),
    "another colour order": ({"color_order": "hsv"}, "color_order must be rgb or bgr, .* not 'hsv'"),
    "a number for the colour order": ({"color_order": 3}, "color_order must be text, found int64"),
    "two colour orders": ({"color_order": ["rgb", "bgr"]}, "color_order must be one text"),
    "no frames": ({"frames": None}, "labels has no frames, uint8"),
    "nothing answered": ({"labels": None}, "frames has neither logits nor labels"),
    "prepared frames": ({"frames": FRAMES.astype(np.float32)}, r"frames must be uint8 .* found float32 \[2"),
    "channels first": ({"frames": FRAMES.transpose(0, 3, 1, 2)}, r"found uint8 \[2, 3, 4, 5\]"),
    "one frame": ({"frames": FRAMES[0]}, r"uint8 \[N, H, W, 3\]"),
    "smaller labels": (
        {"labels": LABELS[:, ::2]},
        r"labels must be integers \[2, 4, 5\], .* found int64 \[2, 2",
    ),
    "labels of floats": ({"labels": LABELS * 1.0}, r"labels must be integers .* found float64"),
    "labels beyond a byte": ({"labels": LABELS + 254}, "values from 254 to 256; class ids are 0 to 255"),
    "logits at a stride": ({"logits": LOGITS[..., ::2, ::2]}, r"logits must be float \[2, classes, 4, 5\]"),
    "logits with classes last": ({"logits": LOGITS.transpose(0, 2, 3, 1)}, "logits must be float"),
    "logits that overflowed": (
        {"logits": LOGITS * np.float32(np.inf)},
        r"logits\[0\] has values that are not finite",
    ),
    "a misspelt name": ({"label": LABELS}, "label is none of frames, logits and labels"),
    "logits without frames": ({"logits_3": LOGITS}, "logits_3 has no frames_3"),
    "objects": ({"frames": np.array([FRAMES, None], object)}, "holds Python objects, .* can run code"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_with_what_was_found(case: str, tmp_path: Path) -> None:
    changes, message = REFUSED[case]
    arrays = {"frames": FRAMES, "labels": LABELS, "color_order": "rgb", **changes}
    path = written(tmp_path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(SourceError, match=message):
        list(OriginalAnswers(path))


def npy(shape: tuple[int, ...], held: int) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": "|u1"})
    return stream.getvalue() + bytes(held)


def test_a_few_bytes_that_claim_to_be_a_large_array_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frames.npy", npy((1 << 40, 64, 64, 3), 12))
    with pytest.raises(SourceError, match="is 12 bytes long, which does not fit its shape"):
        OriginalAnswers(path)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 and no archive", b"\x93NUMPY\x01\x00", b"text", b"\x80\x04."]
)
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"answers\.npz is no answers file"):
        OriginalAnswers(path)


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_a_damaged_file_is_refused(at: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    path = written(tmp_path, frames=noise, labels=noise[..., 0], color_order="rgb")
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"damaged|no answers file"):
        list(OriginalAnswers(path))


def test_a_missing_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        OriginalAnswers(tmp_path / "none.npz")
